"""On a CUDA device: the CPU's values, streams, graphs. Skipped where there is none, or the build has no kernels."""

import copy
import os

import pytest
import torch

import batchnorm
import batchnorm.torch as bn
from batchnorm.torch._modules import FUSED

# They fail instead of being skipped under BATCHNORM_REQUIRE_GPU=1: a test that skips itself is no result.
pytestmark = pytest.mark.skipif(
    not (batchnorm.has_cuda and torch.cuda.is_available()) and os.environ.get("BATCHNORM_REQUIRE_GPU") != "1",
    reason="needs a CUDA device and BATCHNORM_CUDA=1",
)
TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def step(module, inputs, dy):
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    y = module(*inputs)
    y.backward(dy)
    return [y, *(t.grad for t in inputs), *(p.grad for p in module.parameters()), *module.buffers()]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("cls", [bn.BatchNorm2d, *FUSED.values(), bn.BatchNormAddReLU])
def test_values_and_gradients_are_those_of_the_cpu(cls, format, dtype):
    torch.manual_seed(0)
    x, z, dy = (torch.randn(8, 16, 14, 14).to(dtype).contiguous(memory_format=format) for _ in range(3))
    inputs = [x, z] if cls is bn.BatchNormAddReLU else [x]
    on_cpu = cls(16)
    on_cpu.weight.data = torch.linspace(0.5, 5, 16)  # values on all sides of -3, 0, 3 and 6
    on_cuda = copy.deepcopy(on_cpu).cuda()
    for training in (True, False):
        on_cpu.train(training).zero_grad(), on_cuda.train(training).zero_grad()
        want = step(on_cpu, inputs, dy)
        got = step(on_cuda, [t.cuda() for t in inputs], dy.cuda())
        assert got[0].is_contiguous(memory_format=format)
        for a, b in zip(got, want):
            scale = max(1.0, b.detach().abs().max().item())
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=TOLERANCES[dtype] * scale)


def test_work_is_on_the_current_stream():
    module, x = bn.BatchNorm2d(64).cuda(), torch.randn(64, 64, 56, 56, device="cuda")
    want = module.eval()(2 * x).cpu()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # Work on another stream would read x too early.
        y = module(x.mul_(2))
    stream.synchronize()
    assert torch.equal(y.cpu(), want)


def test_a_cuda_graph_replays_a_step():
    module, x = bn.BatchNormReLU(16).cuda(), torch.randn(8, 16, 14, 14, device="cuda")
    graphed = torch.cuda.make_graphed_callables(copy.deepcopy(module), (x.clone().requires_grad_(),))
    # Graphing warms up, which moves statistics: begin both anew.
    graphed.load_state_dict(module.state_dict())
    for _ in range(3):
        a, b = (x.clone().requires_grad_() for _ in range(2))
        graphed(a).sum().backward(), module(b).sum().backward()
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(graphed.running_var, module.running_var)
    assert module.num_batches_tracked.item() == graphed.num_batches_tracked.item() == 3


def test_compiled_with_graphs_it_trains_as_without():
    module, x = bn.BatchNormReLU(16).cuda(), torch.randn(8, 16, 14, 14, device="cuda")
    other = copy.deepcopy(module)
    compiled = torch.compile(other, mode="reduce-overhead", fullgraph=True)
    for _ in range(5):
        a, b = (x.clone().requires_grad_() for _ in range(2))
        compiled(a).sum().backward(), module(b).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(other.running_var, module.running_var)
    assert other.num_batches_tracked.item() == 5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_the_current_device_stays():
    module, x = bn.BatchNorm1d(4).to("cuda:1"), torch.rand(3, 4, device="cuda:1", requires_grad=True)
    with torch.cuda.device(0):
        module(x).sum().backward()
        assert torch.cuda.current_device() == 0


def test_a_number_of_batches_on_the_cpu_is_counted():
    module = bn.BatchNorm1d(4).cuda()
    module.num_batches_tracked = torch.tensor(3)
    module(torch.rand(3, 4, device="cuda"))
    assert module.num_batches_tracked.item() == 4


def test_float64_and_mixed_devices_are_refused():
    module = bn.BatchNorm1d(4).cuda()
    with pytest.raises(RuntimeError, match="on the same device"):
        module(torch.rand(3, 4))
    with pytest.raises(ValueError, match="float32, float16 or bfloat16 on CUDA"):
        module.double()(torch.rand(3, 4, device="cuda", dtype=torch.float64))
