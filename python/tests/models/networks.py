"""The networks that are trained, with what goes into each: torchvision's, timm's, a U-Net, and one over points."""

import torch
import torch.nn.functional as F
from torch import nn


def torchvision(name, size=64, **options):
    import torchvision

    return getattr(torchvision.models, name)(weights=None, num_classes=10, **options), torch.Size([6, 3, size, size])


def timm(name, size=64):
    import timm

    return timm.create_model(name, num_classes=10), torch.Size([6, 3, size, size])


class UNet(nn.Module):
    """Down and up again, where each level gets its own of the way down once more."""

    def __init__(self):
        super().__init__()

        def block(c_in, c_out):
            layers = []
            for c in (c_in, c_out):
                layers += nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
            return nn.Sequential(*layers)

        self.down1, self.down2, self.bottom = block(3, 8), block(8, 16), block(16, 32)
        self.up2, self.block2 = nn.ConvTranspose2d(32, 16, 2, 2), block(32, 16)
        self.up1, self.block1, self.head = nn.ConvTranspose2d(16, 8, 2, 2), block(16, 8), nn.Conv2d(8, 10, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.bottom(F.max_pool2d(second, 2)))
        x = self.up1(self.block2(torch.cat([x, second], 1)))
        return self.head(self.block1(torch.cat([x, first], 1))).mean([2, 3])


class PointNet(nn.Module):
    """A dense layer for each point, the largest of all points, and dense layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1), nn.Conv1d(32, 64, 1)
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)
        self.bn1, self.bn2, self.bn3, self.bn4 = nn.BatchNorm1d(16), nn.BatchNorm1d(32), nn.BatchNorm1d(64), nn.BatchNorm1d(32)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)).amax(2)
        return self.fc2(F.relu(self.bn4(self.fc1(x))))


# Each with what is fused of it: activations and residuals of all batch norms, by `convert`, and by the backend.
NETWORKS = {
    "torchvision resnet18": (lambda: torchvision("resnet18"), (9, 8, 20), (9, 8, 20)),
    "torchvision resnet50": (lambda: torchvision("resnet50", zero_init_residual=True), (33, 16, 53), (33, 16, 53)),
    "torchvision mobilenet_v3_small": (lambda: torchvision("mobilenet_v3_small", 96), (23, 0, 34), (23, 0, 34)),
    "timm regnety_002": (lambda: timm("regnety_002"), (27, 0, 44), (27, 13, 44)),
    "timm resnet26": (lambda: timm("resnet26"), (17, 8, 29), (17, 8, 29)),
    "U-Net": (lambda: (UNet(), torch.Size([8, 3, 32, 32])), (10, 0, 10), (10, 0, 10)),
    "points": (lambda: (PointNet(), torch.Size([16, 3, 40])), (3, 0, 4), (3, 0, 4)),
}
