"""Replacing the batch norms of a model."""

import torch

from batchnorm.torch._modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormReLU

_REPLACED = {
    torch.nn.BatchNorm1d: BatchNorm1d,
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm3d: BatchNorm3d,
    # Ours stay what they are, unless a relu follows.
    BatchNorm1d: BatchNorm1d,
    BatchNorm2d: BatchNorm2d,
    BatchNorm3d: BatchNorm3d,
}


def convert(model, fuse_relu=True):
    """Replaces every `torch.nn.BatchNorm1d`, `2d` and `3d` in `model`, which is changed in place, and returns it.

    Parameters and buffers stay the same tensors, so that an optimizer and a state_dict still fit. With `fuse_relu` a batch
    norm with a `torch.nn.ReLU` right behind it in a `torch.nn.Sequential` becomes a `BatchNormReLU`, and the relu a
    `torch.nn.Identity`. Subclasses of torch's are left alone, and nothing with hooks is fused.
    """
    if type(model) in _REPLACED:
        return _replaced(model, _REPLACED[type(model)])
    for module in list(model.modules()):
        children = list(module.named_children())
        following = {name: behind for (name, _), behind in zip(children, children[1:])}
        for name, child in children:
            cls = _REPLACED.get(type(child))
            if cls is None:
                continue
            behind_name, behind = following.get(name, (None, None))
            is_sequence = type(module) is torch.nn.Sequential
            if fuse_relu and is_sequence and type(behind) is torch.nn.ReLU and not _has_hooks(child, behind):
                setattr(module, name, _replaced(child, BatchNormReLU))
                setattr(module, behind_name, torch.nn.Identity())
            else:
                setattr(module, name, _replaced(child, cls))
    return model


def _replaced(old, cls):
    new = cls.__new__(cls)
    # All that there is: settings, parameters, buffers, hooks, whether it trains.
    new.__dict__.update(old.__dict__)
    return new


def _has_hooks(*modules):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for module in modules for name in names)
