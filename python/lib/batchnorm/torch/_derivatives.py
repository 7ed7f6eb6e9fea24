"""The gradients as PyTorch's operations compose them, for derivatives of them: not fused, and to any order.

    v      = (x - mean) * inv_std * weight + bias          g = dy * activation'(v)          dz = g
    dbias  = sum(g)              dweight = sum(g * x_hat)                 with x_hat = (x - mean) * inv_std
    dx     = weight * inv_std * (g - dbias / m - x_hat * dweight / m)     by the batch's statistics, which depend on x
    dx     = weight * inv_std * g                                         by running ones, which are constants
"""

import torch

from batchnorm.torch._kinds import KIND, PARAM_DTYPE


def gradients(dy, x, weight, bias, running, mask, mask_is_channels_last, eps, epilogue):
    """dx, dz, dweight and dbias, by the batch's statistics or by `running`'s mean and variance."""
    dtype = PARAM_DTYPE[x.dtype]
    wide_x, g = x.to(dtype), dy.to(dtype)
    dims = [axis for axis in range(x.dim()) if axis != 1]
    channels = [-1 if axis == 1 else 1 for axis in range(x.dim())]
    m = max(x.numel() // max(x.shape[1], 1), 1)
    if running is None:
        mean = wide_x.mean(dims, keepdim=True)
        xmu = wide_x - mean
        var = (xmu * xmu).mean(dims, keepdim=True)
    else:
        mean, var = (tensor.to(dtype).view(channels) for tensor in running)
        xmu = wide_x - mean
    # As kernels have it, eps is of this dtype, and a sum of 0 normalizes to 0.
    shifted = var + torch.tensor(eps, dtype=dtype, device=x.device)
    inv_std = torch.where(shifted == 0, 0.0, shifted.rsqrt())
    x_hat = xmu * inv_std
    scale = 1.0 if weight is None else weight.to(dtype).reshape(channels)
    kind = KIND[epilogue]
    if kind.keeps_mask:
        g = torch.where(_unpacked(mask, mask_is_channels_last, x), g, 0.0)
    elif kind.recomputes_v:
        v = x_hat * scale
        v = v if bias is None else v + bias.to(dtype).reshape(channels)
        g = g * _DERIVATIVES[kind.activation](v, x.dtype)
    dbias, dweight = g.sum(dims), (g * x_hat).sum(dims)
    if running is None:
        centered = g - dbias.view(channels) / m - x_hat * (dweight.view(channels) / m)
    else:
        centered = g
    dx = scale * inv_std * centered
    return dx.to(x.dtype), g.to(x.dtype), dweight, dbias


def _unpacked(mask, mask_is_channels_last, x):
    """The bits of a mask, which are in the order of memory of the forward pass, as booleans like x."""
    order = [0, *range(2, x.dim()), 1] if mask_is_channels_last else list(range(x.dim()))
    bits = (mask.unsqueeze(1) >> torch.arange(32, dtype=torch.int32, device=mask.device)) & 1
    in_memory = bits.flatten()[: x.numel()].view([x.shape[axis] for axis in order])
    return in_memory.permute([order.index(axis) for axis in range(x.dim())]).bool()


def _of_relu(v, dtype):
    y = v.detach().to(dtype)
    return (~(y <= 0)).to(v.dtype)


def _of_relu6(v, dtype):
    y = v.detach().to(dtype)
    return (~((y <= 0) | (y >= 6))).to(v.dtype)


def _of_silu(v, _):
    sigmoid = torch.sigmoid(v)
    return sigmoid * (1 + v * (1 - sigmoid))


def _of_hardswish(v, _):
    return torch.where(v < -3, 0.0, torch.where(v <= 3, v / 3 + 0.5, 1.0))


# The activations whose derivative is constant but where it jumps.
STEPS = frozenset(["relu", "relu6"])

# The derivatives of activations at v. Where one jumps it is decided by y as it is stored, in the data's dtype; NaN passes.
_DERIVATIVES = {"relu": _of_relu, "relu6": _of_relu6, "silu": _of_silu, "hardswish": _of_hardswish}
