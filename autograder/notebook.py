"""The student's side: `check("2b")` runs a question's public checks, `submit()` writes the zip to hand in.

Copied into every student zip beside the few modules that it imports; it needs torch and numpy, no network and nothing
else of the autograder. The reference is not there: its answers at the public inputs were recorded when the zip was
built. Nothing here is secret and nothing that is decided here counts for the grade.
"""

from __future__ import annotations

import difflib
import html
import importlib
import json
import math
import os
import sys
import traceback
import types
import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .checks import AnswerError, Compared, Draw, Question, Run, questions_of, run_question
from .diagnosis import likeness, unwritten
from .errors import GraderError
from .proxies import Reference, Student
from .submission import MAX_FILE, STUB, Submission, defined_names, read_submission
from .values import decode, encode

PUBLIC = "Public checks at a few fixed inputs. The grade comes from the same checks at other inputs."


# What was recorded when the zip was built


def fingerprint(request: dict[str, Any]) -> tuple[str, list[float]]:
    """What identifies a request up to rounding: its structure, and a few sums of its numbers; the seed is left out.

    Inputs that a check computes may differ in their last bits from machine to machine, so no digest of them will do.
    """
    header, buffers = encode({key: value for key, value in request.items() if key != "seed"})
    sums: list[float] = []

    def walk(h: Any) -> Any:
        if not isinstance(h, dict):
            return h
        ((tag, body),) = h.items()
        if tag == "f":
            sums.append(decode(h, []))
            return {"f": None}
        if tag == "a":
            array = decode({"a": [*body[:2], 0]}, [buffers[body[2]]])
            flat = array.reshape(-1)
            flat = np.concatenate([flat.real, flat.imag]) if flat.dtype.kind == "c" else flat.astype(np.float64)
            flat = np.nan_to_num(flat, nan=0.5, posinf=1e300, neginf=-1e300)
            scale = float(np.abs(flat).max()) if flat.size else 0.0
            unit = flat / scale if scale > 0 else flat
            sums.extend([scale, float(unit.sum()), float(unit @ np.cos(np.arange(flat.size)))])
            return {"a": body[:2]}
        if tag == "d":
            return {"d": [[key, walk(value)] for key, value in body]}
        return {tag: [walk(item) for item in body]}

    return json.dumps(walk(header), separators=(",", ":")), sums


def near(a: list[float], b: list[float]) -> bool:
    """Whether two lists of sums are those of the same numbers, up to rounding."""
    return len(a) == len(b) and all(
        x == y or (math.isnan(x) and math.isnan(y)) or abs(x - y) <= 1e-7 * (1e-3 + abs(x))
        for x, y in zip(a, b, strict=True)
    )


@dataclass
class Answer:
    """One answer of the reference, and the request that it answers."""

    structure: str
    sums: list[float]
    seed: int
    value: Any


class Replay(Reference):
    """The reference from its recorded answers alone."""

    def __init__(self, answers: list[Answer], seed: int) -> None:
        super().__init__({}, None, seed)
        self._answers = answers

    def _answer(self, request: dict[str, Any]) -> Any:
        structure, sums = fingerprint(request)
        found = [a for a in self._answers if a.structure == structure and near(a.sums, sums)]
        if not found:
            raise AnswerError("this can only be checked here once what stands above it passes")
        return next((a for a in found if a.seed == request["seed"]), found[0]).value


@dataclass
class Recorded:
    """What a student zip knows of its problem set."""

    name: str
    title: str
    release: str
    seeds: dict[str, list[int]]
    answers: dict[str, list[Answer]]
    mistakes: dict[str, list[dict[str, Any]]]  # {"hint", "seed", "values": {key: (value, alike)}}
    written: dict[str, str]  # written questions and their titles


