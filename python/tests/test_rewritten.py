"""Methods of many forms, whose batch norms are fused with what comes behind them, or not; all compared with the originals."""

import copy
import functools
import inspect
import traceback

import pytest
import torch
import torch.nn.functional as F
from torch import nn, relu

import batchnorm.torch as bn
from support import epilogues, expect_alike, rand


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.fc2, self.norm, self.norm2 = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.act, self.silu, self.none, self.drop = nn.ReLU(inplace=True), nn.SiLU(), None, nn.Identity()
        self.part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        for norm in (self.norm, self.norm2, self.part[1]):
            nn.init.normal_(norm.weight, 1.0), nn.init.normal_(norm.bias)


FORMS = []


def runs(*expected):
    """A form, and the epilogues that its batch norms run with in training."""

    def add(cls):
        FORMS.append(pytest.param(cls, list(expected), id=cls.__name__))
        return cls

    return add


@runs("relu")
class Nested(Base):
    def forward(self, x):
        return self.fc2(self.act(self.norm(self.fc(x))))


@runs("relu", "silu")
class Statements(Base):
    def forward(self, x):
        """Of several lines,

            some of which are indented.
        """
        x = self.fc(x)
        x = self.norm(x)
        x = self.drop(x)
        x = self.act(x)
        y = self.norm2(self.fc2(x))
        return self.silu(y)


@runs("relu", "relu", "relu", "relu6", "silu", "hardswish")
class Functions(Base):
    def forward(self, x):
        x = F.relu(self.norm(x))
        x = torch.relu(self.norm2(x))
        x = F.relu(self.norm(x), inplace=True)
        x = F.relu6(self.norm(x))
        return F.silu(self.norm(x)) + torch.nn.functional.hardswish(self.norm(x), inplace=False)


@runs("relu", "relu")
class Methods(Base):
    def forward(self, x):
        x = self.norm(x).relu()
        return self.norm2(x).relu_()


@runs("identity")
class ImportedByItsName(Base):
    def forward(self, x):
        return relu(self.norm(x))


@runs("identity", "identity")
class OtherActivations(Base):
    def forward(self, x):
        x = F.leaky_relu(self.norm(x), 0.3)
        return F.silu(input=self.norm2(x))


