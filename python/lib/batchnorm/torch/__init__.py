"""Batch normalization for PyTorch.

`BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d` take the places of those of `torch.nn`; `BatchNormReLU`, `BatchNormReLU6`,
`BatchNormSiLU`, `BatchNormHardswish` and `BatchNormAddReLU` fuse what often follows; `convert` replaces the batch norms of a model and fuses
what follows them, which `report` counts and `revert` takes back; `backend` does so in the graphs of `torch.compile`; `fold` merges
a batch norm into the layer before it.
"""

from batchnorm.torch._backend import backend
from batchnorm.torch._convert import convert, revert
from batchnorm.torch._fold import fold
from batchnorm.torch._functional import batch_norm
from batchnorm.torch._modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchNormAddReLU,
    BatchNormHardswish,
    BatchNormReLU,
    BatchNormReLU6,
    BatchNormSiLU,
)
from batchnorm.torch._plans import set_max_sms, use_plans
from batchnorm.torch._quantization import register_fusers
from batchnorm.torch._report import report

register_fusers()
del register_fusers

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAddReLU",
    "BatchNormHardswish",
    "BatchNormReLU",
    "BatchNormReLU6",
    "BatchNormSiLU",
    "backend",
    "batch_norm",
    "convert",
    "fold",
    "report",
    "revert",
    "set_max_sms",
    "use_plans",
]
