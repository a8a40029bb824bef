"""Text baselines against counting by hand, known Markov chains, and models whose loss is known."""

from __future__ import annotations

import collections
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genmodels.errors import UserError
from genmodels.evaluation.text import bigram_loss, ngram_log_probs, ngram_loss, window_loss


def by_hand(train: list[int], context: tuple[int, ...], token: int, vocab_size: int) -> float:
    """Witten and Bell's recursion over dictionaries; the context's length is the order less one."""
    n = len(context)
    lower = by_hand(train, context[1:], token, vocab_size) if n else 1 / vocab_size
    followers = collections.Counter(train[i + n] for i in range(len(train) - n) if tuple(train[i : i + n]) == context)
    if not followers:
        return lower
    return (followers[token] + len(followers) * lower) / (sum(followers.values()) + len(followers))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=40), st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(1, 4),
)  # fmt: skip
def test_ngrams_equal_counting_by_hand(train: list[int], test: list[int], order: int) -> None:
    found = ngram_log_probs(torch.tensor(train), torch.tensor(test), 4, order)
    stream = train + test
    for i, token in enumerate(test):
        at = len(train) + i
        context = tuple(stream[at - order + 1 : at])
        assert found[i].item() == pytest.approx(math.log(by_hand(train, context, token, 4)), abs=1e-12)


def test_probabilities_sum_to_one() -> None:
    train = torch.randint(5, (300,), generator=torch.Generator().manual_seed(0))
    for order in (1, 2, 3):
        total = sum(ngram_log_probs(train, torch.tensor([w]), 5, order).exp().item() for w in range(5))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_a_markov_chain_costs_its_entropy_rate() -> None:
    """Two states that change with probability 0.1: the unigram needs ln 2, the bigram the entropy of 0.1."""
    generator = torch.Generator().manual_seed(0)
    stream = (torch.rand(60_000, generator=generator) < 0.1).long().cumsum(0) % 2
    train, test = stream[:40_000], stream[40_000:]
    rate = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert bigram_loss(train, test, 2) == pytest.approx(rate, abs=0.01)
    assert ngram_loss(train, test, 2, 5) == pytest.approx(rate, abs=0.01)
    assert ngram_loss(train, test, 2, 1) == pytest.approx(math.log(2), abs=0.01)


def test_window_loss_counts_every_token_once() -> None:
    """A model that gives token v the log-probability -v: the loss is the mean of what is predicted."""
    stream = torch.randint(9, (101,), generator=torch.Generator().manual_seed(1))

    def first_given(x: Tensor) -> Tensor:
        return -x[:, 1:].double().sum(1)

    def whole(x: Tensor) -> Tensor:
        return -x.double().sum(1)

    assert window_loss(first_given, stream, 11, overlap=1, batch=3) == pytest.approx(stream[1:].double().mean().item())
    assert window_loss(whole, stream, 10, batch=4) == pytest.approx(stream[:100].double().mean().item())
    with pytest.raises(UserError, match="window"):
        window_loss(whole, stream[:5], 10)


def test_errors() -> None:
    x = torch.zeros(10, dtype=torch.long)
    with pytest.raises(UserError, match="order"):
        ngram_loss(x, x, 100, 10)
    with pytest.raises(UserError, match="too few"):
        ngram_loss(x[:2], x, 3, 3)
