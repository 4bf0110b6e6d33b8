"""Whatever the sizes, and wherever it is killed, the resumed run is the undisturbed one."""

from __future__ import annotations

import faulthandler
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L
from fulmen.callbacks import ModelCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:accumulate_grad_batches=")


class Killed(Exception):
    pass


class Net(L.LightningModule):
    def __init__(self, kill: int) -> None:
        super().__init__()
        self.kill, self.seen, self.validated = kill, [], []
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if int(self.count) == self.kill:
            raise Killed
        self.count += 1
        loss = self.net(batch[0]).square().mean()
        self.seen.append((int(self.count), batch[0].sum().item(), loss.item()))
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.seen.append(("epoch", self.trainer.current_epoch, self.trainer.global_step))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.net(batch[0]).mean())

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append((int(self.count), self.trainer.callback_metrics["val"].item()))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.1)


def run(folder: str, case: dict[str, Any], kill: int = -1) -> tuple[Net, L.Trainer]:
    L.seed_everything(1, verbose=False)
    net = Net(kill)
    interval = case["interval"]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=2,
        accumulate_grad_batches=case["accumulate"], val_check_interval=interval,
        check_val_every_n_epoch=None if isinstance(interval, int) else 1, num_sanity_val_steps=0, resume="auto",
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=case["every"])],
    )  # fmt: skip
    samples = TensorDataset(torch.rand(case["length"], 3, generator=torch.Generator().manual_seed(2)))
    train = DataLoader(samples, batch_size=case["batch_size"], shuffle=True, drop_last=case["drop_last"])
    trainer.fit(net, train, DataLoader(samples, batch_size=5))
    return net, trainer


CASES = st.fixed_dictionaries(
    {
        "length": st.integers(4, 23),
        "batch_size": st.integers(1, 4),
        "drop_last": st.booleans(),
        "accumulate": st.integers(1, 4),
        "interval": st.sampled_from([1.0, 0.5, 1, 2, 3, 7]),
        "every": st.integers(1, 3),
        "kill": st.integers(0, 40),
    }
)
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def check(case: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, first = run(str(Path(folder, "whole")), case)
        killed, other = Net(-1), None
        try:
            run(str(Path(folder, "killed")), case, case["kill"])
        except Killed:
            killed, other = run(str(Path(folder, "killed")), case)
        if other is None:
            return
        begun = int(killed.seen[0][0]) - 1 if killed.seen and killed.seen[0][0] != "epoch" else None
        if begun is not None:
            assert [s for s in whole.seen if s[0] == "epoch" or s[0] > begun][-len(killed.seen) :] == killed.seen
        assert [v for v in whole.validated if v in killed.validated] == killed.validated
        assert (first.global_step, first.current_epoch) == (other.global_step, other.current_epoch)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, killed.state_dict()[name]), name
        assert kept(Path(folder, "whole")) == kept(Path(folder, "killed"))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


@settings(max_examples=8, **QUIET)
@given(CASES)
def test_a_resumed_run_equals_the_undisturbed_one(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=150, **QUIET)
@given(CASES)
def test_it_does_in_many_more_cases(case):
    faulthandler.cancel_dump_traceback_later()
    check(case)
