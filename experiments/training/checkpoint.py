"""Checkpoints: atomic, verified by their own digest, loadable without running code.

The newest one is ``last.pt``; the one before it stays as ``previous.pt``, so that there is always a whole one to fall back
to.
"""

from __future__ import annotations

import errno
import hashlib
import os
import warnings as stdlib_warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.records.record import CHECKPOINT_FILE, atomic_write, set_aside

SCHEMA = 1
PREVIOUS_FILE = "previous.pt"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key in value:
            yield from _flat(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}/{index}")
    else:
        yield path, value


def _digest(state: dict[str, Any]) -> str:
    """SHA-256 over every path and value of a nested state."""
    digest = hashlib.sha256()
    for path, value in _flat(state):
        digest.update(path.encode())
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(str((array.dtype, tuple(array.shape))).encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint into a run folder: nested dicts and lists of tensors, numbers, strings and None."""
    path = folder / CHECKPOINT_FILE
    with atomic_write(path.with_suffix(".new"), "wb") as file:
        try:
            torch.save({"schema": SCHEMA, "digest": _digest(state), "state": state}, file)
        except RuntimeError as error:  # how torch's writer tells a failed write, such as on a full disk
            raise OSError(
                errno.ENOSPC, "the checkpoint could not be written; the disk is probably full", str(path)
            ) from error
    if path.exists():
        os.replace(path, folder / PREVIOUS_FILE)
    os.replace(path.with_suffix(".new"), path)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    """The state of one file. Raises ValueError where it is not a whole checkpoint of this schema."""
    try:
        with stdlib_warnings.catch_warnings():
            stdlib_warnings.simplefilter("ignore")  # on the pickle protocol of files that this project did not write
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or hostile file
        raise ValueError(f"cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"is not a checkpoint of schema {SCHEMA}")
    if not isinstance(content.get("state"), dict) or content.get("digest") != _digest(content["state"]):
        raise ValueError("does not match its digest")
    return content["state"]


def load(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint of a run folder, if any, and a sentence for each file that was passed over."""
    warnings: list[str] = []
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        path = folder / name
        if path.is_dir():
            warnings.append(f"{path}: was a folder, no checkpoint; moved to {set_aside(path)}.")
            continue
        if not path.exists():
            continue
        try:
            return _read(path, device), warnings
        except ValueError as error:
            warnings.append(f"{path}: {error}; passed over.")
    if warnings:
        warnings.append(f"{folder}: no whole checkpoint is left; starting from step 0.")
    return None, warnings
