"""Models converted and reverted, compared with the originals."""

import copy
import logging
import pickle

import pytest
import torch
from torch import nn

import batchnorm.torch as bn
from batchnorm.torch._modules import FUSED
from support import epilogues, expect_alike, rand


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
    ran = epilogues(copy.deepcopy(converted), rand(2, 3, 10, 10))
    expected = ["relu", "relu", "identity", "add_relu", "relu", "identity", "add_relu"]
    assert ran == (expected if fuse else ["identity"] * 7)
    assert list(converted.state_dict()) == list(original.state_dict())
    models = original, converted
    optimizers = [torch.optim.SGD(model.parameters(), 0.05, momentum=0.9) for model in models]
    x, labels = rand(16, 3, 10, 10, seed=1), torch.arange(16) % 10
    first = last = None
    for step in range(12):
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
    torch.testing.assert_close(converted.eval()(x), original.eval()(x), rtol=1e-2, atol=1e-2)


def test_modules_stay_the_same_objects():
    class Special(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(), Special(3), nn.BatchNorm1d(3).eval())
    calls, before = [], list(model)
    model[2].register_forward_hook(lambda *_: calls.append(1))
    weight = model[0].weight
    assert bn.convert(model) is model and all(a is b for a, b in zip(model, before))
    kinds = [type(module) for module in model]
    assert kinds == [bn.BatchNorm2d, nn.ReLU, bn.BatchNorm2d, nn.ReLU, Special, bn.BatchNorm1d]
    assert model[0].weight is weight and not model[5].training
    assert epilogues(model[:4], rand(2, 3, 2, 2)) == ["relu", "identity"] and calls == [1]
    assert type(bn.convert(nn.BatchNorm3d(2))) is bn.BatchNorm3d


def test_norms_that_a_list_holds_too_are_converted():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    model.norms = [model[0]]
    bn.convert(model).eval()
    assert model.norms[0] is model[0] and not model.norms[0].training


class ConvNormActivation(nn.Sequential):
    """A block as torchvision's models have it: a class of its own without a forward."""

    def __init__(self, c_in, c_out, activation):
        super().__init__(nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out), activation(inplace=True))


