"""The function that the modules call: it checks as PyTorch does, with its words."""

import torch

from batchnorm.torch import _autograd
from batchnorm.torch._kinds import ACTIVATIONS, ACTIVATIONS_OF_RESIDUALS, EPILOGUE, PARAM_DTYPE


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
):
    """Batch normalization, as `torch.nn.functional.batch_norm`, with a residual and an activation fused behind it.

    `y = activation((input - mean) / sqrt(var + eps) * weight + bias + residual)`. `activation` is identity, relu, relu6, silu or
    hardswish, as in `torch.nn.functional`, and behind a residual identity or relu; `relu=True` is `activation="relu"`. With
    `training` mean and biased variance are the batch's, and the running ones, where given, are moved by `momentum` with the
    unbiased variance, in the same operation: `momentum=None` is the plain average over `num_batches_tracked`, which is
    counted up where given. Without, the running ones normalize.

    The result keeps `channels_last`. Gradients are of first order. On CUDA all work is put on the current stream.
    """
    _check(input, running_mean, running_var, weight, bias, training, residual)
    _check_counter(input, num_batches_tracked)
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    epilogue = _epilogue(activation, relu, residual is not None)
    differentiated = [tensor for tensor in (input, residual, weight, bias) if tensor is not None]
    needs_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiated)
    if needs_backward:
        _check_differentiable(differentiated, running_mean, running_var)
    if training:
        return _autograd.train(
            input,
            residual,
            weight,
            bias,
            running_mean,
            running_var,
            num_batches_tracked,
            momentum,
            eps,
            epilogue,
            needs_backward,
        )[0]
    return _autograd.infer(
        input, residual, weight, bias, running_mean, running_var, eps, epilogue, needs_backward
    )[0]


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


def _check(input, running_mean, running_var, weight, bias, training, residual):
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
    if (running_mean is None) != (running_var is None):
        raise ValueError("Expected running_mean and running_var to both be None or neither be None")
    if not training and running_mean is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
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
        if training and name.startswith("running") and c > 1 and 0 in tensor.stride():
            raise RuntimeError(f"unsupported operation: {name} is written, and some elements of it are one memory location")
    if residual is not None:
        if residual.shape != input.shape:
            raise RuntimeError(f"expected residual of size {tuple(input.shape)}, got {tuple(residual.shape)}")
        if residual.dtype != input.dtype:
            raise RuntimeError(f"expected residual in {input.dtype}, got {residual.dtype}")
        _check_device(input, residual)


def _check_counter(input, counter):
    if counter is None:
        return
    if counter.numel() != 1:
        raise RuntimeError(f"num_batches_tracked should contain 1 element not {counter.numel()}")
    if counter.device.type != "cpu":  # From a file it may be there.
        _check_device(input, counter)


def _check_differentiable(tensors, running_mean, running_var):
    """Refuses early, since autograd would refuse only when statistics have been moved."""
    # A compiler says so itself.
    if not torch.compiler.is_compiling() and any(tensor.is_inference() for tensor in tensors):
        raise RuntimeError(
            "Inference tensors cannot be saved for backward: expected tensors that were made outside of inference mode, or "
            "clones of such as were made in it"
        )
    for name, tensor in (("running_mean", running_mean), ("running_var", running_var)):
        if tensor is not None and tensor.requires_grad:
            raise RuntimeError(f"batch_norm is not differentiable with respect to argument '{name}'")


def _check_device(input, tensor):
    if tensor.device != input.device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{input.device} and {tensor.device}!"
        )
