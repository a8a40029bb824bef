"""The audit: green on a set that holds, and it names what does not. The attacks have tests of their own."""

import shutil
from pathlib import Path

import pytest

from autograder.audit import audit
from autograder.build import build
from autograder.problem_set import load

DEMO = Path(__file__).parent / "demo_ps"


def lines_of(folder: Path, **options):
    said: list[str] = []
    return audit(load(folder), attacks=False, say=said.append, **options), "\n".join(said)


@pytest.fixture
def copy(tmp_path):
    """The small set, in a folder of the same name that a test may spoil."""
    shutil.copytree(DEMO, tmp_path / "demo_ps")
    return tmp_path / "demo_ps"


def test_a_set_that_is_only_too_small_and_its_built_zip(copy, tmp_path):
    (tmp_path / "built").mkdir()
    build(load(copy), tmp_path / "built")
    good, said = lines_of(copy, built=tmp_path / "built")
    assert not good
    assert said.count("mistakes and 2 alternatives are wanted") == said.count("FAILS") == 3  # that, and nothing else
    assert "told by their own hint 5/5; alternatives with full marks 4/4" in said
    assert "student zip: as built, it holds no solution" in said
    source = copy / "demo_ps.py"
    source.write_text(source.read_text() + "\n# %% [markdown]\n# A cell that came after the build.\n")
    _, said = lines_of(copy, built=tmp_path / "built", only=["1b"])
    assert "FAILS demo_ps_student.zip is of another release: autograder build demo_ps" in said
    (tmp_path / "built" / "demo_ps_student.zip").write_bytes(b"garbage")
    good, said = lines_of(copy, built=tmp_path / "built", only=["1b"])
    assert not good
    assert "FAILS the zip cannot be read" in said


def test_what_does_not_hold_is_named(copy):
    mistakes, alternatives = copy / "mistakes.py", copy / "alternatives.py"
    mistakes.write_text(
        mistakes.read_text() + '\n\n@mistake("1b", "No mistake at all.")\ndef logsumexp(a):\n'
        "    return torch.logsumexp(a, 1)\n"
    )
    alternatives.write_text(
        alternatives.read_text() + '\n\n@alternative("1b", "a wrong one")\ndef logsumexp(a):\n    return a.sum(1)\n'
    )
    good, said = lines_of(copy, only=["1b"])
    assert not good
    assert "earns full marks (No mistake at all.)" in said
    assert "alternative at alternatives.py" in said
    assert "is not in step" in said or "student zip" in said
