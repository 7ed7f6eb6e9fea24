"""The modules."""

import torch

from batchnorm.torch._functional import normalize


# An attribute of each module, by which tracers of torch.fx take it for a module of torch.nn, which they do not look into.
AS_LEAF = {"__module__": "torch.nn"}


class _BatchNorm:
    """The part that the modules add to those of torch.nn: the forward pass, and two options of it."""

    # The epilogue without a residual.
    _epilogue = "identity"
    # Ranks of input that are taken without a look at what `_check_input_dim` says.
    _ranks = ()
    # See `batch_norm`; set after the constructor, which is torch.nn's.
    skip_non_finite = False
    skip_recomputed = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "_check_input_dim" in cls.__dict__:
            cls._ranks = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__.update(AS_LEAF)

    def forward(self, input):
        return self._normalize(input, None, self._epilogue)

    def _normalize(self, input, residual, epilogue):
        if input.dim() not in self._ranks:
            self._check_input_dim(input)
        try:
            # Past the attributes' way through Module.__getattr__.
            parameters, buffers = self._parameters, self._buffers
            weight, bias = parameters["weight"], parameters["bias"]
            mean, var, counter = buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]
        except KeyError:  # Replaced by something else, as parametrizations and pruning do.
            weight, bias = self.weight, self.bias
            mean, var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        momentum, training = self.momentum, self.training
        if momentum is None and counter is None:
            momentum = 0.0  # As torch.nn: nothing says which average that would be.
        if training:
            if not self.track_running_stats:
                mean = var = counter = None
        else:
            counter = None
            # The batch's statistics normalize in evaluation too where there are no running ones.
            training = mean is None and var is None
        return normalize(
            input, residual, weight, bias, mean, var, counter, training, momentum, self.eps, epilogue,
            self.skip_non_finite, self.skip_recomputed,
        )


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` by this package's kernels."""

    _ranks = 2, 3


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` by this package's kernels."""

    _ranks = (4,)


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` by this package's kernels."""

    _ranks = (5,)


class _Fused(_BatchNorm, torch.nn.modules.batchnorm._NormBase):
    """No `torch.nn.modules.batchnorm._BatchNorm`: what replaces those, as `SyncBatchNorm` does, would lose the activation."""

    def _check_input_dim(self, input):
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


class BatchNormReLU(_Fused):
    """`relu(batch_norm(input))` in one operation, for input of any rank from 2 on. NaN stays NaN."""

    _epilogue = "relu"


class BatchNormReLU6(_Fused):
    """`relu6(batch_norm(input))` in one operation, for input of any rank from 2 on. NaN stays NaN."""

    _epilogue = "relu6"


class BatchNormSiLU(_Fused):
    """`silu(batch_norm(input))` in one operation, for input of any rank from 2 on."""

    _epilogue = "silu"


class BatchNormHardswish(_Fused):
    """`hardswish(batch_norm(input))` in one operation, for input of any rank from 2 on."""

    _epilogue = "hardswish"


# A batch norm with an activation of torch.nn behind it, in one module.
FUSED = {
    torch.nn.ReLU: BatchNormReLU,
    torch.nn.ReLU6: BatchNormReLU6,
    torch.nn.SiLU: BatchNormSiLU,
    torch.nn.Hardswish: BatchNormHardswish,
}

# Forwards of activations: a class that has got another one since is called as it is.
_FORWARD = {activation: activation.forward for activation in FUSED}

# Batch norms of torch.nn, and the classes that replace them.
REPLACED = {
    torch.nn.BatchNorm1d: BatchNorm1d,
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm3d: BatchNorm3d,
}

# Batch norms that get their size later, and the classes that they become.
LAZY = {
    torch.nn.LazyBatchNorm1d: BatchNorm1d,
    torch.nn.LazyBatchNorm2d: BatchNorm2d,
    torch.nn.LazyBatchNorm3d: BatchNorm3d,
}


def name_of(activation):
    """The kernels' name of a module that is an activation, or `None`."""
    cls = type(activation)
    if cls not in _FORWARD or cls.forward is not _FORWARD[cls]:
        return None
    # A ReLU6 takes its bounds from attributes.
    if cls is torch.nn.ReLU6 and (activation.min_val, activation.max_val) != (0.0, 6.0):
        return None
    return FUSED[cls]._epilogue


def is_batch_norm(module):
    """Whether a module is a batch norm of this package with nothing behind it, also of a subclass with the same forward."""
    return isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward and module._epilogue == "identity"


class BatchNormAddReLU(_Fused):
    """`relu(batch_norm(input) + residual)` in one operation, for input of any rank from 2 on. NaN stays NaN."""

    def forward(self, input, residual):
        if residual is None:
            raise TypeError("expected a residual tensor, got None: without one, use BatchNormReLU")
        return self._normalize(input, residual, "add_relu")
