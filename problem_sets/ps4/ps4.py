# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 4: language models (100 points)
#
# A language model gives a probability to every text. By the chain rule it needs only one thing for that: the
# distribution of the **next token**, given all tokens before it. In this problem set you build one from the bytes up:
# a tokenizer, a transformer, its training, and the ways to draw text from it, fast and exactly. Then you fill in tokens
# in any order instead of from left to right, teach a model what is preferred and what is right, and mark its text as
# made by a machine.
#
# | section | what you build | points |
# |---|---|---|
# | 1. Text into tokens | byte-pair encoding, there and back | 9 |
# | 2. A transformer | attention, a block, the loss, the cache, a trained GPT | 26 |
# | 3. Decoding | temperature, top-k, top-p, sampling, speculative sampling | 19 |
# | 4. Masked diffusion | corruption, the weighted loss, a sampler that fills in any order, an exact bound | 17 |
# | 5. Post-training | LoRA, DPO, and GRPO on a task whose answers can be verified | 23 |
# | 6. Provenance | a green-list watermark and its detector | 6 |
#
# **How it works.** Replace each `raise NotImplementedError` by your code and keep names and arguments as they are.
# After each answer a cell calls `check("1a")`: it runs *public checks* at fixed inputs. Your grade comes from the same
# checks at other inputs. Many questions give partial credit. Written questions are answered in the text cell below them
# and are read by a person.
#
# **Rules that hold everywhere.**
# * All logarithms are natural; losses and log-likelihoods are in **nats**.
# * Shapes are written like (B, L, V): B texts of L tokens each, a vocabulary of V tokens.
# * Tokens are whole numbers from 0 to V - 1, in tensors of dtype int64. Real numbers come as float64 in the checks; do
#   not convert them to float32 (training, in 2e, is your own affair).
# * A function must not change its inputs: work on copies.
# * No function draws random numbers of its own unless the text says so: uniform numbers are handed in, so that each
#   answer has one right value.
# * Library functions are welcome where they help.

# %% tags=["setup"]
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# %% [markdown]
# # 1. Text into tokens (9 points)
#
# A model works on whole numbers, so text must become numbers. Characters make long sequences, and there are 150,000 of
# them; words make short ones, but new words turn up every day. **Byte-pair encoding** stands between: it starts from
# the 256 bytes that UTF-8 writes every text with, so nothing is ever unknown, and gives a number of its own to each
# pair of neighbours that is frequent. Every large language model of today reads text in this way.
#
# First a text is cut into **pieces**: words with the space before them, numbers, punctuation, white space. Merges
# happen inside of pieces only; otherwise `dog.` and `dog!` would become tokens of their own. The function that cuts is
# given; the pieces, put together, are the text again.

# %%
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"


def split_text(text: str) -> list[str]:
    """The pieces of a text: 's and its like; letters, numbers or other signs with a leading space; white space."""
    return re.findall(PIECES, text)


print(split_text("The year 1599: what's in a name?  Much!"))

# %% [markdown]
# ## 1a. Learning the merges (5 points)
#
# Tokens 0 to 255 are the bytes. Training goes through the following step again and again, and its $i$-th step
# ($i = 0, 1, \dots$) makes the token $256 + i$:
#
# 1. Each piece is a list of tokens (at the start: its bytes, `piece.encode()`). Count every pair $(a, b)$ of
#    neighbouring tokens in every piece, as often as the piece occurs in the text. In `aaa` the pair $(a, a)$ counts
#    twice.
# 2. Take the most frequent pair. Of pairs that are equally frequent take the one with the smaller $a$, and among those
#    the one with the smaller $b$ (token numbers, not text).
# 3. Replace it everywhere by the new token, going from left to right, without overlap: `aaa` becomes (aa) a.
#
# It ends after `count` merges, or earlier, once no piece has two tokens left.
#
# | idea | code | form |
# |---|---|---|
# | pieces and how often each occurs | `pieces` | dict[str, int] |
# | tokens of a piece | `ids` | list[int] |
# | merges in the order of training | the answer | list of pairs `(a, b)` |
#
# *What goes wrong:* counts of an earlier step do not hold for the next one: a merge takes apart the pairs beside it and
# makes new ones. And a character is not a byte: `é` has two.


# %% tags=["answer:1a"]
def merge_pair(ids: list[int], a: int, b: int, new: int) -> list[int]:
    """Replace each pair (a, b) of neighbours in ids by new, from the left, without overlap."""
    # BEGIN SOLUTION
    out: list[int] = []
    i = 0
    while i < len(ids):
        if ids[i] == a and i + 1 < len(ids) and ids[i + 1] == b:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
    # END SOLUTION


def learn_merges(pieces: dict[str, int], count: int) -> list[tuple[int, int]]:
    """The first `count` merges (fewer if no pair is left) of pieces with their frequencies."""
    # BEGIN SOLUTION
    words = [list(piece.encode()) for piece in pieces]
    merges: list[tuple[int, int]] = []
    while len(merges) < count:
        counts: Counter[tuple[int, int]] = Counter()
        for word, frequency in zip(words, pieces.values(), strict=True):
            for pair in pairwise(word):
                counts[pair] += frequency
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [merge_pair(word, *best, 256 + len(merges)) for word in words]
        merges.append(best)
    return merges
    # END SOLUTION


# %% tags=["check"]
check("1a")

# %% [markdown]
# ## 1b. Encoding and decoding (4 points)
#
# **Encoding** replays the training. For each piece: start from its bytes; among all pairs of neighbours that are a
# merge, take the one that was **learnt first**, replace it everywhere in the piece from left to right, and repeat until
# no pair is a merge. The tokens of the pieces follow one another.
#
# **Decoding** writes out the bytes of each token (token $256 + i$ has those of $a_i$, then those of $b_i$) and reads
# them all as UTF-8. A model may well emit half a character: what is no valid UTF-8 is replaced by the sign � (U+FFFD),
# as `bytes.decode` does with `errors="replace"`.
#
# | idea | code | form |
# |---|---|---|
# | a text, any Unicode | `text` | str |
# | merges from 1a; number $i$ makes the token $256 + i$ | `merges` | list of pairs `(a, b)` |
# | tokens of the text | `ids` | list[int] |
#
# *What goes wrong:* taking the longest token that fits at each place, or the first pair from the left that is a merge,
# gives other tokens than training saw, and the model has never met them. Tokens that are turned into text one by one
# break every character that is spread over two of them.


# %% tags=["answer:1b"]
def bpe_encode(text: str, merges: list[tuple[int, int]]) -> list[int]:
    """Text to tokens: the merges, in the order in which they were learnt, within each piece of `split_text`."""
    # BEGIN SOLUTION
    token = {tuple(pair): 256 + i for i, pair in enumerate(merges)}
    ids: list[int] = []
    for piece in split_text(text):
        word = list(piece.encode())
        while len(word) > 1:
            pair = min(pairwise(word), key=lambda pair: token.get(pair, math.inf))
            if pair not in token:
                break
            word = merge_pair(word, *pair, token[pair])
        ids += word
    return ids
    # END SOLUTION


def bpe_decode(ids: list[int], merges: list[tuple[int, int]]) -> str:
    """Tokens to text; bytes that are no UTF-8 become U+FFFD."""
    # BEGIN SOLUTION
    vocabulary = [bytes([b]) for b in range(256)]
    for a, b in merges:
        vocabulary.append(vocabulary[a] + vocabulary[b])
    return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")
    # END SOLUTION


# %% tags=["check"]
check("1b")

# %% [markdown]
# **A look (needs 1a and 1b).** The text of this problem set, `data/prose.txt`: the help topics of Python's language
# reference, (c) Python Software Foundation, PSF licence. We left out repetitions, grammar rules, tables, paragraphs
# with rare signs, and the end. Merges are learnt from its beginning. How many characters does a token hold, there and
# in the last topics?


# %%
def load_text() -> str:
    """240,000 characters from the help topics of Python's language reference."""
    for folder in (Path("data"), Path("ps4/data")):
        if (folder / "prose.txt").exists():
            return (folder / "prose.txt").read_text("ascii")
    raise FileNotFoundError("data/prose.txt: take the folder data from the zip and put it beside the notebook")


def plot_merges() -> None:
    text = load_text()
    known, other = text[:40_000], text[-5_000:]
    merges = learn_merges(dict(Counter(split_text(known))), 200)
    print("first merges:", [bpe_decode([256 + i], merges) for i in range(20)])
    print("longest:", sorted((bpe_decode([256 + i], merges) for i in range(200)), key=len)[-12:])
    for sentence in ("The assigned values are hungry.", "Hüte dich vor dem Löwen! 🦁"):
        tokens = bpe_encode(sentence, merges)
        print(" | ".join(bpe_decode([t], merges) for t in tokens), "->", repr(bpe_decode(tokens, merges)))
    numbers = [0, 5, 10, 20, 50, 100, 150, 200]
    plt.figure(figsize=(6, 3.5))
    for name, part in (("the text of the training", known[:5000]), ("its last topics", other)):
        plt.plot(numbers, [len(part) / len(bpe_encode(part, merges[:n])) for n in numbers], "o-", label=name)
    plt.xlabel("merges")
    plt.ylabel("characters per token")
    plt.legend()
    plt.title("Byte-pair encoding")
    plt.show()


plot_merges()

# %% [markdown]
# *What to see:* the first merges are the pairs that English is full of, and some of this text only: stars, spaces,
# underlines. After 200 of them a token holds about two characters, and the first ones gain the most. The last topics,
# which have other words, are compressed a tenth less. Letters that were not in the training text are spelt in bytes:
# each � is half of an `ü`, or a quarter of a lion, and all of them together are the sentence again.

# %% [markdown]
# # 2. A transformer (26 points)
#
# The chain rule splits the probability of a text into one factor a token,
#
# $$\log p_\theta(x_{1:L} \mid x_0) = \sum_{i=1}^{L} \log p_\theta(x_i \mid x_{0:i-1}),$$
#
# and a **GPT** computes all of them in one pass: row $i$ of its output must depend on tokens $0, \dots, i$ and on
# nothing later. You write attention (2a), a block (2b), the loss (2c), the whole model with the cache that makes
# generation fast (2d), and train it (2e).
#
# Weights come by name, in a dict `w`; a linear map is stored as in `torch.nn.Linear`:
# $\mathrm{linear}(x) = x W^\top + b$, which is `torch.nn.functional.linear(x, weight, bias)`. One block of width $d$
# has
#
# | name in `w` | shape | | name in `w` | shape |
# |---|---|---|---|---|
# | `norm_1.weight`, `norm_1.bias` | (d,) | | `norm_2.weight`, `norm_2.bias` | (d,) |
# | `attention.qkv.weight` | (3d, d) | | `up.weight` | (4d, d) |
# | `attention.qkv.bias` | (3d,) | | `up.bias` | (4d,) |
# | `attention.out.weight` | (d, d) | | `down.weight` | (d, 4d) |
# | `attention.out.bias` | (d,) | | `down.bias` | (d,) |

# %% [markdown]
# ## 2a. Causal attention (5 points)
#
# Each position asks a question (query $q_i$), and every position offers a key $k_j$ and a value $v_j$, all vectors of
# width $d_h$. Position $i$ gets the average of the values whose keys fit its query:
#
# $$y_i = \sum_j a_{ij} v_j, \qquad a_{ij} = \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}}, \qquad
# s_{ij} = \frac{q_i^\top k_j}{\sqrt{d_h}} \ \text{ if } j \text{ is not later than } i, \text{ and } -\infty
# \text{ if it is.}$$
#
# **`causal_attention(q, k, v)`.** There may be more keys than queries: the $L$ queries belong to the **last** $L$ of
# the $T \ge L$ positions, so query $i$ (counted from 0) stands at position $T - L + i$. With $T = L$ this is the usual
# causal mask; $T > L$ is what generation needs, where the past is known already.
#
# **`attention(x, w, num_heads, past)`.** One linear map, `attention.qkv`, gives for each position $3d$ numbers: first
# the $d$ of all queries, then those of all keys, then those of all values. The $d$ numbers are split into $H$ heads of
# $d_h = d / H$ neighbouring numbers each; heads attend independently; their results, side by side again in the same
# order, go through `attention.out`.
#
# `past` holds keys and values of earlier tokens of the same texts, or None; those of `x` follow behind them. Besides
# the result return the keys and values of all positions, for later.
#
# | symbol | code | shape |
# |---|---|---|
# | $q$ | `q` | (B, H, L, d_h) |
# | $k$, $v$ | `k`, `v` | (B, H, T, d_h) |
# | input, output | `x` | (B, L, d) |
# | keys and values of $P$ earlier tokens | `past` | (2, B, H, P, d_h), keys first |
# | keys and values of all tokens | `kv` | (2, B, H, P + L, d_h) |
#
# *What goes wrong:* `view(B, H, L, d_h)` of a tensor (B, L, d) has the right shape and mixes up positions and heads:
# split the last axis first, then swap axes. Zeros in place of $-\infty$ do not hide anything: $e^0 = 1$.


