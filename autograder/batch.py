"""Grades a class: in parallel, resumable, and no submission can stop the rest.

Each job is a process of its own with a warm sandbox; it is started again where it dies or hangs, and the submission
that it was at is tried once more before it is reported as not graded. Results are kept in OUT/graded under a hash of
the submission, the problem set, the grader's code and the secret: a run that was stopped goes on where it was, and
whatever changed is graded anew. In OUT:

    grades.csv       a row a student: points by question, total, level, notes
    results/         one JSON file a student
    histogram.png    points by question
    similarity.csv   pairs of submissions that share code
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import secrets
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from . import problem_set as problem_sets
from .errors import GraderError
from .gradebook import cell, file_name
from .problem_set import ProblemSet

SUFFIXES = (".ipynb", ".py", ".zip")
MAX_SENT = 64 << 20  # bytes of a submission that are sent to a cluster; more is refused when it is read there
JOB_ATTEMPTS = 2
START_SECONDS = 600.0  # for a job to import what it needs, on a machine that is busy

Result = dict[str, Any]


@dataclass
class Entry:
    """One student's submission."""

    student: str
    path: Path | None  # None where an export names a student without files
    email: str = ""
    sid: str = ""
    submitted_at: str = ""
    key: str = ""  # of its content
    result: Result | None = None
    failure: str = ""  # why it could not be graded; no fault of the submission's


@dataclass(frozen=True)
class Settings:
    """How to grade; the same for every submission of a run."""

    folder: str
    device: str = "cpu"
    level: str | None = None
    secret: bytes = b""
    timeout: float = 0.0
    preload: tuple[str, ...] | None = None  # modules that the sandbox imports once; None for its own choice

    def job(self) -> dict[str, Any]:
        """For another process, as JSON."""
        said = {"folder": self.folder, "device": self.device, "level": self.level, "secret": self.secret.hex()}
        return {**said, "preload": self.preload}


def open_grader(ps: ProblemSet, said: Mapping[str, Any], stack: contextlib.ExitStack) -> Any:
    """A warm grader by the settings that `Settings.job` says; the stack closes it."""
    from .grade import Grader
    from .sandbox import PRELOAD, Zygote

    preload = PRELOAD if said["preload"] is None else tuple(said["preload"])
    zygote = stack.enter_context(Zygote(said["level"], said["device"], preload=preload))
    return stack.enter_context(
        Grader(ps, device=said["device"], level=said["level"], secret=bytes.fromhex(said["secret"]), zygote=zygote)
    )


# -- who handed in what


def discover(folder: Path, set_name: str = "") -> tuple[list[Entry], list[str]]:
    """Submissions of a folder, by student, and lines on what was left out. Errors: GraderError.

    Either a Gradescope export (submission_metadata.yml beside the folders), or a file or folder a student.
    """
    if not folder.is_dir():
        raise GraderError(f"{folder}: no such folder")
    metadata = folder / "submission_metadata.yml"
    entries, skipped = _export(folder, metadata) if metadata.is_file() else _plain(folder, set_name)
    if not entries:
        raise GraderError(f"{folder}: no submission ({', '.join(SUFFIXES)}, or a folder a student)")
    seen: dict[str, int] = {}
    for entry in entries:  # two students of one name stay apart, by what their export or file says
        seen[entry.student] = seen.get(entry.student, 0) + 1
    used: set[str] = set()
    for entry in entries:
        if seen[entry.student] > 1:
            entry.student += f" ({entry.email or entry.sid or (entry.path.name if entry.path else 'no files')})"
        name, n = entry.student, 2
        while entry.student in used:
            entry.student, n = f"{name} {n}", n + 1
        used.add(entry.student)
    return sorted(entries, key=lambda e: e.student), skipped


