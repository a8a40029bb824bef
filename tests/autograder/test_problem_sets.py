"""What every problem set in problem_sets/ keeps to. That its checks judge rightly is shown by `autograder audit`."""

import re
from collections import Counter

import pytest

from autograder.build import out_of_step
from autograder.problem_set import ROOT, load
from genmodels.syllabus import LECTURES

NAMES = sorted(path.name for path in ROOT.glob("ps*") if path.is_dir())


@pytest.fixture(params=NAMES)
def ps(request):
    return load(request.param)


def test_the_committed_starter_is_in_step(ps):
    assert out_of_step(ps) == ""


def test_points_and_sizes(ps):
    coded, written = [q.points for q in ps.questions.values()], [w.points for w in ps.written]
    assert sum(coded) + sum(written) == 100
    assert len(coded) >= 14
    assert written
    assert sum(q.quality for q in ps.questions.values()) == 1
    mistakes, alternatives = (Counter(v.question for v in each) for each in (ps.mistakes, ps.alternatives))
    assert {id: mistakes[id] for id in ps.questions if mistakes[id] < 5} == {}
    assert {id: alternatives[id] for id in ps.questions if alternatives[id] < 2} == {}


def test_the_readme_has_a_row_a_question_and_the_bands(ps):
    text = (ps.folder / "README.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d[a-z]) \|.*\| (\d+) \|$", text, re.MULTILINE))
    points = {q.id: q.points for q in ps.questions.values()} | {w.id: w.points for w in ps.written}
    assert {id: float(value) for id, value in rows.items()} == points
    assert "±" in text  # the trained-quality question's mean and spread


def test_the_syllabus_places_each_question_once():
    placed = [question for row in LECTURES for question in row.questions]
    sets = [load(name) for name in NAMES]
    there = [f"{ps.name}/{id}" for ps in sets for id in [*ps.questions, *(w.id for w in ps.written)]]
    assert sorted(placed) == sorted(there)
