"""A process that is forked while threads of it compute: every operation works in the child, at sizes on both sides of each threshold."""

import os
import subprocess
import sys

# Forks while threads compute and make pools of other sizes; each child computes some operations, and has the parent's bits.
FORKS = """
import itertools, os, random, signal, sys, threading, time, zlib
import torch, batchnorm.torch as bn
from batchnorm import _native
from batchnorm.torch._kinds import PARAM_DTYPE

forks, seed = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
# Sizes below and above the 32-bit words of a mask that are shared at least, and the values that one thread computes; and
# many tasks.
SIZES = [(2, 3), (1023, 32), (1025, 32), (2048, 32), (2049, 32), (40, 16, 20, 20), (40, 16, 24, 24)]
OPS = torch.ops.batchnorm

def case(shape, dtype, epilogue):
    def values(*shape):
        return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x, c = values(*shape), shape[1]
    z = x.flip(0) if epilogue.has_residual else None
    epilogue = epilogue.name
    weight, bias, mean, var = (torch.full((c,), value, dtype=PARAM_DTYPE[dtype]) for value in (1.5, -0.25, 0.5, 0.125))
    count = torch.zeros(1, dtype=torch.int64)
    def run():
        running = [mean.clone(), var.clone(), count.clone()]
        y, saved, inv_std, mask = OPS.train(x, z, weight, bias, *running, 0.1, 1e-5, epilogue, True, False, False)
        y2, mask2 = OPS.infer(x, z, weight, bias, mean, var, 1e-5, epilogue, True)
        back = OPS.backward(x, x, weight, bias, saved, inv_std, mask, False, None, epilogue, True, z is not None, True, True)
        frozen = OPS.backward(x, x, weight, bias, mean, var, mask2, False, 1e-5, epilogue, True, z is not None, True, True)
        results = [y, saved, inv_std, mask, *running, y2, mask2, *back, *frozen]
        return [zlib.crc32(tensor.contiguous().view(torch.uint8).numpy()) for tensor in results if tensor is not None and tensor.numel()]
    return run

CASES = [case(*what) for what in itertools.product(SIZES, PARAM_DTYPE, _native.EPILOGUES)]
with torch.no_grad():
    torch.set_num_threads(1)
    WANT = [run() for run in CASES]
    torch.set_num_threads(2)
    assert WANT == [run() for run in CASES]

done = False
def load(k):
    large = case((40, 16, 24, 24), torch.float32, next(each for each in _native.EPILOGUES if each.name == "add_relu"))
    with torch.no_grad():
        while not done:
            torch.set_num_threads(2 + k)  # So that the pool is made anew again and again.
            large()
            k = 1 - k

threads = [threading.Thread(target=load, args=(k,)) for k in (0, 1, 1)]
[thread.start() for thread in threads]
failed = []
for fork in range(forks):
    time.sleep(rng.random() * 2e-3)
    picked = rng.sample(range(len(CASES)), 6)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        with torch.no_grad():
            os._exit(0 if all(CASES[i]() == WANT[i] for i in picked) else 1)
    _, status = os.waitpid(child, 0)
    if status:
        failed.append((fork, status, picked))
        if len(failed) == 3:
            break
done = True
[thread.join() for thread in threads]
print("forks", fork + 1, "failed", failed)
"""


def test_forks_at_any_moment():
    forks, seed = os.environ.get("BATCHNORM_ABUSE_FORKS", "150"), os.environ.get("BATCHNORM_ABUSE_SEED", "1")
    ran = subprocess.run([sys.executable, "-c", FORKS, forks, seed], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    # A status of 14 is the watchdog's.
    assert ran.stdout == f"forks {forks} failed []\n", ran.stdout


# Forks in the moment of the first use. Each trial is of a process that has used nothing: a child of one that has only imported it.
FIRST_USE = """
import os, signal, sys, threading, time, random
import torch, batchnorm.torch as bn

x, one = torch.rand(40, 16, 24, 24), torch.ones(16)
infer = lambda: torch.ops.batchnorm.infer(x, None, None, None, one, one, 1e-5, "relu", False)
backward = lambda: torch.ops.batchnorm.backward(x, x, None, None, one, one, None, False, 1e-5, "relu", True, False, True, True)

def trial(number):
    rng = random.Random(number)
    first, later = rng.sample([infer, backward], 2)
    torch.set_num_threads(2)
    threads = [threading.Thread(target=first) for _ in range(2)]
    [thread.start() for thread in threads]
    time.sleep(rng.random() * 1.5e-3)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        first(), later()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    [thread.join() for thread in threads]
    return status

failed = []
with torch.no_grad():
    for number in range(int(sys.argv[1])):
        child = os.fork()
        if child == 0:
            os._exit(1 if trial(number) else 0)
        _, status = os.waitpid(child, 0)
        if status:
            failed.append(number)
        if len(failed) == 2:
            break
print("failed", failed)
"""


def test_forks_at_the_first_use():
    ran = subprocess.run([sys.executable, "-c", FIRST_USE, "100"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "failed []\n", ran.stdout
