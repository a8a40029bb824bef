"""Reads a submission (.ipynb, .py, a .zip or a folder that holds one) into cells, whatever it holds.

The file is hostile until proven otherwise: sizes are capped before anything is parsed, archives are never unpacked to
disk, links and odd names are refused, and student code is only cut into cells here, never parsed or run. What makes
reading impossible is one GraderError; what only costs a cell is one line in `problems`.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import GraderError

MAX_FILE = 32 << 20  # bytes of the file handed in, and of the notebook inside of an archive
MAX_UNPACKED = 256 << 20  # bytes that an archive says it holds
MAX_RATIO = 200  # unpacked to packed; text packs 10 times, a bomb 1,000 times
MAX_ENTRIES = 1000
MAX_DIRECTORY = 1 << 20  # bytes of an archive's directory, parsed before its entries can be counted
MAX_NODES = 500_000  # lists and dicts in a notebook: each costs about 60 bytes of memory for 2 bytes of file
MAX_ITEMS = 4_000_000
MAX_CELLS = 2000
MAX_CELL = 200_000  # characters
MAX_SOURCE = 2_000_000  # characters of all code cells

PLACEHOLDER = "*Write your answer here.*"
STUB = re.compile(r"raise NotImplementedError\([\"'][\w.-]+: [\w., -]+[\"']\)")
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
WRITTEN_MARK = re.compile(r"<!-- written:([A-Za-z0-9][A-Za-z0-9_.-]{0,30}) -->")
CODE_MAGICS = ("time", "timeit", "capture", "prun", "python", "python3")  # cell magics whose body is Python


@dataclass
class Submission:
    """What was handed in: code cells for the executor, written answers by question, and what went wrong."""

    cells: list[dict[str, Any]] = field(default_factory=list)  # {"source", "whole", "label", "tag"}
    written: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_submission(path: str | Path, questions: Mapping[str, Sequence[str]] | None = None) -> Submission:
    """Cells and written answers of a submission.

    `questions` maps each question to the names that its answer defines: a cell that lost its tag is found by them.
    Errors: GraderError, one line, where the file cannot be read at all.
    """
    path = Path(path)
    name, data = _read_folder(path) if path.is_dir() and not path.is_symlink() else (path.name, _read_file(path))
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".zip" or (suffix not in (".ipynb", ".py") and data[:4] == b"PK\x03\x04"):
        name, data = _read_zip(data, name)
        suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".ipynb", ".py"):
        raise GraderError(f"{_show(name)}: a submission is an .ipynb, a .py or a .zip file")
    text = _decode(data, name)
    raw, problems = _notebook_cells(text, name) if suffix == ".ipynb" else _script_cells(text)
    return _assemble(raw, problems, questions or {})


# From bytes to text


def _show(name: object) -> str:
    """A name from a hostile file, safe to print in one line."""
    text = "".join(c if c.isprintable() else "?" for c in str(name))
    return text if len(text) <= 80 else text[:77] + "..."


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file that is no link and no larger than the cap."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise GraderError(f"{_show(path.name)}: is a link; hand in the file itself")
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise GraderError(f"{_show(path)}: no such file") from None
    except OSError as error:
        raise GraderError(f"{_show(path.name)}: cannot be read ({error.strerror})") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GraderError(f"{_show(path.name)}: is not a regular file")
        data = file.read(MAX_FILE + 1) if status.st_size <= MAX_FILE else b""
    if status.st_size > MAX_FILE or len(data) > MAX_FILE:
        size = max(status.st_size, len(data)) / (1 << 20)
        raise GraderError(
            f"{_show(path.name)}: {size:.0f} MB, more than the {MAX_FILE >> 20} MB that a submission may have; "
            "clear the notebook's outputs"
        )
    if not data.strip():
        raise GraderError(f"{_show(path.name)}: the file is empty")
    return data


def _read_folder(path: Path) -> tuple[str, bytes]:
    """The one submission file of a folder, at its top."""
    names = []
    with os.scandir(path) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_ENTRIES:
                raise GraderError(f"{_show(path.name)}: more than {MAX_ENTRIES} files")
            if entry.is_file(follow_symlinks=False):
                names.append(entry.name)
    name = _choose(names, path.name, (".ipynb", ".zip", ".py"))
    return name, _read_file(path / name)


def _choose(names: Sequence[str], where: str, suffixes: Sequence[str]) -> str:
    """The file to grade: the first kind of which there is any, and the one nearest the top."""
    for suffix in suffixes:
        found = [n for n in names if n.lower().endswith(suffix) and not _hidden(n)]
        if not found:
            continue
        top = min(n.count("/") for n in found)
        found = sorted(n for n in found if n.count("/") == top)
        if len(found) > 1:
            shown = ", ".join(_show(n) for n in found[:4])
            raise GraderError(f"{_show(where)}: holds {len(found)} {suffix} files ({shown}); hand in one")
        return found[0]
    raise GraderError(f"{_show(where)}: holds no .ipynb and no .py file")


def _hidden(name: str) -> bool:
    """Files that systems leave in folders and archives."""
    return any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in name.split("/")) or bool(
        re.fullmatch(r"(.*/)?\w+_checks/.*", name)
    )


def _read_zip(data: bytes, where: str) -> tuple[str, bytes]:
    """The submission inside of an archive, read in memory, nothing unpacked to disk."""
    _check_directory(data, where)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_entries(infos, where)
            name = _choose([i.filename for i in infos if not i.is_dir()], where, (".ipynb", ".py"))
            with archive.open(name) as file:
                content = file.read(MAX_FILE + 1)
    except GraderError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds on damaged or crafted archives
        raise GraderError(
            f"{_show(where)}: is no readable zip archive ({_show(error) or type(error).__name__})"
        ) from None
    if len(content) > MAX_FILE:
        raise GraderError(f"{_show(where)}: {_show(name)} holds more than {MAX_FILE >> 20} MB")
    if not content.strip():
        raise GraderError(f"{_show(where)}: {_show(name)} is empty")
    return name, content


def _check_directory(data: bytes, where: str) -> None:
    """Caps on an archive's directory before it is parsed."""
    position = len(data) - 22
    if not (data[position : position + 4] == b"PK\x05\x06" and data[-2:] == b"\0\0"):
        position = data.rfind(b"PK\x05\x06", max(0, len(data) - 22 - (1 << 16)))
        if position < 0:
            raise GraderError(f"{_show(where)}: is no zip archive, or is cut short")
    end = data[position : position + 22]
    count, size = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if data[max(0, position - 20) : position].startswith(b"PK\x06\x07") or size > MAX_DIRECTORY or count > MAX_ENTRIES:
        raise GraderError(f"{_show(where)}: the archive holds more than {MAX_ENTRIES} files")


