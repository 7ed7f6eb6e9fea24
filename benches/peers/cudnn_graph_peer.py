"""cuDNN's graph API (the package nvidia-cudnn-frontend): normalization, add, relu and mask as one graph."""

from dataclasses import replace

import torch

from inputs import DTYPES
from peer import EPS, MOMENTUM, Bound, Peer, Unavailable, split

STATISTICS = ("saved_mean", "saved_inv_std", "next_mean", "next_var")


class CudnnGraph(Peer):
    name = "cudnn-graph"
    includes = (
        "cuDNN graphs over NHWC into outputs of the caller's; train: running statistics in the graph, in place, the "
        "counter by an add_ of its own; relu and add fused, relu with a mask of bits that backward reads; infer: from "
        "inv_std, computed before; the host's time has the frontend's Python in it"
    )

    def __init__(self, device: str):
        if device == "cpu":
            raise Unavailable("cuDNN needs a CUDA device")
        import cudnn

        self.cudnn = cudnn
        self.handle = cudnn.create_handle()
        self._plans = {}

    def new_row(self, row) -> None:
        self._plans.clear()

    def use_current_stream(self) -> None:
        self.cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream().cuda_stream)

    def bind(self, operation: str, buffers) -> Bound:
        row, b = buffers.row, buffers
        kind, epilogue = split(operation)
        if row.layout != "channels-last" and row.spatial and row.c > 1:
            raise Unavailable("measured over NHWC alone")
        if b.x.data_ptr() % 16:
            raise Unavailable("its kernels assume data on a 16-byte boundary")
        if epilogue and row.c % 8:
            raise Unavailable("its masks need a multiple of 8 channels")
        values = {"x": nhwc(row, b.x), "gamma": b.gamma, "beta": b.beta}
        if kind == "infer":
            inv_std = (b.running_var + EPS).rsqrt()
            y = torch.empty_like(b.x)
            values.update(y=nhwc(row, y), mean=b.running_mean, inv_std=inv_std)
            return Bound(self._plan(operation, row).call(values, (y,)))
        y, mean, inv_std = torch.empty_like(b.x), torch.empty_like(b.gamma), torch.empty_like(b.gamma)
        mask = mask_of(row, b.x.device) if epilogue else None
        forward = values | {"y": nhwc(row, y), "saved_mean": mean, "saved_inv_std": inv_std, "mask": mask}
        forward |= {"running_mean": b.running_mean, "running_var": b.running_var}
        forward |= {"next_mean": b.running_mean, "next_var": b.running_var}
        if epilogue == "add-relu":
            forward["z"] = nhwc(row, b.z)
        train = self._plan(f"train-{epilogue}" if epilogue else "train", row)
        if kind == "train":
            return Bound(train.call(forward, (y, mean, inv_std), b.counter))
        train.call(forward, ())()
        dx, dgamma, dbeta = torch.empty_like(b.x), torch.empty_like(b.gamma), torch.empty_like(b.gamma)
        backward = values | {"dy": nhwc(row, b.dy), "mask": mask, "mean": mean, "inv_std": inv_std}
        backward |= {"dx": nhwc(row, dx), "dgamma": dgamma, "dbeta": dbeta}
        outputs = (dx, dgamma, dbeta)
        if epilogue == "add-relu":
            dz = torch.empty_like(b.x)
            backward["dz"] = nhwc(row, dz)
            outputs += (dz,)
        return Bound(self._plan(operation, row).call(backward, outputs), y if epilogue else None)

    def _plan(self, operation: str, row) -> "Plan":
        if operation not in self._plans:
            self._plans[operation] = Plan(self.cudnn, self.handle, operation, row)
        return self._plans[operation]


