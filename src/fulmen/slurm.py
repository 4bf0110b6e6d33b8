"""A SLURM job that is warned before its time is over: saved, requeued, and resumed by itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from fulmen.strategy.environment import SLURMEnvironment
from fulmen.warn import log


def requeues() -> bool:
    """Whether this is a batch job that SLURM can run again."""
    return SLURMEnvironment.detect() and "SLURM_JOB_ID" in os.environ


def _checkpoints(folder: str) -> dict[int, str]:
    if "://" in folder or not os.path.isdir(folder):
        return {}
    found = ((re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", path.name), path) for path in Path(folder).iterdir())
    return {int(match[1]): str(path) for match, path in found if match}


def next_checkpoint(folder: str) -> str:
    return os.path.join(folder, f"hpc_ckpt_{max(_checkpoints(folder), default=0) + 1}.ckpt")


def newest_checkpoint(folder: str) -> str | None:
    """What the job saved before it was requeued."""
    found = _checkpoints(folder) if requeues() else {}
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
