"""Builds from a problem set's one source what is handed out: starter notebook, student zip, staff solution.

The student zip holds the starter, the data and a folder `psN_checks` with the public checks: the set's check functions,
copies of the few modules that run them, and the recorded answers of the reference and of the mistakes at the public
inputs. No reference, no mistake's code, no hidden seed goes into it; `leaks` looks for them in every corner of the zip.
Builds are reproducible: the same source gives the same bytes on the same machine.
"""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import re
import secrets
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import Draw, Run, run_question
from .diagnosis import public_seeds
from .errors import GraderError
from .notebook import Answer, Recorded, fingerprint, near, write_recorded
from .problem_set import BEGIN, WRITE_HERE, Cell, ProblemSet, load, solved, starter
from .proxies import Reference, Student
from .values import BadValue, encode

STANDALONE = ("checks", "diagnosis", "errors", "executor", "notebook", "proxies", "submission", "values")
MAX_ZIP = 20 << 20
MAX_VALUE = 1 << 20  # bytes of a mistake's value that is worth recording for its hint
ALLOWED_IN_CHECKS = {"numpy", "autograder"} | set(sys.stdlib_module_names)

SETUP = '''\
# Run this cell first. It can be run again at any time, and says something only if something is missing.
import importlib
import sys
import zipfile
from pathlib import Path

{own}

device = "cuda" if torch.cuda.is_available() else "cpu"


def find_checks(name, release):
    """check() and submit(), from the folder of public checks; on Colab it is unpacked from the student zip."""
    folder, places = f"{{name}}_checks", [".", "/content", "/content/drive/MyDrive"]
    archives = [Path(place) / f"{{name}}_student.zip" for place in places]
    archive = next((path for path in archives if path.is_file()), None)
    if archive is not None:  # unpacks the checks and the data, never a notebook: yours stays as it is
        with zipfile.ZipFile(archive) as packed:
            mark = Path(folder, "__init__.py")
            if not mark.is_file() or mark.read_bytes() != packed.read(f"{{folder}}/__init__.py"):
                packed.extractall(".", [n for n in packed.namelist() if n.startswith((f"{{folder}}/", "data/"))])
                for loaded in [m for m in sys.modules if m.partition(".")[0] == folder]:
                    del sys.modules[loaded]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    line = ""
    try:
        checks = importlib.import_module(folder)
    except ModuleNotFoundError:
        where = "drag it into the Files panel (the folder icon at the left)"
        where = where if "google.colab" in sys.modules else "unpack it beside this notebook"
        line = f"The public checks are missing: get {{name}}_student.zip, {{where}}, then run this cell again."
    if not line and checks.RELEASE != release:
        line = f"The folder {{folder}} is of another release than this notebook: get both from the same zip."
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6):
        line = f"torch {{torch.__version__}} is too old: version 2.6 or newer is needed."
    if line:
        print(line)
        return [lambda *arguments, **keywords: print(line)] * 2
    return checks.check, checks.submit


check, submit = find_checks("{name}", "{release}")'''


@dataclass(frozen=True)
class Built:
    """Where the built files lie."""

    starter: Path
    solution: Path
    student_zip: Path
    release: str


