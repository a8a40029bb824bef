"""The syllabus and the problem sets name the same questions."""

from autograder.problem_set import ROOT, load
from genmodels.syllabus import LECTURES


def test_every_question_of_every_set_stands_in_one_lecture():
    named = [question for row in LECTURES for question in row.questions]
    sets = [load(path) for path in sorted(ROOT.glob("ps*")) if (path / f"{path.name}.py").is_file()]
    there = [f"{ps.name}/{id}" for ps in sets for id in [*ps.questions, *(w.id for w in ps.written)]]
    assert sets
    assert sorted(named) == sorted(there)


def test_a_set_holds_100_points():
    for path in sorted(ROOT.glob("ps*")):
        assert load(path).points == 100
