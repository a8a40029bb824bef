"""Mode coverage: how many of a mixture's known modes a sampler reaches, and how much of it lands on them.

The protocol of Lin et al. 2018 (PacGAN, arXiv:1712.04086), which follows VEEGAN: draw 2,500 points; a
point within three standard deviations of a centre is of high quality; a mode is covered if one such point is its own.
Points of the true mixture reach a share of 1 − exp(−9/2) = 0.989 in the plane, so a higher share means that the
modes have come out too narrow.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mode_coverage(x: Tensor, centres: Tensor, sigma: float, *, radius: float = 3.0) -> tuple[int, float]:
    """(modes covered, share of x within `radius`·sigma of a centre) for points x (N, d), centres (K, d)."""
    counts = mode_counts(x, centres, sigma, radius=radius)
    return int((counts > 0).sum()), float(counts.sum()) / max(len(x), 1)


def mode_counts(x: Tensor, centres: Tensor, sigma: float, *, radius: float = 3.0) -> Tensor:
    """How many points of x (N, d) each centre holds within `radius`·sigma: int64 (K,). Each goes to its nearest."""
    distance = torch.cdist(x.double(), centres.double().to(x.device), compute_mode="donot_use_mm_for_euclid_dist")
    nearest, mode = distance.min(dim=1)  # (N,), (N,)
    return torch.bincount(mode[nearest < radius * sigma], minlength=len(centres))
