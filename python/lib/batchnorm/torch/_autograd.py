"""The gradients of the operations, and the way into them."""

import torch
from torch.autograd.function import once_differentiable

from batchnorm.torch._kinds import BACKWARD_AS, RECOMPUTES_V
from batchnorm.torch._ops import LIBRARY


def _save(ctx, x, weight, bias, mean, inv_std_or_var, mask, epilogue):
    """The tensors that the backward pass needs: of the bias only the dtype and shape, where no activation's argument has to be found by it."""
    ctx.epilogue, ctx.weight, ctx.bias = epilogue, _likeness(weight), _likeness(bias)
    ctx.save_for_backward(x, weight, bias if epilogue in RECOMPUTES_V else None, mean, inv_std_or_var, mask)


def _likeness(parameter):
    return None if parameter is None else (parameter.dtype, parameter.shape)


def _gradients(ctx, dy, running_eps):
    dx, dz, dweight, dbias = torch.ops.batchnorm.backward(dy, *ctx.saved_tensors, running_eps, ctx.epilogue)
    if ctx.epilogue in BACKWARD_AS:
        dz = dy
    needs = ctx.needs_input_grad
    return (
        dx if needs[0] else None,
        dz if needs[1] else None,
        _of(ctx.weight, dweight) if needs[2] else None,
        _of(ctx.bias, dbias) if needs[3] else None,
    )


def _of(likeness, gradient):
    dtype, shape = likeness
    return gradient if gradient.dtype == dtype and gradient.shape == shape else gradient.to(dtype).view(shape)


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z, weight, bias, running_mean, running_var, num_batches_tracked, *rest):
        with torch._C._AutoDispatchBelowAutograd():
            y, mean, inv_std, mask = torch.ops.batchnorm.train(
                x, z, weight, bias, running_mean, running_var, num_batches_tracked, *rest
            )
        _save(ctx, x, weight, bias, mean, inv_std, mask, rest[2])
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
        ctx.eps = eps
        _save(ctx, x, weight, bias, running_mean, running_var, mask, epilogue)
        ctx.mark_non_differentiable(mask)
        return y, mask

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        return *_gradients(ctx, dy, ctx.eps), *(None,) * 5


LIBRARY.impl("train", lambda *args: _Train.apply(*args), "Autograd")
LIBRARY.impl("infer", lambda *args: _Infer.apply(*args), "Autograd")


def train(*args):
    """The training forward."""
    return torch.ops.batchnorm.train(*args) if _is_transformed() else _Train.apply(*args)


def infer(*args):
    """The inference forward."""
    return torch.ops.batchnorm.infer(*args) if _is_transformed() else _Infer.apply(*args)


def _is_transformed():
    """Whether a compiler or a transform of torch.func is to see one operation. Nothing else needs the way through the
    dispatcher, which ends in the same functions and takes longer than a small batch norm."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
