"""One launch of each kernel family, strategy and epilogue, each in a process and under a watchdog of its own, against the CPU.

    smoke.py make FOLDER BATCHNORM           inputs, and what the CPU makes of them
    smoke.py run FOLDER BATCHNORM JOBS       the launches, so many processes at a time; exit code 1 where one is bad
    smoke.py large FOLDER                    the input of the profiles by Nsight Compute

A line before and a line behind each launch: what has no second line hangs, or was killed with this program. A fault or a hang of
one launch is no other's.
"""

import json
import os
import random
import struct
import subprocess
import sys
import time
from array import array
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from operator import sub
from pathlib import Path

import watch

# Seconds that a launch may take: a context, all kernels loaded, one operation.
LIMIT = float(os.environ.get("SMOKE_LIMIT", "15"))
# Seconds for a look into the first launch of a strategy that hangs, and how many may hang before its others are left.
LOOK, HANGS = 10, 2
STRATEGIES = ["block", "two-read", "cluster", "grid", "auto"]
# All that there are, which tests/lists.rs holds against the crate's, as it does the dtypes below.
EPILOGUES = ["identity", "relu", "relu6", "silu", "hardswish", "add", "add-relu"]
# Name, dimensions, layout, dtype: every form, and each dtype. On an H100, by today's constants of the planner, `rows` has
# clusters of 8 CTAs and a grid's teams of 49, and `columns` clusters of 4 and teams of 25.
SHAPES = [
    ("rows", (64, 4, 56, 56), "channels-first", "F16"),
    ("columns", (8, 14, 14, 64), "channels-last", "F32"),
    ("scalar-rows", (9, 3, 17, 17), "channels-first", "BF16"),
    ("scalar-columns", (33, 5, 7), "channels-last", "F16"),
]
# The largest difference from the CPU, as a share of the largest value: what rounding leaves. The table's tolerances are verify's.
TOLERANCE = {"F32": 1e-4, "F16": 4e-3, "BF16": 3e-2}
# Epilogues whose derivative jumps, and values that may fall on the other side of a jump by a rounding.
JUMPS, FLIPS = {"relu", "relu6", "hardswish", "add-relu"}, 4


def jobs() -> list[tuple]:
    """Strategy, operation, epilogue and shape. Each pair of a strategy and an operation meets every shape; each strategy, and
    training and its backward pass each, every epilogue."""
    epilogues, found = cycle(EPILOGUES), []
    for strategy in STRATEGIES:
        found += [(strategy, "moments", "identity", shape) for shape in SHAPES[:2]]
        found += [(strategy, op, next(epilogues), shape) for op in ["train", "backward"] for shape in SHAPES]
    found += [("auto", op, next(epilogues), shape) for op in ["infer", "backward-frozen"] for shape in SHAPES]
    return found


def words(op: str, epilogue: str, shape: tuple) -> str:
    name, dims, layout, dtype = shape
    return f"{op} {epilogue} {dtype.lower()} {list(dims)} {layout} ({name})"


def command(program: str, op: str, epilogue: str, shape: tuple, output: str, *more: str) -> list[str]:
    run = [program, "run", "--op", op, "--layout", shape[2], "--input", f"in-{shape[0]}.safetensors", "--output", output, *more]
    return run if op == "moments" else [*run, "--epilogue", epilogue]


def make(program: str) -> None:
    source = random.Random(7)
    for name, dims, layout, dtype in SHAPES:
        c = dims[1] if layout == "channels-first" else dims[-1]
        length = 1
        for size in dims:
            length *= size
        data = lambda: (dtype, dims, encode([source.gauss(0, 1) for _ in range(length)], dtype))
        channel = lambda least: ("F32", (c,), encode([least + source.random() for _ in range(c)], "F32"))
        tensors = {"x": data(), "z": data(), "dy": data(), "weight": channel(0.5), "bias": channel(-0.5)}
        tensors |= {"running_mean": channel(-0.5), "running_var": channel(0.5)}
        tensors["num_batches_tracked"] = ("I64", (), struct.pack("<q", 41))
        write(f"in-{name}.safetensors", tensors)
    for op, epilogue, shape in sorted({job[1:] for job in jobs()}):
        wanted = f"want-{op}-{epilogue}-{shape[0]}.safetensors"
        subprocess.run(command(program, op, epilogue, shape, wanted, "--device", "cpu"), check=True, stdout=subprocess.DEVNULL)


