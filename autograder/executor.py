"""Runs one request against a namespace of student code: in the sandboxed worker, and in a notebook's public checks.

Arrays arrive as torch tensors, leave as numpy arrays, and only plain values leave at all. Whatever student code does
(raises, exits, returns an object that lies), the outcome is a plain reply:

    {"ok": value, "mutated": [names of inputs changed in place]}
    {"error": {"type": ..., "message": ..., "where": ...}}

Requests: `load` runs cells, `call` calls a function (or gives the gradient of the sum of its answer), `script` runs a
few lines of the check in the namespace, for classes and for several steps.
"""

from __future__ import annotations

import ast
import linecache
import math
import random
import textwrap
import traceback
from typing import Any

import numpy as np
import torch

from .values import DTYPES, BadValue, encode

LABEL = "answer"  # prefix of the file names that student code is compiled under
MAX_MESSAGE = 600


def execute(namespace: dict[str, Any], request: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """The reply to a request; see the module's docstring. Never raises what student code raises."""
    try:
        if request["op"] == "load":
            return {"ok": load_cells(namespace, request["cells"]), "mutated": []}
        return _evaluate(namespace, request, device)
    except BaseException as error:  # also SystemExit and KeyboardInterrupt: student code may raise them
        return {"error": describe(error)}


def _evaluate(namespace: dict[str, Any], request: dict[str, Any], device: str) -> dict[str, Any]:
    if request["op"] == "script":
        arguments: list[Any] = []
        keywords = {name: to_student(v, device) for name, v in request["inputs"].items()}
        originals = dict(request["inputs"])
        body = textwrap.indent(textwrap.dedent(request["source"]), "    ")
        source = f"def _script({', '.join(keywords)}):\n{body}\n"
        own: dict[str, Any] = {}
        exec(compile(source, "<the check's script>", "exec"), namespace, own)
        function = own["_script"]
    else:
        name = request["name"]
        if name not in namespace:
            raise MissingName(f"{name} is not defined: its cell is missing, was not run, or failed")
        function = namespace[name]
        arguments = [to_student(v, device) for v in request["args"]]
        keywords = {key: to_student(v, device) for key, v in request["kwargs"].items()}
        originals = {**{str(i): v for i, v in enumerate(request["args"])}, **request["kwargs"]}
    given = {**{str(i): v for i, v in enumerate(arguments)}, **keywords}
    wrt = request.get("wrt")
    if wrt is not None:
        arguments[wrt].requires_grad_(True)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device == "cuda" else []):
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        # torch.manual_seed would also queue a seed, with a stack trace, for each accelerator that is not there
        (torch.manual_seed if device == "cuda" else torch.default_generator.manual_seed)(request["seed"])
        np.random.seed(request["seed"] % 2**32)  # noqa: NPY002  student code may use the legacy generator
        random.seed(request["seed"])
        try:
            answer = function(*arguments, **keywords)
            if wrt is not None:
                answer = _gradient(answer, arguments[wrt])
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
    answer = from_student(answer)
    encode(answer)  # refuses here, with the student's own line of blame, what the channel would refuse later
    mutated = [name for name, original in originals.items() if _changed(original, given[name])]
    return {"ok": answer, "mutated": mutated}