@runs("add_relu")
class Residual(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        if self.none is not None:
            y = self.none(y)
        identity = x
        if self.drop is not None:
            identity = self.drop(x)
        y += identity
        y = self.act(y)
        return y


@runs("add_relu", "add_relu", "add_relu", "add_relu")
class Sums(Base):
    def forward(self, x):
        x = self.act(self.norm(x) + x)
        x = F.relu(x + self.norm(x))
        y = self.norm2(x)
        x = torch.relu(y + x)
        z = self.part(x)
        z = x + z
        return self.act(z)


@runs("identity", "add_relu")
class TwoNorms(Base):
    def forward(self, x):
        return self.act(self.norm(self.fc(x)) + self.norm2(self.fc2(x)))


@runs("add_relu")
class Branches(Base):
    def forward(self, x):
        if self.none is not None:
            x = self.none(x) + self.part(x)
        else:
            x = x + self.part(x)
        return self.act(x)


@runs("identity", "identity", "identity")
class NotRelu(Base):
    def forward(self, x):
        x = self.silu(self.norm(x) + x)
        x = self.norm2(x)
        x = x - self.fc(x)
        x = self.act(x)
        return self.norm(x) + x


@runs("identity", "identity")
class UsedAgain(Base):
    def forward(self, x):
        y = self.norm(x)
        z = self.act(y.clone())
        w = self.norm2(z)
        v = F.relu(w)
        return v + w + y


@runs("identity")
class UsedBetween(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        gate = torch.sigmoid(y)
        y = y + x * gate
        return self.act(y)


@runs("identity", "relu")
class ChangedBetween(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        if self.training:
            y = y * 2.0
        y += x
        y = self.act(y)
        y = self.norm2(y)
        return self.act(y)


@runs("identity")
class EarlyReturn(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        if x.shape[0] == 1000:
            return x
        y += x
        return self.act(y)


@runs("identity", "identity")
class CalledBetween(Base):
    """The statistics move in the order of the calls."""

    def forward(self, x):
        y = self.norm(self.fc(x))
        z = self.norm(x)
        y += z
        return self.act(y)


@runs("relu", "relu", "identity", "identity")
class Loops(Base):
    def forward(self, x):
        for layer in (self.fc, self.fc2):
            x = layer(x)
            x = self.norm(x)
            x = self.act(x)
        for layer in (self.fc, self.fc2):
            y = self.norm2(layer(x))
            y += x
            x = self.act(y)
        return x


@runs("identity", "identity")
class LeftBehindInALoop(Base):
    def forward(self, x):
        y = x
        for layer in (self.fc, self.fc2):
            z = y + x
            y = self.norm(layer(z))
            x = F.relu(y + z)
        return x + y


@runs("identity")
class Tried(Base):
    def forward(self, x):
        try:
            y = self.norm(self.fc(x))
            y += x
            y = self.act(y)
        finally:
            x = x * 2.0
        return y + x


@runs("relu")
class Closed(Base):
    def forward(self, x):
        scale = 2.0

        def twice(y):
            return scale * y

        return twice(self.act(self.norm(x)))


@runs("identity", "relu")
class Parent(Nested):
    """A class's own methods are changed, and not those behind `super()`."""

    def forward(self, x, *, again=True):
        x = super().forward(x)
        return self.act(self.norm2(x)) if again else x


def doubled(function):
    @functools.wraps(function)
    def twice(self, x):
        return 2.0 * function(self, x)

    return twice


@runs("identity")
class Decorated(Base):
    @doubled
    def forward(self, x):
        return self.act(self.norm(x))


@runs("identity")
class Mangled(Base):
    __two = 2.0

    def forward(self, x):
        return self.__two * self.act(self.norm(x))


@runs("relu")
class OtherMethods(Base):
    def inside(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        x: torch.Tensor = scale * x
        return self.act(self.norm(x))

    def forward(self, x):
        return self.inside(x)


@runs("identity", "add_relu")
class Widened(Base):
    """In place a sum keeps the dtype of what it is added to."""

    def forward(self, x):
        y = self.norm(x)
        y += x.double()
        y = self.act(y)
        z = self.norm2(y)
        z += y
        return self.act(z)


@runs("identity")
class Branched(Base):
    """A name's value of before the branches is what is activated."""

    def forward(self, x):
        y = self.norm(self.fc(x))
        if x.shape[0] > 1000:
            x = x + self.part(x)
        return F.relu(x) + y


@runs("identity", "add_relu")
class SameNormInASum(Base):
    """The statistics move by the left one first."""

    def forward(self, x):
        return F.relu(self.norm(x) + self.norm(self.fc(x)))


@runs("identity", "identity")
class SameNormInAHelper(Base):
    def helper(self, x):
        return self.norm(x)

    def forward(self, x):
        y = self.norm(self.fc(x))
        z = self.helper(x)
        y += z
        return self.act(y)


@runs("identity", "identity")
class SharedWithAPart(Base):
    def __init__(self):
        super().__init__()
        self.part[1] = self.norm

    def forward(self, x):
        y = self.norm(self.fc(x))
        z = self.part(x)
        y += z
        return self.act(y)


@runs("identity")
class Conditional(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        return self.act(y + x) if self.none is not None else x * 2.0


@runs("identity")
class ShortCircuit(Base):
    def forward(self, x):
        y = self.norm(self.fc(x))
        return (self.none and self.act(y + x)) or x * 2.0


@runs("identity")
class AddedToBehind(Base):
    def forward(self, x):
        d = self.norm(self.fc(x))
        c = F.relu(d + x)
        d += c
        return d


@runs("identity")
class ReadByAMethod(Base):
    def seen(self):
        return float(self.norm.running_mean.sum())

    def forward(self, x):
        y = self.norm(self.fc(x))
        k = self.seen()
        y += x
        return self.act(y) * k


@runs("identity")
class BelowAContext(Base):
    def forward(self, x):
        with torch.enable_grad():
            y = self.norm(self.fc(x))
            y += x
            y = self.act(y)
        return y


@runs("identity", "identity")
class OfItsOwnClass(Base):
    count = 0

    def forward(self, x):
        type(self).count += 1
        return self.act(self.norm(x)) + self.norm2(x)


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
    """What it takes may be changed by then: here by a layer that gives what it got."""

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
    # What asks for a number or a class breaks graphs of torch.nn too.
    is_whole = cls not in (ReadByAMethod, OfItsOwnClass)
    expect_alike(torch.compile(bn.convert(copy.deepcopy(model)), backend="aot_eager", fullgraph=is_whole), model, x)


def test_a_report_counts_what_runs():
    for param in FORMS:
        cls, ran = param.values
        report = bn.report(bn.convert(cls()))
        # Of a model that calls each once. What dtypes come no report knows.
        if cls is not Widened and len(ran) == len(set(report.norms) - {"part.1"}):
            counts = len(report.activations), len(report.residuals)
            assert counts == (len(ran) - ran.count("identity") - ran.count("add_relu"), ran.count("add_relu")), cls.__name__


def test_a_line_of_a_changed_method_is_where_it_was():
    model = bn.convert(Residual())
    with pytest.raises(RuntimeError) as caught:
        model(rand(6, 3))
    last = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == __file__][-1]
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
