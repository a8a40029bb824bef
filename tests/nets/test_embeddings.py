"""Embeddings of time and class against their definitions, computed with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genmodels.nets.embeddings import ClassEmbedding, TimeEmbedding, sinusoidal_embedding
from tests.diffusion.exact import few, randomise


@given(t=st.floats(0, 1000), half=st.integers(1, 40), period=st.sampled_from([100.0, 10_000.0]))
@few
def test_sinusoids(t: float, half: int, period: float) -> None:
    got = sinusoidal_embedding(torch.tensor([t]), 2 * half, max_period=period)
    angle = np.float32(t) / period ** (np.arange(half) / half)
    np.testing.assert_allclose(got[0].numpy(), np.concatenate([np.cos(angle), np.sin(angle)]), atol=5e-4)


def test_whole_times_are_told_apart() -> None:
    e = sinusoidal_embedding(torch.arange(1001), 64)
    gaps = torch.cdist(e, e) + 10 * torch.eye(1001)
    assert gaps.min() > 0.5


def test_time_embedding_is_a_perceptron_on_scaled_sinusoids() -> None:
    embed = TimeEmbedding(12, d_sinusoid=8, scale=1000.0).double()
    randomise(embed)
    t = torch.tensor([0.0, 0.25, 1.0])
    x = sinusoidal_embedding(1000 * t, 8).double()
    first, second = embed.net[0], embed.net[2]
    h = x @ first.weight.T + first.bias
    h = h * torch.sigmoid(h)
    torch.testing.assert_close(embed(t), h @ second.weight.T + second.bias)
    assert embed(torch.tensor([1, 2])).dtype == torch.float64  # whole numbers will do


def test_one_time_for_all_is_embedded_like_many() -> None:
    embed = TimeEmbedding(12, d_sinusoid=8).double()
    randomise(embed)
    t = torch.tensor(0.7, dtype=torch.float64)
    shared = embed(t.expand(5))
    assert shared.shape == (5, 12)
    torch.testing.assert_close(shared, embed(torch.full((5,), 0.7, dtype=torch.float64)))
    times = torch.tensor([0.1, 0.7, 0.4], dtype=torch.float64)
    torch.testing.assert_close(embed(times), torch.cat([embed(time[None]) for time in times]))


def test_class_embedding_has_a_row_for_no_class() -> None:
    embed = ClassEmbedding(3, 5).double()
    randomise(embed)
    assert embed.table.weight.shape == (4, 5)
    assert embed.null == 3
    torch.testing.assert_close(embed(torch.tensor([2, 0]), 2), embed.table.weight[[2, 0]])
    torch.testing.assert_close(embed(None, 3), embed.table.weight[[3, 3, 3]])


def test_only_the_rows_used_are_trained() -> None:
    embed = ClassEmbedding(3, 5)
    embed(None, 2).sum().backward()
    assert embed.table.weight.grad.abs().sum(1).tolist() == [0, 0, 0, pytest.approx(10)]
