"""Scratch memory on a device, where the native half's own is not to be used."""

import torch

from batchnorm import _native


def workspace(where, operation, epilogue):
    """Memory for an operation on what `where` says, in a graph that is being captured, and else `None`.

    Each thread has memory for each of its streams, which its next operation uses again, and none of it is in torch's pools. A
    graph holds on to addresses, and its replays are in order with nothing else: it gets memory of its own, in its pool.
    """
    device = where[0][0]
    if device is None or not torch.cuda.is_current_stream_capturing():
        return None
    return torch.zeros(_native.workspace_bytes(where, operation, epilogue), dtype=torch.uint8, device=f"cuda:{device}")


def address_of(memory):
    """Address and bytes, as the native functions take them."""
    return None if memory is None else (memory.data_ptr(), memory.numel())
