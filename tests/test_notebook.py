"""The notebook: its two files agree, and it runs without network with the outputs that it promises."""

from __future__ import annotations

import json
import re

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from experiments.config.paths import ROOT

FOLDER = ROOT / "notebooks"


def read(name: str) -> nbformat.NotebookNode:
    return jupytext.read(FOLDER / name)


def test_the_text_and_the_notebook_agree() -> None:
    text, notebook = read("four_equations.py"), read("four_equations.ipynb")
    assert [(cell.cell_type, cell.source) for cell in text.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ], "renew the notebook: make notebook"
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "outputs are not committed"


def test_it_shows_every_equation_and_imports_its_code() -> None:
    cells = read("four_equations.py").cells
    words = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert [f"\\tag{{{number}}}" in words for number in (1, 2, 3, 4)] == [True] * 4
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert not re.search(r"class \w+\(nn\.Module\)", code), "the model is imported, never copied"
    assert code.count("assert") > 30


def test_it_runs_offline_with_the_outputs_that_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "digits")
    monkeypatch.setenv("STEPS", "40")
    notebook = read("four_equations.ipynb")
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "85,800,963 parameters, by both counts" in printed
    assert "196 patches + 1 class token = 197 tokens of width 768" in printed
    assert "All shapes hold." in printed
    result = json.loads(next(line for line in printed.splitlines() if line.startswith('{"test/top1"')))
    assert result["steps"] == 40
    assert result["test/top1"]["ResNet"] > 0.3, "40 steps take a ResNet well above a tenth"
    assert 0.05 < result["test/top1"]["ViT"] < 1
    figures = [output for output in outputs if output.output_type == "display_data" and "image/png" in output.data]
    assert len(figures) == 10
    assert not [output for output in outputs if output.output_type == "error"]
