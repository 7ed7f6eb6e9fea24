"""The operations as PyTorch's: schemas, kernels, and shapes for tracing. Their gradients are in _autograd.py.

The kernels are the native half's, which registers them with PyTorch 2.10 and later without Python in their way; before, and where
BATCHNORM_PYTHON_KERNELS=1 asks for it, those of _kernels.py. Registered by hand and not by `torch.library.custom_op`, which gives no
gradient to an operation that writes its inputs, as a training forward writes the running statistics.
"""

import os
import warnings

import torch

from batchnorm import _native
from batchnorm.torch import _kernels
from batchnorm.torch._kinds import BACKWARD_AS

# The first version of PyTorch that this works with, and the first that the native half can register its kernels with.
OLDEST, OLDEST_NATIVE = (2, 6), (2, 10)
VERSION = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in torch.__version__.split("+")[0].split(".")[:2])
if VERSION < OLDEST:
    raise ImportError(
        f"batchnorm.torch: expected PyTorch {'.'.join(map(str, OLDEST))} or later, got {torch.__version__}"
    )

LIBRARY = torch.library.Library("batchnorm", "DEF")
# A compiler may hand over tensors in another order of memory than it traced, instead of a copy in that one. So a mask's bits are in the
# order that a call says, and y with them; those of a call that says none are in x's.
TAGS = (torch.Tag.flexible_layout,)
LIBRARY.define(
    "train(Tensor x, Tensor? z, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    "Tensor(c!)? num_batches_tracked, float? momentum, float eps, str epilogue, bool keep_mask, bool skip_non_finite, "
    "bool skip_recomputed, bool? mask_is_channels_last=None) "
    "-> (Tensor y, Tensor mean, Tensor inv_std, Tensor relu_mask)",
    tags=TAGS,
)
LIBRARY.define(
    "infer(Tensor x, Tensor? z, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float eps, "
    "str epilogue, bool keep_mask, bool? mask_is_channels_last=None) -> (Tensor y, Tensor relu_mask)",
    tags=TAGS,
)
# Results that are not needed, masks that are not kept, and a dz that is dy, are `None`. A mask's bits are in the order of memory that x
# had in the forward pass: x may come back in another, from who keeps saved tensors, and is brought into the mask's.
LIBRARY.define(
    "backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor inv_std_or_var, Tensor? relu_mask, "
    "bool mask_is_channels_last, float? running_eps, str epilogue, bool needs_dx, bool needs_dz, bool needs_dweight, "
    "bool needs_dbias) "
    "-> (Tensor dx, Tensor dz, Tensor dweight, Tensor dbias)",
    tags=TAGS,
)


def register(library):
    """Registers kernels: the native half's by the functions of PyTorch's library of this name, or Python's. Says whether native."""
    if VERSION >= OLDEST_NATIVE and os.environ.get("BATCHNORM_PYTHON_KERNELS", "0") in ("", "0"):
        try:
            _native.register_operations(library)
            return True
        except RuntimeError as error:
            warnings.warn(
                f"batchnorm.torch: operations are called through Python, which takes longer: {error}. "
                f"Expected PyTorch 2.10 or later as pip installs it, got {torch.__version__}",
                RuntimeWarning,
                stacklevel=2,
            )
    for name, kernel in _kernels.KERNELS.items():
        LIBRARY.impl(name, kernel, "CPU")
        LIBRARY.impl(name, _kernels.on_its_device(kernel), "CUDA")
    return False


IS_NATIVE = register(_native.LIBRARY)
# Whether the native half takes Python's tensors themselves, past the dispatcher: from PyTorch 2.14 on.
TAKES_TENSORS = IS_NATIVE and _native.take_tensors(torch.Tensor, torch.nn.Parameter)


def _check_devices(x, *tensors, counter=None):
    """Refuses tensors of several devices, which meta tensors bring here."""
    if counter is not None and counter.device.type != "cpu":
        tensors = *tensors, counter
    for tensor in tensors:
        if tensor is not None and tensor.device != x.device:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{x.device} and {tensor.device}!"
            )


@torch.library.register_fake("batchnorm::train", lib=LIBRARY)
def _(
    x, z, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, epilogue, keep_mask, skip_non_finite,
    skip_recomputed, mask_is_channels_last=None,
):
    _check_devices(x, z, weight, bias, running_mean, running_var, counter=num_batches_tracked)
    mask = _kernels.mask_of(x, epilogue, keep_mask)
    y = _kernels.like(x, _kernels.format_with(x, mask, mask_is_channels_last))
    return y, _kernels.per_channel(x), _kernels.per_channel(x), mask


@torch.library.register_fake("batchnorm::infer", lib=LIBRARY)
def _(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask, mask_is_channels_last=None):
    _check_devices(x, z, weight, bias, running_mean, running_var)
    mask = _kernels.mask_of(x, epilogue, keep_mask)
    return _kernels.like(x, _kernels.format_with(x, mask, mask_is_channels_last)), mask


@torch.library.register_fake("batchnorm::backward", lib=LIBRARY)
def _(
    dy, x, weight, bias, mean, inv_std_or_var, relu_mask, mask_is_channels_last, running_eps, epilogue, needs_dx, needs_dz,
    needs_dweight, needs_dbias,
):
    _check_devices(x, dy, weight, bias, mean, inv_std_or_var, relu_mask)
    memory_format = _kernels.format_with(x, relu_mask, mask_is_channels_last)
    return (
        _kernels.like(x, memory_format) if needs_dx else None,
        _kernels.like(x, memory_format) if needs_dz and epilogue not in BACKWARD_AS else None,
        _kernels.per_channel(x) if needs_dweight else None,
        _kernels.per_channel(x) if needs_dbias else None,
    )
