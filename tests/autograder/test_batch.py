"""A class is graded whatever is handed in: in parallel, resumable, with every failure in its own row."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autograder import batch, problem_set
from autograder.batch import content_key, discover, run_batch, student_name
from autograder.errors import GraderError

ROOT = Path(__file__).resolve().parents[2]
RIGHT = """# %% tags=["answer:1a"]
def double(x):
    return 2 * x
# %% tags=["answer:1b"]
def word():
    return "fine"
"""
SOURCE = """# %% tags=["setup"]
import torch

# %% tags=["answer:1a"]
def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION

# %% tags=["answer:1b"]
def word():
    # BEGIN SOLUTION
    return "fine"
    # END SOLUTION
"""
# The second check misbehaves on cue, as a grader with a fault of its own would.
CHECKS = """
import os, time
from autograder.checks import compare, question

@question("1a", points=3, names=["double"], title="Doubling", seconds=5)
def double(student, reference, draw):
    x = draw.normal(5)
    compare(student.double(x), reference.double(x), "double")

@question("1b", points=2, names=["word"], title="A word", seconds=5)
def word(student, reference, draw):
    said = student.word()
    if said == "die":
        os.kill(os.getpid(), 9)
    if said == "hang":
        time.sleep(1000)
    if said == "slow":
        time.sleep(1)
    if said == "raise":
        raise RuntimeError("the check is broken")
    compare(said, reference.word(), "word")
