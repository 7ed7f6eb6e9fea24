"""The gradients of the operations, and the ways into them.

A call takes the shortest way that its tensors and the modes of its thread allow: into the native half with Python's tensors themselves,
past PyTorch's dispatcher; else through the dispatcher, where compilers, profilers and subclasses of tensors see it. Both end in the same
kernels. What is short here is on every layer's way in every step: python/benches/host_cost.py counts it.
"""

import functools

import torch
from torch.autograd import forward_ad

from batchnorm import _native
from batchnorm._native import Refused
from batchnorm.torch import _ops
from batchnorm.torch._derivatives import STEPS
from batchnorm.torch._derivatives import gradients as composed_gradients
from batchnorm.torch._kernels import is_channels_last, is_in_a_backward_pass
from batchnorm.torch._kinds import ACTIVATION_OF, RECOMPUTES_V

_below_autograd = torch._C._AutoDispatchBelowAutograd
_increment_version = torch._C._increment_version
_is_grad_enabled = torch.is_grad_enabled
_are_transforms_active = torch._C._are_functorch_transforms_active
_count_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_profiled = torch.autograd._profiler_enabled
_is_batch = torch._C._functorch.is_legacy_batchedtensor


def _by_dispatcher(name):
    """An operation through the dispatcher, whose autograd is that of the classes below."""
    operation = getattr(torch.ops.batchnorm, name).default
    operation = getattr(operation, "_op", operation)  # Its __call__ does nothing else.

    def call(*args, **options):
        with _below_autograd():
            return operation(*args, **options)

    return call


TRAIN, INFER, BACKWARD = _by_dispatcher("train"), _by_dispatcher("infer"), _by_dispatcher("backward")


def is_composed():
    """Whether derivatives are taken that only PyTorch's own operations have: those of torch.func, and forward ones."""
    return _are_transforms_active() or forward_ad._current_level >= 0


def refusal(error):
    """The exception that the native half meant by one of PyTorch's."""
    refused = _native.take_refusal(str(error))
    if refused is None:
        return error
    of_memory, exception = refused
    return torch.OutOfMemoryError(of_memory) if of_memory is not None else exception


class _Saved(tuple):
    """The statistics that a training forward saved, where the native half has no class for it: mean, inv_std, and the epilogue."""

    def statistics(self):
        return self[:2]

    def backward(self, dy, x, weight, bias, mask, mask_is_channels_last, needs):
        mean, inv_std, epilogue = self
        return _refusing(BACKWARD)(dy, x, weight, bias, mean, inv_std, mask, mask_is_channels_last, None, epilogue, *needs[:4])


def _train(*args, skip_recomputed=False, mask_is_channels_last=None):
    y, mean, inv_std, mask = TRAIN(*args, skip_recomputed, mask_is_channels_last)
    return y, mask, _Saved((mean, inv_std, args[9]))


def _refusing(kernel):
    """A kernel that says by an exception of its own that it has refused, before anything has changed. Others' exceptions stay: theirs
    may come when it has run."""

    def call(*args):
        try:
            return kernel(*args)
        except RuntimeError as error:
            if _native.take_refusal(str(error)) is None:
                raise
            raise Refused from error

    return call


# The kernels by the dispatcher's way, and by the shortest.
by_dispatcher = _refusing(_train), _refusing(INFER)
train_short, infer_short = (_native.train_tensors, _native.infer_tensors) if _ops.TAKES_TENSORS else by_dispatcher


class _Train(torch.autograd.Function):
    """The training forward: y; and the other results into a list, if there is one."""

    @staticmethod
    def forward(ctx, x, z, weight, bias, call):
        kernel, running_mean, running_var, counter, momentum, eps, epilogue, skip_non_finite, others = call
        y, mask, saved = kernel(
            x, z, weight, bias, running_mean, running_var, counter, momentum, eps, epilogue, True, skip_non_finite
        )
        if running_mean is not None or counter is not None:
            moved(running_mean, running_var, counter)
        # The batch's statistics are small, and nobody else's: past what saving costs. The bias finds the activation's argument
        # again, where that is needed. A mask's bits are in the order of y.
        ctx.call = saved, mask is not None and is_channels_last(y), eps, epilogue
        ctx.to_save = x, weight, bias if epilogue in RECOMPUTES_V else None, mask  # save_for_backward does this alone.
        if others is not None:
            others += *saved.statistics(), mask
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, mask = ctx.saved_tensors
        saved, mask_is_channels_last, eps, epilogue = ctx.call
        needs = ctx.needs_input_grad
        if not (
            _is_grad_enabled() or _count_dispatch_modes() or _is_profiled() or _are_transforms_active()
            or forward_ad._current_level >= 0
        ):
            try:
                dx, dz, dweight, dbias = saved.backward(dy, x, weight, bias, mask, mask_is_channels_last, needs)
                return dx, dy if dz is None and needs[1] else dz, dweight, dbias, None
            except Refused:
                pass  # Nothing has changed.
        statistics = saved.statistics()
        return _gradients(dy, x, weight, bias, *statistics, mask, mask_is_channels_last, eps, epilogue, True, needs)


