"""Grades submissions: asks the isolated answer and the isolated solution the same things, compares, explains.

This process draws inputs, compares and scores; it runs no student code and imports no torch. A question whose worker
dies, hangs or floods loses that question alone: the worker is started again for the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .checks import AnswerError, Draw, Question, Run, run_question, seed_of
from .diagnosis import likeness, public_seeds, unwritten
from .errors import GraderError
from .problem_set import ProblemSet, Variant
from .proxies import Reference, Student
from .sandbox import Limits, Worker, WorkerFailure, Zygote, preload_for, start_best
from .submission import read_submission

LOAD_SECONDS = 30.0  # for all cells of a submission together
CELL_SECONDS = 8.0  # for one cell, where all together did not load
REFERENCE_SECONDS = 600.0


@dataclass
class QuestionResult:
    """What a question earned: `parts` are (label, points, possible, lines); `lines` what the student reads first."""

    id: str
    title: str
    points: float
    possible: float
    parts: list[tuple[str, float, float, list[str]]]
    lines: list[str]
    public: bool  # whether the public check passed
    hint: str | None = None  # the hint of the mistake that was recognised
    figure: float | None = None  # of the trained-quality question
    quality: bool = False
    lower_is_better: bool = False  # the figure
    seconds: float = 0.0


@dataclass
class GradeResult:
    """A graded submission."""

    problem_set: str
    level: str
    hidden: bool  # whether hidden checks were run
    questions: list[QuestionResult]
    written: list[tuple[str, float]]  # graded by a person: question and possible points
    notes: list[str]
    output: str = ""  # what the submission printed, capped
    seconds: float = 0.0

    @property
    def score(self) -> float:
        return sum(q.points for q in self.questions)

    @property
    def possible(self) -> float:
        return sum(q.possible for q in self.questions)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with score and possible."""
        return {**dataclasses.asdict(self), "score": self.score, "possible": self.possible}


class Clock:
    """A question's wall clock, which can be stopped."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - began


class Answer:
    """One submission's code in a worker, started again where it dies."""

    def __init__(self, zygote: Zygote, cells: list[dict[str, Any]]) -> None:
        self.cells = list(cells)
        self.problems: list[str] = []
        self.names: set[str] = set()  # what the code defines
        self.output = ""
        self._zygote = zygote
        self._worker: Worker | None = None
        self._failed: str | None = None  # why the current question's worker stopped
        self._hopeless: str | None = None

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and everything that it started."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.__exit__(None, None, None)
            self.output = (self.output + worker.output)[-20_000:]

    def begin_question(self) -> None:
        """Forget that the worker stopped in the question before."""
        self._failed = None

    @property
    def stopped(self) -> bool:
        """Whether nothing more can be asked in this question."""
        return self._failed is not None or self._hopeless is not None

    def request(self, request: dict[str, Any], wall: float) -> dict[str, Any]:
        """The reply to a request. Errors: AnswerError where the worker stops, or did so before in this question."""
        if self._failed is not None:
            raise AnswerError(f"not run: {self._failed}")
        if self._hopeless is not None:
            raise AnswerError(self._hopeless)
        if wall <= 0:
            raise AnswerError("not run: the question's time was used up")
        try:
            return self._started().request(request, wall)
        except WorkerFailure as failure:
            self.close()
            self._failed = str(failure)
            raise AnswerError(f"{request.get('name', 'the answer')}: {failure}") from None

    def lacks(self, names: Sequence[str]) -> str | None:
        """One line where none of these names is defined, so that there is nothing to ask; else None."""
        try:
            self._started()
        except AnswerError as error:
            return error.lines[0]
        if self.names.intersection(names):
            return None
        those = " and ".join(names) + (" is" if len(names) == 1 else " are")
        return f"{those} not defined: the cell is missing, was not run, or failed"

    def _started(self) -> Worker:
        if self._worker is not None and self._worker.alive:
            return self._worker
        self.close()
        try:
            self._load([self.cells], LOAD_SECONDS)
        except WorkerFailure:
            self._load_one_by_one()
        assert self._worker is not None
        return self._worker

    def _load(self, groups: Iterable[list[dict[str, Any]]], wall: float) -> None:
        self.close()
        self._worker = self._zygote.worker()
        self._worker.__enter__()
        self.problems, self.names = [], set()
        for cells in groups:
            reply = self._worker.request({"op": "load", "cells": cells}, wall)
            self.problems += reply["ok"]["problems"] if "ok" in reply else [str(reply["error"]["message"])]
            self.names |= set(reply["ok"]["names"]) if "ok" in reply else set()

    def _load_one_by_one(self) -> None:
        """Find the cells that hang or kill the worker, and do without them."""
        dropped: list[str] = []
        keep = list(self.cells)
        for _ in range(4):
            done = 0
            try:
                self.close()
                self._worker = self._zygote.worker()
                self._worker.__enter__()
                for cell in keep:
                    self._worker.request({"op": "load", "cells": [cell]}, CELL_SECONDS)
                    done += 1
                self._load([keep], LOAD_SECONDS)  # together once more, so that order does not matter
                self.problems += dropped
                self.cells = keep
                return
            except WorkerFailure as failure:
                if done < len(keep):
                    dropped.append(f"cell {keep[done].get('label') or done + 1} is left out: {failure}")
                    keep.pop(done)
        self.close()
        self._hopeless = "the submission's code could not be loaded: " + "; ".join(dropped)[:300]
        raise AnswerError(self._hopeless)


