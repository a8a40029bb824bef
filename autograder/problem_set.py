"""A problem set as its folder holds it: questions, source cells, mistakes, alternatives.

psN.py            the notebook's source (jupytext percent format), solutions between markers
checks.py         one check function a question
mistakes.py       typical wrong answers, read by `ast` and never imported
alternatives.py   other right answers, likewise
data/             small files that travel with the notebook
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .checks import Question, questions_of
from .errors import GraderError, unknown

BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
WRITE_HERE = "*Write your answer here.*"
ROOT = Path(__file__).resolve().parent.parent / "problem_sets"


@dataclass(frozen=True)
class Cell:
    """A cell of the source: "code" or "markdown", with its tags."""

    kind: str
    source: str
    tags: tuple[str, ...] = ()

    def tagged(self, prefix: str) -> str | None:
        """What follows `prefix:` in a tag, or None: `answer:2c` -> "2c"."""
        return next((tag.partition(":")[2] for tag in self.tags if tag.startswith(prefix + ":")), None)


@dataclass(frozen=True)
class Variant:
    """A mistake or an alternative: source to be run on top of the solution, for one question."""

    question: str
    text: str  # the hint, or why it is right too
    source: str
    line: int
    file: str


@dataclass(frozen=True)
class Written:
    """A question that is answered in prose and graded by a person."""

    id: str
    points: float


@dataclass
class ProblemSet:
    """Everything that a folder holds, read once."""

    folder: Path
    name: str
    cells: list[Cell]
    questions: dict[str, Question]
    mistakes: list[Variant] = field(default_factory=list)
    alternatives: list[Variant] = field(default_factory=list)

    @property
    def written(self) -> list[Written]:
        """The written questions, in order."""
        found = []
        for cell in self.cells:
            if id := cell.tagged("written"):
                found.append(Written(id, float(cell.tagged("points") or 0)))
        return found

    @property
    def points(self) -> float:
        """What can be earned in all, written questions included."""
        return sum(q.points for q in self.questions.values()) + sum(w.points for w in self.written)

    @property
    def data(self) -> list[Path]:
        """The files that travel with the notebook."""
        folder = self.folder / "data"
        return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []

    def solution_cells(self) -> list[dict[str, Any]]:
        """The solution as the executor loads it."""
        return [_loadable(c, solved(c)) for c in self.cells if c.kind == "code" and loads(c)]

    def starter_cells(self) -> list[dict[str, Any]]:
        """The starter, as a student who has written nothing would hand it in."""
        return [_loadable(c, starter(c)) for c in self.cells if c.kind == "code" and loads(c)]

    def variant_cells(self, variant: Variant) -> list[dict[str, Any]]:
        """The solution with one answer replaced."""
        cell = {"source": variant.source, "whole": True, "label": f"{variant.file}:{variant.line}"}
        return [*self.solution_cells(), cell]

    def question(self, id: str) -> Question:
        """A question by its id. Errors: GraderError for one that does not exist."""
        if id not in self.questions:
            raise unknown("question", id, self.questions)
        return self.questions[id]

    @cached_property
    def data_root(self) -> Path:
        return self.folder / "data"


def loads(cell: Cell) -> bool:
    """Whether a code cell is part of an answer's code: all but the calls of check() and submit()."""
    return not {"check", "submit"} & set(cell.tags)


def _loadable(cell: Cell, source: str) -> dict[str, Any]:
    answer = cell.tagged("answer")
    return {"source": source, "whole": answer is not None, "label": f"of {answer}" if answer else None}


def solved(cell: Cell) -> str:
    """A cell's source with the solution, without the markers."""
    return "\n".join(line for line in cell.source.splitlines() if not _marker(line))


def starter(cell: Cell) -> str:
    """A cell's source as students get it: each solution becomes one line that says what is to be written."""
    id = cell.tagged("answer") or cell.tagged("written") or ""
    out: list[str] = []
    inside = False
    for line in cell.source.splitlines():
        marker = _marker(line)
        if marker == BEGIN:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            name = _enclosing(out, len(indent))
            out.append(WRITE_HERE if cell.kind == "markdown" else f'{indent}raise NotImplementedError("{id}: {name}")')
        elif marker == END:
            inside = False
        elif not inside:
            out.append(line)
    if inside:
        raise GraderError(f"question {id}: a {BEGIN} without its {END}")
    return "\n".join(out)


