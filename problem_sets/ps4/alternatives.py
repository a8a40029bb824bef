"""Other right answers to problem set 4: each must earn full marks at every seed.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autograder.authoring import alternative

# 1a. Learning the merges


@alternative("1a", "recursion")
def merge_pair(ids, a, b, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == (a, b):
            return [*ids[:i], new, *merge_pair(ids[i + 2 :], a, b, new)]
    return list(ids)


@alternative("1a", "text of code points in place of lists, and str.replace")
def merge_pair(ids, a, b, new):
    return [ord(c) for c in "".join(map(chr, ids)).replace(chr(a) + chr(b), chr(new))]


@alternative("1a", "counts that are kept up to date")
def learn_merges(pieces, count):
    words = [list(piece.encode("utf-8")) for piece in pieces]
    counts = defaultdict(int)
    for word, n in zip(words, pieces.values()):
        for pair in pairwise(word):
            counts[pair] += n
    merges = []
    for i in range(count):
        live = sorted((-n, pair) for pair, n in counts.items() if n > 0)
        if not live:
            break
        pair = live[0][1]
        for w, (word, n) in enumerate(zip(words, pieces.values())):
            if pair in pairwise(word):
                for p in pairwise(word):
                    counts[p] -= n
                words[w] = merge_pair(word, *pair, 256 + i)
                for p in pairwise(words[w]):
                    counts[p] += n
        merges.append(pair)
    return merges


@alternative("1a", "every occurrence of a piece for itself, and lists for pairs")
def learn_merges(pieces, count):
    words = [tuple(piece.encode()) for piece, n in pieces.items() for _ in range(n)]
    merges = []
    while len(merges) < count:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            return merges
        most = max(counts.values())
        a, b = min(pair for pair, n in counts.items() if n == most)
        words = [tuple(merge_pair(list(word), a, b, len(merges) + 256)) for word in words]
        merges.append([a, b])
    return merges


# 1b. Encoding and decoding


@alternative("1b", "all merges in turn, on each piece")
def bpe_encode(text, merges):
    ids = []
    for piece in split_text(text):
        word = list(piece.encode())
        for i, (a, b) in enumerate(merges):
            word = merge_pair(word, a, b, 256 + i)
        ids.extend(word)
    return ids


@alternative("1b", "one place at a time, the lowest rank first, with a memory of pieces")
def bpe_encode(text, merges):
    rank = {(a, b): i for i, (a, b) in enumerate(merges)}
    known = {}
    for piece in split_text(text):
        if piece in known:
            continue
        word = list(piece.encode())
        while True:
            best = min(range(len(word) - 1), key=lambda i: rank.get((word[i], word[i + 1]), 10**9), default=None)
            if best is None or (word[best], word[best + 1]) not in rank:
                break
            word[best : best + 2] = [256 + rank[word[best], word[best + 1]]]
        known[piece] = word
    return [i for piece in split_text(text) for i in known[piece]]


@alternative("1b", "tokens taken apart, the newest merges first")
def bpe_decode(ids, merges):
    def spell(i):
        return [i] if i < 256 else spell(merges[i - 256][0]) + spell(merges[i - 256][1])

    return bytes(b for i in ids for b in spell(int(i))).decode(errors="replace")


@alternative("1b", "an incremental decoder")
def bpe_decode(ids, merges):
    import codecs

    words = {i: bytes([i]) for i in range(256)}
    for i, (a, b) in enumerate(merges):
        words[256 + i] = words[a] + words[b]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return "".join(decoder.decode(words[i]) for i in ids) + decoder.decode(b"", final=True)


# 2a. Causal attention


@alternative("2a", "a loop over the queries")
def causal_attention(q, k, v):
    L, T = q.shape[2], k.shape[2]
    rows = []
    for i in range(L):
        seen = T - L + i + 1
        scores = (q[:, :, i : i + 1] * k[:, :, :seen]).sum(-1) / q.shape[-1] ** 0.5
        rows.append((scores.softmax(-1)[..., None] * v[:, :, :seen]).sum(2))
    return torch.stack(rows, 2)


@alternative("2a", "torch's own attention with a mask")
def causal_attention(q, k, v):
    L, T = q.shape[2], k.shape[2]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(L, T, dtype=torch.bool).tril(T - L))


@alternative("2a", "a mask that is added, and a softmax by hand")
def causal_attention(q, k, v):
    L, T = q.shape[2], k.shape[2]
    later = torch.arange(T)[None] > torch.arange(T - L, T)[:, None]
    scores = torch.einsum("bhid,bhjd->bhij", q / math.sqrt(q.shape[-1]), k) + torch.where(later, -1e30, 0.0)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return torch.einsum("bhij,bhjd->bhid", weights / weights.sum(-1, keepdim=True), v)


@alternative("2a", "a loop over the heads")
def attention(x, w, num_heads, past=None):
    d = x.shape[-1]
    q, k, v = (x @ w["attention.qkv.weight"].T + w["attention.qkv.bias"]).split(d, -1)
    heads, keys, values = [], [], []
    for h in range(num_heads):
        own = slice(h * d // num_heads, (h + 1) * d // num_heads)
        k_h, v_h = k[:, None, :, own], v[:, None, :, own]
        if past is not None:
            k_h, v_h = torch.cat([past[0, :, h : h + 1], k_h], 2), torch.cat([past[1, :, h : h + 1], v_h], 2)
        heads.append(causal_attention(q[:, None, :, own], k_h, v_h)[:, 0])
        keys.append(k_h[:, 0])
        values.append(v_h[:, 0])
    y = torch.cat(heads, -1) @ w["attention.out.weight"].T + w["attention.out.bias"]
    return y, torch.stack([torch.stack(keys, 1), torch.stack(values, 1)])


# 2b. A transformer block


@alternative("2b", "layer norm by hand")
def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight + bias


@alternative("2b", "layer norm by the second moment")
def layer_norm(x, weight, bias):
    mean, second = x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(second - mean**2 + 1e-5) * weight + bias


@alternative("2b", "GELU by the sigmoid")
def gelu(x):
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


@alternative("2b", "GELU from torch.nn")
def gelu(x):
    return nn.GELU(approximate="tanh")(x)


@alternative("2b", "matrix products, in place on what is the block's own")
def transformer_block(x, w, num_heads, past=None):
    h, kv = attention(layer_norm(x, w["norm_1.weight"], w["norm_1.bias"]), w, num_heads, past)
    h = h.clone()
    h += x
    inner = layer_norm(h, w["norm_2.weight"], w["norm_2.bias"]) @ w["up.weight"].T + w["up.bias"]
    h += gelu(inner) @ w["down.weight"].T
    return h.add_(w["down.bias"]), kv


# 2c. The loss


@alternative("2c", "torch's cross-entropy")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], ignore_index=ignore)


@alternative("2c", "a loop")
def next_token_loss(logits, ids, ignore=-100):
    terms = []
    for row, text in zip(logits, ids):
        for i in range(len(text) - 1):
            if text[i + 1] != ignore:
                terms.append(row[i].logsumexp(0) - row[i, text[i + 1]])
    return sum(terms) / len(terms)


@alternative("2c", "log-sum-exp and a one-hot sum over the real targets only")
def next_token_loss(logits, ids, ignore=-100):
    real = ids[:, 1:] != ignore
    rows, target = logits[:, :-1][real], ids[:, 1:][real]
    shifted = rows - rows.amax(-1, keepdim=True).detach()
    picked = (shifted * F.one_hot(target, rows.shape[-1])).sum(-1)
    return (shifted.exp().sum(-1).log() - picked).mean()


# 2d. A GPT, and its cache


@alternative("2d", "positions by their numbers, and einsum")
def gpt_logits(ids, w, num_heads, cache=None):
    past = 0 if cache is None else cache[0].size(-2)
    x = F.embedding(ids, w["tokens"]) + F.embedding(past + torch.arange(ids.shape[1]), w["positions"])
    cache = [None] * len(w["blocks"]) if cache is None else list(cache)
    for i, block in enumerate(w["blocks"]):
        x, cache[i] = transformer_block(x, block, num_heads, past=cache[i])
    return torch.einsum("bld,vd->blv", layer_norm(x, w["norm.weight"], w["norm.bias"]), w["tokens"]), cache


@alternative("2d", "one token at a time, even where there are several")
def gpt_logits(ids, w, num_heads, cache=None):
    rows = []
    for i in range(ids.shape[1]):
        past = 0 if cache is None else cache[0].shape[3]
        x = (w["tokens"][ids[:, i]] + w["positions"][past])[:, None]
        new = []
        for n, block in enumerate(w["blocks"]):
            x, kv = transformer_block(x, block, num_heads, None if cache is None else cache[n])
            new.append(kv)
        cache = new
        rows.append(F.linear(layer_norm(x, w["norm.weight"], w["norm.bias"]), w["tokens"]))
    return torch.cat(rows, 1), cache


@alternative("2d", "a closed form")
def attended_pairs(prompt, new, use_cache):
    last = prompt + new - 1
    if use_cache:
        return last * (last + 1) // 2
    return last * (last + 1) * (last + 2) // 6 - (prompt - 1) * prompt * (prompt + 1) // 6


@alternative("2d", "counting")
def attended_pairs(prompt, new, use_cache):
    pairs, seen = 0, 0
    for t in range(prompt, prompt + new):
        for query in range(seen if use_cache else 0, t):
            pairs += query + 1
        seen = t
    return pairs


# 2e. Train it


class TextModelA(nn.Module):
    """A vector for each of the last four characters, and a layer of torch's own transformer."""

    def __init__(self, vocab, d=64, context=24):
        super().__init__()
        self.context = context
        self.back = nn.ModuleList(nn.Embedding(vocab, d) for _ in range(4))
        self.positions = nn.Embedding(context, d)
        self.layer = nn.TransformerEncoderLayer(d, 4, 4 * d, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, vocab)
        for table in [*self.back, self.positions]:
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, ids):
        L = ids.shape[1]
        h = self.positions.weight[:L] + sum(F.pad(e(ids[:, : L - j]), (0, 0, j, 0)) for j, e in enumerate(self.back))
        mask = torch.full((L, L), -math.inf, device=ids.device).triu(1)
        return self.head(self.norm(self.layer(h, src_mask=mask)))


