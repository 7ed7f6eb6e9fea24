"""The ways into the kernels: each gives the same bits, computes what is needed, and refuses before anything has changed."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.utils.checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

import batchnorm.torch as bn
from batchnorm import _native
from batchnorm.torch import _autograd, _functional, _ops
from support import close, rand

native = pytest.mark.skipif(not _ops.IS_NATIVE, reason="needs kernels that are registered natively")


class Seen(TorchDispatchMode):
    """The operations that pass the dispatcher."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def step(module, *inputs):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    y = module(*inputs)
    y.backward(rand(*y.shape, seed=9, dtype=y.dtype))
    return [y, *(t.grad for t in inputs), *(p.grad for p in module.parameters()), *module.buffers()]


def same(got, want):
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("cls", [bn.BatchNorm2d, bn.BatchNormReLU, bn.BatchNormSiLU, bn.BatchNormAddReLU])
def test_all_ways_give_the_same_bits(monkeypatch, cls, format, training):
    module = cls(5).train(training)
    inputs = [rand(4, 5, 6, 7, seed=i).contiguous(memory_format=format) for i in range(2 if cls is bn.BatchNormAddReLU else 1)]
    short = step(copy.deepcopy(module), *inputs)
    with Seen():  # The dispatcher's.
        same(step(copy.deepcopy(module), *inputs), short)
    with monkeypatch.context() as patch:
        patch.setattr(_autograd, "_backward_short", _autograd._backward_by_dispatcher)
        patch.setattr(_functional, "train_short", _autograd._train_by_dispatcher)
        patch.setattr(_autograd, "train_short", _autograd._train_by_dispatcher)
        patch.setattr(_functional, "infer_short", _autograd.INFER)
        same(step(copy.deepcopy(module), *inputs), short)
    with monkeypatch.context() as patch:  # That of what has to be checked first.
        patch.setattr(_functional, "IS_NATIVE", False)
        same(step(copy.deepcopy(module), *inputs), short)


def test_kernels_in_python_give_the_same_bits():
    code = """
import sys, torch, batchnorm.torch as bn
from batchnorm.torch import _ops
torch.manual_seed(0)
results = []
for cls, inputs in ((bn.BatchNorm2d, 1), (bn.BatchNormReLU, 1), (bn.BatchNormAddReLU, 2)):
    module = cls(5)
    inputs = [torch.rand(4, 5, 6, 7).requires_grad_() for _ in range(inputs)]
    module(*inputs).square().sum().backward()
    results += [tensor.grad.tolist() for tensor in (*inputs, *module.parameters())] + [b.tolist() for b in module.buffers()]
print(_ops.IS_NATIVE, file=sys.stderr)
print(results)
"""
    ran = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "BATCHNORM_PYTHON_KERNELS": way})
        for way in ("0", "1")
    ]
    assert [each.returncode for each in ran] == [0, 0], ran
    assert ran[0].stdout == ran[1].stdout and ran[1].stderr == "False\n"


def test_who_looks_at_the_dispatcher_sees_the_operations():
    module, x = bn.BatchNormReLU(5), rand(4, 5).requires_grad_()
    with Seen() as seen:
        module(x).sum().backward()
        module.eval()(x)
    assert [name for name in seen.names if "batchnorm" in name] == [
        "batchnorm.train.default", "batchnorm.backward.default", "batchnorm.infer.default"
    ]
    with torch.profiler.profile() as profile:
        module.train()(x).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"batchnorm::train", "batchnorm::backward"} <= names


class Tagged(torch.Tensor):
    """A class of its own."""