class _Infer(torch.autograd.Function):
    """The inference forward: y; and its mask into a list, if there is one."""

    @staticmethod
    def forward(ctx, x, z, weight, bias, call):
        kernel, running_mean, running_var, eps, epilogue, others = call
        y, mask = kernel(x, z, weight, bias, running_mean, running_var, eps, epilogue, True)
        ctx.call = mask is not None and is_channels_last(y), eps, epilogue
        ctx.save_for_backward(x, weight, bias if epilogue in RECOMPUTES_V else None, running_mean, running_var, mask)
        if others is not None:
            others.append(mask)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, mean, var, mask = ctx.saved_tensors
        return _gradients(dy, x, weight, bias, mean, var, mask, *ctx.call, False, ctx.needs_input_grad)


def _gradients(dy, x, weight, bias, mean, second, mask, mask_is_channels_last, eps, epilogue, is_batch, needs):
    """The gradients of x, z, weight and bias, those that are needed, and none of the call: by the dispatcher."""
    needs = needs[:4]
    # Autograd's own batches of gradients are no transform of torch.func, and would lose a graph.
    if is_composed() or (_is_grad_enabled() and _is_batch(dy)):
        statistics = None if is_batch else (mean, second)
        gradients = composed_gradients(dy, x, weight, bias, statistics, mask, mask_is_channels_last, eps, epilogue)
        return *(gradient if is_needed else None for gradient, is_needed in zip(gradients, needs)), None
    arguments = dy, x, weight, bias, mean, second, mask, mask_is_channels_last, None if is_batch else eps, epilogue, *needs
    if _is_grad_enabled():
        return *_Backward.apply(eps, *arguments), None
    try:
        dx, dz, dweight, dbias = BACKWARD(*arguments)
    except RuntimeError as error:
        raise refusal(error) from None
    return dx, dy if needs[1] and dz is None else dz, dweight, dbias, None


class _Backward(torch.autograd.Function):
    """The gradients of a pass, which can be differentiated themselves: as PyTorch's operations compose them, to any order."""

    @staticmethod
    def forward(ctx, eps, *arguments):
        *tensors, mask_is_channels_last, running_eps, epilogue, _, needs_dz, _, _ = arguments
        ctx.settings = running_eps is None, mask_is_channels_last, eps, epilogue
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        try:
            dx, dz, dweight, dbias = BACKWARD(*arguments)
        except RuntimeError as error:
            raise refusal(error) from None
        dy = tensors[0]
        # An input is not returned itself.
        return dx, dy.view_as(dy) if needs_dz and dz is None else dz, dweight, dbias

    @staticmethod
    def backward(ctx, *by):
        dy, x, weight, bias, mean, second, mask = ctx.saved_tensors
        is_batch, *settings = ctx.settings
        needs = ctx.needs_input_grad[1:5]  # Of dy, x, weight and bias.
        is_differentiated_again = _is_grad_enabled()
        with torch.enable_grad():
            # Each input on its own: dy depends on x too, on a way that is not this one's.
            inputs = [
                None if tensor is None
                else tensor.view_as(tensor) if is_differentiated_again
                else tensor.detach().requires_grad_(is_needed)
                for tensor, is_needed in zip((dy, x, weight, bias), needs)
            ]
            gradients = composed_gradients(*inputs, None if is_batch else (mean, second), mask, *settings)
        needed = [tensor for tensor, is_needed in zip(inputs, needs) if is_needed]
        outputs = [(of, weight) for of, weight in zip(gradients, by) if weight is not None and of.requires_grad]
        found = [None] * len(needed)
        if outputs and needed:
            of, weights = zip(*outputs)
            found = torch.autograd.grad(of, needed, weights, create_graph=is_differentiated_again, allow_unused=True)
        if ACTIVATION_OF[settings[-1]] in STEPS:
            # PyTorch's own have zeros for what such an activation's result depends on, though its derivative is constant.
            found = [torch.zeros_like(tensor) if of is None else of for of, tensor in zip(found, needed)]
        found = iter(found)
        return None, *(next(found) if is_needed else None for is_needed in needs), *(None,) * 10


