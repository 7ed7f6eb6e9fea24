"""Methods whose batch norms wait for what comes behind them.

A method's source is parsed and changed in these forms alone, where `norm`, `layer`, `part` and `act` are modules of self by their names:

    act(norm(x))                        run(x, norm, act)
    v = norm(x); v = act(v)             v = run(x, norm, act)
    act(z + norm(x))                    activated(plus(z, ready(x, norm)), act)
    v = norm(layer(x)); ...             v = pending(x, layer, norm); ...
    v += z; v = act(v)                  v = activated(plus_in_place(v, z), act)
    if ...: v = z + part(x)             if ...: v = plus(z, ready(x, part))
    v = act(v)                          v = activated(v, act)

What each of these calls is decided when it runs (_chain.py), so that a method gives the same whatever its modules are by then. Where
other modules are called before the sum, a batch norm waits only for a new tensor, of a layer right before it, and they are called by
their names alone, so that nothing changes what it waits for or sees that it has not run. Lines keep their numbers and files. A method
whose source is not what it was compiled of is left alone (_source.py).
"""

import ast

from batchnorm.torch import _chain
from batchnorm.torch._source import changed
from batchnorm.torch._steps import ACTIVATIONS, HERE, NORMS, Steps, here, of_self, target, uses

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


class _Method(Steps):
    """The body of a method, with the kinds of self's modules."""

    def __init__(self, function, kinds):
        super().__init__(kinds)
        self.function, self.fused = function, []

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

    def _loads(self, name):
        added = [each.target for each in ast.walk(self.function) if isinstance(each, ast.AugAssign)]
        return sum(isinstance(each.ctx, ast.Load) or each in added for each in uses(self.function, name))

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
            statements = self._residual(statements, i) or self._branches(statements, i) or statements
            i += 1
        return statements

    def _ends(self, statement, name):
        """Whether a name has no value behind a statement that is to be read: it gets another there, or the method ends, or nobody reads it
        but this statement."""
        return target(statement) == name or isinstance(statement, ast.Return) or self._loads(name) == 1

    def _joined(self, statements):
        """With `v = layer(x); v = norm(v); v = act(v)` as one statement."""
        new = []
        for statement in statements:
            name = target(new[-1]) if new else None
            value = getattr(statement, "value", None)
            if name and isinstance(statement, (ast.Assign, ast.Return)) and self._ends(statement, name):
                calls = self.innermost(value, name)
                step = self.step(calls[-1]) if calls and len(uses(value, name)) == 1 else None
                of = self.step(new[-1].value)
                if step and self._is_one(of, step, len(calls)):
                    statement.value = _Replace(uses(value, name)[0], new[-1].value).visit(value)
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

    def _relu_of(self, statement, name):
        """The call of a relu whose argument is this name, in a statement behind which the name is not read."""
        if not isinstance(statement, (ast.Assign, ast.Return)) or statement.value is None or not self._ends(statement, name):
            return None
        calls = self.innermost(statement.value, name)
        step = self.step(calls[-1]) if calls else None
        return calls[-1] if step and step[0] == "relu" and len(uses(statement.value, name)) == 1 else None

    def _residual(self, statements, i):
        """With a batch norm at i that waits for a sum and a relu further on."""
        name = target(statements[i])
        if not name or self.waiting(statements[i].value) is None:
            return None
        norm = self.waiting(statements[i].value)[1]
        for j in range(i + 1, len(statements)):
            found = self._sum(statements[j], name, norm, statements[j + 1] if j + 1 < len(statements) else None)
            if found is not None:
                break
            if not self._passes(statements[j], name, norm):
                return None
        else:
            return None
        change, taken, is_delayed = found
        between = statements[i + 1 : j]
        is_delayed = is_delayed or any(isinstance(each, ast.Call) for statement in between for each in ast.walk(statement))
        waits = self.waiting(statements[i].value, is_delayed)
        if waits is None:
            return None
        change()
        statements[i].value = waits[0]
        for each in between:
            self._finish(each, name)
        self.fused.append((waits[1], True))
        return [*statements[: j], *statements[j + taken - 1 :]]

    def _sum(self, statement, name, norm, behind):
        """A sum with this name and the relu of it: a function that changes them, the statements that they are in, of which the last one
        stays, and whether modules are called before the sum; or `None`."""
        if isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):
            is_it = isinstance(statement.target, ast.Name) and statement.target.id == name
            call = self._relu_of(behind, name) if is_it and self._is_harmless(statement.value, name, norm) else None
            total = here("plus_in_place", ast.Name(name, ast.Load()), statement.value)
            return self._found(behind, call, total, statement.value, 2)
        value = getattr(statement, "value", None)
        if not isinstance(statement, (ast.Assign, ast.Return)) or value is None:
            return None
        if not self._ends(statement, name) or len(uses(value, name)) != 1:
            return None
        total = target(statement)
        if total and self._addend(value, name, norm) is not None and behind is not None:
            return self._found(behind, self._relu_of(behind, total), self._plus(value), self._addend(value, name, norm), 2)
        node = value
        while step := self.step(node):  # act(v + z), perhaps with more behind it.
            if step[0] == "relu" and (other := self._addend(step[2], name, norm)) is not None:
                return self._found(statement, node, self._plus(step[2]), other, 1)
            node = step[2]
        return None

    def _found(self, statement, call, total, other, taken):
        if call is None:
            return None

        def change():
            new = here("activated", total, self.step(call)[1])
            statement.value = _Replace(call, new).visit(statement.value)

        return change, taken, any(isinstance(each, ast.Call) for each in ast.walk(other))

    def _addend(self, node, name, norm):
        """The summand of a name in a sum, if it leaves a batch norm alone that waits; or `None`."""
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add):
            return None
        names = [isinstance(of, ast.Name) and of.id == name for of in (node.left, node.right)]
        if sum(names) != 1:
            return None
        other = node.right if names[0] else node.left
        return other if self._is_harmless(other, name, norm) else None

    def _plus(self, node):
        return here("plus", node.left, node.right)

    def _is_harmless(self, node, name, norm):
        """Whether an expression leaves alone what a batch norm waits for, and what has the name that stands for it: it has other names,
        calls of other modules by their names, and arithmetic."""
        if isinstance(node, (ast.Constant, ast.Name)):
            return getattr(node, "id", None) != name
        if isinstance(node, ast.BinOp):
            return self._is_harmless(node.left, name, norm) and self._is_harmless(node.right, name, norm)
        step = self.step(node)
        is_module = step is not None and of_self(step[1]) not in (None, norm) and step[0] not in (None, "none", "shared")
        return is_module and self._is_harmless(step[2], name, norm)

    def _passes(self, statement, name, norm):
        """Whether a statement between a batch norm and a sum leaves both alone."""
        if isinstance(statement, ast.If):
            if self._is_run(statement.test, may_be_open=True) is None:
                return False
            is_run = self._is_run(statement.test)
            for branch, is_live in ((statement.body, is_run is not False), (statement.orelse, is_run is not True)):
                # A branch that is not run with these modules may do as it likes: nothing waits there any longer.
                if is_live and not all(self._passes(each, name, norm) for each in branch):
                    return False
            return True
        if isinstance(statement, ast.Assign):
            return target(statement) not in (None, name) and self._is_harmless(statement.value, name, norm)
        return isinstance(statement, ast.Pass)

    def _finish(self, statement, name):
        """Lets nothing wait in branches that are not run with these modules."""
        if isinstance(statement, ast.If):
            is_run = self._is_run(statement.test)
            for branch, is_live in ((statement.body, is_run is not False), (statement.orelse, is_run is not True)):
                for each in branch if is_live else ():
                    self._finish(each, name)
                if branch and not is_live:
                    done = here("done", ast.Name(name, ast.Load()))
                    branch.insert(0, ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], done), branch[0]))

    def _is_run(self, test, may_be_open=False):
        """Whether `self.a is not None` and the like are true; `None` where that is not known, or of other forms."""
        is_compare = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Is, ast.IsNot))
        if not is_compare or not isinstance(test.comparators[0], ast.Constant) or test.comparators[0].value is not None:
            return None
        if not isinstance(test.left, (ast.Name, ast.Attribute)):
            return None
        kind = self.kinds.get(of_self(test.left))
        if kind is None:
            return may_be_open or None
        return (kind == "none") == isinstance(test.ops[0], ast.Is) or may_be_open

    def _branches(self, statements, i):
        """With sums at the ends of the branches at i that wait for a relu right behind."""
        branches = statements[i]
        behind = statements[i + 1] if i + 1 < len(statements) else None
        if not isinstance(branches, ast.If) or behind is None:
            return None
        found = None
        for branch in (branches.body, branches.orelse):
            name = target(branch[-1]) if branch else None
            waits = self.operand(branch[-1].value) if name else None
            if waits is None or found not in (None, name):
                continue
            call = self._relu_of(behind, name) if found is None else None
            if call is not None:
                new = here("activated", ast.Name(name, ast.Load()), self.step(call)[1])
                behind.value = _Replace(call, new).visit(behind.value)
                found = name
            if found == name:
                branch[-1].value = waits[0]
                if self._is_run(branches.test) is not (branch is branches.orelse):
                    self.fused.append((waits[1], True))
        return None if found is None else statements

    def operand(self, total):
        """A sum with a batch norm that waits, and the name of what it is called by; or `None`."""
        if not isinstance(total, ast.BinOp) or not isinstance(total.op, ast.Add):
            return None
        waits = self.waiting(total.right)
        if waits is not None:
            return here("plus", total.left, waits[0]), waits[1]
        is_delayed = any(isinstance(each, ast.Call) for each in ast.walk(total.right))
        waits = self.waiting(total.left, is_delayed)
        if waits is not None and self._is_harmless(total.right, None, waits[1]):
            return here("plus", waits[0], total.right), waits[1]
        return None


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


class _Replace(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else super().visit(node)
