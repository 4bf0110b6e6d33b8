"""Whole training steps as CUDA graphs: forward, backward, clipping and the optimizer's step in one launch.

A recording repeats what ran on the device and nothing of what Python did. So a step is looked at before it is recorded
(does it set attributes, log numbers, need hooks?), and a recording must give the very weights of the step as it is
written, on its first batches. Where it cannot, steps go on as they are written, and a warning says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fulmen import seed
from fulmen.attributes import OF_MODULES
from fulmen.hooks import HookTable
from fulmen.loop.step import AutomaticStep, ManualStep, Step
from fulmen.loop.unprofiled import step, zero_grad
from fulmen.tree import detach, map_tensors
from fulmen.warn import rank_zero_info, rank_zero_warn

COMPARED = 3
"""So many batches are trained on both ways before a recording is trusted."""
MOST = 4
"""Recordings at a time: of other shapes, or other hyperparameters."""


class Unfit(Exception):
    """Why a step cannot be recorded."""


class CudaGraph:
    """What a GPU was told to do, to be told again at once."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    @staticmethod
    def check(optimizer: Any) -> None:
        if not all(group.get("capturable", True) for group in optimizer.param_groups):
            raise Unfit(f"the optimizer must keep its counts on the GPU: {type(optimizer).__name__}(capturable=True)")

    def record(self, work: Callable[[], Any]) -> Any:
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # a loader's thread may pin memory
            return work()

    def replay(self) -> None:
        self.graph.replay()


RECORDERS: dict[str, Any] = {"cuda": CudaGraph}
"""By the type of the device."""


class Recording:
    """The step of batches of one shape."""

    def __init__(self, step: CapturedStep) -> None:
        self.step = step
        self.graph: Any = None
        self.left = COMPARED  # batches to compare on
        self.logged: list[tuple[Any, ...]] = []

    def record(self, batch: Any, batch_idx: int) -> None:
        step = self.step
        self.graph = RECORDERS[step.strategy.root_device.type]()
        held = map_tensors(lambda tensor: tensor.detach().clone(), batch)
        self.given: list[Tensor] = []
        _shape(held, self.given)
        with step.logging_to(self.logged, None):
            self.output, self.loss = detach(self.graph.record(lambda: step.whole(held, batch_idx)))
        self.gradients = step.gradients()

    def replay(self, batch: Any) -> None:
        given: list[Tensor] = []
        _shape(batch, given)
        for target, source in zip(self.given, given, strict=True):
            target.copy_(source)
        self.graph.replay()


