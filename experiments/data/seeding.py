"""Random numbers as pure functions of (seed, purpose, position).

No generator lives across steps: every draw is made from a generator keyed by the run's seed, the purpose of the draw and
its position (an epoch, a step). So a resumed run, another engine or another number of devices draws the same numbers, and
there is no random state to save.
"""

from __future__ import annotations

import zlib

import numpy as np


def _sequence(seed: int, purpose: str, position: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *position])


def generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """NumPy generator for one draw: the run's seed (≥ 0), what is drawn, such as ``"crop"``, and at which epoch or step."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, position)))


def integer_seed(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for libraries that take one number, such as ``torch.manual_seed``."""
    high, low = _sequence(seed, purpose, position).generate_state(2, np.uint32)
    return (int(high) << 32 | int(low)) >> 1
