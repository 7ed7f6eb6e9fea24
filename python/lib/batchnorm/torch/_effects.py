"""What the nodes of a graph of Dynamo's change and read, for who moves a batch norm past them."""

import operator

import torch
import torch.nn.functional as F

BATCH_NORMS = (F.batch_norm, torch.batch_norm)
# Functions whose results have memory of their own, and are no views.
_NEW = (*BATCH_NORMS, operator.add, operator.mul, torch.add, torch.mul, torch.conv1d, torch.conv2d, torch.conv3d)
# Operators that change what is on their left.
_IN_PLACE = (
    operator.iadd, operator.iand, operator.iconcat, operator.ifloordiv, operator.ilshift, operator.imatmul, operator.imod,
    operator.imul, operator.ior, operator.ipow, operator.irshift, operator.isub, operator.itruediv, operator.ixor,
)
# Functions that change how the operations behind them are computed.
_MODES = ("_set_grad_enabled", "_enter_autocast", "_exit_autocast", "_enter_inference_mode", "_exit_inference_mode")


def value_of(node):
    """The tensor that a node was traced with, or `None`."""
    value = node.meta.get("example_value") if isinstance(node, torch.fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


def is_new(node):
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
    if "out" in node.kwargs or name == "setitem" or isinstance(node.target, torch._ops.HigherOrderOperator):
        return "unknown"
    if in_place or is_named_so or node.target in _IN_PLACE:
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


def may_wait(node, until, call):
    """Whether a batch norm gives the same when it is called further on: nothing between changes or reads what it does."""
    own = {of for of in (call["running_mean"], call["running_var"], call["weight"], call["bias"]) if isinstance(of, torch.fx.Node)}
    x = call["input"]
    behind_x = None
    each = node.next
    while each is not until:
        changed = _changed(each)
        if changed == "unknown" or (own & set(each.all_input_nodes) and not _is_affine_alone(each, call)):
            return False
        if changed is not None and not _is_a_count(changed) and each.target not in BATCH_NORMS:
            behind_x = {x} | _ancestors(x) if behind_x is None else behind_x
            if not is_new(changed) or changed in behind_x:
                return False
        each = each.next
    return True


def _is_affine_alone(node, call):
    """Whether a node reads weight and bias alone of what a batch norm has."""
    return not {call["running_mean"], call["running_var"]} & set(node.all_input_nodes) and _changed(node) is None


def _is_a_count(node):
    """Whether a node's value is of integers, as `num_batches_tracked`: no batch norm reads those."""
    value = value_of(node)
    return value is not None and not value.is_floating_point() and not value.is_complex()


def is_in_one_mode(node, until):
    """Whether gradients and autocast are the same at two nodes."""
    while (node := node.next) is not until:
        if getattr(node.target, "__name__", "") in _MODES or "inference" in str(node.target):
            return False
    return True
