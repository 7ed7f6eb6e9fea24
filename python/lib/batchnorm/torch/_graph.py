"""Batch norms in a graph of Dynamo's, fused with what is behind them."""

import inspect
import operator

import torch
import torch.nn.functional as F

from batchnorm import has_cuda
from batchnorm.torch._chain import ACTIVATION_OF_FUNCTION
from batchnorm.torch._effects import BATCH_NORMS, is_in_one_mode, is_new, may_wait, value_of
from batchnorm.torch._kinds import EPILOGUE, PARAM_DTYPE
from batchnorm.torch._modules import name_of

_SUMS = (operator.add, torch.add)
_SUMS_IN_PLACE = (operator.iadd,)
_METHODS = {"relu": "relu", "relu_": "relu"}
_HARDTANH = (F.hardtanh, F.hardtanh_)


class FusedGraph:
    """Counts of the batch norms of a graph: all, those fused with an activation, and those fused with a residual and a relu."""

    def __init__(self):
        self.norms = self.activations = self.residuals = 0

    def __add__(self, other):
        total = FusedGraph()
        for name in ("norms", "activations", "residuals"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def __str__(self):
        left = self.norms - self.activations - self.residuals
        return f"fused {self.activations} + {self.residuals} of {self.norms}; left: {left}"

    __repr__ = __str__


def fuse_graph(graph_module, fuses_evaluation=True):
    """Changes a graph of Dynamo's in place, and says what was fused."""
    fused, modules = FusedGraph(), dict(graph_module.named_modules())
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in BATCH_NORMS:
            fused.norms += 1
            call = _arguments(node)
            if call is not None and (call["training"] or fuses_evaluation):
                _fuse(graph_module.graph, modules, node, call, fused)
    graph_module.recompile()
    return fused


_SIGNATURE = inspect.signature(lambda input, running_mean=None, running_var=None, weight=None, bias=None, training=False,
                               momentum=0.1, eps=1e-5, cudnn_enabled=True: None)  # fmt: skip
# torch.batch_norm's arguments are in another order.
_SIGNATURE_OF_TORCH = inspect.signature(lambda input, weight, bias, running_mean, running_var, training, momentum, eps,
                                        cudnn_enabled: None)  # fmt: skip


def _arguments(node):
    """The arguments of a batch norm by their names, if the kernels take them."""
    signature = _SIGNATURE_OF_TORCH if node.target is torch.batch_norm else _SIGNATURE
    bound = signature.bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    call = bound.arguments
    x, mean, var = value_of(call["input"]), call["running_mean"], call["running_var"]
    momentum, eps = (_number(call[name]) for name in ("momentum", "eps"))
    if x is None or momentum is None or eps is None or not isinstance(call["training"], bool):
        return None
    is_on_device = has_cuda and x.device.type == "cuda" and x.dtype != torch.float64
    has_kernels = x.dtype in PARAM_DTYPE and (x.device.type == "cpu" or is_on_device)
    if not has_kernels or x.dim() < 2 or type(x).__name__ == "DTensor" or (mean is None) != (var is None):
        return None
    if not 0.0 <= momentum <= 1.0 or not (eps > 0.0 if call["training"] else eps >= 0.0):
        return None
    for name in ("running_mean", "running_var", "weight", "bias"):
        if call[name] is None:
            continue
        tensor = value_of(call[name])
        if tensor is None or tensor.dim() != 1 or PARAM_DTYPE.get(tensor.dtype) != PARAM_DTYPE[x.dtype]:
            return None
        if name.startswith("running") and tensor.requires_grad:
            return None
    return call if call["training"] or mean is not None else None


def _number(value):
    """A number, or what one was traced with that a graph is given, which is so where `dynamic=True` asks for it."""
    if isinstance(value, torch.fx.Node):
        value = value.meta.get("example_value")
        if isinstance(value, torch.SymFloat):
            value = value.node.hint
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _only_user(node):
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _activation(node, modules):
    """The kernels' name of the activation that a node is, or `None`."""
    if node is None or not node.args or set(node.kwargs) - {"inplace"}:
        return None
    if node.op == "call_module":
        return name_of(modules.get(node.target))
    if node.op == "call_method":
        return _METHODS.get(node.target) if len(node.args) == 1 else None
    if node.op == "call_function" and node.target in _HARDTANH:
        return "relu6" if tuple(node.args[1:3]) == (0.0, 6.0) else None
    if node.op == "call_function" and (len(node.args) == 1 or isinstance(node.args[1], bool)):
        return ACTIVATION_OF_FUNCTION.get(node.target)
    return None


def _residual(total, norm):
    """The summand of a batch norm, where a node is such a sum, and changes nothing that is read elsewhere; or `None`."""
    if total is None or len(total.args) != 2 or total.kwargs:
        return None
    is_sum = (total.op == "call_function" and total.target in _SUMS) or (total.op == "call_method" and total.target == "add")
    in_place = (total.op == "call_function" and total.target in _SUMS_IN_PLACE) or (
        total.op == "call_method" and total.target == "add_"
    )
    (other,) = [of for of in total.args if of is not norm] or [None]
    if not is_sum and not (in_place and (total.args[0] is norm or _is_nobody_elses(other))):
        return None
    a, b = value_of(norm), value_of(other)
    is_like = a is not None and b is not None and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return other if is_like else None


def _is_nobody_elses(node):
    """Whether a sum into a node's value changes no other value that is read: it is of memory of its own, and nothing else uses it."""
    return isinstance(node, torch.fx.Node) and is_new(node) and len(node.users) == 1


def _fuse(graph, modules, node, call, fused):
    last, residual, place, behind = node, None, node, _only_user(node)
    activation = _activation(behind, modules)
    if activation is not None and is_in_one_mode(node, behind):
        last = behind
        fused.activations += 1
    else:
        other = _residual(behind, node)
        final = _only_user(behind) if other is not None else None
        activation = _activation(final, modules)
        if activation == "relu" and is_in_one_mode(node, final) and may_wait(node, behind, call):
            last, residual, place = final, other, behind
            fused.residuals += 1
        else:
            activation = None
    epilogue = EPILOGUE[activation or "identity", residual is not None]
    affine = call["weight"], call["bias"]
    statistics = call["running_mean"], call["running_var"]
    value = value_of(last)
    keeps_mask = value is None or value.requires_grad
    with graph.inserting_before(place):
        if call["training"]:
            rest = None, call["momentum"], call["eps"], epilogue, keeps_mask, False, False
            operation = torch.ops.batchnorm.train.default
        else:
            rest = call["eps"], epilogue, keeps_mask
            operation = torch.ops.batchnorm.infer.default
        results = graph.call_function(operation, (call["input"], residual, *affine, *statistics, *rest))
        y = graph.call_function(operator.getitem, (results, 0))
    for name in ("example_value", "stack_trace", "nn_module_stack", "source_fn_stack"):
        if name in last.meta:
            y.meta[name] = last.meta[name]
        if name in node.meta and name != "example_value":
            results.meta[name] = node.meta[name]
    last.replace_all_uses_with(y)
    # Nodes that this has made dead, and no others: a count that nobody reads is to be counted.
    for each in dict.fromkeys((last, place, node)):
        graph.erase_node(each)
