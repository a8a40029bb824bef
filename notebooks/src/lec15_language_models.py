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
# # A15. Language models: how does predicting the next token, and nothing else, give a model that writes?
#
# A language model has a single skill: given the beginning of a text, it says how likely each next token is. This notebook
# shows why that skill is enough. We turn text into tokens, derive the loss, build attention from a look-up in a
# dictionary, train a small GPT for about a minute, look inside it, and let it write. Then we break it in three ways.
#
# Read beside it: the modules [`language/tokenizer.py`](../genmodels/language/tokenizer.py),
# [`nets/transformer.py`](../genmodels/nets/transformer.py), [`language/gpt.py`](../genmodels/language/gpt.py) and
# [`language/sampling.py`](../genmodels/language/sampling.py). Papers:
# [Sennrich, Haddow and Birch 2016](https://arxiv.org/abs/1508.07909) for byte-pair encoding,
# [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762) for attention,
# [Radford et al. 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)
# for GPT-2, [Holtzman et al. 2019](https://arxiv.org/abs/1904.09751) for sampling. Do it yourself:
# [problem set 4, questions 1a to 3d](../problem_sets/ps4/ps4.ipynb).

# %%
import itertools
import lzma
import math
import re
import time
from collections import Counter

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import data as datasets
from genmodels.evaluation.text import ngram_log_probs, ngram_loss, window_loss
from genmodels.language import sampling, tokenizer
from genmodels.language.gpt import GPT
from genmodels.language.tokenizer import BytePairTokenizer
from genmodels.nets import transformer
from genmodels.nets.transformer import Attention, Block, Transformer
from genmodels.notebook import Sizes, show, source
from genmodels.plotting import curves
from genmodels.runs import plan, train
from genmodels.training import Trainer

device = "cuda" if torch.cuda.is_available() else "cpu"
pick = Sizes(large=device == "cuda")  # the one switch: a larger model and longer training where a GPU is there
torch.manual_seed(0)
INK, BLUE, RED, GREY = "#22223b", "#2a6f97", "#e07a5f", "#9a9a9a"

# %% [markdown]
# ## 1. A text is a chain of choices
#
# Write a text as tokens $x_0, x_1, \dots, x_L$, each one of $V$ possible signs. Here a token is a character (section 3
# has something better). The **product rule** of probability, $p(a, b) = p(a)\, p(b \mid a)$, used again and again, gives
# the **chain rule**
#
# $$p(x_1, \dots, x_L \mid x_0) = \prod_{i=1}^{L} p(x_i \mid x_0, \dots, x_{i-1}). \tag{1}$$
#
# Nothing is assumed or approximated. A model $p_\theta$ with parameters $\theta$ gives each factor as a softmax: from
# the **context** $x_{<i} = (x_0, \dots, x_{i-1})$ a network computes one number per token, the **logits**
# $l_i \in \mathbb R^V$, and
#
# $$p_\theta(x_i = v \mid x_{<i}) = \frac{e^{l_{iv}}}{\sum_w e^{l_{iw}}}. \tag{2}$$
#
# Two consequences, and the first answers half of our question.
#
# * **Writing is free.** Draw $x_1$ from $p_\theta(\cdot \mid x_0)$, then $x_2$ from $p_\theta(\cdot \mid x_0, x_1)$, and so
#   on. By (1) the whole text is then a draw from the model's distribution over texts. A model whose every next-token
#   distribution is right *is* a model of texts that is right; there is nothing else to learn.
# * **No normalising constant.** Each factor sums to 1 over $x_i$, so the product sums to 1 over all texts: sum over $x_L$
#   first, which leaves 1, then over $x_{L-1}$, and so on.
#
# | symbol | meaning | code | shape |
# |---|---|---|---|
# | $x_0, \dots, x_L$ | a piece of text, as token ids | `x` | (B, L + 1) |
# | $V$ | number of different tokens | `vocab_size` | |
# | $l_i$ | logits of the token at place $i$ | `model(x[:, :-1])[:, i - 1]` | (B, L, V) in all |
# | $\log p_\theta(x_{1:L} \mid x_0)$ | log-probability of the piece | `model.log_prob(x)` | (B,) |
#
# A check with a small, untrained GPT that knows three tokens: all $3^5$ continuations of a token together have the
# probability 1.

