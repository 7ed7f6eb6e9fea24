"""Helpers of several tests."""

import torch


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(got, want, tolerance, what=""):
    assert got.shape == want.shape, what
    scale = max(1.0, want.detach().abs().max().item()) if want.numel() else 1.0
    error = (got.detach().double() - want.detach().double()).abs()
    assert not error.numel() or not error.max().item() > tolerance * scale, f"{what}: off by {error.max().item()}"
    assert not torch.isnan(got).any(), what
