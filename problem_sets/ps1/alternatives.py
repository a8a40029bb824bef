"""Other right answers to problem set 1: each must earn full marks at every seed.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, kl_divergence

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


# -- 3a


@alternative("3a", "torch's divergence")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    q, p = Normal(mean, log_std.exp()), Normal(prior_mean, prior_log_std.exp())
    return kl_divergence(Independent(q, 1), Independent(p, 1))


@alternative("3a", "loops and plain numbers")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    out = torch.zeros(len(mean), dtype=mean.dtype, device=mean.device)
    for b in range(len(mean)):
        for m, s, m0, s0 in zip(mean[b], log_std[b].exp(), prior_mean[b], prior_log_std[b].exp(), strict=True):
            out[b] += math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5
    return out


@alternative("3a", "the trace and determinants of the general formula")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    ratio = (2 * (log_std - prior_log_std)).exp()
    distance = ((mean - prior_mean) / prior_log_std.exp()).pow(2)
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


@alternative("3a", "expected log joint plus entropy, without the KL")
def elbo(x, mean, log_std, prior_std, noise_std):
    var = (2 * log_std).exp()
    fit = Normal(mean, noise_std).log_prob(x).sum() - 0.5 * len(x) * var.sum() / noise_std**2
    prior = Normal(0.0, prior_std).log_prob(mean).sum() - 0.5 * var.sum() / prior_std**2
    return fit + prior + Normal(mean, log_std.exp()).entropy().sum()


@alternative("3a", "the evidence less the divergence from the exact posterior")
def elbo(x, mean, log_std, prior_std, noise_std):
    n = len(x)
    cov = noise_std**2 * torch.eye(n, dtype=x.dtype, device=x.device) + prior_std**2
    evidence = MultivariateNormal(torch.zeros(n, dtype=x.dtype, device=x.device), cov).log_prob(x.T).sum()
    var = 1 / (1 / prior_std**2 + n / noise_std**2)
    posterior = Normal(var / noise_std**2 * x.sum(0), math.sqrt(var))
    return evidence - kl_divergence(Normal(mean, log_std.exp()), posterior).sum()


@alternative("3a", "expectations by two nodes m - s and m + s, which are exact for squares; a plain number comes back")
def elbo(x, mean, log_std, prior_std, noise_std):
    total = 0.0
    for m, s, column in zip(mean.tolist(), log_std.exp().tolist(), x.T.tolist(), strict=True):
        for z in (m - s, m + s):
            for value in column:
                total += 0.5 * (-0.5 * ((value - z) / noise_std) ** 2 - math.log(noise_std * math.sqrt(2 * math.pi)))
            total += 0.5 * (-0.5 * (z / prior_std) ** 2 - math.log(prior_std * math.sqrt(2 * math.pi)))
        total += math.log(s) + 0.5 * math.log(2 * math.pi * math.e)
    return total


# -- 3b


@alternative("3b", "loops over points and components, with a maximum taken out")
def cavi_sweep(x, m, s2, prior_std):
    n, d = x.shape
    k = len(m)
    phi = torch.zeros(n, k, dtype=x.dtype, device=x.device)
    for i in range(n):
        logits = [float(x[i] @ m[j] - 0.5 * (m[j] @ m[j] + d * s2[j])) for j in range(k)]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        for j in range(k):
            phi[i, j] = weights[j] / sum(weights)
    new_m, new_s2 = torch.zeros_like(m), torch.zeros_like(s2)
    for j in range(k):
        new_s2[j] = 1 / (prior_std**-2 + sum(phi[i, j] for i in range(n)))
        new_m[j] = new_s2[j] * sum(phi[i, j] * x[i] for i in range(n))
    return phi, new_m, new_s2


@alternative("3b", "squared distances and log-sum-exp; the posterior as a pull towards the average")
def cavi_sweep(x, m, s2, prior_std):
    squared = (x[:, None, :] - m[None]).square().sum(-1) + x.shape[1] * s2
    logits = -0.5 * squared
    phi = (logits - logits.logsumexp(1, keepdim=True)).exp()
    count = phi.sum(0)
    pull = prior_std**2 * count / (1 + prior_std**2 * count)
    average = torch.einsum("nk,nd->kd", phi, x) / count.clamp_min(1e-300)[:, None]
    return phi, pull[:, None] * average, prior_std**2 / (1 + prior_std**2 * count)


@alternative("3b", "torch.distributions, numpy for the rest")
def cavi_sweep(x, m, s2, prior_std):
    log_density = Independent(Normal(m, 1.0), 1).log_prob(x[:, None]) - 0.5 * x.shape[1] * s2
    phi = Categorical(logits=log_density).probs
    p, points = phi.cpu().numpy(), x.cpu().numpy()
    precision = 1 / prior_std**2 + p.sum(axis=0)
    means = np.stack([np.linalg.solve(c * np.eye(points.shape[1]), p[:, k] @ points) for k, c in enumerate(precision)])
    return phi, torch.from_numpy(means).to(x.device), torch.from_numpy(1 / precision).to(x.device)


# -- 3c


@alternative("3c", "the chain rule by hand")
def reparam_gradient(log_joint, mean, log_std, eps):
    std = log_std.exp()
    z = (mean + std * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_joint(z).sum(), z)
    return slope.mean(0), (slope * eps).mean(0) * std + 1


@alternative("3c", "a loop over the samples, backward and .grad")
def reparam_gradient(log_joint, mean, log_std, eps):
    m = mean.detach().clone().requires_grad_()
    s = log_std.detach().clone().requires_grad_()
    for one in eps:
        (log_joint((m + s.exp() * one)[None])[0] / len(eps)).backward()
    s.grad += torch.ones_like(s)
    return m.grad, s.grad


@alternative("3c", "the entropy by samples of log q, whose gradient is the same along the path")
def reparam_gradient(log_joint, mean, log_std, eps):
    m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    q = Independent(Normal(m, s.exp()), 1)
    z = m + s.exp() * eps
    return torch.autograd.grad((log_joint(z) - q.log_prob(z)).mean(), [m, s])


@alternative("3c", "torch's entropy")
def reparam_gradient(log_joint, mean, log_std, eps):
    parameters = torch.stack([mean, log_std]).requires_grad_()
    z = torch.addcmul(parameters[0], parameters[1].exp(), eps)
    bound = log_joint(z).sum() / eps.shape[0] + Normal(parameters[0], parameters[1].exp()).entropy().sum()
    bound.backward()
    return parameters.grad[0], parameters.grad[1]


# -- 3d


@alternative("3d", "autograd of log q at fixed samples: a surrogate loss")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    log_q = Independent(Normal(m, s.exp()), 1).log_prob(z.detach())
    with torch.no_grad():
        f = log_joint(z) - log_q
        if baseline:
            f = (f - f.mean()) * len(f) / (len(f) - 1)
    return torch.autograd.grad((f * log_q).mean(), (m, s))


@alternative("3d", "a loop over the samples")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    std, n = log_std.exp(), len(z)
    f = []
    for one in z:
        log_q = Normal(mean, std).log_prob(one).sum()
        f.append(float(log_joint(one[None])[0] - log_q))
    in_mean, in_log_std = torch.zeros_like(mean), torch.zeros_like(log_std)
    for j, one in enumerate(z):
        b = sum(f[:j] + f[j + 1 :]) / (n - 1) if baseline else 0.0
        in_mean += (f[j] - b) * (one - mean) / std**2 / n
        in_log_std += (f[j] - b) * ((one - mean) ** 2 / std**2 - 1) / n
    return in_mean, in_log_std


@alternative("3d", "the baseline as a matrix; no division by the standard deviation")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    s = len(z)
    precision, gap = (-2 * log_std).exp(), z - mean
    log_q = -0.5 * (gap**2 * precision).sum(1) - log_std.sum() - 0.5 * z.shape[1] * math.log(2 * math.pi)
    weights = torch.eye(s, dtype=z.dtype, device=z.device)
    if baseline:
        weights = weights - (1 - weights) / (s - 1)
    f = weights @ (log_joint(z) - log_q)
    return (gap * precision).T @ f / s, (gap**2 * precision - 1).T @ f / s


# -- 3e


@alternative("3e", "sums of squares by hand")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    repetitions = len(eps)
    first = [torch.zeros_like(mean), torch.zeros_like(mean)]
    second = [torch.zeros_like(mean), torch.zeros_like(mean)]
    for one in eps:
        for i, g in enumerate(estimator(log_joint, mean, log_std, one)):
            first[i] = first[i] + g
            second[i] = second[i] + g**2
    a, b = ((q - s**2 / repetitions) / (repetitions - 1) for s, q in zip(first, second, strict=True))
    return a, b


@alternative("3e", "Welford's running variance")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    centre = torch.zeros(2, len(mean), dtype=mean.dtype, device=mean.device)
    total = torch.zeros_like(centre)
    for r in range(eps.shape[0]):
        g = torch.stack(list(estimator(log_joint, mean, log_std, eps[r])))
        gap = g - centre
        centre = centre + gap / (r + 1)
        total = total + gap * (g - centre)
    return total[0] / (len(eps) - 1), total[1] / (len(eps) - 1)


@alternative("3e", "numpy, and half the mean squared difference of all pairs")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    pairs = [estimator(log_joint, mean, log_std, one) for one in eps]
    out = []
    for i in range(2):
        g = np.stack([pair[i].detach().cpu().numpy() for pair in pairs])
        squares = (g[:, None] - g[None]) ** 2
        out.append(squares.sum(axis=(0, 1)) / (2 * len(g) * (len(g) - 1)))
    return tuple(torch.from_numpy(v) for v in out)


# -- 4a


@alternative("4a", "few primitives: everything from +, *, a power and exp")
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, tuple(parents)

    def __add__(self, other):
        if not isinstance(other, Value):
            return Value(self.data + other, [(self, 1.0)])
        return Value(self.data + other.data, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        if not isinstance(other, Value):
            return Value(self.data * other, [(self, other)])
        return Value(self.data * other.data, [(self, other.data), (other, self.data)])

    def __pow__(self, p):
        return Value(self.data**p, [(self, p * self.data**p / self.data)])

    def exp(self):
        e = math.exp(self.data)
        return Value(e, [(self, e)])

    def log(self):
        return Value(math.log(self.data), [(self, self.data**-1)])

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * other**-1

    def __rtruediv__(self, other):
        return self**-1 * other

    def tanh(self):
        e = (self * 2).exp()
        return (e - 1) / (e + 1)

    def relu(self):
        return self * (self.data > 0)


@alternative("4a", "derivatives by torch's autograd")
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    @staticmethod
    def of(function, *inputs):
        values = [v if isinstance(v, Value) else Value(v) for v in inputs]
        leaves = [torch.tensor(v.data, dtype=torch.float64, requires_grad=True) for v in values]
        out = function(*leaves)
        slopes = torch.autograd.grad(out, leaves)
        return Value(out.item(), tuple((v, float(s)) for v, s in zip(values, slopes, strict=True)))

    def __add__(self, other):
        return Value.of(lambda a, b: a + b, self, other)

    def __radd__(self, other):
        return Value.of(lambda a, b: a + b, other, self)

    def __sub__(self, other):
        return Value.of(lambda a, b: a - b, self, other)

    def __rsub__(self, other):
        return Value.of(lambda a, b: a - b, other, self)

    def __mul__(self, other):
        return Value.of(lambda a, b: a * b, self, other)

    def __rmul__(self, other):
        return Value.of(lambda a, b: a * b, other, self)

    def __truediv__(self, other):
        return Value.of(lambda a, b: a / b, self, other)

    def __rtruediv__(self, other):
        return Value.of(lambda a, b: a / b, other, self)

    def __pow__(self, p):
        return Value.of(lambda a: a**p, self)

    def __neg__(self):
        return Value.of(lambda a: -a, self)

    def exp(self):
        return Value.of(torch.exp, self)

    def log(self):
        return Value.of(torch.log, self)

    def tanh(self):
        return Value.of(torch.tanh, self)

    def relu(self):
        return Value.of(torch.relu, self)


# -- 4b


@alternative("4b", "depth first with a stack of its own, then the order reversed")
def backward(root):
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            for parent, _ in node.parents:
                stack.append((parent, False))
    grads = {id(node): 0.0 for node in order}
    grads[id(root)] = 1.0
    for node in reversed(order):
        for parent, local in node.parents:
            grads[id(parent)] += grads[id(node)] * local
    for node in order:
        node.grad += grads[id(node)]


@alternative("4b", "a heap by depth: the longest way from a leaf")
def backward(root):
    import heapq

    depth, stack = {}, [root]
    while stack:
        node = stack[-1]
        waiting = [parent for parent, _ in node.parents if id(parent) not in depth]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        depth[id(node)] = 1 + max((depth[id(parent)] for parent, _ in node.parents), default=0)
    gradient, queue = {id(root): 1.0}, [(-depth[id(root)], id(root), root)]
    while queue:
        _, name, node = heapq.heappop(queue)
        for parent, local in node.parents:
            if id(parent) not in gradient:
                gradient[id(parent)] = 0.0
                heapq.heappush(queue, (-depth[id(parent)], id(parent), parent))
            gradient[id(parent)] += gradient[name] * local
        node.grad += gradient[name]


@alternative("4b", "set .grad aside, fill it afresh, add the old values at the end")
def backward(root):
    order, seen, stack = [], {id(root)}, [(root, [parent for parent, _ in root.parents])]
    while stack:
        node, waiting = stack[-1]
        if not waiting:
            order.append(node)
            stack.pop()
            continue
        parent = waiting.pop()
        if id(parent) not in seen:
            seen.add(id(parent))
            stack.append((parent, [grandparent for grandparent, _ in parent.parents]))
    before = [node.grad for node in order]
    for node in order:
        node.grad = 0.0
    root.grad = 1.0
    for node in order[::-1]:
        for parent, local in node.parents:
            parent.grad += local * node.grad
    for node, old in zip(order, before, strict=True):
        node.grad += old


# -- 4c


@alternative("4c", "sums by sum(), the bias last")
def network(params, point):
    hidden = [
        (sum(w * c for w, c in zip(row, point, strict=True)) + b).tanh()
        for row, b in zip(params["W1"], params["b1"], strict=True)
    ]
    return sum((w * h for w, h in zip(params["w2"], hidden, strict=True)), params["b2"])


@alternative("4c", "the loss as -log of a sigmoid; gradients set to 0 after the update, and before the first pass")
def train_network(params, points, labels, lr, steps):
    losses = []
    for p in parameters_of(params):
        p.grad = 0.0
    for _ in range(steps):
        terms = []
        for point, label in zip(points, labels, strict=True):
            terms.append(-(1 / (1 + (-label * network(params, point)).exp())).log())
        loss = sum(terms) * (1 / len(terms))
        backward(loss)
        for p in parameters_of(params):
            p.data = p.data - lr * p.grad
            p.grad = 0.0
        losses.append(loss.data)
    return losses


@alternative("4c", "one backward pass a point: gradients accumulate")
def train_network(params, points, labels, lr, steps):
    losses = []
    for _ in range(steps):
        total = 0.0
        for p in parameters_of(params):
            p.grad = 0.0
        for point, label in zip(points, labels, strict=True):
            term = (1 + (network(params, point) * (-label)).exp()).log() / len(points)
            backward(term)
            total += term.data
        for p in parameters_of(params):
            p.data -= lr * p.grad
        losses.append(total)
    return losses
