"""The gradebook against the policy's own sentences, worked by hand or reckoned another way."""

from __future__ import annotations

import csv
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograder.errors import GraderError
from autograder.gradebook import (
    Assignment,
    Entry,
    Policy,
    cell,
    explain,
    file_name,
    grade_student,
    late_hours,
    moment,
    read_term,
    regrade_in_time,
    show,
    spread,
    write,
)

DUE = datetime(2026, 2, 1, 5, tzinfo=timezone.utc)
HOMEWORK = [Assignment(f"ps{i}", "homework", Fraction(100), DUE + timedelta(days=14 * i)) for i in range(1, 5)]
ALL = [
    *HOMEWORK,
    Assignment("midterm", "midterm", Fraction(50), DUE + timedelta(days=60), late=False),
    Assignment("project", "project", Fraction(100), DUE + timedelta(days=90)),
]


def term(hours: dict[str, timedelta], score: int = 100, **choices: int) -> dict[str, Entry]:
    """Full marks everywhere (half in the midterm's own points), late by `hours`."""
    entries = {}
    for a in ALL:
        entries[a.name] = Entry(a.possible * score / 100, hours.get(a.name, timedelta(0)), choice=choices.get(a.name))
    return entries


@pytest.mark.parametrize(
    ("late", "extension", "expected"),
    [
        (timedelta(0), 0, 0),
        (timedelta(microseconds=1), 0, 1),
        (timedelta(hours=1), 0, 1),
        (timedelta(hours=120), 0, 120),
        (timedelta(hours=120, seconds=1), 0, 121),
        (timedelta(hours=120, microseconds=1), 0, 121),
        (timedelta(hours=5), 5, 0),
        (timedelta(hours=5, seconds=1), 5, 1),
        (timedelta(hours=5), Fraction(9, 2), 1),
        (timedelta(hours=5), 24, 0),
    ],
)
def test_hours_are_rounded_up_after_the_extension(late: timedelta, extension: Fraction, expected: int) -> None:
    assert late_hours(late, Fraction(extension)) == expected


def test_exactly_120_hours_are_free_and_a_second_more_costs_one_percent() -> None:
    policy = Policy()
    exact = grade_student("a", term({"ps1": timedelta(hours=120)}), ALL, policy)
    over = grade_student("a", term({"ps1": timedelta(hours=120, seconds=1)}), ALL, policy)
    assert (exact.total, exact.hours_left) == (100, 0)
    # 1 % of one of four homeworks that weigh 40 % together
    assert over.total == 100 - Fraction(1, 4) * Fraction(40, 100) * 1
    assert over.lines[0].charged == 1


def test_rounding_up_is_per_assignment_not_of_the_sum() -> None:
    half = timedelta(minutes=30)
    grade = grade_student("a", term({"ps1": half, "ps2": half}), ALL, Policy())
    assert grade.hours_left == 118


def test_hours_go_in_the_order_of_due_dates_whatever_the_order_of_the_files() -> None:
    late = {"ps3": timedelta(hours=100), "ps1": timedelta(hours=100)}
    grade = grade_student("a", term(late), list(reversed(ALL)), Policy())
    charged = {x.assignment.name: x.charged for x in grade.lines}
    assert charged["ps1"] == 0
    assert charged["ps3"] == 80


def test_a_student_may_keep_hours_for_later() -> None:
    late = {"ps1": timedelta(hours=100), "ps3": timedelta(hours=100)}
    grade = grade_student("a", term(late, ps1=20), ALL, Policy())
    charged = {x.assignment.name: x.charged for x in grade.lines}
    assert charged["ps1"] == 80
    assert charged["ps3"] == 0


def test_choices_beyond_need_or_beyond_the_allowance_give_nothing() -> None:
    assert spread([3, 10], [50, None], 120) == [3, 10]
    assert spread([100, 100], [100, 100], 120) == [100, 20]
    assert spread([100, 100, 5], [None, 120, 0], 120) == [20, 100, 0]