class Plan:
    """A graph of one operation over a row's shape, built."""

    def __init__(self, cudnn, handle, operation: str, row):
        self.cudnn, self.handle, self.row = cudnn, handle, row
        self.float = cudnn.data_type.FLOAT
        types = {"f32": self.float, "f16": cudnn.data_type.HALF, "bf16": cudnn.data_type.BFLOAT16}
        self.io = types[row.dtype]
        self.graph = cudnn.pygraph(
            io_data_type=self.io, intermediate_data_type=self.float, compute_data_type=self.float, handle=handle
        )
        self.tensors, self.scalars = {}, {}
        kind, epilogue = split(operation)
        {"train": self._train, "infer": self._infer, "backward": self._backward}[kind](epilogue)
        self._build()

    def call(self, values: dict, outputs: tuple, counter=None):
        """Executes over these tensors. A name that this graph does not have is left out."""
        pack = {tensor: per_channel(self.row, values[name]) for name, tensor in self.tensors.items()} | self.scalars
        graph, workspace, handle = self.graph, self.workspace, self.handle

        def call():
            if counter is not None:
                counter.add_(1)
            graph.execute(pack, workspace, handle=handle)
            return outputs

        return call

    def _train(self, epilogue: str):
        x, gamma, beta = self._data("x"), self._param("gamma"), self._param("beta")
        y, *statistics = self.graph.batchnorm(
            name="batchnorm",
            input=x,
            scale=gamma,
            bias=beta,
            in_running_mean=self._param("running_mean"),
            in_running_var=self._param("running_var"),
            epsilon=self._scalar(EPS, torch.float32),
            momentum=self._scalar(MOMENTUM, torch.float32),
        )
        if epilogue == "add-relu":
            y.set_data_type(self.io)
            y = self.graph.add(name="add", a=y, b=self._data("z"))
        if epilogue:
            y.set_data_type(self.io)
            y = self.graph.relu(name="relu", input=y)
            y.set_data_type(self.io)
            zero = self._scalar(0.0, DTYPES[self.row.dtype])
            self._output("mask", self.graph.cmp_gt(name="mask", input=y, comparison=zero), self.cudnn.data_type.BOOLEAN)
        self._output("y", y, self.io)
        for name, tensor in zip(STATISTICS, statistics, strict=True):
            self._output(name, tensor, self.float)

    def _infer(self, _):
        self._output(
            "y",
            self.graph.batchnorm_inference(
                name="batchnorm",
                input=self._data("x"),
                mean=self._param("mean"),
                inv_variance=self._param("inv_std"),
                scale=self._param("gamma"),
                bias=self._param("beta"),
            ),
            self.io,
        )

    def _backward(self, epilogue: str):
        g = self._data("dy")
        if epilogue:
            mask = self._data("mask", self.cudnn.data_type.BOOLEAN)
            g = self.graph.mul(name="masked", a=g, b=mask)
            g.set_data_type(self.io)
            if epilogue == "add-relu":
                self._output("dz", g, self.io)
        dx, dgamma, dbeta = self.graph.batchnorm_backward(
            name="batchnorm",
            grad=g,
            input=self._data("x"),
            scale=self._param("gamma"),
            mean=self._param("mean"),
            inv_variance=self._param("inv_std"),
        )
        self._output("dx", dx, self.io)
        self._output("dgamma", dgamma, self.float)
        self._output("dbeta", dbeta, self.float)

    def _build(self):
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([self.cudnn.heur_mode.A, self.cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()
        self.workspace = torch.empty(max(1, self.graph.get_workspace_size()), dtype=torch.uint8, device="cuda")

    def _data(self, name: str, data_type=None):
        dims, strides = packed(self.row)
        return self._input(name, dims, strides, data_type or self.io)

    def _param(self, name: str):
        shape = torch.empty(param_dims(self.row), device="meta")
        return self._input(name, shape.shape, shape.stride(), self.float)

    def _input(self, name: str, dims, strides, data_type):
        tensor = self.graph.tensor(name=name, dim=list(dims), stride=list(strides), data_type=data_type)
        self.tensors[name] = tensor
        return tensor

    def _scalar(self, value: float, dtype):
        held = torch.full([1] * len(param_dims(self.row)), value, dtype=dtype)
        data_type = self.float if dtype == torch.float32 else self.io
        tensor = self.graph.tensor(
            name=f"scalar{len(self.scalars)}",
            dim=list(held.shape),
            stride=list(held.stride()),
            data_type=data_type,
            is_pass_by_value=True,
        )
        self.scalars[tensor] = held
        return tensor

    def _output(self, name: str, tensor, data_type):
        tensor.set_output(True).set_data_type(data_type)
        if name in ("y", "mask", "dx", "dz"):
            dims, strides = packed(self.row)
            tensor.set_dim(list(dims)).set_stride(list(strides))
        self.tensors[name] = tensor


def packed(row) -> tuple[tuple, tuple]:
    """[n, c, spatial...] with two spatial sizes at least, and its strides in NHWC memory."""
    spatial = (1,) * (2 - len(row.spatial)) + row.spatial
    strides, step = [], row.c
    for size in reversed(spatial):
        strides.insert(0, step)
        step *= size
    return (row.n, row.c, *spatial), (step, 1, *strides)


def nhwc(row, tensor):
    return tensor.as_strided(*packed(row))


def mask_of(row, device):
    """A bit an element: a byte holds eight channels."""
    bits = torch.empty(row.elements // 8, dtype=torch.uint8, device=device)
    return bits.as_strided(*packed(replace(row, c=row.c // 8)))


def param_dims(row) -> tuple:
    return (1, row.c) + (1,) * max(2, len(row.spatial))


def per_channel(row, tensor):
    """Per-channel values as cuDNN wants them; the data is so already."""
    return tensor.view(param_dims(row)) if tensor.dim() == 1 else tensor
