"""A backend of `torch.compile` that fuses the batch norms of any model, whoever has written it, and leaves the rest to another one."""

import logging

import torch

from batchnorm.torch._graph import FusedGraph, fuse_graph

_LOG = logging.getLogger("batchnorm.torch")
# The backends that fuse no operations themselves: there evaluation is fused here too.
_WITHOUT_FUSION = ("eager", "aot_eager", "cudagraphs")


class Backend:
    """A backend for `torch.compile`. `graphs` says of each graph, from the first on, how many batch norms were fused in it."""

    def __init__(self, inner, options):
        self.inner, self.options, self.graphs = inner, options, []

    def __call__(self, graph_module, example_inputs, **options):
        fused = fuse_graph(graph_module, fuses_evaluation=self.inner in _WITHOUT_FUSION)
        self.graphs.append(fused)
        _LOG.info("%s", fused)
        inner, options = self.inner, {**self.options, **options}
        if inner == "inductor":  # As `torch.compile` takes its mode and options.
            mode, patches = options.pop("mode", None), options.pop("options", None)
            inner = torch._TorchCompileInductorWrapper(mode, patches, None)
        elif isinstance(inner, str):
            from torch._dynamo.backends.registry import lookup_backend

            inner = lookup_backend(inner)
        return inner(graph_module, example_inputs, **options)

    def __str__(self):
        return str(sum(self.graphs, FusedGraph()))

    def __repr__(self):
        return f"<batchnorm.torch.backend({self.inner!r}): {self}>"


def backend(inner="inductor", **options):
    """A backend for `torch.compile` that calls each batch norm as one operation with the activation behind it, or with a residual and a
    relu, and gives the graph to another backend, `inner`, by its name or as a function, with these options: `mode` and `options` for
    "inductor", as `torch.compile` has them, which may say them too.

    It finds them in the graph that Dynamo makes of a model, so that no module need be known or changed: with an activation relu, relu6,
    silu or hardswish, or `+ residual` and relu, where nothing else uses what is between. Batch norms with neither are this package's
    too. Evaluation is left to inner backends that fuse themselves, as "inductor" does. What the kernels do not take, as other
    devices, stays as it is. `str` of the backend says how many were fused: "fused 33 + 16 of 53; left: 4".

    Raises ValueError for an `inner` that PyTorch does not know.
    """
    if isinstance(inner, str):
        from torch._dynamo.backends.registry import list_backends

        known = list_backends(exclude_tags=())
        if inner not in known:
            raise ValueError(f"expected a backend of torch.compile, as {', '.join(sorted(known))}, got {inner!r}")
    elif not callable(inner):
        raise TypeError(f"expected the name of a backend or a function, got {type(inner).__name__}")
    return Backend(inner, options)