def build(problem_set: ProblemSet, out: Path, *, in_place: bool = True, jobs: int = 1) -> Built:
    """Write the starter, the solution notebook and the student zip into `out`.

    With `in_place`, the starter beside the source is written too; the public checks are recorded in `jobs` processes.
    Errors: GraderError where the source does not hold
    together, where the solution fails its own public checks, or where the zip would give a solution away.
    """
    validate(problem_set)
    out.mkdir(parents=True, exist_ok=True)
    name = problem_set.name
    built = Built(
        out / f"{name}.ipynb", out / f"{name}_solution.ipynb", out / f"{name}_student.zip", release(problem_set)
    )
    text = starter_notebook(problem_set)
    packed = pack(student_files(problem_set, record(problem_set, jobs)))
    if len(packed) > MAX_ZIP:
        raise GraderError(f"{built.student_zip.name} would be {len(packed) >> 20} MB; at most {MAX_ZIP >> 20} may be")
    secret = secret_file(out).read_text("ascii").strip()
    found = leaks(packed, problem_set, [secret, bytes.fromhex(secret)])
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise GraderError(f"{built.student_zip.name} would give something away: {found[0]}{more}")
    built.starter.write_text(text, "utf-8")
    built.solution.write_text(solution_notebook(problem_set), "utf-8")
    built.student_zip.write_bytes(packed)
    if in_place:
        (problem_set.folder / f"{name}.ipynb").write_text(text, "utf-8")
    return built


def secret_file(out: Path) -> Path:
    """The file of the secret that the hidden seeds derive from; made once, kept until it is deleted for a new term."""
    path = out / "secret"
    if not path.is_file():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as handle:
            handle.write(secrets.token_hex(16) + "\n")
    return path


def out_of_step(problem_set: ProblemSet) -> str:
    """One line where the starter beside the source is not what its source gives, else ""."""
    path = problem_set.folder / f"{problem_set.name}.ipynb"
    if not path.is_file():
        return f"{path.name} is missing: autograder build {problem_set.name}"
    if path.read_text("utf-8") != starter_notebook(problem_set):
        return f"{path.name} is not in step with {problem_set.name}.py: autograder build {problem_set.name}"
    return ""


def validate(problem_set: ProblemSet) -> None:
    """What must hold before anything is built. Errors: GraderError."""
    source = f"{problem_set.name}.py"
    if not any("setup" in cell.tags for cell in problem_set.cells):
        raise GraderError(f"{source}: no cell is tagged setup")
    for cell in problem_set.cells:
        id = cell.tagged("answer") or cell.tagged("written")
        marked = BEGIN in cell.source
        if id and not marked:
            raise GraderError(f"{source}: the answer to {id} has no {BEGIN}: students would get it whole")
        if marked and not id:
            line = next(line for line in cell.source.splitlines() if BEGIN in line)
            raise GraderError(f"{source}: {line.strip()!r} stands in a cell that is tagged neither answer nor written")
        if cell.tagged("answer") and cell.kind != "code":
            raise GraderError(f"{source}: the cell tagged answer:{id} holds no code")
        if cell.tagged("written") and cell.kind != "markdown":
            raise GraderError(f"{source}: the cell tagged written:{id} is no Markdown")
    public_checks(problem_set)


# Notebooks


def release(problem_set: ProblemSet) -> str:
    """A short name of what students are asked; notebook and checks of different ones do not fit."""
    texts = [f"{c.kind}\0{c.tags}\0{starter(c)}" for c in problem_set.cells]
    return hashlib.sha256("\0\0".join(texts).encode()).hexdigest()[:8]


def starter_notebook(problem_set: ProblemSet) -> str:
    """The notebook that students get, as text."""
    return _notebook(problem_set, [_for_students(problem_set, cell) for cell in problem_set.cells])


def solution_notebook(problem_set: ProblemSet) -> str:
    """The staff's notebook, with solutions and rubrics."""
    cells = problem_set.cells
    return _notebook(problem_set, [_setup(problem_set, c) if "setup" in c.tags else solved(c) for c in cells])


def _for_students(problem_set: ProblemSet, cell: Cell) -> str:
    if "setup" in cell.tags:
        return _setup(problem_set, cell)
    source = starter(cell)
    id = cell.tagged("written")
    return f"<!-- written:{id} -->\n{source}" if id else source


def _setup(problem_set: ProblemSet, cell: Cell) -> str:
    """The setup cell: the set's own imports inside of the one template."""
    lines = [line for line in cell.source.splitlines() if not re.match(r"device\s*=|(from|import) \w+_checks\b", line)]
    own = "\n".join(lines).strip()
    if not re.search(r"^import torch\b", own, re.M):
        own = f"{own}\nimport torch".strip()
    return SETUP.format(own=own, name=problem_set.name, release=release(problem_set))


