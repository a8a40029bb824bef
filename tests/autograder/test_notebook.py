"""The student's side from the student zip alone: in this process for details, in real Jupyter kernels as a whole."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from autograder.build import Built, build
from autograder.checks import AnswerError, seed_of
from autograder.grade import grade
from autograder.notebook import Answer, Replay, fingerprint, near
from autograder.problem_set import load
from autograder.rehearse import plain, rehearse, run_notebook
from autograder.submission import read_submission

DEMO = Path(__file__).parent / "demo_ps"
RIGHT = "def gaussian_mle(x):\n    return x.mean(0), x.var(0, correction=0)"


@pytest.fixture(scope="module")
def package(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The checks folder as a student imports it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(built.student_zip) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("demo_ps_checks")
    finally:
        sys.path.remove(str(folder))
        for name in [m for m in sys.modules if m.startswith("demo_ps_checks")]:
            del sys.modules[name]


Ask = Callable[..., str]


@pytest.fixture
def ask(package: ModuleType, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run code in a notebook's namespace, then check a question, and give what is shown."""

    def run(question: str, code: str = "", **names: Any) -> str:
        namespace: dict[str, Any] = {"torch": torch, "check": package.check, **names}
        exec(compile(code, "<cell>", "exec"), namespace)
        capsys.readouterr()
        exec(f"check({question!r})", namespace)
        said = capsys.readouterr()
        assert said.err == ""
        assert "Traceback" not in said.out
        assert "all tests" not in said.out.lower()
        return said.out

    return run


def test_a_right_answer(ask):
    said = ask("1a", RIGHT)
    assert said.startswith("1a. A Gaussian's maximum likelihood: public checks passed, 4 of 4 points\n")
    assert "[ok] mean (2 of 2)" in said
    assert "at other inputs" in said


def test_a_missing_name(ask):
    said = ask("1a")
    assert said == (
        "1a. A Gaussian's maximum likelihood: gaussian_mle is not defined yet. "
        "Run the cell where you write 1a, then this one.\n"
    )


@pytest.mark.parametrize(
    ("asked", "answer"), [("1A", "check('1a')"), ("1.b", "check('1b')"), ("7", "there are: 1a, 1b, 1c")]
)
def test_an_unknown_question(ask, asked, answer):
    said = ask(asked)
    assert said.startswith(f"There is no check for question {asked!r}; ")
    assert answer in said


def test_no_question_at_all(package, capsys):
    exec("check()", {"check": package.check})
    assert capsys.readouterr().out == "Which question? check('1a'); there are: 1a, 1b, 1c\n"


def test_every_mistake_gets_its_own_hint(ask, demo):
    for mistake in demo.mistakes:
        said = ask(mistake.question, "import math\nfrom torch import Tensor\n" + mistake.source).splitlines()
        assert said[1] == f"  [--] {mistake.text}"


def test_every_alternative_passes(ask, demo):
    for alternative in demo.alternatives:
        assert "public checks passed" in ask(alternative.question, alternative.source)


def test_partial_credit_and_the_difference(ask):
    said = ask("1a", "def gaussian_mle(x):\n    return x.mean(0), 3 * x.var(0)")
    assert "public checks, 2 of 4 points" in said
    assert "[ok] mean (2 of 2)" in said
    assert "[--] variance (0 of 2)\n       the variance: 3 of 3 entries differ; the largest error is" in said


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def gaussian_mle(x):\n    raise NotImplementedError('1a: gaussian_mle')", "gaussian_mle: not written yet"),
        ("def gaussian_mle(x):\n    return None", "has not the form that the question asks for"),
        ("def gaussian_mle(x):\n    return x.mean(0)", "has not the form that the question asks for"),
        ("def gaussian_mle(x):\n    return x.mean(0), 'high'", "the variance: numbers are expected"),
        ("def gaussian_mle(x):\n    return object(), x", "the answer holds a object"),
        ("def gaussian_mle():\n    pass", "gaussian_mle raised TypeError"),
        ("def gaussian_mle(x):\n    import sys; sys.exit(3)", "gaussian_mle raised SystemExit"),
        ("gaussian_mle = 3", "raised TypeError"),
        ("def gaussian_mle(x):\n    x += 1\n    return x.mean(0), x.var(0)", "changes its input in place (argument 1)"),
        ("def gaussian_mle(x):\n    return gaussian_mle(x)", "raised RecursionError"),
        ("def gaussian_mle(x):\n    return x.mean(0) * float('nan'), x.var(0)", "are not finite"),
    ],
)
def test_what_goes_wrong_is_a_helpful_line(ask, code, line):
    said = ask("1a", code)
    assert line in said
    assert len(said.splitlines()) < 12