def _plain(folder: Path, set_name: str) -> tuple[list[Entry], list[str]]:
    entries, skipped = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.is_dir() and not path.is_symlink():
            entries.append(Entry(student_name(path.name, set_name), path))
        elif path.suffix.lower() in SUFFIXES:
            entries.append(Entry(student_name(path.stem, set_name), path))
        else:
            skipped.append(f"{path.name}: not a submission ({', '.join(SUFFIXES)}), left out")
    return entries, skipped


def student_name(stem: str, set_name: str) -> str:
    """A student from a file's name: `ps1_ann.ipynb`, `ann-ps1.zip` and `ann.ipynb` are all ann's."""
    name, low = stem, set_name.lower()
    for separator in ("_", "-", " ", "."):
        if low and name.lower().startswith(low + separator):
            name = name[len(low) + 1 :]
        if low and name.lower().endswith(separator + low):
            name = name[: -len(low) - 1]
    return name.strip() or stem


def _export(folder: Path, metadata: Path) -> tuple[list[Entry], list[str]]:
    """Submissions of Gradescope's export: a row for each member of a group."""
    data = _yaml(metadata)
    if not isinstance(data, dict):
        raise GraderError(f"{metadata.name}: not an export's metadata")
    entries, skipped = [], []
    for name, about in data.items():
        about = about if isinstance(about, dict) else {}
        path = folder / str(name)
        inside = path.parent == folder and path.is_dir() and not path.is_symlink()
        people = about.get(":submitters") or about.get("submitters") or []
        people = [p for p in people if isinstance(p, dict)] or [{}]
        time_ = about.get(":created_at") or about.get("created_at") or ""
        when = time_.isoformat() if hasattr(time_, "isoformat") else str(time_)
        if when and not (when.endswith("Z") or "+" in when[10:] or "-" in when[10:]):
            when += "+00:00"  # a YAML time without an offset is in UTC
        for person in people:
            who = {k: str(person.get(f":{k}") or person.get(k) or "") for k in ("name", "email", "sid")}
            student = who["name"] or who["email"] or str(name)
            entries.append(Entry(student, path if inside else None, who["email"], who["sid"], when))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in data and not path.name.startswith("."):
            skipped.append(f"{path.name}: not in {metadata.name}, left out")
    return entries, skipped


def _yaml(path: Path) -> Any:
    """A YAML file whose Ruby tags are taken as what they hold. Errors: GraderError."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def plain(loader: Any, _suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value

    Loader.add_multi_constructor("!", plain)
    try:
        return yaml.load(path.read_text("utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise GraderError(f"{path.name}: {str(error).splitlines()[0]}") from None


def submission_files(path: Path) -> dict[str, bytes | str]:
    """What a submission consists of, by name: its bytes, or a line that says why they cannot be read."""
    if path.is_symlink() or not path.is_dir():
        return {path.name: _bytes_of(path)}
    found: dict[str, bytes | str] = {}
    for child in sorted(path.iterdir())[:1001]:
        if not child.is_dir() or child.is_symlink():
            found[child.name] = _bytes_of(child)
    return found


def _bytes_of(path: Path) -> bytes | str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        return file.read(MAX_SENT) if status.st_size <= MAX_SENT else f"{status.st_size} bytes"


def submission_root(path: Path) -> Path:
    """Where a submission's files lie: an archive that was packed with its folder unpacks to a folder in a folder."""
    for _ in range(3):
        if path.is_symlink() or not path.is_dir():
            break
        children = [p for p in sorted(path.iterdir())[:1001] if not p.name.startswith((".", "__"))]
        folders = [p for p in children if p.is_dir() and not p.is_symlink()]
        if any(p.suffix.lower() in SUFFIXES for p in children) or len(folders) != 1:
            break
        path = folders[0]
    return path


