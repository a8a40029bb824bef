"""GPT on tiny Shakespeare by character, beside nanoGPT's setting for a CPU."""

from __future__ import annotations

import torch

from benchmarks.quality import Figure, Quality, train
from genmodels.evaluation.text import window_loss
from genmodels.runs import Run


def gpt_loss(run: Run) -> float:
    """Nats per character over the whole held-out part; a window begins with the last character of the one before."""
    assert run.data is not None
    with torch.no_grad():
        return window_loss(run.model.log_prob, run.data.test, run.model.window, overlap=1)  # type: ignore[operator, arg-type]


def gpt(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """Train by the recipe, then measure."""
    run = train("gpt", data="shakespeare", data_root=data_root, seed=seed)
    return [
        Figure("validation loss", gpt_loss(run), must=1.88, aim=1.75, unit="nats/char"),
        Figure("training time", run.seconds, must=None, unit="s (180 on two free cores)"),
    ], run.parameters


QUALITY: dict[str, Quality] = {
    "gpt": Quality(
        gpt,
        "tiny Shakespeare by character, 4 layers x 128, the last 10 % whole in windows that do not overlap, 3 minutes "
        "on 2 cores; nanoGPT's setting for a CPU reports 1.88 nats/char",
    )
}