def write_recorded(recorded: Recorded) -> tuple[bytes, bytes]:
    """The two files of a recording: JSON, and the arrays' bytes in numpy's own format."""
    buffers: list[bytes] = []

    def put(value: Any) -> Any:
        header, own = encode(value)
        start = len(buffers)
        buffers.extend(own)
        return [header, start, len(own)]

    questions = {
        q: {
            "seeds": recorded.seeds[q],
            "reference": [[a.structure, put(a.sums), a.seed, put(a.value)] for a in recorded.answers[q]],
            "mistakes": [
                {
                    "hint": m["hint"],
                    "seed": m["seed"],
                    "values": {key: [put(value), alike] for key, (value, alike) in m["values"].items()},
                }
                for m in recorded.mistakes[q]
            ],
        }
        for q in recorded.seeds
    }
    top = {"name": recorded.name, "title": recorded.title, "release": recorded.release, "written": recorded.written}
    ends = np.cumsum([len(b) for b in buffers], dtype=np.int64)
    arrays: dict[str, np.ndarray] = {"bytes": np.frombuffer(b"".join(buffers), np.uint8), "ends": ends}
    text = json.dumps({**top, "questions": questions}, indent=0, ensure_ascii=False) + "\n"
    return text.encode(), _npz(arrays)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """numpy's npz with fixed dates: the same arrays give the same bytes."""
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in sorted(arrays.items()):
            one = io.BytesIO()
            np.lib.format.write_array(one, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def read_recorded(folder: Path) -> Recorded:
    """The recording in a checks folder."""
    top = json.loads((folder / "recorded.json").read_text(encoding="utf-8"))
    with np.load(folder / "recorded.npz", allow_pickle=False) as stored:
        flat, ends = stored["bytes"].tobytes(), stored["ends"].tolist()
    buffers = [flat[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def get(entry: Any) -> Any:
        header, start, count = entry
        return decode(header, buffers[start : start + count])

    answers, mistakes = {}, {}
    for q, entry in top["questions"].items():
        answers[q] = [Answer(s, get(sums), seed, get(value)) for s, sums, seed, value in entry["reference"]]
        mistakes[q] = [
            {**m, "values": {key: (get(value), alike) for key, (value, alike) in m["values"].items()}}
            for m in entry["mistakes"]
        ]
    return Recorded(
        top["name"],
        top["title"],
        top["release"],
        {q: entry["seeds"] for q, entry in top["questions"].items()},
        answers,
        mistakes,
        top["written"],
    )


@lru_cache(maxsize=1)
def _loaded() -> tuple[Recorded, dict[str, Question]]:
    module = importlib.import_module(".questions", __package__)
    return read_recorded(Path(__file__).parent), questions_of(vars(module))


# check("2b")


@dataclass
class Report:
    """What the student reads: a heading, and a mark and lines for each part."""

    heading: str
    good: bool = False
    rows: list[tuple[bool, str, list[str]]] = field(default_factory=list)  # passed, label, lines
    footer: str = ""

    def text(self) -> str:
        """Plain text for a terminal."""
        lines = [self.heading]
        for passed, label, more in self.rows:
            lines.append(f"  [{'ok' if passed else '--'}] {label}" if label else f"  [{'ok' if passed else '--'}]")
            lines.extend(f"       {line}" for line in more)
        return "\n".join([*lines, *([self.footer] if self.footer else [])])

    def html(self) -> str:
        """The same for a notebook; colours that can be read on white and on black."""
        colour = "#2a9d55" if self.good else "#d1495b"
        out = [
            f'<div style="border-left: 4px solid {colour}; padding: 2px 12px; margin: 4px 0; line-height: 1.45">',
            f"<b>{html.escape(self.heading)}</b>",
        ]
        for passed, label, more in self.rows:
            mark = '<span style="color:#2a9d55">✓</span>' if passed else '<span style="color:#d1495b">✗</span>'
            out.append(f"<div>{mark} {html.escape(label)}</div>")
            out.extend(f'<div style="margin-left: 1.6em">{html.escape(line)}</div>' for line in more)
        if self.footer:
            out.append(f'<div style="opacity: 0.65; font-size: 90%">{html.escape(self.footer)}</div>')
        return "\n".join([*out, "</div>"])


def _ipython() -> Any:
    """The running IPython shell, or None; never imports it."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None


def _show(report: Report) -> None:
    if _ipython() is not None and hasattr(_ipython(), "kernel"):
        display = importlib.import_module("IPython.display").display
        display({"text/html": report.html(), "text/plain": report.text()}, raw=True)
    else:
        print(report.text())


def check(question: str | None = None) -> None:
    """Run the public checks of a question, such as check("2b"), on what is defined in the notebook now."""
    namespace = sys._getframe(1).f_globals
    recorded, questions = _loaded()
    if question is None:
        _show(Report(f"Which question? check({next(iter(questions))!r}); there are: {', '.join(questions)}"))
    elif str(question) not in questions:
        close = difflib.get_close_matches(str(question).lower(), questions, n=1, cutoff=0.6)
        hint = f"did you mean check({close[0]!r})?" if close else f"there are: {', '.join(questions)}"
        _show(Report(f"There is no check for question {question!r}; {hint}"))
    else:
        _show(_checked(questions[str(question)], recorded, namespace))


def _checked(q: Question, recorded: Recorded, namespace: dict[str, Any]) -> Report:
    head = f"{q.id}. {q.title}"
    missing = [name for name in q.names if name not in namespace]
    if missing:
        names = " and ".join(missing)
        verb = "are" if len(missing) > 1 else "is"
        return Report(f"{head}: {names} {verb} not defined yet. Run the cell where you write {q.id}, then this one.")
    missing_device = object()
    device = namespace.get("device", missing_device)
    runs = []
    try:
        if device is not missing_device:  # the inputs are on the CPU: what is moved to `device` must meet them there
            namespace["device"] = "cpu"
        for seed in recorded.seeds[q.id]:
            student, reference = Student(_backend(namespace), seed), Replay(recorded.answers[q.id], seed)
            runs.append(run_question(q, student, reference, Draw(seed)))
    except KeyboardInterrupt:
        return Report(f"{head}: interrupted before the check was through.")
    except Exception as error:  # what the answer returned does not even fit into the check
        line = f"what {' and '.join(q.names)} returned cannot be checked: has it the form that the question asks for?"
        return Report(f"{head}: 0 of {q.points:g} points", rows=[(False, line, [f"{type(error).__name__}: {error}"])])
    finally:
        if device is not missing_device:
            namespace["device"] = device
    return _report(q, head, runs, recorded)


def _report(q: Question, head: str, runs: list[Run], recorded: Recorded) -> Report:
    report = Report(head, footer=PUBLIC)
    points = 0.0
    for i, first in enumerate(runs[0].parts):
        same = [run.parts[i] for run in runs if i < len(run.parts)]
        worst = min(same, key=lambda p: p.points)
        points += worst.points
        passed = all(p.passed and p.points >= p.possible for p in same)
        label = first.label or ("all of it" if len(runs[0].parts) == 1 else "the rest")
        label += f" ({worst.points:g} of {first.possible:g})" if first.possible else ""
        report.rows.append((passed, label, list(dict.fromkeys(line for p in same for line in p.lines))[:4]))
    report.good = all(passed for passed, _, _ in report.rows)
    hint = "" if report.good else _hint(q, runs, recorded)
    if hint:
        report.rows.insert(0, (False, hint, []))
    verdict = "public checks passed" if report.good else "public checks"
    report.heading = f"{head}: {verdict}, {points:g} of {q.points:g} points"
    return report


def _hint(q: Question, runs: list[Run], recorded: Recorded) -> str:
    """The hint of the mistake that gives, at the same inputs, what the student gave; as the grader finds it."""
    best, hint = 0.0, ""
    for run, seed in zip(runs, recorded.seeds[q.id], strict=True):
        if any(not c.passed and isinstance(c.value, str) and unwritten(c.value) for c in run.compared):
            return ""
        for mistake in recorded.mistakes[q.id]:
            if mistake["seed"] == seed:
                trace = [Compared(key, value, False, alike) for key, (value, alike) in mistake["values"].items()]
                score = likeness(run.compared, trace)
                if score > best:
                    best, hint = score, str(mistake["hint"])
    return hint


def _backend(namespace: dict[str, Any]) -> Any:
    """Runs requests on the notebook's own definitions; the inputs are copies."""
    executor = importlib.import_module(".executor", __package__)
    torch = importlib.import_module("torch")
    scope = {"torch": torch, "np": np, "math": math, **namespace}

    def run(request: dict[str, Any]) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = executor._evaluate(scope, request, "cpu")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: a check must not end the kernel
            return {"error": {**executor.describe(error), "where": _where(error, namespace)}}
        return reply

    return run


def _where(error: BaseException, namespace: dict[str, Any]) -> str:
    """The line of the student's cell that raised, as the notebook numbers it."""
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals is namespace:
            filename = frame.f_code.co_filename
            label = Path(filename).name
            shell = _ipython()
            if shell is not None and hasattr(shell.compile, "format_code_name"):
                label = " ".join(shell.compile.format_code_name(filename) or (label,))
            summary = traceback.FrameSummary(filename, number, frame.f_code.co_name)
            return f"line {number} of {label}" + (f": {summary.line.strip()[:200]}" if summary.line else "")
    return ""


# submit()


def submit(path: str | Path | None = None, force: bool = False) -> None:
    """Write the zip to hand in, from the notebook as it was saved; `path` where it is not found by itself.

    With `force`, the notebook on disk is taken although cells were run that it does not hold.
    """
    namespace = sys._getframe(1).f_globals
    recorded, questions = _loaded()
    try:
        report = _submit(path, force, namespace, recorded, questions)
    except GraderError as error:
        report = Report(f"NO SUBMISSION WAS WRITTEN: {error}")
    _show(report)


def _submit(
    path: str | Path | None,
    force: bool,
    namespace: dict[str, Any],
    recorded: Recorded,
    questions: dict[str, Question],
) -> Report:
    data = _notebook_bytes(path, namespace, recorded.name)
    try:
        notebook = json.loads(data)
        cells = [cell for cell in notebook["cells"] if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise GraderError("the notebook's file is damaged; save it again") from None
    unsaved = [] if force else _unsaved(cells, questions)
    if unsaved:
        raise GraderError(
            f"what you ran last for {', '.join(unsaved)} is not in the notebook's file. Save the notebook (Ctrl+S or "
            "Cmd+S), then run this cell again; submit(force=True) takes the file as it is"
        )
    notes = []
    if len(data) > MAX_FILE // 2:
        for cell in cells:
            if "outputs" in cell:
                cell["outputs"] = []
        data = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
        notes.append("The outputs were left out: they were too large.")
    document = written_document(notebook, recorded) if recorded.written else b""
    target = Path.cwd() / f"{recorded.name}_submission.zip"
    submission = _write(target, data, document, recorded.name, questions)
    complete, rows = _completeness(submission, recorded, questions)
    size = f"{target.stat().st_size / 1024:,.0f} kB"
    notes += ["Hand it in on Gradescope. Whatever you change from now on is not in it: run this cell again."]
    if "google.colab" in sys.modules:
        importlib.import_module("google.colab.files").download(str(target))
    heading = f"{target.name} is written and was read back ({size})"
    heading += "." if complete else ", BUT IT IS NOT COMPLETE."
    return Report(heading, complete, rows, " ".join(notes))


def _notebook_bytes(path: str | Path | None, namespace: dict[str, Any], name: str) -> bytes:
    """The notebook's file, wherever it runs; on Colab, what the browser holds."""
    if path is None and "google.colab" in sys.modules:
        try:
            message = importlib.import_module("google.colab._message")
            answer = message.blocking_request("get_ipynb", request="", timeout_sec=60)
            return json.dumps(answer["ipynb"], ensure_ascii=False).encode("utf-8", "replace")
        except Exception:  # it answers with None, an error or too late
            raise GraderError(
                "Colab did not hand the notebook over. Run this cell again; if that is of no use, File → Download it, "
                'drag it into the Files panel and run submit("NAME.ipynb")'
            ) from None
    found = Path(path) if path is not None else _notebook_path(namespace, name)
    if found is None:
        raise GraderError('the notebook\'s file was not found; say its name: submit("NAME.ipynb")')
    if not found.is_file():
        raise GraderError(f"there is no file {found}; the notebooks here: {_notebooks_here() or 'none'}")
    return found.read_bytes()


def _notebooks_here() -> str:
    return ", ".join(sorted(p.name for p in Path.cwd().glob("*.ipynb")))


def _notebook_path(namespace: dict[str, Any], name: str) -> Path | None:
    """The running notebook's path: from the editor or server where it says so, else the one that fits in the folder."""
    session = os.environ.get("JPY_SESSION_NAME", "")
    for told in (namespace.get("__vsc_ipynb_file__"), session):
        if isinstance(told, str) and told.endswith(".ipynb"):
            for candidate in (Path(told), Path.cwd() / Path(told).name):
                if candidate.is_file():
                    return candidate
    if (Path.cwd() / f"{name}.ipynb").is_file():
        return Path.cwd() / f"{name}.ipynb"
    here = list(Path.cwd().glob("*.ipynb"))
    return here[0] if len(here) == 1 else None


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _plain(source: str) -> str:
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


def _unsaved(cells: list[dict[str, Any]], questions: dict[str, Question]) -> list[str]:
    """Questions whose answer, as it was run last, is not in the file: it was not saved since."""
    if "google.colab" in sys.modules or _ipython() is None:
        return []
    history = [_plain(source) for source in _ipython().history_manager.input_hist_raw]
    on_disk = {_plain(_source(cell)) for cell in cells}
    unsaved = []
    for q in questions.values():
        ran = next((source for source in reversed(history) if set(q.names) & set(defined_names(source))), None)
        if ran is not None and ran not in on_disk:
            unsaved.append(q.id)
    return unsaved


def _completeness(
    submission: Submission, recorded: Recorded, questions: dict[str, Question]
) -> tuple[bool, list[tuple[bool, str, list[str]]]]:
    """Whether everything was answered, and by name what was not."""
    sources: dict[str, list[str]] = {}
    for cell in submission.cells:
        sources.setdefault(cell["tag"].removeprefix("answer:"), []).append(cell["source"])
    absent, unfilled = [], []
    for q in questions.values():
        own = sources.get(q.id, [])
        if not own:
            absent.append(f"{q.id} ({q.title})")
        elif any(STUB.search(source) for source in own):
            unfilled.append(f"{q.id} ({q.title})")
    empty = [f"{id} ({title})" for id, title in recorded.written.items() if not submission.written.get(id)]
    answered = len(questions) - len(absent) - len(unfilled)
    rows = [
        (not absent and not unfilled, f"{answered} of {len(questions)} coded answers", _named(absent, unfilled)),
    ]
    if recorded.written:
        filled = len(recorded.written) - len(empty)
        lines = [f"nothing written: {', '.join(empty)}"] if empty else []
        rows.append((not empty, f"{filled} of {len(recorded.written)} written answers", lines))
    rows += [(False, line, []) for line in submission.problems]
    return all(passed for passed, _, _ in rows), rows


def _named(absent: list[str], unfilled: list[str]) -> list[str]:
    lines = [f"still as it was handed out: {', '.join(unfilled)}"] if unfilled else []
    return lines + ([f"its cell is gone: {', '.join(absent)}"] if absent else [])


def _write(target: Path, data: bytes, document: bytes, name: str, questions: dict[str, Question]) -> Submission:
    """Write the zip beside its final name, read it back as the grader will, and only then put it in place."""
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.ipynb", data)
            if document:
                archive.writestr("written_answers.html", document)
        with zipfile.ZipFile(part) as archive:
            if archive.read(f"{name}.ipynb") != data or (document and archive.read("written_answers.html") != document):
                raise GraderError("the zip does not hold what was put into it; is the disk full?")
        submission = read_submission(part, {q.id: q.names for q in questions.values()})
        os.replace(part, target)
    except OSError as error:
        raise GraderError(f"{target} cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)
    return submission


# The written answers as a page


def written_document(notebook: dict[str, Any], recorded: Recorded) -> bytes:
    """The written questions and answers as one HTML page: by nbconvert where it is installed, else a plain one.

    Errors: GraderError where no page comes out, or where an answer is missing from it.
    """
    wanted: list[dict[str, Any]] = [_markdown(f"# {recorded.title}: written answers")]
    texts = []
    previous: dict[str, Any] | None = None
    for cell in notebook["cells"]:
        if not isinstance(cell, dict) or cell.get("cell_type") != "markdown":
            continue
        tags = cell.get("metadata", {}).get("tags", []) if isinstance(cell.get("metadata"), dict) else []
        if any(isinstance(t, str) and t.startswith("written:") for t in tags) or "<!-- written:" in _source(cell):
            if previous is not None:
                wanted.append(previous)
            wanted.append(cell)
            texts.append(_source(cell))
        previous = cell
    try:
        page = _by_nbconvert(wanted) or _own_page(wanted)
    except Exception as error:
        raise GraderError(f"the page of written answers could not be made ({type(error).__name__}: {error})") from None
    if len(page) < sum(map(len, texts)) // 2:
        raise GraderError("the page of written answers came out incomplete")
    return page.encode("utf-8", "replace")


def _markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _by_nbconvert(cells: list[dict[str, Any]]) -> str:
    try:
        nbformat: types.ModuleType = importlib.import_module("nbformat")
        exporter = importlib.import_module("nbconvert").HTMLExporter(sanitize_html=True)
    except Exception:  # not installed, or installed and broken: the plain page does
        return ""
    kept = [
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": _source(c),
            "id": f"c{i}",
            "attachments": c.get("attachments", {}),
        }
        for i, c in enumerate(cells)
    ]
    try:
        node = nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": kept})
        return str(exporter.from_notebook_node(node)[0])
    except Exception:
        return ""


def _own_page(cells: list[dict[str, Any]]) -> str:
    """The cells' Markdown, escaped, as it was typed, with pasted pictures below it."""
    parts = []
    for cell in cells:
        parts.append(f"<pre>{html.escape(_source(cell))}</pre>")
        attachments = cell.get("attachments")
        for bundle in attachments.values() if isinstance(attachments, dict) else []:
            for kind, content in bundle.items() if isinstance(bundle, dict) else []:
                if str(kind) in ("image/png", "image/jpeg"):
                    text = "".join(content) if isinstance(content, list) else str(content)
                    parts.append(f'<img style="max-width: 100%" src="data:{kind};base64,{html.escape(text)}">')
    style = "body{max-width:50em;margin:2em auto}pre{white-space:pre-wrap;font:inherit;border-top:1px solid #ccc}"
    head = f'<!doctype html><meta charset="utf-8"><title>Written answers</title><style>{style}</style>'
    return "\n".join([head, *parts, ""])
