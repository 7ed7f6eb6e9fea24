"""The host's part of a call, beside torch.nn's: one process, in turns, on tensors so small that the arithmetic hardly counts.

    python python/benches/host_cost.py [--way dispatcher] [--device cuda] [--json FILE] [--at-most 1.0]

Each round times some calls of torch.nn's module and of ours, one behind the other, in processor time of this process (`time.process_time`;
on CUDA, of the thread that puts work on the stream). A row has the least mean of each, and the median of the rounds' ratios with its
quartiles. `--way dispatcher` takes the way of PyTorch 2.10 to 2.13 on a newer one. On CUDA it also counts what a step asks the driver
for. `--at-most` fails where a median is above.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time

import torch

import batchnorm.torch as bn
from batchnorm.torch import _autograd, _functional, _ops

LAYERS = 20


def chain(module):
    return torch.nn.Sequential(*(module(8) for _ in range(LAYERS)))


# Calls by their names: of a class of modules, the call and what makes a module; calls in a row; the layers of a call.
CASES = {
    "training forward": (lambda cls: (lambda m, x, dy: m(x)), lambda cls: cls(8), 300, 1),
    "training forward and backward": (lambda cls: (lambda m, x, dy: m(x).backward(dy)), lambda cls: cls(8), 150, 1),
    "evaluation": (lambda cls: (lambda m, x, dy: m(x)), lambda cls: cls(8).eval(), 300, 1),
    f"forward and backward, {LAYERS} layers": (lambda cls: (lambda m, x, dy: m(x).backward(dy)), chain, 15, LAYERS),
}


def measure(name, device, rounds):
    call, make, calls, layers = CASES[name]
    dy = torch.randn(4, 8, device=device)
    x = torch.randn(4, 8, device=device, requires_grad=name != "evaluation")
    classes = {"torch.nn": torch.nn.BatchNorm1d, "batchnorm.torch": bn.BatchNorm1d}
    modules = {key: (call(cls), make(cls).to(device)) for key, cls in classes.items()}
    clock = time.process_time if device == "cpu" else time.thread_time
    times = {key: [] for key in modules}
    with torch.set_grad_enabled(name != "evaluation"):
        for round in range(-2, rounds):
            for key in list(modules)[:: 1 if round % 2 else -1]:
                run, module = modules[key]
                start = clock()
                for _ in range(calls):
                    run(module, x, dy)
                if round >= 0:
                    times[key].append((clock() - start) / calls / layers * 1e6)
                if device != "cpu":
                    torch.cuda.synchronize()
    ratios = [ours / theirs for ours, theirs in zip(times["batchnorm.torch"], times["torch.nn"])]
    low, median, high = statistics.quantiles(ratios, n=4)
    least = {key: min(values) for key, values in times.items()}
    return {"case": name, "us": least, "ratio": {"median": median, "quartiles": [low, high]}}


def driver_calls(module, device):
    """How often a step of one layer asks CUDA's driver for what, as the profiler counts it."""
    x = torch.randn(4, 8, device=device, requires_grad=True)
    layer = module(8).to(device)
    for _ in range(3):
        layer(x).sum().backward()
    with torch.profiler.profile(activities=torch.profiler.ProfilerActivity.__members__.values()) as profile:
        layer(x).sum().backward()
    return {event.key: event.count for event in profile.key_averages() if event.key.startswith("cu")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--way", choices=["shortest", "dispatcher"], default="shortest")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--at-most", type=float, metavar="RATIO")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
    if options.way == "dispatcher":
        _functional.train_short, _functional.infer_short = _autograd.by_dispatcher
        _functional.TAKES_TENSORS = False
    way = "Python's kernels" if not _ops.IS_NATIVE else options.way if _ops.TAKES_TENSORS else "dispatcher"
    print(f"PyTorch {torch.__version__}, {platform.machine()}, {options.device}, way: {way}")
    rows = [measure(name, options.device, options.rounds) for name in CASES]
    for row in rows:
        ours, theirs, ratio = row["us"]["batchnorm.torch"], row["us"]["torch.nn"], row["ratio"]
        quartiles = " to ".join(f"{value:.2f}" for value in ratio["quartiles"])
        print(f"{row['case']}: {ours:.1f} us, torch.nn {theirs:.1f} us; ratio {ratio['median']:.2f} ({quartiles})")
    result = {"torch": torch.__version__, "device": options.device, "way": way, "rows": rows}
    if options.device != "cpu":
        result["driver_calls"] = {cls.__module__: driver_calls(cls, options.device) for cls in (torch.nn.BatchNorm1d, bn.BatchNorm1d)}
        print(json.dumps(result["driver_calls"], indent=2))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=2)
    above = [row["case"] for row in rows if options.at_most and row["ratio"]["median"] > options.at_most]
    if above:
        sys.exit(f"expected ratios of at most {options.at_most}, got more of {', '.join(above)}")


if __name__ == "__main__":
    main()
