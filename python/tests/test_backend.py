"""Models fused in the graphs of torch.compile, compared with the originals."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import batchnorm.torch as bn
from support import expect_alike, rand


class Net(nn.Module):
    """Two convolutions with a batch norm each, and what a function does with them."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.bn, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu, self.relu6, self.part = nn.ReLU(inplace=True), nn.ReLU6(), forward

    def forward(self, x):
        return self.part(self, x)


def double(*shape):
    """In float64, which leaves no room for what is nearly alike."""
    return rand(*shape, dtype=torch.float64)


def in_place(net, x):
    y = net.bn(net.conv(x))
    y += x
    return net.relu(y)


def into_another(net, x):
    """In place into what nothing else reads."""
    y = net.conv(x) * torch.sigmoid(x)
    y += net.bn(net.conv2(x))
    return net.relu(y)


def into_what_is_read(net, x):
    y = x.clone()
    view = y[:1]
    y += net.bn(x)
    return F.relu(y) + view.sum()


def twice(net, x):
    y = net.bn(x)
    return F.relu(y) + y


def returned(net, x):
    y = net.bn(x)
    return torch.stack([F.relu(y), y])


def doubled(net, x):
    y = net.bn(x)
    return F.relu(y + y)


def scaled(net, x):
    return F.relu(torch.add(net.bn(x), x, alpha=2))


def broadcast(net, x):
    return F.relu(net.bn(x) + x[:, :, :1])


def of_a_number(net, x):
    return F.relu(net.bn(x) + 1.0)


def of_bounds(net, x):
    return F.hardtanh(net.bn(x), 0.0, 6.0) + F.hardtanh(net.bn2(x), -1.0, 1.0)


def without_gradients(net, x):
    with torch.no_grad():
        y = F.relu(net.bn(x))
    return net.conv(y)


def functional(net, x):
    y = F.relu(F.batch_norm(x, None, None, training=True))
    return F.relu(torch.batch_norm(y, net.bn.weight, net.bn.bias, net.bn.running_mean, net.bn.running_var, True, 0.2, 1e-3, True))


def with_float_residual(net, x):
    return F.relu(net.bn(x) + x.float())


def below_no_grad(net, x):
    with torch.no_grad():
        y = net.bn(x)
    return F.relu(y) * x


def sum_below_no_grad(net, x):
    with torch.no_grad():
        y = net.bn(x) + x
    return F.relu(y) * x


def residual_changed_behind(net, x):
    z = x * 3.0
    y = net.bn(x) + z
    z.mul_(2.0)
    return F.relu(y) + z


def input_changed_between(net, x):
    z = x * 3.0
    with torch.no_grad():
        y = net.bn(z)
        z.add_(1.0)
        y = F.relu(y + z)
    return y + x


def input_changed_before_relu(net, x):
    with torch.no_grad():
        z = x * 3.0
        y = net.bn(z)
        z.add_(1.0)
        y = F.relu(y)
    return y + z * x


def norm_twice(net, x):
    y, z = net.bn(x), net.bn(net.conv(x))
    return F.relu(z) + F.relu(y)


def norm_twice_in_a_sum(net, x):
    return F.relu(net.bn(x) + net.bn(net.conv(x)))


def statistics_read_between(net, x):
    y = net.bn(x)
    mean = net.bn.running_mean.clone()
    return F.relu(y) + F.relu(net.bn2(x) + net.bn2.running_var.clone().view(1, 4, 1, 1) * x) + mean.view(1, 4, 1, 1)


def weight_changed_between(net, x):
    y = net.bn(x)
    with torch.no_grad():
        net.bn.bias.add_(1.0)
    return F.relu(y + x)


@torch.library.custom_op("batchnorm_tests::scale", mutates_args=("x",))
def scale(x: torch.Tensor, by: float) -> None:
    x.mul_(by)


def changed_by_an_operation(net, x):
    with torch.no_grad():
        z = net.conv(x)
        y = net.bn(z)
        torch.ops.batchnorm_tests.scale(z, 3.0)
        y = F.relu(y + x)
    return y + x


def changed_by_an_overload(net, x):
    with torch.no_grad():
        z = net.conv(x)
        y = net.bn(z)
        torch.ops.aten.mul_.Tensor(z, z)
        y = F.relu(y + x)
    return y + x


