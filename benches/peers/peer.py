"""A peer: a name, what its time includes, and a call for each operation over one set of buffers."""

from collections.abc import Callable
from typing import Any, NamedTuple

EPS = 1e-5
MOMENTUM = 0.1

# Each in a module of its own, so that one that does not import takes no other with it.
PEERS = {
    "torch": ("torch_peers", "Torch"),
    "torch-cudnn": ("torch_peers", "TorchCudnn"),
    "torch-compile": ("torch_peers", "TorchCompile"),
    "cudnn-graph": ("cudnn_graph_peer", "CudnnGraph"),
    "jax": ("jax_peer", "Jax"),
    "apex-groupbn": ("apex_peer", "ApexGroupbn"),
}

# The results of a call, in this order; more behind it is ignored.
FORWARD_OUTPUTS = ("y", "saved_mean", "saved_inv_std")
OUTPUTS = {
    "train": FORWARD_OUTPUTS,
    "train-relu": FORWARD_OUTPUTS,
    "train-add-relu": FORWARD_OUTPUTS,
    "backward": ("dx", "dgamma", "dbeta"),
    "backward-relu": ("dx", "dgamma", "dbeta"),
    "backward-add-relu": ("dx", "dgamma", "dbeta", "dz"),
    "infer": ("y",),
}
OPERATIONS = tuple(OUTPUTS)


class Unavailable(Exception):
    """Why a peer, or an operation of one, cannot be measured."""


class Bound(NamedTuple):
    """An operation over one set of buffers."""

    # Runs it once, or puts it on the stream, and returns its outputs.
    call: Callable[[], Any]
    # y of the forward pass before a backward operation, by which relu's gradient is masked.
    y: Any = None


def split(operation: str) -> tuple[str, str]:
    """("train", "add-relu") of "train-add-relu"."""
    kind, _, epilogue = operation.partition("-")
    return kind, epilogue


class Peer:
    """Raises `Unavailable`, or whatever its library raises, from its constructor where it is not there."""

    name = ""
    includes = ""
    # Whether it launches on a stream of its own, where neither torch's events nor its graphs see it.
    own_stream = False

    def new_row(self, row) -> None:
        """Frees code that was compiled for the last row."""

    def bind(self, operation: str, buffers) -> Bound:
        raise NotImplementedError

    def use_current_stream(self) -> None:
        """Called before calls on another of torch's streams."""

    def wait(self, result) -> None:
        """Returns when `result` is there; called if `own_stream` is set."""

    def outputs(self, row, operation: str, result) -> list:
        """The torch tensors of `OUTPUTS`, data as [n, c, spatial...]."""
        return list(result)

    def running(self, buffers, result) -> tuple:
        """running_mean, running_var and the counter behind a training step."""
        return buffers.running_mean, buffers.running_var, buffers.counter


def reason_of(error: BaseException) -> str:
    """One line of an exception's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, Unavailable):
        return text
    return f"{type(error).__name__}: {text}"[:300]
