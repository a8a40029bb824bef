"""Gradescope: results to its format whatever is handed in, times from the metadata, the real scripts in a sandbox."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from autograder import gradescope, problem_set
from autograder.errors import GraderError
from autograder.gradescope import LocalRun, late, make_gradescope_zip, read_extensions, run_locally
from autograder.problem_set import solved

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(__file__).parent / "demo_ps"
SECRET = bytes(range(16))

# Gradescope's published format, written down once more, and stricter: nothing that it does not name.
SHOWN = {"enum": ["hidden", "after_due_date", "after_published", "visible"]}
FORMAT = {"enum": ["text", "html", "simple_format", "md", "ansi"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["score", "tests"],
    "properties": {
        "score": {"type": "number", "minimum": 0},
        "execution_time": {"type": "number", "minimum": 0},
        "output": {"type": "string"},
        "output_format": FORMAT,
        "visibility": SHOWN,
        "stdout_visibility": SHOWN,
        "extra_data": {"type": "object"},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["score", "max_score", "name"],
                "properties": {
                    "score": {"type": "number", "minimum": 0},
                    "max_score": {"type": "number", "minimum": 0},
                    "status": {"enum": ["passed", "failed"]},
                    "name": {"type": "string"},
                    "name_format": FORMAT,
                    "number": {"type": "string"},
                    "output": {"type": "string"},
                    "output_format": FORMAT,
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "visibility": SHOWN,
                    "extra_data": {"type": "object"},
                },
            },
        },
        "leaderboard": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "value"],
                "properties": {
                    "name": {"type": "string"},
                    "value": {"type": ["number", "string"]},
                    "order": {"enum": ["asc", "desc"]},
                },
            },
        },
    },
}


def valid(results: dict[str, Any]) -> dict[str, Any]:
    """The results, if they fit the format; strict JSON, and the score is that of the tests."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(results, SCHEMA)
    json.dumps(results, allow_nan=False)
    assert results["score"] == pytest.approx(sum(t["score"] for t in results["tests"]))
    return results


def graded(**changes: Any) -> dict[str, Any]:
    """What GradeResult.to_dict gives."""
    question = {
        "id": "2b", "title": "The M-step", "points": 4.0, "possible": 6.0, "public": True, "hint": None,
        "parts": [("weights", 2.0, 2.0, []), ("means", 2.0, 2.0, []), ("covariances", 0.0, 2.0, ["covariances: off"])],
        "lines": ["Weigh each point.", "covariances: off"], "figure": None, "quality": False, "seconds": 0.1,
    }  # fmt: skip
    trained = {**question, "id": "3b", "title": "Digits", "figure": -123.456789, "quality": True, "points": 6.0}
    return {
        "problem_set": "ps1", "level": "bubblewrap", "hidden": True, "questions": [question, trained],
        "written": [("1a", 5.0)], "notes": [], "output": "", "seconds": 1.0, "score": 10.0, "possible": 12.0, **changes,
    }  # fmt: skip


def test_results_fit_the_format() -> None:
    found = valid(gradescope.results(graded(), {"leaderboard": {"3b": "asc"}}, None, [], 12.34))
    assert found["score"] == 10
    assert found["leaderboard"] == [{"name": "Digits", "value": -123.457, "order": "asc"}]
    lower = graded()
    assert gradescope.results(lower, {}, None, [], 1)["leaderboard"][0]["order"] == "desc"
    lower["questions"][1]["lower_is_better"] = True  # as its bands say
    assert gradescope.results(lower, {}, None, [], 1)["leaderboard"][0]["order"] == "asc"
    points = {t["number"]: t for t in found["tests"]}
    assert (points["2b.1"]["score"], points["2b.1"]["max_score"], points["2b.1"]["status"]) == (4, 6, "failed")
    assert "| covariances | 0 | 2 |" in points["2b.1"]["output"]
    assert "Weigh each point." in points["2b.1"]["output"]
    assert "1a (5)" in found["output"]
    valid(gradescope.fallback())


def test_what_students_see_at_once_says_nothing_of_points_or_hidden_checks() -> None:
    found = gradescope.results(graded(output="x" * 50), {}, None, [], 1)
    at_once = [t for t in found["tests"] if t["visibility"] == "visible"]
    assert [t["max_score"] for t in at_once] == [0, 0]
    seen = found["output"] + "".join(t["output"] for t in at_once)
    assert "Weigh" not in seen
    assert "covariances" not in seen
    assert "x" * 50 not in json.dumps(found)
    assert found["stdout_visibility"] == "hidden"


