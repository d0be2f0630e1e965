"""Specifications → ``.svg``, ``.pdf`` and ``.png``, equal byte for byte whenever the specification is equal."""

from __future__ import annotations

import re
from typing import Any

import vl_convert

POINTS = 0.65
"""Points of a pixel in a PDF: a lone panel then is a single column, 3.1 in, with letters of 6.5 pt."""
WIDE = 345
"""Points of a wide figure, as of a wide table."""
_ROWS = ("vconcat", "hconcat", "concat")


def contents(spec: dict[str, Any]) -> dict[str, bytes]:
    """A Vega-Lite specification as the bytes of ``.svg``, ``.pdf``, ``.png`` (at twice its size) and ``_wide.pdf``."""
    svg = same_gradients(vl_convert.vegalite_to_svg(spec))
    panels, whole = panel_width(spec), float(re.search(r'<svg[^>]* width="([\d.]+)', svg)[1])  # type: ignore[index]
    factor = max(1.0, (WIDE / POINTS - (whole - panels)) / panels)
    wide = same_gradients(vl_convert.vegalite_to_svg(scaled(spec, factor)))
    return {
        ".svg": svg.encode(),
        ".pdf": same_order(vl_convert.svg_to_pdf(in_points(svg))),
        ".png": vl_convert.svg_to_png(svg, scale=2),
        "_wide.pdf": same_order(vl_convert.svg_to_pdf(in_points(wide))),
    }


def in_points(svg: str) -> str:
    """A drawing in the size that it has on paper; its view box stays."""
    return re.sub(r'(?<= )(width|height)="([\d.]+)"', lambda side: f'{side[1]}="{POINTS * float(side[2]):g}"', svg, count=2)


def panel_width(spec: dict[str, Any]) -> float:
    """Pixels of the panels of a specification's widest row, without what stands around them."""
    if "vconcat" in spec:
        return max(map(panel_width, spec["vconcat"]))
    parts = spec.get("hconcat") or spec.get("concat")
    if not parts:
        return float(spec["width"])
    columns = spec.get("columns", len(parts))
    return max(sum(map(panel_width, parts[at : at + columns])) for at in range(0, len(parts), columns))


def scaled(spec: dict[str, Any], factor: float) -> dict[str, Any]:
    """A specification with panels `factor` times as wide; squares stay square, others grow less in height."""
    found = spec | {key: [scaled(part, factor) for part in spec[key]] for key in _ROWS if key in spec}
    if "width" in spec:
        square = spec["width"] == spec["height"]
        found |= {"width": factor * spec["width"], "height": spec["height"] * (factor if square else min(factor, 1.35))}
    return found


def same_gradients(svg: str) -> str:
    """Number gradients from 0: Vega counts them over the life of the process."""
    names = list(dict.fromkeys(re.findall(r"\bgradient_\d+\b", svg)))
    return re.sub(r"\bgradient_\d+\b", lambda match: f"gradient_{names.index(match[0])}", svg)


def same_order(pdf: bytes) -> bytes:
    """Sort the entries of resource dictionaries, which the PDF writer takes from a hash table in random order.

    Their order means nothing in a PDF, and sorting lines moves no other byte, so the table of offsets stays true.
    """
    entries = re.compile(rb"(?:^ +/[a-z]+\d+ \d+ 0 R\n){2,}", re.MULTILINE)
    return entries.sub(lambda match: b"".join(sorted(match[0].splitlines(keepends=True))), pdf)
