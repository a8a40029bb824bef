"""Grades of a term by the course's policy: late hours, weights, letters, regrades.

A term is a folder of CSV files:

    assignments.csv  assignment, category, possible, due[, late][, weight][, published]
    scores.csv       student, assignment, score[, hours_late | submitted_at]; a score may be `excused`
    scores/<assignment>.csv        instead or besides: student, total[, submitted_at], as `autograder batch` writes it
    scores/<assignment>.<part>.csv what is added to it, such as the points of written questions: the same columns
    extensions.csv   student, assignment, hours       the due date moves by so much (optional)
    choices.csv      student, assignment, hours       free late hours that the student puts there (optional)
    regrades.csv     student, assignment, requested_at[, score]                                 (optional)
    policy.json      what differs from the policy below                                         (optional)

Policy of course A, which is the default. Time after the due date (and its extension) counts in hours, rounded up per
assignment. 120 of them are free over the term. A student may say how many go to which assignment; what is not said is
spent in the order of due dates. Each further hour takes 1 % of that assignment's own score, down to 0. Homework is
40 %, the midterm 30 % and the project 30 %; within a category all assignments weigh the same unless `weight` says
otherwise. A missing score is 0. A regrade counts if it was asked for within 9 days of publication. Totals are exact
fractions and are never rounded, so 89.999 is a B+; the CSV shows them cut off, not rounded.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from .errors import GraderError, unknown

LETTERS = (("A+", 97), ("A", 93), ("A-", 90), ("B+", 87), ("B", 83), ("B-", 80), ("C+", 77), ("C", 73), ("C-", 70),
           ("D+", 67), ("D", 63), ("D-", 60))  # fmt: skip
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Policy:
    """What a course decides. Figures are exact fractions."""

    free_hours: int = 120
    penalty_per_hour: Fraction = Fraction(1, 100)  # of the assignment's own score
    weights: Mapping[str, Fraction] = field(
        default_factory=lambda: {"homework": Fraction(40), "midterm": Fraction(30), "project": Fraction(30)}
    )
    letters: tuple[tuple[str, Fraction], ...] = tuple((name, Fraction(bar)) for name, bar in LETTERS)
    lowest: str = "F"
    regrade_days: int = 9
    timezone: str | None = None  # of times that are written without one

    def letter(self, total: Fraction) -> str:
        """The letter of a total in percent, at the exact value."""
        return next((name for name, bar in self.letters if total >= bar), self.lowest)


@dataclass(frozen=True)
class Assignment:
    """One piece of work."""

    name: str
    category: str
    possible: Fraction
    due: datetime
    late: bool = True  # whether it may be late at all
    weight: Fraction = Fraction(1)  # within its category
    published: datetime | None = None  # when its grades were


@dataclass
class Entry:
    """What one student did on one assignment."""

    score: Fraction = Fraction(0)
    lateness: timedelta = timedelta(0)  # after the due date, before extensions
    excused: bool = False
    missing: bool = False
    extension: Fraction = Fraction(0)  # hours
    choice: int | None = None  # free hours that the student puts here
    notes: list[str] = field(default_factory=list)


@dataclass
class Line:
    """An assignment after the policy."""

    assignment: Assignment
    entry: Entry
    hours: int = 0
    free: int = 0
    charged: int = 0
    score: Fraction = Fraction(0)

    @property
    def percent(self) -> Fraction:
        return 100 * self.score / self.assignment.possible


@dataclass
class Grade:
    """A student's term."""

    student: str
    lines: list[Line]
    categories: dict[str, Fraction]  # in percent
    total: Fraction
    letter: str
    hours_left: int
    notes: list[str]