def _check_entries(infos: Sequence[zipfile.ZipInfo], where: str) -> None:
    if len(infos) > MAX_ENTRIES:
        raise GraderError(f"{_show(where)}: the archive holds more than {MAX_ENTRIES} files")
    seen: set[str] = set()
    total = 0
    for info in infos:
        name = info.filename
        parts = name.split("/")
        if name.startswith("/") or "\\" in info.orig_filename or ".." in parts or re.match(r"[A-Za-z]:", name):
            raise GraderError(f"{_show(where)}: {_show(name)} points outside of the archive")
        if "\0" in info.orig_filename or not name.isprintable():
            raise GraderError(f"{_show(where)}: a file name holds control characters")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise GraderError(f"{_show(where)}: {_show(name)} is a link or a device")
        if name in seen:
            raise GraderError(f"{_show(where)}: {_show(name)} is in the archive twice")
        if info.flag_bits & 0x1:
            raise GraderError(f"{_show(where)}: the archive is encrypted")
        if info.file_size > (1 << 20) and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise GraderError(f"{_show(where)}: {_show(name)} unpacks to {MAX_RATIO} times its size or more")
        seen.add(name)
        total += info.file_size
    if total > MAX_UNPACKED:
        raise GraderError(f"{_show(where)}: the archive unpacks to more than {MAX_UNPACKED >> 20} MB")


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraderError(f"{_show(name)}: is not UTF-8 text (byte {error.start:,})") from None


# From text to raw cells: (kind, source, tags, id)

RawCell = tuple[str, str, list[str], str]


