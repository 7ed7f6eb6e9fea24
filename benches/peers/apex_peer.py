"""NVIDIA apex's groupbn, which is built from source with --bnp."""

import torch

from peer import EPS, MOMENTUM, Bound, Peer, Unavailable, split


class ApexGroupbn(Peer):
    name = "apex-groupbn"
    includes = (
        "apex.contrib.groupbn.BatchNorm2d_NHWC, new outputs each call; train: running statistics in it, the counter by "
        "an add_ of its own; relu and add fused, with add by a mask of bits; backward: torch.autograd.grad of the "
        "module's output, so that autograd's Python is in the eager and host times, and in graph is not"
    )

    def __init__(self, device: str):
        if device == "cpu":
            raise Unavailable("it needs a CUDA device")
        from apex.contrib.groupbn.batch_norm import BatchNorm2d_NHWC

        self.module = BatchNorm2d_NHWC

    def bind(self, operation: str, buffers) -> Bound:
        row, b = buffers.row, buffers
        kind, epilogue = split(operation)
        if row.dtype != "f16":
            raise Unavailable("f16 alone")
        if (row.layout != "channels-last" and row.spatial and row.c > 1) or len(row.spatial) not in (0, 2):
            raise Unavailable("NHWC alone")
        if row.c % 4 or b.x.data_ptr() % 16:
            raise Unavailable("a multiple of 4 channels on a 16-byte boundary alone")
        module = self._module(b, bool(epilogue), kind != "infer")
        x, z = self._nhwc(b.x), (self._nhwc(b.z) if epilogue == "add-relu" else None)
        if kind == "infer":
            return Bound(lambda: (module(x),))
        if kind == "train":
            statistics, counter = (module.minibatch_mean, module.minibatch_riv), b.counter

            def train():
                counter.add_(1)
                return (module(x, z), *statistics)

            return Bound(train)
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(), module.weight, module.bias]
            if z is not None:
                inputs.append(z.detach().requires_grad_())
            y = module(inputs[0], inputs[3] if z is not None else None)
        dy = self._nhwc(b.dy)
        call = lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)  # noqa: E731
        return Bound(call, self._nchw(row, y.detach()) if epilogue else None)

    def outputs(self, row, operation: str, result) -> list:
        return [self._nchw(row, tensor) for tensor in result]

    def _module(self, b, fuse_relu: bool, training: bool):
        module = self.module(b.row.c, fuse_relu=fuse_relu).cuda().train(training)
        module.eps, module.momentum = EPS, MOMENTUM
        module.weight.data, module.bias.data = b.gamma, b.beta
        module.running_mean, module.running_var = b.running_mean, b.running_var
        return module

    @staticmethod
    def _nhwc(tensor):
        return tensor.movedim(1, -1) if tensor.dim() == 4 else tensor[:, None, None, :]

    @staticmethod
    def _nchw(row, tensor):
        if tensor.dim() != 4:
            return tensor
        return tensor.movedim(-1, 1) if row.spatial else tensor[:, 0, 0, :]
