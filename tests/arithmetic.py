"""How far two ways to compute the same may lie apart: by rounding, and by nothing else."""

from __future__ import annotations

import torch


def rounding(terms: int, scale: float, dtype: torch.dtype = torch.float32) -> float:
    """Largest difference between two sums of the same terms, added up in two orders, as processors choose them.

    Each of them is off by (n − 1) u Σ|x| at most, where u is half of the dtype's epsilon (Higham, Accuracy and Stability of
    Numerical Algorithms, section 4.2).

    Parameters
    ----------
    terms : int
        n, along the longest chain of sums.
    scale : float
        Σ|x|.
    """
    return terms * torch.finfo(dtype).eps * scale
