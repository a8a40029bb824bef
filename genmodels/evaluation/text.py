r"""What a text costs per token: n-gram baselines, and a language model's loss over a held-out stream.

An n-gram model predicts a token from the n - 1 before it by counting. Longer contexts are rarer, so each order is mixed
with the one below by Witten and Bell's rule (1991): with c(h) occurrences of the context h in training, T(h) distinct
tokens behind it, and h' the context without its oldest token,

$$p(w \mid h) = \frac{c(h w) + T(h)\, p(w \mid h')}{c(h) + T(h)}, \qquad p(w \mid \text{nothing at all}) = 1/V.$$

A context that training never showed has c = T = 0 and gives $p(w \mid h')$. All figures are nats per token; the
exponential is the perplexity, and a division by ln 2 gives bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genmodels.errors import UserError


def _codes(tokens: Tensor, order: int, vocab_size: int) -> Tensor:
    """Each run of `order` tokens of the stream (N,) as one number: (N - order + 1,)."""
    code = torch.zeros(len(tokens) - order + 1, dtype=torch.long, device=tokens.device)
    for i in range(order):
        code = code * vocab_size + tokens[i : len(tokens) - order + 1 + i]
    return code


def _look_up(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """values[i] where keys[i] (sorted) is the wanted number, 0 where there is none, in float64."""
    i = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[i] == wanted, values[i], 0).double()


def ngram_log_probs(train: Tensor, test: Tensor, vocab_size: int, order: int) -> Tensor:
    """log p of each token of the stream test (N,) under the n-gram model of the stream train, (N,) in nats, float64.

    The test stream is taken to follow the training stream, whose last order - 1 tokens are the first context.
    """
    if order < 1 or vocab_size**order >= 2**63:
        raise UserError(f"order must be at least 1 and vocab_size**order below 2**63, got {order} and {vocab_size}")
    if len(train) < order:
        raise UserError(f"{len(train)} tokens are too few to train an n-gram model of order {order}")
    p = torch.full((len(test),), 1 / vocab_size, dtype=torch.float64, device=test.device)
    for n in range(1, order + 1):
        grams, counts = _codes(train, n, vocab_size).unique(return_counts=True)  # sorted
        contexts, owner = (grams // vocab_size).unique(return_inverse=True)
        total = torch.zeros(len(contexts), dtype=torch.long, device=train.device).index_add(0, owner, counts)  # c(h)
        distinct = owner.bincount()  # T(h)
        wanted = _codes(torch.cat([train[len(train) - n + 1 :], test]), n, vocab_size)  # (N,)
        c, t = (_look_up(contexts, values, wanted // vocab_size) for values in (total, distinct))
        mixed = (_look_up(grams, counts, wanted) + t * p) / (c + t).clamp(min=1)
        p = torch.where(c > 0, mixed, p)
    return p.log()


def ngram_loss(train: Tensor, test: Tensor, vocab_size: int, order: int) -> float:
    """Nats per token of test under the n-gram model of train."""
    return -ngram_log_probs(train, test, vocab_size, order).mean().item()


def bigram_loss(train: Tensor, test: Tensor, vocab_size: int) -> float:
    """Nats per token of test where each token is predicted from the one before it."""
    return ngram_loss(train, test, vocab_size, 2)


def window_loss(
    log_prob: Callable[[Tensor], Tensor], stream: Tensor, window: int, *, overlap: int = 0, batch: int = 64
) -> float:
    """Nats per predicted token over the stream (N,) in windows that do not overlap, what is left over dropped.

    `log_prob` maps windows (B, window) to nats (B,). A model that predicts each window's tokens from the first one on
    (a GPT, whose window is one longer than what it predicts) has `overlap` 1: each window then begins with the last
    token of the one before, and every token is predicted once.
    """
    stride = window - overlap
    if len(stream) < window:
        raise UserError(f"the held-out text has {len(stream)} tokens, a window needs {window}")
    windows = stream.unfold(0, window, stride)  # (M, window)
    total = math.fsum(log_prob(part).double().sum().item() for part in windows.split(batch))
    return -total / (len(windows) * stride)