@given(
    st.lists(st.tuples(st.integers(0, 300), st.none() | st.integers(0, 200)), max_size=8),
    st.integers(0, 200),
)
def test_free_hours_are_never_overspent_and_never_held_back(pairs: list[tuple[int, int | None]], free: int) -> None:
    hours, choices = [h for h, _ in pairs], [c for _, c in pairs]
    granted = spread(hours, choices, free)
    assert sum(granted) <= free
    assert all(0 <= g <= h for g, h in zip(granted, hours, strict=True))
    assert all(c is None or g <= c for g, c in zip(granted, choices, strict=True))
    wanted = sum(h if c is None else min(h, c) for h, c in pairs)
    assert sum(granted) == min(free, wanted)


@given(st.lists(st.integers(0, 200), min_size=4, max_size=4), st.lists(st.integers(0, 10**4), min_size=6, max_size=6))
def test_against_another_way_to_reckon(hours: list[int], cents: list[int]) -> None:
    """Spend the 120 hours one by one, in Decimal; and lateness never helps."""
    entries = {a.name: Entry(Fraction(c, 100) * a.possible / 100) for a, c in zip(ALL, cents, strict=True)}
    on_time = grade_student("a", entries, ALL, Policy())
    for a, h in zip(HOMEWORK, hours, strict=True):
        entries[a.name].lateness = timedelta(hours=h)
    grade = grade_student("a", entries, ALL, Policy())
    pool, homework = 120, Decimal(0)
    for h, c in zip(hours, cents, strict=False):
        charged = 0
        for _ in range(h):
            if pool:
                pool -= 1
            else:
                charged += 1
        homework += Decimal(c) / 100 * (100 - min(charged, 100)) / 100
    total = (
        homework / 4 * Decimal("0.4")
        + Decimal(cents[4]) / 100 * Decimal("0.3")
        + Decimal(cents[5]) / 100 * Decimal("0.3")
    )
    assert grade.total == Fraction(total)
    assert grade.hours_left == pool
    assert grade.total <= on_time.total


def test_a_score_never_falls_below_zero() -> None:
    grade = grade_student("a", term({"ps1": timedelta(hours=120), "ps2": timedelta(hours=101)}), ALL, Policy())
    assert next(x for x in grade.lines if x.assignment.name == "ps2").score == 0


@pytest.mark.parametrize(
    ("total", "letter"),
    [
        ("100", "A+"), ("97", "A+"), ("96.999999", "A"), ("93", "A"), ("92.9999", "A-"), ("90", "A-"), ("89.999", "B+"),
        ("89.9999999999999999999999", "B+"), ("87", "B+"), ("86.99", "B"), ("83", "B"), ("80", "B-"), ("77", "C+"),
        ("73", "C"), ("70", "C-"), ("67", "D+"), ("63", "D"), ("60", "D-"), ("59.999", "F"), ("0", "F"),
    ],
)  # fmt: skip
def test_letters_take_the_exact_total(total: str, letter: str) -> None:
    assert Policy().letter(Fraction(Decimal(total))) == letter


def test_thirds_add_up_to_the_bar_exactly() -> None:
    """Three homeworks at 2/3, 1, 1 and so on: a sum that floating point puts just below the bar."""
    work = [Assignment(f"h{i}", "homework", Fraction(3), DUE) for i in range(10)]
    entries = {a.name: Entry(Fraction(27, 10)) for a in work}
    grade = grade_student("a", entries, work, Policy())
    assert grade.total == 90
    assert grade.letter == "A-"


def test_shown_numbers_are_cut_off_not_rounded() -> None:
    assert show(Fraction(899999999, 10**7)) == "89.999"
    assert show(Fraction(2, 3)) == "0.666"
    assert show(Fraction(90)) == "90"
    assert show(Fraction(-1, 2)) == "-0.5"


def test_no_midterm_yet_scales_the_rest_and_says_so() -> None:
    grade = grade_student("a", {"ps1": Entry(Fraction(90))}, HOMEWORK[:1], Policy())
    assert grade.total == 90
    assert "midterm, project" in grade.notes[0]


