"""Proves a problem set: the starter earns nothing, the solution everything, each mistake is caught and named, each
alternative passes, each attack gains nothing, and students get nothing that they should not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .checks import Question, seed_of
from .grade import Answer, Grader, QuestionResult
from .problem_set import Variant


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


def audit_questions(
    grader: Grader, only: list[str] | None = None, seeds: int = 1, say: Callable[[str], None] = lambda line: None
) -> list[Row]:
    """Grade starter, solution, every mistake and every alternative; `seeds` further seeds for the alternatives."""
    ps = grader.ps
    rows = []
    with Answer(grader.zygote, ps.starter_cells()) as starter, Answer(grader.zygote, ps.solution_cells()) as solution:
        for q in ps.questions.values():
            if only and q.id not in only:
                continue
            row = Row(q)
            rows.append(row)
            row.starter = grader.grade_question(q, starter).points
            if row.starter:
                row.problems.append(f"the starter earns {row.starter:g}")
            result = grader.grade_question(q, solution)
            row.solution = result.points
            if row.solution < q.points:
                row.problems.append(f"the solution earns {row.solution:g} of {q.points:g}: {first(result)}")
            for variant in [v for v in ps.mistakes if v.question == q.id]:
                _mistake(grader, q, variant, row)
            for variant in [v for v in ps.alternatives if v.question == q.id]:
                _alternative(grader, q, variant, row, seeds)
            if row.mistakes < MIN_MISTAKES or row.alternatives < MIN_ALTERNATIVES:
                row.problems.append(
                    f"{MIN_MISTAKES} mistakes and {MIN_ALTERNATIVES} alternatives are wanted, "
                    f"and there are {row.mistakes} and {row.alternatives}"
                )
            say(row.line())
            for problem in row.problems:
                say(f"       {problem}")
    return rows


def first(result: QuestionResult) -> str:
    """The first line that a student would read."""
    return (result.lines or ["(no line)"])[0]


def _mistake(grader: Grader, q: Question, variant: Variant, row: Row) -> None:
    """A mistake must lose points at every seed, and its own hint must come first."""
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


@dataclass
class AttackRow:
    """One attack: what it gained beyond an empty answer, and what was seen outside of the worker."""

    name: str
    what: str
    score: float
    effects: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        return self.score == 0 and not self.effects

    def line(self) -> str:
        verdict = "ok" if self.ok else "FAILS " + "; ".join(self.effects)
        return f"{self.name[:30]:30s} {self.what[:56]:56s} {self.score:>4g}  {self.seconds:5.1f} s  {verdict}"
