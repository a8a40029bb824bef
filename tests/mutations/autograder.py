"""Faults for the autograder: each would let a wrong answer through, punish a right one, or trust what it must not."""

from tests.mutations import Mutation

CHECKS, CHECKS_TESTS = "autograder/checks.py", "tests/autograder/test_checks.py::"
VALUES, VALUES_TESTS = "autograder/values.py", "tests/autograder/test_values.py::"
EXECUTOR, EXECUTOR_TESTS = "autograder/executor.py", "tests/autograder/test_executor.py::"
GRADE, GRADE_TESTS = "autograder/grade.py", "tests/autograder/test_grade.py::"
DIAGNOSIS = "autograder/diagnosis.py"

MUTATIONS = [
    Mutation(
        CHECKS,
        "    return largest if largest > 0 else 1e-3\n",
        "    return max(largest, 1.0)\n",
        CHECKS_TESTS + "test_compare_is_relative_to_scale",
        "an absolute tolerance lets zeros through where values are small",
    ),
    Mutation(
        CHECKS,
        "    if a.shape != e.shape:\n",
        "    if a.size != e.size:\n",
        CHECKS_TESTS + "test_compare_says_what_differs",
        "a transposed answer is compared entry by entry",
    ),
    Mutation(
        CHECKS,
        "if not np.array_equal(a[special], e[special], equal_nan=True):",
        "if np.isfinite(a[special]).any():",
        CHECKS_TESTS + "test_infinities_that_are_meant_must_stand_in_their_places",
        "the sign of an infinity is not looked at",
    ),
    Mutation(
        CHECKS,
        "    steps = np.diff(a) if direction",
        "    steps = -np.diff(a) if direction",
        CHECKS_TESTS + "test_sums_to_one_and_monotone",
        "increasing and decreasing change places",
    ),
    Mutation(
        CHECKS,
        "[np.eye(d)[:32], diagonals, oblique",
        "[np.eye(d)[:32], oblique[:0] if diagonals else oblique",
        CHECKS_TESTS + "test_same_distribution_sees_shift_scale_and_correlation_and_passes_the_truth",
        "only the axes are tested, so that correlation is not seen",
    ),
    Mutation(
        CHECKS,
        "        if p * len(tests) < alpha:\n",
        "        if p < alpha * len(tests):\n",
        CHECKS_TESTS + "test_the_false_alarm_rate_is_as_said",
        "Bonferroni the wrong way round",
    ),
    Mutation(
        CHECKS,
        "u, v = 1.0 - self.uniform(0, 1, n), self.uniform(0, 1, n)",
        "v, u = self.uniform(0, 1, n), 1.0 - self.uniform(0, 1, n)",
        CHECKS_TESTS + "test_draws_are_the_same_bits_everywhere",
        "another order of draws: recorded answers no longer fit",
    ),
    Mutation(
        CHECKS,
        "    if earned == 0:\n        run.current.passed = False\n",
        "    if earned == 0:\n        run.current.earned = None\n",
        CHECKS_TESTS + "test_bands_pay_the_best_that_is_reached",
        "no band reached pays in full",
    ),
    Mutation(
        VALUES,
        "if math.prod(shape) * DTYPES[dtype].itemsize != len(raw):",
        "if math.prod(shape) * DTYPES[dtype].itemsize > len(raw):",
        VALUES_TESTS + "test_a_header_that_lies_is_refused",
        "surplus bytes are let through",
    ),
    Mutation(
        VALUES,
        "        if kind is np.ndarray:\n",
        "        if isinstance(v, np.ndarray):\n",
        VALUES_TESTS + "test_only_exact_plain_types_cross",
        "a subclass of an array passes for one",
    ),
    Mutation(
        VALUES,
        '        if depth > MAX_DEPTH or count > MAX_ITEMS:\n            raise BadValue("nested too deep',
        '        if count > MAX_ITEMS:\n            raise BadValue("nested too deep',
        VALUES_TESTS + "test_depth_is_capped_both_ways",
        "a header may be nested without end",
    ),
    Mutation(
        EXECUTOR,
        "        return torch.from_numpy(value.copy()).to(device)\n",
        "        return torch.from_numpy(value).to(device)\n",
        EXECUTOR_TESTS + "test_inputs_changed_in_place_are_reported",
        "student code gets the check's own array",
    ),
    Mutation(
        EXECUTOR,
        "    except BaseException as error:  # also SystemExit",
        "    except Exception as error:  # also SystemExit",
        EXECUTOR_TESTS + "test_whatever_is_raised_becomes_a_reply_with_the_students_line",
        "sys.exit ends the worker",
    ),
    Mutation(
        EXECUTOR,
        "    if kind is torch.Tensor or kind is torch.nn.Parameter:\n",
        "    if isinstance(value, torch.Tensor):\n",
        EXECUTOR_TESTS + "test_an_answer_of_another_kind_is_refused",
        "a tensor subclass passes for a tensor",
    ),
    Mutation(
        EXECUTOR,
        '        if not cell["whole"] and not _harmless(statement):\n            continue\n',
        '        if not cell["whole"] and False:\n            continue\n',
        EXECUTOR_TESTS + "test_cells_run_in_any_order_and_only_definitions_outside_of_answers",
        "training cells run while grading",
    ),
    Mutation(
        GRADE,
        "points[p.label] = min(points.get(p.label, p.points), p.points)",
        "points[p.label] = max(points.get(p.label, p.points), p.points)",
        GRADE_TESTS + "test_a_part_counts_as_at_its_worst_seed",
        "the best seed counts: the public answers suffice",
    ),
    Mutation(
        DIAGNOSIS,
        "        elif other is not None and not other.passed and same_value(c, other):\n",
        "        elif other is not None and not other.passed:\n",
        GRADE_TESTS + "test_an_answer_that_is_wrong_in_its_own_way_gets_the_difference",
        "any failure is told as the first mistake that fails there too",
    ),
]
