"""Files that say where things stand: no damage is a traceback, and what was lost is made again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import freshness
from analysis.run_folder import read_curve
from experiments.config.errors import UserError
from experiments.grid.ledger import SPLITS_FILE, lost_caches, read_splits
from experiments.records import state
from experiments.records.dataset import DATA_FILE, read_descriptions
from experiments.records.progress import PROGRESS_FILE, ended_attempts, read_progress
from experiments.records.record import METRICS_FILE, RECORD_FILE, read_record, read_rows
from experiments.records.state import read_cache
from experiments.tracking import dashboard, mirror
from experiments.training.watch import MetricsLog
from tests.experiments.test_training import Bench, equal_weights, killed_after

ATTEMPT = {"start_step": 0, "end_step": 5, "device": "cpu", "devices": 1, "seconds": 1.5, "reason": "running"}
DESCRIPTION = {"title": "P", "test_split": "its own", "train": {"a": 1}, "test": {"a": 1}, "samples": "s"}
ROW = {"step": 4, "train/loss": 0.5, "val/top1": None}
WHOLE: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    SPLITS_FILE: ({"digits/1/0": "ab"}, lambda folder: (read_splits(folder), lost_caches(folder))),
    METRICS_FILE: (
        ROW,
        lambda folder: (read_curve(folder / METRICS_FILE, 4, []), MetricsLog(folder, 0), read_rows(folder / METRICS_FILE)),
    ),
    PROGRESS_FILE: (
        {"step": 5, "steps": 9, "attempt": ATTEMPT, "started": "2026-01-01T00:00:00+00:00", "earlier": [ATTEMPT]},
        lambda folder: ended_attempts(read_progress(folder), []),
    ),
    DATA_FILE: ({"k": DESCRIPTION}, lambda folder: [known.summary for known in read_descriptions(folder).values()]),
    freshness.MEMORY_FILE: (
        {"key": "k", "accuracy_text": "", "verdict": [], "faults": [], "files": []},
        lambda folder: freshness.recall(folder, "k"),
    ),
    mirror.MIRROR_FILE: (
        {"id": "r-00000000", "experiment": "e", "run_id": "r", "config": {}},
        lambda folder: (mirror.page_of(folder), mirror.unsent(folder.parent), mirror.load_mirror(folder)),
    ),
    dashboard.STATE_FILE: (
        {"e/p": {"report": "x"}},
        lambda folder: read_cache(folder / dashboard.STATE_FILE, dict[str, dict[str, str]]),
    ),
    RECORD_FILE: ({"schema": 1}, lambda folder: (mirror.ended_by_record(folder), read_record(folder / RECORD_FILE))),
}
NESTED = b"[" * 100_000
ODD = [
    b"",
    b"\x00" * 64,
    b"\xff\xfe{\x00}\x00",
    b'"\xff"',
    NESTED,
    b'{"a":' * 100_000,
    b"[" * 80 + b"]" * 80,
    b"NaN",
    b"1e999",
]
ODD += [b"1" * 5000, b"null", b"[]", b"{}", b"3", b'"x"', b'{"step": 1, "step": 2}', b'{"step": 1e999}']
ODD += [b'{"a": "\\ud800"}']

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A kind of state file and what lies there instead: other types inside, a cut, flipped bytes, something odd."""
    name = draw(st.sampled_from(sorted(WHOLE)))
    whole = WHOLE[name][0]
    how = draw(st.sampled_from(["type", "cut", "flip", "odd", "insert"]))
    if how == "odd":
        return name, draw(st.sampled_from(ODD))
    if how == "type":
        return name, json.dumps(whole | {draw(st.sampled_from(sorted(whole))): draw(values)}).encode()
    content = json.dumps(whole).encode()
    at = draw(st.integers(0, len(content) - 1))
    if how == "cut":
        return name, content[:at]
    put = draw(st.sampled_from([b"\xff", b"\x00", b"{", b'"', b"9" * 400, b"\\ud800", NESTED]))
    return name, content[:at] + put + content[at + (how == "flip") :]


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(damaged())
def test_damage_is_a_message_or_nothing(tmp_path_factory: pytest.TempPathFactory, spoilt: tuple[str, bytes]) -> None:
    name, content = spoilt
    folder = tmp_path_factory.getbasetemp() / "spoilt" / "r"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    try:
        WHOLE[name][1](folder)
    except UserError as error:
        assert name.rpartition("/")[2] in str(error)
    finally:
        (folder / name).unlink()


@pytest.mark.parametrize("name", sorted(WHOLE))
@pytest.mark.parametrize("place", ["folder", "pipe", "loop", "huge"])
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path, name: str, place: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "loop": lambda: path.symlink_to(path),
        "huge": lambda: (path.touch(), os.truncate(path, 3 * 10**9)),
    }
    make[place]()
    try:
        WHOLE[name][1](tmp_path)
    except UserError as error:
        assert path.name in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbf" + b'{"a": "b"}', ""),
        (b'{"a": "b", "a": "c"}', "a key stands twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": 3}', "`a`: Input should be a valid string"),
        (b'["a"]', "Input should be an object"),
        (NESTED, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, "nested too deeply"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": ' + b"1" * 5000 + b"}", "4300"),
        (b"", "Expecting value"),
    ],
)
def test_each_damage_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    if not words:
        assert state.read_json(path, dict[str, str]) == {"a": "b"}
        return
    with pytest.raises(state.StateError) as caught:
        state.read_json(path, dict[str, str])
    assert str(caught.value).startswith(f"{path}: truncated or foreign") and words in str(caught.value)


def test_only_a_last_line_may_be_cut_short(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    line = json.dumps(ROW).encode()
    path.write_bytes(line + b"\n" + line[:9] + b"\xff\x00")
    assert read_rows(path) == [ROW]
    with pytest.raises(state.StateError, match="line 2"):
        state.read_evaluations(path, whole=True)
    path.write_bytes(line[:9] + b"\n" + line + b"\n")
    with pytest.raises(UserError, match="line 1"):
        read_rows(path)


# ------------------------------------------------------------------------------------------------ a run that goes on
def spoil(path: Path, how: str) -> None:
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir()
        (path / "of the user").touch()
    else:
        path.write_bytes(
            {"bytes": b"\xff\x00", "nested": NESTED, "types": b'{"step": "x", "attempt": null, "earlier": {}}\n{}'}[how]
        )


@pytest.mark.parametrize("how", ["bytes", "nested", "types", "folder"])
def test_a_stopped_run_with_damaged_files_goes_on_bit_by_bit(tmp_path: Path, how: str) -> None:
    whole = Bench(tmp_path / "whole")
    whole.fit()
    folder = tmp_path / "parts"
    killed_after(folder, 12, 9)
    for name in (METRICS_FILE, PROGRESS_FILE):
        spoil(folder / name, how)
    again = Bench(folder)
    assert again.start == 9 and "restored from the checkpoint" in again.log.warnings[0]
    assert [attempt["end_step"] for attempt in again.heartbeat.earlier] == [9]
    assert read_progress(folder)["step"] == 9
    again.fit()
    assert again.rows() == whole.rows() and equal_weights(whole.training.model, again.training.model)
    assert len(list(folder.glob("*.aside-*/of the user"))) == (2 if how == "folder" else 0), "nothing of the user's is lost"


def test_rows_before_a_first_checkpoint_are_made_again(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(b"\xff\n{}\n")
    log = MetricsLog(tmp_path, 0)
    assert log.rows == [] and "begins at step 0" in log.warnings[0] and "line 1" in log.warnings[0]
    assert (tmp_path / METRICS_FILE).read_bytes() == b""
