"""Turning a function into a generator that stops where it calls a method of a given name."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Generator
from typing import Any


@functools.lru_cache(maxsize=64)
def suspendable(function: Callable[..., Any], method: str) -> Callable[..., Generator[Any, Any, Any]]:
    """`function`, compiled from its source once more with every `x.method(...)` in it turned into `(yield x.method(...))`.

    Decorators are left out, those that switch gradients off among them. Each yielded value is what the method returned;
    what is sent back takes its place. Defaults, globals and closure are the function's own; tracebacks show its lines.

    Raises:
        ValueError: the function has no source, or does not call the method itself.
    """
    # A pipeline's loop has to wait in the middle, while its caller looks at the output and says where to go on. A thread
    # could wait, but grad mode, autocast and errors belong to threads; a generator waits in the caller's own. So the
    # function is compiled once more from its source, with a `yield` around each call of the method: nothing else differs.
    function = inspect.unwrap(function)
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise ValueError(f"{function.__qualname__} cannot be suspended: its source is not to be had") from error
    (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    if not isinstance(definition, ast.FunctionDef):
        raise ValueError(f"{function.__qualname__} cannot be suspended: it is no plain function")
    ast.increment_lineno(definition, first - 1)
    rewriter = _YieldCalls(method)
    definition.body = [rewriter.visit(statement) for statement in definition.body]
    if not rewriter.found:
        raise ValueError(
            f"{function.__qualname__} cannot be suspended: it does not call `.{method}(...)` itself; use the part that does"
        )
    return _compile(definition, function)


class _YieldCalls(ast.NodeTransformer):
    """Wraps calls of a method in `yield`, in the function's own scope: inner functions keep theirs."""

    def __init__(self, method: str):
        self.method, self.found = method, False

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == self.method):
            return node
        self.found = True
        return ast.copy_location(ast.Yield(node), node)

    def _leave(self, node: ast.AST) -> ast.AST:
        return node

    # A `yield` within an inner function or a comprehension would make that a generator, not the loop around it.
    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _leave
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _leave


def _compile(definition: ast.FunctionDef, function: Any) -> Callable[..., Any]:
    """The rewritten definition as a function with the original's surroundings."""
    definition.decorator_list, definition.returns = [], None
    arguments = definition.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [value and ast.Constant(None) for value in arguments.kw_defaults]
    # Names of the closure must be names of an enclosing function again, or the compiler takes them for globals; default
    # values are objects that exist already, so they are set on the function that is made, not compiled.
    enclosing = ast.parse(f"def enclose({', '.join(function.__code__.co_freevars)}):\n    return {definition.name}")
    enclosing.body[0].body.insert(0, definition)  # type: ignore[attr-defined]
    scope: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(enclosing), function.__code__.co_filename, "exec")
    exec(code, function.__globals__, scope)
    made = scope["enclose"](*(cell.cell_contents for cell in function.__closure__ or ()))
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return made
