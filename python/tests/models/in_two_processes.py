"""One of two processes that train a converted network together: its arguments are its rank, a folder for their meeting, and the way."""

import copy
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import batchnorm.torch as bn
from batchnorm.torch._modules import BatchNorm2d


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.act = nn.BatchNorm2d(c), nn.BatchNorm2d(c), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.act(y)


def network():
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Block(8), Block(8), *head)


def wrapped(model, way):
    if way == "ddp":
        return DistributedDataParallel(model)
    if way == "ddp-compiled":
        return torch.compile(DistributedDataParallel(model), backend=bn.backend("aot_eager"))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module)
    return fully_shard(model)


def trained(model, rank):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + rank)
        x, labels = torch.randn(4, 3, 8, 8, generator=generator), torch.randint(0, 4, (4,), generator=generator)
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def main():
    rank, folder, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=limit)
    original = network()
    converted = bn.convert(copy.deepcopy(original))
    assert str(bn.report(converted)) == "fused 3 + 2 of 5; left: none"
    theirs, ours = wrapped(original, way), wrapped(converted, way)
    expected, losses = trained(theirs, rank), trained(ours, rank)
    assert all(abs(a - b) < 1e-4 for a, b in zip(losses, expected)), (losses, expected)
    for (name, got), want in zip(converted.state_dict().items(), original.state_dict().values()):
        torch.testing.assert_close(whole(got), whole(want), rtol=1e-3, atol=1e-4, msg=name)
    if way == "fsdp":
        assert any(isinstance(module, BatchNorm2d) for module in ours.modules())
    print("alike")
    sys.stdout.flush()
    os._exit(0)  # Leaving the group can hang in some versions.


if __name__ == "__main__":
    main()
