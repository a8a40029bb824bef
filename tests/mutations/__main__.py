"""Break each module on purpose and see its tests turn red. Prints a table, `killed/all` last; non-zero if one lives.

torch and pytest are imported once; each fault is then planted in a copy of the package and tested in a forked child,
so that the working tree is never touched and an entry costs about as much as its tests. As many entries are tried at
a time as there are cores (`--jobs`).
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from tests import mutations
from tests.mutations import Mutation

ROOT = Path(__file__).resolve().parents[2]
SECONDS_PER_TEST = 120
PARTS = ("genmodels", "autograder", "problem_sets", "tests")


def entries(names: list[str]) -> list[Mutation]:
    """All entries, or those whose module's stem or family is in `names`."""
    found: list[Mutation] = []
    for info in pkgutil.iter_modules(mutations.__path__):
        if not info.name.startswith("_"):
            found += importlib.import_module(f"tests.mutations.{info.name}").MUTATIONS
    known = {Path(m.module).stem for m in found} | {Path(m.module).parent.name for m in found}
    for name in names:
        if name not in known:
            raise SystemExit(f"no mutations for {name!r}; known: {', '.join(sorted(known))}")
    return [m for m in found if not names or {Path(m.module).stem, Path(m.module).parent.name} & set(names)]


def planted(mutation: Mutation, copy: Path) -> str | None:
    """Plant the fault in the copy; returns what is wrong with the entry itself, if anything."""
    source = (copy / mutation.module).read_text(encoding="utf-8")
    count = source.count(mutation.find)
    if count != 1:
        return f"`find` stands {count} times in {mutation.module}"
    if mutation.find == mutation.replace:
        return "`replace` equals `find`"
    (copy / mutation.module).write_text(source.replace(mutation.find, mutation.replace), encoding="utf-8")
    return None


def run_tests(tests: list[str], copy: Path, log: Path) -> int:
    """Run the named tests in a forked child that imports the packages from `copy`; returns pytest's exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setpgid(0, 0)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.chdir(copy)
            sys.path.insert(0, str(copy))
            for name in [n for n in sys.modules if n.split(".")[0] in PARTS]:
                del sys.modules[name]
            import pytest
            import torch

            torch.set_num_threads(1)
            arguments = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", f"--rootdir={copy}"]
            status = int(pytest.main([*arguments, *tests]))
        finally:
            sys.stdout.flush()
            os._exit(status)
    deadline = time.monotonic() + SECONDS_PER_TEST * len(tests)
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 1  # a fault that hangs its tests is a fault that was seen


@contextmanager
def fresh_copy() -> Iterator[Path]:
    """A folder whose `tree` is a copy of the packages and the tests, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        for part in PARTS:
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        yield Path(folder)


def judge(mutation: Mutation) -> tuple[str, float]:
    """'killed', 'SURVIVED', or what is wrong with the entry; and the seconds that it took."""
    start = time.monotonic()
    with fresh_copy() as folder:
        problem = planted(mutation, folder / "tree")
        status = run_tests([mutation.tests], folder / "tree", folder / "log") if problem is None else None
    if status is not None and status not in (0, 1):
        problem = f"pytest ended with status {status} on {mutation.tests}"
    verdict = f"BROKEN ENTRY: {problem}" if problem else "SURVIVED" if status == 0 else "killed"
    return verdict, time.monotonic() - start


def is_red(tests: list[str]) -> bool:
    """Whether one of these tests fails without any fault: a mutation that such a test 'kills' proves nothing."""
    with fresh_copy() as folder:
        return run_tests(tests, folder / "tree", folder / "log") != 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("modules", nargs="*", help="module or family names; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time; default: the cores")
    arguments = parser.parse_args()
    found = entries(arguments.modules)
    import pytest
    import torch

    del pytest, torch
    os.environ["GENMODELS_MUTATION"] = "1"
    killed = 0
    with ProcessPoolExecutor(max(1, arguments.jobs), multiprocessing.get_context("fork")) as pool:
        named = sorted({m.tests for m in found})
        by_file = [list(group) for _, group in groupby(named, lambda name: name.split("::")[0])]
        first = tqdm(pool.map(is_red, by_file), "first without a fault", len(by_file), leave=False, disable=None)
        red = [tests for tests, fails in zip(by_file, first, strict=True) if fails]
        for tests in red:
            print(f"red before any fault, one of: {', '.join(tests)}", flush=True)
        for mutation, (verdict, seconds) in zip(found, pool.map(judge, found), strict=True):
            killed += verdict == "killed"
            where = mutation.module.removeprefix("genmodels/")
            print(f"{verdict:9s} {where:32s} {mutation.why}  ({seconds:.1f} s)", flush=True)
    print(f"{killed}/{len(found)}")
    return 0 if found and killed == len(found) and not red else 1


if __name__ == "__main__":
    sys.exit(main())
