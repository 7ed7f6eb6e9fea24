"""The formula in jax.numpy, compiled by XLA, over torch's memory."""

import os
from functools import partial

import torch

from inputs import shaped
from peer import EPS, MOMENTUM, Bound, Peer, Unavailable, split


class Jax(Peer):
    name = "jax"

    def __init__(self, device: str):
        # jax reads this as it is imported: it would take three quarters of the GPU's memory, or a GPU where the CPU is measured.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if device == "cpu":
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        self.jax, self.device = jax, device
        self.own_stream = device == "cuda"
        platform = jax.devices()[0].platform
        if platform not in (("cpu",) if device == "cpu" else ("gpu", "cuda")):
            raise Unavailable(f"jax runs on {platform} here")
        self.includes = (
            "jax.jit of the formula with flax's variance E[x^2] - E[x]^2 in f32; running statistics and an i32 counter "
            "are new arrays; relu and add are fused by XLA; backward: the formula on saved statistics, relu by the "
            "saved y; new outputs each call; XLA's own threads and streams; eager: the host's clock to the last result"
        )

    def new_row(self, row) -> None:
        self._compiled = {}

    def bind(self, operation: str, buffers) -> Bound:
        row, b = buffers.row, buffers
        if row.offset:
            raise Unavailable("jax places its buffers itself")
        kind, epilogue = split(operation)
        x = self._array(row, b.x)
        params = [self._array(row, each) for each in (b.gamma, b.beta, b.running_mean, b.running_var)]
        if kind == "infer":
            return Bound(self._call(operation, row, x, *params))
        z = self._array(row, b.z) if epilogue == "add-relu" else None
        step = (x, z, *params, self.jax.numpy.asarray(int(b.counter), "int32"))
        if kind == "train":
            return Bound(self._call(operation, row, *step))
        y, mean, inv_std, *_ = self._function(f"train-{epilogue}" if epilogue else "train", row)(*step)
        y = y if epilogue else None
        call = self._call(operation, row, self._array(row, b.dy), x, y, params[0], mean, inv_std)
        return Bound(call, None if y is None else self._tensor(row, y))

    def _call(self, operation: str, row, *arguments):
        function = self._function(operation, row)
        if self.device == "cpu":
            return lambda: self.jax.block_until_ready(function(*arguments))
        return partial(function, *arguments)

    def _function(self, operation: str, row):
        if operation not in self._compiled:
            kind, epilogue = split(operation)
            function = {"train": self._train, "infer": self._infer, "backward": self._backward}[kind]
            self._compiled[operation] = self.jax.jit(partial(function, Axes(row), epilogue))
        return self._compiled[operation]

    def _train(self, axes, epilogue: str, x, z, gamma, beta, running_mean, running_var, counter):
        jnp = self.jax.numpy
        wide = x.astype("float32")
        mean = wide.mean(axes.reduced)
        var = jnp.maximum(0.0, (wide * wide).mean(axes.reduced) - mean * mean)
        inv_std = self.jax.lax.rsqrt(var + EPS)
        y = ((wide - axes.wide(mean)) * axes.wide(inv_std * gamma) + axes.wide(beta)).astype(x.dtype)
        if epilogue == "add-relu":
            y = y + z
        if epilogue:
            y = jnp.maximum(y, 0)
        unbiased = var * (axes.m / max(axes.m - 1, 1))
        running_mean = (1 - MOMENTUM) * running_mean + MOMENTUM * mean
        running_var = (1 - MOMENTUM) * running_var + MOMENTUM * unbiased
        return y, mean, inv_std, running_mean, running_var, counter + 1

    def _infer(self, axes, _, x, gamma, beta, running_mean, running_var):
        scale = self.jax.lax.rsqrt(running_var + EPS) * gamma
        wide = x.astype("float32") - axes.wide(running_mean)
        return ((wide * axes.wide(scale) + axes.wide(beta)).astype(x.dtype),)

    def _backward(self, axes, epilogue: str, dy, x, y, gamma, mean, inv_std):
        g = self.jax.numpy.where(y > 0, dy, 0) if epilogue else dy
        wide = g.astype("float32")
        x_hat = (x.astype("float32") - axes.wide(mean)) * axes.wide(inv_std)
        dbeta, dgamma = wide.sum(axes.reduced), (wide * x_hat).sum(axes.reduced)
        dx = wide - axes.wide(dbeta / axes.m) - x_hat * axes.wide(dgamma / axes.m)
        gradients = (dx * axes.wide(gamma * inv_std)).astype(x.dtype), dgamma, dbeta
        return (*gradients, g) if epilogue == "add-relu" else gradients

    def _array(self, row, tensor):
        last = tensor.dim() > 1 and row.layout == "channels-last"
        return self.jax.dlpack.from_dlpack((tensor.movedim(1, -1) if last else tensor).contiguous())

    def _tensor(self, row, array):
        tensor = torch.from_dlpack(array)
        return shaped(row, tensor.reshape(-1)) if tensor.dim() > 1 else tensor

    def wait(self, result) -> None:
        self.jax.block_until_ready(result)

    def outputs(self, row, operation: str, result) -> list:
        self.wait(result)
        return [self._tensor(row, array) for array in result]

    def running(self, buffers, result) -> tuple:
        return tuple(torch.from_dlpack(array) for array in result[3:6])


class Axes:
    """The axis of the channels in the row's memory."""

    def __init__(self, row):
        rank = 2 + len(row.spatial)
        channels = rank - 1 if row.layout == "channels-last" else 1
        self.m = row.m
        self.reduced = tuple(axis for axis in range(rank) if axis != channels)
        self._shape = tuple(-1 if axis == channels else 1 for axis in range(rank))

    def wide(self, values):
        """Per-channel values, other than the data."""
        return values.reshape(self._shape)
