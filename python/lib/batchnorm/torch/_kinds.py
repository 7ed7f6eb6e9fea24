"""Dtypes and epilogues as the native half knows them, looked up once: a call asks it nothing."""

import torch

from batchnorm import _native

# The dtype of the per-channel values that go with data of a dtype; of the dtypes that are computed, and no others.
PARAM_DTYPE = {getattr(torch, name): getattr(torch, param) for name, param in _native.DTYPES}

# Epilogues by their names.
KIND = {each.name: each for each in _native.EPILOGUES}

# The activation of an epilogue, by their names.
ACTIVATION_OF = {each.name: each.activation for each in _native.EPILOGUES}

# The name of an activation with a residual before it, or without.
EPILOGUE = {(each.activation, each.has_residual): each.name for each in _native.EPILOGUES}

# The names of the activations, and of those that take a residual before them.
ACTIVATIONS, ACTIVATIONS_OF_RESIDUALS = ([name for name, has in EPILOGUE if has == residual] for residual in (False, True))

# Epilogues whose backward pass computes the activation's argument again, from x, the weight and the bias.
RECOMPUTES_V = frozenset(each.name for each in _native.EPILOGUES if each.recomputes_v)

# Epilogues whose forward pass keeps a mask for the backward pass.
KEEPS_MASK = frozenset(each.name for each in _native.EPILOGUES if each.keeps_mask)

# The epilogue that the backward pass runs with, of those whose residual has dy itself as its gradient.
BACKWARD_AS = {
    each.name: EPILOGUE[each.activation, False]
    for each in _native.EPILOGUES
    if each.has_residual and not each.keeps_mask
}

# The epilogue that the backward pass runs with, with the mask, of those whose residual's gradient nobody needs.
WITHOUT_DZ = {
    each.name: EPILOGUE[each.activation, False] for each in _native.EPILOGUES if each.has_residual and each.keeps_mask
}
