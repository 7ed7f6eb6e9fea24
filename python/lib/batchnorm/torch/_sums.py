"""Sums in the source of a method, with the batch norms that wait for them.

Where other modules are called before the sum, a batch norm waits only for a new tensor, of a layer right before it, and they are called by
their names alone, so that nothing changes what it waits for or sees that it has not run.
"""

import ast

from batchnorm.torch._steps import Steps, here, of_self, replaced, target, uses


class Sums(Steps):
    """The sums of a method, by the kinds of self's modules. `fused` are the batch norms that wait, `(name, has_residual)`."""

    def __init__(self, function, kinds):
        super().__init__(kinds)
        self.function, self.fused = function, []

    def _loads(self, name):
        added = [each.target for each in ast.walk(self.function) if isinstance(each, ast.AugAssign)]
        return sum(isinstance(each.ctx, ast.Load) or each in added for each in uses(self.function, name))

    def ends(self, statement, name):
        """Whether a name has no value behind a statement that is to be read: it gets another there, or the method ends, or nobody reads it
        but this statement."""
        return target(statement) == name or isinstance(statement, ast.Return) or self._loads(name) == 1

    def _relu_of(self, statement, name):
        """The call of a relu whose argument is this name, in a statement behind which the name is not read."""
        if not isinstance(statement, (ast.Assign, ast.Return)) or statement.value is None or not self.ends(statement, name):
            return None
        calls = self.innermost(statement.value, name)
        step = self.step(calls[-1]) if calls else None
        return calls[-1] if step and step[0] == "relu" and len(uses(statement.value, name)) == 1 else None

    def residual(self, statements, i):
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
        return [*statements[:j], *statements[j + taken - 1 :]]

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
        if not self.ends(statement, name) or len(uses(value, name)) != 1:
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
            statement.value = replaced(statement.value, call, new)

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
            # A branch that is not run with these modules may do as it likes: nothing waits there any longer.
            live = [branch for branch, is_live in self._branches_of(statement) if is_live]
            return all(self._passes(each, name, norm) for branch in live for each in branch)
        if isinstance(statement, ast.Assign):
            return target(statement) not in (None, name) and self._is_harmless(statement.value, name, norm)
        return isinstance(statement, ast.Pass)

    def _finish(self, statement, name):
        """Lets nothing wait in branches that are not run with these modules."""
        if isinstance(statement, ast.If):
            for branch, is_live in self._branches_of(statement):
                for each in branch if is_live else ():
                    self._finish(each, name)
                if branch and not is_live:
                    done = here("done", ast.Name(name, ast.Load()))
                    branch.insert(0, ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], done), branch[0]))

    def _branches_of(self, branches):
        """The branches of an `if`, each with whether it may be run with these modules."""
        is_run = self._is_run(branches.test)
        return (branches.body, is_run is not False), (branches.orelse, is_run is not True)

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

    def branches(self, statements, i):
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
                behind.value = replaced(behind.value, call, new)
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
