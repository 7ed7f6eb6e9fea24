"""Derivatives of all orders beside torch.nn's, in float64: backward passes that are differentiated, those of torch.func, forward ones."""

import copy
import itertools

import pytest
import torch
import torch.utils.checkpoint
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, hvp, jvp, vhp

import batchnorm.torch as bn
from batchnorm.torch._functional import ACTIVATION
from batchnorm.torch._kinds import EPILOGUE
from support import close, rand

KINDS = list(EPILOGUE)
IDS = [f"{activation}{'-residual' if residual else ''}" for activation, residual in KINDS]


class Parts(torch.nn.Module):
    """torch.nn's batch norm, a residual and an activation one behind the other."""

    def __init__(self, activation, residual, c=3):
        super().__init__()
        self.norm, self.activation, self.residual = torch.nn.BatchNorm2d(c), ACTIVATION[activation], residual

    def forward(self, x, z=None):
        y = self.norm(x)
        return self.activation(y + z if self.residual else y)


class Ours(torch.nn.Module):
    """The same in one operation."""

    def __init__(self, parts, activation, residual):
        super().__init__()
        self.norm, self.names = bn.convert(copy.deepcopy(parts.norm)), (activation, residual)

    def forward(self, x, z=None):
        norm, (activation, residual) = self.norm, self.names
        counter = norm.num_batches_tracked if self.training else None
        return bn.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training, norm.momentum, norm.eps,
            num_batches_tracked=counter, residual=z if residual else None, activation=activation,
        )


def pair(activation="identity", residual=False, training=True):
    """Both in float64, with parameters and statistics that are not 1 and 0, and values on all sides of where activations bend."""
    parts = Parts(activation, residual).double()
    with torch.no_grad():
        parts.norm.weight.copy_(torch.tensor([3.0, -2.0, 1.5])), parts.norm.bias.copy_(torch.tensor([1.0, 0.5, 2.0]))
        parts.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3])), parts.norm.running_var.copy_(torch.tensor([0.8, 1.2, 2.0]))
    return parts.train(training), Ours(parts, activation, residual).train(training)


def inputs(seed=0):
    return [rand(4, 3, 3, 2, seed=seed + i, dtype=torch.float64) for i in range(2)]


def same(got, want, what=""):
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        close(a, b, 1e-9, f"{what} {i}")