"""


QUICK = ("numpy", "torch")  # what these submissions need; the rest would double the time of each start


@pytest.fixture
def tiny(tmp_path: Path) -> problem_set.ProblemSet:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tiny.py").write_text(SOURCE)
    (folder / "checks.py").write_text(CHECKS)
    return problem_set.load(folder)


def hand_in(folder: Path, **texts: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / f"{name}.py").write_bytes(data)
    return folder


def table(out: Path) -> dict[str, dict[str, str]]:
    return {row["student"]: row for row in csv.DictReader((out / "grades.csv").open())}


def test_one_bad_submission_never_stops_the_rest(
    tiny: problem_set.ProblemSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "JOB_ATTEMPTS", 1)
    folder = hand_in(
        tmp_path / "in",
        ann=RIGHT,
        bob=RIGHT.replace("2 * x", "3 * x"),
        die=RIGHT.replace("fine", "die"),
        raises=RIGHT.replace("fine", "raise"),
        garbage=os.urandom(2000),
        killer=RIGHT + "\n# %% tags=['answer:1a']\nimport os\nos._exit(7)\n",
        zoe=RIGHT,
    )
    (folder / "cut.zip").write_bytes(b"PK\x03\x04 cut short")
    (folder / "link.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.py")
    (folder / "essay.docx").write_text("x")
    out = tmp_path / "out"
    run = run_batch(tiny, folder, out, jobs=2, preload=QUICK)
    rows = table(out)
    assert [rows["ann"][k] for k in ("1a", "1b", "total", "possible")] == ["3", "2", "5", "5"]
    assert rows["zoe"]["total"] == "5"
    assert rows["bob"]["total"] == "2"
    for student in ("garbage", "cut", "link", "pipe"):
        assert rows[student]["total"] == "0", rows[student]
        assert rows[student]["notes"]
    assert rows["killer"]["total"] != ""
    for student in ("die", "raises"):
        assert rows[student]["total"] == ""
        assert rows[student]["notes"].startswith("NOT GRADED")
    assert "signal 9" in rows["die"]["notes"]
    assert "the check is broken" in rows["raises"]["notes"]
    assert sorted(e.student for e in run.failed) == ["die", "raises"]
    assert run.skipped == ["essay.docx: not a submission (.ipynb, .py, .zip), left out"]
    assert json.loads((out / "results" / "bob.json").read_text())["score"] == 2
    assert (out / "histogram.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "similarity.csv").is_file()

    # what is graded stays, also where a file of the same content comes from another student
    for name in ("die", "raises"):
        (folder / f"{name}.py").unlink()
    (folder / "bob.py").write_text(RIGHT)
    again = run_batch(tiny, folder, out, jobs=2, preload=QUICK)
    assert table(out)["bob"]["total"] == "5"
    assert again.reused == len(again.entries)


def test_what_a_result_depends_on_is_in_its_key(tiny: problem_set.ProblemSet) -> None:
    def key(**changes: Any) -> str:
        return batch.base_key(problem_set.load(tiny.folder), batch.Settings("", **changes))

    first = key(secret=b"1")
    assert key(secret=b"1", timeout=5.0) == first
    assert key(secret=b"2") != first
    assert key(secret=b"1", device="cuda") != first
    (tiny.folder / "checks.py").write_text(CHECKS.replace("points=3", "points=4"))
    assert key(secret=b"1") != first


def test_a_submission_whose_job_dies_gets_another_and_no_process_stays(
    tiny: problem_set.ProblemSet, tmp_path: Path
) -> None:
    """The check dies at its first run only; then nothing of either job is left, its sandbox included."""
    mark = tmp_path / "mark"
    once = f"    if said == 'die' and not os.path.exists({str(mark)!r}):\n        open({str(mark)!r}, 'w')\n"
    (tiny.folder / "checks.py").write_text(CHECKS.replace('    if said == "die":\n', once))
    folder = hand_in(tmp_path / "in", ann=RIGHT.replace("fine", "die"))
    code = (
        "import time; from pathlib import Path; from autograder import batch, gradescope, problem_set\n"
        "gradescope.adopt_orphans()\n"
        f"ps, where = problem_set.load({str(tiny.folder)!r}), Path({str(folder)!r})\n"
        f"out = Path({str(tmp_path / 'out')!r})\n"
        f"print('failed:', len(batch.run_batch(ps, where, out, preload={QUICK!r}).failed))\n"
        "end = time.monotonic() + 20\n"
        "while gradescope.descendants() and time.monotonic() < end: time.sleep(0.1)\n"
        "print('left:', gradescope.descendants())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert mark.exists()
    assert "failed: 0\nleft: []" in done.stdout, done.stdout + done.stderr
    assert table(tmp_path / "out")["ann"]["1a"] == "3"


def test_a_job_that_hangs_is_given_up(
    tiny: problem_set.ProblemSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "JOB_ATTEMPTS", 1)
    folder = hand_in(tmp_path / "in", ann=RIGHT, bob=RIGHT.replace("fine", "hang"), carl=RIGHT + "#")
    run = run_batch(tiny, folder, tmp_path / "out", timeout=8, preload=QUICK)
    assert [(e.student, "longer than 8 s" in e.failure) for e in run.failed] == [("bob", True)]
    assert table(tmp_path / "out")["carl"]["total"] == "5"


def test_a_killed_run_goes_on(tiny: problem_set.ProblemSet, tmp_path: Path) -> None:
    slow = RIGHT.replace("fine", "slow")
    folder = hand_in(tmp_path / "in", **{f"s{i}": slow + f"# {i}\n" for i in range(4)})
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from autograder import batch, problem_set\n"
        f"ps, where, out = problem_set.load({str(tiny.folder)!r}), Path({str(folder)!r}), Path({str(out)!r})\n"
        f"batch.run_batch(ps, where, out, preload={QUICK!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True) as process:
        end = time.monotonic() + 200
        while time.monotonic() < end and not list(out.glob("graded/*.json")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    before = len(list(out.glob("graded/*.json")))
    assert 1 <= before < 4
    run = run_batch(tiny, folder, out, preload=QUICK)
    assert before <= run.reused < 4
    assert len(table(out)) == 4
    assert not run.failed


def test_a_level_that_does_not_exist_is_one_error_not_one_a_student(
    tiny: problem_set.ProblemSet, tmp_path: Path
) -> None:
    with pytest.raises(GraderError, match="level"):
        run_batch(tiny, hand_in(tmp_path / "in", ann=RIGHT, bob=RIGHT + "#"), tmp_path / "out", level="vault")


# -- who handed in what

EXPORT = """---
submission_11:
  :submitters:
  - :name: Ann Example
    :sid: '123'
    :email: ann@example.edu
  - :name: Bob Example
    :sid: '124'
    :email: bob@example.edu
  :created_at: 2026-02-14 04:59:00.123456000 Z
  :score: 3.0
  :results: !ruby/hash:ActiveSupport::HashWithIndifferentAccess
    tests: []