def test_visibility_is_configured_by_question() -> None:
    found = gradescope.results(graded(), {"visibility": {"questions": "hidden", "2b": "visible"}}, None, [], 1)
    shown = {t["number"]: t["visibility"] for t in found["tests"]}
    assert (shown["2b.1"], shown["3b.1"], shown["3b.0"]) == ("visible", "hidden", "visible")


def test_students_text_is_not_markdown() -> None:
    line = "NameError: ````<script>alert(1)</script>![](http://x/y.png)\n# big"
    made = graded(notes=[line])
    made["questions"][0]["lines"] = [line]
    found = valid(gradescope.results(made, {}, None, [], 1))
    for text in (found["output"], found["tests"][1]["output"]):
        before, fence, rest = text.partition("`````text\n")
        assert fence
        assert "script" not in before
        assert rest.rstrip().endswith("\n`````")
        assert "y.png) # big\n" in rest  # a line stays one line
    assert gradescope.plain("a|b `c` <d>") == r"a\|b \`c\` \<d\>"


def test_figures_that_are_not_finite_are_no_leaderboard() -> None:
    made = graded()
    made["questions"][1]["figure"] = float("nan")
    assert "leaderboard" not in valid(gradescope.results(made, {}, None, [], 1))


# -- times

DUE = datetime(2026, 2, 13, 23, 59, tzinfo=timezone(timedelta(hours=-5)))


def metadata(after: timedelta = timedelta(0), **changes: Any) -> dict[str, Any]:
    """A submission that came `after` the due date, with the fields that Gradescope documents."""
    return {
        "id": 123456,
        "created_at": (DUE + after).astimezone(timezone(timedelta(hours=-8))).isoformat(),
        "assignment": {"due_date": DUE.isoformat(), "late_due_date": None, "title": "PS 1", "total_points": "100.0"},
        "submission_method": "upload",
        "users": [{"email": "Ann@example.edu", "id": 1, "name": "Ann"}],
        "previous_submissions": [],
        **changes,
    }


@pytest.mark.parametrize(
    ("after", "hours"),
    [
        (timedelta(hours=-40), 0),
        (timedelta(0), 0),
        (timedelta(seconds=1), 1),
        (timedelta(hours=1), 1),
        (timedelta(hours=47, microseconds=1), 48),
    ],
)
def test_hours_late_come_from_the_metadata(after: timedelta, hours: int) -> None:
    assert late(metadata(after), {}).hours == hours


def test_an_extension_moves_the_due_date_of_its_student() -> None:
    given = {"ann@example.edu": gradescope.exact("24.5", "x")}
    assert late(metadata(timedelta(hours=26)), given).hours == 2
    assert late(metadata(timedelta(hours=26)), {"bob@example.edu": given["ann@example.edu"]}).hours == 26
    group = [{"email": "bob@example.edu"}, {"email": "ann@example.edu"}]
    assert late(metadata(timedelta(hours=26), users=group), given).hours == 2


def test_a_due_date_that_gradescope_moved_counts() -> None:
    own = [{"email": "ann@example.edu", "assignment": {"due_date": (DUE + timedelta(hours=48)).isoformat()}}]
    assert late(metadata(timedelta(hours=50), users=own), {}).hours == 2
    assert late(metadata(timedelta(hours=50), users=own), {"ann@example.edu": gradescope.exact("49", "x")}).hours == 1


def test_no_due_date_is_on_time_and_no_time_is_an_error() -> None:
    assert late(metadata(assignment={"due_date": None}), {}).hours == 0
    for broken in ({}, {"created_at": "yesterday"}, {"created_at": None}):
        with pytest.raises(GraderError):
            late(broken, {})


def test_files_of_extensions(tmp_path: Path) -> None:
    table, mapping = tmp_path / "extensions.csv", tmp_path / "extensions.json"
    table.write_text("name,email,hours\nAnn, Ann@Example.edu ,24.5\n")
    mapping.write_text('{"ann@example.edu": 24.5}')
    assert read_extensions(table) == read_extensions(mapping) == {"ann@example.edu": gradescope.exact("24.5", "x")}
    for text in ("who,hours\na,1\n", "email,hours\na,-1\n", "email,hours\na,soon\n"):
        table.write_text(text)
        with pytest.raises(GraderError, match=r"extensions\.csv"):
            read_extensions(table)


# -- the zip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zip")
    (folder / "extensions.csv").write_text("email,hours\nann@example.edu,3\n")
    return make_gradescope_zip(problem_set.load(DEMO), folder / "demo.zip", SECRET)


