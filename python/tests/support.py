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


class Epilogues(TorchDispatchMode):
    """The epilogues of the batch norms that run, one after another."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.batchnorm.train.default, torch.ops.batchnorm.infer.default):
            self.ran.append(args[9] if function is torch.ops.batchnorm.train.default else args[7])
        return function(*args, **(kwargs or {}))


def epilogues(model, *inputs):
    """The epilogues that a model's batch norms run with."""
    with Epilogues() as seen:
        model(*inputs)
    return seen.ran


def expect_alike(ours, theirs, *inputs, rtol=1e-4, atol=1e-5):
    """Sees that a training step and an evaluation of two models give the same: values, gradients, and all of the states."""
    for training in (True, False):
        ours.train(training), theirs.train(training)
        ours.zero_grad(), theirs.zero_grad()
        results = []
        for model in (ours, theirs):
            copies = [x.clone().requires_grad_() for x in inputs]
            torch.manual_seed(7)
            y = model(*copies)
            y.square().sum().backward()
            results.append([y, *(x.grad for x in copies), *(p.grad for p in model.parameters()), *model.state_dict().values()])
        for got, want in zip(*results, strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