# %%
tiny = GPT(vocab_size=3, context=5, num_layers=2, num_heads=2, width=16)
continuations = torch.tensor(list(itertools.product(range(3), repeat=5)))  # (243, 5)
texts = torch.cat([torch.zeros(len(continuations), 1, dtype=torch.long), continuations], dim=1)  # x_0 = 0
with torch.no_grad():
    print(f"{len(texts)} texts, total probability {float(tiny.log_prob(texts).double().exp().sum()):.6f}")

# %%
source(GPT.log_prob, "logits =", "return")

# %% [markdown]
# Our text is the language reference that every Python carries (about 460,000 characters, so the figures below change a
# little with Python's version). The last tenth is held out.

# %%
text = datasets.load("text")
vocab, V = text.vocab, len(text.vocab)
index = {c: i for i, c in enumerate(vocab)}


def encode(s: str) -> Tensor:
    """Characters to ids, (1, L), on the device."""
    return torch.tensor([[index[c] for c in s]], device=device)


def decode(ids: Tensor) -> str:
    return datasets.decode_text(ids.tolist(), vocab)


train_text, test_text = decode(text.train), decode(text.test)
print(f"{len(train_text):,} characters to train on, {len(test_text):,} held out, V = {V} different ones\n")
print(train_text[20_000:20_420])

# %% [markdown]
# ## 2. The loss, and what it can reach
#
# Let $p$ be the distribution that texts really come from. **Maximum likelihood** asks for the parameters that make the
# training text most probable, that is, that minimise the average of $-\log p_\theta(x)$. For much text the average is
# an expectation, the **cross-entropy** of $p$ and $p_\theta$. Add and subtract $\log p(x)$:
#
# $$\mathbb E_{x \sim p}[-\log p_\theta(x)]
# = \underbrace{\mathbb E_p[-\log p(x)]}_{\text{entropy } H(p)}
# + \underbrace{\mathbb E_p\Big[\log \frac{p(x)}{p_\theta(x)}\Big]}_{\mathrm{KL}(p \,\|\, p_\theta)}. \tag{3}$$
#
# The entropy does not depend on $\theta$. The KL divergence is never negative, by **Jensen's inequality** for the concave
# logarithm: $-\mathrm{KL} = \mathbb E_p[\log (p_\theta / p)] \le \log \mathbb E_p[p_\theta / p] = \log \sum_x p_\theta(x)
# \le 0$, with equality only for $p_\theta = p$. So *maximum likelihood, least cross-entropy and least KL are the same
# thing*, and the loss does not go to 0: its floor is the entropy of text, what nobody could know beforehand.
#
# With the chain rule (1) the loss per token is
#
# $$\mathcal L(\theta) = -\frac1L \sum_{i=1}^{L} \log p_\theta(x_i \mid x_{<i}). \tag{4}$$
#
# What does a step on it do? From (2), $-\log p_\theta(x_i \mid x_{<i}) = -l_{i x_i} + \log \sum_w e^{l_{iw}}$, hence
#
# $$\frac{\partial}{\partial l_{iv}} \big(-\log p_\theta(x_i \mid x_{<i})\big) = p_\theta(v \mid x_{<i}) - [v = x_i], \tag{5}$$
#
# where $[\cdot]$ is 1 if the statement holds, else 0. The logit of the token that came is pushed up, all others are
# pushed down in proportion to their probability. Averaged over the occurrences of a context, the push vanishes exactly
# when the model's probabilities are the frequencies with which tokens follow it.

# %%
source(GPT.loss, "logits =", "return")

# %%
logits, came = torch.randn(V, requires_grad=True), torch.tensor(7)
(by_autograd,) = torch.autograd.grad(F.cross_entropy(logits, came), logits)
by_equation_5 = logits.detach().softmax(0) - F.one_hot(came, V)
print(f"largest difference between autograd and equation (5): {float((by_autograd - by_equation_5).abs().max()):.0e}")

# %% [markdown]
# **Units.** $\mathcal L$ is in nats per token. $\mathcal L / \log 2$ is in bits per token, the length of the code that an
# ideal compressor built on the model would write (a token of probability $q$ costs $-\log_2 q$ bits), so a language model
# *is* a compressor of text. The **perplexity** $e^{\mathcal L}$ is the number of equally likely tokens that would be as
# hard to guess: a fair die with $V$ sides has $\mathcal L = \log V$ and perplexity $V$.
#
# **What counting reaches.** A model that looks at $n - 1$ tokens of context needs no network: count what follows them.
# These **n-gram** models are the lines that a network has to beat. One general compressor (`xz`, which may read the
# training text first) joins them.

