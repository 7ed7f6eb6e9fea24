"""Helpers of several tests."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(got, want, tolerance, what=""):
    assert got.shape == want.shape, what
    scale = max(1.0, want.detach().abs().max().item()) if want.numel() else 1.0
    error = (got.detach().double() - want.detach().double()).abs()
    assert not error.numel() or not error.max().item() > tolerance * scale, f"{what}: off by {error.max().item()}"
    assert not torch.isnan(got).any(), what


class Seen(TorchDispatchMode):
    """The operations that pass the dispatcher."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def step(module, *inputs):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    y = module(*inputs)
    y.backward(rand(*y.shape, seed=9, dtype=y.dtype))
    return [y, *(t.grad for t in inputs), *(p.grad for p in module.parameters()), *module.buffers()]


def same(got, want):
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
