"""Reading submissions: what students hand in by accident, and what they hand in on purpose."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from autograder import submission as module
from autograder.errors import GraderError
from autograder.submission import PLACEHOLDER, read_submission, strip_magics

QUESTIONS = {"1a": ["mean"], "1b": ["logsumexp", "softmax"], "2": ["Layer"]}
STUB = 'def mean(x):\n    raise NotImplementedError("1a: mean")'
FILLED = "def mean(x):\n    return x.mean(0)"


def code(source: str, *tags: str, id: str = "") -> dict[str, Any]:
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}, "outputs": []}
    return {**cell, "id": id} if id else cell


def text(source: str, *tags: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {"tags": list(tags)}}


def notebook(*cells: Any) -> str:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)})


@pytest.fixture
def read(tmp_path: Path):
    def run(content: str | bytes, name: str = "ps.ipynb", questions: Any = QUESTIONS):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_submission(path, questions)

    return run


def zipped(entries: list[tuple[Any, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def sources(submission: module.Submission) -> list[str]:
    return [cell["source"] for cell in submission.cells]


# What students do by accident


def test_tagged_cells_run_whole_and_others_do_not(read):
    got = read(notebook(code("import torch"), code(FILLED, "answer:1a"), code("mean(x)"), text("# Title")))
    assert [(c["tag"], c["whole"]) for c in got.cells] == [("", False), ("answer:1a", True), ("", False)]
    assert got.cells[1]["label"] == "2 (1a)"
    assert got.problems == []


def test_lost_tags_are_found_by_id_and_by_name(read):
    by_name = read(notebook(code("def other(x): pass"), code(FILLED), code("softmax: object = len")))
    assert [c["tag"] for c in by_name.cells] == ["", "answer:1a", "answer:1b"]
    by_id = read(notebook(code("table = build()", id="answer-1b-2"), code("x = 1", id="answer-9")))
    assert [(c["tag"], c["whole"]) for c in by_id.cells] == [("answer:1b", True), ("", False)]
    colab = {"cell_type": "code", "source": "table = build()", "metadata": {"id": "answer-1b"}}
    written = {"cell_type": "markdown", "source": "Mine.", "metadata": {"id": "written-1d"}}
    got = read(notebook(colab, written))
    assert [c["tag"] for c in got.cells] == ["answer:1b"]
    assert got.written == {"1d": "Mine."}


def test_calling_an_answer_does_not_make_a_cell_an_answer(read):
    got = read(notebook(code("mean(x)\nmean == 3"), code("print(Layer)"), code("    mean = 3")))
    assert [c["whole"] for c in got.cells] == [False, False, False]


@pytest.mark.parametrize("tags", [("answer:1a",), ()])
@pytest.mark.parametrize("order", [(STUB, FILLED), (FILLED, STUB), (STUB, FILLED, STUB)])
def test_a_stub_does_not_override_a_filled_answer(read, tags, order):
    got = read(notebook(*(code(source, *tags) for source in order)))
    assert sources(got) == [FILLED]


def test_a_stub_alone_stays(read):
    got = read(notebook(code(STUB, "answer:1a"), code(STUB, "answer:1a")))
    assert sources(got) == [STUB, STUB]


def test_a_cell_with_a_stub_and_another_answer_stays(read):
    both = STUB + "\n\ndef helper():\n    return 1"
    assert sources(read(notebook(code(both), code(FILLED)))) == [both, FILLED]


def test_written_answers(read):
    got = read(
        notebook(
            text(f"<!-- written:1d -->\n{PLACEHOLDER}", "written:1d"),
            text("<!-- written:2e -->\nBecause $x$.\n"),
            text("Mine.", "written:3f"),
            text(PLACEHOLDER, "written:3f"),
        )
    )
    assert got.written == {"1d": "", "2e": "Because $x$.", "3f": "Mine."}


def test_python_files(read):
    percent = (
        '# %% [markdown] tags=["written:1d", "points:5"]\n# Because.\n#\n# So.\n\n# %%\nimport math\n\n'
        f'# %% tags=["answer:1a"]\n{FILLED}\n\n# %%\nprint(mean(x))\n'
    )
    got = read(percent, "ps.py")
    assert got.written == {"1d": "Because.\n\nSo."}
    assert [(c["tag"], c["whole"]) for c in got.cells] == [("", False), ("answer:1a", True), ("", False)]
    plain = read(f"import torch\n{FILLED}\nprint(mean(torch.ones(2)))\n", "ps.py")
    assert [c["whole"] for c in plain.cells] == [False]
    windows = read(percent.replace("\n", "\r\n"), "ps.py")
    assert sources(windows) == sources(got)


def test_archives_and_folders(read, tmp_path):
    inner = notebook(code(FILLED, "answer:1a")).encode()
    noise = [("__MACOSX/._ps.ipynb", b"x"), ("ps/.ipynb_checkpoints/ps-checkpoint.ipynb", b"{"), ("ps/data/", b"")]
    assert sources(read(zipped([("ps/ps.ipynb", inner), *noise, ("ps/util.py", b"x = 1")]), "s.zip")) == [FILLED]
    assert sources(read(zipped([("ps1_checks/notebook.py", b"x = 1"), ("a.py", FILLED.encode())]), "s.zip")) == [FILLED]
    assert sources(read(zipped([("ps.ipynb", inner)]), "renamed.bin")) == [FILLED]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ps.ipynb").write_bytes(inner)
    assert sources(read_submission(folder)) == [FILLED]
    with pytest.raises(GraderError, match=r"holds 2 \.ipynb files \(a\.ipynb, b\.ipynb\)"):
        read(zipped([("a.ipynb", inner), ("b.ipynb", inner)]), "s.zip")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("!pip install x\nx = 1", "pass\nx = 1"),
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("if a:\n    !ls\nx = 1", "if a:\n    pass\nx = 1"),
        ("files = !ls\nx = 1", "pass\nx = 1"),
        ("t = %timeit -o f()", "pass"),
        ("mean?", "pass"),
        ("?mean", "pass"),
        ("%%time\nx = 1", "pass\nx = 1"),
        ("x = (a\n     %b)", "x = (a\n     %b)"),
        ("x = a \\\n  %b", "x = a \\\n  %b"),
        ('s = """\n%d items\n!no\n"""\n%who', 's = """\n%d items\n!no\n"""\npass'),
        ("s = '(' # (\n%who", "s = '(' # (\npass"),
        ("s = 'it\\'s'\n%who", "s = 'it\\'s'\npass"),
        ("x = y % z\nx != y", "x = y % z\nx != y"),
    ],
)
def test_magics(source, expected):
    assert strip_magics(source) == (expected, "")


def test_a_cell_of_another_language_is_left_out(read):
    got = read(notebook(code("%%bash\nrm -rf /", "answer:1a"), code("%%html\n<b>"), code(FILLED)))
    assert sources(got) == [FILLED]
    assert got.problems == ["cell 1 (1a) is not Python (%%bash) and was left out"]


def test_an_empty_notebook_is_a_line_not_an_error(read):
    assert read(notebook()).problems == ["the submission holds no code"]


def test_malformed_cells_cost_themselves_only(read):
    got = read(notebook(3, {"cell_type": "code", "source": {"a": 1}}, {"source": [1]}, code(FILLED, "answer:1a")))
    assert sources(got) == [FILLED]
    assert got.problems == [f"cell {n} is malformed and was left out" for n in (1, 2, 3)]
    odd = {"cell_type": "code", "source": [FILLED], "metadata": {"tags": "answer:1a"}, "id": 7}
    assert read(notebook(odd)).cells[0]["source"] == FILLED
    tags = {"cell_type": "code", "source": FILLED, "metadata": {"tags": [None, 3, "answer:../x", "answer:"]}}
    assert read(notebook(tags, code("x = 1")), questions={}).cells[0]["tag"] == ""


def test_text_that_utf8_cannot_hold(read):
    got = read('{"cells": [{"cell_type": "code", "source": "x = \'\\ud800\\u0000\'", "metadata": {}}]}')
    got.cells[0]["source"].encode()
    assert "\0" not in got.cells[0]["source"]


# What they do on purpose, or by a damaged disk


GOOD = notebook(code(FILLED, "answer:1a")).encode()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def overlong_directory() -> bytes:
    return zipped([(f"{i}.txt", b"") for i in range(module.MAX_ENTRIES + 1)])


HOSTILE = {
    "empty": ("ps.ipynb", b"", "is empty"),
    "blank": ("ps.ipynb", b" \n", "is empty"),
    "garbage": ("ps.ipynb", bytes(range(256)) * 20, "not UTF-8"),
    "garbage zip": ("ps.zip", bytes(range(256)) * 20, "no zip archive"),
    "garbage text": ("ps.ipynb", b"hello", "no notebook"),
    "picture": ("ps.png", b"\x89PNG", "is an .ipynb, a .py or a .zip"),
    "number": ("ps.ipynb", b"3", "no notebook"),
    "cells are no list": ("ps.ipynb", b'{"cells": {}}', "no notebook"),
    "old format": ("ps.ipynb", b'{"worksheets": []}', "old notebook format"),
    "cut short": ("ps.ipynb", GOOD[: len(GOOD) // 2], "damaged or cut short"),
    "huge number": ("ps.ipynb", b'{"cells": ' + b"9" * 10_000 + b"}", "damaged"),
    "latin-1": ("ps.py", "x = 'é'".encode("latin-1"), "not UTF-8"),
    "utf-16": ("ps.py", "x = 1".encode("utf-16"), "not UTF-8"),
    "deep": ("ps.ipynb", b"[" * 200_000, "nested too deeply"),
    "very deep": ("ps.ipynb", b'{"a":' * 600_000, "too many values"),
    "many lists": ("ps.ipynb", b"[" + b"[]," * 600_000 + b"[]]", "too many values"),
    "many numbers": ("ps.ipynb", b"[" + b"1," * 4_100_000 + b"1]", "too many values"),
    "many cells": ("ps.ipynb", notebook(*[code("x")] * 2001).encode(), "2,001 cells"),
    "many percent cells": ("ps.py", b"# %%\nx\n" * 2001, "2,001 cells"),
    "slip": ("ps.zip", zipped([("../ps.ipynb", GOOD)]), "points outside"),
    "inner slip": ("ps.zip", zipped([("ps.ipynb", GOOD), ("a/../../etc/passwd", b"x")]), "points outside"),
    "absolute": ("ps.zip", zipped([("/etc/ps.ipynb", GOOD)]), "points outside"),
    "backslash": ("ps.zip", zipped([("..\\ps.ipynb", GOOD)]), "points outside"),
    "drive": ("ps.zip", zipped([("C:ps.ipynb", GOOD)]), "points outside"),
    "link": ("ps.zip", zipped([(link("ps.ipynb"), b"/etc/passwd")]), "is a link"),
    "bomb": ("ps.zip", zipped([("ps.ipynb", b" " * (30 << 20) + GOOD)]), "unpacks to 200 times"),
    "bomb beside": ("ps.zip", zipped([("ps.ipynb", GOOD), ("zeros", bytes(30 << 20))]), "unpacks to 200 times"),
    "many files": ("ps.zip", overlong_directory(), "more than 1000 files"),
    "nothing in it": ("ps.zip", zipped([("readme.txt", b"hi")]), "holds no .ipynb"),
    "no files": ("ps.zip", zipped([]), "holds no .ipynb"),
    "nested zip": ("ps.zip", zipped([("inner.zip", zipped([("ps.ipynb", GOOD)]))]), "holds no .ipynb"),
    "zip cut short": ("ps.zip", zipped([("ps.ipynb", GOOD)])[:-30], "no zip archive, or is cut short"),
    "newline in a name": ("ps.zip", zipped([("a\nb.ipynb", GOOD)]), "control characters"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_line(read, case):
    name, content, message = HOSTILE[case]
    start = time.monotonic()
    with pytest.raises(GraderError) as caught:
        read(content, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.monotonic() - start < 5


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_more_hostile_archives(read):
    twice = zipped([("ps.ipynb", GOOD), ("ps.ipynb", b"{}")])
    with pytest.raises(GraderError, match="twice"):
        read(twice, "s.zip")
    encrypted = bytearray(zipped([("ps.ipynb", GOOD)], zipfile.ZIP_STORED))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(GraderError, match="encrypted"):
        read(bytes(encrypted), "s.zip")
    damaged = bytearray(zipped([("ps.ipynb", GOOD)], zipfile.ZIP_STORED))
    damaged[60] ^= 0xFF
    with pytest.raises(GraderError, match="no readable zip"):
        read(bytes(damaged), "s.zip")
    lying = bytearray(zipped([("ps.ipynb", GOOD)]))
    lying[lying.index(b"PK\x01\x02") + 24 : lying.index(b"PK\x01\x02") + 28] = (3).to_bytes(4, "little")
    with pytest.raises(GraderError):
        read(bytes(lying), "s.zip")


def test_a_large_directory_is_refused_before_it_is_parsed(read, monkeypatch):
    content = overlong_directory()

    def parsed(*arguments: Any) -> None:
        raise AssertionError("the archive's directory was parsed")

    monkeypatch.setattr(zipfile, "ZipFile", parsed)
    with pytest.raises(GraderError, match="more than 1000 files"):
        read(content, "s.zip")


def test_every_cut_of_an_archive_is_one_line(read):
    whole = zipped([("ps.ipynb", GOOD), ("b.txt", b"x")])
    for cut in range(1, len(whole), 7):
        with pytest.raises(GraderError):
            read(whole[:cut], "s.zip")


def test_every_flipped_byte_of_an_archive_is_at_most_one_line(read):
    whole = zipped([("ps.ipynb", GOOD)])
    for i in range(len(whole)):
        for value in (whole[i] ^ 0xFF, 0xFF):
            with contextlib.suppress(GraderError):  # anything else is a traceback that a student would meet
                read(whole[:i] + bytes([value]) + whole[i + 1 :], "s.zip")


def test_100_mb_are_refused_unread(tmp_path):
    path = tmp_path / "ps.ipynb"
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    start = time.monotonic()
    with pytest.raises(GraderError, match="100 MB"):
        read_submission(path)
    assert time.monotonic() - start < 0.5


def test_what_is_no_regular_file(tmp_path):
    target = tmp_path / "real.ipynb"
    target.write_bytes(GOOD)
    (tmp_path / "link.ipynb").symlink_to(target)
    with pytest.raises(GraderError, match="is a link"):
        read_submission(tmp_path / "link.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    with pytest.raises(GraderError, match="not a regular file"):
        read_submission(tmp_path / "pipe.ipynb")
    with pytest.raises(GraderError, match="no such file"):
        read_submission(tmp_path / "missing.ipynb")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ps.ipynb").symlink_to(target)
    with pytest.raises(GraderError, match=r"holds no \.ipynb"):
        read_submission(folder)


def test_large_cells_cost_themselves(read):
    big = "x = 1\n" * 40_000
    got = read(notebook(code(big), code(FILLED, "answer:1a")))
    assert sources(got) == [FILLED]
    assert got.problems == ["cell 1 holds more than 200,000 characters and was left out"]
    many = read(notebook(*[code(big[:150_000])] * 20))
    assert len(many.cells) == 13
    assert many.problems == ["more than 2,000,000 characters of code: cell 14 and those after it were left out"]


@pytest.mark.parametrize(
    "line", ["(" * 190_000, "a" * 190_000, "a ," * 60_000, "?" * 190_000, "'" * 190_000, "\\" * 190_000]
)
def test_long_lines_are_fast(read, line):
    start = time.monotonic()
    read(notebook(code(line, "answer:1a"), code("def mean(x): pass\n" + line)))
    assert time.monotonic() - start < 5
