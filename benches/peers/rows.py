"""The shapes of suites.json, and what an operation must move over one of them. Needs no torch."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

SUITES = Path(__file__).resolve().parent.parent / "suites.json"

LAYOUTS = ("channels-first", "channels-last")

BYTES = {"f32": 4, "f16": 2, "bf16": 2}

# The least that can be moved, in tensors the size of x. Statistics and masks (a bit an element) do not count.
MOVED = {
    "train": 2,  # x, y
    "train-relu": 2,  # x, y
    "train-add-relu": 3,  # x, z, y
    "backward": 3,  # x, dy, dx
    "backward-relu": 3,  # x, dy, dx
    "backward-add-relu": 4,  # x, dy, dx, dz
    "infer": 2,  # x, y
}
OPERATIONS = tuple(MOVED)


class BadRow(ValueError):
    """A shape that is none, or a file that does not list any."""


@dataclass(frozen=True)
class Row:
    """One shape in one layout and dtype."""

    n: int
    c: int
    spatial: tuple[int, ...]
    layout: str
    dtype: str
    # How many elements beyond a 16-byte boundary every data buffer begins.
    offset: int = 0
    suite: str = ""
    name: str = ""
    # How often the network has this layer.
    count: int = 1

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

    @property
    def label(self) -> str:
        return f"{self.suite}/{self.name} n={self.n}"

    def __str__(self) -> str:
        return f"{self.label} {self.layout} {self.dtype}"

    def moved_bytes(self, operation: str) -> int:
        return MOVED[operation] * self.tensor_bytes


def row_of(value: dict) -> Row:
    """The row that a JSON object describes, with every field checked."""
    layout, dtype = value.get("layout"), value.get("dtype")
    if layout not in LAYOUTS:
        raise BadRow(f"layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise BadRow(f"dtype is one of {', '.join(BYTES)}, not {dtype!r}")
    return Row(
        n=_whole(value.get("n"), "n"),
        c=_whole(value.get("c"), "c"),
        spatial=tuple(_whole(size, "a spatial size") for size in _list(value.get("spatial"), "spatial")),
        layout=layout,
        dtype=dtype,
        offset=_whole(value.get("offset", 0), "offset", least=0),
        suite=_text(value.get("suite", ""), "suite"),
        name=_text(value.get("name", ""), "name"),
        count=_whole(value.get("count", 1), "count"),
    )


def read_suites(path: Path) -> list[Row]:
    """Every row of the file: each n, layout and dtype of each entry."""
    try:
        suites = json.loads(Path(path).read_text(encoding="utf-8"))["suites"]
        entries = [(suite, entry) for suite, entries in suites.items() for entry in _list(entries, suite)]
        return [row for suite, entry in entries for row in _expanded(suite, entry)]
    except OSError as error:
        raise BadRow(f"{path}: {error.strerror}") from error
    except BadRow as error:
        raise BadRow(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRow(f"{path} is no list of suites: {type(error).__name__}: {error}") from error


def _expanded(suite: str, entry: dict) -> list[Row]:
    # Where there is nothing beside the channels, or one channel, the two layouts are the same memory.
    one_layout = not entry["spatial"] or entry["c"] == 1
    rows = []
    for n in _list(entry["n"], "n"):
        for layout in LAYOUTS[:1] if one_layout else LAYOUTS:
            for dtype in _list(entry.get("dtypes", list(BYTES)), "dtypes"):
                rows.append(row_of({**entry, "suite": suite, "n": n, "layout": layout, "dtype": dtype}))
    return rows


def _whole(value, what: str, least: int = 1) -> int:
    # bool is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**48:
        raise BadRow(f"{what} is a whole number of at least {least}, not {value!r}")
    return value


def _list(value, what: str) -> list:
    if not isinstance(value, list):
        raise BadRow(f"{what} is a list, not {value!r}")
    return value


def _text(value, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{what} is text, not {value!r}")
    return value
