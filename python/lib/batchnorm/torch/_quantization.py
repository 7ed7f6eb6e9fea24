"""The batch norms of this package for PyTorch's eager quantization, which knows modules by their exact classes."""

import copy
import functools

from torch.ao.quantization import fuser_method_mappings

from batchnorm.torch._convert import revert
from batchnorm.torch._modules import REPLACED


def register_fusers():
    """Lets `torch.ao.quantization.fuse_modules` take what `convert` has made as what it was made of."""
    known = getattr(fuser_method_mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})
    for classes, fuser in list(known.items()):
        ours = tuple(REPLACED.get(cls, cls) for cls in classes)
        if ours != classes:
            known[ours] = functools.partial(_fused, fuser)


def _fused(fuser, is_qat, *modules):
    return fuser(is_qat, *(_original(module) if type(module) in REPLACED.values() else module for module in modules))


def _original(module):
    """One of torch.nn with the same parameters and buffers."""
    return revert(copy.copy(module))
