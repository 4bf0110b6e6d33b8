"""Bring the ranks together: start them or find them, join them to a group, and let none go on alone.

`popen` runs the program again for each further rank, and this process is the first of them; `spawn`, `fork` and
`forkserver` make all ranks anew for one call. What torchrun, srun and the like have started is only joined.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fulmen.errors import MisconfigurationException, SIGTERMException
from fulmen.strategy import children

if TYPE_CHECKING:
    from fulmen.strategy.parallel import ParallelStrategy

METHODS = ("popen", "spawn", "fork", "forkserver")

FAILURE = "fulmen/failure"
"""The key in the group's store under which the first rank that fails tells the others why."""

LOST_RANK = ("closed by peer", "reset by peer", "Broken pipe", "gloo/transport", "NCCL")
"""Words in the errors of ranks that fail because another one did."""


def join_group(backend: str, rank: int, world_size: int, timeout: timedelta | None, store: Any = None) -> None:
    """Make the process group, once in a process; the address is `store`'s, or stands in MASTER_ADDR and MASTER_PORT."""
    if dist.is_initialized():
        if dist.get_world_size() != world_size:
            raise MisconfigurationException(
                f"This program runs as {dist.get_world_size()} processes already, so devices and num_nodes cannot make "
                f"{world_size} now. Use the same numbers for each Trainer of a program, or one device."
            )
        return
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout, store=store)
    if children.started is not None:
        children.started.joined = True
    atexit.register(leave_group)


def agents_store(world_size: int, timeout: timedelta | None) -> dist.Store | None:
    """The store that torchrun keeps for the processes of one machine, with a place of its own for each attempt.

    Started again without a rendezvous backend they would find the addresses of those that died. Several machines have
    such a backend, and may count their attempts differently.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world_size, False, timeout or dist.default_pg_timeout)
    return dist.PrefixStore(f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def leave_group() -> None:
    """At the end of a process: ranks that still wait for it get an error, and the first rank sees the others off."""
    if children.started is not None and children.started.ended:
        return
    if dist.is_initialized():
        dist.destroy_process_group()
    if children.started is not None:
        children.started.finish()


@contextlib.contextmanager
def together(strategy: ParallelStrategy) -> Iterator[None]:
    """Around the work of a rank: an error on one rank becomes known to all, and none of them goes on alone."""
    others = children.started
    if others is not None:
        others.working = True
    try:
        yield
    except BaseException as error:
        in_order = getattr(error, "of_all_ranks", False)  # all of them end here
        reason = None if in_order else _reason(error, strategy)
        if others is not None:
            if in_order:
                others.wait(children.GRACE_S, every=False)
            others.end()
        if reason is not None:
            failure = RuntimeError(reason)
            failure.of_another_rank = True  # type: ignore[attr-defined]
            raise failure from error
        raise
    finally:
        if others is not None:
            others.working = False


def _reason(error: BaseException, strategy: ParallelStrategy) -> str | None:
    """What happened on the rank whose loss made this one fail; an error of this rank's own is told to the others."""
    lost = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in LOST_RANK)
    )
    if strategy.store is not None:
        with contextlib.suppress(dist.DistError):  # its host may be the lost rank
            if not lost:
                report = f"rank {strategy.global_rank} failed: {type(error).__name__}: {error}"
                strategy.store.compare_set(FAILURE, "", report)
            elif strategy.store.check([FAILURE]):
                return strategy.store.get(FAILURE).decode()
    parent = children.follow_parent(strategy.global_rank)
    if lost and children.started is not None:
        children.started.wait(children.GRACE_S, every=True)
        if not children.started.is_alive(every=True):
            return children.started.obituary()
    elif lost and parent and os.getppid() != parent:
        return f"rank {strategy.global_rank - strategy.local_rank} (process {parent}) died."
    return None


def give_up(strategy: ParallelStrategy, told: str) -> None:
    """End this process, which is stuck, from another thread; the others hear why."""
    if strategy.store is not None:
        with contextlib.suppress(RuntimeError):
            store: Any = strategy.store
            store.clone().compare_set(FAILURE, "", f"rank {strategy.global_rank} failed: {told}")
    if children.started is not None:
        children.started.leave()
    os._exit(1)


def spawn(strategy: ParallelStrategy, work: Callable[[], Any], method: str) -> Any:
    """Run `work` in new processes, one for each device, and return the result of rank zero.

    Not on the first machine: None. Tensors in the result have to be on the CPU.
    """
    if method == "fork" and torch.cuda.is_initialized():
        raise RuntimeError(
            "This process has used CUDA already, so it cannot be forked. In a notebook, restart the kernel and touch "
            "no GPU before trainer.fit(); in a script use strategy='ddp'."
        )
    environment = strategy.cluster_environment
    store = children.meet(environment, is_host=environment.node_rank() == 0)
    with tempfile.TemporaryDirectory(prefix="fulmen-") as folder:
        result = os.path.join(folder, "result")
        arguments = (strategy, work, store.port, result)
        try:
            context = mp.start_processes(_run_rank, arguments, len(strategy.parallel_devices), False, False, method)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise MisconfigurationException(
                f"start_method={method!r} sends the module, the data and the callbacks to new processes, but one of "
                f"them cannot be pickled: {error}. Define it at the top of a module, or use strategy='ddp'."
            ) from error
        _wait(context, store)
        return torch.load(result, weights_only=False) if os.path.exists(result) else None


def _wait(context: Any, store: dist.Store) -> None:
    """Wait for the processes; when one fails, end the others and say why."""
    try:
        while not context.join(grace_period=children.GRACE_S / 2):
            pass
    except mp.ProcessRaisedException as error:
        reason = f"rank {error.error_index} failed: {str(error).strip().splitlines()[-1]}"
        if store.check([FAILURE]):
            reason = store.get(FAILURE).decode()
        raise RuntimeError(reason) from error
    except mp.ProcessExitedException as error:
        if error.exit_code > 128:  # all ranks ended in good order, by a signal
            raise KeyboardInterrupt if error.exit_code == 130 else SIGTERMException(error.exit_code) from None
        raise RuntimeError(f"rank {error.error_index} {children.how_it_ended(error.exit_code)}.") from error
    finally:
        for process in context.processes:
            process.kill()


def _run_rank(local_rank: int, strategy: ParallelStrategy, work: Callable[[], Any], port: int, result: str) -> None:
    """What each new process does."""
    variables = children.place(strategy.cluster_environment, port, local_rank, len(strategy.parallel_devices))
    os.environ.update(variables, FULMEN_PARENT=str(os.getppid()))
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    children.follow_parent.cache_clear()  # what a forked process knows is its parent's
    strategy.take_rank()
    try:
        value = strategy.run(work)
    except KeyboardInterrupt:  # which torch would take for an end without an error
        sys.exit(130)
    if strategy.is_global_zero:
        torch.save(value, result)
    dist.destroy_process_group()
