"""Models are compared in double precision: what two of them compute alike then differs by 1e-16 a term, on any processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

SAME = 1e-10
"""Of logits of size 1: 10⁴ terms of a row, through 12 blocks, round by 10⁴ · 12 · 2⁻⁵³ ≈ 1e-11."""


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
