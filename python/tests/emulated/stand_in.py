"""The emulated device's native half in the place of the package's, and a stand-in for a CUDA device with tensors in its memory.

PyTorch takes these tensors for the CPU's, since its own kernels cannot run there; for the operations they are the device's.
"""

import ctypes
import importlib.util
import os
import sys
from importlib.machinery import ExtensionFileLoader

PATH = os.environ["BATCHNORM_EMULATED"]
_loader = ExtensionFileLoader("batchnorm._native", PATH)
native = importlib.util.module_from_spec(importlib.util.spec_from_file_location("batchnorm._native", PATH, loader=_loader))
_loader.exec_module(native)
sys.modules["batchnorm._native"] = native

import pytest  # noqa: E402
import torch  # noqa: E402

from batchnorm.torch import _autograd, _functional, _kernels, _workspace  # noqa: E402


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
        self.driver, self.stream, self.is_capturing = driver, 0, False

    def use(self, stream=0, is_capturing=False):
        """Makes a stream the current one, of which a graph is captured or not."""
        self.stream, self.is_capturing = stream, is_capturing
        self.show()

    def empty(self, shape, dtype, memory_format=torch.contiguous_format):
        like = torch.empty(shape, dtype=dtype, memory_format=memory_format)
        if like.numel() == 0:
            return like
        count = like.numel() * like.itemsize
        memory = (ctypes.c_byte * count).from_address(self.driver.alloc(count))
        return torch.frombuffer(memory, dtype=dtype).as_strided(like.shape, like.stride())

    def put(self, tensor):
        copy = self.empty(tensor.shape, tensor.dtype, _kernels.format_of(tensor) if tensor.dim() > 1 else torch.contiguous_format)
        # The driver copies, since it notes which memory is initialized.
        source = tensor.contiguous(memory_format=_kernels.format_of(tensor)) if tensor.dim() > 1 else tensor.clone()
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


@pytest.fixture(scope="session")
def driver():
    native.stand_in(None, False)  # Brings the driver in.
    return Driver()


@pytest.fixture(params=["native", "python"])
def device(request, monkeypatch, driver):
    device = Device(driver)
    TAKE[request.param](device, monkeypatch)
    yield device
    native.stand_in(None, False)


def take_native(device, monkeypatch):
    """The operations of the native half."""

    start = native.stand_in(None, False)
    device.show = lambda: native.stand_in(device.stream, device.is_capturing)
    device.workspaces = lambda: device.show() - start
    device.show()


def take_python(device, monkeypatch):
    """The kernels in Python, over tensors of the device."""
    where, mask = _kernels._where, _kernels.mask_of
    monkeypatch.setattr(_functional, "IS_NATIVE", False)
    for name, kernel in _kernels.KERNELS.items():
        monkeypatch.setattr(_autograd, name.upper(), kernel)
    monkeypatch.setattr(_kernels, "_where", lambda x: ((0, device.stream), *where(x)[1:]))
    monkeypatch.setattr(_kernels, "like", lambda x, format=None: device.empty(x.shape, x.dtype, format or _kernels.format_of(x)))
    monkeypatch.setattr(_kernels, "per_channel", lambda x: device.empty(x.shape[1:2], torch.float32))

    def kept(*given):
        like = mask(*given)
        return None if like is None else device.empty(like.shape, torch.int32)

    monkeypatch.setattr(_kernels, "mask_of", kept)
    made = []

    class Torch:
        uint8, device = torch.uint8, staticmethod(torch.device)

        class cuda:
            is_current_stream_capturing = staticmethod(lambda: device.is_capturing)

        @staticmethod
        def zeros(size, dtype, device):
            made.append(size)
            return of.put(torch.zeros(size, dtype=dtype))

    of = device
    device.show = lambda: None
    device.workspaces = lambda: len(made)
    monkeypatch.setattr(_workspace, "torch", Torch)


TAKE = {"native": take_native, "python": take_python}
