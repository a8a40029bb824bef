"""Hostile submissions gain nothing and reach nothing, at every level that this machine offers; the canary can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autograder.attacks import Attack, Canary, all_attacks
from autograder.sandbox import LEVELS, Limits, WorkerFailure, Zygote, available_levels, why_not

NAMES = ["total", "double"]
LIMITS = Limits(wall=0.4, cpu=5, memory=700 << 20, processes=16, file_size=1 << 20, output=8 << 10)
TRUTH = {"total": lambda x: x.sum(), "double": lambda x: 2 * x}
HONEST = "def total(x):\n    return x.sum()\ndef double(x):\n    return 2 * x\n"


def attempt(zygote: Zygote, source: str) -> tuple[int, str]:
    """How many calls a submission answers right, and all that was heard of it."""
    right, said = 0, []
    random = np.random.default_rng(1)
    load = {"op": "load", "cells": [{"source": source, "whole": True, "label": None}]}
    worker = zygote.worker()
    try:
        said.append(str(worker.request(load)))
    except WorkerFailure as failure:
        said.append(str(failure))
    for name in NAMES:
        for _ in range(2):
            x = random.normal(size=(4, 3))
            request = {"op": "call", "name": name, "args": [x], "kwargs": {}, "seed": 1}
            try:
                reply = worker.request(request)
                said.append(str(reply)[:3000])
                answer = reply.get("ok")
                same = isinstance(answer, np.ndarray) and answer.shape == np.shape(TRUTH[name](x))
                right += bool(same and np.allclose(answer, TRUTH[name](x)) and not reply["mutated"])
            except WorkerFailure as failure:
                said.append(str(failure))
                break
    worker.close()
    return right, "\n".join([*said, worker.output])


@pytest.fixture(scope="module", params=LEVELS)
def zygote(request: pytest.FixtureRequest) -> Iterator[Zygote]:
    if why_not(request.param) is not None:
        pytest.skip(f"level {request.param}: {why_not(request.param)}")
    with Zygote(request.param, limits=LIMITS, preload=("numpy", "torch")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    checks = Path(__file__).parent / "demo_ps"
    with Canary(read=[checks / "checks.py", checks / "mistakes.py"], guard=[checks]) as canary:
        yield canary


def attacks_on_code(canary: Canary, level: str) -> list[Attack]:
    """All at the best level; at the others not twice what works at import and when called (the audit does that too)."""
    attacks = {a.name: a for a in all_attacks(canary) if not a.name.endswith("@file")}
    best = level == available_levels()[0]
    kept = [n for n in attacks if best or n.endswith("@call") or n.replace("@import", "@call") not in attacks]
    return [attacks[n] for n in kept]


def test_honest_answer_scores(zygote: Zygote) -> None:
    assert attempt(zygote, HONEST)[0] == 4


def test_attacks(zygote: Zygote, canary: Canary, tmp_path: Path) -> None:
    faults, heard = [], {}
    canary.effects()
    for attack in attacks_on_code(canary, zygote.level):
        right, heard[attack.name] = attempt(zygote, attack.make(NAMES, tmp_path).read_text())
        if right:
            faults.append(f"{attack.name}: {right} right answers")
    for effect in canary.effects("\n".join(heard.values())):
        faults.append(f"{effect}; said by {[name for name, said in heard.items() if effect.split(': ')[-1] in said]}")
    assert faults == []
    assert attempt(zygote, HONEST)[0] == 4  # the zygote is as it was


SENTINELS = {  # without a sandbox, these must be seen: else the canary proves nothing
    "paths@call": "read what it must not",
    "results@call": "changed",
    "tcp@call": "a TCP listener",
    "udp@call": "a UDP listener",
    "unix@call": "a Unix socket",
    "message@call": "wrote",
    "programs@call": "changed",
    "left_behind@call": "left process",
    "environment@call": "read what it must not",
    "search@call": "read what it must not",
    "imports@call": "read what it must not",
}


@pytest.mark.parametrize("name", SENTINELS)
def test_canary_sees(name: str, tmp_path: Path) -> None:
    """The same attacks in a plain process reach their targets."""
    if sys.platform != "linux":
        pytest.skip("the attacks are written for Linux")
    with Canary(read=[Path(__file__)]) as canary:
        (attack,) = [a for a in all_attacks(canary) if a.name == name]
        path = attack.make(NAMES, tmp_path)
        run = f"source = open({str(path)!r}).read()\nexec(source, globals())\ntotal()\n"
        done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        effects = canary.effects(done.stdout + done.stderr)
        for pid in canary._survivors():
            subprocess.run(["kill", "-9", str(pid)], check=True)
    assert any(SENTINELS[name] in effect for effect in effects), (effects, done.stderr[-500:])


def test_names_are_unique_and_say_what() -> None:
    attacks = all_attacks()
    assert len({attack.name for attack in attacks}) == len(attacks) > 100
    assert all(8 < len(attack.what) < 110 and attack.what.isprintable() for attack in attacks)


def test_archives_are_refused_or_read_as_what_they_are(canary: Canary, tmp_path: Path) -> None:
    from autograder.errors import GraderError
    from autograder.submission import read_submission

    canary.effects()
    faults = []
    for attack in all_attacks(canary):
        if attack.name.endswith("@file"):
            path = attack.make(NAMES, tmp_path)
            try:
                submission = read_submission(path, {"1": ["total"], "2": ["double"]})
                said = str(submission.cells)[:100_000]
            except GraderError as error:
                said = str(error)
                assert "\n" not in said
                assert len(said) < 400
            path.unlink()
            faults += [f"{attack.name}: {effect}" for effect in canary.effects(said)]
    assert faults == []