def _notebook(problem_set: ProblemSet, sources: Sequence[str]) -> str:
    import nbformat

    v4 = nbformat.v4
    cells = []
    seen: Counter[str] = Counter()
    for cell, source in zip(problem_set.cells, sources, strict=True):
        id = _cell_id(cell)
        seen[id] += 1
        make = v4.new_code_cell if cell.kind == "code" else v4.new_markdown_cell
        node = make(source, id=id if seen[id] == 1 else f"{id}-{seen[id]}")
        if cell.tags:
            node["metadata"]["tags"] = list(cell.tags)
        cells.append(node)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = v4.new_notebook(cells=cells, metadata=metadata)
    notebook["nbformat_minor"] = 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def _cell_id(cell: Cell) -> str:
    """An id that says what the cell is for, so that an answer is found even where its tag was lost."""
    for kind in ("answer", "written"):
        if id := cell.tagged(kind):
            return re.sub(r"[^A-Za-z0-9_-]", "-", f"{kind}-{id}")[:50]
    for tag in cell.tags:
        if tag in ("setup", "check", "submit"):
            return tag
    return "text" if cell.kind == "markdown" else "code"


# Recorded answers


class _Recorder(Reference):
    """A live reference that keeps what it answered, in the form in which it is replayed."""

    def __init__(self, backend: Any, seed: int, kept: list[Answer]) -> None:
        super().__init__({}, backend, seed)
        self._kept = kept

    def _answer(self, request: dict[str, Any]) -> Any:
        value = super()._answer(request)
        structure, sums = fingerprint(request)
        for a in self._kept:
            if a.structure == structure and a.seed == request["seed"] and near(a.sums, sums):
                return value
        self._kept.append(Answer(structure, sums, request["seed"], value))
        return value


def record(problem_set: ProblemSet, jobs: int = 1) -> Recorded:
    """Run the public checks with the solution, the mistakes and the starter, and keep what is replayed later.

    Errors: GraderError where the solution does not earn full points.
    """
    recorded = Recorded(problem_set.name, _title(problem_set), release(problem_set), {}, {}, {}, _written(problem_set))
    ids = list(problem_set.questions)
    tasks = [(problem_set.folder, id) for id in ids]
    if jobs > 1 and len(ids) > 1:
        with ProcessPoolExecutor(min(jobs, len(ids)), multiprocessing.get_context("spawn")) as pool:
            begun = sorted(tasks, key=lambda task: not problem_set.questions[task[1]].quality)  # the longest first
            futures = {id: pool.submit(_record_apart, folder, id) for folder, id in begun}
            found = [futures[id].result() for id in ids]
    else:
        found = [_record_question(problem_set, id) for id in ids]
    for id, (answers, mistakes) in zip(ids, found, strict=True):
        recorded.seeds[id] = public_seeds(problem_set.name, problem_set.questions[id])
        recorded.answers[id], recorded.mistakes[id] = answers, mistakes
    return recorded


OneQuestion = tuple[list[Answer], list[dict[str, Any]]]


def _record_apart(folder: Path, id: str) -> OneQuestion:
    return _record_question(load(folder), id)


