"""The operations' kernels in Python, over the native half's functions of addresses: for PyTorch before 2.10, which the native half
cannot register its own with."""

import functools

import torch

from batchnorm import _native
from batchnorm.torch._kinds import BACKWARD_AS, KEEPS_MASK, PARAM_DTYPE, WITHOUT_DZ
from batchnorm.torch._workspace import address_of, workspace

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def format_of(x):
    """The memory format of results: channels-last where the strides of `x` are in that order, as torch's own batch norm has it."""
    if x.dim() not in _CHANNELS_LAST or x.is_contiguous():
        return torch.contiguous_format
    least = 0
    for axis in (1, *range(x.dim() - 1, 1, -1), 0):
        size, stride = x.shape[axis], x.stride(axis)
        if size == 0 or stride < least or (axis == 0 and least == x.stride(1)):
            return torch.contiguous_format
        least = stride * max(size, 1)
    return _CHANNELS_LAST[x.dim()]


def is_channels_last(x):
    return format_of(x) != torch.contiguous_format


def format_with(x, mask, mask_is_channels_last):
    """The memory format of a pass: that of the mask's bits, if there is one and its order is said, and else of x."""
    if mask is None or mask_is_channels_last is None:
        return format_of(x)
    if not mask_is_channels_last:
        return torch.contiguous_format
    if x.dim() not in _CHANNELS_LAST:
        raise RuntimeError(f"expected a mask in the order of channels_last with 4 or 5 dimensions, got {x.dim()}")
    return _CHANNELS_LAST[x.dim()]


def is_in_a_backward_pass():
    """Whether this thread runs a backward pass, which runs forward passes again for checkpoints."""
    return torch._C._current_graph_task_id() != -1


def _param_dtype(x):
    return PARAM_DTYPE[x.dtype]


