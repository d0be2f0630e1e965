"""A run on disk: finding it, and what of it may leave this machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from experiments.config.errors import ConfigError
from experiments.config.paths import runs_dir
from experiments.config.schema import join_words, repeat_command
from experiments.records.record import RECORD_FILE
from experiments.records.state import StateError, read_json

MERGED_FILE = "merged.json"
"""Beside merged runs: by run id the ``source`` that it was taken from and the ``lab`` that ran it, empty where not named."""


def read_merged(folder: Path) -> dict[str, dict[str, Any]]:
    """Who ran what, of an experiment's folder; empty where it was not merged.

    Raises
    ------
    ConfigError
        If the file is damaged.
    """
    try:
        return read_json(folder / MERGED_FILE, dict[str, dict[str, dict[str, Any]]]).get("runs", {})
    except FileNotFoundError:
        return {}
    except StateError as error:
        raise ConfigError(f"{error}. Merge again, or delete it: who ran what is then not known.") from error


def find_run(run: Path) -> Path:
    """The folder of a run that ended, given as a folder or by its id.

    Raises
    ------
    ConfigError
        If there is no such run, or several experiments have one of that id.
    """
    if (run / RECORD_FILE).is_file():
        return run
    found = sorted(path.parent for path in runs_dir().glob(f"*/*/{RECORD_FILE}") if path.parent.name == run.name)
    if not found:
        raise ConfigError(f"{run}: no run folder, and no finished run of that name below {runs_dir()}.")
    if len(found) > 1:
        raise ConfigError(f"{run}: several runs have this name; give the folder of one: {', '.join(map(str, found))}.")
    return found[0]


def config_without_path(path: Path) -> bytes:
    """A run's ``config.yaml``; where it names a folder of images, without the way to it.

    Raises
    ------
    ValueError
        If the file is not what a run writes.
    """
    content = path.read_bytes()
    if re.search(rb"(?m)^  path: null$", content):
        return content
    try:
        values = yaml.safe_load(content)
        if found := values["data"]["path"]:
            values["data"]["path"] = name = folder_name(found)
            words = shlex.split(values.get("command") or "")
            args = words[-1].removeprefix("ARGS=") if words and words[-1].startswith("ARGS=") else ""
            args = args.replace(f"data.path={found}", f"data.path={name}")  # as earlier versions wrote it, without quotes
            if args:
                values["command"] = repeat_command(values["experiment"], without_path(args))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the configuration of a run ({type(error).__name__})") from error
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def folder_name(path: str) -> str:
    """The name of a folder of images, which says nothing of the machine."""
    return Path(path).name or path  # "." and "/" have none


def without_path(args: str) -> str:
    """Overrides, as ``ARGS`` has them, in which the folder of images is cut down to its name."""
    key = "data.path="
    try:
        words = shlex.split(args)
    except ValueError:  # joined by an earlier version, which quoted nothing
        words = args.split()
    return join_words(f"{key}{folder_name(word.removeprefix(key))}" if word.startswith(key) else word for word in words)
