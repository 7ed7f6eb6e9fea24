"""The buffers of a row, and whether they fit the memory."""

from functools import cached_property

import torch

from rows import BYTES, Row

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SEED = 20240607

# Tensors the size of x that are alive at most: the next call's outputs are made while the last one's are alive.
HELD = {
    "train": 3,  # x, 2 y
    "train-relu": 3,
    "train-add-relu": 4,  # x, z, 2 y
    "backward": 4,  # x, dy, 2 dx
    "backward-relu": 6,  # x, dy, y, masked dy, 2 dx
    "backward-add-relu": 8,  # x, z, dy, y, 2 dx, 2 dz
    "infer": 3,
}

# Sets of buffers at most: the launch alone is measured for sets so small that more would be needed, wherever the data lies.
MOST_SETS = 4096


class Buffers:
    """One layer: its data and its per-channel values. dy and z are made when first asked for."""

    def __init__(self, row: Row, device: str, index: int = 0):
        self.row, self.device, self.index = row, device, index
        self._generator = torch.Generator(device)
        self.x = self._data(0)
        # Uniform, so that no gamma is close to 0, where a wrong dx would look right.
        self.gamma, self.beta, self.running_mean, self.running_var = (
            self._seeded(role, torch.empty(row.c, device=device)).uniform_(low, low + 1, generator=self._generator)
            for role, low in ((3, 0.5), (4, -0.5), (5, -0.5), (6, 0.5))
        )
        self.counter = torch.zeros((), dtype=torch.int64, device=device)

    @cached_property
    def dy(self):
        return self._data(1)

    @cached_property
    def z(self):
        return self._data(2)

    def _data(self, role: int):
        row = self.row
        # torch's memory begins on a boundary of 64 bytes or more.
        whole = torch.empty(row.offset + row.elements, dtype=DTYPES[row.dtype], device=self.device)
        self._seeded(role, whole).normal_(generator=self._generator)
        return shaped(row, whole[row.offset :])

    def _seeded(self, role: int, tensor):
        # The same values whatever was made before.
        self._generator.manual_seed(SEED + 8 * self.index + role)
        return tensor


def shaped(row: Row, flat):
    """Memory in the row's layout as the logical tensor [n, c, spatial...]."""
    if row.layout == "channels-last":
        return flat.view(row.n, *row.spatial, row.c).movedim(-1, 1)
    return flat.view(row.n, row.c, *row.spatial)


def sets_of(row: Row, device: str) -> int:
    """Sets of buffers that together are at least four times the L2, so that none is in it when it comes again."""
    if device == "cpu":
        return 1
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    set_bytes = 2 * row.tensor_bytes + 6 * 4 * row.c  # the least that an operation touches
    return min(-(-4 * l2 // set_bytes), MOST_SETS)


def needed_bytes(row: Row, operation: str, sets: int, checked_elements: int) -> int:
    """Bytes that measuring the operation takes at most, on top of those of the row."""
    data = sets * HELD[operation] * (row.tensor_bytes + row.offset * BYTES[row.dtype])
    return data + sets * 32 * row.c + 100 * checked_elements  # a dozen f64 tensors in the check


def held_bytes(row: Row, buffers: list[Buffers]) -> int:
    """The part of `needed_bytes` that is there already."""
    tensors = sum(1 + ("dy" in vars(each)) + ("z" in vars(each)) for each in buffers)
    return tensors * row.tensor_bytes


def free_bytes(device: str) -> int | None:
    """The free memory, or None where nothing says."""
    if device == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            available = [line for line in file if line.startswith("MemAvailable:")]
        return int(available[0].split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        return None
