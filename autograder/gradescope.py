"""Gradescope: the autograder's zip, what runs inside of it, and a local harness that runs the real scripts.

The zip holds setup.sh, run_autograder, this package, one problem set with its secret, and config.json:

    problem_set   its name
    device        "cpu"
    level         null for the best level of isolation that the container offers
    timeout       seconds for a submission; keep Gradescope's own limit above it
    visibility    {"questions": "after_published", "public": "visible", "stdout": "hidden"}, or by a question's id
    leaderboard   {"3b": "asc"}: the order of a trained-quality figure, where it is not the one of its bands

A run writes a result of 0 points first and replaces it at the end, in one step, when every process that the run started
is dead. The points of a question are shown as `visibility` says; whether its public check passed is a test of its own
that students see at once. Hours late are reckoned from the metadata's times and extensions, reported in `extra_data`,
and cost nothing here: the gradebook knows the student's other assignments, this run does not.

Format: https://gradescope-autograders.readthedocs.io/en/latest/specs/
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from . import problem_set as problem_sets
from .errors import GraderError, unknown
from .gradebook import exact, late_hours, moment, show
from .problem_set import ProblemSet

FILES = Path(__file__).parent / "gradescope_files"
REQUIREMENTS = ("numpy>=1.26", "torch>=2.6", "scipy>=1.11", "matplotlib>=3.8", "jupytext>=1.16")
VISIBILITY = ("visible", "after_due_date", "after_published", "hidden")
DEFAULT_VISIBILITY = {"questions": "after_published", "public": "visible", "stdout": "hidden"}
TIMEOUT = 540.0  # below the 10 minutes that Gradescope gives by default
NOT_OURS = "The autograder could not grade this. It is not your fault: tell the course staff, who can run it again."
MAX_OUTPUT = 20_000  # characters of one output field


# -- the zip


def make_gradescope_zip(
    problem_set: ProblemSet,
    out: Path,
    secret: bytes,
    *,
    device: str = "cpu",
    level: str | None = None,
    visibility: Mapping[str, str] | None = None,
    leaderboard: Mapping[str, str] | None = None,
    extensions: Path | None = None,
    pip_options: str = "",
    timeout: float = TIMEOUT,
) -> Path:
    """Write the autograder's zip; `out` is the file. `pip_options` go to pip, such as an index of CPU builds of torch.

    Errors: GraderError for a visibility that Gradescope does not know or an extensions file that cannot be read.
    """
    shown = {**DEFAULT_VISIBILITY, **(visibility or {})}
    for key, value in shown.items():
        if value not in VISIBILITY:
            raise unknown("visibility", value, VISIBILITY)
        if key not in DEFAULT_VISIBILITY:
            problem_set.question(key)
    for key, order in (leaderboard or {}).items():
        problem_set.question(key)
        if order not in ("asc", "desc"):
            raise unknown("leaderboard order", order, ("asc", "desc"))
    if not secret:
        raise GraderError("a Gradescope zip needs the secret of the set's build")
    config: dict[str, Any] = {"problem_set": problem_set.name, "device": device, "level": level, "timeout": timeout}
    config |= {"visibility": shown, "leaderboard": dict(leaderboard or {})}
    extra = problem_set.folder / "requirements.txt"
    requirements = [*REQUIREMENTS, *(extra.read_text("utf-8").split("\n") if extra.is_file() else [])]
    files: dict[str, bytes] = {
        "setup.sh": (FILES / "setup.sh").read_bytes(),
        "run_autograder": (FILES / "run_autograder").read_bytes(),
        "config.json": json.dumps(config, indent=1).encode(),
        "secret": secret.hex().encode() + b"\n",
        "requirements.txt": "\n".join(requirements).encode() + b"\n",
    }
    if pip_options:
        files["pip-options.txt"] = pip_options.encode() + b"\n"
    if extensions is not None:
        read_extensions(extensions)
        files["extensions" + extensions.suffix.lower()] = extensions.read_bytes()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        files[f"autograder/{path.name}"] = path.read_bytes()
    for path in sorted(problem_set.folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".ipynb":
            name = path.relative_to(problem_set.folder).as_posix()
            files[f"problem_sets/{problem_set.name}/{name}"] = path.read_bytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            mode = 0o755 if name in ("setup.sh", "run_autograder") else 0o600 if name == "secret" else 0o644
            info.external_attr = (0o100000 | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    out.chmod(0o600)  # it holds the secret and the solutions
    return out


# -- times


@dataclass(frozen=True)
class Late:
    """What the metadata says of time."""

    submitted: datetime
    due: datetime | None
    extension: Fraction  # hours, from the extensions file
    seconds: float  # after the due date, extension included; below 0 for early
    hours: int

    def line(self) -> str:
        if self.due is None:
            return "This assignment has no due date."
        given = f" (extension: {show(self.extension)} h)" if self.extension else ""
        if not self.hours:
            return f"On time{given}."
        return f"{self.hours} h late{given}. Your free late hours are counted in the gradebook, not here."


def read_extensions(path: Path) -> dict[str, Fraction]:
    """Hours by e-mail address: a CSV with the columns email and hours, or a JSON object. Errors: GraderError."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            data = json.loads(text, parse_float=str, parse_int=str)
            if not isinstance(data, dict):
                raise GraderError(f"{path.name}: an object of addresses and hours is expected")
            pairs = [(str(email), str(hours)) for email, hours in data.items()]
        else:
            rows = csv.DictReader(io.StringIO(text))
            if not {"email", "hours"} <= set(rows.fieldnames or []):
                raise GraderError(f"{path.name}: the columns email and hours are expected")
            pairs = [(row["email"] or "", row["hours"] or "") for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise GraderError(f"{path.name}: {str(error).splitlines()[0]}") from None
    found = {}
    for email, hours in pairs:
        found[email.strip().lower()] = exact(hours, f"{path.name}: {email}")
        if found[email.strip().lower()] < 0:
            raise GraderError(f"{path.name}: {email}: an extension is 0 hours or more")
    return found


def late(metadata: Mapping[str, Any], extensions: Mapping[str, Fraction]) -> Late:
    """Hours late by the metadata's own times, never by the clock. Errors: GraderError where a time is missing.

    A due date that Gradescope itself moved for a student counts if it is later. In a group the longest extension holds.
    """
    submitted = moment(str(metadata.get("created_at") or ""), "created_at")
    raw = metadata.get("users")
    users = [u for u in raw if isinstance(u, dict)] if isinstance(raw, list) else []
    assignment = metadata.get("assignment")
    own = [u.get("assignment") for u in users]
    dates = [a.get("due_date") if isinstance(a, dict) else None for a in [assignment, *own]]
    common = moment(str(dates[0]), "due_date") if dates[0] else None
    extension = max(
        (extensions.get(str(u.get("email", "")).strip().lower(), Fraction(0)) for u in users), default=Fraction(0)
    )
    ends = [moment(str(d), "due_date") for d in dates[1:] if d]
    if common is not None:
        ends.append(common + timedelta(microseconds=int(extension * 3_600_000_000)))
    if not ends:
        return Late(submitted, None, extension, 0.0, 0)
    lateness = submitted - max(ends)
    return Late(submitted, common or max(ends), extension, lateness.total_seconds(), late_hours(lateness))


# -- results.json


def fallback(line: str = NOT_OURS) -> dict[str, Any]:
    """A valid result of 0 points."""
    return {"score": 0, "output": line, "output_format": "text", "stdout_visibility": "hidden", "tests": []}


def results(
    graded: Mapping[str, Any], config: Mapping[str, Any], when: Late | None, problems: list[str], seconds: float
) -> dict[str, Any]:
    """Gradescope's results.json from what `GradeResult.to_dict` gives.

    The output at the top is what students see at once, so it says nothing of points or of hidden checks.
    """
    shown = {**DEFAULT_VISIBILITY, **config.get("visibility", {})}
    tests: list[dict[str, Any]] = []
    for q in graded["questions"]:
        title = f"{q['id']}. {q['title']}"
        passed = bool(q["public"])
        hint = "" if passed else f'Run `check("{q["id"]}")` in your notebook to see why.'
        tests.append(
            {
                "name": f"Public check of {title}",
                "number": f"{q['id']}.0",
                "score": 0,
                "max_score": 0,
                "status": "passed" if passed else "failed",
                "output": hint or "Passed. The points also depend on checks at other inputs.",
                "output_format": "md",
                "visibility": shown["public"],
            }
        )
        tests.append(
            {
                "name": title,
                "number": f"{q['id']}.1",
                "score": round(float(q["points"]), 6),
                "max_score": float(q["possible"]),
                "status": "passed" if q["points"] >= q["possible"] else "failed",
                "output": _question_text(q),
                "output_format": "md",
                "visibility": shown.get(q["id"], shown["questions"]),
            }
        )
    board = []
    for q in graded["questions"]:
        if q.get("quality") and q.get("figure") is not None and math.isfinite(q["figure"]):
            usual = "asc" if q.get("lower_is_better") else "desc"
            order = config.get("leaderboard", {}).get(q["id"], usual)
            board.append({"name": q["title"], "value": float(f"{q['figure']:.6g}"), "order": order})
    found: dict[str, Any] = {
        "score": round(sum(t["score"] for t in tests), 6),
        "execution_time": round(seconds, 1),
        "output": _summary(graded, when, problems)[:MAX_OUTPUT],
        "output_format": "md",
        "stdout_visibility": shown["stdout"],
        "extra_data": {
            "problem_set": graded["problem_set"],
            "level": graded["level"],
            "hidden": graded["hidden"],
            "late_hours": None if when is None else when.hours,
            "extension_hours": None if when is None else show(when.extension),
            "submitted_at": None if when is None else when.submitted.isoformat(),
            "due": None if when is None or when.due is None else when.due.isoformat(),
        },
        "tests": tests,
    }
    return {**found, "leaderboard": board} if board else found


def _summary(graded: Mapping[str, Any], when: Late | None, problems: list[str]) -> str:
    passed = sum(bool(q["public"]) for q in graded["questions"])
    out = [f"Public checks passed: **{passed} of {len(graded['questions'])}**.", ""]
    out.append("The submission's time is not known here." if when is None else when.line())
    out += ["", f"Isolation in force: {graded['level']}."]
    if not graded["hidden"]:
        out += ["", "**Hidden checks were not run**: these points are not final."]
    if graded["written"]:
        ids = ", ".join(f"{id} ({points:g})" for id, points in graded["written"])
        out += ["", f"Graded by a person: {plain(ids)}."]
    notes = [*problems, *map(str, graded["notes"])]
    if notes:
        out += ["", fenced(notes)]
    return "\n".join(out)


def _question_text(q: Mapping[str, Any]) -> str:
    out = []
    parts = [p for p in q["parts"] if p[2]]
    if len(parts) > 1:
        out += ["| part | points | of |", "| --- | --- | --- |"]
        out += [f"| {plain(str(p[0]) or 'the rest')} | {p[1]:g} | {p[2]:g} |" for p in parts]
        out.append("")
    lines = [str(line) for line in q["lines"]]
    said = set(lines)
    lines += [f"{p[0]}: {line}" if p[0] else str(line) for p in q["parts"] for line in p[3] if line not in said]
    if lines:
        out.append(fenced(lines))
    return "\n".join(out)[:MAX_OUTPUT] or "All checks passed."


def fenced(lines: list[str]) -> str:
    """Lines in a block where nothing is interpreted: they may quote what a student's code said."""
    text = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)[: MAX_OUTPUT // 2]
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def plain(text: str) -> str:
    """Text for a Markdown line, nothing in it interpreted."""
    return re.sub(r"([\\`*_{}\[\]<>|!#&~$])", r"\\\1", " ".join(text.split()))


# -- a run inside of the container


def run(root: Path) -> int:
    """What run_autograder does for one submission. Status 0 also where the submission earned nothing."""
    start = time.monotonic()
    where = root / "results" / "results.json"
    where.parent.mkdir(parents=True, exist_ok=True)
    write(where, fallback())
    source = root / "source"
    try:
        _lock_up(root)
        config = json.loads((source / "config.json").read_text("utf-8"))
        when, problems = _time_of(root)
        graded = _grade_apart(root, float(config.get("timeout", TIMEOUT)))
        final = results(graded, config, when, problems, time.monotonic() - start)
        write(where, final)
    except Exception as error:  # the fallback stands; staff read why
        print(f"NOT GRADED: {type(error).__name__}: {error}")
        return 1
    print(f"{final['score']:g} of {sum(t['max_score'] for t in final['tests']):g} points, level {graded['level']}")
    if graded.get("output"):
        print("The submission printed:\n" + str(graded["output"])[-MAX_OUTPUT:])
    return 0


def write(path: Path, found: Mapping[str, Any]) -> None:
    """The whole file at once, on the disk when this returns; a link in its place is replaced, not followed."""
    data = json.dumps(found, indent=1, allow_nan=False).encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_up(root: Path) -> None:
    """Take from everyone else what only the grader may read or write."""
    for name, mode in (("results", 0o700), ("source/problem_sets", 0o700), ("source/secret", 0o600),
                       ("source/config.json", 0o600), ("submission_metadata.json", 0o600)):  # fmt: skip
        with contextlib.suppress(OSError):
            os.chmod(root / name, mode)


def _time_of(root: Path) -> tuple[Late | None, list[str]]:
    """Hours late, and lines on what could not be read."""
    problems = []
    extensions: dict[str, Fraction] = {}
    for folder in (root / "source", root):
        for path in (folder / "extensions.csv", folder / "extensions.json"):
            if path.is_file():
                try:
                    extensions |= read_extensions(path)
                except GraderError as error:
                    print(f"EXTENSIONS IGNORED: {error}")
                    problems.append("The file of extensions cannot be read: tell the course staff.")
    try:
        metadata = json.loads((root / "submission_metadata.json").read_text("utf-8"))
        if not isinstance(metadata, dict):
            raise GraderError("submission_metadata.json: an object is expected")
        return late(metadata, extensions), problems
    except (OSError, ValueError, GraderError) as error:
        print(f"NO TIME: {error}")
        return None, problems


def _grade_apart(root: Path, timeout: float) -> dict[str, Any]:
    """Grade in a process of its own; returns when it and all that it started are dead."""
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="autograder-") as private:
        out = Path(private, "graded.json")
        command = [sys.executable, "-B", "-m", "autograder.gradescope", "grade", "--root", str(root), "--out", str(out)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        problem = ""
        try:
            status = process.wait(timeout)
            problem = f"the grading process ended with status {status}" if status else ""
        except subprocess.TimeoutExpired:
            problem = f"grading took longer than {timeout:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            left = end_descendants()
        if left:
            raise GraderError(f"{left} processes could not be ended")
        if problem:
            raise GraderError(problem)
        return json.loads(out.read_text("utf-8"))


def adopt_orphans() -> None:
    """Have the kernel give us what our children leave behind, so that it can be ended (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end_descendants(seconds: float = 10.0) -> int:
    """Kill and reap every descendant of this process; how many are left after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        alive = descendants()
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not alive or time.monotonic() > end:
            return len(alive)
        time.sleep(0.01)


def descendants() -> list[int]:
    """Processes below this one, zombies left out."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path("/proc", name, "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents.setdefault(int(fields[1]), []).append(int(name))
    found, new = [], [os.getpid()]
    while new:
        new = [child for pid in new for child in parents.get(pid, [])]
        found += new
    return found


def _grade(root: Path, out: Path) -> int:
    """The process that grades; its result goes to a file that only the parent reads."""
    from .batch import submission_root
    from .grade import grade

    config = json.loads((root / "source" / "config.json").read_text("utf-8"))
    ps = problem_sets.load(root / "source" / "problem_sets" / config["problem_set"])
    secret = bytes.fromhex((root / "source" / "secret").read_text("ascii").strip())
    options = {"device": config.get("device", "cpu"), "level": config.get("level"), "secret": secret}
    result = grade(ps, submission_root(root / "submission"), **options).to_dict()
    out.write_text(json.dumps(result), "utf-8")
    return 0


def _ready() -> int:
    """Whether all packages are there; says what is missing."""
    import importlib.util

    names = [re.split(r"[<>=! ]", r)[0] for r in REQUIREMENTS]
    missing = [n for n in names if importlib.util.find_spec(n) is None]
    if missing:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


def _levels() -> int:
    from .sandbox import available_levels, why_not

    levels = available_levels()
    print(f"isolation: {', '.join(levels)}")
    if levels == ["public"]:
        print("WARNING: NO ISOLATION for hidden checks here (only a warning: the image may run elsewhere).")
        for level in ("bubblewrap", "uid"):
            print(f"  {level}: {why_not(level)}")
    return 0


# -- the harness


@dataclass
class LocalRun:
    """What a local run of the real scripts left behind."""

    results: dict[str, Any]
    status: int
    stdout: str  # of setup.sh and run_autograder
    sandboxed: bool
    folder: list[str] = field(default_factory=list)  # what stood in results/ at the end


def run_locally(
    archive: Path,
    submission: Path,
    metadata: Path | None = None,
    *,
    sandbox: bool | None = None,
    setup: bool = True,
    timeout: float = 1200.0,
) -> LocalRun:
    """Lay out /autograder as Gradescope does, in a mount namespace, and run setup.sh and run_autograder there.

    Where namespaces do not work (or with `sandbox=False`) the same layout is made in a temporary folder. An extensions
    file beside the zip is laid beside the source. Errors: GraderError.
    """
    if sandbox is None:
        sandbox = can_sandbox()
    with tempfile.TemporaryDirectory(prefix="gradescope-") as name:
        root = Path(name, "autograder")
        for folder in ("source", "submission", "results"):
            (root / folder).mkdir(parents=True)
        try:
            with zipfile.ZipFile(archive) as opened:
                for info in opened.infolist():
                    path = Path(opened.extract(info, root / "source"))
                    path.chmod((info.external_attr >> 16) & 0o777 or 0o644)
            shutil.copy(root / "source" / "run_autograder", root / "run_autograder")
        except (OSError, zipfile.BadZipFile) as error:
            raise GraderError(f"{archive}: not an autograder's zip ({error})") from None
        _hand_in(submission, root / "submission")
        if metadata is not None:
            shutil.copy(metadata, root / "submission_metadata.json")
        for path in archive.parent.glob("extensions.*"):
            shutil.copy(path, root / path.name)
        script = 'cd "$AUTOGRADER_ROOT" && ' + ("bash source/setup.sh && " if setup else "") + "./run_autograder"
        place = Path("/autograder") if sandbox else root
        prefix = _namespace(name) if sandbox else []
        environment = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "HOME")}
        environment |= {"AUTOGRADER_PYTHON": sys.executable, "AUTOGRADER_ROOT": str(place)}
        environment |= {"TMPDIR": "/autograder-tmp"} if sandbox else {}
        try:
            done = subprocess.run(
                [*prefix, "bash", "-c", script], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=timeout, check=False, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise GraderError(f"the autograder took longer than {timeout:.0f} s") from None
        where = root / "results" / "results.json"
        try:
            found = json.loads(where.read_text("utf-8"))
        except (OSError, ValueError) as error:
            last = "\n".join(done.stdout.splitlines()[-5:])
            raise GraderError(f"no results.json ({error}); the log ends with: {last}") from None
        left = sorted(p.name for p in (root / "results").iterdir())
        return LocalRun(found, done.returncode, done.stdout, sandbox, left)


def _hand_in(submission: Path, folder: Path) -> None:
    """A submission as Gradescope lays it out: an ordinary zip unpacked, all else as it is."""
    if submission.is_dir():
        shutil.copytree(submission, folder, symlinks=True, dirs_exist_ok=True)
        return
    if submission.suffix.lower() == ".zip":
        with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(submission) as archive:
            infos = archive.infolist()
            names = [PurePosixPath(i.filename) for i in infos]
            safe = not any(n.is_absolute() or ".." in n.parts for n in names)
            if safe and sum(i.file_size for i in infos) < 256 << 20 and len(infos) < 2000:
                archive.extractall(folder)
                return
    shutil.copy(submission, folder / submission.name, follow_symlinks=False)


def _namespace(outside: str) -> list[str]:
    """Command line of a mount namespace with /autograder in a read-only copy of this machine's root."""
    (Path(outside) / "tmp").mkdir(exist_ok=True)
    command = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-net"]
    command += ["--cap-add", "ALL"] if os.geteuid() == 0 else []
    for path in sorted(Path("/").iterdir()):
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir() and path.name not in ("proc", "dev", "autograder", "autograder-tmp"):
            command += ["--ro-bind", str(path), str(path)]
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += ["--bind", f"{outside}/autograder", "/autograder", "--bind", f"{outside}/tmp", "/autograder-tmp"]
    return [*command, "--tmpfs", outside, "--chdir", "/"]


def can_sandbox() -> bool:
    """Whether a mount namespace can be made here."""
    if shutil.which("bwrap") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="gradescope-") as name:
        (Path(name) / "autograder").mkdir()
        command = [*_namespace(name), "true"]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `autograder gradescope-local`."""
    parser.add_argument("zip", type=Path, help="the autograder's zip")
    parser.add_argument("submission", type=Path, help="a file or a folder")
    parser.add_argument("--metadata", type=Path, help="a submission_metadata.json")
    parser.add_argument("--out", type=Path, help="where to copy results.json")
    parser.add_argument("--no-sandbox", action="store_true", help="use a temporary folder in place of /autograder")


def main(arguments: argparse.Namespace) -> int:
    """`autograder gradescope-local ZIP SUBMISSION`: run the real scripts here and print what they gave."""
    for path in (arguments.zip, arguments.submission, *filter(None, [arguments.metadata])):
        if not path.exists():
            raise GraderError(f"{path}: no such file")
    sandbox = False if arguments.no_sandbox else None
    done = run_locally(arguments.zip, arguments.submission, arguments.metadata, sandbox=sandbox)
    print(done.stdout, end="")
    print(done.results["output"])
    for t in done.results["tests"]:
        print(f"{t['number']:8s} {t['score']:6g} of {t['max_score']:6g}  {t['visibility']:16s} {t['name']}")
    if arguments.out:
        arguments.out.write_text(json.dumps(done.results, indent=1), "utf-8")
    return 0 if done.status == 0 else 1


def _inside() -> int:
    """`python -m autograder.gradescope`, as the scripts in the zip call it."""
    parser = argparse.ArgumentParser(prog="python -m autograder.gradescope")
    parser.add_argument("what", choices=("run", "grade", "ready", "levels"))
    parser.add_argument("--root", type=Path, default=Path("/autograder"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.what in ("ready", "levels"):
        return _ready() if arguments.what == "ready" else _levels()
    try:
        return run(arguments.root) if arguments.what == "run" else _grade(arguments.root, arguments.out)
    except GraderError as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_inside())
