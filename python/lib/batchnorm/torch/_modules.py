"""The modules."""

import torch

from batchnorm.torch._functional import batch_norm


class _BatchNorm:
    """The part that the modules add to those of torch.nn: the forward pass."""

    def _normalize(self, input, residual=None, activation="identity"):
        self._check_input_dim(input)
        momentum = self.momentum
        if momentum is None and self.num_batches_tracked is None:
            momentum = 0.0  # As torch.nn: nothing says which average that would be.
        # The batch's statistics normalize in evaluation too where there are no running ones.
        batch_statistics = self.training or (self.running_mean is None and self.running_var is None)
        tracks = not self.training or self.track_running_stats
        counter = self.num_batches_tracked if self.training and self.track_running_stats else None
        return batch_norm(
            input,
            self.running_mean if tracks else None,
            self.running_var if tracks else None,
            self.weight,
            self.bias,
            batch_statistics,
            momentum,
            self.eps,
            num_batches_tracked=counter,
            residual=residual,
            activation=activation,
        )

    def forward(self, input):
        return self._normalize(input)


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` by this package's kernels."""


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` by this package's kernels."""


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` by this package's kernels."""


class _Fused(_BatchNorm, torch.nn.modules.batchnorm._NormBase):
    """No `torch.nn.modules.batchnorm._BatchNorm`: what replaces those, as `SyncBatchNorm` does, would lose the activation."""

    # A module that `convert` has fused takes the arguments that it took before.
    _unfused = None

    def _check_input_dim(self, input):
        if self._unfused is not None:
            return self._unfused._check_input_dim(self, input)
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


class BatchNormReLU(_Fused):
    """`relu(batch_norm(input))` in one operation, for input of any rank from 2 on. NaN stays NaN."""

    def forward(self, input):
        return self._normalize(input, activation="relu")


class BatchNormReLU6(_Fused):
    """`relu6(batch_norm(input))` in one operation, for input of any rank from 2 on. NaN stays NaN."""

    def forward(self, input):
        return self._normalize(input, activation="relu6")


class BatchNormSiLU(_Fused):
    """`silu(batch_norm(input))` in one operation, for input of any rank from 2 on."""

    def forward(self, input):
        return self._normalize(input, activation="silu")


class BatchNormHardswish(_Fused):
    """`hardswish(batch_norm(input))` in one operation, for input of any rank from 2 on."""

    def forward(self, input):
        return self._normalize(input, activation="hardswish")


# A batch norm with an activation of torch.nn behind it, in one module.
FUSED = {
    torch.nn.ReLU: BatchNormReLU,
    torch.nn.ReLU6: BatchNormReLU6,
    torch.nn.SiLU: BatchNormSiLU,
    torch.nn.Hardswish: BatchNormHardswish,
}


class BatchNormAddReLU(_Fused):
    """`relu(batch_norm(input) + residual)` in one operation, for input of any rank from 2 on. NaN stays NaN."""

    def forward(self, input, residual):
        if residual is None:
            raise TypeError("expected a residual tensor, got None: without one, use BatchNormReLU")
        return self._normalize(input, residual=residual, activation="relu")
