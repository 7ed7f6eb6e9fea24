"""Modules and functions that are called one after another, with those that the kernels have in one operation called as one.

Whether a batch norm and what comes behind it are fused is decided at each call, by what the modules are at that time: one that was
replaced, folded, taken out, compiled or given a hook since is called as it is, and so is what is behind it.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.modules import module as _module

from batchnorm.torch._modules import is_batch_norm, name_of

_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_tracing_state = torch._C._get_tracing_state

# Methods of tensors, where these are called and no functions.
method_relu, method_relu_ = torch.Tensor.relu, torch.Tensor.relu_

_forward_in_order = torch.nn.Sequential.forward

# Layers that give new tensors, which nothing else has.
LAYERS = (
    torch.nn.Linear,
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d,
)

# Activations that are functions, with the names that kernels have for them.
ACTIVATION_OF_FUNCTION = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    method_relu: "relu",
    method_relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hardswish",
}


def is_bare(module):
    """Whether a call of a module is a call of its class's forward, and nothing else."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )


def activation(step):
    """The kernels' name of an activation, or `None`."""
    if isinstance(step, torch.nn.Module):
        return name_of(step) if is_bare(step) else None
    function = step.func if type(step) is partial else step
    return ACTIVATION_OF_FUNCTION.get(function)


def is_in_order(module):
    """Whether a module is a `Sequential`, or of a class that changes nothing of how that calls its modules."""
    cls, of = type(module), torch.nn.Sequential
    if not isinstance(module, of) or "forward" in module.__dict__:
        return False
    forward = cls._fused_of.forward if cls.forward is call_in_order else cls.forward
    # torch.ao's classes are looked for by name, with what they had inside.
    is_known = not cls.__module__.startswith("torch.ao.") and forward is _forward_in_order
    return is_known and (cls.__iter__, cls.__call__) == (of.__iter__, of.__call__)


def call_in_order(self, input):
    """The forward of a `Sequential`, unless its class has got another one."""
    if self._fused_of.forward is not _forward_in_order:
        return self._fused_of.forward(self, input)
    return run(input, *self._modules.values())


def _is_seen(x):
    """Whether somebody is to see each module called: who traces, and who has hooks for all modules."""
    if (
        not isinstance(x, torch.Tensor)
        or _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
    ):
        return True
    return not _is_dynamo_compiling() and _tracing_state() is not None


def run(x, *steps):
    """Calls modules and functions one after another."""
    if _is_seen(x):
        for step in steps:
            x = step(x)
        return x
    i = 0
    while i < len(steps):
        step = steps[i]
        i += 1
        if is_batch_norm(step) and is_bare(step):
            behind = i
            while behind < len(steps) and type(steps[behind]) is torch.nn.Identity and is_bare(steps[behind]):
                behind += 1
            name = activation(steps[behind]) if behind < len(steps) else None
            if name is not None:
                x = step._normalize(x, None, name)
                i = behind + 1
                continue
        x = step(x)
    return x


def normalize_and_activate(self, input):
    """The forward of a batch norm that has its activation inside."""
    name = None if _is_seen(input) or type(self.drop) is not torch.nn.Identity else activation(self.act)
    if name is not None and is_bare(self.drop):
        return self._normalize(input, None, name)
    return self.act(self.drop(self._normalize(input, None, "identity")))


class Pending:
    """A batch norm that waits for what comes behind it, and perhaps a residual that waits with it."""

    def __init__(self, norm, x, residual=None):
        self.norm, self.x, self.residual = norm, x, residual


def ready(x, *steps):
    """`run`, but that a batch norm at the end waits, where nothing else is called before it is done."""
    return _waiting(x, steps, is_delayed=False)


def pending(x, *steps):
    """`run`, but that a batch norm at the end waits while other modules are called, if it is for a new tensor."""
    return _waiting(x, steps, is_delayed=True)


def _waiting(x, steps, is_delayed):
    *before, last = steps
    if _is_seen(x):
        return run(x, *steps)
    while is_in_order(last) and is_bare(last) and len(last):
        *inside, last = last._modules.values()
        before += inside
    x = run(x, *before)
    is_new = not is_delayed or (before and type(before[-1]) in LAYERS and is_bare(before[-1]))
    return Pending(last, x) if is_new and is_batch_norm(last) and is_bare(last) else last(x)


def plus(a, b):
    """`a + b`, of which one may wait, and then the sum does."""
    if type(a) is Pending and type(b) is not Pending and isinstance(b, torch.Tensor):
        return Pending(a.norm, a.x, b)
    if type(b) is Pending and type(a) is not Pending and isinstance(a, torch.Tensor):
        return Pending(b.norm, b.x, a)
    return done(a) + done(b)


def plus_in_place(a, b):
    """`a += b`: the sum is like a."""
    if type(a) is Pending and isinstance(b, torch.Tensor) and b.dtype == a.x.dtype and b.shape == a.x.shape:
        return Pending(a.norm, a.x, b)
    a = done(a)
    a += b
    return a


def activated(v, step):
    """An activation of what may wait."""
    if type(v) is not Pending:
        return step(v)
    if v.residual is None:
        return run(v.x, v.norm, step)
    if activation(step) == "relu":
        return v.norm._normalize(v.x, v.residual, "add_relu")
    return step(done(v))


def done(v):
    """The value of a batch norm that waits, or any other as it is."""
    if type(v) is not Pending:
        return v
    y = v.norm(v.x)
    return y if v.residual is None else y + v.residual
