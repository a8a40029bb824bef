"""A set's check functions inside of otter-grader's kernel: the student's namespace and the solution, side by side."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from autograder.checks import Draw, Question, questions_of, run_question
from autograder.executor import execute, load_cells
from autograder.proxies import Reference, Student


@functools.lru_cache(maxsize=1)
def questions(folder: str) -> dict[str, Question]:
    """The questions of a set's checks.py."""
    spec = importlib.util.spec_from_file_location("benchmark_checks", Path(folder, "checks.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return questions_of(vars(module))


@functools.lru_cache(maxsize=1)
def namespace_of(solution: str) -> dict[str, Any]:
    """The solution's namespace."""
    namespace: dict[str, Any] = {}
    load_cells(namespace, json.loads(Path(solution).read_text("utf-8")))
    return namespace


def check(folder: str, solution: str, id: str, seeds: list[int], env: dict[str, Any]) -> None:
    """Run a check at each seed, in this process. Errors: AssertionError with the first line where it fails."""
    q = questions(folder)[id]
    for seed in seeds:
        student = Student(lambda request: execute(env, request), seed)
        reference = Reference({}, lambda request: execute(namespace_of(solution), request), seed)
        run = run_question(q, student, reference, Draw(seed))
        for part in run.parts:
            assert part.passed, "; ".join(part.lines)