submission_12:
  :submitters:
  - :name: Ann Example
    :email: other@example.edu
  :created_at: 2026-02-14 05:59:00 -0500
submission_13:
  :submitters:
  - :name: Nobody
../submission_14:
  :submitters:
  - :name: Outside
"""


def test_a_gradescope_export(tmp_path: Path) -> None:
    (tmp_path / "submission_14").mkdir()
    tmp_path = tmp_path / "in"
    for n in (11, 12, 15):
        (tmp_path / f"submission_{n}").mkdir(parents=True)
        (tmp_path / f"submission_{n}" / "ps1.ipynb").write_text("{}")
    (tmp_path / "submission_metadata.yml").write_text(EXPORT)
    entries, skipped = discover(tmp_path)
    by_name = {e.student: e for e in entries}
    assert set(by_name) == {
        "Ann Example (ann@example.edu)", "Ann Example (other@example.edu)", "Bob Example", "Nobody", "Outside"
    }  # fmt: skip
    assert by_name["Bob Example"].path == tmp_path / "submission_11"
    assert by_name["Bob Example"].submitted_at == "2026-02-14T04:59:00.123456+00:00"
    assert by_name["Bob Example"].sid == "124"
    assert by_name["Outside"].path is None
    assert by_name["Nobody"].path is None
    assert skipped == ["submission_15: not in submission_metadata.yml, left out"]


def test_times_of_an_export_suit_the_gradebook(tmp_path: Path) -> None:
    from autograder.gradebook import moment

    (tmp_path / "submission_metadata.yml").write_text(EXPORT)
    entries, _ = discover(tmp_path)
    times = sorted(moment(e.submitted_at, "x").isoformat() for e in entries if e.submitted_at)
    assert times[0].startswith("2026-02-14T04:59:00")
    assert times[-1].startswith("2026-02-14T10:59:00")


@pytest.mark.parametrize(
    "stem", ["ann", "ps1_ann", "ann_ps1", "ann-ps1", "PS1-ann", "ps1 ann", "ann.ps1"]
)  # fmt: skip
def test_names_of_files(stem: str) -> None:
    assert student_name(stem, "ps1") == "ann"


def test_a_file_named_as_the_set_keeps_its_name() -> None:
    assert student_name("ps1", "ps1") == "ps1"


def test_the_key_is_the_contents(tmp_path: Path) -> None:
    hand_in(tmp_path, a="x", b="x", c="y")
    key = {n: content_key(tmp_path / f"{n}.py", "base") for n in "abc"}
    assert key["a"] == key["b"] != key["c"]
    assert content_key(tmp_path / "a.py", "other") != key["a"]
    shutil.copy(tmp_path / "a.py", tmp_path / "a.zip")
    assert content_key(tmp_path / "a.zip", "base") != key["a"]


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(GraderError, match="no submission"):
        discover(tmp_path)


def test_a_dask_cluster_of_two_workers(tiny: problem_set.ProblemSet, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    folder = hand_in(tmp_path / "in", ann=RIGHT, bob=RIGHT.replace("2 * x", "x"), cut=b"\xff\x00", dan=RIGHT + "#")
    (folder / "raises.py").write_text(RIGHT.replace("fine", "raise"))
    (folder / "eve").mkdir()
    (folder / "eve" / "tiny.py").write_text(RIGHT + "##")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path / "d")
    ) as cluster:
        run = run_batch(tiny, folder, tmp_path / "out", cluster=cluster.scheduler_address, preload=QUICK)
    rows = table(tmp_path / "out")
    assert {s: rows[s]["total"] for s in rows} == {
        "ann": "5", "bob": "2", "cut": "0", "dan": "5", "eve": "5", "raises": ""
    }  # fmt: skip
    assert [e.student for e in run.failed] == ["raises"]


def test_no_cluster_there_is_one_line(tiny: problem_set.ProblemSet, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(GraderError, match="--cluster") as caught:
        run_batch(tiny, hand_in(tmp_path / "in", ann=RIGHT), tmp_path / "out", cluster="nonsense://x")
    assert "\n" not in str(caught.value)
