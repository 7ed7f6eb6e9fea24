"""Methods of many forms, with the epilogues that their batch norms run with when the modules are converted."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn, relu


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
