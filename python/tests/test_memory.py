"""Tensors whose memory is not as kernels read it: out of line, negated, in another order, let go of, and not found."""

import itertools

import pytest
import torch

import batchnorm.torch as bn
from batchnorm.torch import _autograd, _functional, _ops
from support import Seen, close, rand, same

native = pytest.mark.skipif(not _ops.IS_NATIVE, reason="needs kernels that are registered natively")


def unaligned(tensor):
    """A copy at an address that is no multiple of the size of its values."""
    raw = bytearray(1) + bytearray(tensor.contiguous().view(torch.uint8).flatten().numpy().tobytes())
    copied = torch.frombuffer(raw, dtype=tensor.dtype, offset=1).view(tensor.shape)
    assert copied.data_ptr() % tensor.element_size()
    return copied


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("python_kernels", [False, True])
def test_unaligned_memory_is_read_and_written(monkeypatch, dtype, training, python_kernels):
    if python_kernels:
        kernels = _ops._kernels
        monkeypatch.setattr(_functional, "IS_NATIVE", False)
        for name in ("TRAIN", "INFER", "BACKWARD"):
            monkeypatch.setattr(_autograd, name, kernels.KERNELS[name.lower()])
    want, module = bn.BatchNormAddReLU(5).train(training), bn.BatchNormAddReLU(5).train(training)
    if dtype == torch.float64:
        want, module = want.double(), module.double()
    for name in ("weight", "bias"):
        setattr(module, name, torch.nn.Parameter(unaligned(getattr(module, name).detach())))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        module._buffers[name] = unaligned(module._buffers[name].reshape(-1)).view(module._buffers[name].shape)
    x, z, dy = (rand(4, 5, 3, 3, seed=i, dtype=dtype) for i in range(3))
    results = []
    for norm, prepare in ((want, torch.clone), (module, unaligned)):
        a, b = (prepare(tensor).requires_grad_() for tensor in (x, z))
        y = norm(a, b)
        y.backward(prepare(dy))
        results.append([y, a.grad, b.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
    same(*results)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("packed", [torch.contiguous_format, torch.channels_last], ids=str)
def test_saved_tensors_may_come_back_in_another_order_of_memory(training, packed):
    """As those that save_on_cpu has pinned."""
    module = bn.BatchNormAddReLU(5).train(training)
    given = torch.contiguous_format if packed == torch.channels_last else torch.channels_last
    x, z, dy = (rand(2, 5, 4, 3, seed=i).contiguous(memory_format=given) for i in range(3))
    plain, results = torch.nn.BatchNorm2d(5).train(training), []
    keep, repack = lambda tensor: tensor, lambda tensor: tensor.clone(memory_format=packed if tensor.dim() == 4 else torch.contiguous_format)
    compiled = torch.compile(module, backend="aot_eager")
    torch._dynamo.reset()
    for run, hook in ((lambda x, z: (plain(x) + z).relu(), keep), *itertools.product((module, compiled), (keep, repack))):
        a, b = x.clone().requires_grad_(), z.clone().requires_grad_()
        of = a, b, *(plain if run not in (module, compiled) else module).parameters()
        with torch.autograd.graph.saved_tensors_hooks(hook, keep):
            y = run(a, b)
            # Compiled code has no second derivatives.
            dx, dz, dweight, dbias = torch.autograd.grad(y, of, dy, create_graph=run is not compiled)
        results.append([dx, dz, dweight, dbias])
        if run is not compiled:
            results[-1] += torch.autograd.grad((dx * z).square().sum() + dz.square().sum(), (a, of[2]))
    want, *rest = results
    for got in rest:
        for i, gradient in enumerate(got):
            close(gradient, want[i], 2e-5, str(i))


def test_a_mask_of_channels_that_come_last_asks_for_a_plane():
    x, mask = rand(4, 5, 3), torch.zeros(2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="channels_last with 4 or 5 dimensions, got 3"):
        torch.ops.batchnorm.backward(x, x, None, None, x[0, :, 0], x[0, :, 0], mask, True, None, "add_relu", *[True] * 4)


@pytest.mark.parametrize("of", ["x", "residual", "weight", "bias", "running_mean", "running_var", "dy"])
@pytest.mark.parametrize("training", [True, False])
def test_memory_that_is_to_be_read_negated_is(of, training):
    """`torch._neg_view`, and imaginary parts of conjugates."""
    results = []
    for negate in (torch.neg, torch._neg_view):
        tensors = {"x": rand(4, 5), "residual": rand(4, 5, seed=1), "dy": rand(4, 5, seed=2), "weight": rand(5), "bias": rand(5, seed=4)}
        tensors |= {"running_mean": rand(5, seed=5), "running_var": rand(5, seed=6).abs() + 0.5}
        tensors[of] = negate(tensors[of] if of != "running_var" else -tensors[of])
        if training and of.startswith("running") and negate is torch._neg_view:
            statistics = [tensors["running_mean"], tensors["running_var"], torch.tensor(3)]
            before = [each.clone() for each in statistics]
            with pytest.raises(RuntimeError, match=f"{of} is written"):
                bn.batch_norm(tensors["x"], *statistics[:2], training=True, num_batches_tracked=statistics[2])
            same(statistics, before)
            return
        x = tensors["x"].requires_grad_() if of != "x" else tensors["x"]
        weight, bias = tensors["weight"], tensors["bias"]
        y = bn.batch_norm(x, tensors["running_mean"], tensors["running_var"], weight, bias, training, residual=tensors["residual"])
        results.append([y, *((torch.autograd.grad(y, x, tensors["dy"])) if of != "x" else ())])
    same(*results)


def test_tensors_without_one_memory_are_refused():
    nested = torch.nested.nested_tensor([torch.rand(3, 4)] * 2)
    module = bn.BatchNorm1d(3)
    for call in (
        lambda: module(nested),
        lambda: bn.batch_norm(rand(2, 3, 4), module.running_mean, module.running_var, training=True, residual=nested),
        lambda: bn.batch_norm(rand(2, 3), module.running_mean, module.running_var, weight=nested),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            call()
    module.num_batches_tracked = torch.tensor([3]).to_sparse()
    with pytest.raises((RuntimeError, NotImplementedError)):
        module(rand(2, 3))
    assert torch.equal(module.running_mean, torch.zeros(3))


@pytest.mark.parametrize("of", ["x", "a part of x", "residual", "weight", "running_var", "num_batches_tracked"])
@pytest.mark.parametrize("python_kernels", [False, True])
def test_memory_that_was_let_go_of_is_refused(monkeypatch, of, python_kernels):
    """As FSDP lets go of parameters."""
    if python_kernels:
        monkeypatch.setattr(_functional, "IS_NATIVE", False)
        for name, kernel in _ops._kernels.KERNELS.items():
            monkeypatch.setattr(_autograd, name.upper(), kernel)
    module, x, z = bn.BatchNormAddReLU(5), rand(8, 5), rand(8, 5)
    before = [module.running_mean.clone(), module.running_mean]
    x = x[4:] if of == "a part of x" else x
    z = z[: x.shape[0]]
    gone = {"x": x, "a part of x": x, "residual": z}.get(of)
    gone = getattr(module, of).detach() if gone is None else gone
    gone.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="its data is not allocated yet|for storage of size 0"):
        module(x, z)
    assert torch.equal(*before)


@native
@pytest.mark.parametrize("by_dispatcher", [False, True])
def test_memory_that_torch_does_not_find_is_its_own_exception(by_dispatcher):
    module = bn.BatchNorm1d(1 << 20).eval()
    with torch.no_grad(), Seen() if by_dispatcher else torch.no_grad(), pytest.raises(torch.OutOfMemoryError, match="no memory for"):
        module(torch.zeros(1, 1).expand(1 << 24, 1 << 20))