GRAPHS = [
    (changed_by_an_operation, ["identity"]),
    (changed_by_an_overload, ["identity"]),
    (below_no_grad, ["identity"]),
    (sum_below_no_grad, ["identity"]),
    (residual_changed_behind, ["add_relu"]),
    (input_changed_between, ["identity"]),
    (input_changed_before_relu, ["relu"]),
    (norm_twice, ["relu", "relu"]),
    (norm_twice_in_a_sum, ["identity", "add_relu"]),
    (statistics_read_between, ["relu", "identity"]),
    (weight_changed_between, ["identity"]),
    (lambda net, x: net.relu(net.bn(net.conv(x))), ["relu"]),
    (lambda net, x: net.relu6(net.bn(x)) + F.silu(net.bn2(x)), ["relu6", "silu"]),
    (lambda net, x: F.hardswish(net.bn(x)).relu() + net.bn2(x).relu_(), ["hardswish", "relu"]),
    (lambda net, x: net.relu(net.bn(x) + net.bn2(net.conv(x))), ["identity", "add_relu"]),
    (lambda net, x: F.relu(x.add(net.bn(x))), ["add_relu"]),
    (in_place, ["add_relu"]),
    (into_another, ["add_relu"]),
    (into_what_is_read, ["identity"]),
    (twice, ["identity"]),
    (returned, ["identity"]),
    (doubled, ["identity"]),
    (scaled, ["identity"]),
    (broadcast, ["identity"]),
    (of_a_number, ["identity"]),
    (of_bounds, ["relu6", "identity"]),
    (without_gradients, ["relu"]),
    (functional, ["relu", "relu"]),
    (with_float_residual, ["identity"]),
    (lambda net, x: F.silu(net.bn(x) + x), ["identity"]),
    (lambda net, x: F.leaky_relu(net.bn(x)), ["identity"]),
]


@pytest.mark.parametrize("forward, expected", GRAPHS)
def test_a_graph_gives_what_the_model_gives(forward, expected):
    ran = []

    def inner(module, inputs):
        ran.append([node.args[9] for node in module.graph.nodes if node.target is torch.ops.batchnorm.train.default])
        return module.forward

    torch._dynamo.reset()
    model, x, backend = Net(forward).double(), double(3, 4, 5, 5), bn.backend(inner)
    expect_alike(torch.compile(copy.deepcopy(model), backend=backend, fullgraph=True), model, x)
    assert sorted(ran[0]) == sorted(expected)
    graph, residuals = backend.graphs[0], expected.count("add_relu")
    assert (graph.norms, graph.residuals) == (len(expected), residuals)
    assert graph.activations == len(expected) - residuals - expected.count("identity")


@pytest.mark.parametrize("inner", ["aot_eager", "inductor", lambda module, inputs: module.forward])
def test_inner_backends_get_the_fused_graph(inner):
    torch._dynamo.reset()
    model, backend = Net(in_place).double(), bn.backend(inner)
    expect_alike(torch.compile(copy.deepcopy(model), backend=backend, fullgraph=True), model, double(3, 4, 5, 5))
    assert str(backend).startswith("fused 0 + 2 of 2" if inner == "aot_eager" else "fused 0 + 1 of 2"), "with evaluation"


def test_inductor_gets_its_mode_and_options():
    model, x = Net(in_place).double(), double(3, 4, 5, 5)
    options = {"options": {"epilogue_fusion": False}}
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), backend=bn.backend(mode="default"), **options)
    torch.testing.assert_close(compiled(x), model(x))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="no_such_option"):
        torch.compile(model, backend=bn.backend(options={"no_such_option": 1}))(x)


def test_a_channels_last_model_and_one_under_autocast():
    torch._dynamo.reset()
    model = Net(in_place).to(memory_format=torch.channels_last)
    x = rand(3, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(copy.deepcopy(model), backend=bn.backend("aot_eager"))
    expect_alike(compiled, model, x, rtol=1e-3, atol=1e-3)
    assert compiled(x).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y, want = compiled(x), model(x)
    torch.testing.assert_close(y, want, rtol=2e-2, atol=2e-2)


def test_other_batches_keep_the_kernels():
    torch._dynamo.reset()
    model = Net(in_place).double()
    for options in ({}, {"dynamic": True}):
        torch._dynamo.reset()
        backend = bn.backend("aot_eager")
        compiled = torch.compile(copy.deepcopy(model), backend=backend, **options)
        for n in (2, 5, 7):
            expect_alike(compiled, model, double(n, 4, 5, 5))
        assert len(backend.graphs) <= 4 and all(graph.residuals == 1 for graph in backend.graphs)


def test_what_kernels_do_not_take_stays():
    torch._dynamo.reset()
    model = Net(lambda net, x: net.relu(net.bn(x)))
    model.bn.momentum = 1.5  # torch takes it.
    backend = bn.backend("eager")
    expect_alike(torch.compile(copy.deepcopy(model), backend=backend), model, rand(3, 4, 5, 5))
    assert backend.graphs[0].activations == 0


def test_it_says_what_it_did(caplog):
    torch._dynamo.reset()
    backend = bn.backend("eager")
    assert str(backend) == "fused 0 + 0 of 0; left: 0"
    with caplog.at_level(logging.INFO, "batchnorm.torch"):
        torch.compile(Net(in_place), backend=backend)(rand(2, 4, 3, 3))
    assert caplog.messages[-1] == str(backend.graphs[0]) == str(backend) == "fused 0 + 1 of 1; left: 0"
    assert repr(backend) == "<batchnorm.torch.backend('eager'): fused 0 + 1 of 1; left: 0>"


def test_backends_that_are_none_are_refused():
    with pytest.raises(ValueError, match="expected a backend of torch.compile, as .*inductor.*, got 'inductr'"):
        bn.backend("inductr")
    with pytest.raises(TypeError, match="expected the name of a backend or a function, got int"):
        bn.backend(3)
