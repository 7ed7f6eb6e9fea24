"""Residuals of all kinds, the options of modules and of the package, and modules that were changed."""

import copy

import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
import torch.utils.checkpoint

import batchnorm.torch as bn
from batchnorm import _native
from support import Seen, close, rand, same


@pytest.mark.parametrize("z", [(2, 5, 3), (1, 5, 1), (5, 1), (3,), (), (4, 2, 5, 3)], ids=str)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.int64)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_residuals_are_promoted_and_broadcast_as_torch_does(z, dtypes, training):
    results = []
    for cls in (torch.nn.BatchNorm1d, bn.BatchNorm1d):
        norm = cls(5).train(training)
        x, residual = rand(2, 5, 3).to(dtypes[0]).requires_grad_(), (3 * rand(*z, seed=1)).to(dtypes[1])
        residual = residual.requires_grad_() if residual.is_floating_point() else residual
        if cls is bn.BatchNorm1d:
            fused = bn.BatchNormAddReLU(5).train(training)
            fused.load_state_dict(norm.state_dict())
            y, norm = fused(x, residual), fused
        else:
            y = torch.relu(norm(x) + residual)
        y.float().square().sum().backward()
        results.append([y, x.grad, residual.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
    for got, want in zip(*reversed(results)):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.dtype == want.dtype and got.shape == want.shape
            close(got.float(), want.float(), 1e-4 if dtypes[0] == torch.float32 else 6e-2)


def test_a_residual_block_under_autocast():
    conv, module = torch.nn.Conv2d(8, 8, 3, padding=1), bn.BatchNormAddReLU(8)
    for x in (torch.rand(2, 8, 6, 6), torch.rand(2, 8, 6, 6).bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(conv(x), x)
        assert y.dtype == x.dtype
        y.float().square().mean().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_residuals_are_promoted_too(backend):
    torch._dynamo.reset()
    module = bn.BatchNormAddReLU(5).eval()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    for x, z in ((rand(2, 5, 3).bfloat16(), rand(2, 5, 3)), (rand(2, 5, 3), rand(1, 5, 1)), (rand(2, 5, 3), rand(2, 5, 3))):
        torch.testing.assert_close(compiled(x, z), module(x, z))


@pytest.mark.parametrize("cls", [bn.BatchNorm1d, bn.BatchNormReLU])
def test_non_finite_batches_can_be_skipped(cls):
    module, plain = cls(5), cls(5)
    module.skip_non_finite = True
    x = rand(4, 5)
    x[1, 2], x[0, 4] = float("inf"), float("nan")
    module(x), plain(x)
    ok = torch.tensor([True, True, False, True, False])
    for name, initial in (("running_mean", 0.0), ("running_var", 1.0)):
        skipped, moved = getattr(module, name), getattr(plain, name)
        assert torch.equal(skipped[ok], moved[ok]) and (skipped[~ok] == initial).all()
    assert not plain.running_var[~ok].isfinite().any() and module.num_batches_tracked.item() == 1
    module = copy.deepcopy(module)
    assert module.skip_non_finite and not bn.BatchNorm1d(5).skip_non_finite
    # Likewise where torch.nn's operation computes.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    def loss(x, buffers):
        return torch.func.functional_call(module, buffers, (x,)).nansum(), buffers

    _, moved = torch.func.grad(loss, has_aux=True)(x, buffers)
    assert moved["running_var"].isfinite().all() and moved["num_batches_tracked"].item() == 2


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_skipping_is_of_the_batch_and_not_of_the_statistics_before(momentum):
    """By kernels and by torch.nn's operation alike: those that are NaN are moved by batches that are not."""
    x, results = rand(4, 5), []
    for composed in (False, True):
        module = bn.BatchNorm1d(5, momentum=momentum)
        module.skip_non_finite = True
        module.running_var[2] = float("nan")
        with torch.autograd.forward_ad.dual_level() if composed else torch.no_grad():
            module(x)
        results.append((module.running_mean, module.running_var))
    for ours, composed in zip(*results):
        torch.testing.assert_close(composed, ours, equal_nan=True)
    assert (results[0][0] != 0).all() and results[0][1].isfinite().all() == (momentum != 0.1)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_a_checkpoint_can_move_statistics_once(skip, use_reentrant):
    module, plain = bn.BatchNormReLU(5), bn.BatchNormReLU(5)
    module.skip_recomputed = skip
    x, y = rand(4, 5).requires_grad_(), rand(4, 5).requires_grad_()
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=use_reentrant).square().sum().backward()
    plain(y).square().sum().backward()
    same([x.grad, module.weight.grad], [y.grad, plain.weight.grad])
    assert module.num_batches_tracked.item() == (1 if skip else 2)
    assert torch.equal(module.running_mean, plain.running_mean) == skip


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_checkpoint_of_compiled_code_can_move_statistics_once(backend, use_reentrant):
    torch._dynamo.reset()
    module, plain = bn.BatchNormReLU(5), bn.BatchNormReLU(5)
    module.skip_recomputed = True
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    torch.utils.checkpoint.checkpoint(compiled, rand(4, 5).requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    plain(rand(4, 5))
    assert module.num_batches_tracked.item() == 1
    same(module.buffers(), plain.buffers())


def test_a_checkpoint_that_moves_nothing_says_so():
    """To a graph that has kept the statistics."""
    torch._dynamo.reset()
    module, x = bn.BatchNorm1d(5), rand(4, 5).requires_grad_()
    module.skip_recomputed = True
    y = torch.utils.checkpoint.checkpoint(torch.compile(module, backend="eager"), x, use_reentrant=False)
    evaluated = module.eval()(x)
    module.train()
    y.sum().backward()
    evaluated.sum().backward()


@pytest.mark.parametrize("begins_with_it", [False, True])
@pytest.mark.parametrize("cls", [bn.BatchNorm1d, bn.BatchNormReLU])
def test_a_checkpoint_may_be_looked_at_the_second_time(cls, begins_with_it):
    module, x = cls(5), rand(4, 5).requires_grad_()
    with Seen() if begins_with_it else torch.enable_grad():
        y = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False)
    with torch.enable_grad() if begins_with_it else Seen():
        y.square().sum().backward()
    want = x.grad
    x.grad = None
    module(x).square().sum().backward()
    assert torch.equal(x.grad, want)


def test_a_residual_may_come_from_inference_mode():
    """As features of a teacher: nothing is kept of it."""
    module, x = bn.BatchNormAddReLU(5), rand(4, 5).requires_grad_()
    with torch.inference_mode():
        z = rand(4, 5, seed=1)
    y = module(x, z)
    with Seen():
        again = module(x, z)
    assert torch.equal(y, again)
    again.sum().backward()


@pytest.mark.parametrize("size", [(4, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("seen", [False, True])
def test_a_parameter_of_inference_mode_is_trained_as_a_residual(size, seen):
    with torch.inference_mode():
        z = torch.nn.Parameter(rand(*size, seed=1))
    gradients = []
    for norm in (lambda x: (torch.nn.functional.batch_norm(x, None, None, training=True) + z).relu(),
                 lambda x: bn.batch_norm(x, residual=z, training=True, relu=True)):
        with Seen() if seen else torch.enable_grad():
            y = norm(rand(4, 5).requires_grad_())
        gradients.append(torch.autograd.grad(y.square().sum(), z)[0])
    close(gradients[1], gradients[0], 1e-5)


def test_sparse_residuals_are_added_as_torch_does():
    x, z = rand(4, 5), rand(4, 5, seed=1).double().to_sparse()
    want = torch.nn.functional.batch_norm(x, None, None, training=True) + z
    torch.testing.assert_close(bn.batch_norm(x, residual=z, training=True), want, rtol=1e-5, atol=1e-5)


def test_numbers_of_multiprocessors():
    for count in (0, -1, 1.5, "2", True):
        with pytest.raises(ValueError, match="a number of multiprocessors from 1 on, or None"):
            bn.set_max_sms(count)
    bn.set_max_sms(None)
    if not _native.has_cuda:
        with pytest.raises(RuntimeError, match="no CUDA kernels"):
            bn.set_max_sms(100)


def test_parametrized_and_pruned_norms_compute_with_what_their_attributes_are():
    class Double(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    for change in (
        lambda m: torch.nn.utils.parametrize.register_parametrization(m, "weight", Double()),
        lambda m: torch.nn.utils.prune.random_unstructured(m, "weight", 2),
    ):
        torch.manual_seed(0)
        theirs, ours = torch.nn.BatchNorm1d(5), bn.BatchNorm1d(5)
        x = rand(4, 5)
        for module in (theirs, ours):
            torch.manual_seed(1)
            change(module)
        close(ours(x), theirs(x), 2e-6)


def test_a_look_at_the_rank_of_ones_own_is_taken():
    class Strict(bn.BatchNorm1d):
        def _check_input_dim(self, input):
            raise ValueError("never")

    class Stricter(Strict):
        pass

    for cls in (Strict, Stricter):
        with pytest.raises(ValueError, match="never"):
            cls(5)(rand(4, 5))
