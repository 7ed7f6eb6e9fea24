"""Modules that call batch norms of this package with what comes behind them.

Such a module is one of a subclass of the class that it was of, whose methods alone differ: all else of it stays.
"""

import functools
import inspect
import sys

import torch

from batchnorm.torch._chain import LAYERS, activation, call_in_order, is_bare, is_in_order, normalize_and_activate
from batchnorm.torch._modules import AS_LEAF, LAZY, _BatchNorm, is_batch_norm
from batchnorm.torch._rewrite import rewritten
from batchnorm.torch._source import asks_for_its_class
from batchnorm.torch._steps import ACTIVATIONS

# The kinds of a `Sequential`, and of a batch norm that has its activation inside, whose forwards are known.
_IN_ORDER, _WITH_ACTIVATION = "in order", "with activation"
_KNOWN = {_IN_ORDER: call_in_order, _WITH_ACTIVATION: normalize_and_activate}
# Methods that may ask for their object's class: the one has run, of the others that class is replaced.
_OF_NO_CLASS = ("__init__", "__reduce__", "__reduce_ex__")


class _Fusing:
    """A class that fuses, made of `_fused_of` for `_fused_as`."""

    def __init_subclass__(cls, **kwargs):
        """Not that of `_fused_of`, which may keep a list of its subclasses."""

    def __reduce_ex__(self, protocol):
        make, arguments, *state = super().__reduce_ex__(protocol)
        key = type(self).__dict__.get("_fused_of"), type(self).__dict__.get("_fused_as")
        if make is type(self):  # As a `__reduce__` of `_fused_of` says it.
            make, arguments = _called, (*key, arguments)
        elif arguments and arguments[0] is type(self):
            of_keywords = arguments[1:] if make.__name__ == "__newobj_ex__" else (arguments[1:], {})
            make, arguments = _made, (*key, *of_keywords)
        return make, arguments, *state


def _made(cls, kinds, arguments=(), keywords={}):
    """An empty module, for who restores one."""
    fusing = _class(cls, kinds)
    return fusing.__new__(fusing, *arguments, **keywords)


def _called(cls, kinds, arguments):
    return _class(cls, kinds)(*arguments)


@functools.lru_cache(None)
def _methods(cls, kinds):
    """The methods of a class that fuse, by their names, and what they fuse: `(name, has_residual)`, in the order of the methods."""
    if kinds in _KNOWN:
        return {"forward": _KNOWN[kinds]}, ()
    methods, fused, known = {}, [], dict(kinds)
    for name in dir(cls):
        function = inspect.getattr_static(cls, name, None)
        owner = next((each for each in cls.__mro__ if name in each.__dict__), None)
        if not inspect.isfunction(function) or owner is None or owner.__module__.split(".")[0] == "torch":
            continue
        if name in _OF_NO_CLASS:
            continue
        if asks_for_its_class(function):
            return {}, ()
        found = rewritten(function, name, known)
        if found is not None:
            methods[name] = found[0]
            fused += found[1]
    return methods, tuple(fused)


@functools.lru_cache(None)
def _class(cls, kinds):
    """The subclass that fuses; or the class itself, where nothing in it is to be fused."""
    methods, _ = _methods(cls, kinds)
    if not methods:
        return cls
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    bases = (_Fusing, _BatchNorm, cls) if kinds == _WITH_ACTIVATION else (_Fusing, cls)
    made = {**names, **methods, "_fused_of": cls, "_fused_as": kinds}
    # A metaclass of its own may keep a list of its classes too.
    return type.__new__(type(cls), cls.__name__, bases, made)


def is_to_be_normalized(module):
    """Whether a module is a batch norm that fuses, or will be one when it knows its size."""
    return is_batch_norm(module) or type(module) in LAZY


def _is_fusable(module):
    return type(module) in LAZY or (module is not None and is_batch_norm(module) and is_bare(module))


def _is_identity(module):
    return type(module) is torch.nn.Identity and is_bare(module)


