"""Modules and operations on the emulated device, by the native operations and by the kernels in Python."""

import json
import threading

import pytest
import torch
from stand_in import device, driver, native  # noqa: F401  Before the package, whose native half it replaces.

import batchnorm.torch as bn
from batchnorm.torch._kinds import PARAM_DTYPE
from batchnorm.torch._modules import FUSED

DTYPES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
assert DTYPES.keys() == PARAM_DTYPE.keys() - {torch.float64}, "each dtype that CUDA computes has a tolerance"


def wide(cls):
    """A module whose values lie on all sides of where activations bend: -3, 0, 3 and 6."""
    module = cls(16)
    module.weight.data = torch.linspace(0.5, 5, 16)
    return module


def step(module, inputs, dy):
    inputs = [tensor.requires_grad_() for tensor in inputs]
    y = module(*inputs)
    y.backward(dy)
    return [y, *(t.grad for t in inputs), *(p.grad for p in module.parameters()), *module.buffers()]


def close(got, want, tolerance):
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        scale = max(1.0, b.detach().abs().max().item())
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=tolerance * scale, msg=lambda text: f"{i}: {text}")


@pytest.fixture
def case(request):
    """Inputs with a gradient, and what the CPU makes of them: before a device steps in."""
    cls, format, dtype = (request.getfixturevalue(name) for name in ("cls", "format", "dtype"))
    torch.manual_seed(0)
    *inputs, dy = (torch.randn(4, 16, 6, 6).to(dtype).contiguous(memory_format=format) for _ in range(3))
    inputs = inputs[: 2 if cls is bn.BatchNormAddReLU else 1]
    wanted = {training: step(wide(cls).train(training), [t.clone() for t in inputs], dy) for training in (True, False)}
    return inputs, dy, wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("cls", [bn.BatchNorm2d, *FUSED.values(), bn.BatchNormAddReLU])
def test_values_and_gradients_are_those_of_the_cpu(case, device, cls, format, dtype):
    inputs, dy, wanted = case
    for training, want in wanted.items():
        module = device.module(wide(cls).train(training))
        close(step(module, [device.put(t.detach()) for t in inputs], device.put(dy)), want, DTYPES[dtype])
    assert device.workspaces() == 0  # Scratch memory is the native half's.


def test_a_graph_gets_scratch_memory_of_its_own(device):
    module, x = device.module(bn.BatchNorm1d(8)), device.put(torch.rand(64, 8))
    dy = device.put(torch.rand(64, 8))
    want = step(module, [x.detach()], dy)[:4]
    device.use(is_capturing=True)
    assert all(torch.equal(a, b) for a, b in zip(step(module, [x.detach()], dy), want))
    assert device.workspaces() == 2  # One for the forward pass, one for the backward pass.


def test_streams_and_threads_do_not_share(device):
    """Memory that two of them write in no order, which the emulated device would report."""
    module, x = device.module(bn.BatchNorm1d(8)), device.put(torch.rand(64, 8))
    want, seen = module(x).clone(), []
    device.use(device.driver.stream())
    seen.append(module(x))
    thread = threading.Thread(target=lambda: seen.append(module(x)))
    thread.start(), thread.join()
    assert len(seen) == 2 and all(torch.equal(y, want) for y in seen)
    assert module.num_batches_tracked.item() == 3


@pytest.mark.parametrize("is_last", [True, False])
def test_a_mask_is_in_the_order_that_is_asked_for(device, is_last):
    """The order that x has: of PyTorch's copies into another the emulated device knows nothing."""
    format = torch.channels_last if is_last else torch.contiguous_format
    x, z, dy = (torch.randn(4, 16, 6, 6) for _ in range(3))

    def passes(x, z, dy):
        rest = None, None, None, None, None, 0.1, 1e-5, "add_relu", True, False, False, is_last
        y, mean, inv_std, mask = torch.ops.batchnorm.train(x, z, *rest)
        rest = None, None, mean, inv_std, mask, is_last, None, "add_relu", True, True, True, True
        return y, *torch.ops.batchnorm.backward(dy, x, *rest)

    got = passes(*(device.put(of.contiguous(memory_format=format)) for of in (x, z, dy)))
    assert got[0].is_contiguous(memory_format=format)
    y = (torch.nn.functional.batch_norm(x, None, None, training=True) + z).relu()
    close([got[0], got[2]], [y, torch.where(y > 0, dy, 0.0)], 2e-5)


