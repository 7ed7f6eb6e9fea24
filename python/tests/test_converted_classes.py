"""What converted modules are to who looks at their classes, and classes of other customs than most."""

import copy
import pickle

import pytest
import torch
from torch import nn

import batchnorm.torch as bn
from support import epilogues, expect_alike, rand


def test_tools_that_look_for_torch_nn_find_converted_modules():
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model, x = bn.convert(copy.deepcopy(original)), rand(4, 3, 6, 6)
    norms = tuple(value for name, value in nn.__dict__.items() if "Norm" in name)  # As YOLO's filter of weight decay looks.
    assert [isinstance(module, norms) for module in model] == [False, True, False]
    for each in (model, original):
        torch.optim.swa_utils.update_bn([x, x], each)
    torch.testing.assert_close(model[1].running_var, original[1].running_var)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert type(synced[1]) is nn.SyncBatchNorm
    torch.testing.assert_close(synced.eval()(x), original.eval()(x))
    model.eval()
    folded = nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
    model[0], model[1] = folded, nn.Identity()
    torch.testing.assert_close(model(x), original(x), rtol=1e-4, atol=1e-5)


def test_what_replaces_batch_norms_loses_no_relu_of_fused_modules():
    """`SyncBatchNorm.convert_sync_batchnorm` takes every `_BatchNorm` for one without a relu."""
    model = nn.Sequential(bn.BatchNorm2d(3), bn.BatchNormReLU(3), bn.BatchNormAddReLU(3))
    kinds = [type(module) for module in nn.SyncBatchNorm.convert_sync_batchnorm(model)]
    assert kinds == [nn.SyncBatchNorm, bn.BatchNormReLU, bn.BatchNormAddReLU]


def test_what_quantization_knows_by_its_class_stays():
    quantized = torch.ao.nn.intrinsic.ConvBnReLU2d(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    assert type(bn.convert(quantized)) is torch.ao.nn.intrinsic.ConvBnReLU2d and type(quantized[1]) is bn.BatchNorm2d


class Registered(nn.Module):
    """A class that knows its subclasses by their names, and says how it is restored."""

    known = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__name__ in Registered.known:
            raise KeyError(f"{cls.__name__} is there")
        Registered.known[cls.__name__] = cls

    def __init__(self, c):
        super().__init__()
        self.c, self.norm, self.act = c, nn.BatchNorm1d(c), nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(x))


class ByReduce(Registered):
    def __reduce__(self):
        return type(self), (self.c,), self.__dict__


class ByArguments(Registered):
    def __new__(cls, c):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (self.c,), {}


class Meta(type):
    def __init__(cls, name, bases, names):
        super().__init__(name, bases, names)
        assert name == "OfAMetaclass", "one class alone"


class OfAMetaclass(Registered, metaclass=Meta):
    def __setattr__(self, name, value):
        assert name != "__class__", "it stays what it is"
        super().__setattr__(name, value)


@pytest.mark.parametrize("cls", [ByReduce, ByArguments, OfAMetaclass])
def test_classes_of_other_customs_are_fused_copied_and_reverted(cls):
    model, x = cls(3), rand(4, 3)
    converted = bn.convert(copy.deepcopy(model))
    assert Registered.known[cls.__name__] is cls
    for each in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert epilogues(copy.deepcopy(each), x) == ["relu"]
        expect_alike(each, copy.deepcopy(model), x)
    assert type(bn.revert(converted)) is cls