def test_the_students_own_error_is_shown_with_its_line(ask):
    said = ask("1a", "def helper(x):\n    return x / missing\n\ndef gaussian_mle(x):\n    return helper(x), 1")
    assert "gaussian_mle raised NameError: name 'missing' is not defined" in said
    assert "line 2 of <cell>" in said


def test_an_interrupt_stops_the_check_and_not_the_notebook(ask):
    assert "interrupted" in ask("1a", "def gaussian_mle(x):\n    raise KeyboardInterrupt")


def test_the_device_is_the_cpu_while_checking_only(package):
    code = "def gaussian_mle(x):\n    seen.append(device)\n    return x.to(device).mean(0), x.var(0)"
    namespace: dict[str, Any] = {"torch": torch, "check": package.check, "device": "cuda", "seen": []}
    exec(code + "\ncheck('1a')", namespace)
    assert namespace["seen"] == ["cpu"]
    assert namespace["device"] == "cuda"


def test_the_replayed_reference_after_a_failure_above():
    """A part that failed asked less than the recording did: later requests carry other seeds, or other inputs."""
    x = np.arange(6.0).reshape(2, 3)
    request = {"op": "call", "name": "f", "args": [x], "kwargs": {}}
    structure, sums = fingerprint(request)
    answers = [Answer(structure, sums, 1, "first"), Answer(structure, sums, seed_of(5, 1) % 2**31, "own seed")]
    assert Replay(answers, 5).f(x) == "own seed"
    assert Replay(answers, 6).f(x) == "first"
    with pytest.raises(AnswerError, match="once what stands above it passes"):
        Replay(answers, 5).f(x + 1)


def test_student_text_is_escaped_in_html(package, monkeypatch):
    notebook = importlib.import_module("demo_ps_checks.notebook")
    shown: list[Any] = []
    monkeypatch.setattr(notebook, "_show", shown.append)
    code = "def gaussian_mle(x):\n    raise ValueError('<script>alert(1)</script>')\ncheck('1a')"
    exec(code, {"check": package.check})
    assert "<script>" in shown[0].text()
    assert "<script>" not in shown[0].html()
    assert "&lt;script&gt;" in shown[0].html()


def test_requests_are_recognised_up_to_rounding_and_no_further():
    x = np.random.default_rng(0).normal(size=(40, 3))
    request = {"op": "call", "name": "f", "args": [x, 0.1 + 0.2, 3, None], "kwargs": {}, "seed": 1}
    structure, sums = fingerprint(request)
    again = fingerprint({**request, "args": [x * (1 + 1e-14), 0.3, 3, None], "seed": 2})
    assert again[0] == structure
    assert near(sums, again[1])
    other = x.copy()
    other[3, 1] += 1e-3
    for args in ([other, 0.3, 3, None], [x[::-1].copy(), 0.3, 3, None], [x, 0.31, 3, None], [x, 0.3, 4, None]):
        s, v = fingerprint({**request, "args": args})
        assert not (s == structure and near(sums, v))
    for change in ({"name": "g"}, {"args": [x.astype(np.float32), 0.3, 3, None]}, {"kwargs": {"k": 1}}, {"wrt": 0}):
        assert fingerprint({**request, **change})[0] != structure


# submit(), in this process