def large() -> None:
    dims = (256, 64, 56, 56)
    values = encode([random.Random(7).gauss(0, 1) for _ in range(1 << 16)], "F16")
    data = ("F16", dims, values * (256 * 64 * 56 * 56 // (1 << 16)))
    ones = ("F32", (64,), encode([1.0] * 64, "F32"))
    write("in-large.safetensors", {"x": data, "dy": data, "weight": ones, "bias": ones})


def one(program: str, strategy: str, op: str, epilogue: str, shape: tuple) -> bool:
    """One launch. Whether it is good, or refused since the strategy cannot hold the shape. A strategy that hangs again and again
    must not take the time of the others."""
    what = f"strategy {strategy}: {words(op, epilogue, shape)}"
    got = f"got-{strategy}-{op}-{epilogue}-{shape[0]}.safetensors"
    device = ["--device", "cuda", "--strategy", strategy]
    if op in ("infer", "backward-frozen"):
        device = device[:2]
    hung = Path(f"hung-{op if len(device) == 2 else strategy}")
    if hung.exists() and hung.stat().st_size >= HANGS:
        print("LEFT ", what, f"| {HANGS} launches of the kind hung before", flush=True)
        return False
    print("run  ", what, flush=True)
    begin = time.monotonic()
    process = subprocess.Popen(
        command(program, op, epilogue, shape, got, *device), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        text = process.communicate(timeout=LIMIT)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        # Said first: what looks into it may hang too.
        print("HANG ", what, flush=True)
        try:
            is_first = not open(hung, "xb").close()
        except FileExistsError:
            is_first = False
        with open(hung, "ab") as file:
            file.write(b".")
        for line in watch.look_at(process.pid, Path(got).with_suffix(".log"), LOOK) if is_first else []:
            print("HANG ", what, "|", line, flush=True)
        process.kill()
        return False
    took = time.monotonic() - begin
    if process.returncode != 0 or not Path(got).exists():
        text = " ".join(text.split())[:250]
        is_refused = f"strategy {strategy}: expected" in text
        print("none " if is_refused else f"FAIL {process.returncode}", what, "|", text, flush=True)
        return is_refused
    wrong = compare(read(got), read(f"want-{op}-{epilogue}-{shape[0]}.safetensors"), shape[3], epilogue)
    print("WRONG" if wrong else "ok   ", what, wrong, f"{took:.1f} s", flush=True)
    Path(got).unlink()
    return not wrong


def compare(got: dict, want: dict, dtype: str, epilogue: str) -> str:
    """The differences of the tensors, as text; empty if there are none."""
    if got.keys() != want.keys():
        return f"expected tensors {sorted(want)}, got {sorted(got)}"
    wrong = []
    for name, b in want.items():
        a = got[name]
        if len(a) != len(b):
            wrong.append(f"{name}: expected {len(b)} values, got {len(a)}")
            continue
        allowed = TOLERANCE[dtype] * max([1.0, *map(abs, b)])
        # NaN is beyond any bound.
        beyond = [i for i, difference in enumerate(map(sub, a, b)) if not abs(difference) <= allowed]
        flips = FLIPS if name in ("dx", "dz") and epilogue in JUMPS else 0
        if len(beyond) > flips:
            i = beyond[0]
            wrong.append(f"{name}: {len(beyond)} of {len(b)} differ, [{i}]: expected {b[i]:.6g}, got {a[i]:.6g}")
    return "; ".join(wrong)


def run(program: str, processes: int) -> int:
    launches = jobs()
    for hung in Path().glob("hung-*"):
        hung.unlink()
    with ProcessPoolExecutor(processes) as pool:
        good = list(pool.map(one, *zip(*[(program, *job) for job in launches])))
    print(f"smoke: {len(good)} launches, {good.count(False)} bad", flush=True)
    return 0 if all(good) else 1


def encode(values: list[float], dtype: str) -> bytes:
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    floats = array("f", values)
    if dtype == "F32":
        return floats.tobytes()
    # The upper half of an f32 is a bf16.
    return array("H", (bits >> 16 for bits in array("I", floats.tobytes()))).tobytes()


def decode(raw: bytes, dtype: str) -> "array | tuple":
    if dtype == "F16":
        return struct.unpack(f"<{len(raw) // 2}e", raw)
    if dtype == "BF16":
        return array("f", array("I", (bits << 16 for bits in array("H", raw))).tobytes())
    return array({"F32": "f", "I64": "q"}[dtype], raw)


def write(path: str, tensors: dict[str, tuple]) -> None:
    """A safetensors file."""
    head, end = {}, 0
    for name, (dtype, dims, raw) in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(raw for _, _, raw in tensors.values())


def read(path: str) -> dict:
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    head, tensors = json.loads(data[8 : 8 + length]), {}
    for name, tensor in head.items():
        if name != "__metadata__":
            begin, end = (8 + length + at for at in tensor["data_offsets"])
            tensors[name] = decode(data[begin:end], tensor["dtype"])
    return tensors


def main(verb: str, folder: str, *more: str) -> int:
    os.chdir(folder)
    if verb == "make":
        make(more[0])
    elif verb == "large":
        large()
    else:
        return run(more[0], int(more[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
