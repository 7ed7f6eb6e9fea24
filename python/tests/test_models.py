"""Models converted and folded, compared with the originals."""

import copy

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import batchnorm.torch as bn
from batchnorm.torch._modules import FUSED


class Block(nn.Module):
    """A residual block as torchvision writes it."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


def resnet():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return nn.Sequential(stem, Block(8, 16, 1), Block(16, 32, 2), head)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_converted_resnet_trains_as_the_original(fuse):
    original = resnet()
    converted = bn.convert(copy.deepcopy(original), fuse=fuse)
    kinds = [type(module) for module in converted.modules()]
    assert nn.BatchNorm2d not in kinds and bn.BatchNorm2d in kinds
    assert (bn.BatchNormReLU in kinds) == fuse
    assert list(converted.state_dict()) == list(original.state_dict())
    models = original, converted
    optimizers = [torch.optim.SGD(model.parameters(), 0.05, momentum=0.9) for model in models]
    generator = torch.Generator().manual_seed(1)
    first = last = None
    for step in range(12):
        x = torch.randn(16, 3, 10, 10, generator=generator)
        labels = torch.randint(0, 10, (16,), generator=generator) if step == 0 else labels
        x = x if step == 0 else first_x
        first_x = x
        losses = []
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) < 1e-3 * max(losses), f"step {step}: {losses}"
        first, last = first or losses[1], losses[1]
    assert last < 0.7 * first, "it learns nothing"
    x = torch.randn(4, 3, 10, 10, generator=generator)
    torch.testing.assert_close(converted.eval()(x), original.eval()(x), rtol=1e-2, atol=1e-2)


def test_convert_keeps_tensors_hooks_and_subclasses():
    class Special(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(), Special(3), nn.BatchNorm1d(3).eval())
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    weight = model[0].weight
    assert bn.convert(model) is model
    kinds = [type(module) for module in model]
    assert kinds == [bn.BatchNormReLU, nn.Identity, bn.BatchNorm2d, nn.ReLU, Special, bn.BatchNorm1d]
    assert model[0].weight is weight and not model[5].training
    model[2](torch.rand(2, 3, 2, 2))
    assert calls == [1]
    assert type(bn.convert(nn.BatchNorm3d(2))) is bn.BatchNorm3d


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


class ConvNormActivation(nn.Sequential):
    """A block as torchvision's models have it: a class of its own without a forward."""

    def __init__(self, c_in, c_out, activation):
        super().__init__(nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out), activation(inplace=True))


@pytest.mark.parametrize("activation, fused", FUSED.items())
def test_convert_fuses_each_activation_in_blocks_of_their_own_class(activation, fused):
    torch.manual_seed(4)
    model = nn.Sequential(ConvNormActivation(3, 4, activation), ConvNormActivation(4, 2, activation))
    converted = bn.convert(copy.deepcopy(model))
    assert all(type(block[1]) is fused and type(block[2]) is nn.Identity for block in converted)
    x = torch.randn(2, 3, 5, 5)
    for training in (True, False):
        y, want = converted.train(training)(x), model.train(training)(x)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
        y.square().sum().backward(), want.square().sum().backward()
    for got, wanted in zip(converted.parameters(), model.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-4)


class Conv(nn.Module):
    """A block as YOLO has it, whose activation is called in a forward of its own."""

    def __init__(self, norm, activation):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 3, bias=False), norm(4, eps=1e-3, momentum=0.03), activation()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


@pytest.mark.parametrize("activation, fused", FUSED.items())
def test_a_block_with_a_forward_of_its_own_is_fused_by_hand(activation, fused):
    torch.manual_seed(5)
    model, by_hand = Conv(nn.BatchNorm2d, activation), Conv(fused, nn.Identity)
    by_hand.load_state_dict(model.state_dict())
    assert type(bn.convert(copy.deepcopy(model)).bn) is bn.BatchNorm2d
    x = torch.randn(2, 3, 5, 5)
    y, want = by_hand(x), model(x)
    y.square().sum().backward(), want.square().sum().backward()
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(by_hand.parameters(), model.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-4)
    for got, wanted in zip(by_hand.buffers(), model.buffers()):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_sequential_with_a_forward_of_its_own_is_not_fused():
    class Twice(nn.Sequential):
        def forward(self, x):
            return self[0](x) + super().forward(x)

    model = Twice(nn.BatchNorm1d(3), nn.SiLU()).eval()
    x = torch.randn(4, 3)
    want = model(x)
    torch.testing.assert_close(bn.convert(model)(x), want)
    assert [type(module) for module in model] == [bn.BatchNorm1d, nn.SiLU]