def _record_question(problem_set: ProblemSet, id: str) -> OneQuestion:
    """The answers and the mistakes' values of one question. One thread, so that the last bits stay the same."""
    import torch

    from .executor import execute

    def backend(cells: list[dict[str, Any]], who: str, strict: bool = True) -> Any:
        namespace: dict[str, Any] = {}
        reply = execute(namespace, {"op": "load", "cells": cells})
        problems = reply["ok"]["problems"] if "ok" in reply else [str(reply["error"]["message"])]
        if problems and strict:
            raise GraderError(f"{who} does not run: {problems[0]}")
        return functools.partial(execute, namespace)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    q = problem_set.questions[id]
    answers: list[Answer] = []
    mistakes: list[dict[str, Any]] = []
    try:
        solution = backend(problem_set.solution_cells(), "the solution")
        for seed in public_seeds(problem_set.name, q):

            def run(who: Any, seed: int = seed) -> Run:
                return run_question(q, Student(who, seed), _Recorder(solution, seed, answers), Draw(seed))

            failed = [line for p in run(solution).parts if not p.passed for line in p.lines]
            if failed:
                raise GraderError(f"the solution fails its own public check of {id}: {failed[0]}")
            run(backend(problem_set.starter_cells(), "the starter", strict=False))
            for mistake in problem_set.mistakes:
                if mistake.question == id:
                    who = backend(problem_set.variant_cells(mistake), f"the mistake at {mistake.file}:{mistake.line}")
                    values = {c.key: (c.value, c.alike) for c in run(who).compared if not c.passed and _small(c.value)}
                    mistakes.append({"hint": mistake.text, "seed": seed, "values": values})
    finally:
        torch.set_num_threads(threads)
    return answers, mistakes


def _small(value: Any) -> bool:
    try:
        return sum(map(len, encode(value)[1])) <= MAX_VALUE
    except BadValue:
        return False


def _title(problem_set: ProblemSet) -> str:
    for cell in problem_set.cells:
        match = re.search(r"^# (.+)$", cell.source, re.M) if cell.kind == "markdown" else None
        if match:
            return match[1].strip()
    return problem_set.name


def _written(problem_set: ProblemSet) -> dict[str, str]:
    """Written questions and their titles, from the heading above each."""
    found, heading = {}, ""
    for cell in problem_set.cells:
        if id := cell.tagged("written"):
            found[id] = re.sub(rf"^{re.escape(id)}[.:)]?\s*|\s*\([\d.]+ points?\)$", "", heading).strip() or id
        elif cell.kind == "markdown":
            heading = next(iter(re.findall(r"^#+ (.+)$", cell.source, re.M)[-1:]), heading)
    return found


# The student zip


