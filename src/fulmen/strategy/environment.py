"""Who started this process, and which rank it has: torchrun, SLURM, MPI, Kubeflow, or nobody but the user."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from signal import Signals

from fulmen.errors import MisconfigurationException


class ClusterEnvironment(ABC):
    """How processes find each other on a cluster. A subclass can be passed as `Trainer(plugins=[...])`."""

    @property
    @abstractmethod
    def creates_processes_externally(self) -> bool:
        """Whether the processes are all there already; otherwise the strategy starts those of this machine."""

    @property
    @abstractmethod
    def main_address(self) -> str:
        """The host of rank zero."""

    @property
    @abstractmethod
    def main_port(self) -> int:
        """A free port on that host."""

    @staticmethod
    @abstractmethod
    def detect() -> bool:
        """Whether this process runs in such an environment."""

    @abstractmethod
    def world_size(self) -> int:
        """The number of processes on all machines."""

    @abstractmethod
    def set_world_size(self, size: int) -> None:
        """Called with `devices * num_nodes`; an environment that knows better need not listen."""

    @abstractmethod
    def global_rank(self) -> int:
        """The number of this process among all."""

    @abstractmethod
    def set_global_rank(self, rank: int) -> None:
        """Called with the rank that follows from `node_rank` and `local_rank`."""

    @abstractmethod
    def local_rank(self) -> int:
        """The number of this process on its machine: its device."""

    @abstractmethod
    def node_rank(self) -> int:
        """The number of this machine."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise if the Trainer's `devices` and `num_nodes` do not fit what was started."""

    def teardown(self) -> None:
        """Undo what was changed for the run."""


class LightningEnvironment(ClusterEnvironment):
    """No cluster: the strategy starts the other processes of this machine.

    For several machines start the program on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set. Whoever starts
    every process himself sets LOCAL_RANK as well.
    """

    def __init__(self) -> None:
        self._world_size = 1
        self._global_rank = 0

    @property
    def creates_processes_externally(self) -> bool:
        return "LOCAL_RANK" in os.environ

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """0 stands for any free one."""
        return int(os.environ.get("MASTER_PORT", 0))

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return self._world_size

    def set_world_size(self, size: int) -> None:
        self._world_size = size

    def global_rank(self) -> int:
        return self._global_rank

    def set_global_rank(self, rank: int) -> None:
        self._global_rank = rank

    def local_rank(self) -> int:
        return int(os.environ.get("LOCAL_RANK", 0))

    def node_rank(self) -> int:
        return int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
        if num_nodes > 1 and missing and "GROUP_RANK" not in os.environ:
            raise MisconfigurationException(
                f"num_nodes={num_nodes} needs {' and '.join(missing)} in the environment of the program on each "
                "machine; or start it with torchrun or srun."
            )


class _Launched(ClusterEnvironment):
    """Processes started by a program that tells each of them its place in environment variables."""

    launcher = ""
    variables: tuple[str, str, str, str] = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "GROUP_RANK")
    """Those with the world size, the global rank, the local rank and the machine's number."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", 12910))

    def world_size(self) -> int:
        return int(os.environ[self.variables[0]])

    def set_world_size(self, size: int) -> None:
        """The launcher has set it."""

    def global_rank(self) -> int:
        return int(os.environ[self.variables[1]])

    def set_global_rank(self, rank: int) -> None:
        """The launcher has set it."""

    def local_rank(self) -> int:
        return int(os.environ[self.variables[2]])

    def node_rank(self) -> int:
        return int(os.environ.get(self.variables[3], 0))

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        if num_devices * num_nodes != self.world_size():
            raise ValueError(
                f"{self.launcher} started {self.world_size()} processes, but devices={num_devices} and "
                f"num_nodes={num_nodes} make {num_devices * num_nodes}. Pass the devices of one machine as devices=... "
                "and the number of machines as num_nodes=..."
            )


class TorchElasticEnvironment(_Launched):
    """Processes started by torchrun."""

    launcher = "torchrun"

    @staticmethod
    def detect() -> bool:
        return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"} <= os.environ.keys()


class MPIEnvironment(_Launched):
    """Processes started by Open MPI's mpirun; over several machines it needs MASTER_ADDR."""

    launcher = "mpirun"
    variables = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "")

    @staticmethod
    def detect() -> bool:
        return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1

    def node_rank(self) -> int:
        return self.global_rank() // int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"])


class KubeflowEnvironment(_Launched):
    """Pods of Kubeflow's PyTorchJob, one process in each; has to be passed in `plugins`."""

    launcher = "Kubeflow"
    variables = ("WORLD_SIZE", "RANK", "", "RANK")

    @staticmethod
    def detect() -> bool:
        raise NotImplementedError("Kubeflow cannot be detected; pass KubeflowEnvironment() in plugins.")

    def local_rank(self) -> int:
        return 0


class SLURMEnvironment(_Launched):
    """Processes started by srun.

    With `auto_requeue` a job that gets `requeue_signal` (SIGUSR1 by default) saves, and is queued again.
    """

    launcher = "srun"
    variables = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")

    def __init__(self, auto_requeue: bool = True, requeue_signal: Signals | None = None) -> None:
        self.auto_requeue = auto_requeue
        self.requeue_signal = requeue_signal

    @staticmethod
    def detect() -> bool:
        return "SLURM_NTASKS" in os.environ and SLURMEnvironment.job_name() not in ("bash", "interactive")

    @staticmethod
    def job_name() -> str | None:
        return os.environ.get("SLURM_JOB_NAME")

    @staticmethod
    def job_id() -> int | None:
        job = os.environ.get("SLURM_JOB_ID", "")
        return int(job) if job.isdecimal() and not SLURMEnvironment.is_interactive() else None

    @staticmethod
    def is_interactive() -> bool:
        return SLURMEnvironment.job_name() in ("bash", "interactive")

    @staticmethod
    def resolve_root_node_address(nodes: str) -> str:
        """The first host of a list as SLURM writes them: "node[03-05,9],other" gives "node03"."""
        nodes = re.sub(r"\[(.*?)[,-].*\]", r"\1", nodes)
        nodes = re.sub(r"\[(.*?)\]", r"\1", nodes)
        return re.split(r"[ ,]", nodes)[0]

    @property
    def main_address(self) -> str:
        if "MASTER_ADDR" in os.environ:
            return os.environ["MASTER_ADDR"]
        return self.resolve_root_node_address(os.environ.get("SLURM_NODELIST", "127.0.0.1"))

    @property
    def main_port(self) -> int:
        """From the number of the job, so that all ranks find the same and two jobs do not meet."""
        default = 15000 + int(os.environ.get("SLURM_JOB_ID", "0")[-4:])
        return int(os.environ.get("MASTER_PORT", default))


def detect() -> ClusterEnvironment:
    """The environment that this process was started in."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment, MPIEnvironment):
        if kind.detect():
            return kind()
    return LightningEnvironment()
