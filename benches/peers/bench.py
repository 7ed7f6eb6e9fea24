"""Peers over one row at a time: whether it fits, whether they are right, and what they take."""

import importlib
import importlib.metadata
import platform
import subprocess

import torch

import reference
import timing
from inputs import Buffers, free_bytes, held_bytes, needed_bytes, sets_of
from peer import OPERATIONS, OUTPUTS, PEERS, Peer, reason_of
from rows import Row

PACKAGES = ("triton", "jax", "jaxlib", "nvidia-cudnn-frontend", "apex")


class Bench:
    def __init__(self, device: str, names):
        self.device = device
        self.peers: dict[str, Peer] = {}
        self.missing: dict[str, str] = {}
        torch.set_grad_enabled(False)  # autograd's bookkeeping is not what is measured
        for name in names:
            module, factory = PEERS[name]
            try:
                self.peers[name] = getattr(importlib.import_module(module), factory)(device)
            except Exception as error:  # whatever an import or a library's start raises
                self.missing[name] = reason_of(error)
        self.names = tuple(names)
        self._close()

    def greeting(self) -> dict:
        """The first line that the parent process reads, and writes into its JSON."""
        there = {name: {"name": name, "includes": peer.includes} for name, peer in self.peers.items()}
        return {
            "device": "cpu" if self.device == "cpu" else torch.cuda.get_device_name(0),
            "threads": torch.get_num_threads(),
            "versions": versions(self.device),
            "peers": [there.get(name) or {"name": name, "reason": self.missing[name]} for name in self.names],
        }

    def open(self, row: Row) -> str | None:
        """Makes the row's buffers, or says why not. A row that is open already stays, with what was compiled for it."""
        if row == self.row:
            return None
        self._close()
        self.sets = sets_of(row, self.device)
        reason = self._too_large(row, "infer")
        if reason:
            return reason
        try:
            self.buffers = [Buffers(row, self.device, index) for index in range(self.sets)]
            for peer in self.peers.values():
                peer.new_row(row)
        except Exception as error:  # what the allocator raises
            self._close()
            return reason_of(error)
        self.row = row
        return None

    def measure(self, name: str, operation: str, seconds: float) -> dict:
        """Samples in seconds by way ("call" on the CPU; "graph", "eager", "host" on CUDA), or a reason."""
        if name in self.missing:
            return {"reason": self.missing[name]}
        peer = self.peers.get(name)
        if peer is None:
            return {"reason": f"a peer is one of {', '.join(self.names)}, not {name!r}"}
        if operation not in OPERATIONS:
            return {"reason": f"an operation is one of {', '.join(OPERATIONS)}, not {operation!r}"}
        if self.row is None:
            return {"reason": "no row is open"}
        try:
            reason = self._too_large(self.row, operation) or self._wrong(peer, operation)
            return {"reason": reason} if reason else self._timed(peer, operation, seconds)
        except Exception as error:  # whatever the peer raises is its reason
            return {"reason": reason_of(error)}

    def _wrong(self, peer: Peer, operation: str) -> str | None:
        """Why the peer's result is refused. Looked at once for each row and operation."""
        key = peer.name, operation
        if key not in self._verdicts:
            peer.use_current_stream()
            buffers = self.buffers[0]
            bound = peer.bind(operation, buffers)
            check = reference.Check(operation, buffers, bound.y)
            result = bound.call()
            outputs = peer.outputs(self.row, operation, result)[: len(OUTPUTS[operation])]
            self._verdicts[key] = check.reason(outputs, peer.running(buffers, result))
        return self._verdicts[key]

    def _timed(self, peer: Peer, operation: str, seconds: float) -> dict:
        calls = [peer.bind(operation, buffers).call for buffers in self.buffers]
        if self.device == "cpu":
            return timing.host_ways(calls[0], seconds)
        return timing.device_ways(peer, calls, seconds)

    def _too_large(self, row: Row, operation: str) -> str | None:
        checked = reference.checked_channels(row) * row.m
        needed = needed_bytes(row, operation, self.sets, checked)
        free = free_bytes(self.device)
        if free is not None and needed - held_bytes(row, self.buffers) > free:
            return f"{operation} needs {needed} bytes, and {free} are free"
        return None

    def _close(self):
        self.row, self.sets = None, 1
        self.buffers: list[Buffers] = []
        self._verdicts: dict[tuple[str, str], str | None] = {}


def versions(device: str) -> dict:
    """Every library that a peer calls, by its version."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if device == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None
