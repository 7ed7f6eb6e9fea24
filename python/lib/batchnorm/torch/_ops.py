"""The operations as PyTorch's: schemas, kernels, and shapes for tracing. Their gradients are in _autograd.py.

Registered by hand and not by `torch.library.custom_op`, which gives no gradient to an operation that writes its inputs, as
a training forward writes the running statistics.
"""

import functools

import torch

from batchnorm import _native
from batchnorm.torch._kinds import BACKWARD_AS, KEEPS_MASK, PARAM_DTYPE
from batchnorm.torch._workspace import address_of, workspace

LIBRARY = torch.library.Library("batchnorm", "DEF")
LIBRARY.define(
    "train(Tensor x, Tensor? z, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    "Tensor(c!)? num_batches_tracked, float? momentum, float eps, str epilogue, bool keep_mask) "
    "-> (Tensor y, Tensor mean, Tensor inv_std, Tensor relu_mask)"
)
LIBRARY.define(
    "infer(Tensor x, Tensor? z, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float eps, "
    "str epilogue, bool keep_mask) -> (Tensor y, Tensor relu_mask)"
)
LIBRARY.define(
    "backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor inv_std_or_var, Tensor relu_mask, "
    "float? running_eps, str epilogue) -> (Tensor dx, Tensor dz, Tensor dweight, Tensor dbias)"
)