def test_the_zip_has_its_scripts_at_the_top(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        modes = {i.filename: (i.external_attr >> 16) & 0o777 for i in opened.infolist()}
    assert modes["setup.sh"] == modes["run_autograder"] == 0o755
    assert modes["secret"] == 0o600
    assert "problem_sets/demo_ps/checks.py" in modes
    assert "autograder/grade.py" in modes
    assert not any("__pycache__" in name or name.endswith(".ipynb") for name in modes)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600


def test_the_zip_refuses_what_gradescope_does_not_know(tmp_path: Path) -> None:
    ps = problem_set.load(DEMO)
    for wrong in ({"questions": "never"}, {"9z": "visible"}):
        with pytest.raises(GraderError):
            make_gradescope_zip(ps, tmp_path / "x.zip", SECRET, visibility=wrong)
    with pytest.raises(GraderError, match="secret"):
        make_gradescope_zip(ps, tmp_path / "x.zip", b"")


def test_extensions_in_the_zip_and_unreadable_metadata(tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text('{"ann@example.edu": 5}')
    made = make_gradescope_zip(problem_set.load(DEMO), tmp_path / "a.zip", SECRET, extensions=given)
    root = tmp_path / "root"
    with zipfile.ZipFile(made) as opened:
        opened.extractall(root / "source")
    (root / "submission_metadata.json").write_text(json.dumps(metadata(timedelta(hours=7))))
    when, problems = gradescope._time_of(root)
    assert when is not None
    assert (when.hours, problems) == (2, [])
    (root / "extensions.csv").write_text("broken")
    when, problems = gradescope._time_of(root)
    assert when is not None
    assert when.hours == 2
    assert "cannot be read" in problems[0]
    for broken in ("{", "[]", '{"created_at": 5}'):
        (root / "submission_metadata.json").write_text(broken)
        assert gradescope._time_of(root)[0] is None


# -- a run that goes wrong


def lay_out(archive: Path, root: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(root / "source")
    (root / "submission").mkdir()
    (root / "submission" / "demo_ps.py").write_text("x = 1\n")
    return root


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("fate", ["exit 3", "kill -9 $$", "exit 0"])
def test_whatever_ends_the_grader_a_valid_result_stands(archive: Path, tmp_path: Path, fate: str) -> None:
    root = lay_out(archive, tmp_path / "root")
    python = script(tmp_path / "python", fate)
    environment = {**os.environ, "AUTOGRADER_ROOT": str(root), "AUTOGRADER_PYTHON": str(python)}
    subprocess.run(["bash", str(root / "source" / "run_autograder")], env=environment, check=False)
    found = valid(json.loads((root / "results" / "results.json").read_text()))
    assert found["score"] == 0
    assert "not your fault" in found["output"]


def supervised(root: Path, child: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """`run` with another program in the place of the grading process."""
    config = root / "source" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "timeout": timeout}))
    fake = script(root / "child", child)
    code = (
        "import sys; from pathlib import Path; from autograder import gradescope\n"
        f"sys.executable = {str(fake)!r}\n"
        f"status = gradescope.run(Path({str(root)!r}))\n"
        "print('left:', gradescope.descendants()); sys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_final_result_waits_until_every_process_is_dead(archive: Path, tmp_path: Path) -> None:
    """A child that leaves a daemon behind, in a session of its own, which would overwrite the result later."""
    root = lay_out(archive, tmp_path / "root")
    results = root / "results" / "results.json"
    (root / "graded.json").write_text(json.dumps(graded()))
    done = supervised(
        root,
        f'setsid bash -c \'sleep 3; echo "{{}}" > {results}\' >/dev/null 2>&1 &\ncp {root}/graded.json "${{@: -1}}"\n',
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left: []" in done.stdout
    assert valid(json.loads(results.read_text()))["score"] == 10
    time.sleep(3.5)
    assert valid(json.loads(results.read_text()))["score"] == 10


@pytest.mark.parametrize(
    ("child", "said"),
    [("sleep 1000", "longer than 2 s"), ("exit 7", "status 7"), ("exit 0", "NOT GRADED"), ("kill -9 $$", "status -9")],
)
def test_a_grading_process_that_fails_leaves_the_fallback(archive: Path, tmp_path: Path, child: str, said: str) -> None:
    root = lay_out(archive, tmp_path / "root")
    done = supervised(root, child, timeout=2)
    assert done.returncode == 1
    assert said in done.stdout
    assert valid(json.loads((root / "results" / "results.json").read_text()))["tests"] == []


def test_a_link_in_the_results_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "results.json").symlink_to(target)
    gradescope.write(tmp_path / "results.json", gradescope.fallback())
    assert target.read_text() == "kept"
    assert not (tmp_path / "results.json").is_symlink()
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        ("*pip*) exit 9;; *version_info*) exit 0;;", "-m pip install"),
        ("*--version*) echo Python 3.8;;", "3.8 is too old"),
    ],
)
def test_setup_is_loud_where_it_fails(archive: Path, tmp_path: Path, fake: str, said: str) -> None:
    root = lay_out(archive, tmp_path / "root")
    python = script(tmp_path / "python", f'case "$*" in {fake} *) exit 1;; esac')
    environment = {**os.environ, "AUTOGRADER_ROOT": str(root), "AUTOGRADER_PYTHON": str(python)}
    command = ["bash", str(root / "source" / "setup.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FAILED at line" in done.stderr
    assert said in done.stderr
    assert "setup.sh: done" not in done.stdout


# -- the real scripts

HOSTILE = """# %% tags=["answer:1a"]
import glob, os, sys, signal
FOUND = []
roots = ["/autograder", *glob.glob("/tmp/*/autograder"), *glob.glob("/tmp/*/*/*/autograder")]
names = ["source/secret", "source/problem_sets/demo_ps/demo_ps.py", "results/results.json", "submission_metadata.json"]
for path in [f"{root}/{name}" for root in roots for name in names]:
    try:
        FOUND.append(open(path).read())
    except OSError:
        pass
    try:
        open(path, "w").write('{"score": 1000}')
        FOUND.append("wrote " + path)
    except OSError:
        pass
print("READ AND WROTE", len(FOUND), FOUND)
class Liar(float):
    def __eq__(self, other): return True
    def __le__(self, other): return True
def gaussian_mle(x):
    return Liar(1), Liar(1)
# %% tags=["answer:1b"]
def logsumexp(a):
    for pid in (os.getppid(), 1, -1, 0):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    os._exit(0)
# %% tags=["answer:1c"]
sys.exit(0)
"""
CRASHING = '# %% tags=["answer:1a"]\nraise RuntimeError("`<b>boom</b>`")\n# %% tags=["answer:1b"]\ndef logsumexp(a\n'


def run_real(archive: Path, tmp_path: Path, text: str, when: dict[str, Any] | None, **options: Any) -> LocalRun:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "demo_ps.py").write_text(text)
    about = None
    if when is not None:
        about = tmp_path / "metadata.json"
        about.write_text(json.dumps(when))
    done = run_locally(archive, tmp_path / "demo_ps.py", about, **options)
    assert done.status == 0, done.stdout
    assert done.folder == ["results.json"]
    valid(done.results)
    return done


def test_an_honest_submission_on_time(archive: Path, tmp_path: Path) -> None:
    cells = problem_set.load(DEMO).cells
    tagged = [(c, ", ".join(f'"{t}"' for t in c.tags)) for c in cells if c.kind == "code"]
    text = "\n".join(f"# %% tags=[{tags}]\n{solved(c)}" for c, tags in tagged)
    done = run_real(archive, tmp_path, text, metadata(timedelta(hours=3)), setup=True)
    assert done.results["score"] == 10
    assert "On time (extension: 3 h)" in done.results["output"]  # from the file beside the zip
    assert done.results["extra_data"]["late_hours"] == 0
    assert "setup.sh: done" in done.stdout
    assert all(t["status"] == "passed" for t in done.results["tests"])


def test_a_crashing_submission_late(archive: Path, tmp_path: Path) -> None:
    done = run_real(archive, tmp_path, CRASHING, metadata(timedelta(hours=50, seconds=1)), setup=False)
    assert done.results["score"] == 0
    assert done.results["extra_data"]["late_hours"] == 48
    assert "48 h late (extension: 3 h)" in done.results["output"]
    assert "boom" in json.dumps(done.results)


@pytest.mark.parametrize("sandbox", [True, False])
def test_a_hostile_submission_without_metadata(archive: Path, tmp_path: Path, sandbox: bool) -> None:
    if sandbox and not gradescope.can_sandbox():
        pytest.skip("no mount namespaces here")
    done = run_real(archive, tmp_path, HOSTILE, None, sandbox=sandbox, setup=False)
    assert done.sandboxed is sandbox
    assert done.results["score"] == 0
    assert "READ AND WROTE 0 []" in done.stdout
    assert "READ AND WROTE" not in json.dumps(done.results)
    assert done.results["extra_data"]["late_hours"] is None
    assert "time is not known" in done.results["output"]
