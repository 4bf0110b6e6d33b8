"""The tree of state: everything that must survive a restart, gathered into a checkpoint and put back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from fulmen.attributes import MOST, copied, same
from fulmen.callbacks.base import Checkpoint
from fulmen.checkpoint import files, find, hparams, layout
from fulmen.errors import CheckpointError, MisconfigurationException
from fulmen.kept import by_kind, load_optimizer
from fulmen.loop.guard import check_weights
from fulmen.loop.resume import keeps_gradients, loop_state, take_over
from fulmen.tree import map_tensors
from fulmen.values import is_metric

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


# ---- gathering


def gather(trainer: Trainer, weights_only: bool) -> dict[str, Any]:
    """The checkpoint of this moment; every rank must call it."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    if trainer.state.fn == "fit" and trainer.options.nonfinite != "warn":
        check_weights(module, "saving a checkpoint")
    checkpoint: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.progress.steps,
        layout.VERSION_KEY: layout.VERSION,
        "state_dict": module.state_dict(),
        "loops": layout.loops(trainer),
        "fulmen": {"version": files.FORMAT, "weights_only": weights_only},
    }
    if not weights_only:
        checkpoint["callbacks"] = {c.state_key: state for c in trainer.callbacks if (state := _own(trainer, c))}
        checkpoint["optimizer_states"] = [o.state_dict() for o in trainer.optimizers]
        checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        precision = trainer.precision_plugin.state_dict()
        if precision:
            checkpoint[type(trainer.precision_plugin).__qualname__] = precision
        checkpoint["fulmen"].update(_exact(trainer))
    for owner in (module, datamodule):
        if owner is not None:
            hparams.store(checkpoint, owner)
    if datamodule is not None:
        state = _own(trainer, datamodule)
        if state:
            checkpoint[type(datamodule).__qualname__] = state
    if not weights_only:
        _ask_hooks(trainer, checkpoint)
    else:
        runs = filter(None, (getattr(callback, "_run", None) for callback in trainer.checkpoint_callbacks))
        checkpoint["fulmen"].update(run=next(runs, None), ranks=[{"loop": {"progress": trainer.progress.state_dict()}}])
        module.on_save_checkpoint(checkpoint)
    return checkpoint


def _ask_hooks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    with trainer.logs.closed():
        for hook in trainer.hooks.on_save_checkpoint:
            returned = hook(checkpoint)
            if returned is not None:
                from fulmen.compat.hooks import keep_state

                keep_state(checkpoint, hook, returned)


def _exact(trainer: Trainer) -> dict[str, Any]:
    """What lets a run go on bit for bit, of every rank."""
    module, loop = trainer.lightning_module, trainer.train_loop
    names = {id(metric): name for name, metric in _metrics(trainer).items()}
    held = {} if loop is None else loop.held_before
    own: dict[str, Any] = {"logs": trainer.logs.state(names)} if trainer.state.fn == "fit" else {}
    own["groups"] = _added_groups(trainer)
    own["metrics"] = held["metrics"] if held else metric_states(trainer)
    own["lists"] = {name: len(part) for name, part in _lists(module)}
    if loop is not None:
        own["loop"] = loop_state(loop)
        if keeps_gradients(loop):
            own["gradients"] = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    loggers = None if loop is None else loop.loggers_before
    loggers = logger_states(trainer) if loggers is None else loggers
    buffers = dict(module.named_buffers())
    moved = {n: b for n, b in held.get("buffers", {}).items() if n in buffers and not same(b, buffers[n])}
    own["buffers"] = (_own_buffers(trainer) if trainer.world_size > 1 else {}) | moved
    return {"ranks": trainer.strategy.gather_object(own), "logger_states": loggers}


