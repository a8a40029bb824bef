"""Grading, in the best isolation that this machine offers: fair scores, hints, and questions that fail alone."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from autograder.checks import Draw, Part, Run, bands, part, run_question
from autograder.grade import Answer, Grader, combine
from autograder.problem_set import load
from autograder.proxies import Reference, Student

DEMO = Path(__file__).parent / "demo_ps"

GAUSSIAN = "def gaussian_mle(x):\n    return x.mean(0), x.var(0, correction=0)\n"
LOGSUMEXP = "def logsumexp(a):\n    return torch.logsumexp(a, 1)\n"
LAYER = """class Layer(torch.nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(d, k, dtype=torch.float64) / d ** 0.5)
    def forward(self, x):
        return torch.einsum("nd,dk->nk", x, self.weight)
"""


@pytest.fixture(scope="module")
def grader():
    with Grader(load(DEMO), secret=b"a secret of the tests") as grader:
        yield grader


def notebook(path, *cells):
    """Write a notebook of (tag, source) code cells."""
    nb = nbformat.v4.new_notebook()
    for tag, source in cells:
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = [tag] if tag else []
        nb.cells.append(cell)
    nbformat.write(nb, path)
    return path


def points(result):
    return {q.id: q.points for q in result.questions}


FULL = [("answer:1a", GAUSSIAN), ("answer:1b", LOGSUMEXP), ("answer:1c", LAYER)]


def test_a_right_answer_in_another_form_gets_full_marks(grader, tmp_path):
    result = grader.grade(notebook(tmp_path / "a.ipynb", *FULL))
    assert points(result) == {"1a": 4, "1b": 3, "1c": 3}
    assert result.written
    assert result.hidden == (result.level != "public")


def test_a_plain_python_file_is_graded_too(grader, tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import torch\n" + GAUSSIAN + LOGSUMEXP + LAYER)
    assert points(grader.grade(path)) == {"1a": 4, "1b": 3, "1c": 3}


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ("def logsumexp(a):\n    while True: pass", "logsumexp"),
        ("def logsumexp(a):\n    import os\n    os._exit(0)", "logsumexp"),
        ("def logsumexp(a):\n    raise SystemExit", "raised SystemExit"),
        ("def logsumexp(a) return 1", "logsumexp is not defined"),
        ("def logsumexp(a):\n    return a.sum() / 0 if a.x else 1", "raised AttributeError"),
        ("import os\nos._exit(3)", "logsumexp"),
    ],
)
def test_one_question_that_dies_hangs_or_raises_costs_itself_alone(tmp_path, grader, bad, line):
    path = notebook(tmp_path / "a.ipynb", ("answer:1a", GAUSSIAN), ("answer:1b", bad), ("answer:1c", LAYER))
    result = grader.grade(path)
    assert points(result) == {"1a": 4, "1b": 0, "1c": 3}
    assert line in result.questions[1].lines[0]


def test_a_mistake_is_told_by_its_own_hint_first(grader, tmp_path):
    wrong = "def gaussian_mle(x):\n    return x.mean(0), x.var(0)"
    result = grader.grade(notebook(tmp_path / "a.ipynb", ("answer:1a", wrong)))
    question = result.questions[0]
    assert question.points == 2
    assert question.lines[0].startswith("Your variance is the unbiased one")
    assert not question.public


def test_an_answer_that_is_wrong_in_its_own_way_gets_the_difference(grader, tmp_path):
    wrong = "def gaussian_mle(x):\n    return x.mean(0), x.var(0) * 1.7"
    question = grader.grade(notebook(tmp_path / "a.ipynb", ("answer:1a", wrong))).questions[0]
    assert question.hint is None
    assert "entries differ; the largest error is" in question.lines[0]


def test_hard_coding_the_public_answers_earns_nothing(grader, tmp_path):
    q = grader.ps.question("1b")
    with Answer(grader.zygote, grader.ps.solution_cells()) as solution:
        seen = []

        def spy(request):
            reply = solution.request(request, 60)
            seen.append(reply["ok"])
            return reply

        seed = grader.public_seeds(q)[0]
        run_question(q, Student(spy, seed), Reference({}, lambda r: solution.request(r, 60), seed), Draw(seed))
    answers = [a.tolist() for a in seen]
    cheat = f"answers = {answers!r}\ncalls = []\ndef logsumexp(a):\n    calls.append(1)\n"
    cheat += "    return torch.tensor(answers[(len(calls) - 1) % len(answers)], dtype=torch.float64)"
    result = grader.grade(notebook(tmp_path / "a.ipynb", ("answer:1b", cheat)))
    assert result.questions[1].public
    assert result.questions[1].points == 0


def test_a_part_counts_as_at_its_worst_seed():
    q = load(DEMO).question("1a")

    def run(mean, variance):
        return Run(q, [Part("mean", 2, mean), Part("variance", 2, variance)])

    assert combine(q, [run(True, True), run(True, True)]).points == 4
    assert combine(q, [run(True, True), run(True, False)]).points == 2
    assert combine(q, [run(False, True), run(True, False)]).points == 0
    assert combine(q, [run(True, True), Run(q, [Part("", 4, False)])]).points == 0


def test_changing_the_input_in_place_is_told(grader, tmp_path):
    rude = "def logsumexp(a):\n    a -= 1\n    return torch.logsumexp(a, 1) + 1"
    question = grader.grade(notebook(tmp_path / "a.ipynb", ("answer:1b", rude))).questions[1]
    assert question.points == 0
    assert "changes its input in place (argument 1)" in question.lines[0]


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff garbage", b"{", b"[" * 100_000, b'{"cells": 3}', b"PK\x03\x04broken"], ids=range(6)
)
@pytest.mark.parametrize("suffix", [".ipynb", ".zip", ".txt"])
def test_garbage_scores_nothing_with_a_line(grader, tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    result = grader.grade(path)
    assert result.score == 0
    assert result.notes
    assert all("\n" not in note for note in result.notes)


def test_the_same_grader_gives_the_same_result_twice_and_nothing_is_left(grader, tmp_path):
    path = notebook(tmp_path / "a.ipynb", *FULL[:2], ("answer:1c", LAYER.replace("** 0.5", "")))
    first, second = grader.grade(path), grader.grade(path)
    assert points(first) == points(second) == {"1a": 4, "1b": 3, "1c": 2}


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    path = notebook(tmp_path / "a.ipynb", *FULL[:2])
    command = [sys.executable, "-m", "autograder", "grade", str(DEMO), str(path), "--out", str(tmp_path / "r.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "7 of 10" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["score"] == 7


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["grade", "ps99", "x.py"], "unknown problem set"),
        (["grade", str(DEMO), "no_such.ipynb"], "there is no such file"),
        (["audit", str(DEMO), "--only", "9z", "--no-attacks"], "unknown question '9z'"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, arguments, line):
    done = subprocess.run(
        [sys.executable, "-m", "autograder", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    errors = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert len(errors) == 1
    assert line in errors[0]


def test_the_grader_never_imports_torch(tmp_path):
    path = notebook(tmp_path / "a.ipynb", *FULL[:1])
    code = (
        "import sys; from autograder.grade import grade; from autograder.problem_set import load;"
        f"grade(load({str(DEMO)!r}), {str(path)!r}); assert 'torch' not in sys.modules"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert time.monotonic() - start < 60


def test_trained_quality_is_measured_at_the_hidden_seed_alone(grader, tmp_path):
    asked = []

    def seen(student, reference, draw):
        asked.append(draw.seed)
        with part("figure", 4):
            bands(1.0, [(1.5, 4)], what="figure", higher_is_better=False)

    q = dataclasses.replace(grader.ps.question("1a"), id="1q", names=("gaussian_mle",), run=seen, seeds=1, quality=True)
    with Answer(grader.zygote, [{"source": GAUSSIAN, "whole": True, "label": "1"}]) as answer:
        result = grader.grade_question(q, answer)
    assert asked == (grader.public_seeds(q) if grader.zygote.level == "public" else grader.hidden_seeds(q))
    assert (result.figure, result.points, result.public, result.quality) == (1.0, 4, True, True)
    assert result.lower_is_better
    assert grader.nothing(q, "a line").quality