class Grader:
    """Grades submissions of one problem set; keeps the warm zygote, the reference's answers and the mistakes' traces.

    secret: bytes that the hidden seeds derive from; without it, those of the set's build, else fresh ones.
    """

    def __init__(
        self,
        problem_set: ProblemSet,
        *,
        device: str = "cpu",
        level: str | None = None,
        secret: bytes | None = None,
        zygote: Zygote | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.ps = problem_set
        self.notes: list[str] = []
        self._own = zygote is None
        self.zygote = zygote or Zygote(level, device, limits or Limits())
        self._entered = False
        self._memory: dict[str, Any] = {}
        self._traces: dict[tuple[int, int], Run] = {}
        self._solution: Answer | None = None
        self._secret = secret if secret is not None else self._found_secret()

    def __enter__(self) -> Grader:
        if self._own:
            self.zygote.__enter__()
        self._solution = Answer(self.zygote, self.ps.solution_cells())
        if self.zygote.level == "public":
            self.notes.append("public checks only: this machine offers no isolation that hidden checks may run under")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._solution is not None:
            self._solution.close()
        if self._own:
            self.zygote.__exit__(kind, error, tb)

    def _found_secret(self) -> bytes:
        path = secret_path(self.ps)
        if path.is_file():
            return bytes.fromhex(path.read_text("ascii").strip())
        self.notes.append("no build of this set was found: hidden seeds were drawn for this run alone")
        return secrets.token_bytes(16)

    def forget(self) -> None:
        """Drop the answers that are remembered: a run over many seeds would keep them all."""
        self._memory.clear()

    def remembered(self) -> int:
        """How many of the solution's answers are remembered."""
        return len(self._memory)

    def public_seeds(self, q: Question) -> list[int]:
        """The seeds of the public check, known to all."""
        return public_seeds(self.ps.name, q)

    def hidden_seeds(self, q: Question) -> list[int]:
        """The seeds of the hidden check, which nobody knows without the secret."""
        return [seed_of(self._secret.hex(), self.ps.name, q.id, i) for i in range(q.seeds)]

    def seeds(self, q: Question) -> list[int]:
        """The seeds that a question is graded at: the public one and the hidden ones.

        Trained quality is measured at the hidden seed alone, the same for the whole class: it costs a training, and
        data that are known beforehand could be fitted.
        """
        if self.zygote.level == "public":
            return self.public_seeds(q)
        return self.hidden_seeds(q) if q.quality else self.public_seeds(q) + self.hidden_seeds(q)

    question_seconds: float | None = None  # a wall clock for every question in place of its own, where it is shorter

    def grade(self, path: Path | str, only: Sequence[str] | None = None) -> GradeResult:
        """Grade a file, or only some of its questions.

        Never raises for what is in the file: a submission that cannot be read scores 0, with a line.
        """
        start = time.monotonic()
        questions = [self.ps.question(id) for id in only] if only is not None else list(self.ps.questions.values())
        try:
            names = {q.id: list(q.names) for q in self.ps.questions.values()}
            submission = read_submission(Path(path), names)
        except GraderError as error:
            return self._result([self.nothing(q, str(error)) for q in questions], [str(error)], start)
        with Answer(self.zygote, submission.cells) as answer:
            results = [self.grade_question(q, answer) for q in questions]
            notes = [*submission.problems, *answer.problems]
        result = self._result(results, notes, start)
        result.output = answer.output
        return result

    def _result(self, questions: list[QuestionResult], notes: list[str], start: float) -> GradeResult:
        written = [(w.id, w.points) for w in self.ps.written]
        level = self.zygote.level
        seconds = time.monotonic() - start
        return GradeResult(
            self.ps.name, level, level != "public", questions, written, self.notes + notes, seconds=seconds
        )

    def nothing(self, q: Question, line: str) -> QuestionResult:
        """A question that earned nothing, for one reason."""
        nothing = [("", 0.0, q.points, [line])]
        return QuestionResult(q.id, q.title, 0.0, q.points, nothing, [line], False, quality=q.quality)

    def grade_question(self, q: Question, answer: Answer, seeds: list[int] | None = None) -> QuestionResult:
        """Run a question's check at its public and hidden seeds, and explain what went wrong."""
        start = time.monotonic()
        answer.begin_question()
        if line := answer.lacks(q.names):
            return self.nothing(q, line)
        public = self.public_seeds(q)
        if seeds is None:
            seeds = self.seeds(q)
        runs: list[tuple[int, Run]] = []
        clock = Clock(min(q.seconds, self.question_seconds or q.seconds))
        for seed in seeds:
            runs.append((seed, self.run(q, answer, seed, clock)))
            if answer.stopped:
                break
        result = combine(q, [r for _, r in runs])
        shown = [r for seed, r in runs if seed in public] or [r for _, r in runs]
        result.public = all(p.points >= p.possible for r in shown for p in r.parts)
        for seed, run in runs:
            if any(not c.passed for c in run.compared):
                if variant := self.recognise(q, run, seed):
                    result.hint = variant.text
                    result.lines.insert(0, variant.text)
                break
        result.seconds = time.monotonic() - start
        return result

    def run(self, q: Question, answer: Answer, seed: int, clock: Clock) -> Run:
        """One run of a check at one seed; what the solution takes is not the student's time."""

        def solution(request: dict[str, Any]) -> dict[str, Any]:
            assert self._solution is not None
            with clock.stopped():
                self._solution.begin_question()
                return self._solution.request(request, REFERENCE_SECONDS)

        student = Student(lambda request: answer.request(request, clock.left()), seed)
        return run_question(q, student, Reference(self._memory, solution, seed), Draw(seed))

    def recognise(self, q: Question, run: Run, seed: int) -> Variant | None:
        """The mistake that gives what the student gave in the comparisons that failed, if there is one."""
        best: tuple[float, Variant | None] = (0.0, None)
        if any(not c.passed and isinstance(c.value, str) and unwritten(c.value) for c in run.compared):
            return None
        for i, variant in enumerate(self.ps.mistakes):
            if variant.question == q.id:
                if (i, seed) not in self._traces:
                    with Answer(self.zygote, self.ps.variant_cells(variant)) as answer:
                        self._traces[i, seed] = self.run(q, answer, seed, Clock(q.seconds))
                score = likeness(run.compared, self._traces[i, seed].compared)
                if score > best[0]:
                    best = score, variant
        return best[1]


def secret_path(ps: ProblemSet) -> Path:
    """Where `autograder build` keeps the set's secret; never in a zip that students get."""
    return Path(os.environ.get("AUTOGRADER_BUILD", "build")) / ps.name / "secret"


def combine(q: Question, runs: list[Run]) -> QuestionResult:
    """The parts of all seeds: a part counts as much as at its worst seed."""
    order: list[str] = []
    possible: dict[str, float] = {}
    points: dict[str, float] = {}
    lines: dict[str, list[str]] = {}
    for run in runs:
        for p in run.parts:
            if p.label not in order:
                order.append(p.label)
            if p.label:
                possible[p.label] = p.possible
            points[p.label] = min(points.get(p.label, p.points), p.points)
            lines.setdefault(p.label, [])
            lines[p.label] += [line for line in p.lines if line not in lines[p.label]][: 4 if not lines[p.label] else 0]
    for run in runs:  # a run that ended early lost the parts that it did not reach
        seen = {p.label for p in run.parts}
        for label in possible:
            if label not in seen:
                points[label] = 0.0
    if "" in order:
        possible[""] = max(q.points - sum(v for k, v in possible.items() if k), 0.0)
        whole = all(p.passed for run in runs for p in run.parts if not p.label)
        points[""] = possible[""] if whole else 0.0
    parts = [(label, points[label], possible[label], lines[label]) for label in order]
    said = [line for label, got, most, text in parts if got < most or not most for line in text]
    figures = [run.figure for run in runs if run.figure is not None]
    total = min(sum(p[1] for p in parts), q.points)
    result = QuestionResult(q.id, q.title, total, q.points, parts, said, False, quality=q.quality)
    result.figure = figures[0] if figures else None
    result.lower_is_better = any(run.lower_is_better for run in runs)
    return result


def grade(problem_set: ProblemSet, path: Path | str, **options: Any) -> GradeResult:
    """Grade one submission; the options are those of Grader. The sandbox imports only what the code mentions."""
    if options.get("zygote") is not None:
        with Grader(problem_set, **options) as grader:
            return grader.grade(path)
    cells: list[dict[str, Any]] = []
    with contextlib.suppress(GraderError):
        cells = read_submission(Path(path)).cells
    preload = preload_for("\n".join(cell["source"] for cell in cells))
    device, limits, level = options.pop("device", "cpu"), options.pop("limits", None), options.pop("level", None)
    if level is None:
        zygote = start_best(device, limits, preload=preload)
    else:
        zygote = Zygote(level, device, limits or Limits(), preload=preload)
    with zygote, Grader(problem_set, **{**options, "zygote": zygote}) as grader:
        return grader.grade(path)


def write_json(result: GradeResult, path: Path) -> None:
    """Write a result at once or not at all."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8") as handle:
        json.dump(result.to_dict(), handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
