"""The figures of ``make shape`` count what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shape

TEXT = '''"""A module."""

import os  # why


def f(a, *, b, **more):
    """One line."""
    # a comment
    return """not
a docstring"""
'''


def test_every_line_has_one_kind() -> None:
    assert shape.kinds_of_lines(TEXT) == {"docstring": 2, "comment": 1, "code": 4, "blank": 3}


def test_functions_are_measured() -> None:
    assert list(shape.functions(Path("m.py"), TEXT)) == [("m.py:f", 5, 3)]


def test_names_are_found_in_code_alone() -> None:
    texts = {Path("a.py"): 'x = "test/cosine"', Path("b.py"): "# cosine\n'about cosine'", Path("c.py"): "def cosine(): ..."}
    assert shape.files_that_name("cosine", texts) == [Path("a.py"), Path("c.py")]


def test_the_report_names_all_that_was_asked() -> None:
    shown = shape.report(with_frames=False)
    for words in ("entries in experiments/: ", "product lines", "more than 60 lines", "more than 8 parameters", "metric ("):
        assert words in shown


@pytest.mark.slow
def test_the_path_to_the_step_goes_from_the_command_to_the_training() -> None:
    found = shape.frames()
    assert found[:2] == ["experiments/__main__.py:<module>", "experiments/__main__.py:main"]
    assert all(frame.startswith("experiments/") for frame in found)
    assert found[-1].startswith("experiments/training/steps.py:")