def test_classes_of_tensors_stay():
    module, x = bn.BatchNorm1d(5), rand(4, 5)
    want = step(copy.deepcopy(module), x)
    same(step(copy.deepcopy(module), x.as_subclass(Tagged)), want)
    assert type(module(x.as_subclass(Tagged))) is Tagged


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", [bn.BatchNorm2d, bn.BatchNormSiLU, bn.BatchNormAddReLU])
def test_gradients_that_nobody_needs_are_not_computed(cls, training):
    has_residual = cls is bn.BatchNormAddReLU
    full = cls(5).train(training)
    inputs = [rand(4, 5, 6, 7, seed=i) for i in range(1 + has_residual)]
    all_of = [t.clone().requires_grad_() for t in inputs]
    copy.deepcopy(full)(*all_of)
    module = copy.deepcopy(full)
    module(*all_of).square().sum().backward()
    want = {"x": all_of[0].grad, "z": all_of[-1].grad, "weight": module.weight.grad, "bias": module.bias.grad}
    for needed in ("x", "z", "weight", "bias"):
        if needed == "z" and not has_residual:
            continue
        module = copy.deepcopy(full).requires_grad_(False)
        given = [t.clone() for t in inputs]
        of = {"x": given[0], "z": given[-1], "weight": module.weight, "bias": module.bias}[needed].requires_grad_()
        with Seen() as seen:
            y = module(*given)
            loss = y.square().sum()
            start = len(seen.names)
            loss.backward()
        same([of.grad], [want[needed]])
        behind = [name for name in seen.names[start:] if name.startswith(("aten.zeros", "aten.empty", "aten.new_zeros"))]
        assert not behind, "nothing is made for a gradient outside of the operation"


@pytest.mark.parametrize("needs", [(True, False, False, False), (False, True, False, False), (False, False, True, False), (False,) * 3 + (True,)])
@pytest.mark.parametrize("running_eps", [None, 1e-5])
def test_the_operation_gives_what_is_asked_for(needs, running_eps):
    x, dy = rand(4, 5, 3), rand(4, 5, 3, seed=1)
    y, mean, inv_std, mask = torch.ops.batchnorm.train(x, x, None, None, None, None, None, 0.1, 1e-5, "add_relu", True, False)
    arguments = dy, x, None, None, mean, inv_std, mask, running_eps, "add_relu"
    all_of, some = (torch.ops.batchnorm.backward(*arguments, *each) for each in ((True,) * 4, needs))
    assert [gradient is not None for gradient in some] == list(needs)
    same([each for each in some if each is not None], [all_of[i] for i in range(4) if needs[i]])
    assert torch.ops.batchnorm.backward(dy, x, None, None, mean, inv_std, None, running_eps, "add", *(True,) * 4)[1] is None