@alternative("2e", "torch's own modules, and vectors for the last four characters")
def train_gpt(text, vocab_size):
    model = TextModelA(vocab_size).to(text.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=300, pct_start=0.1)
    losses = []
    for _ in range(300):
        start = torch.randint(len(text) - model.context, (32,)).tolist()
        ids = torch.stack([text[i : i + model.context + 1] for i in start])
        loss = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
        model.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss))

    def predict(ids):
        with torch.no_grad():
            return model(ids[:, -model.context :])[:, -1].log_softmax(-1)

    return predict, losses


@alternative("2e", "gpt_logits and a loop over all windows in random order, positions that start as waves")
def train_gpt(text, vocab_size):
    d, context, batch, steps = 64, 32, 24, 600
    angle = torch.arange(context)[:, None] * 100.0 ** (-torch.arange(d // 2) / (d // 2))
    shapes = {"attention.qkv": (3 * d, d), "attention.out": (d, d), "up": (4 * d, d), "down": (d, 4 * d)}
    block = {f"{name}.weight": 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    block |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    for name in ("norm_1", "norm_2"):
        block |= {f"{name}.weight": torch.ones(d), f"{name}.bias": torch.zeros(d)}
    w = {"tokens": 0.1 * torch.randn(vocab_size, d), "positions": 0.14 * torch.cat([angle.sin(), angle.cos()], 1)}
    w |= {"norm.weight": torch.ones(d), "norm.bias": torch.zeros(d)}
    w = {name: value.to(text.device) for name, value in w.items()}
    block = {name: value.to(text.device) for name, value in block.items()}
    parameters = [p.requires_grad_() for p in [*w.values(), *block.values()]]
    w["blocks"] = [block]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    rows = text[: len(text) // (context + 1) * (context + 1)].view(-1, context + 1)
    order = torch.cat([torch.randperm(len(rows)) for _ in range(3)])
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min((step + 1) / 20, (steps - step) / (steps - 20))
        ids = rows[order[step * batch : (step + 1) * batch].to(text.device)]
        loss = next_token_loss(gpt_logits(ids, {**w, "positions": grow_a(w)}, 4)[0], ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return lambda ids: gpt_logits(ids[:, -context:], w, 4)[0][:, -1].detach(), losses


def grow_a(w):
    """One more position, for the token that nothing is predicted from."""
    return torch.cat([w["positions"], w["positions"][-1:]])


# 3a. Temperature, top-k, top-p


@alternative("3a", "a loop over the rows")
def apply_top_k(logits, k):
    rows = []
    for row in logits:
        border = sorted(row.tolist(), reverse=True)[:k][-1]
        rows.append(torch.where(row >= border, row, -torch.inf))
    return torch.stack(rows)


@alternative("3a", "sorting")
def apply_top_k(logits, k):
    ordered = torch.sort(logits, dim=1).values
    return torch.where(logits < ordered[:, [max(0, logits.shape[1] - k)]], -math.inf, logits)


@alternative("3a", "token by token until p is reached")
def apply_top_p(logits, p):
    out = torch.full_like(logits, -math.inf)
    probs = logits.softmax(-1)
    for b in range(len(logits)):
        mass = 0.0
        for i in sorted(range(logits.shape[1]), key=lambda i: (-probs[b, i].item(), i)):
            out[b, i] = logits[b, i]
            mass += probs[b, i].item()
            if mass >= p and p < 1:
                break
    return out


@alternative("3a", "numpy, the mask through the ranks")
def apply_top_p(logits, p):
    if p >= 1.0:
        return logits.clone()
    probs = torch.softmax(logits, -1).numpy()
    order = np.argsort(-probs, axis=-1, kind="stable")
    sums = np.cumsum(np.take_along_axis(probs, order, -1), -1)
    count = (sums < p).sum(-1, keepdims=True) + 1
    ranks = np.argsort(order, axis=-1)
    return torch.where(torch.from_numpy(ranks < count), logits, -math.inf)


@alternative("3a", "probabilities made by hand")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    if not temperature > 0:
        return torch.eye(logits.shape[1], dtype=logits.dtype)[logits.argmax(1)]
    scaled = logits * (1 / temperature)
    scaled = apply_top_k(scaled, scaled.shape[1] if top_k is None else top_k)
    scaled = apply_top_p(scaled, 1.0 if top_p is None else top_p)
    weights = torch.exp(scaled - scaled.max(1, keepdim=True).values)
    return weights / weights.sum(1, keepdim=True)


# 3b. Drawing text


@alternative("3b", "searchsorted")
def sample_token(probs, u):
    x = torch.searchsorted(probs.cumsum(-1), u[:, None], right=True)[:, 0]
    last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).long().argmax(-1)
    return torch.minimum(x, last)


@alternative("3b", "a loop that subtracts")
def sample_token(probs, u):
    tokens = []
    for row, number in zip(probs.tolist(), u.tolist()):
        last, total = 0, 0.0
        for i, p in enumerate(row):
            if p > 0:
                last = i
                total += p
                if total > number:
                    break
        tokens.append(last)
    return torch.tensor(tokens)


@alternative("3b", "each text for itself")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    texts = []
    for text, row in zip(ids, u):
        for number in row:
            probs = next_token_probs(next_logits(text[None]), temperature, top_k, top_p)
            text = torch.cat([text, sample_token(probs, number[None])])
        texts.append(text)
    return torch.stack(texts)


@alternative("3b", "one row at a time, into a buffer")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    L, n = ids.shape[1], u.shape[1]
    out = torch.zeros(len(ids), L + n, dtype=torch.long)
    out[:, :L] = ids
    for i in range(n):
        logits = next_logits(out[:, : L + i])
        for b in range(len(ids)):
            probs = next_token_probs(logits[b : b + 1], temperature=temperature, top_k=top_k, top_p=top_p)
            out[b, L + i] = sample_token(probs, u[b : b + 1, i])[0]
    return out


# 3c. Speculative sampling


@alternative("3c", "p less the overlap")
def residual(p, q):
    overlap = torch.minimum(p, q)
    rest = 1 - overlap.sum()
    return p.clone() if rest < 1e-12 else (p - overlap) / (p - overlap).sum()


@alternative("3c", "where and relu")
def residual(p, q):
    if torch.equal(p, q):
        return p
    gap = torch.where(p > q, p - q, 0.0)
    return F.normalize(gap, p=1, dim=0)


@alternative("3c", "the first rejection by a running product, products in place of a ratio, a list of tokens")
def speculative_step(p, q, draft, u, r):
    rows = torch.arange(len(draft))
    kept = (u * q[rows, draft] < p[rows, draft]).long().cumprod(0)
    n = int(kept.sum())
    last = p[-1] if n == len(draft) else residual(p[n], q[n])
    return draft[:n].tolist() + sample_token(last[None], torch.tensor([r], dtype=last.dtype)).tolist()


@alternative("3c", "q continued by zeros: the residual of the last row is p itself")
def speculative_step(p, q, draft, u, r):
    q = torch.cat([q, torch.zeros_like(p[:1])])
    tokens = []
    for i, x in enumerate(draft.tolist()):
        if u[i] >= min(1.0, (p[i, x] / q[i, x]).item()):
            break
        tokens.append(x)
    gap = (p[len(tokens)] - q[len(tokens)]).clamp(min=0)
    tokens.append(int((gap.cumsum(0) / gap.sum() <= r).sum()))
    return torch.tensor(tokens)


@alternative("3c", "a closed form with its limit")
def expected_tokens(a, k):
    return float(k + 1) if a == 1 else (1 - a ** (k + 1)) / (1 - a)


@alternative("3c", "Horner")
def expected_tokens(a, k):
    total = 0.0
    for _ in range(k + 1):
        total = 1 + a * total
    return total


# 4a. Corruption


@alternative("4a", "a loop over texts and positions")
def q_sample(x_0, t, noise, mask_id):
    x_t = x_0.clone()
    for b in range(x_0.shape[0]):
        for i in range(x_0.shape[1]):
            if noise[b, i] < t[b]:
                x_t[b, i] = mask_id
    return x_t


@alternative("4a", "arithmetic with the survivors")
def q_sample(x_0, t, noise, mask_id):
    visible = (noise >= t.unsqueeze(1)).long()
    return x_0 * visible + mask_id * (1 - visible)


@alternative("4a", "transposed, so that t lines up by itself")
def q_sample(x_0, t, noise, mask_id):
    return torch.where(t > noise.T, mask_id, x_0.T).T


# 4b. The loss


@alternative("4b", "cross-entropy at all positions, then the weight 0 where a token is visible")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    nll = F.cross_entropy(net(x_t, t).transpose(1, 2), x_0, reduction="none")
    return ((x_t == mask_id) * nll).sum(1) / t


@alternative("4b", "only the hidden positions are ever looked at")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    row, place = (x_t == mask_id).nonzero(as_tuple=True)
    nll = F.cross_entropy(net(x_t, t)[row, place], x_0[row, place], reduction="none")
    return torch.zeros(len(x_0), dtype=t.dtype).index_add(0, row, nll / t[row])


@alternative("4b", "text by text")
def mdlm_loss(net, x_0, t, noise, mask_id):
    logits = net(q_sample(x_0, t, noise, mask_id), t)
    losses = []
    for b in range(len(x_0)):
        hidden = noise[b] < t[b]
        gap = logits[b][hidden].logsumexp(-1) - logits[b][hidden].gather(-1, x_0[b][hidden][:, None])[:, 0]
        losses.append(gap.sum() / t[b])
    return torch.stack(losses)


@alternative("4b", "the logarithm of one-hot rows")
def subs(logits, x_t, mask_id):
    one_hot = F.one_hot(x_t, mask_id + 1)[..., :-1].to(logits.dtype)
    return torch.where(x_t.unsqueeze(-1) < mask_id, one_hot.log(), F.log_softmax(logits, -1))


@alternative("4b", "visible logits are overwritten first, then everything is normalised")
def subs(logits, x_t, mask_id):
    own = logits.clone()
    visible = x_t != mask_id
    own[visible] = -math.inf
    row, place = visible.nonzero(as_tuple=True)
    own[row, place, x_t[row, place]] = 0.0
    return own - own.logsumexp(-1, keepdim=True)


# 4c. The ancestral sampler


@alternative("4c", "searchsorted")
def draw_tokens(p, u):
    index = torch.searchsorted(p.cumsum(-1), u.unsqueeze(-1).contiguous(), right=True).squeeze(-1)
    return index.clamp(max=p.shape[-1] - 1)


@alternative("4c", "a loop over the tokens")
def draw_tokens(p, u):
    token, total = torch.full(u.shape, p.shape[-1] - 1), torch.zeros_like(u)
    found = torch.zeros(u.shape, dtype=torch.bool)
    for v in range(p.shape[-1]):
        total = total + p[..., v]
        token[(total > u) & ~found] = v
        found |= total > u
    return token


@alternative("4c", "the first True")
def draw_tokens(p, u):
    above = p.cumsum(-1) > u[..., None]
    above[..., -1] = True
    return above.to(torch.uint8).argmax(-1)


@alternative("4c", "who stays hidden, and a loop over what is left")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    x_s = x_t.clone()
    for b, i in (x_t == mask_id).nonzero().tolist():
        if noise[b, i] < 1 - s / t:
            x_s[b, i] = draw_tokens(logits[b, i].softmax(-1), u[b, i])
    return x_s


@alternative("4c", "only a single number for the time, in single precision")
def infill(net, x_t, noise, u, mask_id):
    grid = torch.linspace(1, 0, len(noise) + 1).tolist()
    grid[-1] = 0.0
    for t, s, r, v in zip(grid[:-1], grid[1:], noise, u, strict=True):
        x_t = ancestral_step(net(x_t, t * torch.ones(x_t.shape[0])), x_t, t, s, r, v, mask_id)
    return x_t


# 4d. The bound, exactly


@alternative("4d", "bits of a number for the sets, factorials for the weight")
def exact_nelbo(net, x_0, mask_id):
    B, L = x_0.shape
    bound = torch.zeros(B, dtype=torch.float64)
    for bits in range(1, 2**L):
        hidden = torch.tensor([bool(bits >> i & 1) for i in range(L)])
        k = int(hidden.sum())
        weight = math.factorial(k - 1) * math.factorial(L - k) / math.factorial(L)
        nll = F.cross_entropy(
            net(x_0.masked_fill(hidden, mask_id), torch.ones(B)).transpose(1, 2), x_0, reduction="none"
        )
        bound = bound + weight * (nll * hidden).sum(1)
    return bound


@alternative("4d", "the mean over all orders of the sum along each: the same by symmetry")
def exact_nelbo(net, x_0, mask_id):
    B, L = x_0.shape
    total = torch.zeros(B, dtype=torch.float64)
    for order in itertools.permutations(range(L)):
        x_t = torch.full_like(x_0, mask_id)
        for i in order:
            total -= torch.distributions.Categorical(logits=net(x_t, torch.ones(B))[:, i]).log_prob(x_0[:, i])
            x_t[:, i] = x_0[:, i]
    return total / math.factorial(L)


@alternative("4d", "an integral over t on Gauss-Legendre nodes, exact for polynomials")
def exact_nelbo(net, x_0, mask_id):
    B, L = x_0.shape
    nodes, weights = np.polynomial.legendre.leggauss(8)
    bound = torch.zeros(B, dtype=torch.float64)
    for bits in itertools.product((False, True), repeat=L):
        hidden, k = torch.tensor(bits), sum(bits)
        if k:
            t = (nodes + 1) / 2
            weight = float((weights / 2 * t ** (k - 1) * (1 - t) ** (L - k)).sum())
            log_p = net(torch.where(hidden, mask_id, x_0), torch.ones(B)).log_softmax(-1)
            picked = torch.stack([log_p[b, torch.arange(L), x_0[b]] for b in range(B)])
            bound -= weight * picked[:, hidden].sum(1)
    return bound


@alternative("4d", "recursion over the set that is visible")
def exact_nll(net, x_0, mask_id):
    B, L = x_0.shape

    def rest(visible):
        """log of the mean over orders of what is left to be revealed."""
        if len(visible) == L:
            return torch.zeros(B, dtype=torch.float64)
        shown = torch.tensor([i in visible for i in range(L)])
        log_p = net(torch.where(shown, x_0, mask_id), torch.ones(B)).log_softmax(-1)
        left = [i for i in range(L) if i not in visible]
        terms = [log_p[torch.arange(B), i, x_0[:, i]] + rest(visible | {i}) for i in left]
        return torch.stack(terms).logsumexp(0) - math.log(len(left))

    return -rest(frozenset())


# 5a. LoRA


@alternative("5a", "a frozen parameter, and a linear map of the merged matrix")
class LoRALinear(torch.nn.Module):
    def __init__(self, weight, rank, alpha):
        super().__init__()
        self.W = torch.nn.Parameter(weight.clone(), requires_grad=False)
        self.A = torch.nn.Parameter(weight.new_empty(rank, weight.shape[1]).normal_(0, weight.shape[1] ** -0.5))
        self.B = torch.nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.alpha, self.rank = alpha, rank

    def forward(self, x):
        return F.linear(x, self.merged())

    def merged(self):
        return self.W + (self.alpha / self.rank) * (self.B @ self.A)


@alternative("5a", "einsum, the weight as a plain tensor")
class LoRALinear(torch.nn.Module):
    def __init__(self, weight, rank, alpha):
        super().__init__()
        self.frozen = weight.detach()
        self.A = torch.nn.Parameter((torch.randn(weight.shape[1], rank) / math.sqrt(weight.shape[1])).T.to(weight))
        self.B = torch.nn.Parameter(torch.zeros(weight.shape[0], rank).to(weight))
        self.factor = alpha / rank

    def forward(self, x):
        low = torch.einsum("...i,ri->...r", x, self.A)
        return torch.einsum("...i,oi->...o", x, self.frozen) + torch.einsum("...r,or->...o", self.factor * low, self.B)

    @torch.no_grad()
    def merged(self):
        return torch.addmm(self.frozen, self.B, self.A, alpha=self.factor)


@alternative("5a", "a linear layer inside, frozen")
class LoRALinear(torch.nn.Module):
    def __init__(self, weight, rank, alpha):
        super().__init__()
        self.base = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        with torch.no_grad():
            self.base.weight.copy_(weight)
        self.base.requires_grad_(False)
        self.A = torch.nn.Parameter(torch.empty(rank, weight.shape[1], dtype=weight.dtype))
        self.B = torch.nn.Parameter(torch.empty(weight.shape[0], rank, dtype=weight.dtype))
        torch.nn.init.normal_(self.A, std=weight.shape[1] ** -0.5)
        torch.nn.init.zeros_(self.B)
        self.rank, self.alpha = rank, alpha

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.A), self.B) * self.alpha / self.rank

    def merged(self):
        return (self.base.weight + self.B @ self.A * self.alpha / self.rank).detach()


# 5b. Direct preference optimisation


@alternative("5b", "cross-entropy")
def sequence_log_prob(logits, tokens, mask):
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return -(nll * mask[:, 1:]).sum(1)


@alternative("5b", "a loop over rows and tokens")
def sequence_log_prob(logits, tokens, mask):
    totals = []
    for b in range(len(tokens)):
        total = logits.new_zeros(())
        for j in range(1, tokens.shape[1]):
            if mask[b, j]:
                total = total + logits[b, j - 1, tokens[b, j]] - logits[b, j - 1].logsumexp(0)
        totals.append(total)
    return torch.stack(totals)


@alternative("5b", "everything is computed, then shifted")
def sequence_log_prob(logits, tokens, mask):
    log_p = torch.distributions.Categorical(logits=logits).log_prob(tokens.roll(-1, 1))
    return torch.einsum("bt,bt->b", log_p[:, :-1], mask[:, 1:].to(log_p.dtype))


@alternative("5b", "softplus, without gradients for the reference")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    with torch.no_grad():
        reference = ref_w - ref_l
    margin = beta * (policy_w - policy_l - reference)
    return F.softplus(-margin).mean(), margin


@alternative("5b", "logaddexp")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = beta * (policy_w - ref_w.detach()) - beta * (policy_l - ref_l.detach())
    return torch.logaddexp(torch.zeros_like(margin), -margin).sum() / len(margin), margin


@alternative("5b", "the cross-entropy of a classifier that is always to say 'the first'")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    rewards = beta * torch.stack([policy_w - ref_w.detach(), policy_l - ref_l.detach()], 1)
    return F.cross_entropy(rewards, torch.zeros(len(rewards), dtype=torch.long)), rewards[:, 0] - rewards[:, 1]


# 5c. Advantages in a group


@alternative("5c", "a loop over the groups")
def grpo_advantages(rewards):
    rows = []
    for group in rewards:
        if group.max() == group.min():
            rows.append(torch.zeros_like(group))
        else:
            rows.append((group - group.mean()) / group.std(unbiased=False))
    return torch.stack(rows)


@alternative("5c", "a denominator of 1 where nothing differs")
def grpo_advantages(rewards):
    differ = (rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True)).to(rewards.dtype)
    std = rewards.var(1, correction=0, keepdim=True).sqrt()
    return differ * (rewards - rewards.mean(1, keepdim=True)) / (std * differ + (1 - differ))


@alternative("5c", "about the first reward, which makes equal rewards exact zeros")
def grpo_advantages(rewards):
    shifted = rewards - rewards[:, :1]
    centred = shifted - shifted.mean(1, keepdim=True)
    norm = centred.norm(dim=1, keepdim=True)
    return torch.where(norm == 0, 0.0, centred * rewards.shape[1] ** 0.5 / norm)


# 5d. The clipped objective


@alternative("5d", "the two signs of the advantage apart")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    zero = torch.zeros_like(old_log_prob)
    kept = mask.bool()
    ratio = torch.where(kept, log_prob - old_log_prob.detach(), zero).exp()
    good = advantages[:, None] > 0
    trusted = torch.where(good, ratio.clamp(max=1 + clip_eps), ratio.clamp(min=1 - clip_eps))
    d = torch.where(kept, ref_log_prob.detach() - log_prob, zero)
    terms = trusted * advantages[:, None] - beta * (torch.expm1(d) - d)
    return -(terms * mask).sum(1).div(mask.sum(1)).mean()


@alternative("5d", "answer by answer, with the tokens that there are")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    total = 0.0
    for n in range(len(advantages)):
        there = mask[n] > 0
        new, old, ref = log_prob[n][there], old_log_prob[n][there].detach(), ref_log_prob[n][there].detach()
        ratio = new.exp() / old.exp()
        plain = ratio * advantages[n]
        clipped = torch.clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantages[n]
        kl = ref.exp() / new.exp() - (ref - new) - 1
        total = total + (torch.min(plain, clipped) - beta * kl).mean()
    return -total / len(advantages)


@alternative("5d", "a flat list of tokens with weights")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    row, place = mask.nonzero(as_tuple=True)
    weight = 1 / (mask.sum(1)[row] * len(mask))
    new = log_prob[row, place]
    ratio = torch.exp(new - old_log_prob.detach()[row, place])
    A = advantages[row]
    log_ref = ref_log_prob.detach()[row, place] - new
    worse = torch.maximum(-ratio * A, -ratio.clamp(1 - clip_eps, 1 + clip_eps) * A)
    return (weight * (worse + beta * (log_ref.exp() - 1 - log_ref))).sum()


@alternative("5d", "leftovers overwritten with harmless numbers first")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    gone = mask == 0
    new, old, ref = (v.masked_fill(gone, -1.0) for v in (log_prob, old_log_prob.detach(), ref_log_prob.detach()))
    ratio = (new - old).exp()
    bounds = torch.stack([ratio, ratio.clamp(1 - clip_eps, 1 + clip_eps)]) * advantages[:, None]
    terms = bounds.amin(0) - beta * ((ref - new).exp() - (ref - new) - 1)
    return -torch.einsum("nt,nt,n->", terms, mask, 1 / mask.sum(1)) / len(mask)


# 5e. GRPO on a task that can be verified


@alternative("5e", "one axis of answers, products of probabilities")
def expected_reward(policy, theta, prompts, reward):
    p = policy(theta, prompts).softmax(-1)
    P, T, V = p.shape
    answers = torch.cartesian_prod(*[torch.arange(V)] * T).view(-1, T)  # (V^T, T)
    chance = torch.stack([p[:, j, answers[:, j]] for j in range(T)]).prod(0)  # (P, V^T)
    rewards = torch.stack([reward(prompts[i : i + 1].repeat(len(answers), 1), answers) for i in range(P)])
    return (chance * rewards).sum() / P


@alternative("5e", "prompt by prompt")
def expected_reward(policy, theta, prompts, reward):
    values = []
    for prompt in prompts:
        log_p = torch.log_softmax(policy(theta, prompt[None])[0], -1)
        value = 0.0
        for y in itertools.product(range(log_p.shape[1]), repeat=log_p.shape[0]):
            answer = torch.tensor([y])
            value = value + log_p[range(len(y)), list(y)].sum().exp() * reward(prompt[None], answer)[0]
        values.append(value)
    return torch.stack(values).mean()


@alternative("5e", "torch's SGD")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    P, G, T = u.shape
    x = torch.cat([prompts[i : i + 1] for i in range(P) for _ in range(G)])
    logits = policy(theta, x)
    y = draw_tokens(logits.softmax(-1), u.flatten(0, 1))
    rewards = reward(x, y)
    A = grpo_advantages(rewards.reshape(P, G)).reshape(-1)
    old = torch.distributions.Categorical(logits=logits).log_prob(y)
    ref = torch.distributions.Categorical(logits=policy(theta_ref, x)).log_prob(y)
    own = theta.clone().requires_grad_()
    sgd = torch.optim.SGD([own], lr=learning_rate)
    for _ in range(inner):
        sgd.zero_grad()
        new = torch.distributions.Categorical(logits=policy(own, x)).log_prob(y)
        grpo_loss(new, old.detach(), ref, A, torch.ones(P * G, T, dtype=torch.float64), clip_eps, beta).backward()
        sgd.step()
    return own.detach(), rewards.mean()


@alternative("5e", "logits once a prompt, then expanded to the group")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    P, G, T = u.shape
    x = prompts[:, None].expand(P, G, *prompts.shape[1:]).reshape(P * G, *prompts.shape[1:])

    def logs(parameters):
        return policy(parameters, prompts).log_softmax(-1)[:, None].expand(P, G, T, -1)

    with torch.no_grad():
        start, reference = logs(theta), logs(theta_ref)
        y = draw_tokens(start.exp(), u)
        rewards = reward(x, y.reshape(P * G, T)).reshape(P, G)
        A = grpo_advantages(rewards).reshape(P * G)
    pick = lambda table: table.gather(-1, y[..., None]).reshape(P * G, T)  # noqa: E731
    for _ in range(inner):
        leaf = theta.detach().clone().requires_grad_(True)
        loss = grpo_loss(pick(logs(leaf)), pick(start), pick(reference), A, u.new_ones(P * G, T), clip_eps, beta)
        loss.backward()
        theta = leaf.detach() - learning_rate * leaf.grad
    return theta, rewards.sum() / (P * G)


# 6a. Green tokens


@alternative("6a", "scatter of the order's head")
def green_list(prev, vocab_size, key, gamma):
    h = mix(mix(prev + key).unsqueeze(1) + torch.arange(vocab_size).unsqueeze(0))
    head = h.sort(-1).indices[:, : round(gamma * vocab_size)]
    return torch.zeros(h.shape, dtype=torch.bool).scatter(1, head, True)


@alternative("6a", "everything below the hash at the border")
def green_list(prev, vocab_size, key, gamma):
    h = torch.stack([mix(mix(prev + key) + v) for v in range(vocab_size)], 1)
    border = h.kthvalue(round(gamma * vocab_size), dim=1, keepdim=True).values
    return h <= border


@alternative("6a", "Python's own whole numbers and numpy")
def green_list(prev, vocab_size, key, gamma):
    def scramble(h):
        h %= 2**32
        for _ in range(2):
            h = (h ^ (h >> 16)) * 0x45D9F3B % 2**32
        return h ^ (h >> 16)

    rows = []
    for c in prev.tolist():
        h = np.array([scramble(scramble(c + key) + v) for v in range(vocab_size)])
        rows.append(np.isin(np.arange(vocab_size), np.argsort(h)[: round(gamma * vocab_size)]))
    return torch.from_numpy(np.stack(rows))


@alternative("6a", "the red ones are lowered instead: the same probabilities")
def watermark_logits(logits, prev, key, gamma, delta):
    return torch.where(green_list(prev, logits.shape[1], key, gamma), logits, logits - delta)


@alternative("6a", "in place, on a copy")
def watermark_logits(logits, prev, key, gamma, delta):
    own = logits.clone()
    own[green_list(prev, logits.shape[1], key, gamma)] += delta
    return own


# 6b. The detector


@alternative("6b", "a set of pairs")
def detect(tokens, vocab_size, key, gamma):
    pairs = set(itertools.pairwise(tokens.tolist()))
    g = sum(bool(green_list(torch.tensor([c]), vocab_size, key, gamma)[0, v]) for c, v in pairs)
    n = len(pairs)
    z = (g / n - gamma) / math.sqrt(gamma * (1 - gamma) / n)
    return n, z, math.erfc(z / 2**0.5) / 2


@alternative("6b", "one number for each pair, tensors to the end")
def detect(tokens, vocab_size, key, gamma):
    codes = torch.unique(tokens[:-1] * vocab_size + tokens[1:])
    table = green_list(torch.arange(vocab_size), vocab_size, key, gamma)
    n = torch.tensor(codes.numel())
    z = (table.flatten()[codes].sum().double() - gamma * n) / (n * gamma * (1 - gamma)).double().sqrt()
    return n, z, torch.special.erfc(z / math.sqrt(2)) / 2


@alternative("6b", "a table of the pairs that were seen, and the normal tail by its logarithm")
def detect(tokens, vocab_size, key, gamma):
    seen = torch.zeros(vocab_size, vocab_size, dtype=torch.bool)
    seen[tokens[:-1], tokens[1:]] = True
    hits = seen & green_list(torch.arange(vocab_size), vocab_size, key, gamma)
    n, g = seen.sum().item(), hits.sum().item()
    z = (g - n * gamma) / (n * gamma * (1 - gamma)) ** 0.5
    return n, z, torch.special.log_ndtr(torch.tensor(-z, dtype=torch.float64)).exp().item()