# %%
orders = {"unigram": 1, "bigram": 2, "trigram": 3, "5-gram": 5}
lines = {"uniform": math.log(V)} | {name: ngram_loss(text.train, text.test, V, n) for name, n in orders.items()}
both, alone = (len(lzma.compress(s.encode())) for s in (train_text + test_text, train_text))
lines["xz"] = 8 * (both - alone) / len(test_text) * math.log(2)
print("held-out text     nats/char   bits/char   perplexity")
for name, nats in lines.items():
    print(f"{name:16s} {nats:8.2f} {nats / math.log(2):11.2f} {math.exp(nats):12.1f}")

# %% [markdown]
# This manual repeats itself, which suits counting: five characters of context already do well. But a table for 20
# characters of context would have $94^{20}$ rows, nearly all of them empty. The network that follows has one set of
# weights for all contexts, and so it can say something about a context that it has never seen.

# %% [markdown]
# ## 3. Tokens: byte-pair encoding
#
# Characters make long texts; words make endless vocabularies, and a word that training never showed cannot be written at
# all. **Byte-pair encoding** lies between. Begin with the 256 bytes, with which anything can be written. Then repeat:
# find the pair of neighbouring tokens that is most frequent, and make it a new token. Pairs are counted inside *pieces*
# (a word with the space before it, a number, punctuation), so that no token spans two words. A tie goes to the pair with
# the smaller ids.
#
# Here it is on eleven words. Bars separate tokens, `_` is a space.

# %%
little = "low low lower lowest new newer newest slow slower slowest slowly"
pieces = re.findall(r" ?\S+", little)
print("tokens  next merge")
for k in range(9):
    learned = BytePairTokenizer.train(little, 256 + k)  # the first k merges
    split = [learned.encode(piece) for piece in pieces]
    pairs = Counter(pair for ids in split for pair in itertools.pairwise(ids))
    (a, b), count = min(pairs.items(), key=lambda item: (-item[1], item[0]))  # most frequent; then the smaller ids
    said = f"{learned.decode([a])} + {learned.decode([b])}, {count} times".replace(" +", "+").replace("+", " +")
    shown = " ".join("|".join(learned.decode([i]) for i in ids).replace(" ", "_") for ids in split)
    print(f"{sum(map(len, split)):6d}  {said.replace('  ', '_ ') if a == 32 else said:20s}  {shown}")

# %% [markdown]
# The method knows nothing of grammar: it finds `low`, and also `lowe`, which is no part of any word, because `e` comes
# often after `low`. To **encode** a new text, the merges are replayed in the order in which they were learnt. In the
# module, the loop of training takes the best pair from a heap and recounts only the pieces that hold it; `merge` does the
# replacing in both.

# %%
source(tokenizer.learn_merges, "new = 256", "word = merge")

# %%
source(BytePairTokenizer._encode_piece, "ids, merges", "return")

# %% [markdown]
# More merges, fewer tokens. But each token now carries more, so it is harder to guess: **perplexities of models with
# different tokens can't be compared**. What can be compared is the cost of the same text:
#
# $$\text{bits per character} = \frac{\mathcal L}{\log 2} \cdot \frac{\text{number of tokens}}{\text{number of characters}}.
# \tag{6}$$
#
# A bigram model (which guesses a token from the one before it) shows the difference.

# %%
sizes = pick((256, 512, 1024, 2048, 4096), large=(256, 512, 1024, 2048, 4096, 8192), smoke=(256, 512))
per_token, perplexity, bits = [], [], []
for size in sizes:
    learned = BytePairTokenizer.train(train_text, size)
    ids = [torch.tensor(learned.encode(s)) for s in (train_text, test_text)]
    nats = ngram_loss(*ids, size, 2)
    per_token.append(len(test_text) / len(ids[1]))
    perplexity.append(math.exp(nats))
    bits.append(nats / math.log(2) / per_token[-1])