# %% tags=["answer:2a"]
def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries (B, H, L, d_h) of the last L positions, keys and values (B, H, T, d_h), T >= L -> (B, H, L, d_h)."""
    # BEGIN SOLUTION
    L, T = q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, L, T)
    later = torch.ones(L, T, dtype=torch.bool, device=q.device).triu(T - L + 1)
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v
    # END SOLUTION


def attention(x: Tensor, w: dict[str, Tensor], num_heads: int, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Multi-head causal attention: x (B, L, d), past (2, B, H, P, d_h) -> (B, L, d), kv (2, B, H, P + L, d_h)."""
    # BEGIN SOLUTION
    B, L, d = x.shape
    qkv = F.linear(x, w["attention.qkv.weight"], w["attention.qkv.bias"])  # (B, L, 3 d)
    q, *kv = qkv.view(B, L, 3, num_heads, d // num_heads).permute(2, 0, 3, 1, 4)  # (B, H, L, d_h) each
    kv = torch.stack(kv) if past is None else torch.cat([past, torch.stack(kv)], dim=3)  # (2, B, H, P + L, d_h)
    y = causal_attention(q, *kv).transpose(1, 2).reshape(B, L, d)
    return F.linear(y, w["attention.out.weight"], w["attention.out.bias"]), kv
    # END SOLUTION


# %% tags=["check"]
check("2a")

# %% [markdown]
# **A look (needs 2a).** Three heads made by hand. Attention applied to the unit vectors as values gives its own weights
# $a_{ij}$: a map of who looks at whom.


# %%
def plot_attention() -> None:
    text = "to be or not to be"
    T = len(text)
    angle = torch.arange(T)[:, None] * torch.tensor([1.0, 0.31, 0.1])  # three clocks tell the position
    shifted = angle - torch.tensor([1.0, 0.31, 0.1])
    here, before = (torch.cat([a.cos(), a.sin()], 1) for a in (angle, shifted))
    letter = F.one_hot(torch.tensor([ord(c) - 32 for c in text]), 96).float()
    heads = {
        "no question: the mean of the past": (torch.zeros(T, 6), here),
        "by position: one step back": (40 * before, here),
        "by content: the same letter": (60 * letter, letter),
    }
    _, axes = plt.subplots(1, 3, figsize=(13, 4.3))
    for axis, (title, (q, k)) in zip(axes, heads.items(), strict=True):
        weights = causal_attention(q[None, None], k[None, None], torch.eye(T)[None, None])[0, 0]
        axis.imshow(weights, cmap="magma", vmin=0, vmax=1)
        axis.set_xticks(range(T), text)
        axis.set_yticks(range(T), text)
        axis.set(title=title, xlabel="key", ylabel="query")
    plt.show()


plot_attention()

# %% [markdown]
# *What to see:* nothing above the diagonal, and rows that sum to 1. Without a question each row is the plain mean over
# the past. Position alone can ask for one step back (the first letter has nothing before it and looks at itself), and
# content alone for equal letters, wherever they are. A trained model mixes such heads.

# %% [markdown]
# ## 2b. A transformer block (4 points)
#
# A block adds to each position what attention brings, then what a small network makes of it:
#
# $$h = x + \mathrm{attention}(\mathrm{norm}_1(x)), \qquad
# y = h + \mathrm{down}\big(\mathrm{gelu}(\mathrm{up}(\mathrm{norm}_2(h)))\big).$$
#
# The norms stand **before** the parts (pre-norm), so that $x$ itself passes through untouched. **Layer norm** works on
# the $d$ numbers of each position on its own,
#
# $$\mathrm{norm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \cdot \text{weight} + \text{bias}, \qquad
# \mu = \frac1d \sum_c x_c, \quad \sigma^2 = \frac1d \sum_c (x_c - \mu)^2, \quad \epsilon = 10^{-5},$$
#
# and GPT-2's **GELU** is
#
# $$\mathrm{gelu}(x) = \frac x2 \Big(1 + \tanh\big(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\big)\Big).$$
#
# | symbol | code | shape |
# |---|---|---|
# | $x$, $y$ | `x`, the first value returned | (B, L, d) |
# | keys and values, as in 2a | `past`, the second value returned | (2, B, H, P, d_h), (2, B, H, P + L, d_h) |
#
# *What goes wrong:* $\epsilon$ stands inside of the root, and $\sigma^2$ divides by $d$, not by $d - 1$. There is
# another GELU (with the Gaussian distribution function); it differs by up to 0.0005, enough to spoil weights that were
# trained with this one.


# %% tags=["answer:2b"]
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the last axis: x (..., d), weight (d,), bias (d,) -> (..., d)."""
    # BEGIN SOLUTION
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-5)
    # END SOLUTION


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU, of any shape."""
    # BEGIN SOLUTION
    return F.gelu(x, approximate="tanh")
    # END SOLUTION


def transformer_block(
    x: Tensor, w: dict[str, Tensor], num_heads: int, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A pre-norm block: x (B, L, d), past (2, B, H, P, d_h) -> y (B, L, d), kv (2, B, H, P + L, d_h)."""
    # BEGIN SOLUTION
    attended, kv = attention(layer_norm(x, w["norm_1.weight"], w["norm_1.bias"]), w, num_heads, past)
    x = x + attended
    hidden = gelu(F.linear(layer_norm(x, w["norm_2.weight"], w["norm_2.bias"]), w["up.weight"], w["up.bias"]))
    return x + F.linear(hidden, w["down.weight"], w["down.bias"]), kv
    # END SOLUTION


# %% tags=["check"]
check("2b")

# %% [markdown]
# ## 2c. The loss (4 points)
#
# Row $i$ of the model's output holds the logits $l_{i} \in \mathbb R^V$ of token $i + 1$. The loss is the mean of
#
# $$-\log p(x_{i+1} \mid x_{0:i}) = \log \sum_{v=1}^V e^{l_{iv}} - l_{i, x_{i+1}}$$
#
# over all texts and positions, so an untrained model that finds all tokens equally likely has the loss $\log V$. Its
# exponential is the **perplexity**: the number of tokens between which the model hesitates.
#
# Texts of different lengths are padded, and prompts are not to be learnt: tokens to be ignored carry the number
# `ignore`. They are **no targets**: they are left out of the sum and of the count. (What the model makes of them as
# inputs is not the loss's business: the row after an ignored token counts if its own target is a real token.) At least
# one target is a real token.
#
# | symbol | code | shape |
# |---|---|---|
# | $l$ | `logits` | (B, L, V) |
# | $x$ | `ids`, 0 to V - 1, or `ignore` | (B, L), int64 |
#
# *What goes wrong:* the row and the token at the same place do not belong together: such a model learns to copy, with a
# loss near 0. Logits reach $\pm 10^3$, where the softmax rounds to 0 and its logarithm is $-\infty$. A mean of the
# texts' means gives the tokens of a short text more weight than those of a long one.


# %% tags=["answer:2c"]
def next_token_loss(logits: Tensor, ids: Tensor, ignore: int = -100) -> Tensor:
    """Mean nats per predicted token: logits (B, L, V) of the tokens that follow ids (B, L) -> a number ()."""
    # BEGIN SOLUTION
    target = ids[:, 1:]  # (B, L - 1): row i predicts token i + 1, and the last row nothing
    counts = target != ignore
    log_p = logits[:, :-1].log_softmax(-1)  # (B, L - 1, V)
    picked = log_p.gather(-1, torch.where(counts, target, 0)[..., None])[..., 0]  # (B, L - 1)
    return -picked[counts].mean()
    # END SOLUTION


# %% tags=["check"]
check("2c")

# %% [markdown]
# ## 2d. A GPT, and its cache (5 points)
#
# The whole model: a vector for each token plus a vector for each position, some blocks, a last norm, and the tokens'
# vectors once more as the output's weights (**tied** embeddings):
#
# $$h^{(0)}_i = \mathrm{tokens}[x_i] + \mathrm{positions}[i], \qquad h^{(n)} = \mathrm{block}_n(h^{(n-1)}), \qquad
# l_i = \mathrm{tokens} \cdot \mathrm{norm}\big(h^{(N)}_i\big) .$$
#
# To generate, one token after the other is drawn and appended. What the model computed for the earlier tokens does not
# change by that (nothing looks ahead), so their keys and values are kept: the **KV cache**. `gpt_logits` gets only the
# tokens that are **new**, with the cache of those that came before, and gives the same logits as a pass over all of
# them would in the new rows.
#
# | symbol | code | shape |
# |---|---|---|
# | new tokens | `ids` | (B, L) |
# | tokens' vectors | `w["tokens"]` | (V, d) |
# | positions' vectors | `w["positions"]` | (C, d), C $\ge$ P + L |
# | the blocks | `w["blocks"]`, a list of dicts as in 2b | |
# | the last norm | `w["norm.weight"]`, `w["norm.bias"]` | (d,) |
# | cache | `cache`: None at the start, then a list with the `kv` of each block | (2, B, H, P, d_h) each |
# | $l$ | `logits` | (B, L, V) |
#
# **How much is saved?** `attended_pairs` counts the pairs (query, key) with the key not later than the query that
# attention computes, in one head of one block, to generate `new` $\ge 1$ tokens after a prompt of `prompt` tokens. A
# pass over $t$ tokens without a cache computes $t(t+1)/2$ pairs. The last token that is drawn is not read any more:
# passes are over `prompt`, `prompt` + 1, ..., `prompt` + `new` - 1 tokens. With a cache the first pass reads the
# prompt, and each later one a single token.
#
# *What goes wrong:* the position of a new token is its place in the whole text. A first token is at position 0 with or
# without a cache, so this error shows from the second token on.


# %% tags=["answer:2d"]
def gpt_logits(
    ids: Tensor, w: dict[str, Any], num_heads: int, cache: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """New tokens (B, L) behind those in the cache -> logits (B, L, V) of what follows each, and the longer cache."""
    # BEGIN SOLUTION
    past = 0 if cache is None else cache[0].shape[3]
    x = w["tokens"][ids] + w["positions"][past : past + ids.shape[1]]  # (B, L, d)
    grown = []
    for i, block in enumerate(w["blocks"]):
        x, kv = transformer_block(x, block, num_heads, None if cache is None else cache[i])
        grown.append(kv)
    return layer_norm(x, w["norm.weight"], w["norm.bias"]) @ w["tokens"].T, grown
    # END SOLUTION


def attended_pairs(prompt: int, new: int, use_cache: bool) -> int:
    """Pairs (query, key), key not later than query, computed to generate `new` tokens after `prompt` tokens."""
    # BEGIN SOLUTION
    lengths = range(prompt, prompt + new)
    if use_cache:
        return prompt * (prompt + 1) // 2 + sum(lengths[1:])
    return sum(t * (t + 1) // 2 for t in lengths)
    # END SOLUTION


# %% tags=["check"]
check("2d")

# %% [markdown]
# ## 2e. Train it (8 points)
#
# Now a text: 240,000 characters of Python's help, each of them a token. Write `train_gpt`: it gets the training text as
# one row of tokens and returns a **function** that gives the logits of the next token, together with the losses of the
# training steps. `gpt_logits` does the work, with weights that require a gradient, or a model of your own with torch's
# modules; what is yours is the design: width, blocks, heads, context, start, learning rate, batches and steps.
#
# A start that works: `tokens`, `positions`, `qkv` and `up` from $N(0, 0.1^2)$, `out` and `down` half as large (they
# add up over the blocks), norms at weight 1 and bias 0, other biases 0. Adam with a learning rate of 0.01 that
# rises over the first 20 steps and then falls linearly to 0; batches of 24 windows of 33 characters, cut at random
# places, of which the first 32 go in and the last 32 are predicted.
#
# The check keeps a tenth of the text, in pieces from all over it, for itself. It calls your function with **prefixes**
# from there, (B, L) with L between 16 and 64 (cut them if your context is shorter), never with what follows, and
# measures the mean of $-\log p(\text{next character})$ in nats per character.
#
# | nats per character | points |
# |---|---|
# | $\le 2.55$: better than a table of pairs (2.61) | 2 |
# | $\le 2.35$ | 4 |
# | $\le 2.20$ | 6 |
# | $\le 2.05$ | 8 |
#
# The uniform guess has 4.5, letter frequencies 3.3. The recipe above with one block of width 64 and four heads reaches
# 1.74 to 1.90 in 600 steps, which take 6 seconds on one CPU thread. You have 120, and there is room below: more steps,
# two blocks, a longer context. (Counted tables of the last four characters do well on a text as small as this: 1.50.
# That is worth knowing, but it is no answer: the check also exchanges what lies more than five characters back, and
# wants to see your probabilities move.)
#
# *What goes wrong:* a model that sees what it shall predict reaches a training loss near 0 and fails here, since
# nothing is there to see. At a learning rate far too small the loss stays near 3.3 or 2.61: the model has learnt
# frequencies, or pairs, and nothing yet that needs attention.


# %% tags=["answer:2e"]
def train_gpt(text: Tensor, vocab_size: int) -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """Train on text (N,), int64 -> a function from ids (B, L) to the next token's logits (B, V), the losses."""
    # BEGIN SOLUTION
    d, num_blocks, num_heads, context, batch, steps, rate = 64, 1, 4, 32, 24, 600, 1e-2

    def normal(*shape: int, std: float = 0.1) -> Tensor:
        return (std * torch.randn(*shape, device=text.device)).requires_grad_()

    def constant(value: float, n: int) -> Tensor:
        return torch.full((n,), value, device=text.device, requires_grad=True)

    def block() -> dict[str, Tensor]:
        w = {}
        for name, out, inp, std in (
            ("attention.qkv", 3 * d, d, 0.1),
            ("attention.out", d, d, 0.05),
            ("up", 4 * d, d, 0.1),
            ("down", d, 4 * d, 0.05),
        ):
            w |= {f"{name}.weight": normal(out, inp, std=std), f"{name}.bias": constant(0.0, out)}
        for name in ("norm_1", "norm_2"):
            w |= {f"{name}.weight": constant(1.0, d), f"{name}.bias": constant(0.0, d)}
        return w

    w: dict[str, Any] = {"tokens": normal(vocab_size, d), "positions": normal(context, d)}
    w |= {
        "norm.weight": constant(1.0, d),
        "norm.bias": constant(0.0, d),
        "blocks": [block() for _ in range(num_blocks)],
    }
    parameters = [p for p in w.values() if isinstance(p, Tensor)] + [p for b in w["blocks"] for p in b.values()]
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.95))
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        start = torch.randint(len(text) - context, (batch, 1), device=text.device)
        ids = text[start + torch.arange(context + 1, device=text.device)]  # (batch, context + 1)
        logits, _ = gpt_logits(ids[:, :-1], w, num_heads)
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    @torch.no_grad()
    def next_logits(ids: Tensor) -> Tensor:
        return gpt_logits(ids[:, -context:], w, num_heads)[0][:, -1]

    return next_logits, losses
    # END SOLUTION