def _notebook_cells(text: str, name: str) -> tuple[list[RawCell], list[str]]:
    name = _show(name)
    if text.count("[") + text.count("{") > MAX_NODES or text.count(",") > MAX_ITEMS:
        raise GraderError(f"{name}: holds too many values for a notebook; clear its outputs")
    try:
        notebook = json.loads(text)
    except RecursionError:
        raise GraderError(f"{name}: is nested too deeply for a notebook") from None
    except (ValueError, MemoryError):
        raise GraderError(f"{name}: is no notebook (its JSON is damaged or cut short)") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        old = isinstance(notebook, dict) and "worksheets" in notebook
        why = "is of an old notebook format: open and save it in Jupyter" if old else "is JSON, but no notebook"
        raise GraderError(f"{name}: {why}")
    cells = notebook["cells"]
    if len(cells) > MAX_CELLS:
        raise GraderError(f"{name}: {len(cells):,} cells, more than the {MAX_CELLS:,} that a notebook may have")
    raw: list[RawCell] = []
    problems = []
    for number, cell in enumerate(cells, 1):
        source = cell.get("source", "") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            problems.append(f"cell {number} is malformed and was left out")
            raw.append(("none", "", [], ""))
            continue
        metadata = cell.get("metadata")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        tags = [t for t in tags if isinstance(t, str)][:20] if isinstance(tags, list) else []
        identifier = cell.get("id")
        if not isinstance(identifier, str) and isinstance(metadata, dict):
            identifier = metadata.get("id")  # where Colab keeps it
        kind = cell.get("cell_type")
        raw.append(
            (
                kind if kind in ("code", "markdown") else "none",
                source,
                tags,
                identifier if isinstance(identifier, str) else "",
            )
        )
    return raw, problems


HEADER = re.compile(r"^# ?%%(?!%)(.*)$")
TAGS = re.compile(r"tags=(\[[^\]]*\])")


def _script_cells(text: str) -> tuple[list[RawCell], list[str]]:
    """Cells of a .py file: by its `# %%` marks, or one cell where it has none."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    raw: list[RawCell] = []
    kind = "code"
    tags: list[str] = []
    lines: list[str] = []

    def finish() -> None:
        if kind == "markdown":
            body = [line[2:] if line.startswith("# ") else line.lstrip("#") for line in lines]
        else:
            body = lines
        source = "\n".join(body).strip("\n")
        if source:
            raw.append((kind, source, tags, ""))

    for line in text.split("\n"):
        match = HEADER.match(line)
        if match is None:
            lines.append(line)
            continue
        finish()
        kind = "markdown" if re.search(r"\[(markdown|md)\]", match[1]) else "none" if "[raw]" in match[1] else "code"
        tags, lines = [], []
        found = TAGS.search(match[1])
        if found:
            tags = re.findall(r"[\"']([^\"']{1,60})[\"']", found[1])
    finish()
    if len(raw) > MAX_CELLS:
        raise GraderError(f"{len(raw):,} cells, more than the {MAX_CELLS:,} that a submission may have")
    return raw, []


# From raw cells to what the executor runs


def _tagged(tags: Sequence[str], prefix: str) -> str:
    """The question of a tag such as `answer:2c`, or ""."""
    for tag in tags:
        if tag.startswith(prefix) and IDENTIFIER.fullmatch(tag[len(prefix) :]):
            return tag[len(prefix) :]
    return ""


def _assemble(raw: list[RawCell], problems: list[str], questions: Mapping[str, Sequence[str]]) -> Submission:
    submission = Submission(problems=problems)
    total = 0
    defined_by = {name: question for question, names in questions.items() for name in names}
    plain = len(raw) == 1  # a script without marks: it may hold training code, so only its definitions run
    for number, (kind, source, tags, identifier) in enumerate(raw, 1):
        if len(source) > MAX_CELL:
            problems.append(f"cell {number} holds more than {MAX_CELL:,} characters and was left out")
            continue
        source = source.encode("utf-8", "replace").decode().replace("\0", "�")
        if kind == "markdown":
            question = _tagged(tags, "written:") or next(iter(WRITTEN_MARK.findall(source)), "")
            if not question and identifier.startswith("written-"):
                question = identifier[len("written-") :][:30]
            answer = strip_placeholder(source)
            if question and (answer or question not in submission.written):
                submission.written[question] = answer
            continue
        if kind != "code":
            continue
        total += len(source)
        if total > MAX_SOURCE:
            problems.append(
                f"more than {MAX_SOURCE:,} characters of code: cell {number} and those after it were left out"
            )
            break
        question = _tagged(tags, "answer:")
        if not question and identifier.startswith("answer-"):
            question = _known(identifier[len("answer-") :], questions)
        source, lost = strip_magics(source)
        if lost and question:
            problems.append(f"cell {number} ({question}) is not Python ({lost}) and was left out")
        if not question and not plain:
            question = next((defined_by[n] for n in defined_names(source) if n in defined_by), "")
        if source.strip():
            submission.cells.append(
                {
                    "source": source,
                    "whole": bool(question),
                    "label": f"{number} ({question})" if question else str(number),
                    "tag": f"answer:{question}" if question else "",
                }
            )
    submission.cells = without_stubs(submission.cells)
    if not submission.cells and not problems:
        problems.append("the submission holds no code")
    return submission


def _known(identifier: str, questions: Mapping[str, Sequence[str]]) -> str:
    """The question of a cell's id such as answer-2c or answer-2c-2."""
    for question in (identifier, identifier.rpartition("-")[0]):
        if question in questions:
            return question
    return ""