class Conv(nn.Module):
    """A block as YOLO has it, whose activation is called in a forward of its own."""

    def __init__(self, c_in, c_out, activation, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(c_in, c_out, 3, bias=False), norm(c_out, eps=1e-3, momentum=0.03), activation()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


@pytest.mark.parametrize("block", [ConvNormActivation, Conv])
@pytest.mark.parametrize("activation, fused", FUSED.items())
def test_each_activation_is_fused_in_blocks_of_their_own_class(block, activation, fused):
    torch.manual_seed(4)
    model = nn.Sequential(block(3, 4, activation), block(4, 2, activation))
    converted = bn.convert(copy.deepcopy(model))
    x = rand(2, 3, 7, 7)
    assert epilogues(copy.deepcopy(converted), x) == [fused._epilogue] * 2
    assert repr(converted) == repr(model)
    expect_alike(converted, model, x)


@pytest.mark.parametrize("activation, fused", FUSED.items())
def test_a_block_is_written_with_a_fused_module_by_hand(activation, fused):
    torch.manual_seed(5)
    model, by_hand = Conv(3, 4, activation), Conv(3, 4, nn.Identity, fused)
    by_hand.load_state_dict(model.state_dict())
    expect_alike(by_hand, model, rand(2, 3, 5, 5))


class Twice(nn.Sequential):
    def forward(self, x):
        return self[0](x) + super().forward(x)


class Reversed(nn.Sequential):
    def __iter__(self):
        return iter([*super().__iter__()][::-1])


class Around(nn.Sequential):
    def __call__(self, x):
        return self[1](x + self[0](x))


@pytest.mark.parametrize("cls", [Twice, Reversed, Around])
def test_a_sequential_that_calls_its_modules_otherwise_is_not_fused(cls):
    model = cls(nn.BatchNorm1d(3), nn.ReLU())
    converted = bn.convert(copy.deepcopy(model))
    assert type(converted) is cls and set(epilogues(copy.deepcopy(converted), rand(4, 3))) == {"identity"}
    expect_alike(converted, model, rand(4, 3))


def with_hook(model):
    model[0].register_forward_hook(lambda module, args, y: y + 1.0)


def with_hook_behind(model):
    model[1].register_forward_pre_hook(lambda module, args: (args[0] - 1.0,))


def replaced(model):
    model[0] = nn.GroupNorm(1, 3)


def replaced_behind(model):
    model[1] = nn.Tanh()


def of_other_bounds(model):
    model[1] = nn.ReLU6()
    model[1].max_val = 0.5


def of_another_forward(model):
    forward = model[0].forward
    model[0].forward = lambda x: forward(x) + 1.0


def of_another_forward_behind(model):
    model[1].forward = lambda x: x + 1.0


def compiled(model):
    model[0].compile(backend="eager")


CHANGES = [
    with_hook, with_hook_behind, replaced, replaced_behind, of_other_bounds, of_another_forward, of_another_forward_behind, compiled,
]


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_is_called_as_it_is(change, is_before):
    """Before it is converted, or behind."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    converted = copy.deepcopy(model)
    change(model)
    for step in (change, bn.convert) if is_before else (bn.convert, change):
        step(converted)
    expect_alike(converted, model, rand(4, 3))
    assert "relu" not in epilogues(converted.train(), rand(4, 3))
    assert not bn.report(converted).activations


def test_parts_of_a_sequential_give_what_they_gave():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3), nn.SiLU())
    converted, x = bn.convert(copy.deepcopy(model)), rand(4, 3)
    for part in (lambda model: model[:2], lambda model: model[1], lambda model: nn.Sequential(*list(model)[:4])):
        torch.testing.assert_close(part(converted)(x), part(model)(x))
    converted.append(bn.BatchNorm1d(3)).append(nn.ReLU())
    assert epilogues(converted, x) == ["relu", "silu", "relu"]


def test_identities_between_are_passed_over():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Identity(), nn.Identity(), nn.ReLU())
    converted = bn.convert(copy.deepcopy(model))
    assert epilogues(copy.deepcopy(converted), rand(4, 3)) == ["relu"]
    expect_alike(converted, model, rand(4, 3))
    converted[1].register_forward_hook(lambda *_: torch.zeros(4, 3))
    assert not converted(rand(4, 3)).any()


def test_norms_of_several_modules_are_fused_where_each_can_be():
    shared, relu = nn.BatchNorm1d(3), nn.ReLU()
    model = nn.ModuleDict({"a": nn.Sequential(shared, relu), "b": nn.Sequential(shared, nn.Tanh()), "c": nn.Sequential(shared, nn.SiLU())})
    bn.convert(model)
    assert model["a"][0] is model["b"][0] is model["c"][0]
    assert [epilogues(part, rand(4, 3)) for part in model.values()] == [["relu"], ["identity"], ["silu"]]


def test_a_hook_for_all_modules_sees_all():
    model, seen = bn.convert(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(type(module).__name__))
    try:
        model(rand(4, 3))
    finally:
        handle.remove()
    assert seen == ["BatchNorm1d", "ReLU", "Sequential"]


def test_an_activation_of_another_forward_is_called(monkeypatch):
    """As a class that is changed for guided gradients has one."""
    model = bn.convert(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x * 0.0 + 5.0)
    assert (model(rand(4, 3)) == 5.0).all()


def test_lazy_modules_become_those_of_this_package():
    model = bn.convert(nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d(), nn.ReLU()))
    assert str(bn.report(model)) == "fused 1 + 0 of 1; left: none"
    x = rand(2, 3, 4, 4)
    assert model(x).min() >= 0 and type(model[1]) is bn.BatchNorm2d
    assert epilogues(model, x) == ["relu"]
    lazy = bn.revert(bn.convert(nn.LazyBatchNorm2d()))
    lazy(x)
    assert type(lazy) is nn.BatchNorm2d


@pytest.mark.parametrize("made_again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_fuse_too(made_again):
    model = bn.convert(resnet())
    copied, x = made_again(model), rand(2, 3, 10, 10)
    assert type(copied[1]) is type(model[1]) and isinstance(copied[1], Block)
    assert epilogues(copied, x) == epilogues(model, x)
    expect_alike(copied, model, x)


def test_revert_gives_what_was_there():
    original = resnet()
    model = bn.revert(bn.convert(copy.deepcopy(original)))
    for got, want in zip(model.modules(), original.modules(), strict=True):
        assert type(got) is type(want) and got.__dict__.keys() == want.__dict__.keys()
    expect_alike(model, original, rand(2, 3, 10, 10))
    assert epilogues(bn.convert(model), rand(2, 3, 10, 10)).count("add_relu") == 2


def test_convert_again_takes_what_is_there_now():
    model = bn.convert(Conv(3, 4, nn.Identity))
    assert epilogues(model, rand(2, 3, 5, 5)) == ["identity"]
    model.act = nn.ReLU()
    assert epilogues(bn.convert(model), rand(2, 3, 5, 5)) == ["relu"]
    assert epilogues(bn.convert(model, fuse=False), rand(2, 3, 5, 5)) == ["identity"]


def test_a_report_says_what_was_fused_and_what_was_left(caplog):
    model = nn.Sequential(resnet(), nn.SyncBatchNorm(10), bn.BatchNormReLU(10), nn.InstanceNorm1d(10))
    caplog.set_level(logging.INFO, "batchnorm.torch")
    bn.convert(model)
    report = bn.report(model)
    assert (len(report.activations), len(report.residuals), len(report.norms)) == (4, 2, 9)
    assert report.alone == ["0.1.downsample.1", "0.2.downsample.1"] and report.left == {"1": "SyncBatchNorm"}
    text = "fused 4 + 2 of 9; left: 2 with nothing behind them that is fused (0.1.downsample.1, 0.2.downsample.1), "
    assert str(report) == text + "1 SyncBatchNorm, not replaced (1)"
    assert caplog.messages[-1] == f"convert: {report}" and caplog.records[-1].levelname == "WARNING"
    bn.revert(model)
    assert caplog.messages[-1] == "revert: left what torch.nn has no module for: 2 (BatchNormReLU)"
    del model[1]
    nn.utils.parametrizations.spectral_norm(bn.convert(model)[0][1].conv1)
    nn.utils.parametrize.register_parametrization(model[0][1].bn1, "weight", nn.Identity())
    bn.revert(model)
    assert "0.1.bn1 (ParametrizedBatchNorm2d)" in caplog.messages[-1]
    bn.convert(model)
    assert caplog.records[-1].levelname == "INFO"


def test_a_report_follows_what_is_called():
    model = bn.convert(Conv(3, 4, nn.GELU))
    model.act = nn.ReLU()  # Not there when it was converted.
    assert epilogues(copy.deepcopy(model), rand(2, 3, 5, 5)) == ["identity"] and not bn.report(model).activations
    model = bn.convert(nn.Sequential(nn.BatchNorm1d(3), nn.Identity(), nn.ReLU()))
    assert len(bn.report(model).activations) == 1
    model[1].register_forward_hook(lambda *_: None)
    assert epilogues(model, rand(4, 3)) == ["identity"] and not bn.report(model).activations


def test_a_converted_module_takes_what_it_took_before():
    model = bn.convert(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        model(rand(3, 3, 3))


def test_what_is_no_model_is_refused():
    for function in (bn.convert, bn.revert, bn.report):
        with pytest.raises(TypeError, match="expected a torch.nn.Module, got str"):
            function("resnet50")
    with pytest.raises(ValueError, match="expected fuse or fuse_relu"):
        bn.convert(nn.Sequential(), True, fuse_relu=False)
