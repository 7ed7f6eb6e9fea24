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
    `torch.nn.Identity`: not for a model that takes single modules out of a `Sequential`, nor for code that looks for
    `torch.nn`'s batch norms, which a `BatchNormReLU` is none of. Subclasses of torch's, and modules whose `forward` was
    replaced, are left alone; nothing with hooks is fused. A module that is used twice is replaced by one.
    """
    if _is_replaced(model):
        return _replaced(model, _REPLACED[type(model)])
    found = [(module, name, child, behind) for module in model.modules() for name, child, behind in _children(module)]
    # A batch norm that is used elsewhere without a relu is not fused.
    unfused = {id(child) for module, _, child, behind in found if not (fuse_relu and _is_fused(module, child, behind))}
    new = {}
    for module, name, child, behind in found:
        fused = id(child) not in unfused
        if id(child) not in new:
            new[id(child)] = _replaced(child, BatchNormReLU if fused else _REPLACED[type(child)])
        module._modules[name] = new[id(child)]
        if fused:
            module._modules[behind] = torch.nn.Identity()
    return model


def _children(module):
    """The batch norms of a module that are replaced, by name, each with the name of what comes right behind it."""
    children = [(name, child) for name, child in module._modules.items() if child is not None]
    for (name, child), (behind, _) in zip(children, [*children[1:], (None, None)]):
        if _is_replaced(child):
            yield name, child, behind


def _is_replaced(module):
    return type(module) in _REPLACED and "forward" not in module.__dict__


def _is_fused(module, norm, behind):
    relu = module._modules.get(behind)
    if type(module) is not torch.nn.Sequential or type(relu) is not torch.nn.ReLU:
        return False
    return not any("forward" in each.__dict__ for each in (module, relu)) and not _has_hooks(norm, relu)


def _replaced(old, cls):
    new = cls.__new__(cls)
    # All that there is: settings, parameters, buffers, hooks, whether it trains.
    new.__dict__.update(old.__dict__)
    if cls is BatchNormReLU:
        new._unfused = _REPLACED[type(old)]
    return new


def _has_hooks(*modules):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for module in modules for name in names)
