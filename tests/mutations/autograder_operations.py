"""Faults for the gradebook, the similarity report, batch grading and Gradescope: each gives someone a wrong grade."""

from tests.mutations import Mutation

GRADEBOOK, GRADEBOOK_TESTS = "autograder/gradebook.py", "tests/autograder/test_gradebook.py::"
SIMILARITY, SIMILARITY_TESTS = "autograder/similarity.py", "tests/autograder/test_similarity.py::"
BATCH, BATCH_TESTS = "autograder/batch.py", "tests/autograder/test_batch.py::"
GRADESCOPE, GRADESCOPE_TESTS = "autograder/gradescope.py", "tests/autograder/test_gradescope.py::"

MUTATIONS = [
    Mutation(
        GRADEBOOK,
        "return max(0, -(-seconds // 3600))",
        "return max(0, seconds // 3600)",
        GRADEBOOK_TESTS + "test_exactly_120_hours_are_free_and_a_second_more_costs_one_percent",
        "hours are rounded down",
    ),
    Mutation(
        GRADEBOOK,
        "if total >= bar)",
        "if round(total, 2) >= bar)",
        GRADEBOOK_TESTS + "test_letters_take_the_exact_total",
        "totals are rounded",
    ),
    Mutation(
        GRADEBOOK,
        "for stated in (True, False):",
        "for stated in (False, True):",
        GRADEBOOK_TESTS + "test_choices_beyond_need_or_beyond_the_allowance_give_nothing",
        "a student's choice comes after the default",
    ),
    Mutation(
        GRADEBOOK,
        "return elapsed <= timedelta(days=days)",
        "return elapsed.days <= days",
        GRADEBOOK_TESTS + "test_regrades_within_nine_days",
        "a regrade within the tenth day is taken",
    ),
    Mutation(
        GRADEBOOK,
        "key=lambda a: (a.due, a.name)):",
        "key=lambda a: 0):",
        GRADEBOOK_TESTS + "test_hours_go_in_the_order_of_due_dates_whatever_the_order_of_the_files",
        "free hours go in the order of the file",
    ),
    Mutation(
        SIMILARITY,
        'token = "self" if token == "self" else "name"',
        "pass",
        SIMILARITY_TESTS + "test_renamed_and_reordered_code_is_found",
        "renaming hides a copy",
    ),
    Mutation(
        SIMILARITY,
        "if gram is not None and gram[0] not in ignored:",
        "if gram is not None:",
        SIMILARITY_TESTS + "test_the_starters_own_code_counts_for_nothing",
        "the starter's code counts as copied",
    ),
    Mutation(
        SIMILARITY,
        "if j != last:",
        "if j != last and j % 2:",
        SIMILARITY_TESTS + "test_any_shared_run_of_a_window_shares_a_fingerprint",
        "windows without a fingerprint",
    ),
    Mutation(
        BATCH,
        '    ours = {f"autograder/{p.name}"',
        "    ours = {p.name",
        BATCH_TESTS + "test_what_a_result_depends_on_is_in_its_key",
        "the grader's checks.py hides the problem set's, whose changes no longer count",
    ),
    Mutation(
        BATCH,
        "digest = hashlib.sha256(settings.secret + repr",
        "digest = hashlib.sha256(repr",
        BATCH_TESTS + "test_what_a_result_depends_on_is_in_its_key",
        "results of another term's hidden checks are taken as this one's",
    ),
    Mutation(
        BATCH,
        "inside = path.parent == folder and",
        "inside =",
        BATCH_TESTS + "test_a_gradescope_export",
        "an export may name folders outside of it",
    ),
    Mutation(
        GRADESCOPE,
        "    lateness = submitted - max(ends)\n",
        "    lateness = datetime.now(submitted.tzinfo) - max(ends)\n",
        GRADESCOPE_TESTS + "test_hours_late_come_from_the_metadata",
        "lateness by the clock: a regrade makes everyone late",
    ),
    Mutation(
        GRADESCOPE,
        "lateness = submitted - max(ends)",
        "lateness = submitted - min(ends)",
        GRADESCOPE_TESTS + "test_a_due_date_that_gradescope_moved_counts",
        "the earlier of two due dates counts",
    ),
    Mutation(
        GRADESCOPE,
        "            left = end_descendants()\n",
        "            left = 0\n",
        GRADESCOPE_TESTS + "test_the_final_result_waits_until_every_process_is_dead",
        "a process that the submission left behind writes the last result",
    ),
    Mutation(
        GRADESCOPE,
        "    write(where, fallback())\n",
        "",
        GRADESCOPE_TESTS + "test_a_grading_process_that_fails_leaves_the_fallback",
        "no result where the grader fails",
    ),
    Mutation(
        GRADESCOPE,
        '    fence = "`" * max(3, longest + 1)\n',
        '    fence = "```"\n',
        GRADESCOPE_TESTS + "test_students_text_is_not_markdown",
        "a student's text leaves its block",
    ),
]
