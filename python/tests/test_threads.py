"""Threads that share a module, those that compute, and forked processes."""

import subprocess
import sys

import torch

import batchnorm.torch as bn
from support import rand


def test_threads_are_as_many_as_torch_may_use():
    code = """
import os, torch, batchnorm.torch as bn
torch.set_num_threads({n})
names = lambda: [open(f"/proc/self/task/{{task}}/comm").read() for task in os.listdir("/proc/self/task")]
bn.BatchNorm2d(16)(torch.rand(64, 16, 32, 32))
print(sum(name.startswith("batchnorm-") for name in names()))
"""
    for n in (1, 3):  # One thread is the calling one.
        ran = subprocess.run([sys.executable, "-c", code.format(n=n)], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == str(n if n > 1 else 0)


def test_a_forked_process_has_threads_of_its_own():
    code = """
import os, signal, torch, batchnorm.torch as bn
x, module = torch.rand(64, 16, 32, 32), bn.BatchNorm2d(16).eval()
torch.set_num_threads(2)
want = module(x)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if torch.equal(module(x), want) else 1)
_, status = os.waitpid(child, 0)
print(status)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "0"


def test_threads_share_a_module():
    import threading

    module, x = bn.BatchNorm2d(5), rand(4, 5, 8, 8)
    want, failures = module(x).detach(), []

    def work():
        for _ in range(20):
            y = module(x.clone().requires_grad_())
            y.sum().backward()
            if not torch.equal(y.detach(), want):
                failures.append(y)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not failures
    assert module.num_batches_tracked.item() == 81
