"""The function that the modules call: it checks as PyTorch does, with its words."""

import torch

from batchnorm.torch import _ops  # noqa: F401: registers the operations


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
):
    """Batch normalization, as `torch.nn.functional.batch_norm`, with a residual and a relu fused behind it.

    `y = relu((input - mean) / sqrt(var + eps) * weight + bias + residual)`, relu and residual where they are asked for. With
    `training` mean and biased variance are the batch's, and the running ones, where given, are moved by `momentum` with the
    unbiased variance, in the same operation: `momentum=None` is the plain average over `num_batches_tracked`, which is
    counted up where given. Without, the running ones normalize.

    The result keeps `channels_last`. Gradients are of first order. On CUDA all work is put on the current stream.
    """
    _check(input, running_mean, running_var, weight, bias, training, residual)
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    epilogue = ("add_relu" if relu else "add") if residual is not None else ("relu" if relu else "identity")
    differentiated = (input, residual, weight, bias)
    keep_mask = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiated)
    if training:
        return torch.ops.batchnorm.train(
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
            keep_mask,
        )[0]
    return torch.ops.batchnorm.infer(
        input, residual, weight, bias, running_mean, running_var, eps, epilogue, keep_mask
    )[0]


def _check(input, running_mean, running_var, weight, bias, training, residual):
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"batch_norm(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    if input.dim() < 2:
        raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
    if not input.dtype.is_floating_point or input.dtype.itemsize < 2:
        name = str(input.dtype).removeprefix("torch.")
        raise NotImplementedError(f'"batch_norm" not implemented for {name!r}')
    if (running_mean is None) != (running_var is None):
        raise ValueError("Expected running_mean and running_var to both be None or neither be None")
    if not training and running_mean is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    if training and input.numel() and input.numel() == input.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    c = input.shape[1]
    per_channel = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in per_channel.items():
        if tensor is None:
            continue
        if tensor.numel() != c:
            raise RuntimeError(f"{name} should contain {c} elements not {tensor.numel()}")
        _check_device(input, tensor)
        if not tensor.dtype.is_floating_point or (tensor.dtype == torch.float64) != (input.dtype == torch.float64):
            raise RuntimeError(f"expected {name} to have a dtype that goes with {input.dtype}, got {tensor.dtype}")
    if residual is not None:
        if residual.shape != input.shape:
            raise RuntimeError(f"expected residual of size {tuple(input.shape)}, got {tuple(residual.shape)}")
        if residual.dtype != input.dtype:
            raise RuntimeError(f"expected residual in {input.dtype}, got {residual.dtype}")
        _check_device(input, residual)


def _check_device(input, tensor):
    if tensor.device != input.device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{input.device} and {tensor.device}!"
        )
