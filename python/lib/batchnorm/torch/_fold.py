"""Folding a batch norm in evaluation into the layer before it."""

import copy

import torch

from batchnorm import _native
from batchnorm.torch._modules import FUSED, BatchNorm1d, BatchNorm2d, BatchNorm3d

_TRANSPOSED = {torch.nn.ConvTranspose1d: 1, torch.nn.ConvTranspose2d: 2, torch.nn.ConvTranspose3d: 3}
# Modules, each with the N of the BatchNormNd that fits it; `None` fits any.
_LAYERS = {torch.nn.Linear: 1, torch.nn.Conv1d: 1, torch.nn.Conv2d: 2, torch.nn.Conv3d: 3, **_TRANSPOSED}
_NORMS = {
    torch.nn.BatchNorm1d: 1,
    torch.nn.BatchNorm2d: 2,
    torch.nn.BatchNorm3d: 3,
    BatchNorm1d: 1,
    BatchNorm2d: 2,
    BatchNorm3d: 3,
    **dict.fromkeys(FUSED.values()),
    torch.nn.SyncBatchNorm: None,
}


def fold(layer, norm):
    """A copy of `layer` that gives what `layer` and then `norm`, in evaluation, give.

    `layer` is a `torch.nn.Linear`, a convolution or a transposed convolution of torch.nn; `norm` a batch norm of torch.nn or of
    this package with running statistics. Neither is of a subclass or has hooks. `weight = weight * scale` and
    `bias = (bias - running_mean) * scale + norm.bias`, with `scale = norm.weight / sqrt(running_var + eps)` for each output,
    computed in float64 and rounded once. Of a fused one, as `BatchNormReLU`, its activation is left, in a
    `torch.nn.Sequential` behind the layer.
    """
    _check(layer, norm)
    outputs = layer.out_features if type(layer) is torch.nn.Linear else layer.out_channels
    if outputs != norm.num_features:
        raise ValueError(f"expected a layer of {norm.num_features} outputs, got {outputs}")
    with torch.no_grad():
        values = [norm.running_mean, norm.running_var, norm.weight, norm.bias, layer.bias]
        mean, var, gamma, beta, old_bias = (None if of is None else of.double().tolist() for of in values)
        # The norm adds eps in the type of its statistics: where they cancel, they are to cancel here.
        is_double = norm.running_var.dtype == torch.float64
        scale, bias = _native.fold_channels(norm.eps, is_double, mean, var, gamma, beta, old_bias or [0.0] * outputs)
        scale, bias = (torch.tensor(of, dtype=torch.float64, device=layer.weight.device) for of in (scale, bias))
        weight = layer.weight.double()
        if type(layer) in _TRANSPOSED:
            # [in, out / groups, ...], group after group along the first dimension.
            grouped = weight.unflatten(0, (layer.groups, -1))
            shape = (layer.groups, 1, outputs // layer.groups, *(1,) * (weight.dim() - 2))
            weight = (grouped * scale.view(shape)).flatten(0, 1)
        else:
            weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        folded = copy.deepcopy(layer)
        folded.weight.copy_(weight)
        folded.bias = torch.nn.Parameter(bias.to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)
    activation = next((of for of, fused in FUSED.items() if type(norm) is fused), None)
    return torch.nn.Sequential(folded, activation()) if activation else folded


def _check(layer, norm):
    """Exactly these types: a subclass may compute something else."""
    dims = _LAYERS.get(type(layer))
    if dims is None:
        raise TypeError(f"expected a Linear or a convolution of torch.nn to fold into, got {type(layer).__name__}")
    if type(norm) not in _NORMS or norm.running_mean is None:
        raise TypeError(f"expected a batch norm with running statistics, got {norm}")
    if _NORMS[type(norm)] not in (None, dims):
        raise TypeError(f"expected a batch norm that takes what a {type(layer).__name__} gives, got {type(norm).__name__}")
    if norm.training:
        raise ValueError("expected a batch norm in evaluation, got one in training: call its eval() first")
    for name, module in (("layer", layer), ("batch norm", norm)):
        # Hooks also are pruning, and weight and spectral normalization.
        hooks = module._forward_pre_hooks or module._forward_hooks
        if hooks or "forward" in module.__dict__:
            raise ValueError(f"expected a {name} without hooks and with a forward of its class, got {module}")