def before_validation(trainer: Trainer) -> dict[str, Any]:
    """Copies of what it may move: a checkpoint within it holds what was before, for it is run again."""
    parts = [*(c for c in trainer.callbacks if not isinstance(c, Checkpoint)), trainer.datamodule]
    states = {id(part): copied(part.state_dict()) for part in parts if part is not None}
    known = ((n, b) for n, b in trainer.lightning_module.named_buffers() if not is_lazy(b))
    buffers = {n: b.clone() for n, b in known if b.numel() <= 16 * MOST}
    return {"metrics": metric_states(trainer), "states": states, "buffers": buffers}


def _own(trainer: Trainer, part: Any) -> dict[str, Any]:
    held = {} if trainer.train_loop is None else trainer.train_loop.held_before.get("states", {})
    return held[id(part)] if id(part) in held else part.state_dict()


def _added_groups(trainer: Trainer) -> list[list[list[str]]]:
    """The parameters of the groups that the optimizers have got since they were made."""
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    made = [] if trainer.train_loop is None else trainer.train_loop.again.groups
    pairs = zip(trainer.optimizers, made, strict=False)
    return [[[names.get(id(p), "") for p in g["params"]] for g in o.param_groups[count:]] for o, count in pairs]


def _own_buffers(trainer: Trainer) -> dict[str, Tensor]:
    """Those in which this rank differs from rank zero: DDP brings batch norms together at the next step only."""
    kept = trainer.lightning_module.state_dict().keys()
    buffers = {name: b for name, b in trainer.lightning_module.named_buffers() if name in kept}
    sums = {name: crc32(b.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()) for name, b in buffers.items()}
    zeros = trainer.strategy.gather_object(sums)[0]
    return {name: buffers[name] for name in sums if sums[name] != zeros.get(name)}


def logger_states(trainer: Trainer) -> dict[str, dict[str, Any]]:
    return {name: getattr(logger, "state_dict", dict)() for name, logger in by_kind(trainer.loggers).items()}


def _metrics(trainer: Trainer) -> dict[str, Any]:
    """The torchmetrics objects in the module and, unregistered, in what it and callbacks hold, by name."""
    if "torchmetrics" not in sys.modules:
        return {}
    found: dict[str, Any] = dict(trainer.lightning_module.named_modules())
    for name, part in trainer.train_loop.again.objects().items() if trainer.train_loop is not None else ():
        if isinstance(part, torch.nn.Module):
            found.update(part.named_modules(prefix=name))
    return {name: part for name, part in found.items() if is_metric(part)}


def metric_states(trainer: Trainer) -> dict[str, Any]:
    """Copies of what the metrics hold, but for those that are logged in validation: they begin anew in each."""
    again = trainer.logs.metrics_of("validation")
    return {
        name: {"count": metric._update_count, "values": map_tensors(Tensor.clone, held)}
        for name, metric in _metrics(trainer).items()
        if id(metric) not in again and _is_used(metric, held := _held(metric))
    }


def _is_used(metric: Any, held: dict[str, Any]) -> bool:
    """Wrappers count no updates."""
    return metric._update_count or not all(same(metric._defaults.get(n), value) for n, value in held.items())


def _held(metric: Any) -> dict[str, Any]:
    """The metric's state, and tensors that it keeps beside it."""
    return {n: v for n, v in vars(metric).items() if isinstance(v, Tensor) and n[0] != "_"} | metric.metric_state


# ---- putting back


def read(trainer: Trainer, path: Any, weights_only: bool | None) -> dict[str, Any]:
    """The checkpoint at a path; one of another layout is brought into today's."""
    return files.upgraded(trainer.strategy.load(path, map_location="cpu", weights_only=weights_only))