figure = Figure(figsize=(9, 2.6))
for axes, values, label in zip(
    figure.subplots(1, 3),
    (per_token, perplexity, bits),
    ("characters per token", "bigram: perplexity per token", "bigram: bits per character"),
    strict=True,
):
    axes.plot(sizes, values, "o-", color=BLUE, ms=4)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="vocabulary", ylim=(0, 1.1 * max(values)))
    axes.set_title(label, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
figure.tight_layout()
show(
    figure,
    "On held-out text. Each doubling of the vocabulary shortens the text, by less every time. The perplexity (middle) "
    "goes up as if the model got worse, while the same model's cost per character (right) goes down: two long tokens "
    "show more of the context than two characters.",
)

# %%
print("|".join(learned.decode([i]) for i in learned.encode("The generator yields a value; zyxwv is no word.")))

# %% [markdown]
# Common words have become one token; a word that was never seen falls back to pieces, at worst to its bytes. Below we
# stay with characters: a vocabulary of 94 keeps the model small enough to train while you wait.
#
# ## 4. Attention
#
# ### A soft dictionary
#
# The network must carry information from earlier places to the present one, and *which* places matter depends on the
# text. Think of a dictionary with keys $k_j$ and values $v_j$: for a query $q$ it returns the value whose key equals $q$.
# To make that differentiable, ask "how similar?" instead of "equal?", and return a weighted average. With the inner
# product as similarity and a softmax to make weights:
#
# $$a_j = \frac{e^{s_j}}{\sum_m e^{s_m}}, \qquad s_j \propto q^\top k_j, \qquad \text{output} = \sum_j a_j v_j. \tag{7}$$
#
# Query, key and value are three linear maps of the vector $h_i \in \mathbb R^d$ that the network holds at each place:
# $q_i = W_q h_i$ is what place $i$ looks for, $k_j = W_k h_j$ what place $j$ offers to be found by, $v_j = W_v h_j$ what it
# then hands over.
#
# ### Why $1/\sqrt{d_h}$
#
# Let $q$ and $k$ have $d_h$ components, independent, with mean 0 and variance 1 (which is what norms and the initial
# weights aim at). Then each product $q_c k_c$ has mean $\mathbb E[q_c]\, \mathbb E[k_c] = 0$ and variance
# $\mathbb E[q_c^2]\, \mathbb E[k_c^2] = 1$, and the variances of independent terms add up:
#
# $$\mathbb E[q^\top k] = 0, \qquad \mathrm{Var}[q^\top k] = \sum_{c=1}^{d_h} \mathbb E[q_c^2]\, \mathbb E[k_c^2] = d_h. \tag{8}$$
#
# Scores of size $\sqrt{d_h}$ are too large: the softmax then gives nearly all weight to one key before anything has been
# learnt. Worse, it stops learning. Its derivative is
#
# $$\frac{\partial a_j}{\partial s_m} = a_j\,([j = m] - a_m), \tag{9}$$
#
# which is 0 everywhere as soon as one weight is 1 and the others are 0. Dividing by $\sqrt{d_h}$ gives scores of variance 1
# whatever the width.

# %%
widths = (1, 4, 16, 64, 256, 1024)
repeats, keys = pick(2000, large=20_000, smoke=200), 64
effective, slope = {"plain": [], "scaled": []}, {"plain": [], "scaled": []}
for d_h in widths:
    q, k = torch.randn(repeats, 1, d_h), torch.randn(repeats, keys if d_h < 1024 else 16, d_h)
    s = (q * k).sum(-1)  # (repeats, keys)
    print(f"d_h = {d_h:4d}: variance of the scores {float(s.var()):7.1f}")
    for name, scores in (("plain", s), ("scaled", s / math.sqrt(d_h))):
        a = scores.softmax(-1)
        effective[name].append(float(torch.special.entr(a).sum(-1).exp().mean()) / a.shape[1])
        slope[name].append(float((a * (1 - a)).sum(-1).mean()))  # the diagonal of equation (9), summed

figure = Figure(figsize=(7.4, 2.7))
left, right = figure.subplots(1, 2)
for name, colour in (("plain", RED), ("scaled", BLUE)):
    left.plot(widths, effective[name], "o-", color=colour, ms=4, label=name)
    right.plot(widths, slope[name], "o-", color=colour, ms=4, label=name)
for axes, title in ((left, "share of keys that count, $e^{H(a)} / 64$"), (right, "slope, $\\sum_j a_j (1 - a_j)$")):
    axes.set_xscale("log", base=2)
    axes.set(xlabel="width $d_h$ of a key", ylim=(0, 1.05))
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
left.legend(frameon=False, fontsize=8)
figure.tight_layout()
show(
    figure,
    "Random queries on 64 random keys. With plain inner products, wide keys make attention hard (left: a few per cent "
    "of the keys get all the weight) and flat (right: the derivative fades). Divided by $\\sqrt{d_h}$, both "
    "settle at values that do not depend on the width.",
)
