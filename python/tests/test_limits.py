"""The calling thread computes where no other can be started. Memory that runs out is an exception, and nothing has changed."""

import os
import subprocess
import sys

# Refuses threads to the process: root may have any number, and becomes nobody.
ALONE = """
import os, resource, torch, batchnorm.torch as bn
torch.set_num_threads(4)
module, small, large = bn.BatchNormReLU(16), torch.rand(2, 16, 4, 4), torch.rand(64, 16, 32, 32)
module(small)  # Makes what is made once.
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
for x in (small, large):
    y = module(x.requires_grad_())
    torch.ops.batchnorm.backward(x.detach(), x.detach(), None, None, *[torch.ones(16)] * 2, None, False, None, "relu", *[True, False] * 2)
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(int(module.num_batches_tracked), sum(name.startswith("batchnorm-") for name in names))
"""

# Grows the address space that may be had until each operation passes. Much is to be kept for each row of such a tensor.
STEPS = """
import itertools, resource, sys
import torch, batchnorm.torch as bn

OPS, STEP = torch.ops.batchnorm, 100_000
torch.set_num_threads(int(sys.argv[1]))
x = torch.rand(40_000, 4, 2)
module = bn.BatchNormAddReLU(4)
running = [module.running_mean, module.running_var, module.num_batches_tracked]
with torch.no_grad():
    small = x[:100].contiguous()
    module(small, small)  # Makes what is made once.
    before = [tensor.clone() for tensor in running]
    y, mean, inv_std, mask = OPS.train(x, x, None, None, None, None, None, 0.1, 1e-5, "add_relu", True, False, False)
    operations = {
        "infer": lambda: OPS.infer(x, x, None, None, running[0], running[1], 1e-5, "add_relu", True),
        "backward": lambda: OPS.backward(x, x, None, None, mean, inv_std, mask, False, None, "add_relu", *[True] * 4),
        "frozen": lambda: OPS.backward(x, x, None, None, mean, inv_std, mask, False, 1e-5, "add_relu", *[True] * 4),
        "train": lambda: module(x, x),
    }
    refusals = {}
    for name, operation in operations.items():
        refused = 0
        for k in itertools.count():
            here = 4096 * int(open("/proc/self/statm").read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (here + k * STEP, resource.RLIM_INFINITY))
            try:
                operation()
                done = True
            except (MemoryError, RuntimeError):
                done = False
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if done:
                break
            refused += 1
            assert all(torch.equal(a, b) for a, b in zip(running, before)), name
        refusals[name] = refused
assert min(refusals.values()) > 10, refusals
assert running[2].item() == before[2].item() + 1
"""


def test_no_thread_but_the_first():
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "3 0\n"


def test_memory_that_runs_out():
    # Freed memory goes back to the system at once, so that the next step has no more than its own.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    for threads in ("1", "2"):
        ran = subprocess.run([sys.executable, "-c", STEPS, threads], capture_output=True, text=True, env=env)
        assert ran.returncode == 0, (ran.returncode, ran.stdout, ran.stderr)