def _marker(line: str) -> str | None:
    text = re.sub(r"^<!--\s*|\s*-->$|^#\s*", "", line.strip()).strip()
    return text if text in (BEGIN, END) else None


def _enclosing(lines: list[str], indent: int) -> str:
    """The name of the function or class that a line at this indent belongs to."""
    for line in reversed(lines):
        match = re.match(r"(\s*)(?:def|class)\s+(\w+)", line)
        if match and len(match[1]) < max(indent, 1):
            return match[2]
    return "write this"


def find(name: str | Path) -> Path:
    """The folder of a problem set, by its name or its path. Errors: GraderError."""
    path = Path(name)
    if path.is_dir():
        return path.resolve()
    if (ROOT / str(name)).is_dir():
        return ROOT / str(name)
    known = sorted(p.name for p in ROOT.glob("*") if (p / f"{p.name}.py").is_file())
    raise unknown("problem set", str(name), known or ["none yet"])


def load(name: str | Path) -> ProblemSet:
    """Read a problem set. Errors: GraderError, one line, where a file is missing or does not hold together."""
    folder = find(name)
    source = folder / f"{folder.name}.py"
    if not source.is_file():
        raise GraderError(f"{folder}: a problem set's source {source.name} is expected there")
    cells = read_cells(source)
    questions = _load_checks(folder)
    ps = ProblemSet(folder, folder.name, cells, questions)
    ps.mistakes = read_variants(folder / "mistakes.py", "mistake")
    ps.alternatives = read_variants(folder / "alternatives.py", "alternative")
    answered = [id for id in (c.tagged("answer") for c in cells) if id]
    for id in questions:
        if id not in answered:
            raise GraderError(f"{source.name}: no cell is tagged answer:{id}, and checks.py has a check for it")
    for id in answered:
        if id not in questions:
            raise GraderError(f"checks.py: no check for question {id}, which {source.name} asks")
    for variant in [*ps.mistakes, *ps.alternatives]:
        if variant.question not in questions:
            raise GraderError(f"{variant.file}:{variant.line}: there is no question {variant.question!r}")
    return ps


def read_cells(path: Path) -> list[Cell]:
    """The cells of a percent-format file."""
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    return [
        Cell(c["cell_type"], c["source"], tuple(c["metadata"].get("tags", ())))
        for c in notebook["cells"]
        if c["cell_type"] in ("code", "markdown")
    ]


def _load_checks(folder: Path) -> dict[str, Question]:
    path = folder / "checks.py"
    if not path.is_file():
        raise GraderError(f"{folder}: checks.py is missing")
    name = f"_checks_of_{folder.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return questions_of(vars(module))
    except (SyntaxError, ValueError, ImportError, NameError, TypeError) as error:
        raise GraderError(f"{path.name}: {type(error).__name__}: {error}") from None


def read_variants(path: Path, decorator: str) -> list[Variant]:
    """The decorated functions and classes of mistakes.py or alternatives.py, each with what the file shares."""
    if not path.is_file():
        return []
    text = path.read_text("utf-8")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise GraderError(f"{path.name}:{error.lineno}: {error.msg}") from None
    shared: list[str] = []
    found: list[tuple[ast.Call, ast.stmt, str]] = []
    for node in tree.body:
        call = _decorated(node, decorator)
        if call is not None and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list = [d for d in node.decorator_list if d is not call]
            found.append((call, node, ast.unparse(node)))
        elif not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autograder")):
            shared.append(ast.unparse(node))
    prelude = "\n".join(line for line in shared if not line.startswith("from __future__"))
    variants = []
    for call, answer, source in found:
        arguments = [ast.literal_eval(a) for a in call.args] + [ast.literal_eval(k.value) for k in call.keywords]
        id, why = (*arguments, "")[:2]
        variants.append(Variant(id, why, f"{prelude}\n{source}", answer.lineno, path.name))
    return variants


def _decorated(node: ast.stmt, name: str) -> ast.Call | None:
    for d in getattr(node, "decorator_list", []):
        if isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == name:
            return d
    return None
