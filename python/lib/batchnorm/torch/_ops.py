"""The operations as PyTorch's: schemas, kernels, shapes for tracing, and gradients.

Registered by hand and not by `torch.library.custom_op`, which gives no gradient to an operation that writes its inputs, as
a training forward writes the running statistics.
"""

import torch
from torch.autograd.function import once_differentiable

from batchnorm import _native
from batchnorm.torch._scratch import scratch

_LIBRARY = torch.library.Library("batchnorm", "DEF")
_LIBRARY.define(
    "train(Tensor x, Tensor? z, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    "Tensor(c!)? num_batches_tracked, float? momentum, float eps, str epilogue, bool keep_mask) "
    "-> (Tensor y, Tensor mean, Tensor inv_std, Tensor relu_mask)"
)
_LIBRARY.define(
    "infer(Tensor x, Tensor? z, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float eps, "
    "str epilogue, bool keep_mask) -> (Tensor y, Tensor relu_mask)"
)
_LIBRARY.define(
    "backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor scale, Tensor relu_mask, "
    "float? frozen_eps, str epilogue) -> (Tensor dx, Tensor dz, Tensor dweight, Tensor dbias)"
)


def _format(x):
    """The memory format of results: channels-last where `x` is that and nothing else."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(x.dim())
    if last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous():
        return last
    return torch.contiguous_format


def _param_dtype(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _like(x):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_format(x))


def _per_channel(x):
    return torch.empty(x.shape[1], dtype=_param_dtype(x), device=x.device)


def _mask(x, epilogue, keep_mask):
    length = (x.numel() + 31) // 32 if epilogue == "add_relu" and keep_mask else 0
    return torch.empty(length, dtype=torch.int32, device=x.device)


def _param(x, tensor):
    """Per-channel values as the kernels read them."""
    return None if tensor is None else tensor.detach().to(_param_dtype(x)).contiguous()


def _address(tensor):
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def _where(x):
    """Device and stream, dtype, dimensions and layout, as the native functions take them."""
    place = None if x.device.type == "cpu" else (x.device.index, torch.cuda.current_stream(x.device).cuda_stream)
    spatial = 1
    for size in x.shape[2:]:
        spatial *= size
    dims = (x.shape[0], x.shape[1], spatial)
    return place, str(x.dtype).removeprefix("torch."), dims, _format(x) != torch.contiguous_format


def _train(x, z, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, epilogue, keep_mask):
    memory_format = _format(x)
    x = x.contiguous(memory_format=memory_format)
    z = None if z is None else z.contiguous(memory_format=memory_format)
    y, mean, inv_std, mask = _like(x), _per_channel(x), _per_channel(x), _mask(x, epilogue, keep_mask)
    weight, bias = _param(x, weight), _param(x, bias)
    running = None
    if running_mean is not None:
        # Those of another dtype, or not contiguous, are updated in a copy.
        running = [_param(x, running_mean), _param(x, running_var)]
        counter = num_batches_tracked
        if counter is None:
            counter = torch.zeros(1, dtype=torch.int64, device=x.device)
        addresses = [tensor.data_ptr() for tensor in (*running, counter)]
    where = _where(x)
    with scratch(where, "train", epilogue) as memory:
        _native.train(
            *where,
            epilogue,
            eps,
            x.data_ptr(),
            y.data_ptr(),
            None if z is None else z.data_ptr(),
            _address(weight),
            _address(bias),
            _address(mask),
            [mean.data_ptr(), inv_std.data_ptr()],
            None if running is None else addresses,
            momentum,
            memory,
        )
    if num_batches_tracked is not None and x.numel() == 0:
        num_batches_tracked.add_(1)  # As torch.nn counts; the kernels count no empty batch.
    if running is not None:
        for tensor, updated in zip((running_mean, running_var), running):
            if tensor.data_ptr() != updated.data_ptr():
                tensor.copy_(updated)
    return y, mean, inv_std, mask


def _infer(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask):
    memory_format = _format(x)
    x = x.contiguous(memory_format=memory_format)
    z = None if z is None else z.contiguous(memory_format=memory_format)
    y, mask = _like(x), _mask(x, epilogue, keep_mask)
    weight, bias, mean, var = (_param(x, tensor) for tensor in (weight, bias, running_mean, running_var))
    _native.infer(
        *_where(x),
        epilogue,
        eps,
        x.data_ptr(),
        y.data_ptr(),
        None if z is None else z.data_ptr(),
        _address(weight),
        _address(bias),
        _address(mask),
        [mean.data_ptr(), var.data_ptr()],
    )
    return y, mask


def _backward(dy, x, weight, bias, mean, scale, relu_mask, frozen_eps, epilogue):
    memory_format = _format(x)
    x = x.contiguous(memory_format=memory_format)
    dy = dy.contiguous(memory_format=memory_format)
    # Without a relu behind it the residual's gradient is dy itself, which the caller has.
    epilogue = "identity" if epilogue == "add" else epilogue
    dx, dweight, dbias = _like(x), _per_channel(x), _per_channel(x)
    dz = _like(x) if epilogue == "add_relu" else _no_values(x)
    weight, bias, mean, scale = (_param(x, tensor) for tensor in (weight, bias, mean, scale))
    where = _where(x)
    with scratch(where, "backward" if frozen_eps is None else "backward_frozen", epilogue) as memory:
        _native.backward(
            *where,
            epilogue,
            frozen_eps,
            x.data_ptr(),
            dy.data_ptr(),
            dx.data_ptr(),
            dz.data_ptr() if epilogue == "add_relu" else None,
            _address(weight),
            _address(bias),
            relu_mask.data_ptr() if epilogue == "add_relu" else None,
            [mean.data_ptr(), scale.data_ptr()],
            dweight.data_ptr(),
            dbias.data_ptr(),
            memory,
        )
    return dx, dz, dweight, dbias


def _no_values(x):
    return torch.empty(0, dtype=x.dtype, device=x.device)


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("train", _train, _key)
    _LIBRARY.impl("infer", _infer, _key)
    _LIBRARY.impl("backward", _backward, _key)


@torch.library.register_fake("batchnorm::train", lib=_LIBRARY)
def _(x, z, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, epilogue, keep_mask):
    return _like(x), _per_channel(x), _per_channel(x), _mask(x, epilogue, keep_mask)


@torch.library.register_fake("batchnorm::infer", lib=_LIBRARY)
def _(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask):
    return _like(x), _mask(x, epilogue, keep_mask)


@torch.library.register_fake("batchnorm::backward", lib=_LIBRARY)
def _(dy, x, weight, bias, mean, scale, relu_mask, frozen_eps, epilogue):
    dz = _like(x) if epilogue == "add_relu" else _no_values(x)
    return _like(x), dz, _per_channel(x), _per_channel(x)


def _gradients(ctx, dy, frozen_eps):
    x, weight, bias, mean, scale, mask = ctx.saved_tensors
    dx, dz, dweight, dbias = torch.ops.batchnorm.backward(
        dy, x, weight, bias, mean, scale, mask, frozen_eps, ctx.epilogue
    )
    if ctx.epilogue == "add":
        dz = dy
    needs = ctx.needs_input_grad
    return (
        dx if needs[0] else None,
        dz if needs[1] else None,
        dweight.to(weight.dtype) if needs[2] else None,
        dbias.to(bias.dtype) if needs[3] else None,
    )


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z, weight, bias, running_mean, running_var, num_batches_tracked, *rest):
        with torch._C._AutoDispatchBelowAutograd():
            y, mean, inv_std, mask = torch.ops.batchnorm.train(
                x, z, weight, bias, running_mean, running_var, num_batches_tracked, *rest
            )
        # So that a graph that kept the statistics of before says that they were modified.
        for tensor in (running_mean, running_var, num_batches_tracked):
            if tensor is not None:
                torch.autograd.graph.increment_version(tensor)
        ctx.epilogue = rest[2]
        ctx.save_for_backward(x, weight, bias, mean, inv_std, mask)
        ctx.mark_non_differentiable(mean, inv_std, mask)
        return y, mean, inv_std, mask

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        return *_gradients(ctx, dy, None), *(None,) * 7


class _Infer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask):
        with torch._C._AutoDispatchBelowAutograd():
            y, mask = torch.ops.batchnorm.infer(
                x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask
            )
        ctx.epilogue, ctx.eps = epilogue, eps
        ctx.save_for_backward(x, weight, bias, running_mean, running_var, mask)
        ctx.mark_non_differentiable(mask)
        return y, mask

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        return *_gradients(ctx, dy, ctx.eps), *(None,) * 5


_LIBRARY.impl("train", lambda *args: _Train.apply(*args), "Autograd")
_LIBRARY.impl("infer", lambda *args: _Infer.apply(*args), "Autograd")
