"""Calls in the source of a method, as the steps that they are for who fuses some of them (_rewrite.py)."""

import ast

# The name that changed methods find the functions above by.
HERE = "_batchnorm_torch_"
# The kinds of steps that are activations: the one that the kernels have behind a residual, and others.
ACTIVATIONS = ("relu", "activation")
_FUNCTIONS = ("relu", "relu_", "relu6", "silu", "hardswish")
# The kinds of batch norms: those that one module alone has, and those of several.
NORMS = ("norm", "shared")


def here(name, *arguments):
    return ast.Call(_of_chain(name), list(arguments), [])


def _of_chain(name):
    return ast.Attribute(ast.Name(HERE, ast.Load()), name, ast.Load())


def of_self(node):
    """The name of an attribute of self."""
    is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if is_attribute else None


def argument_of(node):
    """The callee of a call with one argument, that, and the keywords; or `None`."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
        return node.func, node.args[0], node.keywords
    return None


def uses(node, name):
    return [each for each in ast.walk(node) if isinstance(each, ast.Name) and each.id == name]


def target(statement):
    """The one name that a statement assigns, whatever it was before."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def replaced(node, old, new):
    """A node with another in the place of one in it."""
    return _Replacing(old, new).visit(node)


class _Replacing(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else super().visit(node)


class Steps:
    """The steps of a method, by the kinds of self's modules."""

    def __init__(self, kinds):
        self.kinds = kinds

    def step(self, node):
        """The step that a call of one argument is: `(kind, what is called, argument)`; or `None`."""
        called = argument_of(node)
        if called is None:
            is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
            if is_method and node.func.attr in ("relu", "relu_") and of_self(node.func) is None:
                return "relu", _of_chain(f"method_{node.func.attr}"), node.func.value
            return None
        function, argument, keywords = called
        name = of_self(function)
        if name is not None:
            return None if keywords else (self.kinds.get(name), function, argument)
        is_known = isinstance(function, ast.Attribute) and function.attr in _FUNCTIONS
        if is_known and isinstance(function.value, (ast.Name, ast.Attribute)):
            kind = "relu" if function.attr in ("relu", "relu_") else "activation"
            if not keywords:
                return kind, function, argument
            if len(keywords) == 1 and keywords[0].arg == "inplace" and isinstance(keywords[0].value, ast.Constant):
                return kind, ast.Call(_of_chain("partial"), [function], keywords), argument
        return None

    def waiting(self, node, is_delayed=False):
        """A call of a batch norm, or of what ends with one, as what waits, and the name of what is called; or `None`."""
        step = self.step(node)
        if step is None or step[0] not in ("norm", "tail", *(() if is_delayed else ("shared", "end"))):
            return None
        kind, function, argument = step
        if not is_delayed:
            return here("ready", argument, function), function.attr
        if kind == "tail":
            return here("pending", argument, function), function.attr
        of = self.step(argument)
        if of is None or of[0] != "layer":
            return None
        return here("pending", of[2], of[1], function), function.attr

    def normalized(self, node):
        """`norm(x)` with identities behind it: the steps, and x; or `None`."""
        steps = []
        while (step := self.step(node)) and step[0] == "identity":
            steps.insert(0, step[1])
            node = step[2]
        if not step or step[0] not in NORMS:
            return None
        return [step[1], *steps], step[2], step[1].attr

    def innermost(self, node, name):
        """The calls of one argument each, from the outermost to the one whose argument is this name; or `None`."""
        calls = []
        while (called := argument_of(node)) or self.step(node):
            calls.append(node)
            node = called[1] if called else self.step(node)[2]
            if isinstance(node, ast.Name) and node.id == name:
                return calls
        return None
