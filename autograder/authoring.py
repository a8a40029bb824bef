"""The two decorators of mistakes.py and alternatives.py. Those files are read, never imported: these do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def mistake(question: str, hint: str) -> Callable[[T], T]:
    """A typical wrong answer to a question, and the hint that a student who makes it reads."""
    return lambda answer: answer


def alternative(question: str, why: str = "") -> Callable[[T], T]:
    """Another right answer to a question: it must earn full marks."""
    return lambda answer: answer
