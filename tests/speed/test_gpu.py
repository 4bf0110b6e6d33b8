"""On a GPU: nothing waits for it, and copies beside it change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, make_trainer
from torch.utils.data import DataLoader

from fulmen.callbacks import LambdaCallback
from fulmen.loggers import CSVLogger
from fulmen.transfer import beside

ROWS = torch.randn(256, 2)


class Logged(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx).square()
        self.log("loss", loss, on_epoch=True)
        return loss


def test_without_a_gpu_or_pinned_memory_batches_go_as_ever():
    def to_device(batch):
        return batch

    assert beside(to_device, torch.device("cpu"), [DataLoader(ROWS, pin_memory=True)]) is to_device
    assert beside(to_device, torch.device("cuda"), [DataLoader(ROWS)]) is to_device


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_between_the_rows_of_the_logger(tmp_path):
    def watch(trainer, module, batch, batch_idx):
        at_row = (batch_idx + 1) % 10 == 0
        torch.cuda.set_sync_debug_mode("default" if batch_idx < 2 or at_row else "error")

    watcher = LambdaCallback(on_train_batch_start=watch)
    loader = DataLoader(ROWS, batch_size=4, pin_memory=True)
    trainer = make_trainer(
        accelerator="cuda", devices=1, logger=CSVLogger(tmp_path), log_every_n_steps=10, callbacks=[watcher]
    )
    try:
        trainer.fit(Logged(lr=0.1), loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 64


@pytest.mark.gpu
def test_copies_beside_the_computation_change_no_number():
    def fitted(pinned: bool) -> torch.Tensor:
        torch.manual_seed(0)
        module = Logged(lr=0.1)
        loader = DataLoader(ROWS, batch_size=4, shuffle=True, pin_memory=pinned)
        make_trainer(accelerator="cuda", devices=1, max_epochs=3).fit(module, loader)
        return module.layer.weight

    assert torch.equal(fitted(pinned=True), fitted(pinned=False))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_whole_steps_are_replayed_to_the_same_weights(kind):
    class Steps(Logged):
        def configure_optimizers(self) -> Any:
            options = {} if kind == "SGD" else {"capturable": True}
            return getattr(torch.optim, kind)(self.parameters(), lr=0.01, **options)

    def fitted(**options: Any) -> tuple[Any, torch.Tensor]:
        torch.manual_seed(0)
        module = Steps()
        trainer = make_trainer(accelerator="cuda", devices=1, max_epochs=3, **options)
        trainer.fit(module, DataLoader(ROWS, batch_size=4, shuffle=True))
        return trainer, module.layer.weight

    (written, weight), (captured, same) = fitted(), fitted(cuda_graph=True)
    assert torch.equal(weight, same)
    assert captured.step.told
    assert not captured.step.off
    assert written.callback_metrics == captured.callback_metrics
