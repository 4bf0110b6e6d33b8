"""What all strategies with several processes have in common: ranks, the process group, collectives."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fulmen.device import Accelerator
from fulmen.precision import Precision
from fulmen.signals import Ranks
from fulmen.strategy import children, collectives, environment, launch
from fulmen.strategy.base import Strategy
from fulmen.warn import rank_zero_only

T = TypeVar("T")

_fits = itertools.count()  # the same on all ranks, which run the same program


class ParallelStrategy(Strategy):
    """One process for each device, all of which run the same program."""

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: environment.ClusterEnvironment | None = None,
        checkpoint_io: Any = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(accelerator, checkpoint_io, precision_plugin)
        self.parallel_devices = parallel_devices or []
        self.cluster_environment: Any = cluster_environment
        self.start_method = "popen"
        self.process_group_backend: str | None = None
        self.timeout: timedelta | None = None
        self.store: dist.Store | None = None
        """What all ranks can write to and read from, without waiting for each other."""

    def place(self, accelerator: Accelerator, devices: list[torch.device], num_nodes: int = 1) -> None:
        """Take the devices, and find out which of the ranks this process is."""
        super().place(accelerator, devices, num_nodes)
        self.cluster_environment = self.cluster_environment or environment.detect()
        self.cluster_environment.set_world_size(num_nodes * len(self.parallel_devices))
        self.cluster_environment.validate_settings(len(self.parallel_devices), num_nodes)
        if self.cluster_environment.local_rank() >= len(self.parallel_devices):
            raise ValueError(
                f"This process is number {self.cluster_environment.local_rank()} of its machine (counted from 0), but "
                f"devices={len(self.parallel_devices)}. Pass as many devices as processes were started there."
            )
        self.take_rank()
        self.starts_anew = self.start_method != "popen" and not self.cluster_environment.creates_processes_externally

    def take_rank(self) -> None:
        """Read the ranks from the environment."""
        place = self.cluster_environment
        place.set_global_rank(place.node_rank() * len(self.parallel_devices) + place.local_rank())
        self.node_rank, self.local_rank, self.global_rank = place.node_rank(), place.local_rank(), place.global_rank()
        self.world_size = place.world_size()
        self.is_global_zero = self.global_rank == 0
        self.root_device = self.parallel_devices[self.local_rank]
        self.distributed_sampler_kwargs = {"num_replicas": self.world_size, "rank": self.global_rank}
        rank_zero_only.rank = self.global_rank  # type: ignore[attr-defined]
        children.follow_parent(self.global_rank)

    def launch(self, work: Callable[[], T]) -> T:
        """Run `work` on every rank, and return its result; from processes made for it, that of rank zero."""
        if self.starts_anew:
            return launch.spawn(self, work, self.start_method)
        if not self.cluster_environment.creates_processes_externally:
            self.store = children.start(self.cluster_environment, len(self.parallel_devices)).store
        return self.run(work)

    def run(self, work: Callable[[], T]) -> T:
        """`work`, as one of the ranks, which are all there."""
        with launch.together(self):
            self.setup_environment()
            return work()

    def setup_environment(self) -> None:
        super().setup_environment()
        if self.store is None and children.follow_parent(self.global_rank):
            self.store = children.meet(self.cluster_environment, is_host=False)
        if self.store is None and not dist.is_initialized():
            self.store = launch.agents_store(self.world_size, self.timeout)
        if self.store is None:
            os.environ.setdefault("MASTER_ADDR", self.cluster_environment.main_address)
            os.environ.setdefault("MASTER_PORT", str(self.cluster_environment.main_port))
        launch.join_group(self._backend(), self.global_rank, self.world_size, self.timeout, self.store)
        self.store = self.store or dist.distributed_c10d._get_default_store()

    def _backend(self) -> str:
        """NCCL never comes without gloo, which carries what is not on a GPU and does not wait for one."""
        default = "nccl" if self.root_device.type == "cuda" else "gloo"
        backend = self.process_group_backend or default
        return "cpu:gloo,cuda:nccl" if backend == "nccl" else backend

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        return collectives.reduce(tensor, reduce_op, group)

    def gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        return collectives.gather(data, group, sync_grads)

    def broadcast(self, obj: T, src: int = 0) -> T:
        return collectives.broadcast(obj, src)

    def gather_object(self, obj: T) -> list[T]:
        return collectives.gather_object(obj)

    def barrier(self, name: str | None = None) -> None:
        collectives.barrier()

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return collectives.agree(decision, all)

    def agreement(self, ahead: Callable[[], int]) -> Ranks | None:
        if self.world_size == 1:
            return None
        return Ranks(self.store, f"fulmen/stop/{next(_fits)}", self.global_rank, self.world_size, ahead)

    def give_up(self, told: str) -> None:
        launch.give_up(self, told)

    def save(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write on rank zero; when that fails, every rank raises."""
        failure = None
        if self.is_global_zero:
            try:
                super().save(checkpoint, path, storage_options)
            except Exception as error:
                failure = error
        told = self.broadcast(failure and (isinstance(failure, OSError), f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if told is not None:
            raise (OSError if told[0] else RuntimeError)(f"rank 0 could not save {os.fspath(path)!r}: {told[1]}")
