"""Batch normalization: fused CUDA kernels and a CPU path in f64 arithmetic. For PyTorch, see `batchnorm.torch`."""

from batchnorm._native import has_cuda

__all__ = ["has_cuda"]