def restore_module(trainer: Trainer, checkpoint: dict[str, Any], path: Any, same_run: bool = False) -> None:
    """Weights, datamodule and callbacks, before the run's parts are made."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    if "state_dict" not in checkpoint:
        raise CheckpointError(f"{str(path)!r} has no 'state_dict'; it is not a trainer's checkpoint.")
    module.on_load_checkpoint(checkpoint)
    trainer.precision_plugin.convert_module(module)  # or weights of more bits would be cut
    if same_run:
        _resize_buffers(module, checkpoint["state_dict"])
    hparams.load_weights(module, checkpoint["state_dict"], module.strict_loading, str(path))
    if datamodule is not None and type(datamodule).__qualname__ in checkpoint:
        datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])


def _resize_buffers(module: torch.nn.Module, weights: dict[str, Any]) -> None:
    """Those that have grown as the run went on: a memory of samples, say."""
    for path, part in module.named_modules():
        for name, buffer in part._buffers.items():
            held = weights.get(f"{path}.{name}" if path else name)
            if isinstance(held, Tensor) and (buffer is None or (not is_lazy(buffer) and buffer.shape != held.shape)):
                part._buffers[name] = held.clone() if buffer is None else buffer.new_empty(held.shape)


def restore_callbacks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    states = checkpoint.get("callbacks") or {}
    for hook in trainer.hooks.on_load_checkpoint:
        if getattr(hook, "__self__", None) is not trainer.lightning_module:  # its own ran before its weights came
            hook(checkpoint)
    for callback in trainer.callbacks:
        state = states.get(callback.state_key) or states.get(type(callback).__qualname__)
        if state:
            callback.load_state_dict(state)


def restore_loggers(trainer: Trainer, checkpoint: dict[str, Any] | None) -> None:
    """Let the loggers go on in the run that the checkpoint belongs to, behind the rows that it had written."""
    if checkpoint is None:
        find.begin(trainer)
        return
    states = checkpoint["fulmen"].get("logger_states") or {}
    for name, logger in by_kind(trainer.loggers).items():
        if states.get(name) and hasattr(logger, "load_state_dict"):
            logger.load_state_dict(states[name])


def restore_training(trainer: Trainer, checkpoint: dict[str, Any], path: Any) -> None:
    """Optimizers, schedulers, precision, and where the loop stood."""
    if "optimizer_states" not in checkpoint:
        raise CheckpointError(
            f"{str(path)!r} holds the model only (it was saved with weights_only=True), so fit cannot go on from it: "
            "load it with load_from_checkpoint and fit without ckpt_path."
        )
    _restore_optimizers(trainer, checkpoint, path)
    _restore_schedulers(trainer, checkpoint)
    if trainer.train_loop is not None and trainer.train_loop.same_run:
        trainer.train_loop.again.training = partial(_restore_changed, trainer, checkpoint, path)
    precision = checkpoint.get(type(trainer.precision_plugin).__qualname__)
    if precision:
        trainer.precision_plugin.load_state_dict(precision)
    _restore_exact(trainer, checkpoint["fulmen"])


def _restore_optimizers(trainer: Trainer, checkpoint: dict[str, Any], path: Any) -> None:
    states, named = checkpoint["optimizer_states"], dict(trainer.lightning_module.named_parameters())
    if len(states) != len(trainer.optimizers):
        raise MisconfigurationException(
            f"{str(path)!r} holds the state of {len(states)} optimizer(s), configure_optimizers made "
            f"{len(trainer.optimizers)}."
        )
    for index, (optimizer, state) in enumerate(zip(trainer.optimizers, states, strict=True)):
        for names in _groups_to_add(checkpoint, index, len(optimizer.param_groups)):
            optimizer.add_param_group({"params": [named[name] for name in names if name in named]})
        try:
            load_optimizer(optimizer, state)
        except (ValueError, KeyError) as error:
            raise MisconfigurationException(
                f"The state of optimizer {index} in {str(path)!r} does not fit the one that configure_optimizers made "
                f"({type(optimizer).__name__}): {error}. Configure it as in the run that saved it."
            ) from error


def _restore_schedulers(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    for config, state in zip(trainer.lr_scheduler_configs, checkpoint.get("lr_schedulers", ()), strict=False):
        config.scheduler.load_state_dict(deepcopy(state))  # some of torch's take it apart


def _groups_to_add(checkpoint: dict[str, Any], index: int, count: int) -> list[list[str]]:
    """What the checkpoint's optimizer has beyond `count` groups, which were added as it ran."""
    added = next(iter(checkpoint["fulmen"].get("ranks") or ()), {}).get("groups", ())
    missing = len(checkpoint["optimizer_states"][index]["param_groups"]) - count
    return added[index][-missing:] if missing > 0 and len(added) > index else []


