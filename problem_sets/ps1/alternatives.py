"""Other right answers to problem set 1, sections 1 and 2: each must earn full marks at every seed.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from autograder.authoring import alternative

# 1a. A Gaussian in closed form


@alternative("1a", "torch.cov, told to divide by N")
def gaussian_mle(x):
    return x.mean(0), torch.cov(x.T, correction=0)


@alternative("1a", "a loop over the points")
def gaussian_mle(x):
    mean = sum(x[n] for n in range(len(x))) / len(x)
    cov = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for point in x:
        cov += torch.outer(point - mean, point - mean) / len(x)
    return mean, cov


@alternative("1a", "einsum, and in place on an own copy")
def gaussian_mle(x):
    mean = torch.einsum("nd->d", x) / x.shape[0]
    own = x.clone()
    own -= mean
    own /= math.sqrt(len(own))
    return mean, torch.einsum("ni,nj->ij", own, own)


@alternative("1a", "numpy")
def gaussian_mle(x):
    return np.mean(x.numpy(), axis=0), np.cov(x.numpy(), rowvar=False, bias=True)


# 1b. Bernoulli pixels


@alternative("1b", "torch.distributions")
def bernoulli_log_prob(logits, x):
    return torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)


@alternative("1b", "two log-sigmoids")
def bernoulli_log_prob(logits, x):
    log_sigmoid = torch.nn.functional.logsigmoid
    return x @ log_sigmoid(logits) + (1 - x) @ log_sigmoid(-logits)


@alternative("1b", "the binary cross-entropy, one image at a time")
def bernoulli_log_prob(logits, x):
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return torch.stack([-loss(logits, image, reduction="sum") for image in x])


@alternative("1b", "one softplus of the logit with the sign of the pixel, and logaddexp for it")
def bernoulli_log_prob(logits, x):
    signed = torch.where(x == 1, logits, -logits)
    return -torch.logaddexp(torch.zeros_like(signed), -signed).sum(1)


@alternative("1b", "torch.logit")
def bernoulli_mle(x):
    return torch.logit(x.mean(0))


@alternative("1b", "the ratio of two counts")
def bernoulli_mle(x):
    ones = x.sum(0)
    return torch.log(ones / (len(x) - ones))


# 1c. Categorical data


@alternative("1c", "log_softmax")
def categorical_log_prob(logits, x):
    return torch.log_softmax(logits, 0)[x]


@alternative("1c", "torch.distributions")
def categorical_log_prob(logits, x):
    return torch.distributions.Categorical(logits=logits).log_prob(x)


@alternative("1c", "the cross-entropy, each observation with its own copy of the logits")
def categorical_log_prob(logits, x):
    return -torch.nn.functional.cross_entropy(logits.expand(len(x), -1), x, reduction="none")


@alternative("1c", "a running log-sum-exp in a loop")
def categorical_log_prob(logits, x):
    total = logits[0]
    for logit in logits[1:]:
        total = torch.logaddexp(total, logit)
    return torch.gather(logits, 0, x) - total


@alternative("1c", "the mean of one-hot rows")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    one_hot = torch.nn.functional.one_hot(x, num_classes).double()
    return (one_hot.sum(0) + pseudo_count) / (len(x) + num_classes * pseudo_count)


@alternative("1c", "a count of each class, as plain numbers")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    seen = x.tolist()
    total = len(seen) + num_classes * pseudo_count
    return torch.tensor([(seen.count(k) + pseudo_count) / total for k in range(num_classes)], dtype=torch.float64)


# 1d. Stochastic gradient descent


@alternative("1d", "torch.optim.SGD")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    parameters = [torch.nn.Parameter(p.clone()) for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate)
    losses = []
    for t in range(len(batches)):
        optimizer.zero_grad()
        loss = -log_prob(x[batches[t]], *parameters).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [p.data for p in parameters], losses


@alternative("1d", "new tensors at each step, gradients by backward, losses as tensors")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    losses = []
    for batch in batches.tolist():
        parameters = [p.detach().requires_grad_(True) for p in [q + 0 for q in parameters]]
        loss = -sum(log_prob(x[i : i + 1], *parameters).sum() for i in batch) / len(batch)
        loss.backward()
        losses.append(loss.detach())
        parameters = [p.detach() - learning_rate * p.grad for p in parameters]
    return parameters, losses


@alternative("1d", "climbing the likelihood, which is descending the loss")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    parameters, losses = [p.clone() for p in parameters], []
    for batch in batches:
        with torch.enable_grad():
            leaves = [p.clone().requires_grad_() for p in parameters]
            value = log_prob(x.index_select(0, batch), *leaves).sum() / len(batch)
            slopes = torch.autograd.grad(value, leaves)
        parameters = [p + learning_rate * s for p, s in zip(parameters, slopes, strict=True)]
        losses.append(-value.item())
    return tuple(parameters), losses


# 2a. The likelihood of a mixture


@alternative("2a", "torch.logsumexp")
def log_sum_exp(a):
    return torch.logsumexp(a, dim=-1)


@alternative("2a", "a running logaddexp over the last axis")
def log_sum_exp(a):
    total = a[..., 0]
    for k in range(1, a.shape[-1]):
        total = torch.logaddexp(total, a[..., k])
    return total


@alternative("2a", "sorted terms, the largest outside by log1p")
def log_sum_exp(a):
    ordered = a.sort(-1, descending=True).values
    return ordered[..., 0] + torch.log1p((ordered[..., 1:] - ordered[..., :1]).exp().sum(-1))


@alternative("2a", "torch.distributions")
def gaussian_log_prob(x, means, covs):
    return torch.distributions.MultivariateNormal(means, covariance_matrix=covs).log_prob(x[:, None])


@alternative("2a", "an inverse and slogdet, by einsum")
def gaussian_log_prob(x, means, covs):
    centred = x[:, None] - means
    distance = torch.einsum("nki,kij,nkj->nk", centred, torch.linalg.inv(covs), centred)
    return -0.5 * (distance + torch.linalg.slogdet(covs).logabsdet + x.shape[1] * math.log(2 * math.pi))


@alternative("2a", "a loop over the components")
def gaussian_log_prob(x, means, covs):
    columns = []
    for mean, cov in zip(means, covs, strict=True):
        factor = torch.linalg.cholesky(cov)
        z = torch.cholesky_solve((x - mean).T, factor)  # (D, N)
        constant = factor.diag().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
        columns.append(-0.5 * ((x - mean) * z.T).sum(1) - constant)
    return torch.stack(columns, dim=1)


@alternative("2a", "torch.distributions")
def mixture_log_prob(x, logits, means, covs):
    parts = torch.distributions.MultivariateNormal(means, covariance_matrix=covs)
    choice = torch.distributions.Categorical(logits=logits)
    return torch.distributions.MixtureSameFamily(choice, parts).log_prob(x)


@alternative("2a", "the normaliser subtracted at the end")
def mixture_log_prob(x, logits, means, covs):
    return torch.logsumexp(logits + gaussian_log_prob(x, means, covs), 1) - torch.logsumexp(logits, 0)


# 2b. Responsibilities


@alternative("2b", "softmax")
def responsibilities(logits, log_density):
    return torch.softmax(logits + log_density, dim=1)


@alternative("2b", "the largest term subtracted, then a ratio")
def responsibilities(logits, log_density):
    joint = logits[None] + log_density
    joint = (joint - joint.amax(1, keepdim=True)).exp()
    return joint / joint.sum(1, keepdim=True)


@alternative("2b", "ratios of pairs")
def responsibilities(logits, log_density):
    joint = torch.log_softmax(logits, 0) + log_density
    return 1 / (joint[:, None, :] - joint[:, :, None]).exp().sum(2)


@alternative("2b", "a loop over the points, in place on an own array")
def responsibilities(logits, log_density):
    r = torch.empty_like(log_density)
    for n in range(len(r)):
        r[n] = (logits + log_density[n]).log_softmax(0).exp()
    return r


# 2c. The M-step


@alternative("2c", "a loop over the components, square roots of the responsibilities on both sides")
def m_step(x, r, ridge=1e-6):
    weights, means, covs = [], [], []
    for k in range(r.shape[1]):
        share = r[:, k] / r[:, k].sum()
        mean = share @ x
        centred = share.sqrt()[:, None] * (x - mean)
        weights.append(r[:, k].mean())
        means.append(mean)
        covs.append(centred.T @ centred + ridge * torch.eye(x.shape[1], dtype=x.dtype))
    return torch.stack(weights), torch.stack(means), torch.stack(covs)


@alternative("2c", "second moments less the means' products, by einsum, the ridge in place on the diagonal")
def m_step(x, r, ridge=1e-6):
    count = torch.einsum("nk->k", r)
    means = torch.einsum("nk,nd->kd", r, x) / count[:, None]
    covs = torch.einsum("nk,ni,nj->kij", r, x, x) / count[:, None, None]
    covs = covs - torch.einsum("ki,kj->kij", means, means)
    covs.diagonal(dim1=1, dim2=2).add_(ridge)
    return count / count.sum(), means, covs


@alternative("2c", "torch.cov with weights")
def m_step(x, r, ridge=1e-6):
    covs = [torch.cov(x.T, correction=0, aweights=r[:, k]) for k in range(r.shape[1])]
    means = (r / r.sum(0)).T @ x
    return r.mean(0), means, torch.stack(covs) + ridge * torch.eye(x.shape[1]).double()


# 2d. EM


@alternative("2d", "the likelihood from mixture_log_prob, before the loop and at its end; tensors in the history")
def em(x, init, steps, ridge=1e-6):
    params = init
    history = [mixture_log_prob(x, init[0].log(), *init[1:]).mean()]
    for _ in range(steps):
        weights, means, covs = params
        r = responsibilities(weights.log(), gaussian_log_prob(x, means, covs))
        params = m_step(x, r, ridge)
        history.append(mixture_log_prob(x, params[0].log(), *params[1:]).mean())
    return params, torch.stack(history)


@alternative("2d", "all in one, with torch.distributions and one more E-step for the last likelihood")
def em(x, init, steps, ridge=1e-6):
    weights, means, covs = (p.clone() for p in init)
    history = []
    for t in range(steps + 1):
        normal = torch.distributions.MultivariateNormal(means, covariance_matrix=covs)
        joint = weights.log() + normal.log_prob(x[:, None])
        history.append(float(joint.logsumexp(1).mean()))
        if t == steps:
            break
        r = joint.softmax(1)
        weights = r.mean(0)
        means = (r.T @ x) / r.sum(0)[:, None]
        for k in range(len(weights)):
            centred = x - means[k]
            covs[k] = centred.T @ (r[:, k : k + 1] * centred) / r[:, k].sum() + ridge * torch.eye(x.shape[1]).to(x)
    return [weights, means, covs], history


@alternative("2d", "recursion")
def em(x, init, steps, ridge=1e-6):
    log_density = gaussian_log_prob(x, init[1], init[2])
    here = torch.logsumexp(init[0].log() + log_density, 1).mean().item()
    if steps == 0:
        return init, [here]
    params, later = em(x, m_step(x, responsibilities(init[0].log(), log_density), ridge), steps - 1, ridge)
    return params, [here, *later]


# 2e. Sampling


@alternative("2e", "a loop over the points")
def sample_mixture(u, eps, weights, means, covs):
    points = []
    for n in range(len(u)):
        k, left = 0, float(u[n])
        while k < len(weights) - 1 and left >= float(weights[k]):
            left -= float(weights[k])
            k += 1
        points.append(means[k] + torch.linalg.cholesky(covs[k]) @ eps[n])
    return torch.stack(points)


@alternative("2e", "comparisons with the cumulative weights, points in rows")
def sample_mixture(u, eps, weights, means, covs):
    k = (u[:, None] >= weights.cumsum(0)[:-1]).sum(1)
    out = torch.zeros_like(eps)
    for j, factor in enumerate(torch.linalg.cholesky(covs)):
        out[k == j] = means[j] + eps[k == j] @ factor.T
    return out


@alternative("2e", "all components at all points, one of them picked by a one-hot row")
def sample_mixture(u, eps, weights, means, covs):
    edges = torch.cat([torch.zeros(1, dtype=u.dtype), weights.cumsum(0)[:-1]])
    k = torch.bucketize(u, edges, right=True) - 1
    everything = means + torch.einsum("kij,nj->nki", torch.linalg.cholesky(covs), eps)
    return (torch.nn.functional.one_hot(k, len(weights))[:, :, None] * everything).sum(1)


# 2f. How many components?


@alternative("2f", "a loop that keeps the best so far")
def choose_k(fit, train, held_out, candidates):
    best, best_score, scores = None, -math.inf, []
    for k in candidates:
        log_prob = fit(train, k)
        score = float(log_prob(held_out).sum() / len(held_out))
        scores.append(score)
        if score > best_score:
            best, best_score = k, score
    return best, scores


@alternative("2f", "a tensor of scores and its argmax")
def choose_k(fit, train, held_out, candidates):
    scores = torch.stack([fit(train, k)(held_out).mean() for k in candidates])
    return candidates[scores.argmax()], scores


@alternative("2f", "pairs of score and candidate, one point at a time")
def choose_k(fit, train, held_out, candidates):
    pairs = []
    for k in candidates:
        log_prob = fit(train, k)
        pairs.append((sum(float(log_prob(point[None])) for point in held_out) / len(held_out), k))
    return max(pairs)[1], [score for score, _ in pairs]


# 2g. Handwritten digits


def centres_of(train, k, rounds=20):
    """Centres (k, D) by k-means."""
    centres = train[torch.randperm(len(train))[:k]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(train, centres).argmin(1)
        for j in range(k):
            if (nearest == j).any():
                centres[j] = train[nearest == j].mean(0)
    return centres


@alternative("2g", "eight components, all starting with the covariance of the whole")
def fit_digits(train):
    init = (torch.full((8,), 1 / 8, dtype=train.dtype), centres_of(train, 8), torch.cov(train.T).expand(8, -1, -1))
    return em(train, init, 25, ridge=1e-3)[0]


@alternative("2g", "twelve components, each covariance drawn towards the average one")
def fit_digits(train):
    nearest = torch.cdist(train, centres_of(train, 12)).argmin(1)
    r = 0.99 * torch.nn.functional.one_hot(nearest, 12).to(train) + 0.01 / 12
    for _ in range(12):
        weights, means, covs = m_step(train, r, ridge=2e-4)
        shared = torch.einsum("k,kij->ij", weights, covs)
        trust = (weights * len(train) / (weights * len(train) + 60))[:, None, None]
        covs = trust * covs + (1 - trust) * shared
        r = responsibilities(weights.log(), gaussian_log_prob(train, means, covs))
    return weights, means, covs


@alternative("2g", "the best of three starts, in numbers of 32 bits at the end")
def fit_digits(train):
    best = None
    for _ in range(3):
        nearest = torch.cdist(train, centres_of(train, 10)).argmin(1)
        r = 0.99 * torch.nn.functional.one_hot(nearest, 10).to(train) + 0.001
        params, history = em(train, m_step(train, r, 1.5e-3), 12, ridge=1.5e-3)
        if best is None or history[-1] > best[1]:
            best = params, history[-1]
    return tuple(p.float() for p in best[0])


@alternative("2g", "torch.distributions")
def sample_digits(n, weights, means, covs):
    k = torch.multinomial(weights, n, replacement=True)
    x = torch.distributions.MultivariateNormal(means[k], covariance_matrix=covs[k]).sample()
    return torch.minimum(torch.ones_like(x), x.relu()).reshape(-1, 8, 8)
