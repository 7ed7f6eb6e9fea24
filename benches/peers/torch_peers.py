"""PyTorch three times: its own kernels, cuDNN through it, and what torch.compile makes of the same functions."""

import os
import shutil
from functools import partial

import torch

from peer import EPS, MOMENTUM, Bound, Peer, Unavailable, split

native_backward = torch.ops.aten.native_batch_norm_backward.default
cudnn_backward = torch.ops.aten.cudnn_batch_norm_backward.default
threshold_backward = torch.ops.aten.threshold_backward.default

EPILOGUES = "relu and add: kernels of their own, in place on y"
BACKWARD = (
    "on saved statistics, without autograd; relu: aten.threshold_backward over the saved y first, whose result is dz"
)


def train_function(forward, epilogue: str):
    """Running statistics are updated by `forward`, the counter as torch.nn.BatchNorm does it."""

    def train(x, z, gamma, beta, running_mean, running_var, counter):
        counter.add_(1)
        outputs = forward(x, gamma, beta, running_mean, running_var, True, MOMENTUM, EPS)
        if epilogue == "relu":
            outputs[0].relu_()
        elif epilogue == "add-relu":
            outputs[0].add_(z).relu_()
        return outputs

    return train


def infer_function(forward):
    def infer(x, gamma, beta, running_mean, running_var):
        return forward(x, gamma, beta, running_mean, running_var, False, MOMENTUM, EPS)[:1]

    return infer


def backward_function(backward, epilogue: str):
    """`backward(g, x, gamma, running_mean, running_var, *saved)`."""

    def run(dy, x, y, *rest):
        g = threshold_backward(dy, y, 0) if epilogue else dy
        gradients = backward(g, x, *rest)
        return (*gradients, g) if epilogue == "add-relu" else gradients

    return run


def native(g, x, gamma, running_mean, running_var, saved_mean, saved_inv_std):
    return native_backward(
        g, x, gamma, running_mean, running_var, saved_mean, saved_inv_std, True, EPS, (True, True, True)
    )


def cudnn(g, x, gamma, running_mean, running_var, saved_mean, saved_inv_std, reserve):
    return cudnn_backward(x, g, gamma, running_mean, running_var, saved_mean, saved_inv_std, EPS, reserve)


class Torch(Peer):
    name = "torch"
    forward = staticmethod(torch.native_batch_norm)
    backward = staticmethod(native)

    def __init__(self, device: str):
        own = "the CPU kernels of F.batch_norm" if device == "cpu" else "the kernels of cudnn.enabled = False"
        self.includes = (
            f"torch.native_batch_norm ({own}) into new outputs; train: running statistics in it, the counter by an "
            f"add_ of its own; {EPILOGUES}; backward: aten.native_batch_norm_backward {BACKWARD}"
        )

    def bind(self, operation: str, buffers) -> Bound:
        b = buffers
        kind, epilogue = split(operation)
        running = (b.running_mean, b.running_var)
        if kind == "infer":
            return Bound(partial(self.function(operation), b.x, b.gamma, b.beta, *running))
        z = b.z if epilogue == "add-relu" else None
        step = (b.x, z, b.gamma, b.beta, *running, b.counter)
        if kind == "train":
            return Bound(partial(self.function(operation), *step))
        y, *saved = self.function(f"train-{epilogue}" if epilogue else "train")(*step)
        y = y if epilogue else None  # nothing but relu reads it
        return Bound(partial(self.function(operation), b.dy, b.x, y, b.gamma, *running, *saved), y)

    def function(self, operation: str):
        kind, epilogue = split(operation)
        if kind == "infer":
            return infer_function(self.forward)
        if kind == "train":
            return train_function(self.forward, epilogue)
        return backward_function(self.backward, epilogue)


class TorchCudnn(Torch):
    name = "torch-cudnn"
    forward = staticmethod(torch.cudnn_batch_norm)
    backward = staticmethod(cudnn)

    def __init__(self, device: str):
        if device == "cpu":
            raise Unavailable("cuDNN needs a CUDA device")
        if not torch.backends.cudnn.is_available():
            raise Unavailable("this torch has no cuDNN")
        torch.backends.cudnn.enabled = True
        torch.backends.cudnn.benchmark = True
        self.includes = (
            "torch.cudnn_batch_norm into new outputs, called directly, also where F.batch_norm would take torch's own "
            "kernels (as it does for bf16 and [n, c]); train: running statistics in it, the counter by an add_ of its "
            f"own; {EPILOGUES}; backward: aten.cudnn_batch_norm_backward {BACKWARD}"
        )


class TorchCompile(Torch):
    name = "torch-compile"

    def __init__(self, device: str):
        import torch._dynamo  # noqa: F401  (so that what is wrong with it is the reason of this peer alone)

        super().__init__(device)
        compiler = os.environ.get("CXX", "g++")
        if device == "cpu" and shutil.which(compiler) is None:
            raise Unavailable(f"torch.compile on the CPU needs a C++ compiler, and {compiler} is not on PATH")
        if device == "cuda":
            import triton  # noqa: F401  (what inductor writes its kernels in)
        self.includes = (
            "torch.compile(fullgraph, static shapes) of the functions that `torch` runs, so that running statistics, "
            "counter, relu and add may be fused; forward saves mean, inv_std and y (on the CPU the first two in the "
            "data's dtype); backward on these, without autograd; its guards are in the host's time, compiling is not"
        )
        self._compiled = {}

    def new_row(self, row) -> None:
        # Else the ninth shape of a function is no longer compiled.
        torch._dynamo.reset()
        self._compiled.clear()

    def function(self, operation: str):
        if operation not in self._compiled:
            self._compiled[operation] = torch.compile(super().function(operation), fullgraph=True, dynamic=False)
        return self._compiled[operation]
