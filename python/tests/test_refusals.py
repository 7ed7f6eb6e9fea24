"""Refusals have the words of torch, and change nothing."""

import copy

import pytest
import torch

import batchnorm
import batchnorm.torch as bn
from support import rand


def test_statistics_that_moved_before_a_backward_pass_are_noticed():
    ours = bn.BatchNorm1d(5).eval()
    x = rand(4, 5).requires_grad_()
    y = ours(x)
    ours.train()(rand(4, 5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda m: m(rand(5)), ValueError, "expected 4D input"),
        (lambda m: m(rand(2, 5, 3)), ValueError, r"expected 4D input \(got 3D input\)"),
        (lambda m: m(rand(2, 4, 3, 3)), RuntimeError, "running_mean should contain 4 elements not 5"),
        (lambda m: m(rand(1, 5, 1, 1)), ValueError, "Expected more than 1 value per channel when training"),
        (lambda m: m(torch.ones(2, 5, 3, 3, dtype=torch.int64)), NotImplementedError, "not implemented for 'int64'"),
        (lambda m: m(rand(2, 5, 3, 3, dtype=torch.float64)), RuntimeError, "expected running_mean to have a dtype"),
        (lambda m: m(torch.ones(2, 5, 3, 3, device="meta")), RuntimeError, "on the same device, but found"),
        (lambda m: m(rand(2, 5, 3, 3).to(torch.complex64)), NotImplementedError, "not implemented for 'complex64'"),
        (lambda m: m(rand(2, 5, 3, 3).to_sparse()), NotImplementedError, "'SparseCPU'"),
        (lambda m: bn.batch_norm("x", m.running_mean, m.running_var), TypeError, "must be Tensor, not str"),
        (lambda m: bn.batch_norm(rand(2, 5), m.running_mean, None, training=True), ValueError, "both be None or neither"),
        (lambda m: bn.batch_norm(rand(2, 5), training=False), RuntimeError, "to be defined when training=False"),
        (lambda m: bn.batch_norm(rand(2, 5), m.running_mean, m.running_var, training=True, momentum=2.0), ValueError, "got 2"),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, eps=0.0), ValueError, "eps must be positive during training"),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, eps=float("nan")), ValueError, "eps.*got NaN"),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, weight=1.0), TypeError, "'weight' \\(position 4\\) must be Tensor"),
        (lambda m: bn.BatchNormAddReLU(5)(rand(2, 5), 1.0), TypeError, "'residual'.* must be Tensor, not float"),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, weight=rand(5).to(torch.float8_e5m2)), RuntimeError, "expected weight"),
        (lambda m: bn.BatchNormAddReLU(5)(rand(2, 5), None), TypeError, "expected a residual tensor, got None"),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, activation="gelu"), ValueError, "relu6, silu, hardswish, got 'gelu'"),
        (
            lambda m: bn.batch_norm(rand(2, 5), training=True, residual=rand(2, 5), activation="silu"),
            ValueError,
            "expected one of the activations identity, relu behind a residual, got 'silu'",
        ),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, activation=["relu"]), ValueError, r"got \['relu'\]"),
        (lambda m: bn.convert(m, fuse=False, fuse_relu=True), ValueError, "expected fuse or fuse_relu, which are one"),
        (lambda m: bn.batch_norm(rand(2, 5), training=True, relu=True, activation="silu"), ValueError, "expected relu=False"),
    ],
)
def test_refusals_have_the_words_of_torch_and_change_nothing(call, kind, words):
    module = bn.BatchNorm2d(5)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(kind, match=words):
        call(module)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values()))


def test_residuals_that_do_not_fit_are_refused():
    module, x = bn.BatchNormAddReLU(5), rand(2, 5, 3)
    before = copy.deepcopy(module.state_dict())
    for z, words in [
        (rand(2, 5, 2), r"expected residual of a size that goes with \(2, 5, 3\), got \(2, 5, 2\).*non-singleton dimension 2"),
        (rand(4, 1), "non-singleton dimension 1"),
        (rand(2, 5, 3).to(torch.complex64), "relu is not supported for complex types, got a residual in torch.complex64"),
        (torch.ones(2, 5, 3, device="meta"), "on the same device, but found"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            module(x, z)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values()))
    # Memory that a training step would write while it reads it.
    x = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="expected running_mean in memory of its own, got that of input"):
        bn.batch_norm(x, x[0], torch.ones(5), training=True)
    assert torch.equal(x, torch.zeros(2, 5))


@pytest.mark.skipif(batchnorm.has_cuda, reason="this build has CUDA kernels")
def test_a_build_without_kernels_says_how_to_get_them():
    from batchnorm import _native

    with pytest.raises(RuntimeError, match="no CUDA kernels; build it with BATCHNORM_CUDA=1"):
        _native.workspace_bytes(((0, 0), "float32", (2, 3, 4), False), "train", "identity")


def test_files_that_are_no_tables_of_plans_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json"):
        bn.use_plans(tmp_path / "none.json")
    table = tmp_path / "plans.json"
    table.write_text("{}")
    for path in table, str(table):
        with pytest.raises(ValueError, match='plans.json: plan table, table: expected a field "format", got none'):
            bn.use_plans(path)


@pytest.mark.skipif(not batchnorm.has_cuda or torch.cuda.is_available(), reason="needs CUDA kernels and no driver")
def test_a_machine_without_a_driver_is_told():
    from batchnorm import _native

    with pytest.raises(RuntimeError, match="driver"):
        _native.workspace_bytes(((0, 0), "float32", (2, 3, 4), False), "train", "identity")


@pytest.mark.parametrize(
    "counter, words",
    [
        (torch.empty(0, dtype=torch.int64), "num_batches_tracked should contain 1 element not 0"),
        (torch.zeros(3, dtype=torch.int64), "num_batches_tracked should contain 1 element not 3"),
        (torch.tensor(0, device="meta"), "on the same device, but found"),
    ],
)
def test_what_is_no_number_of_batches_is_refused(counter, words):
    module = bn.BatchNorm1d(5)
    module.num_batches_tracked = counter
    with pytest.raises(RuntimeError, match=words):
        module(rand(4, 5))
    assert torch.equal(module.running_mean, torch.zeros(5))


def inference(*shape):
    with torch.inference_mode():
        return rand(*shape)


def inference_parameter(*shape):
    with torch.inference_mode():
        return torch.nn.Parameter(rand(*shape))


@pytest.mark.parametrize(
    "change, x, words",
    [
        (lambda m: None, inference(4, 5), "Inference tensors cannot be saved for backward"),
        (lambda m: setattr(m, "bias", inference_parameter(5)), rand(4, 5), "Inference tensors cannot be saved for backward"),
        (lambda m: m.running_mean.requires_grad_(), rand(4, 5), "not differentiable with respect to argument 'running_mean'"),
        (lambda m: setattr(m, "running_var", torch.ones(1).expand(5)), rand(4, 5), "running_var is written"),
    ],
)
def test_what_autograd_would_refuse_later_moves_no_statistics(change, x, words):
    module = bn.BatchNorm1d(5)
    change(module)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(RuntimeError, match=words):
        module(x)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values()))


def test_statistics_that_inference_mode_moved_are_noticed():
    module = bn.BatchNorm1d(5).eval()
    y = module(rand(4, 5).requires_grad_())
    with torch.inference_mode():
        module.train()(rand(4, 5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
