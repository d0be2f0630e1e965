"""``SHA256SUMS`` beside published runs, as ``sha256sum --check`` reads it: whoever has it finds a changed byte."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from experiments.records.record import CONFIG_FILE, METRICS_FILE, PREDICTIONS_FILE, RECORD_FILE, RecordError, write_whole

SUMS_FILE = "SHA256SUMS"
RUN_FILES = (PREDICTIONS_FILE, CONFIG_FILE, METRICS_FILE, RECORD_FILE)
"""Of a run, its record last."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([\w.-]+/[\w.-]+)")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_digests(folder: Path) -> dict[str, str]:
    """Digests by file, from the experiment's folder on; none where the folder was published without.

    Raises
    ------
    RecordError
        If the file is not what ``sha256sum`` writes.
    """
    path = folder / SUMS_FILE
    found = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise RecordError(f"{path}, line {number}: not a digest and a file, as sha256sum writes them. Restore the file.")
        found[match[2]] = match[1]
    return found


def changed_files(folder: Path) -> dict[str, str]:
    """Files that differ from their digest, each with a sentence that names it; raises as `read_digests`."""
    found = {}
    for name, wanted in read_digests(folder).items():
        try:
            digest = file_digest(folder / name)
        except OSError as error:
            found[name] = f"{folder / name}: cannot be read ({error.strerror}), {SUMS_FILE} lists it. Restore the file."
            continue
        if digest != wanted:
            words = f"its SHA-256 is {digest[:16]}…, {SUMS_FILE} has {wanted[:16]}…"
            found[name] = f"{folder / name}: changed after it was published ({words}). Restore the file."
    return found


def add_digests(folder: Path, runs: Collection[str] | None = None) -> int:
    """List the files of these runs anew, or without `runs` those that are not listed yet. Returns how many are listed.

    Raises
    ------
    RecordError
        If there is no run to list; as `read_digests`.
    """
    known = read_digests(folder)
    there = [path.parent.name for path in folder.glob(f"*/{RECORD_FILE}")] if runs is None else runs
    if runs is None and not (known or there):
        raise RecordError(f"FROM: {folder} holds no finished run. Give the folder that holds {folder.name}/<run_id>/.")
    for name in (f"{run}/{file}" for run in there for file in RUN_FILES):
        if (folder / name).is_file() and (runs is not None or name not in known):
            known[name] = file_digest(folder / name)
    write_whole(folder / SUMS_FILE, "".join(f"{digest}  {name}\n" for name, digest in sorted(known.items())))
    return len(known)