# %% tags=["check"]
check("2e")

# %% [markdown]
# **A look (needs 2e).** Training on the first nine tenths of the text. The model is kept for the pictures below.


# %%
def characters() -> tuple[list[str], Tensor]:
    """All characters that occur, sorted, and the text (N,) as their numbers."""
    text = load_text()
    alphabet = sorted(set(text))
    number = {c: i for i, c in enumerate(alphabet)}
    return alphabet, torch.tensor([number[c] for c in text], device=device)


@cache
def text_model() -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """Your training on the first nine tenths of the text, done once; run this cell again to train anew."""
    torch.manual_seed(0)
    alphabet, ids = characters()
    return train_gpt(ids[: len(ids) * 9 // 10], len(alphabet))


def plot_training() -> None:
    alphabet, ids = characters()
    cut = len(ids) * 9 // 10
    next_logits, losses = text_model()
    lengths = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    windows = ids[cut : cut + 65 * (len(ids[cut:]) // 65)].view(-1, 65)  # (n, 65) of text that was not trained on
    by_length = []
    for n in lengths:
        log_p = next_logits(windows[:, 64 - n : 64]).log_softmax(-1)
        by_length.append(-log_p.gather(1, windows[:, 64:]).mean().item())
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    left.plot(losses, linewidth=0.6, color="gray")
    width = max(1, len(losses) // 40)
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    left.plot(np.arange(len(smooth)) + width / 2, smooth, color="tab:red")
    right.semilogx(lengths, by_length, "o-", color="tab:red")
    for value, name in ((math.log(len(alphabet)), "uniform"), (3.32, "letter frequencies"), (2.61, "pairs")):
        left.axhline(value, color="black", linestyle=":", linewidth=1)
        left.text(len(losses), value, name, ha="right", va="bottom", fontsize=8)
    right.axhline(2.61, color="black", linestyle=":", linewidth=1)
    left.set(xlabel="step", ylabel="nats per character", title="Training loss")
    right.set(xlabel="characters that the model may read", title="Held-out text")
    plt.show()


plot_training()

# %% [markdown]
# *What to see:* the loss falls fast to the letters' frequencies, then to what pairs can tell, and below it goes slowly:
# there attention is at work. On the right, the second and the third character help most, and a model of this size and
# training makes little of what lies further back. With a single character it does worse than the table of pairs: it has
# seen few windows that short. A longer training, or a second block, moves the right end of the curve.

# %% [markdown]
# # 3. Decoding (19 points)
#
# The model gives a distribution over the next token; what to do with it is decided afterwards. Drawing from it as it is
# reaches again and again into the long tail of poor tokens, whose probabilities are small but many. Taking the best
# token each time loops. You will write what stands between (3a), draw (3b), and draw several tokens at the price of
# one, without any change of the distribution (3c, 3d).

# %% [markdown]
# ## 3a. Temperature, top-k, top-p (5 points)
#
# **Temperature** $\tau > 0$ divides the logits: $p_v \propto e^{l_v / \tau}$. Below 1 it sharpens, above 1 it flattens.
#
# **`apply_top_k`** keeps the $k$ greatest logits, and **all that tie with the $k$-th**; those of the others become
# $-\infty$. $k \ge V$ keeps everything.
#
# **`apply_top_p`** (the **nucleus**) keeps the fewest most likely tokens whose probabilities, of the softmax of the
# logits that it gets, add up to $p$ or more; the token that crosses $p$ is kept too, so at least one token stays. In
# a tie at the border the token with the smaller number stays. $p = 1$ keeps everything. (A sum within $10^{-6}$ of $p$
# may count as reached; the checks stay away from there.)
#
# Both leave the logits that they keep as they are.
#
# **`next_token_probs`** applies temperature, top-k and top-p **in this order**, each to the result of the one before,
# and gives the probabilities. None skips a filter. Temperature 0 is the limit: probability 1 for the greatest logit
# (the first one, if several are equal), whatever the filters say.
#
# | symbol | code | shape |
# |---|---|---|
# | $l$ | `logits`; some may be $-\infty$ already | (B, V) |
# | $\tau$ | `temperature` | a number $\ge 0$ |
# | $k$, at least 1 | `top_k` | a whole number, or None |
# | $p$, $0 < p \le 1$ | `top_p` | a number, or None |
#
# *What goes wrong:* the nucleus must be found **after** the temperature, which changes all probabilities. A zero
# written into logits is not "dropped": it is a token like others. And an index into sorted logits is not a token's
# number.


# %% tags=["answer:3a"]
def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k greatest logits of (B, V), and all that tie with the k-th; -inf for the others."""
    # BEGIN SOLUTION
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kth, -math.inf)
    # END SOLUTION


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most likely tokens of (B, V) whose probabilities reach p in all; -inf for the others."""
    # BEGIN SOLUTION
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs  # (B, V): the mass of all that is more likely
    drop = before >= p - 1e-6
    drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)
    # END SOLUTION


def next_token_probs(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Probabilities (B, V) of the next token after temperature, top-k and top-p, in this order."""
    # BEGIN SOLUTION
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    logits = logits / temperature
    if top_k is not None:
        logits = apply_top_k(logits, top_k)
    if top_p is not None:
        logits = apply_top_p(logits, top_p)
    return logits.softmax(-1)
    # END SOLUTION


# %% tags=["check"]
check("3a")

# %% [markdown]
# ## 3b. Drawing text (4 points)
#
# **`sample_token`** turns a number $u$, uniform on $[0, 1)$, into a token by the inverse of the distribution function:
# the smallest token $x$ with
#
# $$p_0 + p_1 + \dots + p_x > u .$$
#
# A token of probability 0 is never drawn, not even at $u = 0$ or at a $u$ that rounding has left above the last sum:
# then the last token of positive probability is drawn.
#
# **`generate`** continues texts: in each step it asks the model for the logits of the next token, given **all** tokens
# so far, makes probabilities of them as in 3a, draws with the next column of `u`, and appends. `next_logits` is any
# function from ids (B, L) to logits (B, V).
#
# | symbol | code | shape |
# |---|---|---|
# | $p$ | `probs` | (B, V) |
# | $u$ | `u` in `sample_token`; one column of `u` in `generate` | (B,); (B, n) |
# | prompts; prompts and n drawn tokens | `ids`; what is returned | (B, L); (B, L + n) |
#
# *What goes wrong:* each text of a batch has a $u$ of its own. And a model that is always asked about the prompt never
# reads what it has written.


# %% tags=["answer:3b"]
def sample_token(probs: Tensor, u: Tensor) -> Tensor:
    """Tokens (B,), int64, from probs (B, V) and uniform numbers u (B,) in [0, 1), by the inverse distribution."""
    # BEGIN SOLUTION
    x = (probs.cumsum(-1) <= u[:, None]).sum(-1)  # (B,): how many sums are too small
    numbers = torch.arange(probs.shape[-1], device=probs.device)
    return torch.minimum(x, torch.where(probs > 0, numbers, 0).amax(-1))
    # END SOLUTION


def generate(
    next_logits: Callable[[Tensor], Tensor],
    ids: Tensor,
    u: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Continue ids (B, L) by n tokens, drawn with u (B, n) -> (B, L + n)."""
    # BEGIN SOLUTION
    for column in u.T:
        probs = next_token_probs(next_logits(ids), temperature, top_k, top_p)  # (B, V)
        ids = torch.cat([ids, sample_token(probs, column)[:, None]], dim=1)
    return ids
    # END SOLUTION


# %% tags=["check"]
check("3b")

# %% [markdown]
# **A look (needs 2e, 3a and 3b).** Your model writes, with the same uniform numbers each time.


# %%
def show_texts() -> None:
    alphabet = characters()[0]
    start = "If the class is "
    prompt = torch.tensor([[alphabet.index(c) for c in start]], device=device)
    u = torch.rand(1, 160, generator=torch.Generator().manual_seed(1)).to(device)
    ways = [{"temperature": 0.0}, {"temperature": 0.5}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.8}]
    ways += [{"temperature": 2.0}, {"temperature": 2.0, "top_k": 3}]
    for options in ways:
        text = "".join(alphabet[i] for i in generate(text_model()[0], prompt, u, **options)[0].tolist())
        print("-" * 20, ", ".join(f"{name} {value}" for name, value in options.items()))
        print(text)


show_texts()

# %% [markdown]
# *What to see:* temperature 0 falls into a loop, 0.5 is the tamest text that moves, 1 has the text's variety and its
# own mistakes, and 2 is noise. A filter cuts the tail off: with top-k 3 even temperature 2 writes letters in an order
# that English might have. (A row of stars stands under each heading of the text; with its tail cut off the model may
# begin one and never end it.)

# %% [markdown]
# ## 3c. Speculative sampling (5 points)
#
# A large model needs a pass for each token, and most of the time of a pass goes into fetching weights, not into
# arithmetic: reading five tokens costs about as much as reading one. So a small, fast model (the **draft**, with
# distributions $q$) writes $K$ tokens ahead, and the large one (the **target**, with distributions $p$) reads them all
# in a single pass and keeps what it can, such that what comes out has **exactly** the law of the target.
#
# Let $x_0, \dots, x_{K-1}$ be the drafted tokens, $q_i$ the distribution that $x_i$ was drawn from, and $p_i$ the
# target's distribution at the same place, after the same tokens; $p_K$ comes after all of them. For
# $i = 0, 1, \dots$:
#
# * **accept** $x_i$ if $u_i < p_i(x_i) / q_i(x_i)$, with $u_i$ uniform on $[0, 1)$, and go on;
# * else throw $x_i$ and all later ones away, and draw the token at this place from the **residual**
#
# $$\mathrm{res}(x) = \frac{\max(p_i(x) - q_i(x),\, 0)}{\sum_y \max(p_i(y) - q_i(y),\, 0)} ,$$
#
# * and if all $K$ were accepted, draw one more token from $p_K$, for free.
#
# So each step gives between 1 and $K + 1$ tokens. Draw the last one with the number $r$, by the inverse distribution
# function as in 3b. `residual` returns $p$ where $p = q$ (then nothing is ever rejected).
#
# If each token is accepted with the same probability $a$, independently, a step gives
# $1 + a + a^2 + \dots + a^K$ tokens on average: `expected_tokens`.
#
# | symbol | code | shape |
# |---|---|---|
# | $p_0, \dots, p_K$ | `p` | (K + 1, V) |
# | $q_0, \dots, q_{K-1}$ | `q` | (K, V) |
# | $x_0, \dots, x_{K-1}$ | `draft` | (K,), int64 |
# | $u_0, \dots, u_{K-1}$; $r$ | `u`; `r` | (K,); a number |
# | accepted tokens and the last one | what is returned | (1,) to (K + 1,), int64 |
#
# *What goes wrong:* drawing from $p$ itself after a rejection looks innocent, and counts twice what the draft likes.
# What comes after a rejected token was drafted for a text that does not exist.


# %% tags=["answer:3c"]
def residual(p: Tensor, q: Tensor) -> Tensor:
    """The distribution (V,) after a rejection, from those of target p (V,) and draft q (V,)."""
    # BEGIN SOLUTION
    gap = (p - q).clamp(min=0)
    return gap / gap.sum() if gap.sum() > 0 else p
    # END SOLUTION


def speculative_step(p: Tensor, q: Tensor, draft: Tensor, u: Tensor, r: float) -> Tensor:
    """p (K + 1, V), q (K, V), draft (K,), u (K,), r in [0, 1) -> the accepted tokens and one more, (1 to K + 1,)."""
    # BEGIN SOLUTION
    n = 0
    while n < len(draft) and u[n] < p[n, draft[n]] / q[n, draft[n]]:
        n += 1
    last = p[n] if n == len(draft) else residual(p[n], q[n])
    return torch.cat([draft[:n], sample_token(last[None], torch.full((1,), r).to(last))])
    # END SOLUTION


def expected_tokens(a: float, k: int) -> float:
    """Tokens per step with k drafted tokens, each accepted with probability a in [0, 1]."""
    # BEGIN SOLUTION
    return sum(a**i for i in range(k + 1))
    # END SOLUTION


# %% tags=["check"]
check("3c")

# %% [markdown]
# **A look (needs 3c).** A target over 20 tokens, and drafts that are better and worse: $q \propto p^{1-s}\, m^s$ with
# some other distribution $m$. How many of 4 drafted tokens survive, and is the law kept?


# %%
def plot_speculative() -> None:
    g = torch.Generator().manual_seed(0)
    V, K, runs = 20, 4, 400
    p, m = (torch.randn(2, V, generator=g, dtype=torch.float64) * 1.5).softmax(-1)
    strengths = np.linspace(0, 1, 6)
    rates, tokens = [], []
    seen = torch.zeros(V, dtype=torch.float64)
    for s in strengths.tolist():
        q = (p.log() * (1 - s) + m.log() * s).softmax(-1)
        rates.append(torch.minimum(p, q).sum().item())
        total = 0
        for _ in range(runs):
            draft = torch.multinomial(q, K, replacement=True, generator=g)
            u, r = torch.rand(K, generator=g, dtype=torch.float64), torch.rand(1, generator=g).item()
            out = speculative_step(p.expand(K + 1, V), q.expand(K, V), draft, u, r)
            seen[out[0]] += 1
            total += len(out)
        tokens.append(total / runs)
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8))
    left.plot(rates, tokens, "o", label=f"{runs} steps each")
    grid = np.linspace(min(rates), 1, 50)
    left.plot(grid, [expected_tokens(a, K) for a in grid.tolist()], color="black", linewidth=1, label="expected")
    left.set(
        xlabel="chance that a drafted token is accepted", ylabel="tokens per step", title="A better draft is faster"
    )
    left.legend()
    order = p.argsort(descending=True)
    right.bar(range(V), seen[order] / seen.sum(), color="tab:orange", label="first tokens that came out")
    right.plot(range(V), p[order], "k_", markersize=12, label="target")
    right.plot(range(V), m[order], "x", color="gray", label="the worst draft")
    right.set(xlabel="token, most likely first", title="The law is the target's")
    right.legend()
    plt.show()


plot_speculative()

# %% [markdown]
# *What to see:* a perfect draft gives 5 tokens a step, a poor one little more than 1, and the formula tells how many.
# Whatever the draft likes, the tokens that come out follow the target, up to the noise of 2400 draws.

# %% [markdown]
# ## 3d. Why speculative sampling keeps the law (5 points, written)
#
# The symbols are those of 3c; $V$ is finite, and $x \sim q$ is drawn by the draft.
#
# 1. One place, $p \ne q$. Show that the drafted token is accepted with probability
#    $\beta = \sum_x \min(p(x), q(x))$, and that the token that comes out at this place (the drafted one, or the one
#    from the residual) has exactly the distribution $p$.
# 2. Show that the first two tokens that come out have the target's joint law
#    $p(x_0)\, p(x_1 \mid x_0)$, for $K \ge 1$. (The second one may come from the same step, or from the next.)
# 3. Does any of this need $q(x) > 0$ wherever $p(x) > 0$? And what comes out if the target is sampled with top-p, the
#    draft without: is the law kept, and the law of what? One or two sentences each.

# %% [markdown] tags=["written:3d", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Given $x$, acceptance has the probability $\min(1, p(x)/q(x))$, since $u$ is uniform. So a token $x$ is drafted
# **and** accepted with probability $q(x) \min(1, p(x)/q(x)) = \min(q(x), p(x))$ (also where $q(x) = 0$: then it is
# never drafted, and the minimum is 0), and summed over $x$ this is $\beta$. Rejection has the probability
#
# $$1 - \beta = \sum_x \big(p(x) - \min(p(x), q(x))\big) = \sum_x \max(p(x) - q(x), 0),$$
#
# which is the residual's divisor, positive because $p \ne q$. After a rejection the token is drawn from the residual,
# independently of the rejected one. The two ways to $x$ exclude each other:
#
# $$\Pr(x) = \min(p(x), q(x)) + (1 - \beta)\, \frac{\max(p(x) - q(x), 0)}{1 - \beta}
# = \min(p(x), q(x)) + \max(p(x) - q(x), 0) = p(x) .$$
#
# **2.** By part 1 the first token has the law $p(x_0)$ (if $p_0 = q_0$, it is always accepted, with law
# $q_0 = p_0$). It remains to be shown that, given the first token $a$ and whatever way it came, the second has the law
# $p(\cdot \mid a)$.
#
# * It was rejected and replaced by $a$: the step ends; the next one starts anew with the text so far, $a$ included,
#   with fresh draws, and by part 1 its first token has the law $p(\cdot \mid a)$.
# * It was accepted and $K \ge 2$: $x_1$ is drawn from $q(\cdot \mid a)$ and judged with $u_1$, both independent of
#   $u_0$ given $a$; part 1 with $p(\cdot \mid a)$ and $q(\cdot \mid a)$ gives the law $p(\cdot \mid a)$.
# * It was accepted and $K = 1$: the extra token is drawn from $p_1 = p(\cdot \mid a)$ directly.
#
# In each case the conditional law is the same, so it does not depend on the way, and the joint law is
# $p(a)\, p(b \mid a)$.
#
# **3.** No: a token with $q(x) = 0 < p(x)$ is never drafted, and comes out of the residual with probability
# $p(x) - 0$; a small support costs speed only. With top-p the target's filtered distribution takes $p$'s place
# everywhere, in the ratio and in the residual, and what comes out has exactly the law of the filtered target; the
# draft may be anything that $x$ is really drawn from.
#
# Rubric:
# * 2 points: part 1 (1 for the probability $\min(p, q)$ of drafting and accepting, and $\beta$; 1 for the residual's
#   divisor $1 - \beta$ and the sum of the two ways).
# * 2 points: part 2 (1 for conditioning on the first token and on how it came; 1 for all of the cases, with the
#   independence that they use).
# * 1 point: part 3 (half for each; "the law of the unfiltered target" earns nothing).
# <!-- END SOLUTION -->

# %% [markdown]
# # Submit
#
# Restart the kernel, run everything from the top, **save the notebook**, then run the cell below. It names every answer
# that is missing and writes the zip that you hand in.

# %% [markdown]
# # 4. Masked diffusion (17 points)
#
# An autoregressive model writes from left to right. A **masked diffusion** model writes in any order: hide tokens at
# random, learn to fill them in, and then start from a text of nothing but masks.
#
# Time runs from $t = 0$, the text $x_0$, to $t = 1$, all masks. Each token is hidden independently and stays hidden:
# at time $t$ it is still visible with probability $\alpha_t$, which falls from $\alpha_0 = 1$ to $\alpha_1 = 0$. We use
# the log-linear schedule $\alpha_t = 1 - t$ throughout, so that **$t$ is the probability of being hidden**.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_0$, the text | `x_0`, whole numbers 0 to V-1, int64 | (B, L) |
# | $x_t$, the text at time $t$ | `x_t`, whole numbers 0 to V, int64 | (B, L) |
# | $m$, the mask | `mask_id`, which is the number V | a number |
# | $t$ | `t`, in [0, 1] | (B,): each text has its own |
# | logits of $p_\theta(x_0^i \mid x_t)$ | `net(x_t, t)`, for all positions $i$ at once | (B, L, V) |
#
# The network has V outputs at each position, not V + 1: the mask is never predicted.

# %% [markdown]
# ## 4a. Corruption (2 points)
#
# Give each token $i$ of each text its own uniform number $r_i \in [0, 1)$, the time at which it disappears. At time $t$
# the tokens with $r_i < t$ are hidden:
#
# $$x_t^i = \begin{cases} m & \text{if } r_i < t, \\ x_0^i & \text{otherwise.} \end{cases}$$
#
# With the same $r$ and a later $t$ more tokens are hidden and none comes back: a whole path from text to masks.
#
# | symbol | code | shape |
# |---|---|---|
# | $r$ | `noise`, in [0, 1) | (B, L) |
#
# *What goes wrong:* with shapes (B, L) and (B,) side by side, broadcasting lines up the wrong axes, and says nothing at
# all if B and L happen to be equal.


# %% tags=["answer:4a"]
def q_sample(x_0: Tensor, t: Tensor, noise: Tensor, mask_id: int) -> Tensor:
    """x_t (B, L): the text x_0 (B, L) at the times t (B,); noise (B, L) holds the time at which each token hides."""
    # BEGIN SOLUTION
    hidden = noise < t[:, None]  # (B, L)
    return x_0.masked_fill(hidden, mask_id)
    # END SOLUTION


# %% tags=["check"]
check("4a")

# %% [markdown]
# ## 4b. The loss (4 points)
#
# The network's raw output is not yet the model. Two facts are known and need not be learnt: a hidden token is not the
# mask, which is why there is no output for it; and **a visible token is what it is**. The second is built in: where
# $x_t$ shows a token, the model gives it probability 1 and all others 0, whatever the network says,
#
# $$\log p_\theta(x_0^i = v \mid x_t) = \begin{cases}
# \log \mathrm{softmax}\big(\mathrm{net}(x_t, t)_i\big)_v & x_t^i = m, \\
# 0 & x_t^i = v, \\ -\infty & \text{otherwise.} \end{cases}$$
#
# (The paper calls this SUBS.) `subs` returns these log-probabilities.
#
# The bound on $-\log p_\theta(x_0)$ weighs the cross-entropy at the masks by $-\alpha_t' / (1 - \alpha_t)$, which is
# $1/t$ for our schedule (you will derive it in 4e):
#
# $$-\log p_\theta(x_0) \;\le\; \mathbb E_{t \sim U(0, 1)}\, \mathbb E_{x_t}\;
# \frac1t \sum_{i :\, x_t^i = m} -\log p_\theta(x_0^i \mid x_t) .$$
#
# `mdlm_loss` returns what stands inside of the expectations, one number for each text, with $x_t$ made from `x_0`, `t`
# and `noise` as in 4a. A text in which nothing is hidden costs 0.
#
# | symbol | code | shape |
# |---|---|---|
# | network's output | `logits`, any size (up to $\pm 10^3$ and beyond) | (B, L, V) |
# | $t$, in (0, 1] | `t` | (B,) |
# | the loss | return value of `mdlm_loss`, nats for a whole text | (B,) |
#
# *What goes wrong:* half of the work in such models is to not look: a network that sees what it shall predict has a
# wonderful loss. And $0 \cdot (-\infty)$ is not 0 in floating point but NaN, so a sum over the vocabulary in which the
# right token has weight 1 and all others 0 does not do here.


# %% tags=["answer:4b"]
def subs(logits: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    """log p(x_0 | x_t) (B, L, V), normalised, from the network's logits (B, L, V) and x_t (B, L)."""
    # BEGIN SOLUTION
    log_p = logits.log_softmax(-1)
    token = x_t.clamp(max=mask_id - 1)[..., None]  # (B, L, 1); at masks any token will do
    carried = torch.full_like(logits, -math.inf).scatter(-1, token, 0.0)
    return torch.where((x_t == mask_id)[..., None], log_p, carried)
    # END SOLUTION


def mdlm_loss(net: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, t: Tensor, noise: Tensor, mask_id: int) -> Tensor:
    """The weighted cross-entropy (B,) in nats: x_0 (B, L), t (B,), noise (B, L); net(x_t, t) gives logits (B, L, V)."""
    # BEGIN SOLUTION
    x_t = q_sample(x_0, t, noise, mask_id)
    log_p = subs(net(x_t, t), x_t, mask_id)  # (B, L, V)
    nll = -log_p.gather(-1, x_0[..., None])[..., 0]  # (B, L), 0 where a token is visible
    return nll.sum(1) / t
    # END SOLUTION


# %% tags=["check"]
check("4b")

# %% [markdown]
# ## 4c. The ancestral sampler (3 points)
#
# Now backwards: from time $t$ to an earlier time $s < t$. A token that is hidden at $t$ is visible at $s$ with the
# probability $q(r_i \ge s \mid r_i < t)$; then it is drawn from the model. So, for each position,
#
# $$x_s^i = \begin{cases}
# x_t^i & \text{if it is visible already: it never changes again,} \\
# \text{a draw from } p_\theta(x_0^i \mid x_t) & \text{if it is hidden, with probability } \frac{t - s}{t}, \\
# m & \text{if it is hidden, otherwise.} \end{cases}$$
#
# Three functions, each used by the next.
#
# **`draw_tokens`** turns uniform numbers into tokens: the smallest $v$ with $p_0 + \dots + p_v > u$. (Rounding may
# leave the whole sum a hair below $u$; the last token is meant then.)
#
# **`ancestral_step`** takes one step. A hidden position is revealed where `noise` $< (t - s) / t$, as the token that
# `draw_tokens` finds for `u`.
#
# **`infill`** takes $S$ steps, from time 1 to 0 on the grid $1, \frac{S-1}{S}, \dots, \frac1S, 0$, and starts at a text
# some of whose tokens may be visible; all of them hidden gives a sample from nothing. Row $j$ of `noise` and `u` is for
# step $j$, the first of which leads from $1$ to $\frac{S-1}S$. At the end nothing is hidden.
#
# | symbol | code | shape |
# |---|---|---|
# | $p$ | `p`, sums to 1 along the last axis | (..., V) |
# | $u$ | `u`, in [0, 1) | (...) in `draw_tokens`, (B, L) in the step, (S, B, L) in `infill` |
# | who is revealed | `noise`, in [0, 1) | (B, L) in the step, (S, B, L) in `infill` |
# | $t$, $s$ | `t`, `s` | two numbers in `ancestral_step`; the network wants t as (B,) |
#
# *What goes wrong:* the chance $t - s$ alone looks plausible, since with 100 steps it is one hundredth each; but then
# a share of $(1 - \frac1{100})^{100} \approx 37\,\%$ of the tokens is never revealed.


# %% tags=["answer:4c"]
def draw_tokens(p: Tensor, u: Tensor) -> Tensor:
    """Tokens (...), int64, by inversion: probabilities p (..., V), uniform numbers u (...)."""
    # BEGIN SOLUTION
    below = p.cumsum(-1) <= u[..., None]  # (..., V)
    return below.sum(-1).clamp(max=p.shape[-1] - 1)
    # END SOLUTION


def ancestral_step(logits: Tensor, x_t: Tensor, t: float, s: float, noise: Tensor, u: Tensor, mask_id: int) -> Tensor:
    """x_s (B, L) from x_t (B, L) and the network's logits (B, L, V) at time t; 0 <= s < t; noise and u (B, L)."""
    # BEGIN SOLUTION
    x_0 = draw_tokens(logits.softmax(-1), u)  # (B, L)
    reveal = noise < (t - s) / t  # at s = 0 all that is left
    return torch.where((x_t == mask_id) & reveal, x_0, x_t)
    # END SOLUTION


def infill(net: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, noise: Tensor, u: Tensor, mask_id: int) -> Tensor:
    """Fill all masks of x_t (B, L) in S steps: noise and u (S, B, L); net(x_t, t), t (B,), gives logits (B, L, V)."""
    # BEGIN SOLUTION
    steps = len(noise)
    for j in range(steps):
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        logits = net(x_t, torch.full((len(x_t),), t, dtype=u.dtype, device=u.device))
        x_t = ancestral_step(logits, x_t, t, s, noise[j], u[j], mask_id)
    return x_t
    # END SOLUTION


# %% tags=["check"]
check("4c")

# %% [markdown]
# **A look (needs 4c).** For a language of forty words the best possible network needs no training: what a hidden letter
# may be follows from the words that agree with what is visible. (Where none agrees, those that disagree least count.)
# So whatever goes wrong below is the sampler's doing, not the network's.

# %%
WORD_LIST = """
absolute academic accurate activity aircraft alphabet anything argument backbone baseline birthday boundary
calendar campaign capacity category children compound computer concrete congress creature daughter decision
delivery describe diabetes directly director discover distance document dynamics economic election elephant
emission emphasis employee engineer
"""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word_net(x_t: Tensor, t: Tensor) -> Tensor:
    """Logits (B, 8, 26) of each letter given those that are visible in x_t (B, 8): a vote of the words that agree."""
    words = [[LETTERS.index(c) for c in word] for word in WORD_LIST.split()]
    words = torch.tensor(words, device=x_t.device)  # (40, 8)
    clashes = ((x_t[:, None] != words) & (x_t[:, None] < 26)).sum(-1)  # (B, 40)
    weight = torch.softmax(-8.0 * clashes.double(), -1)
    votes = torch.einsum("bn,nlv->blv", weight, torch.nn.functional.one_hot(words, 26).double())
    return (votes + 1e-12).log()


def spell(row: Tensor) -> str:
    return "".join((LETTERS + "·")[i] for i in row.tolist())


def plot_infilling() -> None:
    g = torch.Generator().manual_seed(3)
    path = []

    def watched(x_t: Tensor, t: Tensor) -> Tensor:
        path.append(x_t.clone())
        return word_net(x_t, t)

    noise, u = torch.rand(2, 8, 4, 8, generator=g, dtype=torch.float64)
    path.append(infill(watched, torch.full((4, 8), 26), noise, u, 26))
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 4), gridspec_kw={"width_ratios": [3, 2]})
    for b in range(4):
        for j, row in enumerate(path):
            for i, c in enumerate(spell(row[b])):
                new = j > 0 and path[j - 1][b, i] == 26 and row[b, i] != 26
                left.text(b * 10 + i, j, c, color="tab:red" if new else "black", family="monospace", fontsize=13)
    left.set(xlim=(-1, 39), ylim=(8.7, -0.7), ylabel="step", xticks=[], title="Eight steps (red: just revealed)")
    counts = [1, 2, 3, 4, 6, 8, 16, 32]
    share = []
    for steps in counts:
        noise, u = torch.rand(2, steps, 2000, 8, generator=g, dtype=torch.float64)
        drawn = infill(word_net, torch.full((2000, 8), 26), noise, u, 26)
        share.append(sum(spell(row) in WORD_LIST.split() for row in drawn) / 2000)
    right.plot(counts, share, "o-")
    right.set(xscale="log", xticks=counts, xticklabels=counts, ylim=(0, 1), xlabel="steps", title="Share of real words")
    plt.show()
    hint = torch.tensor([[26 if c == "_" else LETTERS.index(c) for c in "d______r"]] * 6)
    noise, u = torch.rand(2, 32, 6, 8, generator=g, dtype=torch.float64)
    print("d______r becomes", ", ".join(spell(row) for row in infill(word_net, hint, noise, u, 26)))


plot_infilling()

# %% [markdown]
# *What to see:* letters appear in any order, and once the first two or three stand, the rest has no choice. With one
# step all letters are drawn at once, each for itself, and (almost) none of the results is a word, although the network
# is perfect; the more steps, the fewer letters are drawn together, and the more words are real. The last line fills
# a gap between two given letters, which a model that writes from left to right cannot do.

# %% [markdown]
# ## 4d. The bound, exactly (3 points)
#
# With three tokens and three positions everything can be counted, and what is usually an estimate becomes a number.
# Take a network that ignores $t$ (call it with `torch.ones(B)`; it may give any logits), and a text $x_0$ of length
# $L$.
#
# **`exact_nelbo`**: the right-hand side of 4b's inequality with both expectations done exactly. A set $H$ of $k \ge 1$
# hidden positions has the probability $t^k (1 - t)^{L - k}$ at time $t$, and
# $\int_0^1 t^a (1 - t)^b\, dt = \frac{a!\, b!}{(a + b + 1)!}$. Do the integral over $t$ by hand; it leaves a weight
# $w(k)$, and
#
# $$\mathrm{NELBO}(x_0) = \sum_{H \ne \emptyset} w(|H|)
# \sum_{i \in H} -\log p_\theta(x_0^i \mid x_0 \text{ with } H \text{ hidden}) .$$
#
# **`exact_nll`**: $-\log p_\theta(x_0)$ of what the sampler of 4c draws in the limit of infinitely many steps. Then no
# two tokens are revealed at once, and the order in which they are is uniform among all $L!$ orders $\sigma$ (the first
# revealed is $\sigma_1$), so
#
# $$p_\theta(x_0) = \frac1{L!} \sum_\sigma \prod_{j=1}^L
# p_\theta\big(x_0^{\sigma_j} \mid x_0 \text{ with only } \sigma_1, \dots, \sigma_{j-1} \text{ visible}\big) .$$
#
# Compute it so that it survives texts of probability $e^{-2000}$.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_0$ | `x_0` | (B, L), L at most 4 in the checks |
# | $m$ | `mask_id`, the number V | a number |
# | $\mathrm{NELBO}$, $-\log p_\theta$ | return values | (B,), nats |
#
# *What goes wrong:* a mean of logarithms is not the logarithm of a mean. Two tests of your own: the likelihoods of all
# $V^L$ texts add up to 1, and the bound lies below no text's $-\log p_\theta$.


# %% tags=["answer:4d"]
def exact_nelbo(net: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, mask_id: int) -> Tensor:
    """The bound (B,) in nats for texts x_0 (B, L), over all sets of hidden positions and all times."""
    # BEGIN SOLUTION
    B, L = x_0.shape
    bound = torch.zeros(B, dtype=torch.float64, device=x_0.device)
    for k in range(1, L + 1):
        weight = 1 / (k * math.comb(L, k))  # (k - 1)! (L - k)! / L!
        for positions in itertools.combinations(range(L), k):
            hidden = list(positions)
            x_t = x_0.clone()
            x_t[:, hidden] = mask_id
            log_p = net(x_t, torch.ones(B, device=x_0.device)).log_softmax(-1)
            bound -= weight * log_p.gather(-1, x_0[..., None])[:, hidden, 0].sum(1)
    return bound
    # END SOLUTION


def exact_nll(net: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, mask_id: int) -> Tensor:
    """-log p(x_0) (B,) in nats for texts x_0 (B, L), over all orders in which their tokens can be revealed."""
    # BEGIN SOLUTION
    B, L = x_0.shape
    log_products = []
    for order in itertools.permutations(range(L)):
        x_t, log_product = torch.full_like(x_0, mask_id), torch.zeros(B, dtype=torch.float64, device=x_0.device)
        for i in order:
            log_p = net(x_t, torch.ones(B, device=x_0.device)).log_softmax(-1)[:, i]  # (B, V)
            log_product = log_product + log_p.gather(1, x_0[:, i : i + 1])[:, 0]
            x_t[:, i] = x_0[:, i]
        log_products.append(log_product)
    return math.log(math.factorial(L)) - torch.stack(log_products).logsumexp(0)
    # END SOLUTION


# %% tags=["check"]
check("4d")

# %% [markdown]
# **A look (needs 4d).** All 27 texts of three tokens under a network whose random weights grow from left to right.


# %%
def plot_bound() -> None:
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(3 * 4, 3 * 3, generator=g, dtype=torch.float64)
    texts = torch.tensor(list(itertools.product(range(3), repeat=3)))  # (27, 3)
    _, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    for ax, scale in zip(axes, (0.1, 0.5, 1.5), strict=True):

        def net(x_t: Tensor, t: Tensor, scale: float = scale) -> Tensor:
            return scale * (torch.nn.functional.one_hot(x_t, 4).double().flatten(1) @ weight).view(-1, 3, 3)

        nll, nelbo = exact_nll(net, texts, 3), exact_nelbo(net, texts, 3)
        ax.plot([nll.min(), nll.max()], [nll.min(), nll.max()], "k--", linewidth=1)
        ax.scatter(nll, nelbo, s=14, color="tab:red")
        gap = float(((-nll).exp() * (nelbo - nll)).sum())
        ax.set(xlabel="−log p (nats)", title=f"weights × {scale}; mean gap {gap:.3f}")
    axes[0].set(ylabel="bound (nats)")
    plt.show()


plot_bound()

# %% [markdown]
# *What to see:* no point lies below the dashed line. Near it are networks whose six orders agree on the probability of
# a text; a network with large random weights contradicts itself (the product depends on the order), and pays for it
# with the gap.

# %% [markdown]
# ## 4e. Where the weight comes from (5 points, written)
#
# Let $\alpha_t$ be any smooth schedule that falls from 1 to 0. By time $t$ a token is hidden with probability
# $1 - \alpha_t$, independently of the others, and it never comes back.
#
# 1. One token. Show that for $s < t$ a token that is hidden at time $t$ was visible at time $s$ with the probability
#    $\frac{\alpha_s - \alpha_t}{1 - \alpha_t}$. What does the posterior $q(x_s \mid x_t, x_0)$ look like if $x_t$ is
#    hidden, and if it is visible?
# 2. The model steps by the same law with $x_0$ replaced by a draw from $p_\theta(x_0 \mid x_t)$, which has no mask in
#    it. Show that $\mathrm{KL}\big(q(x_s \mid x_t, x_0) \,\|\, p_\theta(x_s \mid x_t)\big)$ is
#    $\frac{\alpha_s - \alpha_t}{1 - \alpha_t} \cdot \big(-\log p_\theta(x_0 \mid x_t)\big)$ if $x_t$ is hidden, and 0
#    if it is visible.
# 3. For $S$ equal steps the bound on $-\log p_\theta(x_0)$ is the sum of these over steps (the terms for $t = 1$ and
#    for the last step vanish or are of the same kind; you need not treat them). Let $S \to \infty$ and show that it
#    becomes
#    $$\int_0^1 \frac{-\alpha_t'}{1 - \alpha_t}\; \mathbb E_{x_t}
#    \sum_{i :\, x_t^i = m} -\log p_\theta(x_0^i \mid x_t)\; dt .$$
#    (For $L$ tokens, the steps of different positions are independent given $x_t$; say where that is used.)
# 4. Show that for a network that ignores $t$ the value of this integral does not depend on the schedule.

# %% [markdown] tags=["written:4e", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Let $r$ be the time at which the token hides: $P(r \le t) = 1 - \alpha_t$. Hidden at $t$ means $r \le t$,
# visible at $s$ means $r > s$, so
#
# $$P(r > s \mid r \le t) = \frac{P(s < r \le t)}{P(r \le t)} = \frac{(1 - \alpha_t) - (1 - \alpha_s)}{1 - \alpha_t}
# = \frac{\alpha_s - \alpha_t}{1 - \alpha_t} =: \rho .$$
#
# If $x_t = m$: $q(x_s \mid x_t, x_0)$ gives $x_0$ the probability $\rho$ and $m$ the probability $1 - \rho$. If $x_t$
# is visible, then $r > t > s$, and $x_s = x_t = x_0$ with probability 1.
#
# **2.** If $x_t = m$, the model gives the token $v$ the probability $\rho\, p_\theta(x_0 = v \mid x_t)$ and the mask
# $1 - \rho$ (exactly that, since $p_\theta$ has no mass on the mask). Two outcomes have mass under $q$:
#
# $$\mathrm{KL} = \rho \log \frac{\rho}{\rho\, p_\theta(x_0 \mid x_t)} + (1 - \rho) \log \frac{1 - \rho}{1 - \rho}
# = -\rho \log p_\theta(x_0 \mid x_t) .$$
#
# If $x_t$ is visible, both laws have all mass on $x_t$, and the KL is 0: this is what carrying over buys.
#
# **3.** Given $x_t$, the positions step independently, under $q$ and under the model; the KL of a product of
# independent laws is the sum of the KLs. Write $C_t = \mathbb E_{x_t} \sum_{i : x_t^i = m} -\log p_\theta(x_0^i \mid
# x_t)$. With $t = j/S$ and $s = (j - 1)/S$, the sum over steps is
#
# $$\sum_{j=1}^S \frac{\alpha_s - \alpha_t}{1 - \alpha_t}\, C_t
# = \sum_{j=1}^S \frac1S\, \frac{(\alpha_s - \alpha_t) / \frac1S}{1 - \alpha_t}\, C_t .$$
#
# The difference quotient tends to $-\alpha_t'$, and the Riemann sum to the integral. (Near $t = 0$ the weight grows
# like $1/t$, but the expected number of masks vanishes like $t$, so the integrand stays bounded.) With
# $\alpha_t = 1 - t$ the weight is $1/t$.
#
# **4.** Given the network, $\mathbb E_{x_t}[\dots]$ depends on $t$ only through the probability of being hidden,
# $\lambda = 1 - \alpha_t$; call it $C(\lambda)$. Substituting $\lambda$ for $t$, with $d\lambda = -\alpha_t'\, dt$ and
# limits 0 and 1,
#
# $$\int_0^1 \frac{-\alpha_t'}{1 - \alpha_t}\, C(1 - \alpha_t)\, dt = \int_0^1 \frac{C(\lambda)}{\lambda}\, d\lambda ,$$
#
# in which no schedule is left. (Its variance as an estimate does depend on how $t$ is drawn.)
#
# Rubric:
# - 1 point: part 1, the conditional probability and both cases of the posterior
# - 1 point: part 2, the KL with both outcomes, and 0 for visible tokens
# - 2 points: part 3 (1 for the sum over positions by independence given $x_t$, 1 for the limit with $-\alpha_t'$)
# - 1 point: part 4, the substitution, with what the expectation depends on
# <!-- END SOLUTION -->

# %% [markdown]
# # 5. Post-training (23 points)
#
# A model that has read everything continues a text; it does not yet do what it is asked. Three tools change that:
# adapters that touch few parameters (5a), learning from pairs of answers of which one was preferred (5b), and learning
# from rewards that can be computed (5c to 5e).
#
# | symbol | code | what |
# |---|---|---|
# | $\pi_\theta(y \mid x)$ | policy | the model that is trained: probability of the answer $y$ to the prompt $x$ |
# | $\pi_{\mathrm{ref}}$ | reference | the model before post-training; it never changes |
# | $\pi_{\mathrm{old}}$ | old policy | the policy that drew the answers that are learnt from now |
# | $\beta$ | `beta` | price of moving away from the reference |

# %% [markdown]
# ## 5a. LoRA (3 points)
#
# Fine-tuning all of a matrix $W \in \mathbb R^{d_{out} \times d_{in}}$ needs its gradient and two moments for Adam:
# three times the memory of the matrix itself. LoRA freezes $W$ and learns a correction of rank $r$:
#
# $$h = W x + \frac{\alpha}{r}\, B A x,
# \qquad A \in \mathbb R^{r \times d_{in}}, \quad B \in \mathbb R^{d_{out} \times r} .$$
#
# At the start $B = 0$, so that the layer computes what it did before, and $A$ has independent normal entries of mean 0
# and **variance** $1/d_{in}$ (you draw them, with torch's global generator). After training,
# $W + \frac\alpha r B A$ is one matrix again, and the adapter costs nothing.
#
# Write the layer. `A` and `B` are its only **trainable** parameters, with these names and the shapes above, and of the
# dtype and device of `weight`. How you keep $W$ is your choice. `merged` returns the single matrix and changes nothing.
#
# | symbol | code | shape |
# |---|---|---|
# | $W$ | `weight` | (d_out, d_in) |
# | $r$, $\alpha$ | `rank`, `alpha` | numbers |
# | $x$ | `x` | (..., d_in), any number of axes in front |
#
# *What goes wrong:* nearly every mistake here is invisible at the start, where $B = 0$ hides it. Test your layer with a
# $B$ of random numbers.


# %% tags=["answer:5a"]
class LoRALinear(torch.nn.Module):
    """A frozen linear map with a trainable correction of low rank: parameters A (r, d_in) and B (d_out, r)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        # BEGIN SOLUTION
        d_out, d_in = weight.shape
        self.register_buffer("weight", weight.detach().clone())
        self.A = torch.nn.Parameter(torch.randn(rank, d_in, dtype=weight.dtype, device=weight.device) / d_in**0.5)
        self.B = torch.nn.Parameter(torch.zeros(d_out, rank, dtype=weight.dtype, device=weight.device))
        self.scale = alpha / rank
        # END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> h (..., d_out)."""
        # BEGIN SOLUTION
        return x @ self.weight.T + self.scale * (x @ self.A.T) @ self.B.T  # A first: r numbers a row, no (d_out, d_in)
        # END SOLUTION

    def merged(self) -> Tensor:
        """The one matrix (d_out, d_in) that does the same."""
        # BEGIN SOLUTION
        return self.weight + self.scale * self.B @ self.A
        # END SOLUTION


# %% tags=["check"]
check("5a")

# %% [markdown]
# **A look (needs 5a).** A linear map of 40 × 30 = 1200 numbers is to become another: the difference has rank 3.


# %%
def plot_lora() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=g)
    change = torch.randn(40, 3, generator=g) @ torch.randn(3, 30, generator=g) / 3
    x = torch.randn(512, 30, generator=g).to(device)
    target = x @ (weight + change).to(device).T
    plt.figure(figsize=(6, 3.6))
    for rank in (1, 2, 3, 6):
        torch.manual_seed(rank)
        layer = LoRALinear(weight.to(device), rank, alpha=2.0 * rank)
        trained = [p for p in layer.parameters() if p.requires_grad]
        adam = torch.optim.Adam(trained, lr=0.02)
        losses = []
        for _ in range(300):
            adam.zero_grad()
            loss = (layer(x) - target).square().mean()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        plt.plot(losses, label=f"rank {rank}: {sum(p.numel() for p in trained)} numbers")
    plt.yscale("log")
    plt.xlabel("step of Adam")
    plt.ylabel("mean squared error")
    plt.legend()
    plt.title("A low-rank correction, learnt")
    plt.show()


