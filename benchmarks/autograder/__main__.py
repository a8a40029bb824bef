"""`python -m benchmarks.autograder [SET]`: submissions a minute of our batch and of otter-grader 7, and their ratio.

Both grade the same notebooks (the set's setup and answer cells: the solution, the starter, and the set's own mistakes
in turn) with the very same check functions at the same number of seeds, in as many processes. otter-grader runs as it
does without a container: `otter.api.grade_submission` in long-lived processes, each submission in a fresh Jupyter
kernel, the student's code beside the tests. Ours runs as `autograder batch` does, with all of its isolation, and with
the recognition of mistakes, which otter has not. Starting is left out for both: the first submission of each process.

otter-grader needs version 6 or newer. If it lives in another environment, name that one's Python: --otter-python.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autograder import problem_set as problem_sets
from autograder.batch import Entry, run_batch
from autograder.checks import Question
from autograder.errors import GraderError
from autograder.executor import _harmless
from autograder.grade import Grader
from autograder.problem_set import Cell, ProblemSet, solved, starter

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "tests" / "autograder" / "demo_ps"
SECRET = b"benchmark"

OTTER_TEST = """
import sys
sys.path.insert(0, {root!r})
from otter.test_files import test_case
from benchmarks.autograder.inside_otter import check

OK_FORMAT = False
name = {id!r}
points = {points}


@test_case(points={points}, hidden=False)
def test_question(env):
    check({folder!r}, {solution!r}, {id!r}, {seeds!r}, env)
"""


def parts(ps: ProblemSet) -> list[Cell]:
    """Setup and answer cells, and the imports and definitions of the others: no training runs, no pictures."""
    found = []
    for c in ps.cells:
        if c.kind == "code" and ("setup" in c.tags or c.tagged("answer")):
            found.append(c)
        elif c.kind == "code" and not c.tags:
            kept = [ast.unparse(node) for node in ast.parse(c.source).body if _harmless(node)]
            if kept:
                found.append(Cell("code", "\n".join(kept)))
    return found


def notebook(cells: list[Cell], sources: list[str], number: int) -> str:
    """A notebook of code cells, no two alike; each cell tagged as in the set's source."""
    made: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"cell-{i}", "metadata": {"tags": list(c.tags)}, "source": source,
         "outputs": [], "execution_count": None}
        for i, (c, source) in enumerate(zip(cells, sources, strict=True))
    ]  # fmt: skip
    made[-1]["source"] += f"\n# submission {number}\n"
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def write_submissions(ps: ProblemSet, folder: Path, count: int) -> None:
    """Half of them the solution, a quarter with one mistake, a quarter the starter."""
    cells = parts(ps)
    for i in range(count):
        sources = [starter(c) if i % 4 == 3 else solved(c) for c in cells]
        if i % 4 == 1 and ps.mistakes:
            mistake = ps.mistakes[(i // 4) % len(ps.mistakes)]
            at = next(k for k, c in enumerate(cells) if c.tagged("answer") == mistake.question)
            sources[at] += "\n\n" + mistake.source
        (folder / f"student{i:03d}.ipynb").write_text(notebook(cells, sources, i), "utf-8")


def seeds_of(ps: ProblemSet) -> dict[str, list[int]]:
    """The seeds at which our grader runs each check; otter gets the same."""
    grader = Grader.__new__(Grader)  # only its seeds are asked for: no sandbox is started
    grader.ps, grader._secret = ps, SECRET

    def of(q: Question) -> list[int]:
        return grader.hidden_seeds(q) if q.quality else grader.public_seeds(q) + grader.hidden_seeds(q)

    return {q.id: of(q) for q in ps.questions.values()}


def ours(ps: ProblemSet, folder: Path, out: Path, jobs: int) -> tuple[list[float], dict[str, list[str]], float]:
    """Times of each result after the start, the questions with full marks by student, and seconds in all."""
    times: list[float] = []
    start = time.perf_counter()

    def clock(entries: Iterable[Entry], _total: int) -> Iterator[Entry]:
        for entry in entries:
            times.append(time.perf_counter() - start)
            yield entry

    batch = run_batch(ps, folder, out, jobs=jobs, secret=SECRET, similarity=None, progress=clock)
    full: dict[str, list[str]] = {}
    for e in batch.entries:
        if e.result is None:
            raise GraderError(f"{e.student}: {e.failure}")
        full[e.student] = [q["id"] for q in e.result["questions"] if q["points"] >= q["possible"]]
    return times, full, time.perf_counter() - start


def otter_zip(ps: ProblemSet, path: Path) -> None:
    """otter's autograder: one test file a question; the solution lies beside it, outside of the archive."""
    solution = path.with_name("solution.json")
    solution.write_text(json.dumps(ps.solution_cells()), "utf-8")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("otter_config.json", json.dumps({"pdf": False}))
        for id, seeds in seeds_of(ps).items():
            values = {"root": str(ROOT), "folder": str(ps.folder), "solution": str(solution)}
            archive.writestr(
                f"tests/q{id}.py", OTTER_TEST.format(**values, seeds=seeds, id=id, points=ps.questions[id].points)
            )


def otter(ps: ProblemSet, folder: Path, work: Path, jobs: int, python: str, count: int) -> tuple[list[float], Any, str]:
    """Times of each result after the start, the questions with full marks by student, and otter's version."""
    otter_zip(ps, work / "autograder.zip")
    paths = sorted(folder.glob("*.ipynb"))[:count]
    script = Path(__file__).with_name("run_otter.py")
    processes = []
    for job in range(jobs):
        mine = [str(p) for p in paths[job::jobs]]
        command = [python, str(script), str(work / "autograder.zip"), *mine]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=work))
    times: list[float] = []
    full: dict[str, list[str]] = {}
    version = ""
    for process in processes:
        text, errors = process.communicate()
        if process.returncode:
            last = (errors.strip().splitlines() or ["no reason given"])[-1]
            raise GraderError(f"otter-grader: {last}")
        said = json.loads(text.strip().splitlines()[-1])
        version = said["version"]
        times += said["times"]  # of one clock that all processes of a machine share
        full |= said["full"]
    return sorted(times), full, version


