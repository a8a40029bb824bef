"""MDLM beside a GPT that was trained on the same data, at the same size, for as many steps."""

from __future__ import annotations

import torch

from benchmarks.quality import Figure, Quality, train
from benchmarks.quality.language import gpt_loss
from genmodels.evaluation.text import window_loss


def mdlm(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """MDLM by its recipe, the GPT for as many steps; the bound is estimated from 32 stratified maskings a window."""
    run = train("mdlm", data="shakespeare", data_root=data_root, seed=seed)
    gpt = train("gpt", data="shakespeare", data_root=data_root, seed=seed, steps=run.config["train"]["steps"])
    same = ("steps", "batch_size")
    assert [gpt.config["train"][k] for k in same] == [run.config["train"][k] for k in same]
    assert run.parameters <= gpt.parameters
    assert run.data is not None
    torch.manual_seed(seed)
    with torch.no_grad():
        bound = window_loss(lambda x: run.model.elbo(x, samples=32), run.data.test, run.model.window, batch=16)  # type: ignore[operator, arg-type]
    loss = gpt_loss(gpt)
    return [
        Figure("bound / GPT's loss", bound / loss, must=1.20, aim=1.08),
        Figure("bound", bound, must=None, unit="nats/char"),
        Figure("GPT's loss", loss, must=None, unit="nats/char"),
        Figure("training time", run.seconds, must=None, unit=f"s (GPT: {gpt.seconds:.0f} s)"),
    ], run.parameters


QUALITY: dict[str, Quality] = {
    "mdlm": Quality(
        mdlm,
        "tiny Shakespeare by character, both 4 layers x 128, same steps and batch; the bound on the last 10 % in "
        "windows that do not overlap, over the GPT's loss there (MDLM masks each text several times a step)",
    )
}