def like(x, memory_format=None):
    """A tensor for results like x, in the memory format of results or in another."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format or format_of(x))


def per_channel(x):
    return torch.empty(x.shape[1], dtype=_param_dtype(x), device=x.device)


def mask_of(x, epilogue, keep_mask):
    if not keep_mask or epilogue not in KEEPS_MASK:
        return None
    return torch.empty((x.numel() + 31) // 32, dtype=torch.int32, device=x.device)


def _is_aligned(tensor):
    """Whether each value lies where values of its type may lie. Refuses those that lie nowhere."""
    if tensor.numel() and not tensor.untyped_storage().size():
        raise RuntimeError("The tensor has a non-zero number of elements, but its data is not allocated yet.")
    return tensor.data_ptr() % tensor.element_size() == 0


def _dense(tensor, memory_format):
    """Data as the kernels read it."""
    is_aligned = _is_aligned(tensor)
    tensor = tensor.contiguous(memory_format=memory_format)
    return tensor if is_aligned or _is_aligned(tensor) else tensor.clone(memory_format=memory_format)


def _affine(x, name, tensor):
    """A weight or a bias as the kernels read it: its gradient has one dimension."""
    if tensor is not None and tensor.dim() != 1:
        raise RuntimeError(f"expected {name} of 1 dimension, got {tensor.dim()}")
    return _param(x, tensor)


def _param(x, tensor):
    """Per-channel values as the kernels read them."""
    if tensor is None or (_is_aligned(tensor) and tensor.dtype == _param_dtype(x) and tensor.is_contiguous()):
        return tensor
    return tensor.detach().to(_param_dtype(x), copy=True).contiguous()


def _counter(x, tensor):
    """The number of batches as the kernels read it: of a module without one, from 0."""
    if tensor is None:
        return torch.zeros(1, dtype=torch.int64, device=x.device)
    if _is_aligned(tensor) and tensor.dtype == torch.int64 and tensor.device == x.device:
        return tensor
    return tensor.to(x.device, torch.int64, copy=True)


def _address(tensor):
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def _where(x):
    """Device and stream, or no device and threads; dtype, dimensions and layout, as the native functions take them."""
    if x.device.type == "cpu":
        place = None, torch.get_num_threads()
    else:
        place = x.device.index, torch.cuda.current_stream(x.device).cuda_stream
    spatial = 1
    for size in x.shape[2:]:
        spatial *= size
    dims = (x.shape[0], x.shape[1], spatial)
    return place, str(x.dtype).removeprefix("torch."), dims, is_channels_last(x)


def _forward(eps, epilogue, x, y, z, weight, bias, mask):
    """The arguments that both forward passes take."""
    return {
        "eps": eps,
        "epilogue": epilogue,
        "x": x.data_ptr(),
        "y": y.data_ptr(),
        "z": None if z is None else z.data_ptr(),
        "gamma": _address(weight),
        "beta": _address(bias),
        "relu_mask": _address(mask),
    }


def _train(
    x, z, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, epilogue, keep_mask, skip_non_finite,
    skip_recomputed, mask_is_channels_last=None,
):
    if skip_recomputed and is_in_a_backward_pass():
        running_mean = running_var = num_batches_tracked = None
    mask = mask_of(x, epilogue, keep_mask)
    memory_format = format_with(x, mask, mask_is_channels_last)
    x = _dense(x, memory_format)
    z = None if z is None else _dense(z, memory_format)
    y, mean, inv_std = like(x, memory_format), per_channel(x), per_channel(x)
    weight, bias = _affine(x, "weight", weight), _affine(x, "bias", bias)
    updated = None
    if running_mean is not None:
        # Statistics of another dtype or device, or not contiguous, are updated in a copy.
        updated = [_param(x, running_mean), _param(x, running_var), _counter(x, num_batches_tracked)]
    given = running_mean, running_var, num_batches_tracked
    copied = [(tensor, copy) for tensor, copy in zip(given, updated or ()) if tensor is not None and copy is not tensor]
    for tensor, copy in copied:
        tensor.copy_(copy)  # Finds out whether it can be written, before anything has changed.
    where = _where(x)
    memory = workspace(where, "train", epilogue)
    _native.train(
        where,
        _forward(eps, epilogue, x, y, z, weight, bias, mask),
        [mean.data_ptr(), inv_std.data_ptr()],
        None if updated is None else [tensor.data_ptr() for tensor in updated],
        momentum,
        skip_non_finite,
        address_of(memory),
    )
    for tensor, copy in copied:
        tensor.copy_(copy)
    if num_batches_tracked is not None and (updated is None or x.numel() == 0):
        num_batches_tracked.add_(1)  # As torch.nn counts; the kernels count what they track, and no empty batch.
    return y, mean, inv_std, mask


def _infer(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask, mask_is_channels_last=None):
    mask = mask_of(x, epilogue, keep_mask)
    memory_format = format_with(x, mask, mask_is_channels_last)
    x = _dense(x, memory_format)
    z = None if z is None else _dense(z, memory_format)
    y = like(x, memory_format)
    weight, bias = _affine(x, "weight", weight), _affine(x, "bias", bias)
    mean, var = _param(x, running_mean), _param(x, running_var)
    forward = _forward(eps, epilogue, x, y, z, weight, bias, mask)
    _native.infer(_where(x), forward, [mean.data_ptr(), var.data_ptr()])
    return y, mask


def _backward(
    dy, x, weight, bias, mean, inv_std_or_var, relu_mask, mask_is_channels_last, running_eps, epilogue, needs_dx, needs_dz,
    needs_dweight, needs_dbias,
):
    memory_format = format_with(x, relu_mask, mask_is_channels_last)
    x, dy = _dense(x, memory_format), _dense(dy, memory_format)
    if epilogue in BACKWARD_AS:
        # The residual's gradient is dy itself, which the caller has.
        epilogue, needs_dz = BACKWARD_AS[epilogue], False
    elif not needs_dz and relu_mask is not None:
        epilogue = WITHOUT_DZ.get(epilogue, epilogue)
    dx = like(x) if needs_dx else None
    dz = like(x) if needs_dz else None
    dweight = per_channel(x) if needs_dweight else None
    dbias = per_channel(x) if needs_dbias else None
    weight, bias, mean = (_param(x, tensor) for tensor in (weight, bias, mean))
    inv_std_or_var = _param(x, inv_std_or_var)
    where = _where(x)
    memory = workspace(where, "backward" if running_eps is None else "backward-frozen", epilogue)
    addresses = {
        "x": x,
        "dy": dy,
        "dx": dx,
        "dz": dz,
        "gamma": weight,
        "beta": bias,
        "relu_mask": relu_mask,
        "dgamma": dweight,
        "dbeta": dbias,
    }
    arguments = {
        "epilogue": epilogue,
        "running_eps": running_eps,
        "statistics": [mean.data_ptr(), inv_std_or_var.data_ptr()],
        "workspace": address_of(memory),
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in addresses.items()},
    }
    _native.backward(where, arguments)
    return dx, dz, dweight, dbias


def on_its_device(kernel):
    """A kernel that makes the device of its tensors the current one, and then the one of before again."""

    @functools.wraps(kernel)
    def run(x, *args):
        with torch.cuda.device(x.device):
            return kernel(x, *args)

    return run


KERNELS = {"train": _train, "infer": _infer, "backward": _backward}
