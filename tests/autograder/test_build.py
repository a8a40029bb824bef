"""What is built from a problem set's source, and that nothing of the solutions gets into what students are given."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from autograder import build as module
from autograder.build import build, leaks, out_of_step, pack
from autograder.errors import GraderError
from autograder.problem_set import load
from autograder.submission import read_submission

DEMO = Path(__file__).parent / "demo_ps"
SOLUTION = "spread = ((x - centre) ** 2).mean(0)"
WRITTEN = "The derivative by $\\mu$ is $\\sum_n (x_n - \\mu) / \\sigma^2$. It is zero at the mean only"
MISTAKE = "return x.mean(0), x.std(0, correction=0)"
ALTERNATIVE = "return first, (x * x).mean(0) - first**2"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def copy_of_demo(folder: Path, **changes: Callable[[str], str]) -> Path:
    """The demo set in another folder, files changed by functions of their text."""
    target = folder / "demo_ps"
    shutil.copytree(DEMO, target)
    for name, change in changes.items():
        path = target / f"{name}.py"
        text = path.read_text()
        assert change(text) != text
        path.write_text(change(text))
    return target


def test_the_starter_has_prompts_and_no_solutions(built):
    notebook = nbformat.read(built.starter, 4)
    nbformat.validate(notebook)
    cells = {cell["id"]: cell for cell in notebook["cells"]}
    assert cells["answer-1a"]["source"] == (
        "def gaussian_mle(x: Tensor) -> tuple[Tensor, Tensor]:\n"
        '    """Mean and variance, each (D,), of the Gaussian that fits x (N, D) best."""\n'
        "    # The variance is the one of maximum likelihood, not the unbiased one.\n"
        '    raise NotImplementedError("1a: gaussian_mle")'
    )
    assert cells["answer-1a"]["metadata"]["tags"] == ["answer:1a"]
    assert cells["answer-1c"]["source"].count("raise NotImplementedError") == 2
    assert cells["written-1d"]["source"] == "<!-- written:1d -->\n*Write your answer here.*"
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert notebook["cells"][1]["metadata"]["tags"] == ["setup"]
    text = built.starter.read_text()
    for secret in ("SOLUTION", "spread", "Rubric", "second derivative", "largest"):
        assert secret not in text


def test_the_solution_notebook_has_solutions_and_rubric(built):
    text = "\n".join(cell["source"] for cell in nbformat.read(built.solution, 4)["cells"])
    assert SOLUTION in text
    assert "Rubric:" in text
    assert "NotImplementedError" not in text
    assert "BEGIN SOLUTION" not in text


def test_the_starter_is_read_back_with_every_question(built, demo):
    names = {q.id: list(q.names) for q in demo.questions.values()}
    got = read_submission(built.starter, names)
    assert [c["tag"] for c in got.cells if c["whole"]] == ["answer:1a", "answer:1b", "answer:1c"]
    assert got.written == {"1d": ""}
    assert got.problems == []


def test_builds_are_reproducible(built, demo, tmp_path):
    again = build(load(DEMO), tmp_path, in_place=False)
    for one, two in ((built.starter, again.starter), (built.solution, again.solution)):
        assert one.read_bytes() == two.read_bytes()
    assert members(built.student_zip) == members(again.student_zip)
    assert built.student_zip.read_bytes() == again.student_zip.read_bytes()
    with zipfile.ZipFile(built.student_zip) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_the_student_zip_holds_what_it_should(built):
    files = members(built.student_zip)
    assert set(files) == {"demo_ps.ipynb", "demo_ps_checks/__init__.py", "demo_ps_checks/questions.py"} | {
        f"demo_ps_checks/{name}.py" for name in module.STANDALONE
    } | {"demo_ps_checks/recorded.json", "demo_ps_checks/recorded.npz"}
    for name, content in files.items():
        if name.endswith(".py"):
            code = content.decode()
            assert "import autograder" not in code
            assert "from autograder" not in code.replace("`from autograder", "")
    hints = [
        m["hint"]
        for q in json.loads(files["demo_ps_checks/recorded.json"])["questions"].values()
        for m in q["mistakes"]
    ]
    assert len(hints) == 5


def test_data_travels(tmp_path):
    folder = copy_of_demo(tmp_path)
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / "deep" / "a.txt").write_text("one")
    got = build(load(folder), tmp_path / "out", in_place=False)
    assert members(got.student_zip)["data/deep/a.txt"] == b"one"


def test_the_starter_in_place_is_held_in_step(tmp_path):
    folder = copy_of_demo(tmp_path)
    assert "is missing" in out_of_step(load(folder))
    build(load(folder), tmp_path / "out")
    assert out_of_step(load(folder)) == ""
    source = folder / "demo_ps.py"
    source.write_text(source.read_text().replace("a tiny one", "a small one"))
    assert "not in step" in out_of_step(load(folder))
    build(load(folder), tmp_path / "out")
    source.write_text(source.read_text().replace("centre = x.mean(0)", "centre = x.mean(dim=0)"))
    assert out_of_step(load(folder)) == "", "a solution may change and the starter stay"


def test_the_secret_is_made_once_and_is_private(tmp_path):
    folder = copy_of_demo(tmp_path)
    build(load(folder), tmp_path / "out", in_place=False)
    secret = (tmp_path / "out" / "secret").read_text()
    assert len(bytes.fromhex(secret)) == 16
    assert (tmp_path / "out" / "secret").stat().st_mode & 0o077 == 0
    build(load(folder), tmp_path / "out", in_place=False)
    assert (tmp_path / "out" / "secret").read_text() == secret
    assert secret.strip().encode() not in (tmp_path / "out" / "demo_ps_student.zip").read_bytes()


def drop_markers(text: str) -> str:
    return text.replace("    # BEGIN SOLUTION\n", "", 1).replace("    # END SOLUTION\n", "", 1)


BROKEN: dict[str, tuple[dict[str, Callable[[str], str]], str]] = {
    "unmarked": ({"demo_ps": drop_markers}, "the answer to 1a has no BEGIN SOLUTION"),
    "untagged": ({"demo_ps": lambda t: t.replace('# %% tags=["answer:1b"]', "# %%")}, "answer:1b"),
    "marker elsewhere": (
        {"demo_ps": lambda t: t.replace("points = torch", "# BEGIN SOLUTION\npoints = torch")},
        "BEGIN",
    ),
    "no setup": ({"demo_ps": lambda t: t.replace('tags=["setup"]', "")}, "no cell is tagged setup"),
    "solution does not run": (
        {"demo_ps": lambda t: t.replace("class Layer(torch", "class Layer(torches")},
        "the solution does not",
    ),
    "solution is wrong": (
        {"demo_ps": lambda t: t.replace("/ math.sqrt(d)", "/ d")},
        "the solution fails its own public check of 1c: the weights' variance",
    ),
    "mistake does not run": (
        {"mistakes": lambda t: t.replace("class Layer(torch", "class Layer(torches")},
        "mistake at",
    ),
    "checks need scipy": (
        {"checks": lambda t: "import scipy\n" + t},
        "scipy cannot be imported on a student's machine",
    ),
    "checks need the grader": (
        {"checks": lambda t: "from autograder.grade import grade\n" + t},
        "autograder.grade cannot",
    ),
    "solution in the checks": (
        {
            "checks": lambda t: t.replace(
                "    a = draw.normal(6, 4)\n", f"    a = draw.normal(6, 4)\n    # {SOLUTION}\n"
            )
        },
        "questions.py: a line of the solution of 1a",
    ),
    "solution in the prompt": (
        {"demo_ps": lambda t: t.replace("This cell needs 1a.", "As `largest = a.max(1).values` of the solution.")},
        "demo_ps.ipynb: a line of the solution of 1b",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_hold_together_is_not_built(case, tmp_path):
    changes, message = BROKEN[case]
    with pytest.raises(GraderError) as caught:
        build(load(copy_of_demo(tmp_path, **changes)), tmp_path / "out", in_place=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*.zip"))


# Leaks: each is planted where a careless build, or an author, could put it


def notebook_with(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def plant(files: dict[str, bytes]) -> None:
        notebook = json.loads(files["demo_ps.ipynb"])
        change(notebook)
        files["demo_ps.ipynb"] = json.dumps(notebook).encode()

    return plant


def in_cell(**entries: Any) -> Callable[[dict[str, bytes]], None]:
    return notebook_with(lambda notebook: notebook["cells"][3].update(entries))


def file(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    def plant(files: dict[str, bytes]) -> None:
        files[name] = files.get(name, b"") + content

    return plant


def picture(text: str) -> bytes:
    """A PNG whose compressed text chunk holds a text."""
    body = b"Comment\0\0" + zlib.compress(text.encode())
    chunk = len(body).to_bytes(4, "big") + b"zTXt" + body + zlib.crc32(b"zTXt" + body).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk


def encoded(text: str | bytes) -> str:
    return base64.encodebytes(text if isinstance(text, bytes) else text.encode()).decode()


def numpy_file(text: str) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.savez_compressed(out, a=np.array([text]))
    return out.getvalue()


MARKDOWN = "before " + WRITTEN + " after"
OUTPUT = {"output_type": "stream", "name": "stdout", "text": ["spread = ((x - centre)", " ** 2).mean(0)\n"]}
HTML = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [f"<pre>{SOLUTION}</pre>"]}}
PNG = {"output_type": "display_data", "metadata": {}, "data": {"image/png": encoded(picture(SOLUTION))}}
PLANTS: dict[str, Callable[[dict[str, bytes]], None]] = {
    "code": in_cell(source=["def f(x):\n", f"    {SOLUTION}\n"]),
    "other spacing": in_cell(source="spread=( (x-centre)**2 ).mean( 0 )"),
    "a short solution": in_cell(source="return x @ self.weight.to(x.dtype)"),
    "written": in_cell(source=MARKDOWN),
    "output": in_cell(outputs=[OUTPUT]),
    "html output": in_cell(outputs=[HTML]),
    "picture output": in_cell(outputs=[PNG]),
    "attachment": in_cell(attachments={"a.txt": {"text/plain": encoded("x" * 50 + SOLUTION)}}),
    "picture attachment": in_cell(attachments={"a.png": {"image/png": encoded(picture(SOLUTION)).replace("\n", "")}}),
    "data link": in_cell(source=f"![a](data:text/plain;base64,{encoded(SOLUTION).strip()})"),
    "base64 twice": in_cell(source=encoded(encoded(SOLUTION))),
    "base64 after letters": in_cell(source="abc" + base64.b64encode(SOLUTION.encode()).decode()),
    "cell metadata": in_cell(metadata={"nbgrader": {"solution": SOLUTION}}),
    "metadata key": in_cell(metadata={SOLUTION: 1}),
    "notebook metadata": notebook_with(lambda n: n["metadata"].update(history=[SOLUTION])),
    "json in json": in_cell(source=json.dumps({"a": json.dumps([SOLUTION])})),
    "mistake": in_cell(source=MISTAKE),
    "alternative": in_cell(source=ALTERNATIVE),
    "extra file": file("notes.txt", b"harmless"),
    "extra module": file("demo_ps_checks/reference.py", b"x = 1\n"),
    "changed module": file("demo_ps_checks/checks.py", b"x = 1\n"),
    "questions": file("demo_ps_checks/questions.py", SOLUTION.encode()),
    "utf-16": file("demo_ps_checks/questions.py", SOLUTION.encode("utf-16-le")),
    "recorded": file("demo_ps_checks/recorded.json", SOLUTION.encode()),
    "data": file("demo_ps_checks/recorded.npz", SOLUTION.encode()),
    "numpy data": lambda files: files.update({"demo_ps_checks/recorded.npz": numpy_file("x" * 9)}),
    "gzip": in_cell(source=base64.b64encode(gzip.compress(SOLUTION.encode())).decode()),
    "zip": in_cell(source=base64.b64encode(pack({"a": SOLUTION.encode()})).decode()),
    "secret": in_cell(source="seed 00112233445566778899aabbccddeeff"),
    "secret's bytes": file("demo_ps_checks/recorded.npz", bytes.fromhex("00112233445566778899aabbccddeeff")),
    "secret in base64": in_cell(source=encoded("00112233445566778899aabbccddeeff")),
}
SECRET = "00112233445566778899aabbccddeeff"
EXPECTED = {"numpy data": None}  # harmless: must not be reported


def test_a_clean_zip_has_no_leaks(built, demo):
    assert leaks(built.student_zip, demo, [SECRET, bytes.fromhex(SECRET)]) == []


def test_a_hint_on_a_line_of_its_own_is_no_leak(built, tmp_path):
    hint = '"Your variance is a standard deviation: return its square."'
    folder = copy_of_demo(tmp_path, mistakes=lambda t: t.replace(f'"1a", {hint}', f'\n    "1a",\n    {hint},\n'))
    assert leaks(built.student_zip, load(folder)) == []


@pytest.mark.parametrize("case", PLANTS)
def test_planted_leaks_are_found(case, built, demo):
    files = members(built.student_zip)
    before = dict(files)
    PLANTS[case](files)
    assert files != before
    found = leaks(pack(files), demo, [SECRET, bytes.fromhex(SECRET)])
    if case in EXPECTED:
        assert found == []
    else:
        changed = next(name for name in files if files[name] != before.get(name))
        assert found
        assert all(line.startswith(changed) for line in found)


def test_leaks_around_the_files(built, demo):
    for change in ("comment", "entry comment"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in members(built.student_zip).items():
                info = zipfile.ZipInfo(name)
                if change == "entry comment" and name == "demo_ps.ipynb":
                    info.comment = SOLUTION.encode()
                archive.writestr(info, content)
            if change == "comment":
                archive.comment = SOLUTION.encode()
        assert len(leaks(out.getvalue(), demo)) == 1
    assert leaks(b"garbage", demo) == ["the zip cannot be read: File is not a zip file"]