@pytest.mark.parametrize("z", [(2, 5, 3), (1, 5, 1), (5, 1), (3,), (), (4, 2, 5, 3)], ids=str)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.int64)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_residuals_are_promoted_and_broadcast_as_torch_does(z, dtypes, training):
    results = []
    for cls in (torch.nn.BatchNorm1d, bn.BatchNorm1d):
        norm = cls(5).train(training)
        x, residual = rand(2, 5, 3).to(dtypes[0]).requires_grad_(), (3 * rand(*z, seed=1)).to(dtypes[1])
        residual = residual.requires_grad_() if residual.is_floating_point() else residual
        if cls is bn.BatchNorm1d:
            fused = bn.BatchNormAddReLU(5).train(training)
            fused.load_state_dict(norm.state_dict())
            y, norm = fused(x, residual), fused
        else:
            y = torch.relu(norm(x) + residual)
        y.float().square().sum().backward()
        results.append([y, x.grad, residual.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
    for got, want in zip(*reversed(results)):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.dtype == want.dtype and got.shape == want.shape
            close(got.float(), want.float(), 1e-4 if dtypes[0] == torch.float32 else 6e-2)


def test_a_residual_block_under_autocast():
    conv, module = torch.nn.Conv2d(8, 8, 3, padding=1), bn.BatchNormAddReLU(8)
    for x in (torch.rand(2, 8, 6, 6), torch.rand(2, 8, 6, 6).bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(conv(x), x)
        assert y.dtype == x.dtype
        y.float().square().mean().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_residuals_are_promoted_too(backend):
    torch._dynamo.reset()
    module = bn.BatchNormAddReLU(5).eval()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    for x, z in ((rand(2, 5, 3).bfloat16(), rand(2, 5, 3)), (rand(2, 5, 3), rand(1, 5, 1)), (rand(2, 5, 3), rand(2, 5, 3))):
        torch.testing.assert_close(compiled(x, z), module(x, z))


@pytest.mark.parametrize("cls", [bn.BatchNorm1d, bn.BatchNormReLU])
def test_non_finite_batches_can_be_skipped(cls):
    module, plain = cls(5), cls(5)
    module.skip_non_finite = True
    x = rand(4, 5)
    x[1, 2], x[0, 4] = float("inf"), float("nan")
    module(x), plain(x)
    ok = torch.tensor([True, True, False, True, False])
    for name, initial in (("running_mean", 0.0), ("running_var", 1.0)):
        skipped, moved = getattr(module, name), getattr(plain, name)
        assert torch.equal(skipped[ok], moved[ok]) and (skipped[~ok] == initial).all()
    assert not plain.running_var[~ok].isfinite().any() and module.num_batches_tracked.item() == 1
    module = copy.deepcopy(module)
    assert module.skip_non_finite and not bn.BatchNorm1d(5).skip_non_finite
    # Likewise where torch.nn's operation computes.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    def loss(x, buffers):
        return torch.func.functional_call(module, buffers, (x,)).nansum(), buffers

    _, moved = torch.func.grad(loss, has_aux=True)(x, buffers)
    assert moved["running_var"].isfinite().all() and moved["num_batches_tracked"].item() == 2


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_a_checkpoint_can_move_statistics_once(skip, use_reentrant):
    module, plain = bn.BatchNormReLU(5), bn.BatchNormReLU(5)
    module.skip_recomputed = skip
    x, y = rand(4, 5).requires_grad_(), rand(4, 5).requires_grad_()
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=use_reentrant).square().sum().backward()
    plain(y).square().sum().backward()
    same([x.grad, module.weight.grad], [y.grad, plain.weight.grad])
    assert module.num_batches_tracked.item() == (1 if skip else 2)
    assert torch.equal(module.running_mean, plain.running_mean) == skip


@pytest.mark.parametrize("begins_with_it", [False, True])
@pytest.mark.parametrize("cls", [bn.BatchNorm1d, bn.BatchNormReLU])
def test_a_checkpoint_may_be_looked_at_the_second_time(cls, begins_with_it):
    module, x = cls(5), rand(4, 5).requires_grad_()
    with Seen() if begins_with_it else torch.enable_grad():
        y = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False)
    with torch.enable_grad() if begins_with_it else Seen():
        y.square().sum().backward()
    want = x.grad
    x.grad = None
    module(x).square().sum().backward()
    assert torch.equal(x.grad, want)


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


@native
@pytest.mark.parametrize("by_dispatcher", [False, True])
def test_refusals_keep_their_kinds_by_every_way(by_dispatcher):
    x, mean, var = rand(4, 5), torch.zeros(5), torch.ones(5)
    cases = [
        (ValueError, "momentum", lambda: bn.batch_norm(x, mean, var, training=True, momentum=2.0)),
        (ValueError, "in memory of its own, got that of input", lambda: bn.batch_norm(x, x[0], var, training=True)),
        (ValueError, "eps must be positive", lambda: bn.batch_norm(x, mean, var, training=True, eps=0.0)),
        (RuntimeError, "should contain 5 elements not 4", lambda: bn.batch_norm(x, mean, var, weight=rand(4))),
        (NotImplementedError, "not implemented for 'int64'", lambda: bn.batch_norm(x.long(), mean, var)),
        (TypeError, "must be Tensor, not list", lambda: bn.batch_norm([1.0], mean, var)),
    ]
    for kind, words, call in cases:
        with Seen() if by_dispatcher else torch.enable_grad():
            with pytest.raises(kind, match=words):
                call()
    assert torch.equal(mean, torch.zeros(5)) and torch.equal(var, torch.ones(5))
    with pytest.raises(RuntimeError, match="the epilogue identity, relu.*got \"gelu\""):
        torch.ops.batchnorm.infer(x, None, None, None, mean, var, 1e-5, "gelu", False)
    with pytest.raises(RuntimeError, match="should contain 5 elements not 4"):
        torch.ops.batchnorm.infer(x, None, rand(4), None, mean, var, 1e-5, "identity", False)


@native
def test_an_old_refusal_is_no_answer_to_a_new_one():
    with pytest.raises(RuntimeError):
        torch.ops.batchnorm.infer(rand(4, 5), None, None, None, torch.zeros(5), torch.ones(5), 1e-5, "gelu", False)
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        bn.batch_norm(rand(4, 5).to_sparse(), torch.zeros(5), torch.ones(5))


def test_a_library_without_the_functions_is_named():
    with pytest.raises(RuntimeError, match="libm.so.6 has no aoti_torch_get_data_ptr"):
        _native.register_operations("libm.so.6")
    with pytest.raises(RuntimeError, match="no-such-library.so"):
        _native.register_operations("no-such-library.so")


def test_without_a_function_the_slower_way_is_taken_with_one_warning():
    code = """
import warnings
import torch
from batchnorm import _native
_native.LIBRARY = "libm.so.6"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import batchnorm.torch as bn
    bn.BatchNorm1d(3)(torch.rand(4, 3).requires_grad_()).sum().backward()
print(len(caught), *(f"{each.category.__name__} {each.message}" for each in caught))
"""
    env = {**os.environ, "BATCHNORM_PYTHON_KERNELS": "0"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    if _ops.VERSION >= _ops.OLDEST_NATIVE:
        assert ran.stdout.startswith("1 RuntimeWarning batchnorm.torch: operations are called through Python, which takes longer: libm")


def test_a_version_of_pytorch_that_is_too_old_is_told_the_one_that_is_wanted():
    code = "import torch; torch.__version__ = '2.5.1+cpu'; import batchnorm.torch"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode != 0
    assert "ImportError: batchnorm.torch: expected PyTorch 2.6 or later, got 2.5.1+cpu" in ran.stderr


def test_numbers_of_multiprocessors():
    for count in (0, -1, 1.5, "2", True):
        with pytest.raises(ValueError, match="a number of multiprocessors from 1 on, or None"):
            bn.set_max_sms(count)
    bn.set_max_sms(None)
    if not _native.has_cuda:
        with pytest.raises(RuntimeError, match="no CUDA kernels"):
            bn.set_max_sms(100)


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


def test_parametrized_and_pruned_norms_compute_with_what_their_attributes_are():
    import torch.nn.utils.parametrize
    import torch.nn.utils.prune

    class Double(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    for change in (
        lambda m: torch.nn.utils.parametrize.register_parametrization(m, "weight", Double()),
        lambda m: torch.nn.utils.prune.random_unstructured(m, "weight", 2),
    ):
        torch.manual_seed(0)
        theirs, ours = torch.nn.BatchNorm1d(5), bn.BatchNorm1d(5)
        x = rand(4, 5)
        for module in (theirs, ours):
            torch.manual_seed(1)
            change(module)
        close(ours(x), theirs(x), 2e-6)


def test_a_look_at_the_rank_of_ones_own_is_taken():
    class Strict(bn.BatchNorm1d):
        def _check_input_dim(self, input):
            raise ValueError("never")

    class Stricter(Strict):
        pass

    for cls in (Strict, Stricter):
        with pytest.raises(ValueError, match="never"):
            cls(5)(rand(4, 5))
