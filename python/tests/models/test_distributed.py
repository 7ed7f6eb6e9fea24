"""Converted networks in two processes, over gloo."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision")  # Where there are networks to test, there is time for processes.

PROGRAM = Path(__file__).with_name("in_two_processes.py")


@pytest.mark.parametrize("way", ["ddp", "ddp-compiled", "fsdp"])
def test_two_processes_train_as_with_torch_nn(way, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), tmp_path, way], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, error = process.communicate(timeout=150)
            assert process.returncode == 0 and out.strip().endswith("alike"), error
    finally:
        for process in processes:
            process.kill()