class CapturedStep(AutomaticStep):
    """Automatic optimization whose steps are recorded and replayed."""

    recordings: dict[Any, Recording]
    last: Recording | None = None  # whose gradients the parameters have
    off = told = False

    def configure(self, accumulate: int, clip_val: Any, clip_algorithm: str | None) -> None:
        """Each epoch records anew: hooks between epochs may have changed anything."""
        super().configure(accumulate, clip_val, clip_algorithm)
        self.recordings, self.last = {}, None

    def attach(self, hooks: HookTable) -> None:
        super().attach(hooks)
        self.recordings, self.last = {}, None

    def run(self, batch: Any, batch_idx: int) -> Any:
        if self.off:
            return super().run(batch, batch_idx)
        try:
            recording = self.recordings.get(key := self._key(batch))
            if recording is None:
                self._fits()
                return self._look(key, batch, batch_idx)
        except Unfit as error:
            self._stop(error)
            return super().run(batch, batch_idx)
        return self._replayed(recording, batch) if not recording.left else self._compared(recording, batch, batch_idx)

    def whole(self, batch: Any, batch_idx: int) -> tuple[Any, Tensor]:
        """What is recorded: `run` without what is only for the host."""
        output = self.forward(batch, batch_idx)
        loss = output if isinstance(output, Tensor) else self._loss_of(output)
        if loss is None:
            raise Unfit("training_step returned None")
        zero_grad(self.optimizer)
        loss.backward()
        if self.clip is not None:
            self.clip_gradients(self.optimizer)
        step(self.optimizer)
        return output, loss

    def _written(self, batch: Any, batch_idx: int) -> Any:
        """Nothing of its graph may be left when a recording begins: it belongs to another stream."""
        self.output = detach(super().run(batch, batch_idx))
        return self.output

    def gradients(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.module.parameters()]

    @contextmanager
    def logging_to(self, logged: list[tuple[Any, ...]], log: Callable[..., None] | None) -> Iterator[None]:
        """Note the calls of self.log, and pass them on to `log`."""
        own = self.module.__dict__

        def note(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            logged.append((name, value.detach() if isinstance(value, Tensor) else value, args, kwargs))
            if log is not None:
                log(name, value, *args, **kwargs)

        before = own.get("log")
        own["log"] = note
        try:
            yield
        finally:
            del own["log"]
            if before is not None:
                own["log"] = before

    # ---- what cannot be recorded

    def _fits(self) -> None:
        device = self.strategy.root_device
        hooked = (
            self.before_zero_grad, self.own_zero_grad, self.before_backward, self.own_backward, self.after_backward,
            self.before_step, self.own_clip, self.own_step,
        )  # fmt: skip
        for wrong, reason in (
            (device.type not in RECORDERS, f"the module is on {device}, not on a GPU"),
            (not self.direct, "the optimizer is not stepped by the trainer alone"),
            (any(hooked), "a hook runs between the forward pass and the optimizer's step"),
            (self.strategy.wraps, "several processes take part in it"),
            (self.precision.scales, "the scale of its loss is set by the host; precision='bf16-mixed' has none"),
            (self.accumulate > 1, "gradients are accumulated"),
            (self.guard.every_step, f"nonfinite={self.guard.mode!r} looks at its gradients"),
            (torch.is_anomaly_enabled(), "detect_anomaly looks at it"),
            (len(self.recordings) >= MOST, f"batches had more than {MOST} shapes in an epoch, or the hyperparameters "
             "changed as often: pad the batches, and give the optimizer lr=torch.tensor(..., device='cuda')"),
        ):  # fmt: skip
            if wrong:
                raise Unfit(reason)
        for group in self.optimizer.param_groups:
            for name, value in group.items():
                if isinstance(value, Tensor) and value.device != device:  # a recording holds its value of now
                    raise Unfit(f"the optimizer's {name} is a tensor on {value.device}, not on {device}")
        RECORDERS[device.type].check(self.optimizer)

    def _key(self, batch: Any) -> Any:
        groups = self.optimizer.param_groups
        numbers = [tuple(v for v in group.values() if isinstance(v, (int, float, tuple))) for group in groups]
        return _shape(batch, []), *numbers

    def _look(self, key: Any, batch: Any, batch_idx: int) -> Any:
        """A step as it is written, and whether Python does more in it than a recording would."""
        before, logged = self._attributes(), []
        with self.logging_to(logged, self.module.log):
            output = self._written(batch, batch_idx)
        for name, value, _, _ in logged:
            if not isinstance(value, Tensor):
                self._stop(Unfit(f"self.log({name!r}, ...) was given a {type(value).__name__}, not a tensor"))
        after = self._attributes()
        for name in after.keys() | before.keys():
            if before.get(name) != after.get(name):
                self._stop(Unfit(f"training_step changes {name}"))
        if any(isinstance(value, (int, float)) for held in self.optimizer.state.values() for value in held.values()):
            self._stop(Unfit(f"{type(self.optimizer).__name__} counts on the host"))
        if not self.off:
            self.recordings[key] = Recording(self)
        return output

    def _attributes(self) -> dict[str, Any]:
        """Of all modules within, by identity and size."""
        found = {}
        for path, part in self.module.named_modules():
            values = {**vars(part), **part._buffers}
            for name in values.keys() - OF_MODULES - {"log", "_logs"}:
                value = values[name]
                size = len(value) if isinstance(value, (list, dict, set)) else 0
                found[f"{path}.{name}".lstrip(".")] = (id(value), value if isinstance(value, (int, float)) else size)
        return found

    def _stop(self, reason: Exception) -> None:
        if not self.off:
            rank_zero_warn(f"cuda_graph: steps run as they are written: {reason}.")
        self.off, self.recordings, self.last = True, {}, None

    # ---- both ways, and the recorded one

    def _compared(self, recording: Recording, batch: Any, batch_idx: int) -> Any:
        """The step as it is written, which counts; and beside it the recording, from the same state."""
        before = self._state()
        output = self._written(batch, batch_idx)
        after, gradients = self._state(), self.gradients()
        wrong: Exception | None = None
        try:
            if recording.graph is None:
                self._put(before)
                recording.record(batch, batch_idx)
            self._put(before)
            recording.replay(batch)
            if not all(torch.equal(tensor, value) for tensor, value in after[0]):
                wrong = Unfit("a recorded step gave other weights than the same step as it is written")
        except (RuntimeError, Unfit) as error:
            wrong = Unfit(f"its recording failed: {' '.join(str(error).split()[:40])}")
        self._put(after)
        for parameter, gradient in zip(self.module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        recording.left -= 1
        self.last = None
        if wrong is not None:
            self._stop(wrong)
        elif not recording.left and not self.told:
            self.told = True
            rank_zero_info(f"cuda_graph: steps are replayed; {COMPARED} gave the same weights as they are written.")
        return output

    def _state(self) -> tuple[list[tuple[Tensor, Tensor]], dict[str, Any]]:
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.module.parameters(), *self.module.buffers(), *filter(torch.is_tensor, held)]
        return [(tensor, tensor.detach().clone()) for tensor in tensors], seed.capture()

    def _put(self, state: tuple[list[tuple[Tensor, Tensor]], dict[str, Any]]) -> None:
        with torch.no_grad():
            for tensor, value in state[0]:
                tensor.copy_(value)
        seed.restore(state[1])

    def _replayed(self, recording: Recording, batch: Any) -> Any:
        self.batch = batch
        recording.replay(batch)
        if self.last is not recording:
            self.last = recording
            for parameter, gradient in zip(self.module.parameters(), recording.gradients, strict=True):
                parameter.grad = gradient
        for name, value, args, kwargs in recording.logged:
            self.module.log(name, value, *args, **kwargs)
        loss = recording.loss.clone()
        self.guard.hold(loss)
        if self.listens:
            self.output = self._seen(map_tensors(torch.clone, recording.output), loss)
        self.progress.steps += 1
        self.progress.stepped += 1
        return self.output


def step_for(kind: type[Step]) -> type[Step]:
    """The kind of step that records itself."""
    if kind is ManualStep:
        rank_zero_warn("cuda_graph: steps run as they are written: manual optimization is the module's own.")
        return kind
    return CapturedStep


def _shape(batch: Any, found: list[Tensor]) -> Any:
    """The shapes within, to be compared; `found` gets the tensors."""
    if isinstance(batch, Tensor):
        found.append(batch)
        return batch.shape, batch.dtype
    if type(batch) in (list, tuple):
        return tuple([_shape(each, found) for each in batch])
    if type(batch) is dict:
        return tuple([(name, _shape(each, found)) for name, each in batch.items()])
    raise Unfit(f"a batch holds a {type(batch).__name__}, not only tensors in lists, tuples and dicts")
