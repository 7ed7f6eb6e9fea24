"""The function that the modules call: it checks as PyTorch does, with its words.

The kernels check all that they compute with, before they write. So a call goes to them at once, and only what they refuse is looked at
here: for the exception that PyTorch would raise, or for what it would do, as it promotes dtypes.
"""

import functools

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from batchnorm._native import Refused
from batchnorm.torch._autograd import (
    expect_differentiable,
    infer_differentiably,
    infer_short,
    is_any_of_inference_mode,
    is_composed,
    moved,
    refusal,
    train_differentiably,
    train_short,
)
from batchnorm.torch._kernels import is_in_a_backward_pass
from batchnorm.torch._kinds import ACTIVATION_OF, ACTIVATIONS, ACTIVATIONS_OF_RESIDUALS, EPILOGUE, PARAM_DTYPE
from batchnorm.torch._ops import IS_NATIVE, TAKES_TENSORS

# PyTorch's own activations.
ACTIVATION = {
    "identity": lambda v: v,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}
assert ACTIVATION.keys() == set(ACTIVATIONS), "each activation that kernels have"

_are_transforms_active = torch._C._are_functorch_transforms_active
_count_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_compiling = torch.compiler.is_compiling
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_is_grad_enabled = torch.is_grad_enabled
_is_profiled = torch.autograd._profiler_enabled
_proxy_mode = functools.partial(torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey.PROXY)
_tracing_state = torch._C._get_tracing_state


def batch_norm(
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    num_batches_tracked=None,
    residual=None,
    relu=False,
    activation="identity",
    skip_non_finite=False,
    skip_recomputed=False,
):
    """Batch normalization, as `torch.nn.functional.batch_norm`, with a residual and an activation fused behind it.

    `y = activation((input - mean) / sqrt(var + eps) * weight + bias + residual)`. `activation` is identity, relu, relu6, silu or
    hardswish, as in `torch.nn.functional`, and behind a residual identity or relu; `relu=True` is `activation="relu"`. With
    `training` mean and biased variance are the batch's, and the running ones, where given, are moved by `momentum` with the
    unbiased variance, in the same operation: `momentum=None` is the plain average over `num_batches_tracked`, which is
    counted up where given. Without, the running ones normalize.

    A residual of another dtype or shape is promoted and broadcast as `+` does it: in one operation where the result is like the
    input, and else behind it. `skip_non_finite` leaves the running statistics of a channel as they are where the batch's are NaN or
    infinite; `skip_recomputed` leaves all of them, and the count, in a forward pass that a backward pass runs again, as checkpointing
    does.

    The result keeps `channels_last`. Gradients can be differentiated again. On CUDA all work is put on the current stream.
    """
    epilogue = _epilogue(activation, relu, residual is not None)
    return normalize(
        input, residual, weight, bias, running_mean, running_var, num_batches_tracked, training, momentum, eps, epilogue,
        skip_non_finite, skip_recomputed,
    )


def normalize(
    x, z, weight, bias, running_mean, running_var, counter, training, momentum, eps, epilogue, skip_non_finite, skip_recomputed
):
    """`batch_norm` with an epilogue by its name."""
    if skip_recomputed and training and not _is_compiling() and is_in_a_backward_pass():
        running_mean = running_var = counter = None
    # The shortest way, where nobody is to see the operations in the dispatcher. There the native kernels alone check the
    # arguments: those that they refuse have changed nothing.
    if IS_NATIVE and not (
        _is_dynamo_compiling() or _are_transforms_active() or _count_dispatch_modes() or forward_ad._current_level >= 0
        or _is_profiled() or _tracing_state() is not None
    ):
        try:
            is_needed = _is_grad_enabled() and (
                x.requires_grad
                or (weight is not None and weight.requires_grad)
                or (bias is not None and bias.requires_grad)
                or (z is not None and z.requires_grad)
            )
            is_plain = (
                running_mean is None or running_var is None or not (running_mean.requires_grad or running_var.requires_grad)
            ) and (TAKES_TENSORS or _dispatcher_takes(x, z, weight, bias, running_mean, running_var, is_needed))
        except AttributeError:  # No tensors.
            is_plain = False
        if is_plain:
            try:
                if training:
                    if is_needed:
                        call = train_short, running_mean, running_var, counter, momentum, eps, epilogue, skip_non_finite, None
                        return train_differentiably(x, z, weight, bias, call)
                    y, _, _ = train_short(
                        x, z, weight, bias, running_mean, running_var, counter, momentum, eps, epilogue, False, skip_non_finite
                    )
                    if running_mean is not None or counter is not None:
                        moved(running_mean, running_var, counter)
                    return y
                if is_needed:
                    return infer_differentiably(x, z, weight, bias, (infer_short, running_mean, running_var, eps, epilogue, None))
                return infer_short(x, z, weight, bias, running_mean, running_var, eps, epilogue, False)[0]
            except Refused:
                pass  # Nothing has changed.
            except (RuntimeError, TypeError):
                # PyTorch's dispatcher, which takes no such arguments: in the words of these checks. Or somebody behind the kernel.
                _check(x, running_mean, running_var, weight, bias, training, z, epilogue)
                _check_counter(x, counter)
                raise
    return _normalize_checked(
        x, z, weight, bias, running_mean, running_var, counter, training, momentum, eps, epilogue, skip_non_finite,
        skip_recomputed,
    )