plot_lora()

# %% [markdown]
# *What to see:* ranks 1 and 2 get stuck on what they cannot express, rank 3 gets all the way down with 210 of the 1200
# numbers, and a rank that is higher than needed does no harm.

# %% [markdown]
# ## 5b. Direct preference optimisation (4 points)
#
# People find it hard to grade an answer and easy to say which of two is better. Let $y_w$ be the answer to $x$ that
# won and $y_l$ the one that lost. DPO raises the **margin** by which the policy, compared to the reference, prefers the
# winner:
#
# $$\Delta = \beta \Big( \log \frac{\pi_\theta(y_w \mid x)}{\pi_{\mathrm{ref}}(y_w \mid x)}
# - \log \frac{\pi_\theta(y_l \mid x)}{\pi_{\mathrm{ref}}(y_l \mid x)} \Big), \qquad
# L = -\frac1N \sum_{n=1}^N \log \sigma(\Delta_n), \qquad \sigma(\Delta) = \frac1{1 + e^{-\Delta}} .$$
#
# (Why exactly this: 5f.)
#
# **`sequence_log_prob`**: $\log \pi(y \mid x)$, the **sum** over the tokens of the answer. A row of `tokens` holds
# prompt, answer and padding; `mask` is 1 at the answer's tokens. The logits at position $j$ are the model's for the
# token at position $j + 1$, as they come from a causal network; the first token of a row is never predicted.
#
# **`dpo_loss`**: the loss $L$ and the margins $\Delta_n$ from the four log-probabilities of each pair. The reference is
# a constant: no gradient may flow into its two arguments. Margins can be in the thousands.
#
# | symbol | code | shape |
# |---|---|---|
# | network's output | `logits` | (B, T, V) |
# | prompt, answer, padding | `tokens`, int64 | (B, T) |
# | where the answer is | `mask`, zeros and ones; `mask[:, 0]` is 0 | (B, T) |
# | $\log \pi_\theta(y_w \mid x)$, $\log \pi_\theta(y_l \mid x)$ | `policy_w`, `policy_l` | (N,) |
# | $\log \pi_{\mathrm{ref}}(y_w \mid x)$, $\log \pi_{\mathrm{ref}}(y_l \mid x)$ | `ref_w`, `ref_l` | (N,) |
#
# *What goes wrong:* at the start the policy is the reference, all margins are 0 and the loss is $\log 2$ whatever you
# do with signs, $\beta$ or the reference. And $\log \sigma(-1000)$ is $-1000$, not $-\infty$.