def _gradient(answer: Any, x: torch.Tensor) -> torch.Tensor:
    if not isinstance(answer, torch.Tensor) or not answer.requires_grad:
        raise NoGradient("the answer does not depend on its input through autograd: was it detached or rebuilt?")
    (gradient,) = torch.autograd.grad(answer.sum(), x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


class MissingName(Exception):
    """A function or class that the question asks for is not there."""


class NoGradient(Exception):
    """A gradient was asked for and there is none."""


def to_student(value: Any, device: str = "cpu") -> Any:
    """Plain value to what student code sees: arrays become fresh torch tensors on the device."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()).to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(to_student(v, device) for v in value)
    if isinstance(value, dict):
        return {key: to_student(v, device) for key, v in value.items()}
    return value


def from_student(value: Any, depth: int = 0) -> Any:
    """What student code returned to a plain value.

    Only exact types pass: a subclass of a tensor or a number could lie in any comparison. Errors: BadValue.
    """
    if depth > 16:
        raise BadValue("the answer is nested deeper than 16 levels")
    kind = type(value)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
            raise BadValue("the answer holds a sparse, quantised or meta tensor; a plain dense one is expected")
        value = value.detach()
        if value.dtype in (torch.bfloat16, torch.float16):
            value = value.float()
        array = value.resolve_conj().resolve_neg().cpu().numpy()
        if array.dtype.name not in DTYPES:
            raise BadValue(f"the answer holds a tensor of dtype {value.dtype}")
        return array.copy()
    if kind is np.ndarray:
        if value.dtype.name not in DTYPES:
            raise BadValue(f"the answer holds an array of dtype {value.dtype.name}")
        return value.copy()
    if isinstance(value, np.generic) and kind.__module__ == "numpy":
        return from_student(np.asarray(value), depth)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [from_student(v, depth + 1) for v in value]
    if kind is tuple or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return tuple(from_student(v, depth + 1) for v in tuple.__iter__(value))
    if kind is dict:
        return {key: from_student(v, depth + 1) for key, v in value.items()}
    raise BadValue(
        f"the answer holds a {kind.__name__}; tensors, numbers, strings and tuples or lists of them may come back"
    )


def _changed(original: Any, now: Any) -> bool:
    """Whether an input differs from what was sent: student code wrote into it."""
    if isinstance(original, np.ndarray):
        if type(now) is not torch.Tensor or tuple(now.shape) != original.shape:
            return True
        exact = original.dtype.kind in "fc"
        return not np.array_equal(now.detach().cpu().numpy(), original, equal_nan=exact)
    if isinstance(original, (list, tuple)):
        return len(original) != len(now) or any(_changed(a, b) for a, b in zip(original, now, strict=True))
    if isinstance(original, dict):
        return original.keys() != now.keys() or any(_changed(v, now[key]) for key, v in original.items())
    return False


def describe(error: BaseException) -> dict[str, str]:
    """An exception as plain text: its type, its message, and the student's line that raised it."""
    where = ""
    try:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.startswith(f"<{LABEL}"):
                line = (frame.line or "").strip()
                where = f"line {frame.lineno} of {frame.filename.strip('<>')}" + (f": {line[:200]}" if line else "")
        if isinstance(error, SyntaxError) and str(error.filename).startswith(f"<{LABEL}"):
            where = f"line {error.lineno} of {str(error.filename).strip('<>')}"
        message = str(error)
    except BaseException:  # an exception whose own methods raise
        message = "(its message could not be read)"
    return {"type": str(type(error).__name__)[:100], "message": message[:MAX_MESSAGE], "where": where[:400]}


def load_cells(namespace: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Run cells in order: answer cells (`whole`) as they are, of others only imports, definitions and constants.

    A cell that fails for a name that is not there yet is tried again after the others, so that reordered cells still
    work. Returns the names that are defined and one line for each cell that failed.
    """
    namespace.setdefault("__name__", "__main__")
    namespace.update({"torch": torch, "np": np, "math": math})
    for name in ("check", "submit", "display"):  # calls of the notebook's helpers in answer cells do nothing here
        namespace.setdefault(name, _nothing)
    waiting = list(enumerate(cells, 1))
    problems: list[str] = []
    while waiting:
        again, problems = [], []
        for number, cell in waiting:
            error = _run_cell(namespace, cell, number)
            if error is not None:
                again.append((number, cell))
                text = describe(error)
                place = text["where"] or f"{LABEL} cell {cell.get('label') or number}"
                problems.append(f"{place}: {text['type']}: {text['message']}".splitlines()[0])
        if len(again) == len(waiting):
            break
        waiting = again
    return {"names": sorted(name for name in namespace if not name.startswith("_")), "problems": problems}


def _nothing(*arguments: Any, **keywords: Any) -> None:
    """Stands for the notebook's helpers while grading."""


def _run_cell(namespace: dict[str, Any], cell: dict[str, Any], number: int) -> BaseException | None:
    """Run a cell statement by statement, so that a failing last line does not lose the definitions above it."""
    filename = f"<{LABEL} cell {cell.get('label') or number}>"
    source = cell["source"]
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    try:
        tree = ast.parse(source, filename)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error if cell["whole"] else None
    for statement in tree.body:
        if not cell["whole"] and not _harmless(statement):
            continue
        try:
            exec(compile(ast.Module([statement], []), filename, "exec"), namespace)
        except BaseException as error:
            if cell["whole"] or isinstance(error, NameError):
                return error
    return None


def _harmless(node: ast.AST) -> bool:
    """Whether a statement outside of the answer cells is an import, a definition or a constant."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return True
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return node.value is not None and all(isinstance(t, ast.Name) for t in targets) and _constant(node.value)
    return False


CONSTANT: tuple[type[ast.AST], ...] = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.IfExp, ast.expr_context),
    *(ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.BoolOp, ast.boolop, ast.Compare, ast.cmpop),
)
CALLABLE = {"torch.device", "torch.cuda.is_available", "math.sqrt", "math.log", "math.exp", "int", "float", "range"}


def _constant(node: ast.expr) -> bool:
    """Whether an expression is made of literals and names, or of calls that only name a device or a number."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            if ast.unparse(part.func) not in CALLABLE:
                return False
        elif not isinstance(part, (*CONSTANT, ast.Lambda, ast.arguments, ast.arg)):
            return False
    return True