@pytest.fixture
def desk(package: ModuleType, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A folder with the solution saved as the student's notebook, and submit() called in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    shutil.copy(built.solution, tmp_path / "demo_ps.ipynb")
    notebook = importlib.import_module("demo_ps_checks.notebook")
    shown: list[Any] = []
    monkeypatch.setattr(notebook, "_show", shown.append)

    def submit(*arguments: Any, **names: Any) -> str:
        namespace = {"submit": package.submit, "arguments": arguments, **names}
        exec("submit(*arguments)", namespace)
        return shown[-1].text()

    return SimpleNamespace(
        submit=submit, folder=tmp_path, zip=tmp_path / "demo_ps_submission.zip", module=notebook, shown=shown
    )


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    notebook = json.loads(path.read_text())
    change(notebook)
    path.write_text(json.dumps(notebook))


def test_submit_writes_a_zip_that_is_read_back(desk, demo):
    said = desk.submit()
    assert said.startswith("demo_ps_submission.zip is written and was read back")
    assert "[ok] 3 of 3 coded answers" in said
    assert "[ok] 1 of 1 written answers" in said
    assert desk.shown[-1].good
    got = read_submission(desk.zip, {q.id: list(q.names) for q in demo.questions.values()})
    assert [c["tag"] for c in got.cells if c["whole"]] == ["answer:1a", "answer:1b", "answer:1c"]
    assert "The derivative by" in got.written["1d"]
    with zipfile.ZipFile(desk.zip) as archive:
        assert archive.namelist() == ["demo_ps.ipynb", "written_answers.html"]
        page = archive.read("written_answers.html").decode()
    assert "The derivative by" in page
    assert "Why the mean?" in page
    assert sorted(p.name for p in desk.folder.iterdir()) == ["demo_ps.ipynb", "demo_ps_submission.zip"]


def test_submit_names_what_is_missing(desk):
    def change(notebook: dict[str, Any]) -> None:
        cells = {cell["id"]: cell for cell in notebook["cells"]}
        cells["answer-1a"]["source"] = 'def gaussian_mle(x):\n    raise NotImplementedError("1a: gaussian_mle")'
        cells["written-1d"]["source"] = "<!-- written:1d -->\n*Write your answer here.*"
        notebook["cells"].remove(cells["answer-1b"])

    edit(desk.folder / "demo_ps.ipynb", change)
    said = desk.submit()
    assert "BUT IT IS NOT COMPLETE" in said.splitlines()[0]
    assert "[--] 1 of 3 coded answers" in said
    assert "still as it was handed out: 1a (A Gaussian's maximum likelihood)" in said
    assert "its cell is gone: 1b (Log-sum-exp)" in said
    assert "nothing written: 1d (Why the mean?)" in said
    assert desk.zip.is_file(), "an incomplete submission is one all the same"


def test_submit_refuses_what_was_not_saved(desk, monkeypatch):
    ran = ["", "import torch", "def logsumexp(a):\n    return a.logsumexp(1)", "submit()"]
    shell = SimpleNamespace(history_manager=SimpleNamespace(input_hist_raw=ran))
    monkeypatch.setattr(desk.module, "_ipython", lambda: shell)
    said = desk.submit()
    assert said.startswith("NO SUBMISSION WAS WRITTEN: what you ran last for 1b is not in the notebook's file. Save")
    assert not desk.zip.exists()
    assert "written and was read back" in desk.submit(None, True)
    saved = next(c for c in json.loads((desk.folder / "demo_ps.ipynb").read_text())["cells"] if c["id"] == "answer-1b")
    ran.append("".join(saved["source"]) + "  \n\n")
    desk.zip.unlink()
    assert "written and was read back" in desk.submit()


def test_submit_finds_the_notebook(desk, monkeypatch):
    path = desk.folder / "demo_ps.ipynb"
    renamed = path.rename(desk.folder / "mine.ipynb")
    assert "written and was read back" in desk.submit()
    shutil.copy(renamed, desk.folder / "copy.ipynb")
    assert desk.submit() == (
        'NO SUBMISSION WAS WRITTEN: the notebook\'s file was not found; say its name: submit("NAME.ipynb")'
    )
    assert "there is no file none.ipynb; the notebooks here: copy.ipynb, mine.ipynb" in desk.submit("none.ipynb")
    assert "written and was read back" in desk.submit("mine.ipynb")
    desk.zip.unlink()
    monkeypatch.setenv("JPY_SESSION_NAME", "some/where/mine.ipynb")
    assert "written and was read back" in desk.submit()
    monkeypatch.delenv("JPY_SESSION_NAME")
    desk.zip.unlink()
    assert "written and was read back" in desk.submit(__vsc_ipynb_file__=str(renamed))


def test_submit_on_colab_takes_what_the_browser_holds(desk, built, monkeypatch):
    content = json.loads(built.starter.read_text())
    downloads: list[str] = []
    answers: list[Any] = [{"ipynb": content}, None]
    message = ModuleType("google.colab._message")
    message.blocking_request = lambda *a, **k: answers.pop(0)  # type: ignore[attr-defined]
    files = ModuleType("google.colab.files")
    files.download = downloads.append  # type: ignore[attr-defined]
    for name, fake in (("google", ModuleType("google")), ("google.colab", ModuleType("google.colab"))):
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setitem(sys.modules, "google.colab._message", message)
    monkeypatch.setitem(sys.modules, "google.colab.files", files)
    assert "[--] 0 of 3 coded answers" in desk.submit()
    assert downloads == [str(desk.zip)]
    assert "NO SUBMISSION WAS WRITTEN: Colab did not hand the notebook over" in desk.submit()


@pytest.mark.parametrize("content", ["", "garbage", "[]", '{"cells": 3}', '{"nbformat": 4}'])
def test_submit_with_a_damaged_file(desk, content):
    (desk.folder / "demo_ps.ipynb").write_text(content)
    assert desk.submit() == "NO SUBMISSION WAS WRITTEN: the notebook's file is damaged; save it again"
    assert not desk.zip.exists()


def test_submit_fails_loudly_without_the_page(desk, monkeypatch):
    def broken(*arguments: Any) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(desk.module, "_by_nbconvert", lambda cells: "")
    monkeypatch.setattr(desk.module, "_own_page", broken)
    said = desk.submit()
    assert said.startswith(
        "NO SUBMISSION WAS WRITTEN: the page of written answers could not be made (RuntimeError: no page)"
    )
    assert not desk.zip.exists()
    monkeypatch.setattr(desk.module, "_own_page", lambda cells: "<p>")
    assert "came out incomplete" in desk.submit()


def test_submit_leaves_an_older_zip_where_it_cannot_write(desk, monkeypatch):
    desk.zip.write_text("older")

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desk.module.zipfile.ZipFile, "writestr", full)
    assert "cannot be written (No space left on device)" in desk.submit()
    assert desk.zip.read_text() == "older"


