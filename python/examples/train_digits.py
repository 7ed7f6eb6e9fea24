"""Trains a small convolutional network on handwritten digits with torch.nn's batch norm and with ours, from the same weights.

    python python/examples/train_digits.py [--device cuda] [--autocast bfloat16] [--compile]
"""

import argparse
import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import batchnorm.torch as bn

DIGITS = Path(__file__).parents[2] / "data" / "digits.safetensors"


def digits(device):
    """Training and held-out images `[n, 1, 8, 8]` with their labels: every fifth is held out."""
    tensors = load_file(DIGITS, device=device)
    x, labels = tensors["x"].reshape(-1, 1, 8, 8) / 16, tensors["labels"]
    held_out = torch.arange(len(x), device=device) % 5 == 0
    return (x[~held_out], labels[~held_out]), (x[held_out], labels[held_out])


def network():
    def block(c_in, c_out, stride):
        return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()

    convolutions = *block(1, 16, 1), *block(16, 32, 2), *block(32, 32, 2)
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def train(model, images, labels, args):
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    order = torch.Generator().manual_seed(1)
    forward = torch.compile(model) if args.compile else model
    model.train()
    for _ in range(args.epochs):
        for batch in torch.randperm(len(images), generator=order).split(32):
            batch = batch.to(images.device)
            with torch.autocast(images.device.type, getattr(torch, args.autocast or "bfloat16"), enabled=bool(args.autocast)):
                loss = nn.functional.cross_entropy(forward(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


def folded(model):
    """For inference: each batch norm folded into the convolution before it."""
    modules = list(model)
    for i, module in enumerate(modules):
        if isinstance(module, nn.BatchNorm2d):
            modules[i - 1], modules[i] = bn.fold(modules[i - 1], module), nn.Identity()
    return nn.Sequential(*modules)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--autocast", choices=["float16", "bfloat16"], help="compute in this dtype where torch does")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--out", type=Path, default=Path("target/digits.safetensors"), help="where the trained state goes")
    args = parser.parse_args()

    training, held_out = digits(args.device)
    torch.manual_seed(0)
    original = network().to(args.device)
    ours = bn.convert(copy.deepcopy(original))
    print(ours)
    print(bn.report(ours))
    for name, model in ("torch.nn", original), ("batchnorm.torch", ours):
        train(model, *training, args)
        print(f"{name:16} {accuracy(model, *held_out):.1%} of the held-out digits right")

    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(ours.state_dict(), args.out)
    loaded = network().to(args.device)
    loaded.load_state_dict(load_file(args.out, device=args.device))
    print(f"{args.out}, loaded into torch.nn's modules: {accuracy(loaded, *held_out):.1%}")

    print(f"with its batch norms folded into the convolutions: {accuracy(folded(ours), *held_out):.1%}")


if __name__ == "__main__":
    main()
