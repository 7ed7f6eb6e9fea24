"""What the measurements were made on."""

import importlib.metadata
import platform
import shutil
import subprocess

import torch

PACKAGES = ("triton", "jax", "jaxlib", "nvidia-cudnn-frontend", "apex")

CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
# Two names for one thing, by driver.
THROTTLE = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def greeting(bench) -> dict:
    """The first line that a parent process reads."""
    return {
        "torch": torch.__version__,
        "device": device_name(bench.device),
        "threads": torch.get_num_threads(),
        "peers": bench.described(),
    }


def versions(device: str) -> dict:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if device == "cuda":
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
        found["driver"] = _query("driver_version")
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def clocks(device: str) -> dict | None:
    """Megahertz, watts and what holds the clocks down, as nvidia-smi prints them; None where there is none."""
    if device != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    for throttle in THROTTLE:
        fields = (*CLOCKS, throttle)
        line = _query(",".join(fields))
        if line is not None:
            return dict(zip((*CLOCKS, "throttle_reasons"), (value.strip() for value in line.split(","))))
    return None


def _query(fields: str) -> str | None:
    # By its identity: nvidia-smi does not number devices as CUDA does.
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    identity = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    command = ["nvidia-smi", f"--id={identity}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
