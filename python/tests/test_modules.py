"""The modules compared with those of torch.nn, whose values come from float64."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.utils.checkpoint

import batchnorm.torch as bn
from batchnorm.torch._kinds import ACTIVATIONS, EPILOGUE, PARAM_DTYPE
from batchnorm.torch._modules import FUSED
from support import close, rand

SHAPES = [
    (torch.nn.BatchNorm1d, bn.BatchNorm1d, (6, 5)),
    (torch.nn.BatchNorm1d, bn.BatchNorm1d, (4, 5, 7)),
    (torch.nn.BatchNorm2d, bn.BatchNorm2d, (3, 5, 4, 3)),
    (torch.nn.BatchNorm3d, bn.BatchNorm3d, (2, 5, 2, 3, 2)),
]
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
assert DTYPES.keys() == PARAM_DTYPE.keys(), "each dtype that is computed has a tolerance"


def pair(theirs, ours, **options):
    """A torch module and ours with the same parameters, not 1 and 0."""
    theirs = theirs(5, **options)
    if theirs.weight is not None:
        with torch.no_grad():
            theirs.weight.copy_(rand(5, seed=1))
            theirs.bias.copy_(rand(5, seed=2))
    ours = ours(5, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("theirs_class, ours_class, shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"momentum": 0.3, "eps": 1e-2}, {"affine": False}, {"track_running_stats": False}],
    ids=str,
)
def test_steps_and_gradients_are_those_of_torch_in_float64(theirs_class, ours_class, shape, dtype, options):
    theirs, ours = pair(theirs_class, ours_class, **options)
    theirs = theirs.double()
    if dtype == torch.float64:
        ours = ours.double()
    assert repr(ours).replace("batchnorm.torch.", "") == repr(theirs)
    for step, training in enumerate([True, True, False]):
        theirs.train(training), ours.train(training)
        x = rand(*shape, seed=10 + step, dtype=dtype).requires_grad_()
        x64 = x.detach().double().requires_grad_()
        dy = rand(*shape, seed=20 + step, dtype=dtype)
        y, want = ours(x), theirs(x64)
        assert y.dtype == dtype
        close(y, want, DTYPES[dtype], "y")
        ours.zero_grad(), theirs.zero_grad()
        y.backward(dy), want.backward(dy.double())
        close(x.grad, x64.grad, 2 * DTYPES[dtype], "x.grad")
        for (name, parameter), expected in zip(ours.named_parameters(), theirs.parameters()):
            assert parameter.grad.dtype == parameter.dtype
            close(parameter.grad, expected.grad, 2 * DTYPES[dtype], f"{name}.grad")
        for (name, buffer), expected in zip(ours.named_buffers(), theirs.buffers()):
            close(buffer, expected, max(1e-6, DTYPES[dtype]), name)


def test_each_activation_has_a_module():
    names = [activation.__name__.lower() for activation in FUSED]
    assert names == [name for name in ACTIVATIONS if name != "identity"]
    assert [fused.__name__ for fused in FUSED.values()] == [f"BatchNorm{activation.__name__}" for activation in FUSED]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4, 3)])
@pytest.mark.parametrize("activation, fused", [*FUSED.items(), (torch.nn.ReLU, bn.BatchNormAddReLU)])
def test_fused_modules_are_their_parts(training, shape, activation, fused):
    theirs, ours = pair(torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d, fused)
    with torch.no_grad():  # So that values are on all sides of 0, 3 and 6.
        theirs.weight.mul_(4.0), theirs.bias.mul_(2.0)
        ours.load_state_dict(theirs.state_dict())
    theirs, ours = theirs.double().train(training), ours.double().train(training)
    residual = fused is bn.BatchNormAddReLU
    x, z = rand(*shape, seed=3, dtype=torch.float64), rand(*shape, seed=4, dtype=torch.float64)
    inputs = [t.clone().requires_grad_() for t in ((x, z) if residual else (x,))]
    expected = [t.clone().requires_grad_() for t in ((x, z) if residual else (x,))]
    y = ours(*inputs)
    want = activation()(theirs(expected[0]) + (expected[1] if residual else 0.0))
    close(y, want, 1e-12, "y")
    dy = rand(*shape, seed=5, dtype=torch.float64)
    y.backward(dy), want.backward(dy)
    for got, wanted in zip([*inputs, *ours.parameters()], [*expected, *theirs.parameters()]):
        close(got.grad, wanted.grad, 1e-12)


def test_channels_last_stays_and_strides_are_read():
    theirs, ours = pair(torch.nn.BatchNorm2d, bn.BatchNorm2d)
    x = rand(2, 5, 4, 3)
    last = x.contiguous(memory_format=torch.channels_last)
    assert ours(last).is_contiguous(memory_format=torch.channels_last)
    strided = rand(2, 3, 4, 5).permute(0, 3, 1, 2).flip(2).transpose(2, 3)
    for x in (x, last, strided, rand(2, 5, 4, 6)[..., ::2], rand(4, 5, 4, 3)[1:3]):
        for dy_format in (torch.contiguous_format, torch.channels_last):
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            dy = rand(*x.shape, seed=9).contiguous(memory_format=dy_format)
            y, want = ours(a), theirs(b)
            close(y, want, 2e-6)
            y.backward(dy), want.backward(dy)
            close(a.grad, b.grad, 4e-6)


def test_state_dicts_fit_both_ways():
    theirs, ours = torch.nn.BatchNorm2d(5), bn.BatchNorm2d(5)
    ours(rand(2, 5, 3, 3))
    theirs.load_state_dict(ours.state_dict())
    assert theirs.num_batches_tracked.item() == 1
    theirs(rand(2, 5, 3, 3))
    ours.load_state_dict(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))


def test_empty_batches_move_nothing():
    ours = bn.BatchNorm2d(5)
    before = copy.deepcopy(ours.state_dict())
    for shape in [(0, 5, 3, 3), (2, 5, 0, 3)]:
        x = torch.zeros(shape, requires_grad=True)
        ours(x).sum().backward()
        assert x.grad.shape == shape
    for name in ("running_mean", "running_var"):
        assert torch.equal(ours.state_dict()[name], before[name]), name
    assert ours.num_batches_tracked.item() == 2  # As torch.nn counts.


@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3, 2)])
@pytest.mark.parametrize("training, kind", list(itertools.product([True, False], EPILOGUE)))
def test_gradcheck(shape, training, kind):
    activation, residual = kind
    x, z = rand(*shape, dtype=torch.float64).requires_grad_(), rand(*shape, seed=1, dtype=torch.float64).requires_grad_()
    weight, bias = (rand(5, seed=s, dtype=torch.float64).requires_grad_() for s in (2, 3))
    mean, var = rand(5, seed=4, dtype=torch.float64), rand(5, seed=5, dtype=torch.float64).abs() + 0.5

    def f(x, z, weight, bias):
        return bn.batch_norm(
            x, mean.clone(), var.clone(), weight, bias, training, residual=z if residual else None, activation=activation
        )

    assert torch.autograd.gradcheck(f, (x, z, weight, bias))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation, fused", FUSED.items())
def test_values_without_a_number_are_those_of_torch(dtype, activation, fused):
    """In evaluation, where infinities stay in their place; and what is too far from 0 for exp."""
    x = torch.tensor([[float("nan"), float("inf"), float("-inf"), 90.0, -90.0], [800.0, -800.0, 6.0, 3.0, -3.0]], dtype=dtype)
    theirs, ours = torch.nn.Sequential(torch.nn.BatchNorm1d(5, eps=1e-30), activation()).eval(), fused(5, eps=1e-30).eval()
    ours = ours.double() if dtype == torch.float64 else ours
    want = theirs.double()(x.double()).to(dtype)
    torch.testing.assert_close(ours(x), want, equal_nan=True)


def test_autocast_gives_what_comes():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), bn.BatchNorm2d(5))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(rand(2, 3, 6, 6))
    assert y.dtype == torch.bfloat16 and model[1].running_mean.dtype == torch.float32
    y.float().sum().backward()
    assert model[1].weight.grad.dtype == torch.float32


def test_half_modules_keep_their_dtype():
    ours, theirs = bn.BatchNorm1d(5).bfloat16(), torch.nn.BatchNorm1d(5).bfloat16()
    x = rand(6, 5, dtype=torch.bfloat16)
    close(ours(x), theirs(x), 1.6e-2)
    assert ours.running_mean.dtype == torch.bfloat16
    close(ours.running_mean, theirs.running_mean, 1.6e-2)
    ours(x.requires_grad_()).sum().backward()
    assert ours.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_have_a_state_of_their_own(copied):
    module = bn.BatchNormReLU(5)
    other = copied(module)
    module(rand(4, 5))
    assert other.num_batches_tracked.item() == 0 and not torch.equal(other.running_mean, module.running_mean)


@pytest.mark.parametrize("kept_as", [torch.float32, torch.int32, torch.int64])
def test_the_number_of_batches_may_be_of_any_dtype(kept_as):
    theirs, ours = torch.nn.BatchNorm1d(1, momentum=None), bn.BatchNorm1d(1, momentum=None)
    for module in (theirs, ours):
        pair = torch.tensor([1, 7], dtype=kept_as)
        module.num_batches_tracked = pair[0]
        for _ in range(3):
            module(torch.tensor([[6.0], [8.0]]))
        module(torch.empty(0, 1)) if module is ours else None
        assert pair.tolist() == [5 if module is ours else 4, 7]
    assert torch.equal(ours.running_mean, theirs.running_mean)


def test_it_is_counted_without_statistics_too():
    module = bn.BatchNorm1d(5)
    module.running_mean = module.running_var = None
    module(rand(4, 5))
    assert module.num_batches_tracked.item() == 1


def test_parameters_of_another_shape_get_their_gradients():
    x, weight, bias = rand(4, 5, 2, 2), rand(1, 5, 1, 1).requires_grad_(), rand(5, dtype=torch.bfloat16).requires_grad_()
    bn.batch_norm(x, weight=weight, bias=bias, training=True).square().sum().backward()
    flat = weight.detach().flatten().requires_grad_()
    bn.batch_norm(x, weight=flat, bias=bias, training=True).square().sum().backward()
    assert torch.equal(weight.grad.flatten(), flat.grad) and bias.grad.dtype == torch.bfloat16


def test_a_bias_may_change_before_the_backward_pass_that_does_not_read_it():
    for module in (bn.BatchNorm1d(5), torch.nn.BatchNorm1d(5)):
        y = module(rand(4, 5).requires_grad_())
        with torch.no_grad():
            module.bias.add_(1.0)
        y.square().sum().backward()


@pytest.mark.parametrize("part", [lambda x: x[:, :4], lambda x: x[:, :, 1:], lambda x: x[:, :, :, ::2], lambda x: x[:1]])
def test_parts_of_channels_last_give_what_torch_gives(part):
    x = part(rand(2, 8, 4, 6).contiguous(memory_format=torch.channels_last))
    theirs, ours = torch.nn.BatchNorm2d(x.shape[1]), bn.BatchNorm2d(x.shape[1])
    a, b = ours(x), theirs(x)
    assert a.stride() == b.stride()
    close(a, b, 2e-6)


def test_inference_mode_trains_and_evaluates():
    module = bn.BatchNorm1d(5)
    with torch.inference_mode():
        module(rand(4, 5))
        y = module.eval()(rand(4, 5))
    assert module.num_batches_tracked.item() == 1 and y.is_inference()
    module.train()(rand(4, 5).requires_grad_()).sum().backward()


def test_checkpointing_recomputes_the_same():
    module, x = bn.BatchNormReLU(5), rand(4, 5).requires_grad_()
    module(x).square().sum().backward()
    want, x.grad = x.grad, None
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).square().sum().backward()
    assert torch.equal(x.grad, want)
    assert module.num_batches_tracked.item() == 3  # The recomputation is a step of its own, as with torch.nn.
