"""The environments of the frameworks under .venvs/: one torch for all, whatever else each needs in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PLACE = HERE / ".venvs"
NEEDS = {
    "fulmen": "tensorboard rich PyYAML",
    "lightning": "lightning==2.6.6 tensorboard rich",
    "accelerate": "accelerate==1.15.0",
    "transformers": "transformers==5.23.0 accelerate==1.15.0",
    "ignite": "pytorch-ignite==0.5.5",
    "torchtnt": "torchtnt==0.2.4 setuptools==80.9.0",  # imports pkg_resources, which later ones do not have
    "skorch": "skorch==1.4.0",
    "fastai": "fastai==2.8.12",
    "keras": "keras==3.15.0",
}
WHERE = {"raw": "torch", "fabric": "lightning"}  # frameworks that live in another's environment
FRAMEWORKS = ["raw", "fulmen", "lightning", "fabric", *list(NEEDS)[2:]]


def python(name: str) -> Path:
    return PLACE / WHERE.get(name, name) / "bin" / "python"


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise RuntimeError(lines[-1] if lines else f"pip ended with {done.returncode}")


def make(name: str) -> None:
    """Make the environment, unless a stamp says that it holds just this."""
    needs = NEEDS.get(name, "torch numpy tqdm").split()
    place, stamp = PLACE / name, PLACE / name / "ready"
    if stamp.exists() and stamp.read_text() == " ".join(needs):
        return
    print(f"Setting up {place.relative_to(HERE.parent)}", flush=True)
    run(sys.executable, "-m", "venv", "--clear", *(["--without-pip"] if name != "torch" else []), place)
    if name != "torch":
        library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        (place / library / "torch.pth").write_text(f"{PLACE / 'torch' / library}\n")
    run(place / "bin" / "python", "-m", "pip", "install", "-q", "-c", HERE.parent / "constraints.txt", *needs)
    stamp.write_text(" ".join(needs))


def ready(frameworks: list[str]) -> dict[str, str]:
    """Make what these frameworks need; gives those that cannot be installed, with the reason."""
    missing = {}
    make("torch")
    for name in frameworks:
        try:
            make(WHERE.get(name, name))
        except RuntimeError as error:
            missing[name] = f"cannot be installed here: {error}"
    return missing


def environment(gpu: bool = False) -> dict[str, str]:
    """What the processes of a benchmark run with."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV")}
    paths = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    return {**kept, **own, **({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})}