def _dispatcher_takes(x, z, weight, bias, running_mean, running_var, is_needed):
    """Whether the dispatcher's way ends in the kernels, with all that they need: the shortest way finds that out itself, before anything
    has changed."""
    if is_needed and is_any_of_inference_mode(x, weight, bias):
        return False
    if (running_mean is not None and running_mean.is_neg()) or (running_var is not None and running_var.is_neg()):
        return False
    return not _is_distributed(x) and (z is None or z.layout is torch.strided)


def _normalize_checked(
    x, z, weight, bias, running_mean, running_var, counter, training, momentum, eps, epilogue, skip_non_finite, skip_recomputed
):
    """The same for what the kernels do not take at once, and for who is to see each operation."""
    _check(x, running_mean, running_var, weight, bias, training, z, epilogue)
    _check_counter(x, counter)
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    # A compiler follows torch.func's transforms, and no forward derivatives.
    composed = (_are_transforms_active() if _is_compiling() else is_composed()) or _is_distributed(x)
    # In evaluation a graph gets PyTorch's own operations, which each exporter knows, and compilers fuse with others.
    composed = composed or (not training and _is_traced())
    activation = ACTIVATION_OF[epilogue]
    behind = None
    if z is not None:
        # Of inference tensors autograd would not find the views.
        is_lost = not _is_compiling() and z.requires_grad and z.is_inference()
        if composed or is_lost or not _is_fused(x, z):
            behind, z, epilogue = z, None, "identity"
        else:
            z = z.to(x.dtype).expand_as(x)
    statistics = running_mean, running_var, counter
    if composed:
        y = _composed(x, weight, bias, *statistics, training, momentum, eps, skip_non_finite)
        return ACTIVATION[activation](y if behind is None else y + behind)
    weight, bias = (tensor if tensor is None or tensor.dim() == 1 else tensor.reshape(-1) for tensor in (weight, bias))
    differentiated = [tensor for tensor in (x, z, weight, bias) if tensor is not None]
    needs_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiated)
    has_variables = running_mean is not None and (running_mean.requires_grad or running_var.requires_grad)
    # A compiler says so itself.
    if (needs_backward or (training and has_variables and torch.is_grad_enabled())) and not _is_compiling():
        expect_differentiable(x, weight, bias, running_mean, running_var)
    affine = weight, bias
    try:
        if training:
            options = momentum, eps, epilogue, needs_backward, skip_non_finite, skip_recomputed
            y = torch.ops.batchnorm.train(x, z, *affine, *statistics, *options)[0]
        else:
            y = torch.ops.batchnorm.infer(x, z, *affine, running_mean, running_var, eps, epilogue, needs_backward)[0]
    except RuntimeError as error:
        if _is_compiling():
            raise
        raise refusal(error) from None
    if training and not _is_compiling() and torch.is_inference_mode_enabled():
        moved(*statistics)  # Elsewhere autograd's kernel says so.
    return y if behind is None else ACTIVATION[activation](y + behind)


def _is_traced():
    """Whether operations are recorded for a graph: by a compiler, an exporter, or a tracer."""
    return _is_compiling() or _tracing_state() is not None or _proxy_mode() is not None


def _is_distributed(x):
    """Whether a tensor is one of torch.distributed.tensor, whose operations are PyTorch's own; without importing that."""
    return type(x) is not torch.Tensor and type(x).__name__ == "DTensor"


def _is_fused(x, z):
    """Whether `bn(x) + z` is like x, so that the residual can be fused."""
    like = x.shape == z.shape or torch.broadcast_shapes(x.shape, z.shape) == x.shape
    # A number promotes nothing of its own category: torch.result_type, as compilers trace it.
    keeps_dtype = not z.is_complex() if z.dim() == 0 else torch.promote_types(x.dtype, z.dtype) == x.dtype
    return like and x.device == z.device and keeps_dtype


