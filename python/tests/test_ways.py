"""The ways into the kernels: each gives the same bits, computes what is needed, and refuses before anything has changed."""

import copy
import os
import subprocess
import sys

import pytest
import torch

import batchnorm.torch as bn
from batchnorm import _native
from batchnorm.torch import _autograd, _functional, _ops
from support import Seen, close, rand, same, step

native = pytest.mark.skipif(not _ops.IS_NATIVE, reason="needs kernels that are registered natively")


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
        patch.setattr(_functional, "train_short", _autograd.by_dispatcher[0])
        patch.setattr(_functional, "infer_short", _autograd.by_dispatcher[1])
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


# In a process of its own, which ends at once: taking down a group of processes can hang in PyTorch.
DISTRIBUTED = """
import itertools, os, torch, batchnorm.torch as bn
from batchnorm.torch import _autograd, _functional
from support import rand, same
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
shortest = _functional.train_short, _functional.infer_short, _functional.TAKES_TENSORS
for way, cls, training in itertools.product(
    (shortest, (*_autograd.by_dispatcher, False)), (bn.BatchNorm2d, bn.BatchNormReLU), (True, False)
):
    _functional.train_short, _functional.infer_short, _functional.TAKES_TENSORS = way
    results = []
    for module in (torch.nn.BatchNorm2d(5), cls(5)):
        distribute_module(module.train(training), mesh)
        x = distribute_tensor(rand(2, 5, 3, 4), mesh, [Shard(0)])
        try:
            y = module(x)
        except NotImplementedError:  # As earlier versions of PyTorch have it.
            results.append([])
            continue
        y = y if type(module) is cls or cls is bn.BatchNorm2d else y.relu()
        (y * y).sum().backward()
        results.append([each.full_tensor() for each in (y.detach(), *(p.grad for p in module.parameters()), *module.buffers())])
    same(*results)
print("same", flush=True)
os._exit(0)
"""


def test_distributed_tensors_are_what_they_are_to_torch():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, env=environment, timeout=300)
    assert result.stdout.split()[-1:] == ["same"], result.stderr


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
    y, mean, inv_std, mask = torch.ops.batchnorm.train(x, x, None, None, None, None, None, 0.1, 1e-5, "add_relu", True, False, False)
    arguments = dy, x, None, None, mean, inv_std, mask, False, running_eps, "add_relu"
    all_of, some = (torch.ops.batchnorm.backward(*arguments, *each) for each in ((True,) * 4, needs))
    assert [gradient is not None for gradient in some] == list(needs)
    same([each for each in some if each is not None], [all_of[i] for i in range(4) if needs[i]])
    assert torch.ops.batchnorm.backward(dy, x, None, None, mean, inv_std, None, False, running_eps, "add", *(True,) * 4)[1] is None


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


class Raises(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2])
def test_what_others_raise_behind_the_kernels_moves_nothing_twice(at):
    """A hook of saved tensors: statistics have moved by then, once."""
    module, plain, x, seen = bn.BatchNorm1d(5), bn.BatchNorm1d(5), rand(4, 5).requires_grad_(), []

    def pack(tensor):
        seen.append(tensor)
        if len(seen) == at:
            raise Raises
        return tensor

    with pytest.raises(Raises), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    plain(x)
    assert module.num_batches_tracked.item() == 1 and torch.equal(module.running_mean, plain.running_mean)


class RaisesBehind(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        if "batch" in str(func) or "train" in str(func):
            raise cls.error("behind it")
        return result


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError])
def test_what_classes_of_tensors_raise_behind_the_kernels_moves_nothing_twice(error, requires_grad):
    module, plain = bn.BatchNorm1d(5), bn.BatchNorm1d(5)
    RaisesBehind.error = error
    with pytest.raises(error, match="behind it"):
        module(rand(4, 5).as_subclass(RaisesBehind).requires_grad_(requires_grad))
    plain(rand(4, 5))
    assert module.num_batches_tracked.item() == 1 and torch.equal(module.running_mean, plain.running_mean)


def test_statistics_in_copies_move_once_or_not_at_all():
    for prepare in (
        lambda m: m.running_var.requires_grad_(),
        lambda m: setattr(m, "num_batches_tracked", torch.zeros((), dtype=torch.float32, requires_grad=True)),
        lambda m: setattr(m, "num_batches_tracked", inference_counter()),
    ):
        module = bn.BatchNorm1d(5).bfloat16().requires_grad_(False)
        prepare(module)
        before, once = copy.deepcopy(module), bn.BatchNorm1d(5).bfloat16()
        x, is_refused = rand(4, 5, dtype=torch.bfloat16), False
        once(x)
        try:
            module(x)
        except RuntimeError:
            is_refused = True
        same(module.buffers(), before.buffers()) if is_refused else close(module.running_mean, once.running_mean, 0.0)
        assert module.num_batches_tracked.item() == (0 if is_refused else 1)


def inference_counter():
    with torch.inference_mode():
        return torch.zeros((), dtype=torch.int32)


def test_an_add_relu_without_its_mask_is_refused():
    x, one = rand(4, 5), torch.ones(5)
    for needs_dz in (True, False):
        with pytest.raises((RuntimeError, ValueError), match="mask|residual"):
            torch.ops.batchnorm.backward(x, x, None, None, one, one, None, False, None, "add_relu", True, needs_dz, True, True)


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