def _kind(module, shared):
    """The kind of a module: what it is to those before and behind it."""
    if module is None:
        return "none"
    if is_to_be_normalized(module):
        return "shared" if id(module) in shared else "norm"
    name = activation(module)
    if name is not None:
        return ACTIVATIONS[name != "relu"]
    if _is_identity(module):
        return "identity"
    if type(module) in LAYERS:
        return "layer"
    end = tail(module)
    if end is None:
        return "module"
    _, norm, before = end
    return "tail" if type(before) in LAYERS and id(norm) not in shared else "end"


def tail(module):
    """The path of the batch norm at the end of a `Sequential`, that, and the module right before it; or `None`."""
    path, before = [], None
    while is_in_order(module) and is_bare(module) and len(module):
        *inside, (name, module) = module._modules.items()
        before = inside[-1][1] if inside else before
        path.append(name)
    return (".".join(path), module, before) if path and module is not None and is_to_be_normalized(module) else None


def has_its_activation(module):
    """Whether a module is timm's batch norm with an activation inside."""
    timm = sys.modules.get("timm.layers.norm_act")
    cls = type(module)._fused_of if isinstance(module, _Fusing) else type(module)
    return timm is not None and cls is getattr(timm, "BatchNormAct2d", None) and {"drop", "act"} <= module._modules.keys()


def _kinds(module, shared=frozenset()):
    """The kinds of a module's modules by their names, where some are batch norms or end with one."""
    if is_in_order(module):
        return _IN_ORDER
    if has_its_activation(module):
        return _WITH_ACTIVATION
    kinds = {name: _kind(child, shared) for name, child in module._modules.items()}
    if not {"norm", "shared", "tail", "end"} & set(kinds.values()):
        return None
    kinds.update((name, "none") for name, value in module.__dict__.items() if value is None)
    return tuple(sorted(kinds.items()))


def fuse(module, shared):
    """Lets a module fuse, if it has something to. `shared` are the `id`s of batch norms that several modules have."""
    unfuse(module)
    cls = type(module)
    # Classes of torch.ao and of graphs are known by name, and make their forward themselves.
    is_known = cls.__module__.split(".")[0] != "torch" or cls is torch.nn.Sequential
    if "forward" in module.__dict__ or not is_known or isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
        return
    kinds = _kinds(module, shared)
    if kinds is None or (kinds == _IN_ORDER and not any(map(is_to_be_normalized, module._modules.values()))):
        return
    try:
        object.__setattr__(module, "__class__", _class(cls, kinds))
    except Exception:  # A class that lets no other be made of it, or its objects be of no other.
        return
    if kinds == _WITH_ACTIVATION:
        module.__dict__.update(AS_LEAF)


def unfuse(module):
    """Gives a module the class that it had."""
    if isinstance(module, _Fusing) and "_fused_of" in type(module).__dict__:
        object.__setattr__(module, "__class__", type(module)._fused_of)


def fused_in(module):
    """The names of the batch norms that a module fuses now, each with whether a residual comes between it and its activation."""
    if not isinstance(module, _Fusing):
        return
    kinds = _kinds(module)
    if kinds == _IN_ORDER:
        children = list(module._modules.items())
        for i, (name, child) in enumerate(children):
            behind = [each for _, each in children[i + 1 :] if not _is_identity(each)]
            if _is_fusable(child) and behind and activation(behind[0]):
                yield name, False
    elif kinds == _WITH_ACTIVATION:
        if type(module.drop) is torch.nn.Identity and activation(module.act):
            yield "", False
    elif kinds is not None:
        then = _methods(type(module)._fused_of, type(module)._fused_as)[1]
        for name, has_residual in _methods(type(module)._fused_of, kinds)[1]:
            path, norm, _ = tail(module._modules[name]) or ("", module._modules[name], None)
            if _is_fusable(norm) and (name, has_residual) in then:
                yield f"{name}.{path}".rstrip("."), has_residual