# %% tags=["answer:5b"]
def sequence_log_prob(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """log pi(answer | prompt) (B,) in nats: logits (B, T, V), tokens (B, T), mask (B, T), 1 at the answer's tokens."""
    # BEGIN SOLUTION
    log_p = logits[:, :-1].log_softmax(-1)  # (B, T-1, V): position j speaks of token j + 1
    per_token = log_p.gather(-1, tokens[:, 1:, None])[..., 0]  # (B, T-1)
    return (per_token * mask[:, 1:]).sum(1)
    # END SOLUTION


def dpo_loss(policy_w: Tensor, policy_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The loss, a scalar, and the margins (N,) from log-probabilities of winners and losers, (N,) each."""
    # BEGIN SOLUTION
    margin = beta * ((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))  # (N,)
    return -torch.nn.functional.logsigmoid(margin).mean(), margin
    # END SOLUTION


# %% tags=["check"]
check("5b")

# %% [markdown]
# **A look (needs 5b).** Eight possible answers to one prompt, with rewards $r$ that only the judge knows: between two
# answers it prefers the first with probability $\sigma(r_1 - r_2)$. The policy has one logit for each answer.


# %%
def plot_dpo() -> None:
    g = torch.Generator().manual_seed(0)
    reward = torch.linspace(-1.5, 1.5, 8, dtype=torch.float64)[torch.randperm(8, generator=g)]
    reference = torch.randn(8, generator=g, dtype=torch.float64).log_softmax(0)
    pairs = torch.rand(8000, 8, generator=g).topk(2).indices  # two different answers each, (8000, 2)
    first = torch.rand(8000, generator=g) < torch.sigmoid(reward[pairs[:, 0]] - reward[pairs[:, 1]])
    w, l = torch.where(first, pairs[:, 0], pairs[:, 1]), torch.where(first, pairs[:, 1], pairs[:, 0])
    _, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    for beta, colour in ((1.0, "tab:blue"), (3.0, "tab:orange")):
        theta = reference.clone().requires_grad_()
        adam = torch.optim.Adam([theta], lr=0.05)
        losses = []
        for _ in range(300):
            log_pi = theta.log_softmax(0)
            loss, margin = dpo_loss(log_pi[w], log_pi[l], reference[w], reference[l], beta)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        margin = margin.detach()
        axes[0].plot(losses, color=colour, label=f"β = {beta:g}")
        share = (margin > 0).double().mean()
        axes[1].hist(margin.numpy(), bins=40, alpha=0.5, color=colour, label=f"β = {beta:g}: {share:.0%} positive")
        best = (reference + reward / beta).softmax(0)
        axes[2].scatter(best, theta.softmax(0).detach(), color=colour)
    axes[2].plot([0, 0.7], [0, 0.7], "k--", linewidth=1)
    axes[0].set(xlabel="step of Adam", ylabel="loss (nats)", title="DPO's loss")
    axes[1].set(xlabel="margin", title="Margins after training (at the start: all 0)")
    axes[2].set(xlabel="π_ref exp(r/β) / Z", ylabel="policy", title="What was learnt")
    axes[0].legend()
    axes[1].legend()
    plt.show()


plot_dpo()

# %% [markdown]
# *What to see:* both start at $\log 2 = 0.69$ and end at the same loss and the same margins: the judge's own noise
# allows no better, and about three margins in four are positive. But the policies differ: on the right each lies
# close to *its* target $\pi_{\mathrm{ref}}\, e^{r/\beta} / Z$, although no reward was ever seen, only comparisons. The
# larger $\beta$, the closer to the reference.

# %% [markdown]
# ## 5c. Advantages in a group (2 points)
#
# Where an answer can be verified (a sum, a proof, a program with tests), its reward $r$ can be computed, and the policy
# can learn from its own answers. To know whether a reward is good *for this prompt*, GRPO draws a group of $G$ answers
# to each prompt and compares them with one another:
#
# $$A_g = \frac{r_g - \bar r}{\mathrm{std}(r)}, \qquad \bar r = \frac1G \sum_{g=1}^G r_g, \qquad
# \mathrm{std}(r) = \sqrt{\frac1G \sum_{g=1}^G (r_g - \bar r)^2} .$$
#
# The standard deviation divides by $G$, and nothing is added to it, so that the scale of the rewards does not matter at
# all. If all rewards of a group are equal, the group teaches nothing: its advantages are exactly 0.
#
# | symbol | code | shape |
# |---|---|---|
# | $r$ | `rewards` | (P, G): P prompts, G answers to each |
# | $A$ | return value | (P, G) |
#
# *What goes wrong:* the mean of seven times 0.1 is not quite 0.1 in floating point. A numerator of $10^{-17}$ over a
# standard deviation of $10^{-17}$ is an advantage of order 1, made of nothing.


# %% tags=["answer:5c"]
def grpo_advantages(rewards: Tensor) -> Tensor:
    """Advantages (P, G) of G answers to each of P prompts from their rewards (P, G)."""
    # BEGIN SOLUTION
    centred = rewards - rewards.mean(1, keepdim=True)
    std = centred.square().mean(1, keepdim=True).sqrt()
    equal = (rewards == rewards[:, :1]).all(1, keepdim=True)  # (P, 1); exact, where std is only nearly 0
    return (centred / std).masked_fill(equal, 0.0)
    # END SOLUTION


# %% tags=["check"]
check("5c")

# %% [markdown]
# ## 5d. The clipped objective (4 points)
#
# Drawing answers is expensive, so several gradient steps are taken on the same ones. After the first step the policy is
# no longer the one that drew them. Each token's **ratio** corrects for that, and **clipping** removes the incentive to
# go further than the ratio can be trusted. With $N$ answers $y_n$ of $|y_n|$ tokens,
#
# $$J = \frac1N \sum_{n=1}^N \frac1{|y_n|} \sum_{j=1}^{|y_n|} \Big\{ \min\big(\rho_{nj} A_n,\;
# \mathrm{clip}(\rho_{nj}, 1 - \varepsilon, 1 + \varepsilon)\, A_n\big) - \beta D_{nj} \Big\},$$
#
# $$\rho_{nj} = \frac{\pi_\theta(y_{nj} \mid \cdot)}{\pi_{\mathrm{old}}(y_{nj} \mid \cdot)}, \qquad
# D_{nj} = \frac{\pi_{\mathrm{ref}}(y_{nj} \mid \cdot)}{\pi_\theta(y_{nj} \mid \cdot)}
# - \log \frac{\pi_{\mathrm{ref}}(y_{nj} \mid \cdot)}{\pi_\theta(y_{nj} \mid \cdot)} - 1 .$$
#
# The dot stands for the prompt and the tokens before $j$. $D$ is never negative, and its mean over answers of the
# policy is $\mathrm{KL}(\pi_\theta \,\|\, \pi_{\mathrm{ref}})$. Return the **loss** $-J$, to be minimised.
#
# Gradients flow through $\pi_\theta$ alone, not through the old policy or the reference.
#
# | symbol | code | shape |
# |---|---|---|
# | $\log \pi_\theta(y_{nj} \mid \cdot)$ | `log_prob` | (N, T) |
# | $\log \pi_{\mathrm{old}}(y_{nj} \mid \cdot)$ | `old_log_prob` | (N, T) |
# | $\log \pi_{\mathrm{ref}}(y_{nj} \mid \cdot)$ | `ref_log_prob` | (N, T) |
# | $A_n$, one for all tokens of an answer | `advantages` | (N,) |
# | which tokens there are; at least one a row | `mask`, zeros and ones, float64 | (N, T) |
# | $\varepsilon$, $\beta$ | `clip_eps`, `beta` | numbers |
#
# Where `mask` is 0, the three log-probabilities are leftovers: finite numbers of any size, which must not matter,
# neither for the loss nor for its gradient.
#
# *What goes wrong:* just after the answers were drawn all ratios are 1, and many wrong formulas have the right
# gradient there. And a leftover whose exponential overflows is not removed by multiplying with 0 afterwards.


# %% tags=["answer:5d"]
def grpo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    ref_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_eps: float,
    beta: float,
) -> Tensor:
    """-J, a scalar, from log-probabilities (N, T) of tokens, advantages (N,) of answers and the mask (N, T)."""
    # BEGIN SOLUTION
    there = mask > 0
    log_ratio = torch.where(there, log_prob - old_log_prob.detach(), 0.0)  # before exp: leftovers may overflow
    ratio = log_ratio.exp()
    A = advantages[:, None]
    surrogate = torch.minimum(ratio * A, ratio.clamp(1 - clip_eps, 1 + clip_eps) * A)
    log_ref = torch.where(there, ref_log_prob.detach() - log_prob, 0.0)
    kl = log_ref.exp() - log_ref - 1
    per_answer = ((surrogate - beta * kl) * mask).sum(1) / mask.sum(1)  # (N,)
    return -per_answer.mean()
    # END SOLUTION


# %% tags=["check"]
check("5d")

# %% [markdown]
# **A look (needs 5d).** One token: the objective as the ratio grows, for an answer that was good and one that was bad.


# %%
def plot_clipping() -> None:
    ratio = torch.linspace(0.4, 1.8, 141, dtype=torch.float64)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    _, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharex=True)
    for ax, advantage in zip(axes, (1.0, -1.0), strict=True):
        for beta in (0.0, 1.0):
            objective = [-grpo_loss(r.log().view(1, 1), zero, zero, advantage * one[0], one, 0.2, beta) for r in ratio]
            ax.plot(ratio, objective, label=f"β = {beta:g}")
        ax.axvspan(0.8, 1.2, color="gray", alpha=0.15)
        ax.set(xlabel="ratio π / π_old (here π_old = π_ref)", title=f"advantage {advantage:+g}")
    axes[0].set(ylabel="objective J")
    axes[0].legend()
    plt.show()


plot_clipping()

# %% [markdown]
# *What to see:* for the good answer the blue line is flat to the right of the grey band: nothing is gained by raising
# its probability further. For the bad one it is flat to the left. On the other side the slope stays, so that a policy
# which has gone the wrong way is always pulled back. The KL term bends both down, away from the reference.

# %% [markdown]
# ## 5e. GRPO on a task that can be verified (4 points)
#
# The task: a prompt is three digits, the answer is the same digits in order, and the reward is 1 if all are right,
# else 0. The policy is tiny: given the prompt, the $T$ tokens of its answer are independent, with the logits
# `policy(theta, prompts)`, (N, T, V). So everything can be counted, the true expected reward too. (In the checks the
# policy, the reward, T and V are others: use the functions that you are given.)
#
# **`expected_reward`**: $\frac1P \sum_x \sum_y \pi_\theta(y \mid x)\, r(x, y)$, the sum running over all $V^T$ answers.
# Gradients must flow to `theta`.
#
# **`grpo_step`**: one round of learning. Draw $G$ answers to each prompt with `draw_tokens` (4c) from the uniform
# numbers `u`, reward them, compute the advantages within each prompt's group (5c), and take `inner` plain gradient
# steps on the **same** answers: each is $\theta \leftarrow \theta - \eta\, \nabla L$ with the loss of 5d, where
# $\pi_{\mathrm{old}}$ is the policy that drew the answers. Return the new `theta`, and the mean reward of the answers
# that were drawn.
#
# | symbol | code | shape |
# |---|---|---|
# | $\theta$, $\theta_{\mathrm{ref}}$ | `theta`, `theta_ref` | one tensor each, of any shape |
# | $x$ | `prompts` | (P, ...); repeat them along the first axis for groups |
# | $\pi_\theta$ | `policy(theta, prompts)` | logits (P, T, V) |
# | $r(x, y)$ | `reward(prompts, answers)`, answers (N, T) | (N,), float64 |
# | | `u` | (P, G, T) |
# | $\eta$, $\varepsilon$, $\beta$ | `learning_rate`, `clip_eps`, `beta` | numbers |
#
# *What goes wrong:* the answers of a group must stay together. If answers are laid out prompt by prompt for the rewards
# and draw by draw for the advantages, everything runs, and the policy learns from the wrong comparisons.


# %% tags=["answer:5e"]
def expected_reward(
    policy: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    prompts: Tensor,
    reward: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The exact mean reward, a scalar, of policy(theta, prompts), (P, T, V), over all answers and prompts (P, ...)."""
    # BEGIN SOLUTION
    log_p = policy(theta, prompts).log_softmax(-1)  # (P, T, V)
    P, T, V = log_p.shape
    total = torch.zeros(P, dtype=log_p.dtype, device=log_p.device)
    for answer in itertools.product(range(V), repeat=T):
        y = torch.tensor(answer, device=log_p.device).repeat(P, 1)  # (P, T)
        probability = log_p.gather(-1, y[..., None])[..., 0].sum(1).exp()  # (P,)
        total = total + probability * reward(prompts, y)
    return total.mean()
    # END SOLUTION


def grpo_step(
    policy: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    theta_ref: Tensor,
    prompts: Tensor,
    reward: Callable[[Tensor, Tensor], Tensor],
    u: Tensor,
    inner: int,
    learning_rate: float,
    clip_eps: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """New theta, and the mean reward of the answers drawn with u (P, G, T) from the policy at the old theta."""
    # BEGIN SOLUTION
    P, G, T = u.shape
    x = prompts.repeat_interleave(G, 0)  # (P G, ...): the answers of a group stand together

    def log_prob(parameters: Tensor, y: Tensor) -> Tensor:
        return policy(parameters, x).log_softmax(-1).gather(-1, y[..., None])[..., 0]  # (P G, T)

    with torch.no_grad():
        y = draw_tokens(policy(theta, x).softmax(-1), u.reshape(P * G, T))
        rewards = reward(x, y).view(P, G)
        advantages = grpo_advantages(rewards).flatten()
        old, ref = log_prob(theta, y), log_prob(theta_ref, y)
    for _ in range(inner):
        theta = theta.detach().requires_grad_()
        loss = grpo_loss(log_prob(theta, y), old, ref, advantages, torch.ones_like(old), clip_eps, beta)
        theta = theta - learning_rate * torch.autograd.grad(loss, theta)[0]
    return theta.detach(), rewards.mean()
    # END SOLUTION


# %% tags=["check"]
check("5e")

# %% [markdown]
# **A look (needs 4c and 5c to 5e).** Sorting three digits from 0 to 3: 64 prompts, 64 possible answers to each. The
# policy is a network with one hidden layer, so that what it learns on one prompt helps with others.


# %%
def sorting_policy(theta: Tensor, prompts: Tensor) -> Tensor:
    """Logits (N, 3, 4) of a network with 48 hidden units, its weights laid out in theta (1212,)."""
    first, bias, second = theta.split([12 * 48, 48, 48 * 12 + 12])
    x = torch.nn.functional.one_hot(prompts, 4).to(theta.dtype).flatten(1)  # (N, 12)
    h = torch.tanh(x @ first.view(12, 48) + bias)
    return (h @ second[:-12].view(48, 12) + second[-12:]).view(-1, 3, 4)


def sorted_reward(prompts: Tensor, answers: Tensor) -> Tensor:
    return (answers == prompts.sort(-1).values).all(-1).double()


def plot_grpo() -> None:
    prompts = torch.tensor(list(itertools.product(range(4), repeat=3)))  # (64, 3); so small that a GPU would be slower
    start = 0.5 * torch.randn(1212, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plt.figure(figsize=(6.5, 3.8))
    for group, inner, beta in ((16, 3, 0.0), (16, 1, 0.0), (16, 1, 0.1), (4, 3, 0.0)):
        g = torch.Generator().manual_seed(1)
        theta, curve = start, []
        for _ in range(160):
            curve.append(float(expected_reward(sorting_policy, theta.detach(), prompts, sorted_reward)))
            u = torch.rand(64, group, 3, generator=g, dtype=torch.float64)
            theta, _ = grpo_step(sorting_policy, theta, start, prompts, sorted_reward, u, inner, 2.0, 0.2, beta)
        plt.plot(curve, label=f"{group} answers, {inner} gradient steps, β = {beta:g}")
    plt.ylim(0, 1.5)
    plt.xlabel("rounds")
    plt.ylabel("exact expected reward")
    plt.legend(loc="upper left")
    plt.title("Learning to sort from right and wrong alone")
    plt.show()


plot_grpo()

# %% [markdown]
# *What to see:* chance sorts one prompt in 64, so at first few groups hold a right answer, and most advantages are 0.
# With 16 answers to each prompt and three gradient steps on them, nearly all prompts are solved in the end. With one
# step the same answers teach about a third as much. Groups of 4 cost a quarter, and often hold no right answer. With
# $\beta > 0$ the way from the start costs something, and the curve stays lower. Try $\beta = 0.05$ *with* three steps:
# all goes well for dozens of rounds, then one of them carries the policy far from the reference, where $D$ and its
# gradient grow without limit, and everything is lost. (In large models, small learning rates and a cap on the
# gradient's norm guard against that.)

# %% [markdown]
# ## 5f. The policy behind the loss (6 points, written)
#
# For one prompt $x$ (we leave it out), answers $y$ from a finite set, a reference $\pi_{\mathrm{ref}}(y) > 0$, a reward
# $r(y)$ and $\beta > 0$, let
#
# $$F(\pi) = \mathbb E_{y \sim \pi}[r(y)] - \beta\, \mathrm{KL}(\pi \,\|\, \pi_{\mathrm{ref}}), \qquad
# Z = \sum_y \pi_{\mathrm{ref}}(y)\, e^{r(y) / \beta} .$$
#
# 1. Show that $F(\pi) = \beta \log Z - \beta\, \mathrm{KL}(\pi \,\|\, \pi^*)$ with
#    $\pi^*(y) = \pi_{\mathrm{ref}}(y)\, e^{r(y)/\beta} / Z$, and conclude which policy is best and how good it is.
# 2. What is $\pi^*$ in the limits $\beta \to \infty$ and $\beta \to 0$? And what could the reward do for an answer to
#    which the reference gave the probability 0?
# 3. Express $r$ by $\pi^*$, $\pi_{\mathrm{ref}}$ and $Z$. Suppose that preferences follow Bradley and Terry,
#    $P(y_w \text{ beats } y_l) = \sigma\big(r(y_w) - r(y_l)\big)$. Show how maximum likelihood for the comparisons
#    becomes DPO's loss (5b), and why $Z$, which nobody can compute, does not matter.
# 4. The gradient of one pair's loss is
#    $-\beta\, \sigma(-\Delta)\, \nabla \big(\log \pi_\theta(y_w) - \log \pi_\theta(y_l)\big)$. Derive it, and say in a
#    sentence what the factor $\sigma(-\Delta)$ does.

# %% [markdown] tags=["written:5f", "points:6"]
# <!-- BEGIN SOLUTION -->
# **1.** By the definition of $\pi^*$, $r(y) = \beta \log \frac{\pi^*(y)}{\pi_{\mathrm{ref}}(y)} + \beta \log Z$. So
#
# $$F(\pi) = \sum_y \pi(y) \Big[ r(y) - \beta \log \frac{\pi(y)}{\pi_{\mathrm{ref}}(y)} \Big]
# = \sum_y \pi(y) \Big[ \beta \log Z + \beta \log \frac{\pi^*(y)}{\pi_{\mathrm{ref}}(y)}
# - \beta \log \frac{\pi(y)}{\pi_{\mathrm{ref}}(y)} \Big]
# = \beta \log Z - \beta\, \mathrm{KL}(\pi \,\|\, \pi^*) .$$
#
# $\pi^*$ is a distribution (positive, sums to 1 by the choice of $Z$), and a KL divergence is not negative and 0 only
# between equal distributions: the maximum is $\beta \log Z$, reached by $\pi^*$ alone.
#
# **2.** $\beta \to \infty$: $e^{r/\beta} \to 1$, so $\pi^* \to \pi_{\mathrm{ref}}$. $\beta \to 0$: the answers with
# the largest reward outweigh all others; $\pi^*$ tends to $\pi_{\mathrm{ref}}$ restricted to them and renormalised.
# An answer with $\pi_{\mathrm{ref}}(y) = 0$ would have $\pi^*(y) = 0$ at any reward: post-training of this kind
# re-weighs what the reference can say (here all answers are possible, but many have next to no probability).
#
# **3.** $r(y) = \beta \log \frac{\pi^*(y)}{\pi_{\mathrm{ref}}(y)} + \beta \log Z$. In the difference of two
# rewards for the same prompt $\beta \log Z$ cancels, since $Z$ depends on the prompt only:
#
# $$P(y_w \text{ beats } y_l) = \sigma\Big( \beta \log \frac{\pi^*(y_w)}{\pi_{\mathrm{ref}}(y_w)}
# - \beta \log \frac{\pi^*(y_l)}{\pi_{\mathrm{ref}}(y_l)} \Big) .$$
#
# Put the policy $\pi_\theta$ in the place of $\pi^*$: every policy stands for the reward (up to a constant for each
# prompt) for which it would be best. The negative mean log-likelihood of the observed comparisons is then
# $-\frac1N \sum_n \log \sigma(\Delta_n)$, the loss of 5b: fitting the policy is fitting the reward.
#
# **4.** $\frac{d}{d\Delta} \log \sigma(\Delta) = 1 - \sigma(\Delta) = \sigma(-\Delta)$, and
# $\nabla \Delta = \beta \nabla (\log \pi_\theta(y_w) - \log \pi_\theta(y_l))$, as the reference is a constant. The
# chain rule gives the claim. The factor is near 1 for pairs that the policy gets wrong, and near 0 for pairs that it
# has right by a wide margin, which then no longer matter.
#
# Rubric:
# - 2 points: part 1 (1 for the identity, 1 for the conclusion by the KL's sign, with uniqueness and the value)
# - 1 point: part 2 (both limits; half for what the reference rules out)
# - 2 points: part 3 (1 for the reward and the cancelling of $Z$, 1 for likelihood to loss)
# - 1 point: part 4 (the derivative, and what the factor does)
# <!-- END SOLUTION -->

# %% [markdown]
# # 6. Provenance (6 points)
#
# Was this text written by a machine? For a model of one's own the question can be answered, if its sampler leaves a
# **watermark**: a bias that no reader sees and anyone with the key can count.
#
# Before each token, the one before it (the **context**) and a secret key decide which part of the vocabulary is
# *green*. The sampler prefers green tokens a little. A person who writes without the key hits green by chance, with
# probability $\gamma$ each time.
#
# | symbol | code | what |
# |---|---|---|
# | $V$ | `vocab_size` | tokens are 0 to V-1 |
# | $\gamma$ | `gamma` | share of green tokens; $\gamma V$ is a whole number here |
# | $\delta$ | `delta` | what is added to a green token's logit |
# | $\kappa$ | `key` | the secret, a whole number from 0 to $2^{31}$ |

# %% [markdown]
# ## 6a. Green tokens (3 points)
#
# The list must look random and be the same on every machine, years later: so no random generator, but a **hash**, in
# whole numbers of 32 bits. `mix` below is given; it scrambles a number so that each bit of the result depends on all
# bits of the input, and different numbers (of 32 bits) stay different. With it,
#
# $$h(c, v) = \mathrm{mix}\big(\mathrm{mix}(c + \kappa) + v\big)$$
#
# is the hash of the token $v$ after the context $c$. **Green are the $\gamma V$ tokens with the smallest $h(c, v)$.**
# No two of them tie.
#
# * `green_list` returns which tokens are green after each of B contexts.
# * `watermark_logits` returns logits with which the next token is to be sampled: those of the green tokens raised by
#   $\delta$. A token that is ruled out by a logit of $-\infty$ stays ruled out.
#
# | symbol | code | shape |
# |---|---|---|
# | $c$, the token before | `prev`, int64 | (B,) |
# | | `logits` | (B, V) |
# | green or not | return value of `green_list`, bool | (B, V) |
#
# *What goes wrong:* the order of a list and the places in an order are two different things: `argsort` names the
# tokens from the smallest to the largest hash, which is not yet the rank of each token.


# %%
def mix(h: Tensor) -> Tensor:
    """Scramble whole numbers, int64 in and out; only the last 32 bits count."""
    h = h & 0xFFFFFFFF
    for _ in range(2):
        h = ((h ^ (h >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return h ^ (h >> 16)


# %% tags=["answer:6a"]
def green_list(prev: Tensor, vocab_size: int, key: int, gamma: float) -> Tensor:
    """Which tokens are green, bool (B, V), after each of the contexts prev (B,)."""
    # BEGIN SOLUTION
    v = torch.arange(vocab_size, device=prev.device)
    h = mix(mix(prev + key)[:, None] + v)  # (B, V)
    rank = h.argsort(-1).argsort(-1)
    return rank < round(gamma * vocab_size)
    # END SOLUTION


def watermark_logits(logits: Tensor, prev: Tensor, key: int, gamma: float, delta: float) -> Tensor:
    """Logits (B, V) to sample from after the contexts prev (B,), with the green tokens preferred by delta."""
    # BEGIN SOLUTION
    return logits + delta * green_list(prev, logits.shape[-1], key, gamma)
    # END SOLUTION


# %% tags=["check"]
check("6a")

# %% [markdown]
# ## 6b. The detector (3 points)
#
# Given a text and the key, look at each token with the one before it. Without the watermark each **pair** is green with
# probability $\gamma$, independently for different pairs; a pair that comes back is green again with certainty and
# tells nothing new. So count **distinct** pairs (context, token): $n$ of them, of which $g$ are green. Then
#
# $$z = \frac{g - \gamma n}{\sqrt{n\, \gamma (1 - \gamma)}}, \qquad
# p = P(N(0, 1) \ge z) = \tfrac12\, \mathrm{erfc}\Big(\frac{z}{\sqrt2}\Big), \qquad
# \mathrm{erfc}(a) = 1 - \mathrm{erf}(a) = \frac2{\sqrt\pi} \int_a^\infty e^{-b^2} db .$$
#
# $p$ is about the chance that a text without the watermark looks as green as this one. An accusation hangs on it, so it
# has to be right far out: $p = 10^{-80}$ is not 0.
#
# | symbol | code | shape |
# |---|---|---|
# | the text | `tokens`, int64 | (T,), T ≥ 2 |
# | $n$, $z$, $p$ | the three return values, in this order | numbers |
#
# *What goes wrong:* a poem with a refrain, or a table of zeros, looks like strong evidence to whoever counts every
# occurrence.


# %% tags=["answer:6b"]
def detect(tokens: Tensor, vocab_size: int, key: int, gamma: float) -> tuple[int, float, float]:
    """Number of distinct pairs n, z-score and p-value of a text, tokens (T,)."""
    # BEGIN SOLUTION
    pairs = torch.stack([tokens[:-1], tokens[1:]], 1).unique(dim=0)  # (n, 2)
    green = green_list(pairs[:, 0], vocab_size, key, gamma).gather(1, pairs[:, 1:])  # (n, 1)
    n, g = len(pairs), int(green.sum())
    z = (g - gamma * n) / math.sqrt(n * gamma * (1 - gamma))
    return n, z, 0.5 * math.erfc(z / math.sqrt(2))
    # END SOLUTION


# %% tags=["check"]
check("6b")

# %% [markdown]
# **A look (needs 6a and 6b).** Texts of a random "language" over 256 tokens, in which each token depends on the one
# before, with the watermark and without.


# %%
def write_texts(n: int, length: int, delta: float, seed: int) -> Tensor:
    """Texts (n, length) from a table of logits, with green tokens preferred by delta."""
    g = torch.Generator().manual_seed(seed)
    table = 2 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    texts = torch.randint(256, (n, 1), generator=g)
    for _ in range(length - 1):
        p = watermark_logits(table[texts[:, -1]], texts[:, -1], 2024, 0.25, delta).softmax(-1)
        texts = torch.cat([texts, torch.multinomial(p, 1, generator=g)], 1)
    return texts


def plot_detector() -> None:
    lengths = (20, 60, 200)
    _, axes = plt.subplots(1, 3, figsize=(13, 3.5), sharex=True)
    grid, edges = torch.linspace(-4, 4, 200), torch.linspace(-5, 20, 51).tolist()
    for ax, length in zip(axes, lengths, strict=True):
        for delta, colour in ((0.0, "gray"), (1.0, "tab:orange"), (2.0, "tab:green")):
            z = [detect(text, 256, 2024, 0.25)[1] for text in write_texts(100, length, delta, seed=length)]
            caught = sum(s > 4 for s in z) / len(z)
            ax.hist(z, bins=edges, density=True, alpha=0.6, color=colour, label=f"δ = {delta:g}: {caught:.0%} above 4")
        ax.plot(grid, (-0.5 * grid**2).exp() / math.sqrt(2 * math.pi), "k--", linewidth=1)
        ax.axvline(4, color="black", linewidth=0.8)
        ax.set(xlabel="z", title=f"{length} tokens")
        ax.legend()
    plt.show()


plot_detector()

# %% [markdown]
# *What to see:* without the watermark the scores follow the dashed normal density at any length, and none is above 4,
# which happens once in 30,000 texts. With it they move right like $\sqrt n$: at 20 tokens even $\delta = 2$ is
# found only every other time, at 200 there is no doubt. The line at 4 trades missed texts for false accusations.

# %% [markdown]
# # Submit
#
# Restart the kernel, run everything from the top, **save the notebook**, then run the cell below. It names every answer
# that is missing and writes the zip that you hand in.

# %% tags=["submit"]
submit()