def test_missing_counts_zero_and_excused_does_not_count() -> None:
    missing = term({})
    del missing["ps1"]
    assert grade_student("a", missing, ALL, Policy()).total == 90
    excused = {**missing, "ps1": Entry(excused=True)}
    assert grade_student("a", excused, ALL, Policy()).total == 100


def test_what_may_not_be_late_counts_zero() -> None:
    grade = grade_student("a", term({"midterm": timedelta(seconds=1)}), ALL, Policy())
    assert grade.total == 70
    assert grade.hours_left == 120


def test_regrades_within_nine_days() -> None:
    published = datetime(2026, 3, 5, 12, tzinfo=timezone.utc)
    assert regrade_in_time(published, published + timedelta(days=9), 9)
    assert not regrade_in_time(published, published + timedelta(days=9, seconds=1), 9)


def test_hours_are_real_hours_where_the_clocks_change() -> None:
    zone = "America/New_York"  # clocks go forward on 2026-03-08 at 2:00
    before, after = moment("2026-03-08T00:00", "x", zone), moment("2026-03-08T06:00", "x", zone)
    assert after - before == timedelta(hours=5)


@pytest.mark.parametrize(
    "text",
    ["2026-02-13T23:59:00-05:00", "2026-02-14 04:59:00 UTC", "2026-02-14T04:59:00Z", "2026-02-13 23:59:00 -0500",
     "2026-02-14T04:59:00.000Z"],
)  # fmt: skip
def test_times_are_read(text: str) -> None:
    assert moment(text, "x") == datetime(2026, 2, 14, 4, 59, tzinfo=timezone.utc)


# -- files

FILES = {
    "assignments.csv": """assignment,category,possible,due,late,published
ps1,homework,100,2026-02-13T23:59:00-05:00,yes,2026-02-20T12:00:00-05:00
midterm,midterm,50,2026-03-20T16:00:00-05:00,no,
project,project,100,2026-05-10T23:59:00-05:00,,
""",
    "scores.csv": """student,assignment,score,hours_late,submitted_at
ann,ps1,89.5,,2026-02-13T23:59:00-05:00
ann,midterm,45,,
ann,project,90.25,,
bob,ps1,80,121.5,
bob,midterm,excused,,
bob,project,70,,
""",
}


def folder(tmp_path: Path, **changes: str) -> Path:
    for name, text in {**FILES, **{k.replace("_csv", ".csv"): v for k, v in changes.items()}}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_term_on_disk(tmp_path: Path) -> None:
    read = read_term(folder(tmp_path))
    grades = write(read, tmp_path / "out")
    ann, bob = grades
    assert ann.total == Fraction(40) * Fraction("0.895") + 30 * Fraction("0.9") + 30 * Fraction("0.9025")
    assert ann.letter == "B+"  # 89.875
    # 122 hours, 2 of them charged: 80 becomes 78.4; the midterm is excused, so 40 and 30 stand for all
    assert bob.total == (40 * Fraction("78.4") + 30 * 70) / 70
    rows = list(csv.DictReader((tmp_path / "out" / "gradebook.csv").open()))
    assert [r["letter"] for r in rows] == ["B+", "C"]
    assert rows[1]["ps1 hours late"] == "122"
    text = (tmp_path / "out" / "explanations" / "bob.txt").read_text()
    assert "122 h late, 120 of them free, 2 h at 1 %: minus 2 %, counts 78.4" in text
    assert explain(ann, read.policy).endswith("total: 89.875 % (exact: 719/8), not rounded: B+\n")


