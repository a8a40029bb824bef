"""The command `autograder`: build, grade, batch, audit, rehearse, gradebook, gradescope-local.

Everything heavy is imported inside the command that needs it. What the user can mend ends with one line and status 2,
an interrupt with status 130; `grade` ends with 0 whatever the score, `audit` with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import GraderError

if TYPE_CHECKING:
    from .grade import GradeResult

LEVELS = ("bubblewrap", "uid", "public")


def _build(arguments: argparse.Namespace) -> int:
    """Make notebooks and zips; or, with --check, say whether the committed starter is in step."""
    from . import build, gradescope
    from .problem_set import load

    ps = load(arguments.problem_set)
    if arguments.check:
        line = build.out_of_step(ps)
        print(line or f"{ps.name}.ipynb is in step with {ps.name}.py")
        return 1 if line else 0
    out = arguments.out or Path(os.environ.get("AUTOGRADER_BUILD", "build")) / ps.name
    built = build.build(ps, out, jobs=os.cpu_count() or 1)
    secret = bytes.fromhex(build.secret_file(out).read_text("ascii").strip())
    gradescope_zip = gradescope.make_gradescope_zip(
        ps,
        out / f"{ps.name}_gradescope.zip",
        secret,
        extensions=arguments.extensions,
        pip_options=arguments.pip_options,
    )
    for path, what in (
        (built.starter, "starter, for students"),
        (built.student_zip, "student zip: starter, public checks, recorded answers"),
        (built.solution, "staff only: solution"),
        (gradescope_zip, "staff only: for Gradescope"),
        (build.secret_file(out), "staff only: what the hidden seeds derive from"),
    ):
        print(f"{path}  ({what})")
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    """Grade one submission and print a table."""
    from .grade import grade, write_json
    from .problem_set import load

    ps, path = load(arguments.problem_set), Path(arguments.submission)
    if not path.exists():
        raise GraderError(f"{path}: there is no such file")
    result = grade(ps, path, device=arguments.device, level=arguments.level)
    if arguments.out:
        write_json(result, Path(arguments.out))
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=1))
    else:
        print(table(result))
    return 0


def table(result: GradeResult) -> str:
    """A graded submission as text: a line a question, below it what the student reads."""
    lines = []
    for q in result.questions:
        lines.append(f"{q.id:4s} {q.title[:50]:50s} {q.points:>5g} of {q.possible:g}")
        lines += [f"       {line}" for line in (q.lines if q.points < q.possible or q.quality else [])]
    lines += [f"{id:4s} {'(written: graded by a person)':50s}     – of {points:g}" for id, points in result.written]
    lines.append(f"{'':4s} {'sum of the graded questions':50s} {result.score:>5g} of {result.possible:g}")
    lines += [f"note: {note}" for note in result.notes]
    checks = "public and hidden checks" if result.hidden else "public checks only"
    lines.append(f"{result.problem_set}: {checks}, isolation: {result.level}, {result.seconds:.1f} s")
    return "\n".join(lines)


def _batch(arguments: argparse.Namespace) -> int:
    from . import batch

    return batch.main(arguments)


def _gradescope_local(arguments: argparse.Namespace) -> int:
    from . import gradescope

    return gradescope.main(arguments)


def _gradebook(arguments: argparse.Namespace) -> int:
    from . import gradebook

    return gradebook.main(arguments)


def _audit(arguments: argparse.Namespace) -> int:
    """Prove problem sets; see audit.py."""
    from .audit import audit
    from .problem_set import load

    failed = []
    for name in arguments.problem_sets:
        start = time.monotonic()
        ps = load(name)
        ok = audit(
            ps,
            level=arguments.level,
            only=arguments.only.split(",") if arguments.only else None,
            seeds=arguments.seeds,
            attacks=not arguments.no_attacks,
            jobs=arguments.jobs,
            built=arguments.built / ps.name if arguments.built else None,
            say=lambda line: print(line, flush=True),
        )
        print(f"{ps.name}: {'everything holds' if ok else 'NOT everything holds'}, {time.monotonic() - start:.0f} s")
        failed += [] if ok else [ps.name]
    return 1 if failed else 0


def _rehearse(arguments: argparse.Namespace) -> int:
    """Play through built problem sets as a student would; see rehearse.py."""
    from .problem_set import load
    from .rehearse import rehearse

    good = True
    for name in arguments.problem_sets:
        ps = load(name)
        built = arguments.built or Path(os.environ.get("AUTOGRADER_BUILD", "build")) / ps.name
        good &= rehearse(ps, built, functools.partial(_say, ps.name))
    return 0 if good else 1


def _say(name: str, line: str) -> None:
    print(name, line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="autograder", description="Problem sets: written once, graded in isolation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = add("build", _build, "make the notebooks, the student zip and the Gradescope zip from a set's source")
    sub.add_argument("problem_set", help="a name (ps1) or a folder")
    sub.add_argument("--out", type=Path, help="folder (default: build/NAME)")
    sub.add_argument("--check", action="store_true", help="only say whether the committed starter is in step")

    sub.add_argument("--extensions", type=Path, help="per-student extensions for Gradescope, CSV or JSON: email, hours")
    sub.add_argument("--pip-options", default="", help="options of pip on Gradescope, as for a smaller build of torch")

    sub = add("grade", _grade, "grade one submission: .ipynb, .py or .zip")
    sub.add_argument("problem_set")
    sub.add_argument("submission")
    sub.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    sub.add_argument("--level", choices=LEVELS, help="isolation (default: the best that this machine offers)")
    sub.add_argument("--out", help="write the result as JSON")
    sub.add_argument("--json", action="store_true", help="print JSON in place of the table")

    sub = add("batch", _batch, "grade a folder of submissions; resumable, one bad submission stops nothing")
    _late("batch", sub)

    sub = add("audit", _audit, "prove problem sets: starter 0, solution full, mistakes caught, attacks 0")
    sub.add_argument("problem_sets", nargs="+", metavar="problem_set")
    sub.add_argument("--level", choices=LEVELS)
    sub.add_argument("--only", help="questions, separated by commas")
    sub.add_argument("--seeds", type=int, default=1, help="seeds at which each alternative is tried (default 1)")
    sub.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    sub.add_argument("--no-attacks", action="store_true", help="questions only")
    sub.add_argument("--built", type=Path, help="look into the zips that build wrote here, in place of building anew")

    sub = add("rehearse", _rehearse, "run built sets in a kernel as a student would: the starter, then the solution")
    sub.add_argument("problem_sets", nargs="+", metavar="problem_set")
    sub.add_argument("--built", type=Path, help="what autograder build wrote (default: build/NAME)")

    sub = add("gradescope-local", _gradescope_local, "run a Gradescope zip's real scripts on a submission, here")
    _late("gradescope-local", sub)

    sub = add("gradebook", _gradebook, "late hours, weights and letters by the course's policy")
    _late("gradebook", sub)
    return parser


def _late(command: str, sub: argparse.ArgumentParser) -> None:
    """The arguments of a command that brings its own, added only where it is the one that is run."""
    if command in sys.argv[1:2]:
        import importlib

        importlib.import_module(f"autograder.{command.partition('-')[0]}").add_arguments(sub)


def main() -> int:
    """Run the command line; the status."""
    try:
        arguments = _parser().parse_args()
        return int(arguments.run(arguments))
    except GraderError as error:
        print(f"autograder: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"autograder: error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("autograder: interrupted", file=sys.stderr)
        return 130
