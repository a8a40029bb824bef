"""The quality benchmarks: what was not trained to its end has no figure."""

import sys
from types import SimpleNamespace

import torch

from benchmarks import quality
from benchmarks.quality import __main__ as command


def test_an_interrupted_training_ends_the_benchmark(monkeypatch, capsys) -> None:
    begun = []
    threads = str(torch.get_num_threads())

    def interrupted(name: str, *, seed: int, **settings: object) -> SimpleNamespace:
        begun.append(seed)
        return SimpleNamespace(interrupted=True)

    monkeypatch.setattr(quality.runs, "train", interrupted)
    monkeypatch.setattr(sys, "argv", ["benchmarks.quality", "gan", "--threads", threads, "--seeds", "0", "1"])
    assert command.main() == 130
    assert begun == [0], "no other seed is begun"
    out, err = capsys.readouterr()
    assert "seed 0" not in out
    assert "no figure" in err


def test_a_finished_training_is_handed_on(monkeypatch) -> None:
    run = SimpleNamespace(interrupted=False)
    monkeypatch.setattr(quality.runs, "train", lambda name, **settings: run)
    assert quality.train("gan") is run