def content_key(path: Path, base: str) -> str:
    """A hash of a submission's content and of all else that its result depends on."""
    digest = hashlib.sha256(base.encode())
    digest.update(b"folder" if path.is_dir() and not path.is_symlink() else b"file")
    for name, data in sorted(submission_files(path).items()):
        kind = Path(name).suffix.lower() if len(name) else ""
        label = kind if not path.is_dir() else name  # a file's own name is the student's, not part of the answer
        raw = data.encode() if isinstance(data, str) else data
        digest.update(f"\0{label}\0{type(data).__name__}\0{len(raw)}\0".encode("utf-8", "replace"))
        digest.update(raw)
    return digest.hexdigest()[:32]


def base_key(problem_set: ProblemSet, settings: Settings) -> str:
    """A hash of the problem set, the grader's code and the settings."""
    digest = hashlib.sha256(settings.secret + repr((settings.device, settings.level)).encode())
    ours = {f"autograder/{p.name}": p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py"))}
    for name, data in {**set_files(problem_set), **ours}.items():
        digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def set_files(problem_set: ProblemSet) -> dict[str, bytes]:
    """All that is needed to grade with a problem set, by relative name."""
    folder = problem_set.folder
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.suffix != ".ipynb"}


# -- jobs on this machine


class Job:
    """A grading process: takes a path, gives a result. Its process group dies with it."""

    def __init__(self, settings: Settings) -> None:
        places = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the job
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autograder.batch"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, start_new_session=True,
        )  # fmt: skip
        self._buffer = b""
        self.entry: Entry | None = None
        self.deadline = float("inf")
        self._timeout = settings.timeout
        self._ready = False
        self._send(settings.job())

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead job is seen where its answer is read
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def begin(self, entry: Entry) -> None:
        self.entry = entry
        self.deadline = time.monotonic() + (self._timeout if self._ready else START_SECONDS)
        self._send({"path": str(entry.path)})

    def read(self) -> Result | None:
        """A whole answer if there is one. Errors: EOFError where the job has died, GraderError where none can start."""
        data = os.read(self.fileno(), 1 << 20)
        if not data:
            raise EOFError(self._last_words())
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "fatal" in answer:
                raise GraderError(answer["fatal"])
            if "failure" in answer:
                raise EOFError(answer["failure"])
            if "result" in answer:
                return answer["result"]
            self._ready, self.deadline = True, time.monotonic() + self._timeout
        return None

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self._errors.seek(max(0, self._errors.seek(0, 2) - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        return f"the grading process ended ({how}){': ' + lines[-1] if lines else ''}"

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.entry is None:
                self.process.wait(10)  # it ends by itself when its input does, and takes its sandbox along
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._errors.close()


def job_main() -> int:
    """What a job's process runs: settings first, then one path a line; one answer a line."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints goes to the log, never between the answers
    lines = iter(sys.stdin.buffer.readline, b"")
    settings = json.loads(next(lines))

    def answer(message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[out.write(data) :]

    with contextlib.ExitStack() as stack:
        try:
            ps = problem_sets.load(settings["folder"])
            grader = open_grader(ps, settings, stack)
        except GraderError as error:  # so it would be for every submission
            answer({"fatal": str(error)})
            return 2
        answer({"ready": True})
        for line in lines:
            try:
                answer({"result": grader.grade(json.loads(line)["path"]).to_dict()})
            except Exception as error:  # the next submission gets a new job
                answer({"failure": f"{type(error).__name__}: {error}".replace("\n", " ")[:500]})
    return 0


def grade_here(entries: Iterable[Entry], settings: Settings, jobs: int) -> Iterator[Entry]:
    """Grade on this machine; yields each entry when it has its result or its failure."""
    waiting = deque((entry, 1) for entry in entries)
    running: dict[Job, int] = {}
    selector = selectors.DefaultSelector()

    def start(job: Job) -> None:
        entry, attempt = waiting.popleft()
        running[job] = attempt
        job.begin(entry)

    def add() -> None:
        job = Job(settings)
        selector.register(job, selectors.EVENT_READ)
        start(job)

    def drop(job: Job) -> None:
        selector.unregister(job)
        running.pop(job, None)
        job.close()

    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                add()
            now = time.monotonic()
            ready = selector.select(max(0.0, min(min(j.deadline for j in running) - now, 5.0)))
            events = [(key.fileobj, "") for key, _ in ready]
            late = [j for j in running if j.deadline <= time.monotonic() and all(j is not e for e, _ in events)]
            events += [(job, f"took longer than {settings.timeout:.0f} s") for job in late]
            for job, problem in events:
                assert isinstance(job, Job)
                entry, attempt = job.entry, running[job]
                assert entry is not None
                try:
                    if problem:
                        raise EOFError(problem)
                    result = job.read()
                except (EOFError, ValueError) as error:
                    drop(job)
                    if attempt < JOB_ATTEMPTS:
                        waiting.append((entry, attempt + 1))
                    else:
                        entry.failure = str(error)
                        yield entry
                    continue
                if result is None:
                    continue
                entry.result, job.entry, job.deadline = result, None, float("inf")
                if waiting:
                    start(job)
                else:
                    drop(job)
                yield entry
    finally:
        for job in list(running):
            job.close()
        selector.close()


# -- a cluster


def grade_on_cluster(
    entries: Iterable[Entry], settings: Settings, problem_set: ProblemSet, address: str
) -> Iterator[Entry]:
    """Hand submissions to an existing Dask cluster; no shared disk is needed, only this package on its workers."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise GraderError('--cluster needs Dask: pip install "genmodels[cluster]"') from None
    try:
        client = Client(address, timeout=30, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise GraderError(f"--cluster {address}: {error}") from None
    with client:
        spec = {**settings.job(), "name": problem_set.name, "files": set_files(problem_set)}
        shared = client.scatter(spec, broadcast=True)
        futures = {}
        for entry in entries:
            assert entry.path is not None
            files = submission_files(entry.path)
            is_folder = entry.path.is_dir() and not entry.path.is_symlink()
            futures[client.submit(grade_remotely, shared, files, is_folder, pure=False)] = entry
        for future in as_completed(list(futures), loop=client.loop):
            entry = futures.pop(future)
            problem = future.exception()
            if problem is None:
                entry.result = future.result()
            else:
                entry.failure = f"{type(problem).__name__}: {problem}".replace("\n", " ")[:500]
            yield entry


_REMOTE: dict[str, Any] = {}
_REMOTE_LOCK = threading.Lock()


def grade_remotely(spec: dict[str, Any], files: dict[str, bytes | str], is_folder: bool) -> Result:
    """One submission on a cluster's worker, which keeps the problem set and a warm grader from task to task."""
    with _REMOTE_LOCK:  # one at a time a process: start many workers of one thread
        grader = _remote_grader(spec)
        with tempfile.TemporaryDirectory(prefix="autograder-") as folder:
            for name, data in files.items():
                path = Path(folder, "submission", name) if is_folder else Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                if isinstance(data, bytes):
                    path.write_bytes(data)
            target = Path(folder, "submission") if is_folder else Path(folder, next(iter(files)))
            target.parent.mkdir(exist_ok=True)
            try:
                return grader.grade(target).to_dict()
            except Exception:
                _forget_remote()
                raise


def _remote_grader(spec: dict[str, Any]) -> Any:
    key = hashlib.sha256(repr(sorted(spec["files"].items())).encode() + repr(spec["secret"]).encode()).hexdigest()
    key += repr((spec["device"], spec["level"], spec["preload"]))
    if _REMOTE.get("key") != key:
        _forget_remote()
        stack = contextlib.ExitStack()
        with contextlib.ExitStack() as on_error:
            on_error.push(stack)
            root = stack.enter_context(tempfile.TemporaryDirectory(prefix="autograder-set-"))
            for name, data in spec["files"].items():
                path = Path(root, spec["name"], name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            ps = problem_sets.load(Path(root, spec["name"]))
            grader = open_grader(ps, spec, stack)
            on_error.pop_all()
        _REMOTE.update(key=key, grader=grader, stack=stack)
    return _REMOTE["grader"]


def _forget_remote() -> None:
    stack = _REMOTE.pop("stack", None)
    _REMOTE.clear()
    if stack is not None:
        stack.close()


# -- a run


@dataclass
class Batch:
    """What a run left behind."""

    entries: list[Entry]
    skipped: list[str] = field(default_factory=list)
    reused: int = 0

    @property
    def failed(self) -> list[Entry]:
        return [e for e in self.entries if e.result is None]


def run_batch(
    problem_set: ProblemSet,
    folder: Path,
    out: Path,
    *,
    jobs: int = 1,
    device: str = "cpu",
    level: str | None = None,
    secret: bytes | None = None,
    cluster: str | None = None,
    timeout: float | None = None,
    similarity: float | None = 0.5,
    preload: Sequence[str] | None = None,
    progress: Callable[[Iterable[Entry], int], Iterable[Entry]] = lambda entries, _total: entries,
) -> Batch:
    """Grade all submissions of a folder into `out`; see the module's docstring. Errors: GraderError."""
    if jobs < 1:
        raise GraderError(f"--jobs is 1 or more, not {jobs}")
    entries, skipped = discover(folder, problem_set.name)
    graded = out / "graded"
    graded.mkdir(parents=True, exist_ok=True)
    if timeout is None:  # generous: every limit within is the grader's own, this one is for what nobody thought of
        timeout = 600 + 10 * sum(q.seconds for q in problem_set.questions.values())
    secret = secret if secret is not None else _secret(problem_set, out)
    settings = Settings(
        str(problem_set.folder), device, level, secret, timeout, None if preload is None else tuple(preload)
    )
    base = base_key(problem_set, settings)
    batch = Batch(entries, skipped)
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.path is None:
            entry.failure = "the export holds no files of this student"
            continue
        entry.path = submission_root(entry.path)
        entry.key = content_key(entry.path, base)
        kept = _kept(graded / f"{entry.key}.json")
        if kept is not None:
            entry.result = kept
            batch.reused += 1
        else:
            first.setdefault(entry.key, entry)  # what several students handed in alike is graded once
    todo = list(first.values())
    stream = (
        grade_on_cluster(todo, settings, problem_set, cluster) if cluster else grade_here(todo, settings, jobs)
    ) if todo else ()  # fmt: skip
    for entry in progress(stream, len(todo)):
        if entry.result is not None:
            write_atomically(graded / f"{entry.key}.json", json.dumps(entry.result, indent=1))
    for entry in entries:
        if entry.result is None and entry.key in first:
            entry.result, entry.failure = first[entry.key].result, first[entry.key].failure
    _write_results(problem_set, batch, out)
    histogram(problem_set, batch, out / "histogram.png")
    if similarity is not None:
        from .similarity import report

        report(
            {e.student: e.path for e in entries if e.path is not None}, problem_set, out / "similarity.csv", similarity
        )
    return batch


def _secret(problem_set: ProblemSet, out: Path) -> bytes:
    """The secret of the set's build, else one that is kept with the run: all jobs, and a resumed run, need the same."""
    from .grade import secret_path

    path = secret_path(problem_set)
    if not path.is_file():
        path = out / "secret"
        if not path.is_file():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(16) + "\n")
    try:
        return bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        raise GraderError(f"{path}: not a secret (an even number of hexadecimal digits)") from None


def _kept(path: Path) -> Result | None:
    """A result of an earlier run; a damaged file counts as none."""
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and isinstance(result.get("questions"), list) else None


def write_atomically(path: Path, text: str) -> None:
    """The whole file or the one before; survives a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_results(problem_set: ProblemSet, batch: Batch, out: Path) -> None:
    (out / "results").mkdir(exist_ok=True)
    ids = list(problem_set.questions)
    taken: set[str] = set()
    rows = []
    for e in batch.entries:
        about: dict[str, Any] = {"student": e.student, "email": e.email, "sid": e.sid, "submitted_at": e.submitted_at}
        about |= {"file": e.path.name if e.path else "", "graded": e.result is not None}
        full = {**about, **({"failure": e.failure} if e.result is None else e.result)}
        write_atomically(out / "results" / f"{file_name(e.student, taken)}.json", json.dumps(full, indent=1))
        who = [cell(v) for v in (e.student, e.email, e.sid, about["file"], e.submitted_at)]
        if e.result is None:
            rows.append([*who, *[""] * len(ids), "", "", "", cell(f"NOT GRADED: {e.failure}")])
            continue
        points = {q["id"]: q["points"] for q in e.result["questions"]}
        figures = [f"{points.get(i, 0):.10g}" for i in ids]
        total, possible = f"{e.result['score']:.10g}", f"{e.result['possible']:.10g}"
        notes = cell("; ".join(map(str, e.result["notes"]))[:1000])
        rows.append([*who, *figures, total, possible, e.result["level"], notes])
    heads = ["student", "email", "sid", "file", "submitted_at", *ids, "total", "possible", "level", "notes"]
    temporary = out / ".grades.csv.part"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heads, *rows])
    os.replace(temporary, out / "grades.csv")


def histogram(problem_set: ProblemSet, batch: Batch, path: Path) -> None:
    """Points by question and in all, one small plot each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = [e.result for e in batch.entries if e.result is not None]
    panels = [("total", [r["score"] for r in results], sum(q.points for q in problem_set.questions.values()))]
    for q in problem_set.questions.values():
        values = [x["points"] for r in results for x in r["questions"] if x["id"] == q.id]
        panels.append((f"{q.id}. {q.title}", values, q.points))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, values, possible) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.hist(values, bins=[possible * b / 10 for b in range(11)], color="tab:blue", edgecolor="white")
        mean = f", mean {sum(values) / len(values):.1f} of {possible:g}" if values else ""
        axes.set_title(title.replace("$", r"\$")[:40] + mean, fontsize=7)
        axes.tick_params(labelsize=7)
    temporary = path.with_name(".histogram.part.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `autograder batch`."""
    parser.add_argument("problem_set", help="ps1, or a folder")
    parser.add_argument("folder", type=Path, help="a file or folder a student, or Gradescope's export")
    parser.add_argument("--jobs", type=int, default=1, help="grading processes on this machine (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("graded"), help="folder of results (default: graded)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--level", help="a level of isolation (default: the best that this machine offers)")
    parser.add_argument("--cluster", metavar="tcp://HOST:PORT", help="hand the submissions to a Dask cluster")
    parser.add_argument("--timeout", type=float, help="seconds for one submission, before its job is given up")
    parser.add_argument("--similarity", type=float, default=0.5, help="threshold of the similarity report")


def main(arguments: argparse.Namespace) -> int:
    """`autograder batch ps1 DIR`: status 0 if all was graded, 1 if something could not be."""
    from tqdm import tqdm

    ps = problem_sets.load(arguments.problem_set)
    batch = run_batch(
        ps, arguments.folder, arguments.out, jobs=arguments.jobs, device=arguments.device, level=arguments.level,
        cluster=arguments.cluster, timeout=arguments.timeout, similarity=arguments.similarity,
        progress=lambda entries, total: tqdm(entries, total=total, unit="submission", disable=None),
    )  # fmt: skip
    for line in batch.skipped:
        print(line, file=sys.stderr)
    for e in batch.failed:
        print(f"not graded: {e.student}: {e.failure}", file=sys.stderr)
    scores = [e.result["score"] for e in batch.entries if e.result is not None]
    mean = f", mean {sum(scores) / len(scores):.1f}" if scores else ""
    print(
        f"{len(scores)} of {len(batch.entries)} graded ({batch.reused} from before){mean}: {arguments.out}/grades.csv"
    )
    return 1 if batch.failed else 0


if __name__ == "__main__":
    sys.exit(job_main())