def test_extensions_choices_and_regrades_on_disk(tmp_path: Path) -> None:
    grades = read_term(
        folder(
            tmp_path,
            extensions_csv="student,assignment,hours\nbob,ps1,100\n",
            choices_csv="student,assignment,hours\nbob,ps1,10\n",
            regrades_csv="student,assignment,requested_at,score\n"
            "ann,ps1,2026-03-01T12:00:00-05:00,99\nbob,ps1,2026-03-01T12:00:01-05:00,100\n",
        )
    ).grades()
    ann, bob = grades
    assert ann.lines[0].score == 99
    assert (bob.lines[0].hours, bob.lines[0].free, bob.lines[0].charged) == (22, 10, 12)
    assert bob.lines[0].score == 80 * Fraction(88, 100)
    assert "refused" in bob.lines[0].entry.notes[0]


def test_scores_of_a_batch_run_are_taken_as_they_are(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "ps1.csv").write_text("student,2a,total,submitted_at\ncarl,1,77.5,2026-02-14T05:59:00Z\n")
    (tmp_path / "scores.csv").unlink()
    carl = read_term(tmp_path).grades()[0]
    assert (carl.lines[0].score, carl.lines[0].hours) == (Fraction("77.5"), 1)


def test_points_of_written_questions_are_added(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "ps1.csv").write_text("student,total,submitted_at\ncarl,70.5,2026-02-14T05:59:00Z\ndora,,\n")
    (tmp_path / "scores" / "ps1.a-written.csv").write_text(
        "student,total,submitted_at\ncarl,9.5,2026-02-14T06:59:00Z\ndora,4,\nemil,,\n"
    )
    (tmp_path / "scores.csv").unlink()
    carl, dora, emil = read_term(tmp_path).grades()
    assert (carl.lines[0].score, carl.lines[0].hours) == (80, 2)
    assert dora.lines[0].score == 4
    assert emil.lines[0].score == 0


def test_what_was_not_graded_is_no_zero(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "ps1.csv").write_text("student,total,notes\ncarl,,NOT GRADED: signal 9\n")
    with pytest.raises(GraderError, match="carl has no score yet"):
        read_term(tmp_path)


def test_a_policy_file_changes_what_it_names(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "policy.json").write_text('{"free_hours": 0, "penalty_per_hour": 0.005, "letters": {"P": 45}}')
    bob = read_term(tmp_path).grades()[1]
    assert bob.lines[0].score == 80 * (1 - 122 * Fraction(5, 1000))
    assert bob.letter == "P"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("scores_csv", "student,assignment,score\nann,ps2,3\n", "did you mean 'ps1'"),
        ("scores_csv", "student,assignment,score\nann,ps1,3\nann,ps1,4\n", "two scores"),
        ("scores_csv", "student,assignment,score\nann,ps1,NaN\n", "not a number"),
        ("scores_csv", "student,assignment,score\nann,ps1,-1\n", "negative"),
        ("scores_csv", "student,assignment,score\nann,ps1,1e999999\n", "not a number"),
        ("scores_csv", "student,score\nann,3\n", "no column assignment"),
        ("scores_csv", "student,assignment,score,submitted_at\nann,ps1,3,2026-02-13T10:00\n", "timezone"),
        ("choices_csv", "student,assignment,hours\nann,ps1,1.5\n", "whole number"),
        ("choices_csv", "student,assignment,hours\nanna,ps1,1\n", "did you mean 'ann'"),
        ("assignments_csv", "assignment,category,possible,due\nps1,homeworks,1,2026-01-01T00:00Z\n", "'homework'"),
    ],
)
def test_bad_input_is_one_line_with_its_place(tmp_path: Path, file: str, text: str, message: str) -> None:
    with pytest.raises(GraderError, match=message) as caught:
        read_term(folder(tmp_path, **{file: text}))
    assert "\n" not in str(caught.value)


def test_names_cannot_leave_the_folder_or_run_in_a_spreadsheet(tmp_path: Path) -> None:
    taken: set[str] = set()
    names = [file_name(n, taken) for n in ("../../etc/passwd", "ann", "Ann", "", "a/b", "a b", "a_b")]
    assert len({n.lower() for n in names}) == len(names)
    assert not any("/" in n or n.startswith(".") for n in names)
    assert cell("=HYPERLINK(1)").startswith("'")
    assert cell("-1.5") == "-1.5"
