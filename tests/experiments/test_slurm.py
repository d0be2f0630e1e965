"""The Slurm script on a cluster of one node, started here, where Slurm and munge are installed."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.config.paths import ROOT
from experiments.records.record import read_record

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A munge, a controller and a node of their own. Yields the environment in which Slurm's commands find them."""
    pytest.importorskip("ray", reason="Ray is not installed; ENGINE=ray installs it")
    missing = [name for name in (*DAEMONS, "sbatch") if not (shutil.which(name) or Path("/usr/sbin", name).exists())]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'} (Debian: slurm-wlm, munge)")
    folder, host = Path("/run") / f"slurm-test-{os.getpid()}", socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, control=free_port(), node=free_port(), folder=folder), encoding="utf-8")
    environment = os.environ | {"SLURM_CONF": str(config)}
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munge, ["slurmctld", "-D", "-f", str(config)], ["slurmd", "-D", "-f", str(config), "-N", host]):
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while (
            "idle" not in subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True).stdout
        ):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text(encoding="utf-8")[-2000:]
            time.sleep(1)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_job_runs_the_experiment(cluster: dict[str, str], tmp_path: Path) -> None:
    wanted = "recipe.steps=4 recipe.evaluations=2 seeds=[0] train_fractions=[1.0]"
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # Ray's sockets lie there: their paths must be short
        environment = cluster | {"NAME": "smoke", "ARGS": wanted, "RAY_TMPDIR": short}
        done = subprocess.run(
            ["sbatch", "--wait", f"--output={tmp_path}/job.out", "configs/slurm/ray.sbatch"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580,
        )  # fmt: skip
    printed = (tmp_path / "job.out").read_text(encoding="utf-8") if (tmp_path / "job.out").exists() else done.stderr
    assert done.returncode == 0, printed
    records = [read_record(path) for path in (tmp_path / "runs_dir" / "smoke").glob("*/record.json")]
    assert [record.status for record in records] == ["done", "done"]
    assert "[2/2] done" in printed and "report.html" in printed
