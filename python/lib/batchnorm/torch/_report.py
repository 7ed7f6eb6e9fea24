"""A count of what is fused in a model."""

import collections

import torch
from torch.nn.modules.instancenorm import _InstanceNorm

from batchnorm.torch._modules import LAZY, REPLACED, _BatchNorm, _Fused
from batchnorm.torch._parents import fused_in


class Report:
    """The batch norms of a model, by what is fused with them.

    `norms` are the names of all its batch norms, `activations` of those fused with an activation behind them, `residuals` of those
    fused with a residual and a relu; `alone` have neither, and `left` are not this package's, each with the name of its class.
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
            if not isinstance(module, torch.nn.modules.batchnorm._NormBase) or isinstance(module, _InstanceNorm):
                continue
            self.norms.append(name)
            if name in fused:
                (self.residuals if fused[name] else self.activations).append(name)
            elif isinstance(module, _Fused):
                (self.residuals if module._epilogue == "identity" else self.activations).append(name)
            elif isinstance(module, _BatchNorm) or (type(module) in LAZY and module.cls_to_become in REPLACED.values()):
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


def _some(names):
    names = [name or "itself" for name in names]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


def report(model):
    """A `Report` of what is fused in a model now. `str` of it says "fused 33 + 16 of 53; left: ...": with an activation, and with a
    residual and a relu, of all batch norms."""
    return Report(expect_model(model))


def expect_model(model):
    """The model, if it is one."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    return model