@pytest.mark.parametrize("needed", [0, 1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_that_nobody_needs_leave_the_others(device, training, needed):
    x, z, dy = (torch.randn(4, 16, 6, 6) for _ in range(3))
    dy = device.put(dy)
    want = step(device.module(wide(bn.BatchNormAddReLU).train(training)), [device.put(x), device.put(z)], dy)[1:5]
    module = device.module(wide(bn.BatchNormAddReLU).train(training)).requires_grad_(False)
    given = [device.put(x), device.put(z), module.weight, module.bias]
    given[needed].requires_grad_()
    module(*given[:2]).backward(dy)
    close([given[needed].grad], [want[needed]], 1e-5)


def test_fewer_multiprocessors_give_the_same_values(device):
    module, x = device.module(wide(bn.BatchNorm2d)), device.put(torch.randn(4, 16, 6, 6))
    want = module(x).clone()
    try:
        for count in (1, 2):
            bn.set_max_sms(count)
            close([module(x)], [want], 1e-5)
    finally:
        bn.set_max_sms(None)
    assert torch.equal(module(x), want)


def test_non_finite_batches_can_be_skipped(device):
    module = device.module(bn.BatchNorm1d(8))
    module.skip_non_finite = True
    x = torch.rand(64, 8)
    x[3, 5] = float("nan")
    module(device.put(x))
    moved = module.running_var != 1
    assert moved.tolist() == [channel != 5 for channel in range(8)] and module.num_batches_tracked.item() == 1


def test_an_empty_batch_needs_nothing(device):
    module = device.module(bn.BatchNorm1d(8))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert module(device.empty((0, 8), torch.float32)).shape == (0, 8)
    assert torch.equal(module.running_mean, before["running_mean"])


def test_refusals_change_nothing(device):
    module = device.module(bn.BatchNorm1d(8, momentum=1.5))
    x = device.put(torch.rand(64, 8))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match="momentum"):
        module(x)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16 on CUDA, got float64"):
        bn.batch_norm(device.put(torch.rand(4, 8, dtype=torch.float64)), training=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_device_that_is_not_there_is_named(driver):
    for stream in (0, 2):
        with pytest.raises(RuntimeError, match="77"):
            native.workspace_bytes(((77, stream), "float32", (2, 3, 4), False), "train", "identity")


def test_a_table_of_plans_of_another_version_is_refused_and_changes_nothing(device, tmp_path):
    module = device.module(bn.BatchNorm2d(4))
    x = device.put(torch.rand(3, 4, 5, 5))
    before = module(x)
    clusters = {"2": 0, "4": 0, "8": 0, "16": 0}
    limits = {"compute_capability": [9, 0], "clusters": {"one_cta_per_sm": clusters, "two_ctas_per_sm": clusters}}
    names = "sms shared_per_sm shared_per_cta shared_reserved threads_per_sm ctas_per_sm l2_bytes memory_gb_per_s"
    limits |= dict.fromkeys(names.split(), 1) | {"cooperative": False}
    table = {"format": 1, "version": "0.0.0", "kernels": "", "device": "none", "limits": limits, "driver": 13000}
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(table | {"measured": "nanoseconds", "rows": []}))
    with pytest.raises(ValueError, match='plan table: expected the version of this crate "[0-9.]+", got "0.0.0"'):
        native.use_plans(path)
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)
