"""Proves a problem set: the starter earns nothing, the solution everything, each mistake is caught and named, each
alternative passes, each attack gains nothing, and students get nothing that they should not."""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .build import build, out_of_step
from .checks import Question, seed_of
from .errors import GraderError
from .grade import Answer, Grader, QuestionResult
from .problem_set import ProblemSet, Variant, load


@dataclass
class Row:
    """One question of the audit."""

    question: Question
    starter: float = 0.0
    solution: float = 0.0
    caught: int = 0
    hinted: int = 0
    mistakes: int = 0
    passed: int = 0
    alternatives: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def line(self) -> str:
        q = self.question
        return (
            f"{q.id:4s} {q.title[:34]:34s} {self.starter:>3g}/{q.points:<3g}  {self.solution:>3g}/{q.points:<3g}  "
            f"{self.caught:>3d}/{self.mistakes:<3d} {self.hinted:>3d}/{self.mistakes:<3d}  "
            f"{self.passed:>3d}/{self.alternatives:<3d}  {'ok' if self.ok else 'FAILS'}"
        )


HEADER = f"{'':4s} {'question':34s} starter  solution caught  hinted   alternatives"
MIN_MISTAKES, MIN_ALTERNATIVES = 5, 2


def audit_question(grader: Grader, q: Question, seeds: int = 1) -> Row:
    """Grade the starter, the solution, every mistake and every alternative of a question."""
    ps = grader.ps
    row = Row(q)
    with Answer(grader.zygote, ps.starter_cells()) as starter:
        row.starter = grader.grade_question(q, starter).points
    if row.starter:
        row.problems.append(f"the starter earns {row.starter:g}")
    with Answer(grader.zygote, ps.solution_cells()) as solution:
        result = grader.grade_question(q, solution)
    row.solution = result.points
    if row.solution < q.points:
        row.problems.append(f"the solution earns {row.solution:g} of {q.points:g}: {first(result)}")
    asked = grader.remembered()
    for variant in [v for v in ps.mistakes if v.question == q.id]:
        _mistake(grader, q, variant, row)
    if grader.remembered() > asked:
        row.problems.append("the reference is asked what depends on the student's answers: it can't be recorded")
    for variant in [v for v in ps.alternatives if v.question == q.id]:
        _alternative(grader, q, variant, row, seeds)
    if row.mistakes < MIN_MISTAKES or row.alternatives < MIN_ALTERNATIVES:
        row.problems.append(
            f"{MIN_MISTAKES} mistakes and {MIN_ALTERNATIVES} alternatives are wanted, "
            f"and there are {row.mistakes} and {row.alternatives}"
        )
    return row


def first(result: QuestionResult) -> str:
    """The first line that a student would read."""
    return (result.lines or ["(no line)"])[0]


def _mistake(grader: Grader, q: Question, variant: Variant, row: Row) -> None:
    """A mistake must lose points, already in the public check, and its own hint must come first."""
    row.mistakes += 1
    name = f"mistake at {variant.file}:{variant.line}"
    with Answer(grader.zygote, grader.ps.variant_cells(variant)) as answer:
        result = grader.grade_question(q, answer)
        if answer.problems:
            row.problems.append(f"{name} does not load: {answer.problems[0]}")
    if result.points >= q.points:
        row.problems.append(f"{name} earns full marks ({variant.text[:60]})")
        return
    row.caught += 1
    if result.public:
        row.problems.append(f"{name} passes the public check")
    if result.hint == variant.text:
        row.hinted += 1
    else:
        row.problems.append(f"{name} ({variant.text[:50]}...) is told: {first(result)[:150]}")


def _alternative(grader: Grader, q: Question, variant: Variant, row: Row, seeds: int) -> None:
    """An alternative must earn full marks, at as many seeds as are asked for."""
    row.alternatives += 1
    name = f"alternative at {variant.file}:{variant.line}"
    with Answer(grader.zygote, grader.ps.variant_cells(variant)) as answer:
        results = [grader.grade_question(q, answer)]
        if seeds > 1 and not q.quality:
            for i in range(1, seeds):
                results.append(grader.grade_question(q, answer, [seed_of("audit", q.id, i)]))
                grader.forget()
        if answer.problems:
            row.problems.append(f"{name} does not load: {answer.problems[0]}")
    bad = [r for r in results if r.points < q.points]
    if bad:
        row.problems.append(
            f"{name} loses {q.points - bad[0].points:g} at {len(bad)} of {len(results)}: {first(bad[0])}"
        )
    else:
        row.passed += 1


_GRADER: Grader | None = None  # of this process, while it audits


def _prepare(folder: Path, level: str | None) -> None:
    """Start a process that audits: load the set, warm a zygote."""
    global _GRADER
    _GRADER = Grader(load(folder), level=level)
    _GRADER.__enter__()
    atexit.register(_GRADER.__exit__, None, None, None)


def _audit_one(id: str, seeds: int) -> tuple[str, Row]:
    assert _GRADER is not None
    row = audit_question(_GRADER, _GRADER.ps.question(id), seeds)
    return id, dataclasses.replace(row, question=dataclasses.replace(row.question, run=_gone))  # functions don't pickle


def _gone(student: object, reference: object, draw: object) -> None:
    """Stands for a check where only its row travels."""


def audit_questions(
    ps: ProblemSet,
    *,
    level: str | None = None,
    only: Sequence[str] | None = None,
    seeds: int = 1,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """The rows of the questions, audited in `jobs` processes, said in order as they come."""
    ids = [ps.question(id).id for id in only] if only else list(ps.questions)
    context = multiprocessing.get_context("spawn")
    rows = []
    with ProcessPoolExecutor(min(jobs, len(ids)), context, _prepare, (ps.folder, level)) as pool:
        for future in [pool.submit(_audit_one, id, seeds) for id in ids]:
            _, row = future.result()
            rows.append(row)
            say(row.line())
            for problem in row.problems:
                say(f"       {problem}")
    return rows


def audit(
    ps: ProblemSet,
    *,
    level: str | None = None,
    only: Sequence[str] | None = None,
    seeds: int = 1,
    attacks: bool = True,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> bool:
    """The whole proof of a problem set, said line by line; whether everything holds."""
    say(f"{ps.name}: {len(ps.questions)} graded questions, {len(ps.written)} written, {ps.points:g} points")
    say(HEADER)
    rows = audit_questions(ps, level=level, only=only, seeds=seeds, jobs=jobs, say=say)
    mistakes, hinted = sum(r.mistakes for r in rows), sum(r.hinted for r in rows)
    caught, passed = sum(r.caught for r in rows), sum(r.passed for r in rows)
    say(
        f"mistakes caught {caught}/{mistakes}, told by their own hint {hinted}/{mistakes}; "
        f"alternatives with full marks {passed}/{sum(r.alternatives for r in rows)}"
    )
    ok = all(r.ok for r in rows)
    if line := out_of_step(ps):
        say(f"FAILS {line}")
        ok = False
    with tempfile.TemporaryDirectory() as scratch:
        try:
            build(ps, Path(scratch), in_place=False, jobs=jobs)  # fails where the student zip would give something away
            say("student zip: builds, and holds no solution, no mistake's code, no hidden seed")
        except GraderError as error:
            say(f"FAILS {error}")
            ok = False
    return ok
