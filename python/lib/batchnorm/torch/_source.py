"""Methods as their source says them, and as they are compiled of it, changed."""

import __future__

import ast
import functools
import inspect
import linecache
import types

# Flags by which `from __future__` speaks to the compiler.
_FUTURE = sum(getattr(__future__, name).compiler_flag for name in ("annotations", "generator_stop"))
# The name that a changed method finds by what it was.
_BEFORE = "_batchnorm_torch_before_"


def changed(function, name, change, **values):
    """A method by this name of its class that is changed by a function of its tree, with these values by their names; or `None`, where
    that says that there is nothing to change, or the source is not known. It calls a method of this name that its class gets later."""
    parsed = _parsed(function, values)
    if parsed is None:
        return None
    module, inner = parsed
    if _code(function, module) is None or not change(inner):
        return None
    inner.body.insert(0, _unless_replaced(inner, name))
    code = _code(function, ast.fix_missing_locations(module), is_changed=True)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    cells.update({each: types.CellType(value) for each, value in {**values, _BEFORE: function}.items()})
    closure = tuple(cells[each] for each in code.co_freevars)
    new = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    new.__kwdefaults__ = function.__kwdefaults__
    new.__qualname__, new.__module__, new.__doc__ = function.__qualname__, function.__module__, function.__doc__
    new.__annotations__ = function.__annotations__
    new.__dict__.update(function.__dict__)
    return new


def asks_for_its_class(function):
    """Whether a method may look at the very class of its object, which is to be another one."""
    if {"type", "__class__"}.isdisjoint(_names(function.__code__)):
        return False
    parsed = _parsed(function, {})
    if parsed is None:
        return True
    calls = [each for each in ast.walk(parsed[1]) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)]
    is_asked = any(call.func.id == "type" and any(map(_has_self, call.args)) for call in calls)
    attributes = [each for each in ast.walk(parsed[1]) if isinstance(each, ast.Attribute) and each.attr == "__class__"]
    return is_asked or any(_has_self(each) for each in attributes)


def _has_self(node):
    return any(isinstance(each, ast.Name) and each.id == "self" for each in ast.walk(node))


def _names(code):
    nested = [_names(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*nested)


def _unless_replaced(function, name):
    """A statement that calls a method of this name that the class has got since, in the place of this one."""
    of = function.args
    arguments = ", ".join(
        [
            *(each.arg for each in (*of.posonlyargs, *of.args)),
            *([f"*{of.vararg.arg}"] if of.vararg else []),
            *(f"{each.arg}={each.arg}" for each in of.kwonlyargs),
            *([f"**{of.kwarg.arg}"] if of.kwarg else []),
        ]
    )
    method = f"self._fused_of.{name}"
    (statement,) = ast.parse(f"if {method} is not {_BEFORE}: return {method}({arguments})").body
    for each in ast.walk(statement):
        ast.copy_location(each, function)
    return statement


def _parsed(function, values):
    """A module with the function in another, whose variables are those that it closes over; and the function."""
    try:
        lines, first = inspect.getsourcelines(function)
        # Below something of less indentation, so that texts of several lines stay what they are.
        tree = ast.parse("if True:\n" + "".join(lines))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    inner = tree.body[0].body[0] if len(tree.body) == len(tree.body[0].body) == 1 else None
    if not isinstance(inner, ast.FunctionDef) or not inner.args.args or inner.args.args[0].arg != "self":
        return None
    ast.increment_lineno(tree, first - 2)
    inner.decorator_list, inner.returns = [], None
    for each in ast.walk(inner.args):
        if isinstance(each, ast.arg):
            each.annotation = None
    inner.args.defaults = [ast.Constant(None) for _ in inner.args.defaults]
    inner.args.kw_defaults = [of and ast.Constant(None) for of in inner.args.kw_defaults]
    outer = ast.parse("def outer(): pass").body[0]
    outer.args.args = [ast.arg(name) for name in (*function.__code__.co_freevars, *values, _BEFORE)]
    outer.body = [inner]
    # Compilers call functions of what is imported in another way.
    imported = [ast.Import([ast.alias(name)]) for name in _imported(function.__code__.co_filename)]
    tree.body = [*imported, outer]
    return ast.fix_missing_locations(tree), inner


@functools.lru_cache(None)
def _imported(file):
    """The names that a file imports for all of it."""
    try:
        nodes = ast.parse("".join(linecache.getlines(file))).body
    except (SyntaxError, ValueError):
        return ()
    names = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names if alias.name != "*"}
        elif isinstance(node, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            nodes += [each for each in ast.iter_child_nodes(node) if isinstance(each, (ast.stmt, ast.ExceptHandler))]
    return tuple(sorted(names))


def _code(function, tree, is_changed=False):
    """The function's code as a tree is compiled; `None` where an unchanged one gives other code than the function has."""
    old = function.__code__
    module = compile(tree, old.co_filename, "exec", flags=old.co_flags & _FUTURE, dont_inherit=True)
    outer = next(each for each in module.co_consts if isinstance(each, types.CodeType))
    code = next(each for each in outer.co_consts if isinstance(each, types.CodeType))
    return code if is_changed or _is_same(old, code) else None


def _is_same(a, b):
    def of(code):
        constants = [each for each in code.co_consts if not isinstance(each, types.CodeType)]
        return code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, repr(constants)

    nested = [[each for each in code.co_consts if isinstance(each, types.CodeType)] for code in (a, b)]
    return of(a) == of(b) and len(nested[0]) == len(nested[1]) and all(map(_is_same, *nested))
