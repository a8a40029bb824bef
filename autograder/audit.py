"""Proves a problem set: the starter earns nothing, the solution everything, each mistake is caught and named, each
alternative passes, each attack gains nothing, and students get nothing that they should not."""

from __future__ import annotations

import atexit
import dataclasses
import json
import multiprocessing
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .attacks import Canary, all_attacks
from .build import build, leaks, out_of_step, release, secret_file
from .checks import Draw, Question, run_question, seed_of
from .errors import GraderError
from .grade import Answer, Grader, QuestionResult, secret_path
from .problem_set import ProblemSet, Variant, load
from .proxies import Reference, Student


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
        begun = sorted(ids, key=lambda id: not ps.question(id).quality)  # what trains takes longest: it goes first
        futures = {id: pool.submit(_audit_one, id, seeds) for id in begun}
        for id in ids:
            _, row = futures[id].result()
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
    built: Path | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """The whole proof of a problem set, said line by line; whether everything holds.

    `built`: the folder that `autograder build` wrote, whose student zip is looked into; else it is built again.
    """
    try:
        return _audit(ps, level, only, seeds, attacks, jobs, built, say)
    except BrokenProcessPool:
        raise GraderError("a process of the audit did not start or was killed; its own words stand above") from None


def _audit(
    ps: ProblemSet,
    level: str | None,
    only: Sequence[str] | None,
    seeds: int,
    attacks: bool,
    jobs: int,
    built: Path | None,
    say: Callable[[str], None],
) -> bool:
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
    if attacks:
        ok = _said_attacks(audit_attacks(ps, level=level, jobs=jobs), say) and ok
    return _said_zip(ps, built, jobs, say) and ok


def _said_zip(ps: ProblemSet, built: Path | None, jobs: int, say: Callable[[str], None]) -> bool:
    """Whether the student zip gives nothing away: the one in `built` if it is of this release, else one built now."""
    archive = built / f"{ps.name}_student.zip" if built is not None else None
    if archive is not None and archive.is_file() and built is not None:
        secret = secret_file(built).read_text("ascii").strip()
        found = leaks(archive, ps, [secret, bytes.fromhex(secret)])
        if release(ps) not in _release_of(archive, ps):
            found.append(f"{archive.name} is of another release: autograder build {ps.name}")
        for line in found:
            say(f"FAILS {line}")
        if not found:
            say("student zip: as built, it holds no solution, no mistake's code, no hidden seed")
        return not found
    with tempfile.TemporaryDirectory() as scratch:
        try:
            build(ps, Path(scratch), in_place=False, jobs=jobs)  # fails where the student zip would give something away
        except GraderError as error:
            say(f"FAILS {error}")
            return False
    say("student zip: builds, and holds no solution, no mistake's code, no hidden seed")
    return True


def _release_of(archive: Path, ps: ProblemSet) -> str:
    try:
        with zipfile.ZipFile(archive) as packed:
            return packed.read(f"{ps.name}_checks/__init__.py").decode("utf-8")
    except (zipfile.BadZipFile, KeyError, OSError, UnicodeDecodeError):
        return ""


# -- attacks

ASKED = 2  # questions that each attack is graded on; they go round, so that all questions are attacked
ATTACK_SECONDS = 1.5  # a question's wall clock while it is attacked


@dataclass
class AttackRow:
    """One attack: what it gained on the questions it was graded on, and what was seen outside of the worker."""

    name: str
    what: str
    questions: list[str]
    score: float
    effects: list[str]

    @property
    def ok(self) -> bool:
        return self.score == 0 and not self.effects

    def line(self) -> str:
        verdict = "ok" if self.ok else "FAILS " + "; ".join(self.effects)
        return f"{self.name[:28]:28s} {self.what[:66]:66s} {','.join(self.questions):9s} {self.score:>3g}  {verdict}"


_CANARY: Canary | None = None


def _prepare_attacks(folder: Path, level: str | None) -> None:
    global _CANARY
    _prepare(folder, level)
    assert _GRADER is not None
    _GRADER.question_seconds = ATTACK_SECONDS
    ps = _GRADER.ps
    secrets = [p for p in (secret_path(ps), *folder.glob("*.py")) if p.is_file()]
    _CANARY = Canary(read=secrets, guard=[folder])
    _CANARY.__enter__()
    atexit.register(_CANARY.__exit__, None, None, None)


def _attack(name: str, ids: list[str], public: dict[str, list[Any]]) -> AttackRow:
    """Grade one attack, which defines all of the set's names, on a few of its questions."""
    assert _GRADER is not None
    assert _CANARY is not None
    attack = next(a for a in all_attacks(_CANARY, public) if a.name == name)
    ps = _GRADER.ps
    names = list(dict.fromkeys(name for q in ps.questions.values() for name in q.names))
    _CANARY.effects()
    with tempfile.TemporaryDirectory() as scratch:
        result = _GRADER.grade(attack.make(names, Path(scratch)), only=ids)
    effects = _CANARY.effects(json.dumps(result.to_dict()))
    return AttackRow(attack.name, attack.what, ids, result.score, effects)


def _unharmed(id: str) -> float:
    """What the solution still earns of a question's points, after all those attacks in this process."""
    assert _GRADER is not None
    q = _GRADER.ps.question(id)
    _GRADER.question_seconds = None
    with Answer(_GRADER.zygote, _GRADER.ps.solution_cells()) as answer:
        return _GRADER.grade_question(q, answer).points - q.points


def public_answers(grader: Grader) -> dict[str, list[Any]]:
    """What each function of the solution answers at the public seeds, for an attack that hard-codes it."""
    found: dict[str, list[Any]] = {}
    with Answer(grader.zygote, grader.ps.solution_cells()) as solution:
        for q in grader.ps.questions.values():
            if q.quality:
                continue

            def spy(request: dict[str, Any]) -> dict[str, Any]:
                reply = solution.request(request, 60.0)
                if request["op"] == "call" and "ok" in reply:
                    found.setdefault(request["name"], []).append(_plain(reply["ok"]))
                return reply

            seed = grader.public_seeds(q)[0]
            solution.begin_question()
            run_question(q, Student(spy, seed), Reference({}, lambda r: solution.request(r, 60.0), seed), Draw(seed))
    return {name: answers for name, answers in found.items() if len(json.dumps(answers)) < 20_000}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def audit_attacks(ps: ProblemSet, *, level: str | None = None, jobs: int = 1) -> list[AttackRow]:
    """Every attack as a submission to this set, each on a few of its questions in turn."""
    with Grader(ps, level=level) as grader:
        public = public_answers(grader)
    ids = [q.id for q in ps.questions.values() if not q.quality]
    attacks = all_attacks()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _prepare_attacks, (ps.folder, level)) as pool:
        futures = []
        for i, attack in enumerate(attacks):
            asked = sorted({ids[(ASKED * i + j) % len(ids)] for j in range(ASKED)})
            futures.append(pool.submit(_attack, attack.name, asked, public))
        rows = [future.result() for future in futures]
        lost = [pool.submit(_unharmed, ids[j % len(ids)]).result() for j in range(2 * jobs)]
    rows.append(AttackRow("the solution, afterwards", "still earns full marks", [], 0, ["it lost points"] * any(lost)))
    return rows


def _said_attacks(rows: list[AttackRow], say: Callable[[str], None]) -> bool:
    say(f"{'attack':28s} {'what it tries':66s} {'asked':9s} won")
    for row in rows:
        say(row.line())
    bad = sum(not row.ok for row in rows)
    say(f"attacks that gained nothing and reached nothing: {len(rows) - bad}/{len(rows)}")
    return not bad