def test_a_sequential_that_calls_its_modules_otherwise_is_not_fused():
    class Reversed(nn.Sequential):
        def __iter__(self):
            return iter([*super().__iter__()][::-1])

    class Around(nn.Sequential):
        def __call__(self, x):
            return self[1](x + self[0](x))

    for cls in (Reversed, Around):
        model, x = cls(nn.BatchNorm1d(3), nn.ReLU()).eval(), torch.randn(4, 3)
        want = model(x)
        torch.testing.assert_close(bn.convert(model)(x), want)
        assert type(model[0]) is bn.BatchNorm1d and type(model[1]) is nn.ReLU
    quantized = torch.ao.nn.intrinsic.ConvBnReLU2d(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    assert type(bn.convert(quantized)[1]) is bn.BatchNorm2d


def test_a_relu6_of_other_bounds_is_not_fused():
    model, x = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU6()).eval(), torch.full((4, 3), 2.0)
    model[1].max_val = 1.0
    torch.testing.assert_close(bn.convert(model)(x), torch.ones(4, 3))
    assert type(model[1]) is nn.ReLU6


def test_a_compiled_norm_loses_no_activation():
    model, x = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()).eval(), torch.randn(4, 3)
    want = model(x)
    model[0].compile(backend="eager")
    model[0](x)
    torch.testing.assert_close(bn.convert(model)(x), want)
    assert type(model[0]) is bn.BatchNormReLU


def test_a_norm_before_two_activations_is_not_fused():
    shared = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": nn.Sequential(shared, nn.SiLU())})
    bn.convert(model)
    assert type(model["a"][0]) is bn.BatchNorm1d and type(model["a"][1]) is nn.ReLU and type(model["b"][1]) is nn.SiLU


def test_what_replaces_batch_norms_loses_no_relu():
    """`SyncBatchNorm.convert_sync_batchnorm` takes every `_BatchNorm` for one without a relu."""
    model = nn.Sequential(bn.BatchNorm2d(3), bn.BatchNormReLU(3), bn.BatchNormAddReLU(3))
    kinds = [type(module) for module in nn.SyncBatchNorm.convert_sync_batchnorm(model)]
    assert kinds == [nn.SyncBatchNorm, bn.BatchNormReLU, bn.BatchNormAddReLU]


def test_convert_looks_at_what_is_right_behind():
    act = nn.LogSigmoid()
    model = nn.Sequential(act, nn.BatchNorm1d(3), act, nn.ReLU()).eval()
    x = torch.randn(4, 3)
    want = model(x)
    assert torch.equal(bn.convert(model)(x), want)
    kinds = [type(module) for module in model._modules.values()]
    assert kinds == [nn.LogSigmoid, bn.BatchNorm1d, nn.LogSigmoid, nn.ReLU]


def test_convert_keeps_shared_modules_shared():
    shared, fused, relu = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.ReLU()
    model = nn.ModuleDict(
        {
            "a": nn.Sequential(shared, relu, fused, relu),
            "b": nn.Sequential(shared, nn.Tanh(), fused, nn.ReLU()),
        }
    )
    model.again = shared
    bn.convert(model)
    a, b = model["a"], model["b"]
    assert a[0] is b[0] is model.again and type(a[0]) is bn.BatchNorm1d and a[1] is relu
    assert a[2] is b[2] and type(a[2]) is bn.BatchNormReLU and type(a[3]) is type(b[3]) is nn.Identity


def test_convert_leaves_replaced_forwards_alone():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3), nn.ReLU()).eval()
    norm, relu = model[0].forward, model[3].forward
    model[0].forward = lambda x: norm(x) + 1.0
    model[3].forward = lambda x: relu(x) + 1.0
    x = torch.randn(5, 3)
    want = model(x)
    torch.testing.assert_close(bn.convert(model)(x), want)
    assert [type(module) for module in model] == [nn.BatchNorm1d, nn.ReLU, bn.BatchNorm1d, nn.ReLU]


def test_a_fused_module_takes_what_it_took_before():
    model = bn.convert(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    assert type(model[0]) is bn.BatchNormReLU
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        copy.deepcopy(model)(torch.randn(3, 3, 3))


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
