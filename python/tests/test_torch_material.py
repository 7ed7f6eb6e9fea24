"""PyTorch's own samples and error inputs for batch norm, run against these modules, and its checks of custom operations."""

import copy

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import batchnorm.torch as bn
from batchnorm import _native
from batchnorm.torch._kinds import PARAM_DTYPE

OURS = {torch.nn.BatchNorm1d: bn.BatchNorm1d, torch.nn.BatchNorm2d: bn.BatchNorm2d, torch.nn.BatchNorm3d: bn.BatchNorm3d}
FUNCTION = next(op for op in op_db if op.name == "nn.functional.batch_norm")
MODULES = [info for info in module_db if info.module_cls in OURS]


@pytest.mark.parametrize("dtype", PARAM_DTYPE, ids=str)
def test_samples_of_the_function(dtype):
    count = 0
    for sample in FUNCTION.sample_inputs("cpu", dtype, requires_grad=True):
        if sample.input.dim() < 2 or (sample.kwargs.get("training") and not 0 <= sample.kwargs.get("momentum", 0.1) <= 1):
            # Tensors without channels, and a momentum outside of [0, 1], are refused here.
            with pytest.raises(ValueError, match="at least 2D|momentum"):
                bn.batch_norm(sample.input, *sample.args, **sample.kwargs)
            continue
        count += 1
        inputs = [sample.input, *sample.args]
        ours, theirs = ([t.detach().clone().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t
                         for t in inputs] for _ in range(2))
        want = torch.nn.functional.batch_norm(*theirs, **copy.deepcopy(sample.kwargs))
        got = bn.batch_norm(*ours, **copy.deepcopy(sample.kwargs))
        tolerances = {torch.float16: (1e-2, 1e-2), torch.bfloat16: (5e-2, 5e-2)}.get(dtype, (1e-4, 1e-4))
        torch.testing.assert_close(got, want, rtol=tolerances[0], atol=tolerances[1])
        dy = torch.rand_like(want)
        got.backward(dy), want.backward(dy)
        for a, b in zip(ours, theirs):
            if isinstance(b, torch.Tensor) and b.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=tolerances[0], atol=tolerances[1])
    assert count >= 5


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.name)
@pytest.mark.parametrize("dtype", dict.fromkeys(PARAM_DTYPE.values()), ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_samples_of_the_modules(info, dtype, training):
    samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    count = 0
    for sample in samples:
        count += 1
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        theirs = info.module_cls(*args, **kwargs).to(dtype).train(training)
        ours = OURS[info.module_cls](*args, **kwargs).to(dtype).train(training)
        inputs = sample.forward_input.args
        mine, others = ([t.detach().clone().requires_grad_() for t in inputs] for _ in range(2))
        got, want = ours(*mine), theirs(*others)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        dy = torch.rand_like(want)
        got.backward(dy), want.backward(dy)
        torch.testing.assert_close(mine[0].grad, others[0].grad, rtol=1e-3, atol=1e-4)
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)
    assert count >= 3


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.name)
def test_error_inputs_of_the_modules(info):
    if info.module_error_inputs_func is None:
        return
    for case in info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True):
        sample = case.module_error_input
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        with pytest.raises(case.error_type, match=case.error_regex):
            OURS[info.module_cls](*args, **kwargs)(*sample.forward_input.args)


def test_error_inputs_of_the_function():
    cases = list(FUNCTION.error_inputs("cpu")) if FUNCTION.error_inputs_func else []
    for case in cases:
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            bn.batch_norm(sample.input, *sample.args, **sample.kwargs)


def arguments(epilogue, format=torch.contiguous_format):
    x = torch.rand(3, 4, 5, 2).contiguous(memory_format=format).requires_grad_()
    z = torch.rand(3, 4, 5, 2).contiguous(memory_format=format).requires_grad_() if epilogue.has_residual else None
    weight, bias = torch.rand(4).requires_grad_(), torch.rand(4).requires_grad_()
    return x, z, weight, bias, torch.zeros(4), torch.ones(4)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("epilogue", _native.EPILOGUES, ids=lambda epilogue: epilogue.name)
def test_opcheck(epilogue, format):
    given = arguments(epilogue, format)
    counter = torch.zeros((), dtype=torch.int64)
    torch.library.opcheck(torch.ops.batchnorm.train.default, (*given, counter, 0.1, 1e-5, epilogue.name, True, False, False))
    torch.library.opcheck(torch.ops.batchnorm.infer.default, (*given, 1e-5, epilogue.name, True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("training", [True, False])
def test_compile_traces_it_without_a_break(training, backend):
    torch._dynamo.reset()

    def model():
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4), bn.BatchNormReLU(4), torch.nn.Conv2d(4, 2, 1)
        return torch.nn.Sequential(*layers).train(training)

    plain, traced = model(), model()
    compiled = torch.compile(traced, fullgraph=True, backend=backend)
    batches = 2, 3, 5  # The second size makes the batch symbolic.
    for n in batches:
        x = torch.rand(n, 3, 6, 6)
        for it, forward in ((plain, plain), (traced, compiled)):
            it.zero_grad()
            forward(x).square().sum().backward()
        for a, b in zip(traced.parameters(), plain.parameters()):
            torch.testing.assert_close(a.grad, b.grad)
        for (name, a), b in zip(traced.state_dict().items(), plain.state_dict().values()):
            torch.testing.assert_close(a, b, msg=name)
    assert plain[1].num_batches_tracked.item() == (len(batches) if training else 0)