def _restore_changed(trainer: Trainer, checkpoint: dict[str, Any], path: Any) -> None:
    """After hooks that come once more when a run goes on: what they do was done when the checkpoint was made."""
    module = trainer.lightning_module
    _resize_buffers(module, checkpoint["state_dict"])
    hparams.load_weights(module, checkpoint["state_dict"], module.strict_loading, str(path))
    state = _of_rank(trainer, checkpoint["fulmen"])
    _restore_buffers(module, state.get("buffers", {}))
    _restore_metrics(trainer, state)
    _restore_optimizers(trainer, checkpoint, path)
    _restore_schedulers(trainer, checkpoint)


def _of_rank(trainer: Trainer, own: dict[str, Any]) -> dict[str, Any]:
    ranks = own.get("ranks") or [{}]
    return ranks[trainer.global_rank if trainer.global_rank < len(ranks) else 0]


def _restore_exact(trainer: Trainer, own: dict[str, Any]) -> None:
    loop, state = trainer.train_loop, _of_rank(trainer, own)
    if loop is None or not state:
        return
    if "loop" in state:
        take_over(loop, state["loop"])
    if loop.max_epochs != -1 and loop.progress.epoch > loop.max_epochs and not loop.same_run:
        raise MisconfigurationException(
            f"The checkpoint was taken in current_epoch={loop.progress.epoch}, but max_epochs={loop.max_epochs}; set "
            "max_epochs higher to go on."
        )
    metrics = _restore_metrics(trainer, state)
    if "logs" in state:
        trainer.logs.load(deepcopy(state["logs"]), metrics)
        loop.again.logs = partial(trainer.logs.load, state["logs"], metrics)
    module = trainer.lightning_module
    parameters = dict(module.named_parameters())
    for name in parameters.keys() & state.get("gradients", {}).keys():
        parameters[name].grad = state["gradients"][name].to(parameters[name].device)
    _restore_buffers(module, state.get("buffers", {}))


def _restore_buffers(module: torch.nn.Module, held: dict[str, Tensor]) -> None:
    """Those that are not as in the checkpoint's weights: each rank has its own, and validation moves some."""
    _resize_buffers(module, held)
    for name, buffer in module.named_buffers():
        if name in held:
            buffer.copy_(held[name])


def _restore_metrics(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    """Give them what they held; lists of them, which grow as the run goes on, are as long as then."""
    lengths = state.get("lists", {})
    for name, part in _lists(trainer.lightning_module):
        while len(part) > lengths.get(name, len(part)):
            part._modules.popitem()
        while 0 < len(part) < lengths.get(name, 0):
            part.append(deepcopy(next(part.children())))
            metrics: Any = filter(is_metric, part[-1].modules())
            for metric in metrics:
                metric.reset()
    found = _metrics(trainer)
    for name, values in state.get("metrics", {}).items():
        if name in found:
            _load_metric(found[name], values)
    return found


def _lists(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.ModuleList]]:
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.ModuleList) and any(map(is_metric, part.modules())):
            yield name, part


def _load_metric(metric: Any, state: dict[str, Any]) -> None:
    for name, value in state["values"].items():
        setattr(metric, name, map_tensors(lambda tensor: tensor.to(metric.device, copy=True), value))
    metric._update_count = state["count"]
    metric._computed = None
