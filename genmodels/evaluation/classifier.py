"""Classification accuracy score: are generated samples as good as real ones to learn a classifier from?

A classifier is trained on labelled samples of a model and tested on real data (Ravuri, Vinyals 2019,
arXiv:1905.10887). It sees what visual inspection does not: samples that are pretty but all alike, or labelled wrongly,
teach little. Compare with the same classifier trained on as many real examples: the ratio is at best about 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.errors import UserError


def classifier_accuracy_score(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, *, strength: float = 1.0
) -> float:
    """Share in [0, 1] of test_x (M, ...) that logistic regression, fitted to train_x (N, ...), labels as test_y (M,).

    Inputs are centred by feature and divided by one deviation over all of the training inputs; `strength` is
    scikit-learn's C (the inverse of the penalty). The fit is deterministic.
    """
    from sklearn.linear_model import LogisticRegression

    if len(train_x) != len(train_y) or len(test_x) != len(test_y):
        raise UserError("every input needs a label: the numbers of inputs and labels differ")
    if not torch.isfinite(train_x).all():
        raise UserError("the samples to train on hold values that are not finite")
    x, x_test = (u.detach().cpu().double().flatten(1) for u in (train_x, test_x))  # (N, D), (M, D)
    mean, deviation = x.mean(0), x.std().clamp(min=1e-12)
    classifier = LogisticRegression(C=strength, max_iter=1000)
    classifier.fit(((x - mean) / deviation).numpy(), train_y.cpu().numpy())
    return float(classifier.score(((x_test - mean) / deviation).numpy(), test_y.cpu().numpy()))
