"""A SLURM job that is warned before its time is over: saved, requeued, and resumed by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from fulmen.strategy.environment import SLURMEnvironment
from fulmen.warn import log


def _environment(strategy: Any) -> SLURMEnvironment | None:
    """What the program said of the job, or was found out about it; None where nothing can be requeued."""
    given = getattr(strategy, "cluster_environment", None)
    if given is None and SLURMEnvironment.detect():
        given = SLURMEnvironment()
    job = isinstance(given, SLURMEnvironment) and given.auto_requeue and "SLURM_JOB_ID" in os.environ
    return given if job else None


def signals(strategy: Any) -> list[int]:
    """The signal that announces the end of the job's time, where the job is to be requeued."""
    environment = _environment(strategy)
    return [] if environment is None else [environment.requeue_signal or signal.SIGUSR1]


def requeues(strategy: Any, received: int | None) -> bool:
    """Whether the job is to be queued again when it was ended by this signal."""
    return received in signals(strategy)


def _checkpoints(folder: str) -> dict[int, str]:
    if "://" in folder or not os.path.isdir(folder):
        return {}
    found = ((re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", path.name), path) for path in Path(folder).iterdir())
    return {int(match[1]): str(path) for match, path in found if match}


def next_checkpoint(folder: str) -> str:
    return os.path.join(folder, f"hpc_ckpt_{max(_checkpoints(folder), default=0) + 1}.ckpt")


def newest_checkpoint(folder: str, strategy: Any) -> str | None:
    """What the job saved before it was requeued."""
    found = _checkpoints(folder) if signals(strategy) else {}
    return found[max(found)] if found else None


def requeue() -> None:
    """Ask SLURM to run this job again."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, timeout=60)
        log.info("Requeued SLURM job %s.", job)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("SLURM job %s was saved but could not be requeued: %s. Submit it again.", job, error)
