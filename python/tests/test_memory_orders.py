"""Orders of memory that a compiler chooses, and those of masks."""

import copy

import pytest
import torch
import torch._inductor.config
from torch import nn

import batchnorm.torch as bn
from support import rand


@torch._inductor.config.patch(force_disable_caches=True)
def test_a_compiler_may_choose_another_order_of_memory():
    """Inductor's convolutions are channels_last: between them and batch norms no copy is made, and masks mean what they meant."""
    from torch._inductor import metrics

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
            self.bn1, self.bn2 = bn.BatchNormReLU(8), bn.BatchNormAddReLU(8)

        def forward(self, x):
            return self.bn2(self.conv2(self.bn1(self.conv1(x))), x)

    torch._dynamo.reset()
    metrics.reset()
    model, x = Blocks(), rand(4, 8, 12, 12)
    results = []
    for each in (torch.compile(copy.deepcopy(model), fullgraph=True), model):
        of = x.clone().requires_grad_()
        y = each(of)
        y.backward(rand(*y.shape, seed=1))
        results.append((y, of.grad, *(parameter.grad for parameter in each.parameters())))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    count = metrics.generated_kernel_count
    assert count <= 6, f"{count} kernels: copies between layouts are back"


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 5, 2, 3, 2)])
def test_a_mask_is_in_the_order_that_a_graph_says(is_last, shape):
    """The order of x does not matter."""
    formats = torch.contiguous_format, {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)]
    x, z, dy, mean = rand(*shape), rand(*shape, seed=1), rand(*shape, seed=2), torch.zeros(5)
    weight, bias, var = rand(5, seed=3), rand(5, seed=4), torch.ones(5)
    for training in (True, False):
        results = []
        for memory_format in formats:
            of = x.contiguous(memory_format=memory_format)
            if training:
                rest = None, None, None, 0.1, 1e-5, "add_relu", True, False, False, is_last
                y, first, second, mask = torch.ops.batchnorm.train(of, z, weight, bias, *rest)
            else:
                first, second = mean, var
                y, mask = torch.ops.batchnorm.infer(of, z, weight, bias, mean, var, 1e-5, "add_relu", True, is_last)
            assert y.is_contiguous(memory_format=formats[is_last])
            rest = mask, is_last, None if training else 1e-5, "add_relu", True, True, True, True
            results.append([y, mask, *torch.ops.batchnorm.backward(dy, of, weight, bias, first, second, *rest)])
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(results[0][3] != 0, (results[0][0] > 0) & (dy != 0)), "dz is dy where y is above 0"


def test_a_mask_in_an_order_that_there_is_not_is_refused():
    with pytest.raises(RuntimeError, match="channels_last with 4 or 5 dimensions, got 2"):
        torch.ops.batchnorm.train(
            rand(4, 3), rand(4, 3), None, None, None, None, None, 0.1, 1e-5, "add_relu", True, False, False, True
        )
