"""The CUDA path on the emulated device: runs emulated/cases.py in a process of its own, whose native half has the feature `emulate`.

BATCHNORM_EMULATED names that half's file.
"""

import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.skipif(not os.environ.get("BATCHNORM_EMULATED"), reason="needs BATCHNORM_EMULATED, a native half with the feature emulate")
def test_the_cuda_path():
    cases = pathlib.Path(__file__).parent / "emulated" / "cases.py"
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cases], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout and "skipped" not in ran.stdout
