"""DDPM on two point sets by the nearest-neighbour KL, and on labelled digits by what a classifier learns from them."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from benchmarks.quality import Figure, Quality, train
from genmodels.evaluation.classifier import classifier_accuracy_score
from genmodels.evaluation.knn import knn_kl

BARS: dict[str, tuple[float | None, float | None]] = {"moons": (0.09, 0.06), "dino": (None, None)}


def ddpm(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """By the recipe on each set; 10,000 samples against the 50,000 training points."""
    figures, parameters = [], 0
    for name, (must, aim) in BARS.items():
        run = train("ddpm", data=name, seed=seed)
        assert run.data is not None
        assert isinstance(run.data.train, Tensor)
        start = time.perf_counter()
        x = run.model.sample(10_000, generator=torch.Generator(run.model.device).manual_seed(seed)).cpu()
        seconds = time.perf_counter() - start
        figures += [
            Figure(f"{name}: KL(data || samples)", knn_kl(run.data.train, x), must, aim, "nats"),
            Figure(
                f"{name}: real test data instead", knn_kl(run.data.train, run.data.test[:10_000]), None, unit="nats"
            ),
            Figure(f"{name}: training", run.seconds, None, unit="s"),
            Figure(f"{name}: 10,000 samples", seconds, None, unit="s"),
        ]
        parameters = run.parameters
    return figures, parameters


def ddpm_digits(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """By the recipe; as many samples, evenly labelled, as there are real training digits."""
    run = train("guidance", data="digits", seed=seed)
    data, generator = run.data, torch.Generator(run.model.device).manual_seed(seed)
    assert data is not None
    assert isinstance(data.train, Tensor)
    assert data.labels is not None
    assert data.test_labels is not None
    y = torch.arange(len(data.train), device=run.model.device) % 10
    start = time.perf_counter()
    x = run.model.sample(len(y), y, generator=generator).cpu()
    seconds = time.perf_counter() - start
    ours = classifier_accuracy_score(x, y.cpu(), data.test, data.test_labels)
    real = classifier_accuracy_score(data.train, data.labels, data.test, data.test_labels)
    return [
        Figure("accuracy over that with real digits", 100 * ours / real, 90.0, 97.0, "%", higher_is_better=True),
        Figure("accuracy, trained on samples", 100 * ours, None, unit="%"),
        Figure("accuracy, trained on real digits", 100 * real, None, unit="%"),
        Figure("training", run.seconds, None, unit="s"),
        Figure("sampling", seconds, None, unit="s"),
    ], run.parameters


QUALITY = {
    "ddpm": Quality(
        ddpm,
        "moons and dino, KL(50,000 training points || 10,000 samples) in nats by 5th neighbours; AI-Scientist "
        "reports 0.090 on its moons after 10,000 steps (with logarithms to base 2: 0.062 nats)",
    ),
    "ddpm_digits": Quality(
        ddpm_digits,
        "8 x 8 digits: logistic regression trained on guided samples, tested on real digits, over the same "
        "trained on the real training digits",
    ),
}
