"""Peers over one row at a time: whether it fits, whether they are right, and what they take."""

import importlib

import torch

import reference
import timing
from inputs import Buffers, free_bytes, held_bytes, needed_bytes, sets_of
from peer import OUTPUTS, PEERS, Peer, reason_of
from rows import OPERATIONS, Row


class Bench:
    def __init__(self, device: str, names=tuple(PEERS), limit_bytes: int | None = None):
        self.device, self.limit_bytes = device, limit_bytes
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

    def described(self) -> list[dict]:
        there = {name: {"name": name, "includes": peer.includes} for name, peer in self.peers.items()}
        return [there.get(name) or {"name": name, "reason": self.missing[name]} for name in self.names]

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
        if self.limit_bytes is not None and needed > self.limit_bytes:
            return f"{operation} needs {needed} bytes, and the limit is {self.limit_bytes}"
        free = free_bytes(self.device)
        if free is not None and needed - held_bytes(row, self.buffers) > free:
            return f"{operation} needs {needed} bytes, and {free} are free"
        return None

    def _close(self):
        self.row, self.sets = None, 1
        self.buffers: list[Buffers] = []
        self._verdicts: dict[tuple[str, str], str | None] = {}