def public_checks(problem_set: ProblemSet) -> str:
    """The set's checks.py as it lies in the student zip. Errors: GraderError where it imports what is not there."""
    text = (problem_set.folder / "checks.py").read_text("utf-8")
    for node in ast.walk(ast.parse(text)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            own = module.startswith("autograder") and not (
                isinstance(node, ast.ImportFrom) and module.endswith(".checks")
            )
            if module.partition(".")[0] not in ALLOWED_IN_CHECKS or own:
                raise GraderError(
                    f"checks.py, line {getattr(node, 'lineno', 0)}: {module} cannot be imported on a student's "
                    "machine; there are numpy, the standard library and `from autograder.checks import ...`"
                )
    return re.sub(r"^from autograder\.checks import", "from .checks import", text, flags=re.M)


def student_files(problem_set: ProblemSet, recorded: Recorded) -> dict[str, bytes]:
    """Everything in the student zip, by its name there."""
    name = problem_set.name
    folder = f"{name}_checks"
    files = {f"{name}.ipynb": starter_notebook(problem_set).encode()}
    for path in problem_set.data:
        files[path.relative_to(problem_set.folder).as_posix()] = path.read_bytes()
    checks = _code_files(problem_set)
    checks[f"{folder}/recorded.json"], checks[f"{folder}/recorded.npz"] = write_recorded(recorded)
    build = hashlib.sha256(b"".join(name.encode() + b"\0" + checks[name] for name in sorted(checks))).hexdigest()[:16]
    checks[f"{folder}/__init__.py"] = (
        f'"""Public checks of {name}: check("1a") in the notebook, submit() at its end."""\n\n'
        "from .notebook import check, submit\n\n"
        f'RELEASE = "{release(problem_set)}"  # of the questions: must be that of the notebook\n'
        f'BUILD = "{build}"  # of the checks: another one in a newer zip replaces this folder\n'
        '__all__ = ["BUILD", "RELEASE", "check", "submit"]\n'
    ).encode()
    return files | checks


def _code_files(problem_set: ProblemSet) -> dict[str, bytes]:
    """The Python files of the checks folder."""
    folder = f"{problem_set.name}_checks"
    here = Path(__file__).parent
    files = {f"{folder}/{module}.py": (here / f"{module}.py").read_bytes() for module in STANDALONE}
    files[f"{folder}/questions.py"] = public_checks(problem_set).encode()
    return files


def pack(files: dict[str, bytes]) -> bytes:
    """A zip of which the bytes depend on nothing but the files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    return out.getvalue()


# Leaks

MIN_LINE = 20  # characters of a line, spaces not counted, from which on it is no coincidence
MIN_BLOCK = 12  # the same for a whole solution
MAX_NESTING = 5
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")


def leaks(archive: bytes | Path, problem_set: ProblemSet, hidden: Iterable[str | bytes] = ()) -> list[str]:
    """One line for each thing in a student zip that gives a solution, a mistake's code or a secret away.

    Looks into every file, and inside of each into JSON strings, attachments and other base64, compressed streams and
    archives; also at the names and comments of the zip itself. Text is compared without its spaces and line ends.
    """
    data = archive.read_bytes() if isinstance(archive, Path) else archive
    needles = _needles(problem_set)
    raw_secrets = [s.encode() if isinstance(s, str) else s for s in hidden]
    for secret in list(raw_secrets):
        raw_secrets += [secret.hex().encode(), secret[::-1]]
    found: dict[str, None] = {}
    known = _code_files(problem_set)
    folder = f"{problem_set.name}_checks"
    expected = {
        *known,
        f"{folder}/__init__.py",
        f"{folder}/recorded.json",
        f"{folder}/recorded.npz",
        f"{problem_set.name}.ipynb",
    }
    expected |= {path.relative_to(problem_set.folder).as_posix() for path in problem_set.data}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            members = [(info, packed.read(info)) for info in packed.infolist()]
            outside = packed.comment + b"\0".join(i.filename.encode() + b"\0" + i.comment + i.extra for i, _ in members)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
        return [f"the zip cannot be read: {error}"]
    for info, content in [*members, (None, outside)]:
        where = info.filename if info is not None else "the zip's own names and comments"
        if info is not None and where not in expected:
            found[f"{where}: does not belong into a student zip"] = None
        framework = where in known and not where.endswith("questions.py")
        if framework and content == known[where]:
            continue
        if framework:
            found[f"{where}: differs from the module that it is a copy of"] = None
        for piece in _unfolded(content):
            for secret in raw_secrets:
                if len(secret) >= 6 and secret in piece:
                    found[f"{where}: a secret"] = None
            bare = _bare(piece)
            for needle, what in needles.items():
                if needle in bare:
                    found[f"{where}: {what}"] = None
    return list(found)


def _bare(piece: bytes) -> bytes:
    return re.sub(rb"[\s\x00]+", b"", piece)


def _needles(problem_set: ProblemSet) -> dict[bytes, str]:
    """What must not be found, without spaces, and what it is. Lines that students see anyway are none."""
    visible = {line.strip() for cell in problem_set.cells for line in starter(cell).splitlines()}
    needles: dict[bytes, str] = {}

    def add(lines: list[str], what: str, whole: bool = True) -> None:
        lines = [line.strip() for line in lines]
        hidden = [line for line in lines if line and line not in visible]
        for line in hidden:
            bare = _bare(line.encode())
            if len(bare) >= MIN_LINE and not bare.endswith(b":"):  # the head of a loop gives nothing away
                needles.setdefault(bare, f"{what}: {line[:60]!r}")
        block = _bare("".join(lines).encode())
        if whole and hidden and len(block) >= MIN_BLOCK:
            needles.setdefault(block, what)

    for cell in problem_set.cells:
        id = cell.tagged("answer") or cell.tagged("written") or ""
        block: list[str] | None = None
        for line in cell.source.splitlines():
            if BEGIN in line:
                block = []
            elif "END SOLUTION" in line and block is not None:
                add(block, f"a line of the solution of {id}")
                for sentence in re.split(r"(?<=[.;:?])\s", " ".join(block)) if cell.kind == "markdown" else ():
                    add([sentence], f"a sentence of the solution of {id}", whole=False)
                block = None
            elif block is not None:
                block.append(line)
    shown = _bare("\n".join(starter(cell) for cell in problem_set.cells).encode())
    for kind in ("mistakes", "alternatives"):
        path = problem_set.folder / f"{kind}.py"
        for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
            header = re.match(r"\s*(@|def |class |import |from |#|\"\"\")", line)
            if not header and _bare(line.encode()) not in shown:  # they share lines with the starter's own code
                add([line], f"a line of {path.name}", whole=False)
    # hints are shown to students: they are part of the recorded answers
    hints = _bare(" ".join(m.text for m in problem_set.mistakes).encode())
    return {needle: what for needle, what in needles.items() if needle.strip(b'",') not in hints}


def _unfolded(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and whatever is folded up in them: JSON strings, base64, compressed streams, archives."""
    yield data
    if depth >= MAX_NESTING:
        return
    inner: list[bytes] = []
    start = data.lstrip()[:1]
    if start in (b"{", b"[", b'"'):
        try:
            texts = list(_strings(json.loads(data)))
            inner += [text.encode("utf-8", "replace") for text in texts]
        except (ValueError, RecursionError):
            pass
    if data[:4] == b"PK\x03\x04" and depth:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                inner += [packed.read(info) for info in packed.infolist()]
        except (zipfile.BadZipFile, OSError, EOFError, zlib.error):
            pass
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            inner += [packed.read(info) for info in packed.infolist()]
    for mode in (31, 15):
        head = b"\x1f\x8b" if mode == 31 else b"\x78"
        for position in _positions(data, head):
            try:
                inner.append(zlib.decompressobj(mode).decompress(data[position:], 8 << 20))
            except zlib.error:
                continue
    bare = _bare(data)
    runs = set(BASE64.findall(data)) if len(data) < 4 << 20 else set()
    runs |= {bare} if BASE64.fullmatch(bare) else set()  # broken into lines, as pictures in notebooks are
    for run in runs:
        text = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        for shift in range(4):  # what stands before it may be of the same letters
            cut = text[shift:]
            with contextlib.suppress(binascii.Error, ValueError):
                inner.append(base64.b64decode(cut + b"=" * (-len(cut) % 4) if len(cut) % 4 != 1 else cut[:-1]))
    for piece in set(inner):
        if len(piece) >= MIN_BLOCK:
            yield from _unfolded(piece, depth + 1)


def _positions(data: bytes, head: bytes) -> Iterator[int]:
    """Where a compressed stream may begin: at the start, or (text chunks of pictures) after a zero byte."""
    if data.startswith(head):
        yield 0
    position = data.find(b"\0\0" + head)
    for _ in range(50):
        if position < 0:
            return
        yield position + 2
        position = data.find(b"\0\0" + head, position + 1)


def _strings(value: Any) -> Iterator[str]:
    """All strings in parsed JSON; lists of strings, as notebooks hold their text, joined as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if value and all(isinstance(v, str) for v in value):
            yield "".join(value)
        for v in value:
            yield from _strings(v)
    elif isinstance(value, dict):
        for key, v in value.items():
            yield str(key)
            yield from _strings(v)


__all__ = ["WRITE_HERE", "Built", "build", "leaks", "out_of_step", "pack", "record", "release"]