def strip_placeholder(source: str) -> str:
    """A written answer without the starter's placeholder and its mark; "" where nothing was written."""
    return WRITTEN_MARK.sub("", source).replace(PLACEHOLDER, "").strip()


def defined_names(source: str) -> list[str]:
    """Names that a cell binds at its top level, by looking at the starts of lines; the code is not parsed."""
    return _bound(source) + re.findall(r"^([A-Za-z_]\w{0,100})[ ]*(?::[^=\n]{0,200})?=(?!=)", source, re.M)


def without_stubs(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells without a copy of the starter's stub that would override an answer that was filled in."""
    fewest: dict[str, int] = {}
    stubs = []
    for cell in cells:
        stubs.append(len(STUB.findall(cell["source"])))
        for name in _bound(cell["source"]):
            fewest[name] = min(fewest.get(name, stubs[-1]), stubs[-1])
    kept = []
    for cell, count in zip(cells, stubs, strict=True):
        names = _bound(cell["source"])
        if not (count and names and all(fewest[name] < count for name in names)):
            kept.append(cell)
    return kept


def _bound(source: str) -> list[str]:
    return re.findall(r"^(?:async[ ]+)?(?:def|class)[ ]+([A-Za-z_]\w{0,100})", source, re.M)


def strip_magics(source: str) -> tuple[str, str]:
    """Code without magics and shell lines, each line kept in its place; and the cell magic of another language.

    A line counts as magic only where a statement can start: not inside of brackets or of a string of several lines.
    """
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    cell_magic = re.match(r"%%(\w+)", lines[first]) if lines else None
    if cell_magic:
        if cell_magic[1] not in CODE_MAGICS:
            return "", f"%%{cell_magic[1]}"
        lines[first] = "pass"
    state = _Scanner()
    for i, line in enumerate(lines):
        if state.at_statement():
            bare = line.lstrip()
            indent = line[: len(line) - len(bare)]
            if re.match(r"(%\w|!|\?+\w)", bare) or re.match(r"[\w.]+\?{1,2}\s*$", bare):
                lines[i] = indent + "pass"
                continue
            assigned = re.match(r"([A-Za-z_][\w ,]*)=\s*(%\w|!)", bare)
            if assigned:
                lines[i] = f"{indent}pass"
                continue
        state.feed(line)
    return "\n".join(lines), ""


class _Scanner:
    """Follows brackets and strings from line to line, no more."""

    def __init__(self) -> None:
        self.depth, self.quote, self.continued = 0, "", False

    def at_statement(self) -> bool:
        return self.depth == 0 and not self.quote and not self.continued

    def feed(self, line: str) -> None:
        i = 0
        self.continued = False
        while i < len(line):
            c = line[i]
            if self.quote:
                if c == "\\":
                    i += 2
                    continue
                if line.startswith(self.quote, i):
                    i += len(self.quote)
                    self.quote = ""
                    continue
            elif c in "\"'":
                self.quote = c * 3 if line.startswith(c * 3, i) else c
                i += len(self.quote)
                continue
            elif c == "#":
                break
            elif c in "([{":
                self.depth += 1
            elif c in ")]}":
                self.depth = max(0, self.depth - 1)
            elif c == "\\" and i == len(line) - 1:
                self.continued = True
            i += 1
        if len(self.quote) == 1 and not line.endswith("\\"):
            self.quote = ""  # a string of one line ends with it; what is left open is the executor's to report
