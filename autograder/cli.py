"""The command `autograder`: a placeholder that says what is to come."""

from __future__ import annotations

import sys

MESSAGE = """autograder: not built yet. To come:
  build    starter notebook, solution notebook, student zip and Gradescope zip from one source
  grade    one submission, in a sandbox that shares nothing with the checks
  batch    a class of submissions, in parallel, resumable
  audit    prove a problem set: every mistake caught, every alternative passed, every attack 0
  gradebook  late hours, weights and letters by the course's policy"""


def main() -> int:
    """Print what is to come; status 2, since nothing was done."""
    print(MESSAGE, file=sys.stderr)
    return 2
