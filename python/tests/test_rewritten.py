"""Methods of many forms, whose batch norms are fused with what comes behind them, or not; all compared with the originals."""

import copy
import inspect
import traceback

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import batchnorm.torch as bn
import forms
from forms import FORMS, Base, OfItsOwnClass, OtherMethods, ReadByAMethod, Residual, Widened
from support import epilogues, expect_alike, rand


class Skipped(Base):
    """Its input is changed in place before what comes behind it."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))

    def forward(self, x):
        y = self.norm(x)
        y += self.down(x)
        z = F.relu(self.norm2(y) + self.down(y))
        return self.act(z)


class Untouched(Base):
    def forward(self, x):
        v = x
        if self.none is not None:
            v = v + self.part(x)
        v = v.relu_()
        return v + x


@pytest.mark.parametrize("cls", [Skipped, Untouched])
def test_what_is_changed_in_place_is_read_before(cls):
    """Without gradients, which would refuse it."""
    model = cls()
    converted = bn.convert(copy.deepcopy(model))
    with torch.no_grad():
        for training in (True, False):
            got, want = (each.train(training)(rand(6, 4)) for each in (converted, model))
            torch.testing.assert_close(got, want)
    for got, want in zip(converted.buffers(), model.buffers()):
        torch.testing.assert_close(got, want)


class Probed(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        if self.none is not None:
            y = y * 2.0
            y += self.none
        y += x
        return self.act(y)


def test_a_branch_that_is_taken_later_gives_what_it_gave():
    model, x = made(Probed)
    converted = bn.convert(copy.deepcopy(model))
    assert epilogues(copy.deepcopy(converted), x) == ["add_relu"]
    model.none = converted.none = 3.0
    expect_alike(converted, model, x)
    assert converted.norm.num_batches_tracked == 1


def test_a_norm_that_takes_what_no_layer_has_made_does_not_wait():
    """Its input may be changed by then: here by a layer that gives what it got."""

    class Same(nn.Module):
        def forward(self, x):
            return x

    class Waiting(Base):
        def forward(self, x):
            y = self.norm(self.fc(x))
            z = self.fc2(x)
            y += z
            return self.act(y)

    model, x = made(Waiting)
    converted = bn.convert(copy.deepcopy(model))
    assert epilogues(copy.deepcopy(converted), x) == ["add_relu"]
    model.fc, converted.fc = Same(), Same()
    assert epilogues(copy.deepcopy(converted), x) == ["identity"]
    expect_alike(converted, model, x)


def test_a_method_that_a_class_gets_later_is_called(monkeypatch):
    class Patched(Base):
        def forward(self, x, scale=1.0, *more, twice=False, **options):
            return self.act(self.norm(x)) * scale

    model, sequence = bn.convert(Patched()), bn.convert(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
    assert epilogues(model, rand(6, 4)) == ["relu"]
    calls = []
    monkeypatch.setattr(Patched, "forward", lambda *args, **options: calls.append((args[1:], options)))
    model("x", 2.0, 3, twice=True, of=4)
    bn.convert(Patched())("y")
    assert calls == [(("x", 2.0, 3), {"twice": True, "of": 4}), (("y", 1.0), {"twice": False})]
    assert epilogues(sequence, rand(6, 4)) == ["relu"]


def test_a_sequence_whose_class_gets_another_forward_later_is_called(monkeypatch):
    class Part(nn.Sequential):
        pass

    class Waiting(Base):
        def forward(self, x):
            return self.act(self.part(x) + x)

    model = Waiting()
    model.part = Part(*model.part)
    bn.convert(model)
    assert epilogues(model, rand(6, 4)) == ["add_relu"]
    monkeypatch.setattr(Part, "forward", lambda self, x: x)
    assert epilogues(model, rand(6, 4)) == []
    torch.testing.assert_close(model(rand(6, 4)), F.relu(2.0 * rand(6, 4)))


def variant(scale):
    def inner(self, x):
        return self.act(self.norm(x)) * scale

    return inner


class Named(Base):
    forward, other = variant(2.0), variant(3.0)


class Aliased(Named):
    def forward(self, x):
        return self.other(x).mean()


class Trained(Base):
    def train_step(self, x):
        return self.act(self.norm(x))

    forward = train_step


class Rebound(Trained):
    def train_step(self, x):
        return super().train_step(x) + 1000.0


@pytest.mark.parametrize("cls", [Named, Aliased, Trained, Rebound])
def test_methods_of_other_names_than_their_functions_are_found(cls):
    model, x = made(cls)
    converted = bn.convert(copy.deepcopy(model))
    assert epilogues(copy.deepcopy(converted), x) == ["relu"]
    expect_alike(converted, model, x)


def made(cls):
    """A model and its input: in float64, which leaves no room for what is nearly alike."""
    dtype = torch.float32 if cls is Widened else torch.float64
    return cls().to(dtype), rand(6, 4, dtype=dtype)


@pytest.mark.parametrize("cls, expected", FORMS)
def test_a_form_gives_what_it_gave(cls, expected):
    model, x = made(cls)
    converted = bn.convert(copy.deepcopy(model))
    assert epilogues(copy.deepcopy(converted), x) == expected
    expect_alike(converted, model, x)
    expect_alike(bn.revert(converted), model, x)


# Each third: a compiler takes a second for each.
@pytest.mark.parametrize("cls, expected", FORMS[::3])
def test_a_compiled_form_gives_what_it_gave(cls, expected):
    torch._dynamo.reset()
    model, x = made(cls)
    # Methods that ask for a number or a class break graphs of torch.nn too.
    is_whole = cls not in (ReadByAMethod, OfItsOwnClass)
    expect_alike(torch.compile(bn.convert(copy.deepcopy(model)), backend="aot_eager", fullgraph=is_whole), model, x)


def test_a_report_counts_what_runs():
    for param in FORMS:
        cls, ran = param.values
        report = bn.report(bn.convert(cls()))
        # A model that calls each once. No report knows what dtypes come.
        if cls is not Widened and len(ran) == len(set(report.norms) - {"part.1"}):
            counts = len(report.activations), len(report.residuals)
            assert counts == (len(ran) - ran.count("identity") - ran.count("add_relu"), ran.count("add_relu")), cls.__name__


def test_a_line_of_a_changed_method_is_where_it_was():
    model = bn.convert(Residual())
    with pytest.raises(RuntimeError) as caught:
        model(rand(6, 3))
    last = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == forms.__file__][-1]
    assert last.line == "y = self.norm(self.fc(x))"
    assert inspect.signature(bn.convert(OtherMethods()).inside) == inspect.signature(OtherMethods().inside)


def test_a_method_whose_source_is_another_is_left_alone(monkeypatch):
    class Fresh(Base):
        def forward(self, x):
            return self.fc2(self.act(self.norm(self.fc(x))))

    lines, first = inspect.getsourcelines(Fresh.forward)
    changed = [line.replace("self.fc2", "self.fc") for line in lines]
    monkeypatch.setattr(inspect, "getsourcelines", lambda function: (changed, first))
    model = Fresh()
    converted = bn.convert(copy.deepcopy(model))
    monkeypatch.undo()
    assert type(converted) is Fresh
    expect_alike(converted, model, rand(6, 4))


def test_a_method_without_a_source_is_left_alone():
    space = {"Base": Base}
    exec("class Typed(Base):\n    def forward(self, x):\n        return self.act(self.norm(x))\n", space)
    model = bn.convert(space["Typed"]())
    assert type(model) is space["Typed"] and epilogues(model, rand(6, 4)) == ["identity"]
