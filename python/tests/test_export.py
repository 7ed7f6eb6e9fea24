"""Converted models in evaluation, as tracers and exporters see them: made of PyTorch's own operations."""

import copy

import pytest
import torch
import torch.ao.quantization
import torch.fx.experimental.optimization
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import batchnorm.torch as bn
from support import expect_alike, rand


class Net(nn.Module):
    """Convolutions with what is fused, in a `Sequential` and in a forward, and by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.by_hand, self.with_residual = bn.BatchNormSiLU(4), bn.BatchNormAddReLU(4)

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x))
        y += x
        y = self.act(y)
        return self.with_residual(self.by_hand(y), x)


@pytest.fixture(scope="module")
def net():
    model = Net()
    for seed in range(3):
        model(rand(4, 3, 8, 8, seed=seed))
    return bn.convert(model).eval()


X = rand(2, 3, 8, 8, seed=9)


def targets(graph):
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


def test_an_exported_program_is_of_operations_of_pytorch(net):
    for strict in (False, True):
        program = torch.export.export(net, (X,), strict=strict)
        for each in (program, program.run_decompositions()):
            assert not [target for target in targets(each.graph) if "batchnorm" in target]
            torch.testing.assert_close(each.module()(X), net(X), rtol=1e-5, atol=1e-5)


def test_tracers_record_operations_of_pytorch(net):
    graph = make_fx(net)(X)
    assert not [target for target in targets(graph.graph) if "batchnorm" in target]
    traced = torch.jit.trace(net, X)
    assert "batchnorm::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(X), net(X), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.jit.freeze(traced)(X), net(X), rtol=1e-5, atol=1e-5)


def test_compiled_evaluation_is_of_operations_of_pytorch(net):
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net, backend=backend, fullgraph=True)(X), net(X), rtol=1e-5, atol=1e-5)
    (graph,) = graphs
    assert not [target for target in targets(graph.graph) if "batchnorm" in target]


def test_batch_norms_are_leaves_of_torch_fx(net):
    graph = torch.fx.symbolic_trace(net)
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert called == ["stem.0", "stem.1", "stem.2", "conv", "bn", "act", "by_hand", "with_residual"]
    torch.testing.assert_close(graph(X), net(X), rtol=1e-5, atol=1e-5)
    fused = torch.fx.experimental.optimization.fuse(copy.deepcopy(net).requires_grad_(False))
    torch.testing.assert_close(fused(X), net(X), rtol=1e-5, atol=1e-5)
    training = copy.deepcopy(net).train()
    expect_alike(torch.fx.symbolic_trace(copy.deepcopy(training)), training, X)


@pytest.mark.parametrize("names", [["0", "1"], ["0", "1", "2"]])
@pytest.mark.parametrize("training", [True, False])
def test_eager_quantization_takes_it_for_what_it_was(names, training):
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    original(rand(4, 3, 8, 8))
    converted = bn.convert(copy.deepcopy(original))
    fuse = torch.ao.quantization.fuse_modules_qat if training else torch.ao.quantization.fuse_modules
    got, want = (fuse(model.train(training), names) for model in (converted, original))
    assert type(got[0]) is type(want[0]) and type(got[1]) is type(want[1]) is nn.Identity
    torch.testing.assert_close(got(X), want(X), rtol=1e-5, atol=1e-5)


def test_a_residual_and_all_activations_are_composed():
    for activation in (F.relu, F.relu6, F.silu, F.hardswish):
        norm = bn.BatchNorm2d(3).eval().requires_grad_(False)
        statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias

        def function(x):
            return bn.batch_norm(x, *statistics, activation=activation.__name__)

        torch.testing.assert_close(torch.jit.trace(function, X)(X), activation(norm(X)), rtol=1e-5, atol=1e-5)