def rate(times: list[float], jobs: int) -> float:
    """Submissions a minute, from the time when each process has one behind it."""
    warm = sorted(times)
    if len(warm) <= jobs:
        raise GraderError(f"{len(warm)} submissions are too few for {jobs} processes")
    return 60 * (len(warm) - jobs) / (warm[-1] - warm[jobs - 1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autograder", description=__doc__)
    parser.add_argument("set", nargs="?", default=str(DEMO), help="a problem set (default: the tests' small one)")
    parser.add_argument("--count", type=int, default=60, help="submissions for ours")
    parser.add_argument("--otter-count", type=int, default=12, help="submissions for otter-grader")
    parser.add_argument("--jobs", type=int, default=1, help="processes of each")
    parser.add_argument("--otter-python", default=sys.executable, help="the Python that has otter-grader")
    arguments = parser.parse_args()
    try:
        ps = problem_sets.load(arguments.set)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            folder = Path(name, "submissions")
            folder.mkdir()
            write_submissions(ps, folder, arguments.count)
            times, full, seconds = ours(ps, folder, Path(name, "out"), arguments.jobs)
            mine = rate(times, arguments.jobs)
            print(f"ours: {mine:.1f} submissions a minute warm; {len(times)} in {seconds:.1f} s with all starting")
            theirs_times, theirs_full, version = otter(
                ps, folder, Path(name), arguments.jobs, arguments.otter_python, arguments.otter_count
            )
            theirs = rate(theirs_times, arguments.jobs)
            print(f"otter-grader {version}: {theirs:.1f} submissions a minute warm; {len(theirs_times)} graded")
            agree = sum(full[s] == theirs_full[s] for s in theirs_full)
            print(f"the same questions have full marks in {agree} of {len(theirs_full)} submissions that both graded")
            about = f"{ps.name}, {len(ps.questions)} questions, {arguments.jobs} processes each"
            print(f"ratio: {mine / theirs:.1f} ({about})")
            return 0 if agree == len(theirs_full) else 1
    except GraderError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
