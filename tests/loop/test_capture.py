"""cuda_graph: whole steps recorded and replayed; a tape of the operations on a CPU stands in for the GPU's graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import make_trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L
from fulmen.errors import NonFiniteError
from fulmen.loop import capture


class Tape(TorchDispatchMode):
    """As a CUDA graph: does the same operations again on the same memory, and cannot read a value."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.replays = 0

    @staticmethod
    def check(optimizer: Any) -> None: ...

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = operation(*args, **kwargs or {})
        self.operations.append((operation, args, kwargs or {}, output))
        return output

    def record(self, work: Any) -> Any:
        with self:
            return work()

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for operation, args, kwargs, output in self.operations:
                again = operation(*args, **kwargs)
                for old, new in zip(_tensors(output), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _tensors(output: Any) -> list[torch.Tensor]:
    several = output if isinstance(output, (tuple, list)) else [output]
    return [tensor for tensor in several if isinstance(tensor, torch.Tensor)]


@pytest.fixture
def tapes(monkeypatch):
    made: list[Tape] = []
    monkeypatch.setitem(capture.RECORDERS, "cpu", lambda: made.append(Tape()) or made[-1])
    capture.RECORDERS["cpu"].check = Tape.check
    return made


class Net(L.LightningModule):
    def __init__(self, rate: Any = 0.05) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
        self.rate, self.seen = rate, []

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("middle", loss, on_step=False, on_epoch=True, reduce_fx=torch.median)
        self.log_dict({"accuracy": (logits.argmax(1) == y).float().mean()}, on_epoch=True, prog_bar=True)
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9, foreach=True)


class Watches(L.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[float] = []
        self.logged: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert outputs["logits"].shape == (len(batch[0]), 3)
        self.losses.append(float(outputs["loss"]))
        self.gradients.append(float(pl_module.net[0].weight.grad.sum()))
        self.logged.append(trainer.callback_metrics["loss_step"])


def train(module: Any, epochs: int = 2, length: int = 68, callbacks: Any = (), **options: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    for layer in module.net:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    watches = Watches()
    data = TensorDataset(torch.randn(length, 4), torch.randint(0, 3, (length,)))
    trainer = make_trainer(max_epochs=epochs, callbacks=[watches, *callbacks], log_every_n_steps=3, **options)
    trainer.fit(module, DataLoader(data, batch_size=8, shuffle=True))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "weights": module.state_dict(),
        "losses": watches.losses,
        "gradients": watches.gradients,
        "logged": torch.stack(watches.logged).tolist(),
        "metrics": metrics,
        "steps": trainer.global_step,
        "random": torch.rand(3).tolist(),
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights, others = one.pop("weights"), other.pop("weights")
    assert one == other
    return all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_replayed_step_that_goes_bad_is_noticed(tapes):
    rows = torch.randn(80, 4)
    rows[61] = float("nan")
    loader = DataLoader(TensorDataset(rows, torch.zeros(80, dtype=torch.long)), batch_size=8)
    with pytest.raises(
        NonFiniteError, match="The loss of batch 7, counted over all epochs, was NaN or infinite, and net"
    ):
        make_trainer(cuda_graph=True).fit(Net(), loader)
    assert tapes[0].replays == 9


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}])
def test_replayed_steps_are_those_that_are_written(tapes, options):
    written = train(Net(), **options)
    assert same(written, train(Net(), cuda_graph=True, **options))
    # Of 9 batches in each epoch the first is looked at, three are compared, the last has another shape.
    assert [tape.replays for tape in tapes] == [7, 7]


class Scheduled(Net):
    """Its rate is in a tensor, which a scheduler changes in place."""

    def __init__(self, interval: str) -> None:
        super().__init__()
        self.interval = interval

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=torch.tensor(0.05), fused=True)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_scheduled_rate_in_a_tensor(tapes, interval):
    assert same(train(Scheduled(interval)), train(Scheduled(interval), cuda_graph=True))
    assert [tape.replays for tape in tapes] == [7, 7]


