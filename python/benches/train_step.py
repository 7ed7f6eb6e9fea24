"""Times a training step of ResNet-50's blocks with each batch norm, and what of it the batch norms take.

    python python/benches/train_step.py --device cuda --json benches/results/train-step-GPU-DATE.json

One bottleneck block of each of ResNet-50's four stages, in a row, as torchvision writes them. The variants, in turns within one
process: torch.nn's own kernels, torch.nn through cuDNN, ours, ours with activations and residuals fused, and no norm at all. What
a variant takes beyond no norm is its batch norms' share. Forward, backward and an SGD step; medians, with the quartiles beside them.

`--mode compiled` has torch.nn's by inductor, which fuses them itself, ours by the backend, and ours as `convert` makes them;
`--mode graph` replays each step as a CUDA graph.
"""

import argparse
import contextlib
import copy
import json
import platform
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

import batchnorm
import batchnorm.torch as bn

DTYPES = {"f32": None, "f16": torch.float16, "bf16": torch.bfloat16}
FORMATS = {"channels-first": torch.contiguous_format, "channels-last": torch.channels_last}
# Input channels, middle channels, stride: the first block of each stage.
STAGES = [(64, 64, 1), (256, 128, 2), (512, 256, 2), (1024, 512, 2)]


class Bottleneck(nn.Module):
    def __init__(self, c_in, c_mid, stride):
        super().__init__()
        c_out = 4 * c_mid
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_mid, 1, bias=False), nn.BatchNorm2d(c_mid)
        self.conv2, self.bn2 = nn.Conv2d(c_mid, c_mid, 3, stride, 1, bias=False), nn.BatchNorm2d(c_mid)
        self.conv3, self.bn3 = nn.Conv2d(c_mid, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        z = self.shortcut(x)
        y += z
        return self.relu(y)


class Native(nn.BatchNorm2d):
    """torch.nn's by PyTorch's own kernels: its backward pass follows the choice of the forward pass."""

    def forward(self, x):
        with torch.backends.cudnn.flags(enabled=False):
            return super().forward(x)


def replaced(model, make):
    for module in model.modules():
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, make(child))
    return model


def variants(model, device, mode):
    none = replaced(copy.deepcopy(model), lambda _: nn.Identity())
    if mode == "compiled":
        return {
            "none": torch.compile(none),
            "torch.nn, by inductor": torch.compile(copy.deepcopy(model)),
            "ours, by the backend": torch.compile(copy.deepcopy(model), backend=bn.backend()),
            "ours, converted": torch.compile(bn.convert(copy.deepcopy(model))),
        }
    made = {
        "none": none,
        "torch.nn native": replaced(copy.deepcopy(model), lambda norm: Native(norm.num_features).to(device)),
        "ours": bn.convert(copy.deepcopy(model), fuse=False),
        "ours, fused": bn.convert(copy.deepcopy(model)),
    }
    if device.type == "cuda":
        made["torch.nn, cuDNN allowed"] = copy.deepcopy(model)
    return made


def stepper(model, x, dtype, device):
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step():
        autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = model(x).float().square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def captured(step):
    """The replay of a step, captured on a stream of its own behind some that warm it up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure(steps, device, rounds, warmup):
    """Milliseconds of each step, the order turned around from round to round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = {name: [] for name in steps}
    for turn in range(warmup + rounds):
        for name in list(steps) if turn % 2 else reversed(steps):
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def commit():
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--size", type=int, default=56, help="height and width of the first block's input")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="f32, or autocast to f16 or bf16; all by default")
    parser.add_argument("--mode", choices=["eager", "compiled", "graph"], default="eager")
    parser.add_argument("--json", help="the file for the results")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: PyTorch finds no CUDA device here; no figure was taken")
    if args.device == "cuda" and not batchnorm.has_cuda:
        sys.exit("--device cuda: this build of batchnorm has no CUDA kernels; build it with BATCHNORM_CUDA=1")
    if args.mode == "graph" and args.device != "cuda":
        sys.exit("--mode graph: expected --device cuda, whose graphs it captures, got cpu")
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {platform.processor() or platform.machine()}"
    rows = []
    print(f"{name}, PyTorch {torch.__version__}, batch {args.batch}, {args.mode}, milliseconds a step\n")
    print(f"{'dtype':<6} {'layout':<15} {'batch norm':<26} {'median':>9} {'quartiles':>19} {'its share':>10}")
    for dtype in args.dtype or DTYPES:
        for layout, memory_format in FORMATS.items():
            torch.manual_seed(0)
            model = nn.Sequential(*(Bottleneck(*stage) for stage in STAGES)).to(device, memory_format=memory_format)
            x = torch.randn(args.batch, 64, args.size, args.size, device=device).contiguous(memory_format=memory_format)
            models = variants(model, device, args.mode)
            steps = {name: stepper(it, x, DTYPES[dtype], device) for name, it in models.items()}
            if args.mode == "graph":
                steps = {name: captured(step) for name, step in steps.items()}
            times = measure(steps, device, args.rounds, args.warmup)
            without = statistics.median(times["none"])
            for variant, samples in times.items():
                low, median, high = statistics.quantiles(samples, n=4)
                share = (median - without) / median
                print(f"{dtype:<6} {layout:<15} {variant:<26} {median:>9.3f} {low:>9.3f} {high:>9.3f} {share:>10.1%}")
                rows.append({"dtype": dtype, "layout": layout, "norm": variant, "median_ms": median,
                             "quartiles_ms": [low, high], "share_of_norms": share, "count": len(samples)})
    if args.json:
        report = {"device": name, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
                  "commit": commit(), "command": " ".join(["python", *sys.argv]), "mode": args.mode, "batch": args.batch,
                  "size": args.size,
                  "rows": rows}
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
