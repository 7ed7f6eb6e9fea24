"""The CUDA path on the emulated device: modules, operations and their native half, over tensors in its memory.

PyTorch takes these tensors for the CPU's, since its own kernels cannot run there; what `_where` says, and where memory comes
from, is the device's. It needs the native half with the feature `emulate`, whose file BATCHNORM_EMULATED names.
"""

import ctypes
import importlib.util
import json
import os
import threading
from importlib.machinery import ExtensionFileLoader

import pytest
import torch

import batchnorm.torch as bn
from batchnorm.torch import _ops, _workspace
from batchnorm.torch._kinds import PARAM_DTYPE
from batchnorm.torch._modules import FUSED

PATH = os.environ.get("BATCHNORM_EMULATED")
pytestmark = pytest.mark.skipif(not PATH, reason="needs BATCHNORM_EMULATED, a native half with the feature emulate")
DTYPES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
assert DTYPES.keys() == PARAM_DTYPE.keys() - {torch.float64}, "each dtype that CUDA computes has a tolerance"


def load():
    loader = ExtensionFileLoader("_native", PATH)
    native = importlib.util.module_from_spec(importlib.util.spec_from_file_location("_native", PATH, loader=loader))
    loader.exec_module(native)
    return native


class Driver:
    """The emulated driver's functions, which loading the native half has brought in."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.context = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), 0)

    def call(self, name, *args):
        status = getattr(self.library, name)(*args)
        assert status == 0, f"{name}: {status}"

    def alloc(self, count):
        address = ctypes.c_uint64()
        self.call("cuCtxSetCurrent", self.context)  # A thread's own.
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(count))
        return address.value

    def stream(self):
        self.call("cuCtxSetCurrent", self.context)
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), 1)
        return stream.value


class Device:
    """A stand-in for a CUDA device: tensors in its memory, and a stream."""

    def __init__(self, driver):
        self.driver, self.stream = driver, 0

    def empty(self, shape, dtype, memory_format=torch.contiguous_format):
        like = torch.empty(shape, dtype=dtype, memory_format=memory_format)
        if like.numel() == 0:
            return like
        count = like.numel() * like.itemsize
        memory = (ctypes.c_byte * count).from_address(self.driver.alloc(count))
        return torch.frombuffer(memory, dtype=dtype).as_strided(like.shape, like.stride())

    def put(self, tensor):
        copy = self.empty(tensor.shape, tensor.dtype, _ops._format(tensor) if tensor.dim() > 1 else torch.contiguous_format)
        # The driver copies, since it notes which memory is initialized.
        source = tensor.contiguous(memory_format=_ops._format(tensor)) if tensor.dim() > 1 else tensor.clone()
        count = source.numel() * source.itemsize
        if count:
            self.driver.call("cuMemcpyHtoD_v2", ctypes.c_uint64(copy.data_ptr()), ctypes.c_void_p(source.data_ptr()),
                             ctypes.c_size_t(count))
        return copy

    def module(self, module):
        for name, tensor in [*module._parameters.items()]:
            module._parameters[name] = torch.nn.Parameter(self.put(tensor.detach()))
        for name, tensor in [*module._buffers.items()]:
            module._buffers[name] = self.put(tensor.reshape(-1)).reshape(tensor.shape)
        return module


@pytest.fixture(scope="module")
def loaded():
    native = load()
    return native, Driver()


@pytest.fixture
def device(monkeypatch, loaded):
    native, driver = loaded
    device = Device(driver)
    monkeypatch.setattr(_ops, "_native", native)
    monkeypatch.setattr(_workspace, "_native", native)
    where = _ops._where
    monkeypatch.setattr(_ops, "_where", lambda x: ((0, device.stream), *where(x)[1:]))
    monkeypatch.setattr(_ops, "_like", lambda x: device.empty(x.shape, x.dtype, _ops._format(x)))
    monkeypatch.setattr(_ops, "_per_channel", lambda x: device.empty(x.shape[1], torch.float32))
    mask = _ops._mask
    monkeypatch.setattr(_ops, "_mask", lambda *given: device.empty(mask(*given).shape, torch.int32))

    class Torch:
        uint8, device = torch.uint8, staticmethod(torch.device)
        made = 0

        class cuda:
            is_capturing = False
            is_current_stream_capturing = staticmethod(lambda: Torch.cuda.is_capturing)

        @staticmethod
        def zeros(size, dtype, device):
            Torch.made += 1
            return of.put(torch.zeros(size, dtype=dtype))

    of = device
    device.torch = Torch
    monkeypatch.setattr(_workspace, "torch", Torch)
    return device


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("cls", [bn.BatchNorm2d, *FUSED.values(), bn.BatchNormAddReLU])
def test_values_and_gradients_are_those_of_the_cpu(request, cls, format, dtype):
    torch.manual_seed(0)
    inputs = [torch.randn(4, 16, 6, 6).to(dtype).contiguous(memory_format=format) for _ in range(3)]
    dy = inputs.pop()
    inputs = inputs[: 2 if cls is bn.BatchNormAddReLU else 1]
    wanted = []
    for training in (True, False):
        wanted.append(step(wide(cls).train(training), [t.clone() for t in inputs], dy))
    device = request.getfixturevalue("device")
    for training, want in zip((True, False), wanted):
        module = device.module(wide(cls).train(training))
        close(step(module, [device.put(t) for t in inputs], device.put(dy)), want, DTYPES[dtype])
    assert device.torch.made == 0  # WorkspaceMemory memory is the native half's.


def test_a_graph_gets_scratch_memory_of_its_own(device):
    module, x = device.module(bn.BatchNorm1d(8)), device.put(torch.rand(64, 8))
    dy = device.put(torch.rand(64, 8))
    want = step(module, [x.detach()], dy)[:4]
    device.torch.cuda.is_capturing = True
    assert all(torch.equal(a, b) for a, b in zip(step(module, [x.detach()], dy), want))
    assert device.torch.made == 2  # One for the forward pass, one for the backward pass.


def test_streams_and_threads_do_not_share(device):
    """Memory that two of them write in no order, which the emulated device would report."""
    module, x = device.module(bn.BatchNorm1d(8)), device.put(torch.rand(64, 8))
    want, seen = module(x).clone(), []
    device.stream = device.driver.stream()
    seen.append(module(x))
    thread = threading.Thread(target=lambda: seen.append(module(x)))
    thread.start(), thread.join()
    assert len(seen) == 2 and all(torch.equal(y, want) for y in seen)
    assert module.num_batches_tracked.item() == 3


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


def test_a_device_that_is_not_there_is_named(loaded):
    native, _ = loaded
    for stream in (0, 2):
        with pytest.raises(RuntimeError, match="77"):
            native.workspace_bytes(((77, stream), "float32", (2, 3, 4), False), "train", "identity")


def test_a_table_of_plans_of_another_version_is_refused_and_changes_nothing(device, loaded, tmp_path):
    native, _ = loaded
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
