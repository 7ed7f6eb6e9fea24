"""Replacing the batch norms of a model, and what is between them and their activations; and the way back."""

import collections
import logging

import torch

from batchnorm.torch._modules import AS_LEAF, REPLACED, _Fused
from batchnorm.torch._parents import fuse as fuse_in
from batchnorm.torch._parents import fused_in, has_its_activation, unfuse

_LOG = logging.getLogger("batchnorm.torch")
_ORIGINAL = {ours: theirs for theirs, ours in REPLACED.items()}
_LAZY = {
    torch.nn.LazyBatchNorm1d: REPLACED[torch.nn.BatchNorm1d],
    torch.nn.LazyBatchNorm2d: REPLACED[torch.nn.BatchNorm2d],
    torch.nn.LazyBatchNorm3d: REPLACED[torch.nn.BatchNorm3d],
}
_NORMS = (torch.nn.modules.batchnorm._NormBase,)


def convert(model, fuse=None, *, fuse_relu=None):
    """Replaces every `torch.nn.BatchNorm1d`, `2d` and `3d` in `model`, which is changed in place, and returns it.

    The modules stay the same objects, with the same parameters, buffers and hooks, and change their classes alone: to subclasses of
    those that they were of. So an optimizer and a state_dict still fit, and what looks for `torch.nn.BatchNorm2d` finds them. With
    `fuse`, the default, of which `fuse_relu` is another name, a batch norm is called as one operation with what comes behind it:

    - in a `torch.nn.Sequential`, or a subclass that calls its modules as that does, a `ReLU`, `ReLU6`, `SiLU` or `Hardswish`;
    - in any other class whose methods call both, as `relu(bn(x))` or one after the other, such an activation, or `+ residual` and a
      relu: the residual blocks of torchvision and timm, and others written so;
    - the activation that timm's `BatchNormAct2d` has inside.

    Whether that is so is looked at in each call. A batch norm or an activation that was replaced or folded since, that is taken out, or
    that has hooks is called on its own, as it would have been.

    Left alone are `SyncBatchNorm`, instance norms, subclasses of torch's batch norms, and modules whose `forward` was replaced. Lazy
    ones are replaced when they know their size. `report(model)` says what was fused and what was left, and so does a logger,
    "batchnorm.torch", at the level INFO; `revert(model)` is the way back.
    """
    if fuse is not None and fuse_relu is not None:
        raise ValueError(f"expected fuse or fuse_relu, which are one, got fuse={fuse} and fuse_relu={fuse_relu}")
    modules = list(_model(model).modules())
    fuses = all(each is not False for each in (fuse, fuse_relu))
    for module in modules:
        if "forward" in module.__dict__:
            continue
        if type(module) in REPLACED:
            module.__class__ = REPLACED[type(module)]
            module.__dict__.update(AS_LEAF)
        elif type(module) in _LAZY:
            module.__dict__.update(AS_LEAF, cls_to_become=_LAZY[type(module)])
    owners = collections.Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    shared = frozenset(of for of, count in owners.items() if count > 1)
    for module in modules:
        if fuses or has_its_activation(module):
            fuse_in(module, shared)
            if has_its_activation(module):
                module.__dict__.update(AS_LEAF)
        else:
            unfuse(module)
    _LOG.info("%s", report(model))
    return model


def revert(model):
    """Makes a model of torch.nn's batch norms again, in place, of one that `convert` has changed, and returns it.

    Parameters, buffers and hooks stay, and so do modules that are this package's from the beginning but have no counterpart,
    as `BatchNormReLU`: `report(model)` names them. The options `skip_non_finite` and `skip_recomputed` are gone.
    """
    for module in _model(model).modules():
        unfuse(module)
        was_lazy = module.__dict__.get("cls_to_become") in _ORIGINAL
        if type(module) in _ORIGINAL or was_lazy or has_its_activation(module):
            module.__class__ = _ORIGINAL.get(type(module), type(module))
            for name in (*AS_LEAF, "cls_to_become", "skip_non_finite", "skip_recomputed"):
                module.__dict__.pop(name, None)
    return model


class Report:
    """What is fused in a model.

    `norms` are the names of all its batch norms, `activations` of those fused with an activation behind them, `residuals` of those
    fused with a residual and a relu; `alone` have neither, and `left` are not this package's, each with its class.
    """

    def __init__(self, model):
        self.norms, self.activations, self.residuals, self.alone, self.left = [], [], [], [], {}
        fused = {}
        names = {id(module): name for name, module in model.named_modules()}
        for parent, module in model.named_modules():
            for name, has_residual in fused_in(module):
                norm = module.get_submodule(name)
                fused[names.get(id(norm), f"{parent}.{name}")] = has_residual
        for name, module in model.named_modules():
            if not isinstance(module, _NORMS) or isinstance(module, torch.nn.modules.instancenorm._InstanceNorm):
                continue
            self.norms.append(name)
            if name in fused:
                (self.residuals if fused[name] else self.activations).append(name)
            elif isinstance(module, _Fused):
                (self.residuals if module._epilogue == "identity" else self.activations).append(name)
            elif type(module) in _ORIGINAL or type(module) in _LAZY or has_its_activation(module) and not is_original(module):
                self.alone.append(name)
            else:
                self.left[name] = type(module).__name__

    def __str__(self):
        parts = [f"{len(self.alone)} with nothing behind them that is fused ({_some(self.alone)})"] if self.alone else []
        for cls, count in collections.Counter(self.left.values()).items():
            parts.append(f"{count} {cls}, not replaced ({_some([name for name, of in self.left.items() if of == cls])})")
        left = ", ".join(parts) or "none"
        return f"fused {len(self.activations)} + {len(self.residuals)} of {len(self.norms)}; left: {left}"

    __repr__ = __str__


def is_original(module):
    """Whether timm's module is as timm made it."""
    return type(module).__name__ == "BatchNormAct2d" and not hasattr(type(module), "_fused_of")


def _some(names):
    names = [name or "itself" for name in names]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


def report(model):
    """What is fused in a model now, as `str` says it: "fused 33 + 16 of 53; left: ..." with an activation, and with a residual and a
    relu, of all batch norms."""
    return Report(_model(model))


def _model(model):
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    return model