def late_hours(lateness: timedelta, extension: Fraction = Fraction(0)) -> int:
    """Whole hours late after an extension, rounded up: 120 h + 1 µs is 121."""
    seconds = Fraction(lateness // timedelta(microseconds=1), 1_000_000) - extension * 3600
    return max(0, -(-seconds // 3600))


def spread(hours: list[int], choices: list[int | None], free: int) -> list[int]:
    """Free hours of each assignment, given in order of due dates.

    A stated choice comes first, never above the hours that are needed there; what is left then goes to the assignments
    without one, in order. Choices that together exceed the free hours are served in order until none are left.
    """
    granted = [0] * len(hours)
    for stated in (True, False):
        for i, (need, choice) in enumerate(zip(hours, choices, strict=True)):
            if (choice is not None) is stated:
                granted[i] = min(need, free, need if choice is None else choice)
                free -= granted[i]
    return granted


def grade_student(
    student: str, entries: Mapping[str, Entry], assignments: Iterable[Assignment], policy: Policy
) -> Grade:
    """Apply the policy to one student. An assignment without an entry is missing and scores 0."""
    lines = []
    for a in sorted(assignments, key=lambda a: (a.due, a.name)):
        lines.append(Line(a, entries.get(a.name) or Entry(missing=True)))
    countable = [x for x in lines if x.assignment.late and not x.entry.excused and not x.entry.missing]
    for x in lines:
        if not (x.entry.excused or x.entry.missing):
            x.hours = late_hours(x.entry.lateness, x.entry.extension)
    granted = spread([x.hours for x in countable], [x.entry.choice for x in countable], policy.free_hours)
    for x, hours in zip(countable, granted, strict=True):
        x.free, x.charged = hours, x.hours - hours
    for x in lines:
        refused = x.hours > 0 and not x.assignment.late
        x.score = Fraction(0) if refused else x.entry.score * max(Fraction(0), 1 - policy.penalty_per_hour * x.charged)

    categories: dict[str, Fraction] = {}
    notes = []
    for name in policy.weights:
        counted = [x for x in lines if x.assignment.category == name and not x.entry.excused]
        weight = sum((x.assignment.weight for x in counted), Fraction(0))
        if weight:
            categories[name] = sum((x.percent * x.assignment.weight for x in counted), Fraction(0)) / weight
    whole = sum(policy.weights.values(), Fraction(0))
    present = sum((policy.weights[name] for name in categories), Fraction(0))
    weighted = sum((policy.weights[name] * percent for name, percent in categories.items()), Fraction(0))
    total = weighted / present if present else Fraction(0)
    if present != whole:
        absent = ", ".join(n for n in policy.weights if n not in categories)
        notes.append(f"so far: nothing counts yet in {absent}, so the other weights are scaled up")
    left = policy.free_hours - sum(granted)
    return Grade(student, lines, categories, total, policy.letter(total) if present else "", left, notes)


def explain(grade: Grade, policy: Policy) -> str:
    """What a student is told: every step of the reckoning, in plain text."""
    out = [f"{grade.student}", ""]
    for x in grade.lines:
        a, e = x.assignment, x.entry
        head = f"{a.name} ({a.category}): "
        if e.excused:
            out.append(head + "excused, does not count")
        elif e.missing:
            out.append(head + f"nothing was handed in: 0 of {show(a.possible)}")
        else:
            out.append(head + f"{show(e.score)} of {show(a.possible)}" + _late_words(x, policy))
        if e.extension:
            out.append(f"    extension: {show(e.extension)} h")
        out.extend(f"    {note}" for note in e.notes)
    out.append("")
    for name, percent in grade.categories.items():
        out.append(f"{name}: {show(percent)} %, weight {show(policy.weights[name])}")
    out.extend(grade.notes)
    out.append(f"free late hours left: {grade.hours_left} of {policy.free_hours}")
    out.append(f"total: {show(grade.total)} % (exact: {grade.total}), not rounded: {grade.letter or 'no letter yet'}")
    return "\n".join(out) + "\n"


def _late_words(x: Line, policy: Policy) -> str:
    if not x.hours:
        return "" if x.entry.choice in (None, 0) else f"; on time, so the {x.entry.choice} h chosen for it stay yours"
    if not x.assignment.late:
        return f"; {x.hours} h late, and this may not be late: counts 0"
    how = "" if x.entry.choice is None else f" (you chose {x.entry.choice})"
    text = f"; {x.hours} h late, {x.free} of them free{how}"
    if x.charged:
        lost = min(Fraction(100), 100 * policy.penalty_per_hour * x.charged)
        rate = show(100 * policy.penalty_per_hour)
        text += f", {x.charged} h at {rate} %: minus {show(lost)} %, counts {show(x.score)}"

    return text


def show(value: Fraction, places: int = 3) -> str:
    """A number cut off (not rounded) after `places` decimals, so that no grade looks better than it is."""
    scaled = abs(value) * 10**places
    whole, rest = divmod(scaled.numerator // scaled.denominator, 10**places)
    text = f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")
    return "-" + text if value < 0 and text != "0" else text


# -- reading


def exact(text: str, what: str) -> Fraction:
    """A number as it is written, exactly. Errors: GraderError."""
    try:
        number = Decimal(text.strip())
        if number.is_finite() and abs(number.adjusted()) < 30:
            return Fraction(number)
    except InvalidOperation:
        pass
    raise GraderError(f"{what}: {text!r} is not a number")


def whole_hours(text: str, what: str) -> int:
    """A number of free hours: whole and not negative. Errors: GraderError."""
    number = exact(text, what)
    if number < 0 or number.denominator != 1:
        raise GraderError(f"{what}: {text!r} must be a whole number of hours, 0 or more")
    return int(number)


def moment(text: str, what: str, zone: str | None = None) -> datetime:
    """A time in UTC from ISO 8601 text; one without an offset is in the policy's timezone. Errors: GraderError.

    Times are compared in UTC: the hours between two local times are wrong by one where the clocks change in between.
    """
    cleaned = re.sub(r"\s*(UTC|Z)$", "+00:00", text.strip())
    cleaned = re.sub(r"(?<=\d)\s+(?=[+-]\d\d:?\d\d$)", "", cleaned)
    cleaned = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", cleaned) if "T" in cleaned or " " in cleaned else cleaned
    cleaned = re.sub(r"\.(\d{1,6})\d*", lambda m: "." + m[1].ljust(6, "0"), cleaned)  # Python 3.10 wants 6 digits
    try:
        time = datetime.fromisoformat(cleaned)
        if time.tzinfo is None and zone is None:
            raise GraderError(f'{what}: {text!r} has no offset from UTC, and policy.json names no "timezone"')
        return (time if time.tzinfo else time.replace(tzinfo=ZoneInfo(str(zone)))).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise GraderError(f"{what}: {text!r} is not a time such as 2026-02-13T23:59:00-05:00") from None


def read_policy(path: Path) -> Policy:
    """The default policy with what a JSON file changes. Errors: GraderError."""
    try:
        given = json.loads(path.read_text("utf-8"), parse_float=str, parse_int=str)
    except ValueError as error:
        raise GraderError(f"{path.name}: {error}") from None
    if not isinstance(given, dict):
        raise GraderError(f"{path.name}: an object is expected")
    known = [f.name for f in dataclasses.fields(Policy)]
    changes: dict[str, Any] = {}
    for key, value in given.items():
        what = f"{path.name}: {key}"
        if key not in known:
            raise unknown("policy", key, known)
        if key in ("weights", "letters") and not (isinstance(value, dict) and value):
            raise GraderError(f"{what}: an object of names and numbers is expected")
        if key in ("free_hours", "regrade_days"):
            changes[key] = whole_hours(str(value), what)
        elif key == "penalty_per_hour":
            changes[key] = exact(str(value), what)
        elif key == "weights":
            changes[key] = {name: exact(str(w), what) for name, w in value.items()}
            if min(changes[key].values()) <= 0:
                raise GraderError(f"{what}: weights are above 0")
        elif key == "letters":
            bars = [(name, exact(str(bar), what)) for name, bar in value.items()]
            changes[key] = tuple(sorted(bars, key=lambda x: -x[1]))
            if len({bar for _, bar in bars}) < len(bars):
                raise GraderError(f"{what}: two letters have the same bar")
        elif not isinstance(value, str):
            raise GraderError(f"{what}: text is expected")
        else:
            changes[key] = value
    policy = Policy(**changes)
    if policy.timezone is not None:
        try:
            ZoneInfo(policy.timezone)
        except (ValueError, OSError, KeyError):
            raise GraderError(f"{path.name}: unknown timezone {policy.timezone!r}") from None
    return policy


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV by column, stripped; rows that are blank are left out. Errors: GraderError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            absent = [c for c in needed if c not in reader.fieldnames]
            if absent:
                raise GraderError(f"{path.name}: no column {', '.join(absent)}")
            rows = []
            for row in reader:
                clean = {k: (v or "").strip() for k, v in row.items() if k is not None}
                if any(clean.values()):
                    rows.append({**clean, "_where": f"{path.name}:{reader.line_num}"})
            return rows
    except FileNotFoundError:
        raise GraderError(f"{path}: no such file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise GraderError(f"{path.name}: {error}") from None


@dataclass
class Term:
    """All that a term's folder holds."""

    policy: Policy
    assignments: dict[str, Assignment]
    entries: dict[str, dict[str, Entry]]  # student, assignment

    def grades(self) -> list[Grade]:
        """Every student's grade, by name."""
        work = self.assignments.values()
        return [grade_student(s, self.entries[s], work, self.policy) for s in sorted(self.entries)]


def read_term(folder: Path, policy: Path | None = None) -> Term:
    """Read and check a term's folder. Errors: GraderError, with file and line."""
    chosen = policy or folder / "policy.json"
    rules = read_policy(chosen) if policy is not None or chosen.exists() else Policy()
    assignments = _read_assignments(folder / "assignments.csv", rules)
    entries: dict[str, dict[str, Entry]] = {}
    found = False
    if (folder / "scores.csv").exists():
        found = True
        _read_scores(folder / "scores.csv", None, assignments, entries, rules)
    files = sorted((folder / "scores").glob("*.csv"), key=lambda p: (p.stem not in assignments, p.name))
    for path in files:  # whole assignments first, then parts that add to them
        part = path.stem not in assignments and "." in path.stem
        name = path.stem.rpartition(".")[0] if part else path.stem
        _read_scores(path, name, assignments, entries, rules, part=part)
    if not (found or files):
        raise GraderError(f"{folder}: neither scores.csv nor scores/*.csv")
    _read_hours(folder, assignments, entries)
    _read_regrades(folder / "regrades.csv", assignments, entries, rules)
    return Term(rules, assignments, entries)


def _read_assignments(path: Path, policy: Policy) -> dict[str, Assignment]:
    found: dict[str, Assignment] = {}
    for row in _rows(path, ("assignment", "category", "possible", "due")):
        where, name = row["_where"], row["assignment"]
        if row["category"] not in policy.weights:
            raise GraderError(f"{where}: {unknown('category', row['category'], policy.weights)}")
        if name in found or not name:
            raise GraderError(f"{where}: assignment {name!r} is there twice" if name else f"{where}: no name")
        if row.get("late", "yes") not in ("", "yes", "no"):
            raise GraderError(f"{where}: late is yes or no, not {row['late']!r}")
        possible, weight = exact(row["possible"], where), exact(row.get("weight") or "1", where)
        if possible <= 0 or weight < 0:
            raise GraderError(f"{where}: possible points are above 0 and a weight is 0 or more")
        published = row.get("published")
        found[name] = Assignment(
            name,
            row["category"],
            possible,
            moment(row["due"], where, policy.timezone),
            row.get("late", "yes") != "no",
            weight,
            moment(published, where, policy.timezone) if published else None,
        )
    if not found:
        raise GraderError(f"{path.name}: no assignment")
    return found


def _read_scores(
    path: Path,
    name: str | None,
    assignments: Mapping[str, Assignment],
    entries: dict[str, dict[str, Entry]],
    policy: Policy,
    *,
    part: bool = False,
) -> None:
    column = "score" if name is None else "total"
    seen: set[str] = set()
    for row in _rows(path, ("student", "assignment", column) if name is None else ("student", column)):
        where = row["_where"]
        work = _known(assignments, row["assignment"] if name is None else name, where)
        student = row["student"]
        if not student:
            raise GraderError(f"{where}: no student")
        mine = entries.setdefault(student, {})
        if (work.name in mine) and not part:
            raise GraderError(f"{where}: {student} has two scores for {work.name}")
        if part and student in seen:
            raise GraderError(f"{where}: {student} is there twice")
        seen.add(student)
        if not row[column] and row.get("notes", "").startswith("NOT GRADED"):
            raise GraderError(f"{where}: {student} has no score yet: {row['notes'][:80]}")
        if part and not row[column]:
            continue
        entry = mine.setdefault(work.name, Entry())
        if row[column].lower() == "excused":
            entry.excused = True
            continue
        if not row[column]:
            entry.missing = True
            continue
        points = exact(row[column], where)
        if points < 0:
            raise GraderError(f"{where}: the score is negative")
        entry.score, entry.missing = entry.score + points, False
        entry.notes = [n for n in entry.notes if not n.startswith("above the ")]
        if entry.score > work.possible:
            entry.notes.append(f"above the {show(work.possible)} possible points: extra credit")
        if row.get("hours_late") and row.get("submitted_at"):
            raise GraderError(f"{where}: hours_late and submitted_at are both given")
        if row.get("hours_late"):
            late = exact(row["hours_late"], where)
            if not 0 <= late <= 24 * 366:
                raise GraderError(f"{where}: {row['hours_late']} hours late is not possible")
            entry.lateness = max(entry.lateness, timedelta(microseconds=-(-late * 3_600_000_000 // 1)))
        elif row.get("submitted_at"):
            entry.lateness = max(entry.lateness, moment(row["submitted_at"], where, policy.timezone) - work.due)


def _read_hours(
    folder: Path, assignments: Mapping[str, Assignment], entries: Mapping[str, Mapping[str, Entry]]
) -> None:
    for file in ("extensions.csv", "choices.csv"):
        seen = set()
        if not (folder / file).exists():
            continue
        for row in _rows(folder / file, ("student", "assignment", "hours")):
            where = row["_where"]
            work = _known(assignments, row["assignment"], where)
            if row["student"] not in entries:
                raise GraderError(f"{where}: {unknown('student', row['student'], entries)}")
            key = (row["student"], work.name)
            if key in seen:
                raise GraderError(f"{where}: a second line for {row['student']} and {work.name}")
            seen.add(key)
            entry = entries[row["student"]].get(work.name)
            if file == "choices.csv":
                hours = whole_hours(row["hours"], where)
                if entry is not None:
                    entry.choice = hours
            else:
                extension = exact(row["hours"], where)
                if extension < 0:
                    raise GraderError(f"{where}: an extension is 0 hours or more")
                if entry is not None:
                    entry.extension = extension


def _read_regrades(
    path: Path, assignments: Mapping[str, Assignment], entries: Mapping[str, Mapping[str, Entry]], policy: Policy
) -> None:
    if not path.exists():
        return
    for row in _rows(path, ("student", "assignment", "requested_at")):
        where = row["_where"]
        work = _known(assignments, row["assignment"], where)
        if row["student"] not in entries:
            raise GraderError(f"{where}: {unknown('student', row['student'], entries)}")
        entry = entries[row["student"]].get(work.name)
        if entry is None or entry.missing:
            raise GraderError(f"{where}: {row['student']} has no score for {work.name}")
        if work.published is None:
            raise GraderError(f"{where}: assignments.csv does not say when {work.name} was published")
        asked = moment(row["requested_at"], where, policy.timezone)
        if not regrade_in_time(work.published, asked, policy.regrade_days):
            entry.notes.append(f"regrade refused: asked for after the window of {policy.regrade_days} days")
        elif row.get("score"):
            score = exact(row["score"], where)
            if score < 0:
                raise GraderError(f"{where}: the score is negative")
            entry.notes.append(f"regraded: {show(entry.score)} became {show(score)}")
            entry.score = score
        else:
            entry.notes.append("regrade asked for in time, not decided yet")


def regrade_in_time(published: datetime, asked: datetime, days: int) -> bool:
    """Whether a request came by `days` times 24 hours after publication, that second included."""
    elapsed = asked.astimezone(timezone.utc) - published.astimezone(timezone.utc)
    return elapsed <= timedelta(days=days)


def _known(assignments: Mapping[str, Assignment], name: str, where: str) -> Assignment:
    if name not in assignments:
        raise GraderError(f"{where}: {unknown('assignment', name, assignments)}")
    return assignments[name]


# -- writing


def cell(value: object) -> str:
    """Text for a CSV that a spreadsheet will not run as a formula; names and notes come from students."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return "'" + text if text[:1] in ("=", "+", "-", "@") and not re.fullmatch(r"-?\d+(\.\d+)?", text) else text


def write(term: Term, out: Path) -> list[Grade]:
    """Write gradebook.csv and explanations/<student>.txt; what stood there from an earlier run is replaced."""
    grades = term.grades()
    (out / "explanations").mkdir(parents=True, exist_ok=True)
    work = sorted(term.assignments.values(), key=lambda a: (a.due, a.name))
    categories = list(term.policy.weights)
    with (out / "gradebook.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads = [f"{a.name} {what}" for a in work for what in ("score", "hours late", "free", "counted")]
        writer.writerow(["student", *heads, *categories, "total", "letter", "free hours left", "notes"])
        for g in grades:
            by_name = {x.assignment.name: x for x in g.lines}
            row = [cell(g.student)]
            for a in work:
                x = by_name[a.name]
                score = "excused" if x.entry.excused else "" if x.entry.missing else show(x.entry.score)
                row += [score, str(x.hours), str(x.free), "" if x.entry.excused else show(x.score)]
            row += [show(g.categories[c]) if c in g.categories else "" for c in categories]
            notes = [*g.notes, *(f"{x.assignment.name}: {n}" for x in g.lines for n in x.entry.notes)]
            writer.writerow([*row, show(g.total), g.letter, str(g.hours_left), cell("; ".join(notes))])
    taken: set[str] = set()
    for g in grades:
        (out / "explanations" / f"{file_name(g.student, taken)}.txt").write_text(explain(g, term.policy), "utf-8")
    return grades


def file_name(name: str, taken: set[str]) -> str:
    """A safe file name for a student, unique among those that are taken (and without regard to case)."""
    safe = re.sub(r"[^\w.@-]+", "_", name).strip("._")[:80] or "student"
    if safe != name or safe.lower() in taken:
        safe = f"{safe}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    taken.add(safe.lower())
    return safe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `autograder gradebook`."""
    parser.add_argument("term", type=Path, help="folder with assignments.csv, scores.csv, ...")
    parser.add_argument("--out", type=Path, help="folder for gradebook.csv and explanations/ (default: TERM/out)")
    parser.add_argument("--policy", type=Path, help="JSON file with what differs from the default policy")


def main(arguments: argparse.Namespace) -> int:
    """`autograder gradebook TERM`: reckon, write, and print a line a student."""
    out = arguments.out or arguments.term / "out"
    term = read_term(arguments.term, arguments.policy)
    for g in write(term, out):
        print(f"{g.student:30s} {show(g.total):>8s} {g.letter}")
    print(f"written: {out / 'gradebook.csv'} and {out / 'explanations'}/")
    return 0
