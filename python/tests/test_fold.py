"""Batch norms folded into the layers before them, compared with the pairs."""

import copy

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import batchnorm.torch as bn
from batchnorm.torch._modules import FUSED


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_layer_gives_what_the_pair_gives(bias, affine):
    torch.manual_seed(3)
    pairs = [
        (nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, torch.rand(3, 4)),
        (nn.Conv1d(4, 6, 3, bias=bias), nn.BatchNorm1d, torch.rand(3, 4, 8)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), bn.BatchNorm2d, torch.rand(3, 4, 5, 5)),
        (nn.Conv3d(4, 6, 2, bias=bias), bn.BatchNorm3d, torch.rand(2, 4, 3, 3, 3)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=bias), bn.BatchNorm2d, torch.rand(3, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3, bias=bias), nn.BatchNorm1d, torch.rand(3, 4, 5)),
    ]
    for layer, norm, x in pairs:
        norm = norm(6, affine=affine).eval()
        with torch.no_grad():
            norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
            for parameter in norm.parameters():
                parameter.uniform_(-2, 2)
        before = copy.deepcopy(layer.state_dict())
        folded = bn.fold(layer, norm)
        torch.testing.assert_close(folded(x), norm(layer(x)), rtol=1e-5, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), before.values()))
        assert folded.weight.requires_grad and type(folded) is type(layer)


def test_where_running_var_and_eps_cancel_a_folded_layer_gives_the_bias():
    """As 32-bit numbers they do: 1e-5 is a little more in 64 bits. Below, both give NaN."""
    torch.manual_seed(3)
    layer, norm, x = nn.Conv2d(2, 3, 1), bn.BatchNorm2d(3, eps=1e-5).eval(), torch.rand(2, 2, 4, 4)
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([-1e-5, -1.0, 1.0])), norm.bias.uniform_(-2, 2)
    pair, folded = norm(layer(x)), bn.fold(layer, norm)(x)
    for y in (pair, folded):
        assert torch.equal(y[:, 0], norm.bias[0].expand_as(y[:, 0])) and y[:, 1].isnan().all()
    torch.testing.assert_close(folded[:, 2], pair[:, 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation, fused", FUSED.items())
def test_folding_leaves_a_fused_activation_behind_the_layer(activation, fused):
    conv, norm = nn.Conv2d(3, 4, 1), fused(4)
    x = torch.randn(2, 3, 5, 5)
    norm(conv(x))
    folded = bn.fold(conv, norm.eval())
    assert type(folded[1]) is activation
    torch.testing.assert_close(folded(x), norm(conv(x)), rtol=1e-5, atol=1e-5)


class Activated(nn.BatchNorm2d):
    def forward(self, input):
        return torch.relu(super().forward(input))


@pytest.mark.parametrize(
    "layer, norm, kind, words",
    [
        (nn.Conv2d(3, 4, 1), Activated(4).eval(), TypeError, "a batch norm with running statistics, got Activated"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4).eval(), TypeError, "ParametrizedConv2d"),
        (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), ValueError, "in evaluation, got one in training"),
        (nn.Conv2d(3, 4, 1), nn.BatchNorm1d(4).eval(), TypeError, "what a Conv2d gives, got BatchNorm1d"),
        (nn.utils.prune.identity(nn.Linear(3, 4), "weight"), nn.BatchNorm1d(4).eval(), ValueError, "layer without hooks"),
        (nn.LazyConv2d(4, 1), nn.BatchNorm2d(4).eval(), TypeError, "got LazyConv2d"),
    ],
)
def test_what_a_fold_would_drop_is_refused(layer, norm, kind, words):
    with pytest.raises(kind, match=words):
        bn.fold(layer, norm)


def test_a_channel_without_variance_folds_to_its_bias():
    norm = bn.BatchNorm1d(4, eps=0.0).eval()
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([0.0, 1.0, 0.0, 2.0])), norm.bias.uniform_(1, 2)
    layer, x = nn.Linear(3, 4), torch.randn(5, 3)
    folded = bn.fold(layer, norm)(x)
    torch.testing.assert_close(folded, norm(layer(x)))
    assert torch.equal(folded[:, 0], norm.bias[0].expand(5))


def test_a_frozen_layer_folds_to_a_frozen_one():
    folded = bn.fold(nn.Conv2d(3, 4, 1, bias=False).requires_grad_(False), nn.BatchNorm2d(4).eval())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(TypeError, match="a Linear or a convolution of torch.nn to fold into, got ReLU"):
        bn.fold(nn.ReLU(), nn.BatchNorm1d(3))
    with pytest.raises(TypeError, match="a batch norm with running statistics"):
        bn.fold(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(TypeError, match="a batch norm with running statistics, got BatchNormAddReLU"):
        bn.fold(nn.Linear(2, 3), bn.BatchNormAddReLU(3))
    with pytest.raises(ValueError, match="a layer of 4 outputs, got 3"):
        bn.fold(nn.Linear(2, 3), nn.BatchNorm1d(4).eval())
