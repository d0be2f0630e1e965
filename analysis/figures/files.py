"""Specifications → ``.svg``, ``.pdf`` and ``.png``, equal byte for byte whenever the specification is equal."""

from __future__ import annotations

import re
from typing import Any

import vl_convert


def contents(spec: dict[str, Any]) -> dict[str, bytes]:
    """A Vega-Lite specification as the bytes of ``.svg``, ``.pdf`` and ``.png`` (at twice its size); it is laid out once."""
    svg = same_gradients(vl_convert.vegalite_to_svg(spec))
    return {
        ".svg": svg.encode(),
        ".pdf": same_order(vl_convert.svg_to_pdf(svg)),
        ".png": vl_convert.svg_to_png(svg, scale=2),
    }


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
