"""Grades notebooks with otter-grader, one after another; runs in the Python that has otter, and prints one JSON line.

Usage: python run_otter.py AUTOGRADER.zip NOTEBOOK...
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> int:
    import otter
    from otter.api import grade_submission

    if int(otter.__version__.split(".")[0]) < 6:
        print(f"version 6 or newer is needed, and there is {otter.__version__}", file=sys.stderr)
        return 1
    times, full = [], {}
    for path in sys.argv[2:]:
        found = grade_submission(path, sys.argv[1], quiet=True)
        passed = [r.name for r in found.results.values() if r.score >= r.possible]
        full[Path(path).stem] = sorted(passed)
        times.append(time.monotonic())
    print(json.dumps({"version": otter.__version__, "times": times, "full": full}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
