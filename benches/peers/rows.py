"""The shape that a parent process asks for, with every field checked. Needs no torch."""

from dataclasses import dataclass
from math import prod

LAYOUTS = ("channels-first", "channels-last")

# Dtypes and their sizes, which tests/lists.rs holds against the crate's.
BYTES = {"f32": 4, "f16": 2, "bf16": 2}


class BadRow(ValueError):
    """A shape that is none."""


@dataclass(frozen=True)
class Row:
    """One shape in one layout and dtype."""

    n: int
    c: int
    spatial: tuple[int, ...]
    layout: str
    dtype: str
    # Elements beyond a 16-byte boundary at which every data buffer begins.
    offset: int = 0

    @property
    def m(self) -> int:
        """Values per channel."""
        return self.n * prod(self.spatial)

    @property
    def elements(self) -> int:
        return self.m * self.c

    @property
    def tensor_bytes(self) -> int:
        return self.elements * BYTES[self.dtype]


def row_of(value: dict) -> Row:
    """The row that a JSON object describes."""
    layout, dtype, spatial = (value.get(field) for field in ("layout", "dtype", "spatial"))
    if layout not in LAYOUTS:
        raise BadRow(f"layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise BadRow(f"dtype is one of {', '.join(BYTES)}, not {dtype!r}")
    if not isinstance(spatial, list):
        raise BadRow(f"spatial is a list, not {spatial!r}")
    return Row(
        n=_whole(value.get("n"), "n"),
        c=_whole(value.get("c"), "c"),
        spatial=tuple(_whole(size, "a spatial size") for size in spatial),
        layout=layout,
        dtype=dtype,
        offset=_whole(value.get("offset", 0), "offset", least=0),
    )


def _whole(value, what: str, least: int = 1) -> int:
    # bool is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**48:
        raise BadRow(f"{what} is a whole number of at least {least}, not {value!r}")
    return value