def test_the_plain_page_where_nbconvert_is_missing(desk, monkeypatch):
    def change(notebook: dict[str, Any]) -> None:
        cell = next(c for c in notebook["cells"] if c["id"] == "written-1d")
        cell["source"] = "Because $x < y$.\n\n<script>alert(1)</script> ![p](attachment:p.png)"
        cell["attachments"] = {"p.png": {"image/png": "iVBORw0KGgo="}}

    edit(desk.folder / "demo_ps.ipynb", change)
    monkeypatch.setattr(desk.module, "_by_nbconvert", lambda cells: "")
    assert desk.shown or desk.submit()
    with zipfile.ZipFile(desk.zip) as archive:
        page = archive.read("written_answers.html").decode()
    assert "Because $x &lt; y$." in page
    assert "<script>" not in page
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in page
    assert "Why the mean?" in page


def test_large_outputs_are_left_out(desk, monkeypatch):
    def change(notebook: dict[str, Any]) -> None:
        notebook["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 100_000}]

    monkeypatch.setattr(desk.module, "MAX_FILE", 100_000)
    edit(desk.folder / "demo_ps.ipynb", change)
    assert "The outputs were left out" in desk.submit()
    with zipfile.ZipFile(desk.zip) as archive:
        assert archive.getinfo("demo_ps.ipynb").file_size < 20_000


# The whole, in real kernels that see nothing but the unpacked student zip


def outputs_by_id(path: Path, folder: Path) -> dict[str, list[Any]]:
    """Run a notebook in a kernel of its own; the outputs by cell id."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    return {cell["id"]: list(cell.get("outputs", [])) for cell in run_notebook(path, folder)}


def unpack(built: Built, folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(built.student_zip) as archive:
        archive.extractall(folder)
    return folder


def test_the_starter_in_a_kernel(built, tmp_path, demo):
    folder = unpack(built, tmp_path / "student")
    out = outputs_by_id(folder / "demo_ps.ipynb", folder)
    assert out["setup"] == [], "the setup cell is silent"
    for cell, line in (
        ("check", "gaussian_mle: not written yet"),
        ("check-2", "logsumexp: not written yet"),
        ("check-3", "not"),
    ):
        assert [o["output_type"] for o in out[cell]] == ["display_data"]
        assert line in plain(out[cell])
        assert "public checks, 0 of" in plain(out[cell])
        assert "✗" in out[cell][0]["data"]["text/html"]
    assert "BUT IT IS NOT COMPLETE" in plain(out["submit"])


def test_the_solution_in_a_kernel_unsaved_and_saved(built, tmp_path, demo):
    folder = unpack(built, tmp_path / "student")
    starter = nbformat.read(folder / "demo_ps.ipynb", 4)
    solution = {cell["id"]: cell["source"] for cell in nbformat.read(built.solution, 4)["cells"]}
    for cell in starter["cells"]:
        if cell["id"].startswith(("answer-", "written-")):
            cell["source"] = solution[cell["id"]]
    nbformat.write(starter, tmp_path / "saved.ipynb")
    code = nbformat.v4.new_code_cell
    starter["cells"] += [
        code("import shutil; shutil.copy('../saved.ipynb', 'demo_ps.ipynb')", id="save"),
        code("submit()", id="again"),
        code("%run -n nothing_here\n", id="magic"),
        code("def gaussian_mle(x):\n    y = x - 1\n    return y.mean(0), y.var(0) / len(nothing)", id="broken"),
        code("check('1a')", id="check-broken"),
        code("import sys; sorted(m for m in sys.modules if m.startswith(('autograder', 'genmodels')))", id="modules"),
    ]
    nbformat.write(starter, tmp_path / "executed.ipynb")
    out = outputs_by_id(tmp_path / "executed.ipynb", folder)
    for cell in ("check", "check-2", "check-3"):
        assert "public checks passed" in plain(out[cell])
        assert "✓" in out[cell][0]["data"]["text/html"]
    assert "NO SUBMISSION WAS WRITTEN: what you ran last for 1a, 1b, 1c is not in" in plain(out["submit"])
    assert "demo_ps_submission.zip is written and was read back" in plain(out["again"])
    assert "[ok] 3 of 3 coded answers" in plain(out["again"])
    assert "name 'nothing' is not defined" in plain(out["check-broken"])
    assert "line 3 of Cell In[" in plain(out["check-broken"])
    assert plain(out["modules"]) == "[]"
    result = grade(demo, folder / "demo_ps_submission.zip")
    assert result.score == result.possible == 10
    got = read_submission(folder / "demo_ps_submission.zip", {q.id: list(q.names) for q in demo.questions.values()})
    assert got.problems == []
    answers = {c["tag"]: c["source"] for c in got.cells if c["whole"]}
    assert answers == {f"answer:{id}": solution[f"answer-{id}"] for id in demo.questions}
    assert got.written["1d"]


# The setup cell


@pytest.fixture
def setup(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the setup cell in an empty folder, and give what it says and its namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "demo_ps_checks").exists()])
    for name in [m for m in sys.modules if m.startswith("demo_ps_checks")]:
        monkeypatch.delitem(sys.modules, name)
    source = next(c["source"] for c in nbformat.read(built.starter, 4)["cells"] if c["id"] == "setup")

    def run(change: Callable[[str], str] = str) -> tuple[str, dict[str, Any]]:
        namespace: dict[str, Any] = {}
        exec(change(source), namespace)
        return capsys.readouterr().out, namespace

    return run


def test_setup_says_what_is_missing(setup, capsys):
    said, namespace = setup()
    assert said == (
        "The public checks are missing: get demo_ps_student.zip, unpack it beside this notebook, "
        "then run this cell again.\n"
    )
    namespace["check"]("1a")
    namespace["submit"]()
    assert capsys.readouterr().out == said * 2


def test_setup_on_colab(setup, built, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert "Files panel" in setup()[0]
    shutil.copy(built.student_zip, tmp_path)
    (tmp_path / "demo_ps.ipynb").write_text("mine")
    said, namespace = setup()
    assert said == ""
    assert (tmp_path / "demo_ps.ipynb").read_text() == "mine", "the student's notebook is not overwritten"
    assert namespace["check"].__module__ == "demo_ps_checks.notebook"
    assert namespace["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert setup()[0] == "", "it can be run again"


def test_setup_renews_an_older_checks_folder(setup, built, tmp_path):
    with zipfile.ZipFile(built.student_zip) as archive:
        archive.extractall(tmp_path)
    assert setup()[0] == ""
    mark = tmp_path / "demo_ps_checks" / "__init__.py"
    mark.write_text(mark.read_text().replace('RELEASE = "', 'RELEASE = "older'))
    shutil.copytree(tmp_path / "demo_ps_checks", tmp_path / "old")
    for name in [m for m in sys.modules if m.startswith("demo_ps_checks")]:
        del sys.modules[name]
    assert "is of another release than this notebook" in setup()[0]
    shutil.copy(built.student_zip, tmp_path)
    assert setup()[0] == ""


def test_setup_takes_mended_checks_from_a_newer_zip(setup, built, tmp_path):
    shutil.copy(built.student_zip, tmp_path)
    assert setup()[0] == ""
    assert setup()[1]["check"] is setup()[1]["check"], "the same zip is not unpacked again"
    mended = load(shutil.copytree(DEMO, tmp_path / "source" / "demo_ps"))
    checks = mended.folder / "checks.py"
    checks.write_text(checks.read_text().replace("the weights' variance should be 1/D", "the variance should be 1/D"))
    newer = build(load(mended.folder), tmp_path / "newer", in_place=False)
    assert newer.release == built.release
    shutil.copy(newer.student_zip, tmp_path)
    said, namespace = setup()
    assert said == ""
    assert "the variance should" in (tmp_path / "demo_ps_checks" / "questions.py").read_text()
    assert not (tmp_path / "demo_ps.ipynb").exists(), "a notebook is never unpacked"
    exec("class Layer(torch.nn.Module):\n    pass\ncheck('1c')", namespace)


def test_setup_wants_a_recent_torch(setup, built, tmp_path, monkeypatch):
    shutil.copy(built.student_zip, tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.10.0+cpu")
    assert setup()[0] == ""
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    assert setup()[0] == "torch 2.5.1 is too old: version 2.6 or newer is needed.\n"


def test_a_rehearsal_of_a_set_that_holds_and_of_one_that_does_not(built, tmp_path, demo):
    lines: list[str] = []
    assert not rehearse(demo, built.student_zip.parent, lines.append)  # the small set shows no picture
    assert lines[0].startswith("starter: 3 of 3 checks at 0 with a line")
    assert lines[1].startswith("solution: 3 of 3 checks passed, 0 pictures")
    assert lines[2:] == ["its submission: 10 of 10 points", "       solution: no picture is shown"]
    other = tmp_path / "built"
    shutil.copytree(built.student_zip.parent, other)
    solution = other / "demo_ps_solution.ipynb"
    solution.write_text(solution.read_text().replace("logsumexp(a", "log_sum_exp(a"))
    lines.clear()
    assert not rehearse(demo, other, lines.append)
    assert lines[1].startswith("solution: 2 of 3 checks passed")
    assert any("the check of 1b says" in line for line in lines)
    assert any("the submission earns 7 of 10" in line for line in lines)
