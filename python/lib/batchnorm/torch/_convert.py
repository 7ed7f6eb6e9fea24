"""Replacing the batch norms of a model, and what is between them and their activations; and the way back."""

import collections
import logging

from batchnorm.torch._modules import AS_LEAF, LAZY, REPLACED, _BatchNorm
from batchnorm.torch._parents import fuse as fuse_in
from batchnorm.torch._parents import has_its_activation, unfuse
from batchnorm.torch._report import expect_model, report

_LOG = logging.getLogger("batchnorm.torch")
_ORIGINAL = {ours: theirs for theirs, ours in REPLACED.items()}


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
    "batchnorm.torch", at the level INFO, or WARNING where something was not replaced; `revert(model)` is the way back.
    """
    if fuse is not None and fuse_relu is not None:
        raise ValueError(f"expected fuse or fuse_relu, which are one, got fuse={fuse} and fuse_relu={fuse_relu}")
    modules = list(expect_model(model).modules())
    fuses = all(each is not False for each in (fuse, fuse_relu))
    for module in modules:
        if "forward" in module.__dict__:
            continue
        if type(module) in REPLACED:
            module.__class__ = REPLACED[type(module)]
            module.__dict__.update(AS_LEAF)
        elif type(module) in LAZY:
            module.__dict__.update(AS_LEAF, cls_to_become=LAZY[type(module)])
    owners = collections.Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    shared = frozenset(of for of, count in owners.items() if count > 1)
    for module in modules:
        if fuses:
            fuse_in(module, shared)
        else:
            unfuse(module)
    said = report(model)
    _LOG.log(logging.WARNING if said.left else logging.INFO, "convert: %s", said)
    return model


def revert(model):
    """Makes a model of torch.nn's batch norms again, in place, of one that `convert` has changed, and returns it.

    Parameters, buffers and hooks stay, and so do modules that have no counterpart, as `BatchNormReLU` and those of subclasses, which
    parametrizations make: a logger, "batchnorm.torch", names them at the level WARNING. The options `skip_non_finite` and `skip_recomputed` are gone.
    """
    for module in expect_model(model).modules():
        unfuse(module)
        was_lazy = module.__dict__.get("cls_to_become") in _ORIGINAL
        if type(module) in _ORIGINAL or was_lazy or has_its_activation(module):
            module.__class__ = _ORIGINAL.get(type(module), type(module))
            for name in (*AS_LEAF, "cls_to_become", "skip_non_finite", "skip_recomputed"):
                module.__dict__.pop(name, None)
    left = [f"{name or 'itself'} ({type(of).__name__})" for name, of in model.named_modules() if isinstance(of, _BatchNorm)]
    if left:
        _LOG.warning("revert: left what torch.nn has no module for: %s", ", ".join(left))
    return model
