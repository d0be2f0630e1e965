"""Numbers as text: no more decimals than their interval supports, a dash for what is unknown."""

from __future__ import annotations

import math

UNKNOWN = "–"


def known(value: float | None) -> bool:
    """Whether a value is a finite number."""
    return value is not None and math.isfinite(value)


def decimals(half_width: float, *, at_most: int = 4) -> int:
    """Decimals that an interval of this half-width supports.

    The rule of the Particle Data Group: of the half-width's three leading digits, 100–354 and 950–999 keep two digits,
    355–949 keep one; the value is then given to the same place.

    Parameters
    ----------
    half_width : float
        In the unit in which the value is printed. With 0 there is no limit but `at_most`; NaN gives 1.
    at_most : int
        Upper bound on the answer.

    References
    ----------
    Particle Data Group, Review of Particle Physics, Introduction, section 5.3 (Rounding).
    """
    if not known(half_width):
        return 1
    if half_width <= 0:
        return at_most
    exponent = math.floor(math.log10(half_width))
    leading = half_width / 10**exponent
    digits = 1 if 3.545 <= leading < 9.495 else 2
    exponent += leading >= 9.495
    return min(max(digits - 1 - exponent, 0), at_most)


def number(value: float | None, places: int, *, signed: bool = False) -> str:
    """A number with a true minus sign, never a negative zero; a dash where unknown."""
    if not known(value):
        return UNKNOWN
    rounded = round(float(value), places) + 0.0  # type: ignore[arg-type]
    return f"{rounded:{'+' if signed else ''}.{places}f}".replace("-", "−")


def plus_minus(mean: float, deviation: float, places: int) -> str:
    """``mean ± deviation``; the mean alone where the deviation is unknown."""
    return number(mean, places) + (f" ± {number(deviation, places)}" if known(deviation) and known(mean) else "")


def bracket(low: float, high: float, places: int, *, signed: bool = False) -> str:
    """``[low, high]``; a dash where unknown."""
    if not (known(low) and known(high)):
        return UNKNOWN
    return f"[{number(low, places, signed=signed)}, {number(high, places, signed=signed)}]"


def significant(value: float | None, digits: int = 3) -> str:
    """A quantity to some significant digits, with an exponent only where it is tiny; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace(",", "\u202f").replace("-", "−")


def percent(fraction: float) -> str:
    """A train fraction as a percentage, exact: ``0.03`` → ``3%``, ``0.125`` → ``12.5%``."""
    return f"{100 * fraction:.10g}%"
