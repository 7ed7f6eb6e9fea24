"""The formula in f64, and whether a peer's result is it.

    y  = (x - mean) / sqrt(var + eps) * gamma + beta, then the epilogue
    dx = gamma * inv_std * (g - mean(g) - x_hat * mean(g * x_hat)),  g = dy where y > 0

Allowed is a share of the largest term that enters a value, generous: this is to refuse a wrong layout, mask or formula
before it is timed, not to grade roundings.
"""

import torch

from peer import EPS, MOMENTUM, OUTPUTS, split

# Several roundings of the dtype, of saved statistics too, which torch.compile rounds to it on the CPU.
ALLOWED = {"f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}
# Running statistics are f32 whatever the data is.
ALLOWED_RUNNING = 1e-4
# An f32 mean is a hair off, of which a small variance makes much: so much of |mean| * inv_std may be in x_hat.
MEAN_ROUNDING = 1e-6
# The error that summing m squares one by one in f32 may lose of a variance, for each value: torch's channels-last kernel on the
# CPU loses 0.2% of 4 million and 1% of 16 million.
SUM_ROUNDING = 2.0**-30

# Elements that are compared at most, in channels from the first to the last; one whole channel at least.
MOST_ELEMENTS = 1 << 22


def checked_channels(row) -> int:
    return max(1, min(row.c, MOST_ELEMENTS // row.m))


class Check:
    """Made before the call, since a training step changes the running statistics."""

    def __init__(self, operation: str, buffers, y=None):
        self.operation, self.buffers, self.forward_y = operation, buffers, y
        row = buffers.row
        self.allowed = ALLOWED[row.dtype] + row.m * SUM_ROUNDING
        spread = torch.linspace(0, row.c - 1, checked_channels(row), dtype=torch.float64).round().long().unique()
        self.channels = spread.to(buffers.x.device)
        self.running_mean, self.running_var = (
            self._param(each) for each in (buffers.running_mean, buffers.running_var)
        )
        self.counter = int(buffers.counter)

    def reason(self, outputs: list, running: tuple) -> str | None:
        """None where the outputs are right."""
        kind, epilogue = split(self.operation)
        reasons = []
        if kind == "backward":
            if self.forward_y is not None:
                reasons.append(self._compare("y", self.forward_y, *self._y(epilogue, *self._moments())))
            wanted = self._gradients(epilogue)
        else:
            mean, var = (self.running_mean, self.running_var) if kind == "infer" else self._moments()
            wanted = {"y": self._y(epilogue, mean, var)}
            if kind == "train":
                inv_std = (var + EPS).rsqrt()
                wanted["saved_mean"] = mean, self.allowed * (1 + mean.abs())
                wanted["saved_inv_std"] = inv_std, (self.allowed + MEAN_ROUNDING * mean.abs() * inv_std) * inv_std
                reasons += self._running(mean, var, running)
        names = OUTPUTS[self.operation]
        if len(outputs) < len(names):
            return f"{len(names)} outputs expected ({', '.join(names)}), got {len(outputs)}"
        reasons += [self._compare(name, got, *wanted[name]) for name, got in zip(names, outputs, strict=False)]
        return next((reason for reason in reasons if reason), None)

    def _data(self, tensor):
        """The channels that are compared, as [n, c, s] in f64."""
        n = self.buffers.row.n
        return tensor.index_select(1, self.channels).double().reshape(n, len(self.channels), -1)

    def _param(self, tensor):
        return tensor.reshape(-1).index_select(0, self.channels).double()

    def _moments(self):
        x = self._data(self.buffers.x)
        return x.mean((0, 2)), x.var((0, 2), unbiased=False)

    def _y(self, epilogue: str, mean, var):
        b = self.buffers
        gamma, beta = self._param(b.gamma)[:, None], self._param(b.beta)[:, None]
        inv_std = (var + EPS).rsqrt()[:, None]
        y = (self._data(b.x) - mean[:, None]) * inv_std * gamma + beta
        largest = 1 + y.abs()
        if epilogue == "add-relu":
            z = self._data(b.z)
            y, largest = y + z, largest + z.abs()
        of_mean = MEAN_ROUNDING * (mean[:, None] * inv_std * gamma).abs()
        return (y.relu() if epilogue else y), self.allowed * largest + of_mean

    def _running(self, mean, var, running: tuple) -> list:
        m = self.buffers.row.m
        unbiased = var * m / (m - 1) if m > 1 else var * torch.nan
        wanted_mean = (1 - MOMENTUM) * self.running_mean + MOMENTUM * mean
        wanted_var = (1 - MOMENTUM) * self.running_var + MOMENTUM * unbiased
        got_mean, got_var, counter = running
        allowed = ALLOWED_RUNNING + m * SUM_ROUNDING
        reasons = [
            self._compare("running_mean", got_mean, wanted_mean, allowed * (1 + wanted_mean.abs())),
            self._compare("running_var", got_var, wanted_var, allowed * (1 + wanted_var.abs())),
        ]
        if int(counter) != self.counter + 1:
            reasons.append(f"the counter went from {self.counter} to {int(counter)}")
        return reasons

    def _gradients(self, epilogue: str) -> dict:
        b, m = self.buffers, self.buffers.row.m
        mean, var = self._moments()
        inv_std, gamma = (var + EPS).rsqrt(), self._param(b.gamma)
        x_hat = (self._data(b.x) - mean[:, None]) * inv_std[:, None]
        g = self._data(b.dy)
        if epilogue:
            # The peer's own mask: a y that is 0 after rounding and a hair above it in f64 is no mistake.
            g = torch.where(self._data(self.forward_y) > 0, g, 0.0)
        terms = g * x_hat
        dbeta, dgamma = g.sum((0, 2)), terms.sum((0, 2))
        scale, mean_g, mean_terms = gamma * inv_std, dbeta / m, dgamma / m
        dx = scale[:, None] * (g - mean_g[:, None] - x_hat * mean_terms[:, None])
        largest = g.abs().amax((0, 2)) + mean_g.abs() + x_hat.abs().amax((0, 2)) * mean_terms.abs()
        of_mean = MEAN_ROUNDING * mean.abs() * inv_std
        allowed_dx = scale.abs() * largest * (self.allowed + of_mean)
        return {
            "dx": (dx, allowed_dx[:, None].expand_as(dx)),
            "dgamma": (dgamma, self._allowed_sum(terms) + of_mean * g.abs().sum((0, 2))),
            "dbeta": (dbeta, self._allowed_sum(g)),
            "dz": (g, self.allowed * (1 + g.abs())),
        }

    def _allowed_sum(self, terms):
        """Roundings of the terms walk at random; those of the sum, at worst, do not."""
        of_terms = self.allowed * terms.square().sum((0, 2)).sqrt()
        return of_terms + 1e-5 * terms.abs().sum((0, 2))

    def _compare(self, name: str, got, want, allowed) -> str | None:
        row = self.buffers.row
        shape = (row.c,) if want.dim() == 1 else (row.n, row.c, *row.spatial)
        if tuple(got.shape) != shape:
            return f"{name} is {list(got.shape)}, not {list(shape)}"
        got = self._param(got) if want.dim() == 1 else self._data(got)
        # Written so that NaN is wrong.
        wrong = ~((got - want).abs() <= allowed)
        count = int(wrong.sum())
        if count == 0:
            return None
        at = [int(index) for index in wrong.nonzero()[0]]
        values = f"expected {float(want[tuple(at)]):.6g}, got {float(got[tuple(at)]):.6g}"
        channel = int(self.channels[at[0 if want.dim() == 1 else 1]])
        where = f"c={channel}" if want.dim() == 1 else f"(n, c, s) = ({at[0]}, {channel}, {at[2]})"
        return f"{name} is wrong at {where}: {values} ({count} of {wrong.numel()} values)"
