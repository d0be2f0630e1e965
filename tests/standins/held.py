"""A cell that lasts until it is told to stop, and a command with one worker on it and one idle; neither imports torch."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from experiments.grid import worker
from experiments.training import stop


def hold(place: Path) -> None:
    """Work, and write a checkpoint at the stop."""
    with stop.at_work:
        (place / "begun").touch()
        while not stop.requested():
            time.sleep(0.05)
        (place / "checkpoint").touch()


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, worker.initialise, (context.Event().is_set, 1)) as pool:
        pool.submit(hold, Path(sys.argv[1]))
        pool.submit(time.sleep, 0)
