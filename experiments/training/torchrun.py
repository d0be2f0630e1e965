"""What ``torchrun`` tells a process in its environment, read without importing torch."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from experiments.config.errors import ConfigError


class Place(NamedTuple):
    """One process among those that share a run: its rank and their number, over all machines and on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place() -> Place:
    """Where ``torchrun`` put this process; alone where it did not start it, or started no other.

    Raises
    ------
    ConfigError
        If the environment speaks of several processes and lacks what ``torchrun`` says of them.
    """
    given = {"LOCAL_WORLD_SIZE": "1"} | dict(os.environ)  # which other launchers leave out
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    numbers = {name: int(given[name]) for name in names if re.fullmatch("[0-9]{1,9}", given.get(name, ""))}
    if "WORLD_SIZE" not in given or numbers.get("WORLD_SIZE") == 1:
        return Place()
    wrong = [name for name in names if name not in numbers] + ["MASTER_ADDR"] * (not given.get("MASTER_ADDR"))
    if not wrong and numbers["RANK"] >= numbers["WORLD_SIZE"]:
        wrong = ["RANK"]
    if wrong:
        said = ", ".join(f"{name}={given[name]!r}" if name in given else f"no {name}" for name in wrong)
        raise ConfigError(
            f"WORLD_SIZE: {given['WORLD_SIZE']!r} belongs to torchrun, and this process was not started by it ({said}). "
            f"Unset WORLD_SIZE, or start the command so: .venv/bin/torchrun --nproc-per-node 2 -m experiments run …"
        )
    return Place(*(numbers[name] for name in names[:4]))
