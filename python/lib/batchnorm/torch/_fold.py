"""Folding a batch norm in evaluation into the layer before it."""

import copy

import torch

from batchnorm.torch._modules import BatchNormReLU


def fold(layer, norm):
    """A copy of `layer` that gives what `layer` and then `norm`, in evaluation, give.

    `layer` is a `torch.nn.Linear`, a convolution or a transposed convolution of torch.nn; `norm` any batch norm with running
    statistics. `weight = weight * scale` and `bias = (bias - running_mean) * scale + norm.bias`, with
    `scale = norm.weight / sqrt(running_var + eps)` for each output, computed in float64 and rounded once. Of a
    `BatchNormReLU` its relu is left, in a `torch.nn.Sequential` behind the layer.
    """
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    transposed = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    if not isinstance(layer, (torch.nn.Linear, *convolutions, *transposed)):
        raise TypeError(f"expected a Linear or a convolution to fold into, got {type(layer).__name__}")
    foldable = (torch.nn.modules.batchnorm._BatchNorm, BatchNormReLU)
    if not isinstance(norm, foldable) or norm.running_mean is None:
        raise TypeError(f"expected a batch norm with running statistics, got {norm}")
    outputs = layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels
    if outputs != norm.num_features:
        raise ValueError(f"expected a layer of {norm.num_features} outputs, got {outputs}")
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        offset = torch.zeros_like(scale)
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        if norm.bias is not None:
            offset = norm.bias.double()
        old_bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
        weight = layer.weight.double()
        if isinstance(layer, transposed):
            # [in, out / groups, ...], group after group along the first dimension.
            grouped = weight.unflatten(0, (layer.groups, -1))
            shape = (layer.groups, 1, outputs // layer.groups, *(1,) * (weight.dim() - 2))
            weight = (grouped * scale.view(shape)).flatten(0, 1)
        else:
            weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        folded = copy.deepcopy(layer)
        folded.weight.copy_(weight)
        folded.bias = torch.nn.Parameter(((old_bias - norm.running_mean.double()) * scale + offset).to(layer.weight.dtype))
    return torch.nn.Sequential(folded, torch.nn.ReLU()) if isinstance(norm, BatchNormReLU) else folded
