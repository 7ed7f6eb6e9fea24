"""Methods whose batch norms wait for what comes behind them.

A method's source is parsed and changed in these forms alone, where `norm`, `layer`, `part` and `act` are modules of self by their names:

    act(norm(x))                        run(x, norm, act)
    v = norm(x); v = act(v)             v = run(x, norm, act)
    act(z + norm(x))                    activated(plus(z, ready(x, norm)), act)
    v = norm(layer(x)); ...             v = pending(x, layer, norm); ...
    v += z; v = act(v)                  v = activated(plus_in_place(v, z), act)
    if ...: v = z + part(x)             if ...: v = plus(z, ready(x, part))
    v = act(v)                          v = activated(v, act)

What each of these calls is decided when it runs (_chain.py), so that a method gives the same whatever its modules are by then; where a
batch norm may wait for a sum, _sums.py says. Lines keep their numbers and files. A method whose source is not what it was compiled of is
left alone (_source.py).
"""

import ast

from batchnorm.torch import _chain
from batchnorm.torch._source import changed
from batchnorm.torch._steps import ACTIVATIONS, HERE, NORMS, here, replaced, target, uses
from batchnorm.torch._sums import Sums

# Syntax that ends a method elsewhere, goes on behind an exception, or hides where a name is used.
_OPAQUE = (
    ast.Try, getattr(ast, "TryStar", ast.Try), ast.With, ast.Match, ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal,
    ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.NamedExpr, ast.Delete,
)


def rewritten(function, name, kinds):
    """A method by this name of modules of these kinds by their names, with the fused ones of them, `(name, has_residual)`; or `None`
    where nothing is to be fused, or its source is not known."""
    fused = []

    def change(tree):
        method = _Method(tree, kinds)
        method.rewrite()
        fused.extend(method.fused)
        return fused

    new = changed(function, name, change, **{HERE: _chain})
    return None if new is None else (new, fused)


class _Method(Sums):
    """The body of a method, with the kinds of self's modules."""

    def rewrite(self):
        nodes = list(ast.walk(self.function))[1:]
        calls = {each.func.id for each in nodes if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)}
        # Names that follow other rules than their text says.
        mangled = any(
            name.startswith("__") and not name.endswith("__")
            for each in nodes
            for name in (getattr(each, "attr", ""), getattr(each, "id", ""))
        )
        if mangled or calls & {"locals", "eval", "exec", "vars", "dir"}:
            return
        # Names are followed through methods that end where they say, and single expressions everywhere.
        self.is_plain = not any(isinstance(each, _OPAQUE) for each in nodes)
        self.function.body = self._block(self.function.body)
        _Expressions(self).visit(self.function)

    def _block(self, statements):
        for each in statements:
            for field in ("body", "orelse", "finalbody"):
                if isinstance(getattr(each, field, None), list) and not isinstance(each, ast.FunctionDef):
                    setattr(each, field, self._block(getattr(each, field)))
        if not self.is_plain:
            return statements
        statements = self._joined(statements)
        i = 0
        while i < len(statements):
            statements = self.residual(statements, i) or self.branches(statements, i) or statements
            i += 1
        return statements

    def _joined(self, statements):
        """With `v = layer(x); v = norm(v); v = act(v)` as one statement."""
        new = []
        for statement in statements:
            name = target(new[-1]) if new else None
            value = getattr(statement, "value", None)
            if name and isinstance(statement, (ast.Assign, ast.Return)) and self.ends(statement, name):
                calls = self.innermost(value, name)
                step = self.step(calls[-1]) if calls and len(uses(value, name)) == 1 else None
                of = self.step(new[-1].value)
                if step and self._is_one(of, step, len(calls)):
                    statement.value = replaced(value, uses(value, name)[0], new[-1].value)
                    new[-1] = statement
                    continue
            new.append(statement)
        return new

    def _is_one(self, first, then, calls):
        """Whether two steps, the second of which is the innermost of this number of calls, are part of what is fused."""
        if first is None:
            return False
        kind = first[0]
        if kind == "layer":
            return then[0] in NORMS and calls == 1
        if kind == "identity":
            return self.normalized(ast.Call(first[1], [first[2]], [])) is not None and then[0] in (*ACTIVATIONS, "identity")
        return kind in (*NORMS, "tail", "end") and (then[0] in ACTIVATIONS or (then[0] == "identity" and calls == 1))


class _Expressions(ast.NodeTransformer):
    """With `act(norm(x))` and `act(norm(x) + z)` fused, wherever they are."""

    def __init__(self, method):
        self.method = method

    def visit_Call(self, node):
        step = self.method.step(node)
        if step and step[0] in ACTIVATIONS:
            of = self.method.normalized(step[2])
            if of:
                steps, x, norm = of
                self.method.fused.append((norm, False))
                return here("run", self.visit(x), *steps, step[1])
            waits = self.method.waiting(step[2])
            if waits is not None:
                self.method.fused.append((waits[1], False))
                return here("activated", self.generic_visit(waits[0]), step[1])
            waits = self.method.operand(step[2]) if step[0] == "relu" else None
            if waits is not None:
                self.method.fused.append((waits[1], True))
                return here("activated", self.generic_visit(waits[0]), step[1])
        return self.generic_visit(node)
