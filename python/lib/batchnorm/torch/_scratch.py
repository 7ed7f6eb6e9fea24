"""Scratch memory on a device, from torch's allocator."""

import threading
from contextlib import contextmanager

import torch

from batchnorm import _native

# One for each thread and stream: what two threads put on one stream may lie between the launches of one operation.
_KEPT = threading.local()


@contextmanager
def scratch(where, operation, epilogue):
    """Address and bytes of scratch memory for an operation on what `where` says: nothing on the CPU.

    It was zeros once, and each operation leaves it as the next one needs it: after an error it is given up. A graph gets
    memory of its own, since its replays are in order with nothing else.
    """
    place = where[0]
    if place is None:
        yield None
        return
    device = torch.device("cuda", place[0])
    needed = _native.scratch_bytes(*where, operation, epilogue)
    is_capturing = torch.cuda.is_current_stream_capturing()
    kept = _KEPT.__dict__
    memory = None if is_capturing else kept.pop(place, None)
    if memory is None or memory.numel() < needed:
        memory = torch.zeros(needed, dtype=torch.uint8, device=device)
    yield memory.data_ptr(), memory.numel()
    if not is_capturing:
        kept[place] = memory