def _format(x):
    """The memory format of results: channels-last where the strides of `x` are in that order, as torch's own batch norm has it."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() not in formats or x.is_contiguous():
        return torch.contiguous_format
    least = 0
    for axis in (1, *range(x.dim() - 1, 1, -1), 0):
        size, stride = x.shape[axis], x.stride(axis)
        if size == 0 or stride < least or (axis == 0 and least == x.stride(1)):
            return torch.contiguous_format
        least = stride * max(size, 1)
    return formats[x.dim()]


def _param_dtype(x):
    return PARAM_DTYPE[x.dtype]


def _like(x):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_format(x))


def _per_channel(x):
    return torch.empty(x.shape[1], dtype=_param_dtype(x), device=x.device)


def _mask(x, epilogue, keep_mask):
    length = (x.numel() + 31) // 32 if keep_mask and epilogue in KEEPS_MASK else 0
    return torch.empty(length, dtype=torch.int32, device=x.device)


def _param(x, tensor):
    """Per-channel values as the kernels read them."""
    if tensor is None or (tensor.dtype == _param_dtype(x) and tensor.is_contiguous()):
        return tensor
    return tensor.detach().to(_param_dtype(x)).contiguous()


def _counter(x, tensor):
    """The number of batches as the kernels read it: of a module without one, from 0."""
    if tensor is None:
        return torch.zeros(1, dtype=torch.int64, device=x.device)
    return tensor if tensor.dtype == torch.int64 and tensor.device == x.device else tensor.to(x.device, torch.int64)


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
    return place, str(x.dtype).removeprefix("torch."), dims, _format(x) != torch.contiguous_format


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


def _train(x, z, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, epilogue, keep_mask):
    memory_format = _format(x)
    x = x.contiguous(memory_format=memory_format)
    z = None if z is None else z.contiguous(memory_format=memory_format)
    y, mean, inv_std, mask = _like(x), _per_channel(x), _per_channel(x), _mask(x, epilogue, keep_mask)
    weight, bias = _param(x, weight), _param(x, bias)
    updated = None
    if running_mean is not None:
        # Statistics of another dtype or device, or not contiguous, are updated in a copy.
        updated = [_param(x, running_mean), _param(x, running_var), _counter(x, num_batches_tracked)]
    where = _where(x)
    memory = workspace(where, "train", epilogue)
    _native.train(
        where,
        _forward(eps, epilogue, x, y, z, weight, bias, mask),
        [mean.data_ptr(), inv_std.data_ptr()],
        None if updated is None else [tensor.data_ptr() for tensor in updated],
        momentum,
        address_of(memory),
    )
    given = running_mean, running_var, num_batches_tracked
    for tensor, copy in zip(given, updated or given):
        if tensor is None:
            continue
        if copy.data_ptr() != tensor.data_ptr():
            tensor.copy_(copy)
        elif not tensor.is_inference():
            # So that a graph that kept the statistics of before says that they were modified.
            torch.autograd.graph.increment_version(tensor)
    if num_batches_tracked is not None and (updated is None or x.numel() == 0):
        num_batches_tracked.add_(1)  # As torch.nn counts; the kernels count what they track, and no empty batch.
    return y, mean, inv_std, mask


def _infer(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask):
    memory_format = _format(x)
    x = x.contiguous(memory_format=memory_format)
    z = None if z is None else z.contiguous(memory_format=memory_format)
    y, mask = _like(x), _mask(x, epilogue, keep_mask)
    weight, bias, mean, var = (_param(x, tensor) for tensor in (weight, bias, running_mean, running_var))
    forward = _forward(eps, epilogue, x, y, z, weight, bias, mask)
    _native.infer(_where(x), forward, [mean.data_ptr(), var.data_ptr()])
    return y, mask


def _backward(dy, x, weight, bias, mean, inv_std_or_var, relu_mask, running_eps, epilogue):
    memory_format = _format(x)
    x = x.contiguous(memory_format=memory_format)
    dy = dy.contiguous(memory_format=memory_format)
    # Where the residual's gradient is dy itself the caller has it.
    epilogue = BACKWARD_AS.get(epilogue, epilogue)
    dx, dweight, dbias = _like(x), _per_channel(x), _per_channel(x)
    dz = _dz(x, epilogue)
    weight, bias, mean = (_param(x, tensor) for tensor in (weight, bias, mean))
    inv_std_or_var = _param(x, inv_std_or_var)
    where = _where(x)
    memory = workspace(where, "backward" if running_eps is None else "backward-frozen", epilogue)
    arguments = {
        "epilogue": epilogue,
        "running_eps": running_eps,
        "x": x.data_ptr(),
        "dy": dy.data_ptr(),
        "dx": dx.data_ptr(),
        "dz": dz.data_ptr() if epilogue in KEEPS_MASK else None,
        "gamma": _address(weight),
        "beta": _address(bias),
        "relu_mask": _address(relu_mask),
        "statistics": [mean.data_ptr(), inv_std_or_var.data_ptr()],
        "dgamma": dweight.data_ptr(),
        "dbeta": dbias.data_ptr(),
        "workspace": address_of(memory),
    }
    _native.backward(where, arguments)
    return dx, dz, dweight, dbias


def _dz(x, epilogue):
    """The residual's gradient, without values where it is `dy` or there is none."""
    return _like(x) if epilogue in KEEPS_MASK else torch.empty(0, dtype=x.dtype, device=x.device)


def _on_its_device(kernel):
    """A kernel that makes the device of its tensors the current one, and then the one of before again."""

    @functools.wraps(kernel)
    def run(x, *args):
        with torch.cuda.device(x.device):
            return kernel(x, *args)

    return run


for _name, _kernel in (("train", _train), ("infer", _infer), ("backward", _backward)):
    LIBRARY.impl(_name, _kernel, "CPU")
    LIBRARY.impl(_name, _on_its_device(_kernel), "CUDA")


@torch.library.register_fake("batchnorm::train", lib=LIBRARY)
def _(x, z, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, epilogue, keep_mask):
    return _like(x), _per_channel(x), _per_channel(x), _mask(x, epilogue, keep_mask)


@torch.library.register_fake("batchnorm::infer", lib=LIBRARY)
def _(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask):
    return _like(x), _mask(x, epilogue, keep_mask)


@torch.library.register_fake("batchnorm::backward", lib=LIBRARY)
def _(dy, x, weight, bias, mean, inv_std_or_var, relu_mask, running_eps, epilogue):
    return _like(x), _dz(x, epilogue), _per_channel(x), _per_channel(x)
