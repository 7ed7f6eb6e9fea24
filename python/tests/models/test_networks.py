"""Whole networks trained some steps: as they are, converted, and compiled through the backend, with the same in float64 to measure by."""

import copy

import pytest
import torch
import torch.nn.functional as F

import batchnorm.torch as bn

pytest.importorskip("torchvision")
pytest.importorskip("timm")

from networks import NETWORKS

STEPS = 3


def trained(forward, model, batches):
    """The losses and what is left behind: parameters and statistics."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    losses = []
    for x, labels in batches:
        torch.manual_seed(0)  # Of dropout.
        loss = F.cross_entropy(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.double() for name, value in model.state_dict().items()}


def distance(state, of):
    """The distance of a state from another: the median over its tensors of the error's part of each. A relu that falls to the other side moves
    some tensors far, in either; the median it does not move."""
    parts = [(state[name] - of[name]).norm() / of[name].norm() for name in of if of[name].norm()]
    return torch.stack(parts).median().item()


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def network(request):
    make, converted, by_backend = NETWORKS[request.param]
    torch.manual_seed(0)
    model, shape = make()
    batches = [(torch.randn(shape), torch.randint(0, 10, shape[:1])) for _ in range(STEPS)]
    twin = copy.deepcopy(model).double()
    _, of_twin = trained(twin, twin, [(x.double(), labels) for x, labels in batches])
    theirs = copy.deepcopy(model)
    losses, state = trained(theirs, theirs, batches)
    return model, batches, of_twin, losses, distance(state, of_twin), converted, by_backend


def expect_as_near(network, ours, forward):
    """Sees that training ends as near to float64 as torch.nn's does, up to half as far again: two ways of rounding differ by that."""
    _, batches, of_twin, their_losses, theirs, *_ = network
    losses, state = trained(forward, ours, batches)
    assert all(abs(a - b) <= 1e-2 * abs(b) for a, b in zip(losses, their_losses)), (losses, their_losses)
    assert state.keys() == of_twin.keys()
    assert distance(state, of_twin) <= 1.5 * theirs + 1e-7, f"{distance(state, of_twin)} from float64, torch.nn's {theirs}"


def test_a_converted_network_trains_as_the_original(network):
    ours = bn.convert(copy.deepcopy(network[0]))
    report = bn.report(ours)
    assert (len(report.activations), len(report.residuals), len(report.norms)) == network[5], report
    assert not report.left
    expect_as_near(network, ours, ours)
    bn.revert(ours)
    assert [type(module) for module in ours.modules()] == [type(module) for module in network[0].modules()]


def test_a_network_trains_through_the_backend(network):
    torch._dynamo.reset()
    ours, backend = copy.deepcopy(network[0]), bn.backend("aot_eager")
    expect_as_near(network, ours, torch.compile(ours, backend=backend, fullgraph=True))
    assert str(backend).startswith("fused {} + {} of {};".format(*network[6])), backend


# Few of them: each takes a compiler as long as all three steps.
@pytest.mark.parametrize("network", ["torchvision resnet18", "timm resnet26", "points"], indirect=True)
def test_a_converted_network_is_compiled_without_a_break(network):
    torch._dynamo.reset()
    ours = bn.convert(copy.deepcopy(network[0]))
    expect_as_near(network, ours, torch.compile(ours, backend="aot_eager", fullgraph=True))