@pytest.mark.parametrize("training, kind", list(itertools.product([True, False], KINDS)), ids=str)
def test_gradgradcheck(training, kind):
    activation, residual = kind
    weight, bias = (rand(3, seed=s, dtype=torch.float64).requires_grad_() for s in (2, 3))
    mean, var = rand(3, seed=4, dtype=torch.float64), rand(3, seed=5, dtype=torch.float64).abs() + 0.5

    def f(x, z, weight, bias):
        return bn.batch_norm(
            x, mean.clone(), var.clone(), weight, bias, training, residual=z if residual else None, activation=activation
        )

    x, z = (tensor.requires_grad_() for tensor in inputs())
    assert torch.autograd.gradgradcheck(f, (x, z, weight, bias), check_batched_grad=False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_second_derivatives_are_those_of_torch(kind, training):
    (x, z), (v, _) = inputs(), inputs(7)
    results = []
    for module in pair(*kind, training):
        loss = lambda x, module=module: module(x, z).pow(3).sum()
        of_jvp = jvp(lambda x, module=module: module(x, z), x, v)[1]
        results.append([hvp(loss, x, v)[1], vhp(loss, x, v)[1], hessian(loss, x), of_jvp])
    same(results[1], results[0])


@pytest.mark.parametrize("how", ["backward", "backward(inputs=)", "grad"])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_penalties_reach_the_parameters(training, how):
    results = []
    for module in pair("relu", True, training):
        x, z = (tensor.requires_grad_() for tensor in inputs())
        dx, dz = torch.autograd.grad(module(x, z).pow(3).sum(), (x, z), create_graph=True)
        loss = module(x, z).square().mean() + (dx.flatten(1).norm(dim=1) - 1).square().mean() + dz.square().mean()
        parameters = list(module.parameters())
        if how == "grad":
            results.append(torch.autograd.grad(loss, parameters))
            continue
        loss.backward(**({} if how == "backward" else {"inputs": parameters}))
        results.append([parameter.grad for parameter in parameters])
    same(results[1], results[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_penalties_have_zeros_where_those_of_torch_have(kind, training):
    """And not nothing, which optimizers take for a parameter that had no part in the step."""
    reached = []
    for module in pair(*kind, training):
        x, z = (tensor.requires_grad_() for tensor in inputs())
        v = inputs(3)[0].requires_grad_()
        named = {"x": x, "z": z, "weight": module.norm.weight, "bias": module.norm.bias, "v": v}
        got = {}
        for of in [name for name in named if name != "v" and (kind[1] or name != "z")]:
            gradient, = torch.autograd.grad(module(x, z), named[of], v, create_graph=True)
            if gradient.requires_grad:
                second = torch.autograd.grad(gradient.pow(2).sum(), list(named.values()), allow_unused=True)
                got |= {(of, by): each for by, each in zip(named, second)}
        reached.append(got)
    theirs, ours = reached
    for key, want in theirs.items():
        if kind[1] and key[1] in ("z", "bias"):
            # A residual's pass keeps neither: nobody computes with them.
            assert all(each is None or not each.any() for each in (want, ours.get(key)))
        elif want is not None:
            close(ours[key], want, 1e-9, str(key))


@pytest.mark.parametrize("training", [True, False])
def test_maml_differentiates_its_own_step(training):
    results = []
    for module in pair("silu", False, training):
        x, _ = inputs()
        parameters = dict(module.named_parameters())
        inner = torch.func.functional_call(module, parameters, (x,)).pow(3).mean()
        steps = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
        stepped = {name: p - 0.5 * step for (name, p), step in zip(parameters.items(), steps)}
        outer = torch.func.functional_call(module, stepped, (x + 1,)).pow(3).mean()
        results.append(torch.autograd.grad(outer, list(parameters.values())))
    same(results[1], results[0])


@pytest.mark.parametrize("training", [True, False])
def test_third_derivatives_are_the_differences_of_second_ones(training):
    _, module = pair("silu", False, training)
    x, v = inputs()
    of = lambda x: hvp(lambda x: module(x).pow(3).sum(), x, v, create_graph=x.requires_grad)[1].square().sum()
    x.requires_grad_()
    (third,) = torch.autograd.grad(of(x), x)
    step = 1e-5
    with torch.no_grad():
        low, high = x - step * v, x + step * v
    slope = (of(high) - of(low)) / (2 * step)
    torch.testing.assert_close((third * v).sum(), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_masks_are_read_in_the_order_of_memory(format, dtype):
    parts, ours = pair("relu", True)
    x, z = (tensor.to(dtype).contiguous(memory_format=format) for tensor in inputs())
    results = []
    for module, kind in ((parts, torch.float64), (ours.float(), dtype)):
        a, b = (tensor.to(kind, copy=True).requires_grad_() for tensor in (x, z))
        dx, dz = torch.autograd.grad(module(a, b).pow(2).sum(), (a, b), create_graph=True)
        results.append(torch.autograd.grad((dx * z).sum() + dz.square().sum(), (a, b)))
    for got, want in zip(results[1], results[0]):
        close(got, want, 1e-4 if dtype == torch.float32 else 0.2)


def test_a_backward_pass_without_a_graph_keeps_none():
    _, module = pair("relu")
    x = inputs()[0].requires_grad_()
    module(x).sum().backward()
    assert x.grad.grad_fn is None and not x.grad.requires_grad


def untracked(module):
    """Without running statistics: torch.func refuses a function that writes what it has not been given."""
    module.norm.running_mean = module.norm.running_var = module.norm.num_batches_tracked = None
    return module


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_a_function(training):
    (x, z), results = inputs(), []
    for module in pair("relu", True, training):
        module = untracked(module) if training else module
        loss = lambda x, z, module=module: module(x, z).pow(3).mean()
        results.append([*torch.func.grad(loss, (0, 1))(x, z), torch.func.hessian(loss)(x, z)])
    same(results[1], results[0])


@pytest.mark.parametrize("of", [torch.func.jacrev, torch.func.jacfwd], ids=lambda of: of.__name__)
def test_jacobians(of):
    (x, _), results = inputs(), []
    for module in pair("hardswish"):
        results.append([of(untracked(module))(x)])
    same(results[1], results[0])


def test_vmap_of_an_evaluation_and_gradients_of_each_sample():
    (x, _), results = inputs(), []
    for module in pair("relu6", training=False):
        parameters = {name: p.detach() for name, p in module.named_parameters()}
        loss = lambda parameters, x, module=module: torch.func.functional_call(module, parameters, (x.unsqueeze(0),)).pow(2).sum()
        of_samples = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        y = torch.func.vmap(lambda x, module=module: module(x.unsqueeze(0)))(x)
        results.append([y, *of_samples.values()])
    same(results[1], results[0])


@pytest.mark.parametrize("transform", ["grad", "grad of each", "jacrev"])
def test_compiled_transforms_of_an_evaluation(transform):
    torch._dynamo.reset()
    module, x = pair(training=False)[1], inputs()[0]
    loss = lambda x: module(x).square().sum()
    of = {
        "grad": torch.func.grad(loss),
        "grad of each": torch.func.vmap(torch.func.grad(lambda each: loss(each[None]))),
        "jacrev": torch.func.jacrev(lambda x: module(x).sum((2, 3))),
    }[transform]
    compiled = torch.compile(lambda x: of(x), backend="aot_eager", fullgraph=True)
    close(compiled(x), of(x), 1e-9)


def test_vmap_of_a_training_pass_is_refused_in_the_words_of_torch():
    words = []
    for module in pair():
        before = module.norm.running_mean.clone()
        with pytest.raises(RuntimeError) as refusal:
            torch.func.vmap(lambda x, module=module: module(x.unsqueeze(0)))(inputs()[0])
        words.append(str(refusal.value))
        assert torch.equal(module.norm.running_mean, before)
    assert words[0] == words[1] and "vmap" in words[0]


def test_a_batch_of_gradients():
    results = []
    for module in pair("relu"):
        x = inputs()[0].requires_grad_()
        y = module(x)
        dys = torch.stack([torch.ones_like(y), y.detach(), -y.detach()])
        results.append(torch.autograd.grad(y, (x, *module.parameters()), dys, is_grads_batched=True))
    same(results[1], results[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_a_jacobian_by_batches_can_be_differentiated(kind, training):
    results = []
    for module in pair(*kind, training):
        x, z = (tensor.requires_grad_() for tensor in inputs())
        of = torch.autograd.functional.jacobian(lambda x, z: module(x, z).sum(0), (x, z), vectorize=True, create_graph=True)
        loss = sum(gradient.pow(2).sum() for gradient in of) + x.sum() + z.sum()
        results.append([*(gradient.detach() for gradient in of), *torch.autograd.grad(loss, (x, z))])
    same(results[1], results[0])


@pytest.mark.parametrize("training", [True, False])
def test_forward_derivatives(training):
    (x, z), (v, w), results = inputs(), inputs(5), []
    for module in pair("relu", True, training):
        with forward_ad.dual_level():
            y = module(forward_ad.make_dual(x, v), forward_ad.make_dual(z, w))
            results.append(list(forward_ad.unpack_dual(y)))
    same(results[1], results[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "silu"], ids=str)
def test_forward_derivatives_of_backward_passes(kind, training):
    """Of a pass that began without them. PyTorch's silu has none."""
    results = []
    for module in pair(*kind, training):
        x, z = (tensor.requires_grad_() for tensor in inputs())
        y = module(x, z)
        dy, tangent = (rand(*y.shape, seed=s, dtype=torch.float64) for s in (8, 9))
        backward = lambda dy, y=y, x=x: torch.autograd.grad(y, x, dy, retain_graph=True)[0]
        with forward_ad.dual_level():
            dual = list(forward_ad.unpack_dual(backward(forward_ad.make_dual(dy, tangent))))
        # The pass is linear in dy: its derivative is itself.
        assert dual[1] is not None
        same(dual, [backward(dy), backward(tangent)])
        results.append([*dual, *torch.func.jvp(backward, (dy,), (tangent,)), torch.func.vmap(backward)(torch.stack([dy, tangent]))])
    same(results[1], results[0])


def test_transforms_of_a_training_pass_move_the_statistics_that_they_are_given():
    moved = []
    for module in pair("relu"):
        x = inputs()[0]
        with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
            torch.func.grad(lambda x, module=module: module(x).sum())(x)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

        def loss(x, buffers, module=module):
            y = torch.func.functional_call(module, buffers, (x,))
            return y.pow(2).sum(), buffers

        moved.append(list(torch.func.grad(loss, has_aux=True)(x, buffers)[1].values()))
    for got, want in zip(moved[1], moved[0]):
        torch.testing.assert_close(got, want)
