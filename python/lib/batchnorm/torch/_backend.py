"""A backend of `torch.compile` that fuses the batch norms of any model, whoever has written it, and leaves the rest to another one."""

import inspect
import logging
import operator

import torch
import torch.nn.functional as F

from batchnorm import has_cuda
from batchnorm.torch._chain import ACTIVATION_OF_FUNCTION
from batchnorm.torch._kinds import EPILOGUE, PARAM_DTYPE
from batchnorm.torch._modules import name_of

_LOG = logging.getLogger("batchnorm.torch")
_BATCH_NORMS = (F.batch_norm, torch.batch_norm)
_SUMS = (operator.add, torch.add)
_SUMS_IN_PLACE = (operator.iadd,)
# Functions that change how the operations behind them are computed.
_MODES = ("_set_grad_enabled", "_enter_autocast", "_exit_autocast", "_enter_inference_mode", "_exit_inference_mode")
# Functions whose results have memory of their own, and are no views.
_NEW = (*_BATCH_NORMS, operator.add, operator.mul, torch.add, torch.mul, torch.conv1d, torch.conv2d, torch.conv3d)
_METHODS = {"relu": "relu", "relu_": "relu"}
_HARDTANH = (F.hardtanh, F.hardtanh_)
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
        counts = [sum(getattr(graph, name) for graph in self.graphs) for name in ("activations", "residuals", "norms")]
        return "fused {} + {} of {}; left: {}".format(*counts, counts[2] - counts[0] - counts[1])

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


class FusedGraph:
    """Counts of the batch norms of a graph: all, those fused with an activation, and those fused with a residual and a relu."""

    def __init__(self):
        self.norms = self.activations = self.residuals = 0

    def __str__(self):
        left = self.norms - self.activations - self.residuals
        return f"fused {self.activations} + {self.residuals} of {self.norms}; left: {left}"

    __repr__ = __str__


def fuse_graph(graph_module, fuses_evaluation=True):
    """Changes a graph of Dynamo's in place, and says what was fused."""
    fused, modules = FusedGraph(), dict(graph_module.named_modules())
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in _BATCH_NORMS:
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
    x, mean, var = _value(call["input"]), call["running_mean"], call["running_var"]
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
        tensor = _value(call[name])
        if tensor is None or tensor.dim() != 1 or PARAM_DTYPE.get(tensor.dtype) != PARAM_DTYPE[x.dtype]:
            return None
        if name.startswith("running") and tensor.requires_grad:
            return None
    return call if call["training"] or mean is not None else None


def _value(node):
    """The tensor that a node was traced with, or `None`."""
    value = node.meta.get("example_value") if isinstance(node, torch.fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


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
        module = modules.get(node.target)
        is_relu6 = isinstance(module, torch.nn.ReLU6)
        return None if is_relu6 and (module.min_val, module.max_val) != (0.0, 6.0) else name_of(module)
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
    a, b = _value(norm), _value(other)
    is_like = a is not None and b is not None and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return other if is_like else None


def _is_nobody_elses(node):
    """Whether a sum into a node's value changes no other value that is read: it is of memory of its own, and nothing else uses it."""
    return isinstance(node, torch.fx.Node) and _is_new(node) and len(node.users) == 1


def _is_new(node):
    """Whether a node's value is of memory of its own."""
    is_fused = node.target is operator.getitem and getattr(node.args[0].target, "namespace", None) == "batchnorm"
    return node.op == "call_function" and (is_fused or node.target in _NEW)


def _changed(node):
    """The node whose value a node changes in place, `None`, or "unknown"."""
    if node.op in ("placeholder", "get_attr", "output"):
        return None
    if node.op == "call_module":
        return "unknown"
    if isinstance(node.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return _written(node)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = node.kwargs.get("inplace") or (node.op == "call_function" and any(of is True for of in node.args[1:]))
    is_named_so = name.endswith("_") and not name.endswith("__")
    is_operator = node.op == "call_function" and node.target is getattr(operator, name, None) and name.startswith("i")
    if "out" in node.kwargs or name == "setitem" or isinstance(node.target, torch._ops.HigherOrderOperator):
        return "unknown"
    if in_place or is_named_so or (is_operator and name not in ("inv", "invert", "index", "indexOf", "is_", "is_not", "itemgetter")):
        return node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else "unknown"
    return None


def _written(node):
    """`_changed` of an operation that has a schema."""
    overload = node.target if isinstance(node.target, torch._ops.OpOverload) else None
    if overload is None:
        names = node.target.overloads()
        overload = getattr(node.target, names[0]) if len(names) == 1 else None
    if overload is None or len(node.args) > len(overload._schema.arguments):
        return "unknown"
    is_written = [of.alias_info is not None and of.alias_info.is_write for of in overload._schema.arguments]
    if not any(is_written):
        return None
    (first, *more) = [i for i, of in enumerate(is_written) if of]
    # A training batch norm of this package writes its statistics alone, which no other has.
    if overload is torch.ops.batchnorm.train.default:
        return None
    is_node = not more and first < len(node.args) and isinstance(node.args[first], torch.fx.Node)
    return node.args[first] if is_node else "unknown"


def _ancestors(node):
    found, ahead = set(), [node]
    while ahead:
        for each in ahead.pop().all_input_nodes:
            if each not in found:
                found.add(each)
                ahead.append(each)
    return found


def _may_wait(node, until, call):
    """Whether a batch norm gives the same when it is called further on: nothing between changes or reads what it does."""
    own = {of for of in (call["running_mean"], call["running_var"], call["weight"], call["bias"]) if isinstance(of, torch.fx.Node)}
    x = call["input"]
    behind_x = None
    each = node.next
    while each is not until:
        changed = _changed(each)
        if changed == "unknown" or (own & set(each.all_input_nodes) and not _is_affine_alone(each, call)):
            return False
        if changed is not None and not _is_a_count(changed) and each.target not in _BATCH_NORMS:
            behind_x = {x} | _ancestors(x) if behind_x is None else behind_x
            if not _is_new(changed) or changed in behind_x:
                return False
        each = each.next
    return True


def _is_affine_alone(node, call):
    """Whether a node reads weight and bias alone of what a batch norm has."""
    return not {call["running_mean"], call["running_var"]} & set(node.all_input_nodes) and _changed(node) is None


def _is_a_count(node):
    """Whether a node's value is of integers, as `num_batches_tracked`: no batch norm reads those."""
    value = _value(node)
    return value is not None and not value.is_floating_point() and not value.is_complex()


def _is_in_one_mode(node, until):
    """Whether gradients and autocast are the same at two nodes."""
    while (node := node.next) is not until:
        if getattr(node.target, "__name__", "") in _MODES or "inference" in str(node.target):
            return False
    return True


def _fuse(graph, modules, node, call, fused):
    last, residual, place, behind = node, None, node, _only_user(node)
    activation = _activation(behind, modules)
    if activation is not None and _is_in_one_mode(node, behind):
        last = behind
        fused.activations += 1
    else:
        other = _residual(behind, node)
        final = _only_user(behind) if other is not None else None
        activation = _activation(final, modules)
        if activation == "relu" and _is_in_one_mode(node, final) and _may_wait(node, behind, call):
            last, residual, place = final, other, behind
            fused.residuals += 1
        else:
            activation = None
    epilogue = EPILOGUE[activation or "identity", residual is not None]
    affine = call["weight"], call["bias"]
    statistics = call["running_mean"], call["running_var"]
    value = _value(last)
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