def _composed(x, weight, bias, running_mean, running_var, counter, training, momentum, eps, skip_non_finite):
    """By PyTorch's own operation, as torch.nn does it: for derivatives of torch.func and forward ones, and distributed tensors, which
    that takes, or refuses."""
    if training and counter is not None:
        counter.add_(1)
    if momentum is None:
        momentum = 1.0 / float(counter) if training and counter is not None else 0.0
    if not training or running_mean is None or not skip_non_finite:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    # The batch's statistics, by moving others all the way.
    batch = torch.zeros_like(running_mean), torch.zeros_like(running_var)
    y = F.batch_norm(x, *batch, weight, bias, training, 1.0, eps)
    is_finite = batch[0].isfinite() & batch[1].isfinite()
    for running, of_batch in zip((running_mean, running_var), batch):
        # As kernels have it, nothing of before is left by a momentum of 1, not even NaN.
        moved_by = of_batch if momentum == 1.0 else (1.0 - momentum) * running + momentum * of_batch
        running.copy_(torch.where(is_finite, moved_by, running))
    return y


def _epilogue(activation, relu, has_residual):
    if relu:
        if activation not in ("identity", "relu"):
            raise ValueError(f"expected relu=False with the activation {activation!r}, got relu=True")
        activation = "relu"
    epilogue = EPILOGUE.get((activation, has_residual)) if isinstance(activation, str) else None
    if epilogue is None:
        names = ", ".join(ACTIVATIONS_OF_RESIDUALS if has_residual else ACTIVATIONS)
        behind = " behind a residual" if has_residual else ""
        raise ValueError(f"expected one of the activations {names}{behind}, got {activation!r}")
    return epilogue


def _check(input, running_mean, running_var, weight, bias, training, residual, epilogue):
    per_channel = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for position, (name, tensor) in enumerate({"input": input, **per_channel, "residual": residual}.items(), 1):
        if not isinstance(tensor, torch.Tensor) and (tensor is not None or name == "input"):
            raise TypeError(
                f"batch_norm(): argument '{name}' (position {position}) must be Tensor, not {type(tensor).__name__}"
            )
    if input.dim() < 2:
        raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
    if input.dtype not in PARAM_DTYPE:
        name = str(input.dtype).removeprefix("torch.")
        raise NotImplementedError(f'"batch_norm" not implemented for {name!r}')
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    if (running_mean is None) != (running_var is None):
        raise ValueError("Expected running_mean and running_var to both be None or neither be None")
    if training and input.numel() and input.numel() == input.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    c = input.shape[1]
    for name, tensor in per_channel.items():
        if tensor is None:
            continue
        if tensor.numel() != c:
            raise RuntimeError(f"{name} should contain {c} elements not {tensor.numel()}")
        _check_device(input, tensor)
        if PARAM_DTYPE.get(tensor.dtype) != PARAM_DTYPE[input.dtype]:
            raise RuntimeError(f"expected {name} to have a dtype that goes with {input.dtype}, got {tensor.dtype}")
        if training and name.startswith("running") and not _is_compiling() and tensor.is_neg():
            raise RuntimeError(f"unsupported operation: {name} is written, and is a view of other values by their negatives")
        if training and name.startswith("running") and c > 1 and 0 in tensor.stride():
            raise RuntimeError(f"unsupported operation: {name} is written, and some elements of it are one memory location")
    if residual is not None:
        _check_residual(input, residual, epilogue)


def _check_residual(input, residual, epilogue):
    """As `+` and the activation behind it would refuse it: but before statistics have moved."""
    if residual.dim():  # One without dimensions may be on the CPU.
        _check_device(input, residual)
    for axis, (a, b) in enumerate(zip(reversed(input.shape), reversed(residual.shape)), 1):
        if a != b and 1 not in (a, b):
            raise RuntimeError(
                f"expected residual of a size that goes with {tuple(input.shape)}, got {tuple(residual.shape)}: the size of "
                f"tensor a ({a}) must match the size of tensor b ({b}) at non-singleton dimension {input.dim() - axis}"
            )
    if residual.is_complex() and ACTIVATION_OF[epilogue] != "identity":
        raise RuntimeError(f"{ACTIVATION_OF[epilogue]} is not supported for complex types, got a residual in {residual.dtype}")


def _check_counter(input, counter):
    if counter is None:
        return
    if counter.numel() != 1:
        raise RuntimeError(f"num_batches_tracked should contain 1 element not {counter.numel()}")
    if counter.device.type != "cpu":  # From a file it may be there.
        _check_device(input, counter)


def _check_device(input, tensor):
    if tensor.device != input.device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{input.device} and {tensor.device}!"
        )
