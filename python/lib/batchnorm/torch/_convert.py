"""Replacing the batch norms of a model."""

import torch

from batchnorm.torch._modules import FUSED, BatchNorm1d, BatchNorm2d, BatchNorm3d

_REPLACED = {
    torch.nn.BatchNorm1d: BatchNorm1d,
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm3d: BatchNorm3d,
    # Ours stay what they are, unless an activation follows.
    BatchNorm1d: BatchNorm1d,
    BatchNorm2d: BatchNorm2d,
    BatchNorm3d: BatchNorm3d,
}


def convert(model, fuse=None, *, fuse_relu=None):
    """Replaces every `torch.nn.BatchNorm1d`, `2d` and `3d` in `model`, which is changed in place, and returns it.

    Parameters and buffers stay the same tensors, so that an optimizer and a state_dict still fit. With `fuse`, the default, of which
    `fuse_relu` is another name, a batch norm with a `torch.nn.ReLU`, `ReLU6`, `SiLU` or `Hardswish` right behind it in a
    `torch.nn.Sequential` becomes a `BatchNormReLU`, and so on, and the activation a `torch.nn.Identity`: not for a model that
    takes single modules out of a `Sequential`, nor for code that looks for `torch.nn`'s batch norms, which the fused ones are
    none of. Subclasses of torch's, and modules whose `forward` was replaced, are left alone; a subclass of
    `Sequential` counts as one where it calls its modules as that does. Nothing with hooks is fused. Modules that were compiled by
    their `compile` are not compiled any more. A module that is used twice is replaced by one.
    """
    if fuse is not None and fuse_relu is not None:
        raise ValueError(f"expected fuse or fuse_relu, which are one, got fuse={fuse} and fuse_relu={fuse_relu}")
    fuse = all(each is not False for each in (fuse, fuse_relu))
    if _is_replaced(model):
        return _replaced(model, _REPLACED[type(model)])
    found = [(module, name, child, behind) for module in model.modules() for name, child, behind in _children(module)]
    classes = {}
    for module, _, child, behind in found:
        classes.setdefault(id(child), set()).add(_fused(module, child, behind) if fuse else None)
    new = {}
    for module, name, child, behind in found:
        # A batch norm that is used elsewhere too, without the activation or with another, is not fused.
        fused = next(iter(classes[id(child)])) if len(classes[id(child)]) == 1 else None
        if id(child) not in new:
            new[id(child)] = _replaced(child, fused or _REPLACED[type(child)])
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


def _fused(module, norm, behind):
    """The class of a batch norm and what is right behind it in one; `None` where they are not to be fused."""
    activation = module._modules.get(behind)
    if activation is None or not _calls_in_order(module) or "forward" in activation.__dict__ or _has_hooks(norm, activation):
        return None
    # A ReLU6 takes its bounds from attributes.
    if type(activation) is torch.nn.ReLU6 and (activation.min_val, activation.max_val) != (0.0, 6.0):
        return None
    return FUSED.get(type(activation))


def _calls_in_order(module):
    """Whether a module is a `Sequential`, or of a class that changes nothing of how that calls its modules."""
    cls, of = type(module), torch.nn.Sequential
    # Those of torch.ao are looked for by their class, with what they had inside.
    if not isinstance(module, of) or cls.__module__.startswith("torch.ao.") or "forward" in module.__dict__:
        return False
    return (cls.forward, cls.__iter__, cls.__call__) == (of.forward, of.__iter__, of.__call__)


def _replaced(old, cls):
    new = cls.__new__(cls)
    # All that there is: settings, parameters, buffers, hooks, whether it trains.
    new.__dict__.update(old.__dict__)
    # A module that was compiled calls what it was compiled of: the old one.
    new.__dict__.pop("_compiled_call_impl", None)
    if cls in FUSED.values():
        new._unfused = _REPLACED[type(old)]
    return new


def _has_hooks(*modules):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for module in modules for name in names)