# Without `Function.apply`'s look for transforms, which callers have had.
train_differentiably = super(torch.autograd.Function, _Train).apply
# Likewise without the look for a vjp under another name.
if hasattr(_Train, "_backward_cls"):
    _Train._backward_cls.apply = _Train.backward
infer_differentiably = super(torch.autograd.Function, _Infer).apply


def moved(running_mean, running_var, counter):
    """Says that statistics were written, so that a graph that kept those of before says so too."""
    try:
        if running_mean is not None and counter is not None:
            return _increment_version((running_mean, running_var, counter))
        tensors = [tensor for tensor in (running_mean, running_var, counter) if tensor is not None]
        _increment_version(tensors)
    except RuntimeError:  # Inference tensors have no version.
        tensors = [tensor for tensor in (running_mean, running_var, counter) if tensor is not None]
        _increment_version([tensor for tensor in tensors if not tensor.is_inference()])


def is_any_of_inference_mode(x, weight, bias):
    """Whether autograd cannot keep one of what it is to keep; of a residual it keeps nothing."""
    return (
        x.is_inference()
        or (weight is not None and weight.is_inference())
        or (bias is not None and bias.is_inference())
    )


def expect_differentiable(x, weight, bias, running_mean, running_var):
    """Refuses early, since autograd would refuse only when statistics have been moved."""
    if is_any_of_inference_mode(x, weight, bias):
        raise RuntimeError(
            "Inference tensors cannot be saved for backward: expected tensors that were made outside of inference mode, or clones "
            "of such as were made in it"
        )
    if running_mean is not None and (running_mean.requires_grad or running_var.requires_grad):
        name = "running_mean" if running_mean.requires_grad else "running_var"
        raise RuntimeError(f"batch_norm is not differentiable with respect to argument '{name}'")


def _order(x, mask_is_channels_last):
    """The order of a mask's bits that a graph is to keep, where one is traced: x may have another when it runs."""
    if mask_is_channels_last is None and _count_dispatch_modes():
        return is_channels_last(x)
    return mask_is_channels_last


def _train_operation(
    x, z, weight, bias, running_mean, running_var, counter, momentum, eps, epilogue, keep_mask, skip_non_finite, skip_recomputed,
    mask_is_channels_last=None,
):
    """The operation with its gradients, for who calls it through the dispatcher: all results."""
    order = _order(x, mask_is_channels_last)
    # Nothing is written then, nor said to be; what traces the operation may run it at other times, where the kernel asks.
    if skip_recomputed and not _count_dispatch_modes() and is_in_a_backward_pass():
        running_mean = running_var = counter = None
    rest = running_mean, running_var, counter, momentum, eps, epilogue
    if not _is_grad_enabled():
        results = TRAIN(x, z, weight, bias, *rest, keep_mask, skip_non_finite, skip_recomputed, order)
        moved(running_mean, running_var, counter)
        return results
    others = []
    kernel = functools.partial(_train, skip_recomputed=skip_recomputed, mask_is_channels_last=order)
    return _Train.apply(x, z, weight, bias, (kernel, *rest, skip_non_finite, others)), *others


def _infer_operation(
    x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask, mask_is_channels_last=None
):
    order = _order(x, mask_is_channels_last)
    if not _is_grad_enabled():
        return INFER(x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask, order)
    others = []
    kernel = functools.partial(INFER, mask_is_channels_last=order)
    return _Infer.apply(x, z, weight, bias, (kernel, running_mean, running_var, eps, epilogue, others)), *others


_ops.LIBRARY.impl("train", _train_operation, "Autograd")
_ops.LIBRARY.impl("infer", _infer_operation, "Autograd")