class Numbers(Net):
    def training_step(self, batch, batch_idx):
        self.log("number", 1.0)
        return super().training_step(batch, batch_idx)


class Keeps(Net):
    def training_step(self, batch, batch_idx):
        self.seen.append(batch_idx)
        return super().training_step(batch, batch_idx)


class Counts(Net):
    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        return {**output, "loss": output["loss"] * (1 + self.global_step % 2)}


class Reads(Net):
    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        return {**output, "loss": output["loss"] * (1 if output["loss"].item() > 9 else 2)}


class Elsewhere(Net):
    """An option of the optimizer that a recording would not see change."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.param_groups[0]["rate"] = torch.ones((), device="meta")
        return optimizer


class Hooked(Net):
    def on_after_backward(self):
        pass


class Adam(Net):
    """Keeps its count in a tensor on the host, and reads it."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), foreach=False)


UNFIT = [
    (Numbers, {}, "self.log\\('number', ...\\) was given a float, not a tensor"),
    (Keeps, {}, "training_step changes seen"),
    (Counts, {}, "a recorded step gave other weights than the same step as it is written"),
    (Reads, {}, "its recording failed: operation not permitted when stream is capturing"),
    (Adam, {}, "its recording failed: operation not permitted when stream is capturing"),
    (Elsewhere, {}, "the optimizer's rate is a tensor on meta, not on cpu"),
    (Hooked, {}, "a hook runs between the forward pass and the optimizer's step"),
    (Net, {"accumulate_grad_batches": 2}, "gradients are accumulated"),
    (Net, {"nonfinite": "skip"}, "nonfinite='skip' looks at its gradients"),
    (Net, {"detect_anomaly": True}, "detect_anomaly looks at it"),
]


@pytest.mark.parametrize(("kind", "options", "reason"), UNFIT)
def test_what_cannot_be_recorded_runs_as_it_is_written(tapes, kind, options, reason):
    written = train(kind(), **options)
    with pytest.warns(UserWarning, match=f"cuda_graph: steps run as they are written: .*{reason}") as told:
        assert same(written, train(kind(), cuda_graph=True, **options))
    assert len([one for one in told if "cuda_graph" in str(one.message)]) == 1
    assert all(not tape.replays for tape in tapes) or kind is Counts


def test_without_a_gpu_steps_run_as_they_are_written():
    with pytest.warns(UserWarning, match="cuda_graph: .*the module is on cpu, not on a GPU"):
        assert same(train(Net(), cuda_graph=True), train(Net()))


def test_batches_of_many_shapes_are_too_many(tapes):
    class Module(Net):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [
                {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}
            ]

    written = train(Module())
    with pytest.warns(UserWarning, match="more than 4 shapes in an epoch, or the hyperparameters changed as often"):
        assert same(written, train(Module(), cuda_graph=True))


class ByName(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["inner"][0]), batch_idx)["loss"]


@pytest.mark.parametrize("names", [0, 1])
def test_batches_are_tensors_in_lists_tuples_and_dicts(tapes, names):
    def weights(**options: Any) -> torch.Tensor:
        torch.manual_seed(2)
        rows = [{"x": torch.randn(4), "inner": [i % 3], **dict.fromkeys(["name"][:names], "a")} for i in range(64)]
        module = ByName()
        make_trainer(**options).fit(module, DataLoader(rows, batch_size=8))  # type: ignore[arg-type]
        return module.net[0].weight

    written = weights()
    if names:
        with pytest.warns(UserWarning, match="cuda_graph: .*: a batch holds a str, not only tensors in lists"):
            assert torch.equal(written, weights(cuda_graph=True))
    else:
        assert torch.equal(written, weights(cuda_graph=True))
        assert [tape.replays for tape in tapes] == [7]


def test_manual_optimization_is_the_modules_own(tapes):
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.optimizers().step()

    with pytest.warns(UserWarning, match="cuda_graph: steps run as they are written: manual optimization"):
        make_trainer(cuda_graph=True).fit(Manual(), DataLoader(torch.randn(4, 4)))
