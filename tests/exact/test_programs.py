"""What programs do around fit: several fits, folders named beforehand, averaged weights; ended by signals too."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small import make_trainer
from torch.nn.functional import dropout
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import CatMetric

import fulmen as L
from fulmen.callbacks import EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint
from fulmen.checkpoint import files, find
from fulmen.demos import BoringModel
from fulmen.errors import SIGTERMException
from fulmen.loggers import CSVLogger, TensorBoardLogger


class Stop(L.Callback):
    """SIGTERM in one call of one hook, of all calls in the process."""

    def __init__(self, hook: str, number: int) -> None:
        self.left = number
        setattr(self, hook, self.count)

    def count(self, *args: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


class Model(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(dropout(batch[0])).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("score", self.layer(batch[0]).mean())


def data(length: int = 16, shuffle: bool = True) -> Any:
    points = torch.randn(length, 32, generator=torch.Generator().manual_seed(length))
    return DataLoader(TensorDataset(points), batch_size=4, shuffle=shuffle)


def train(model: L.LightningModule, *callbacks: Any, **options: Any) -> L.Trainer:
    options = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 1, **options}
    saves = [] if any(isinstance(c, ModelCheckpoint) for c in callbacks) else [ModelCheckpoint(every_n_train_steps=3)]
    trainer = make_trainer(callbacks=[*saves, *callbacks], resume="auto", enable_checkpointing=True, **options)
    trainer.fit(model, data(), data(8, False))
    return trainer


def run(program: Any, folder: Path, monkeypatch: Any, stops: Any = ()) -> Any:
    """The program, ended at each of the places, and started again each time as in another process."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    for stop in [*stops, ("none", 0)]:
        monkeypatch.setattr(find, "_finished", {})
        L.seed_everything(1)
        try:
            result = program(Stop(*stop))
        except SIGTERMException:
            continue
    names = {str(path) for path in Path(".").rglob("*") if path.suffix in (".ckpt", ".csv")}
    return result, names, {name: Path(name).read_text() for name in names if name.endswith(".csv")}


def check(program: Any, tmp_path: Path, monkeypatch: Any, *stops: Any) -> Any:
    whole = run(program, tmp_path / "whole", monkeypatch)
    ended = run(program, tmp_path / "ended", monkeypatch, stops)
    torch.testing.assert_close(ended[0], whole[0], rtol=0, atol=0)
    assert ended[1:] == whole[1:]
    return whole


def test_a_run_that_is_asked_to_end_in_the_sanity_check_begins_again(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        model = Model()
        train(model, OnExceptionCheckpoint("elsewhere"), stop, ModelCheckpoint(), logger=CSVLogger("."))
        return model.layer.weight

    stops = [("on_validation_batch_start", 1), ("on_train_batch_end", 2), ("on_train_batch_end", 1)]
    whole = run(program, tmp_path / "whole", monkeypatch)
    ended = run(program, tmp_path / "ended", monkeypatch, stops)
    assert torch.equal(ended[0], whole[0])
    assert ended[2] == whole[2]
    (log,) = Path("lightning_logs").iterdir()
    assert not (log / "checkpoints" / "interrupted.ckpt").exists()


@pytest.mark.parametrize("dirpath", [None, "ck"])
def test_several_fits_with_one_folder_are_several_runs(tmp_path, monkeypatch, dirpath):
    def program(stop: Any) -> Any:
        weights = []
        for fold in range(3):
            model = Model()
            saves = ModelCheckpoint(dirpath, f"{fold}-{{step}}", every_n_train_steps=3)
            train(model, stop, saves, logger=CSVLogger("."))
            weights.append(model.layer.weight)
        assert len({weight.sum().item() for weight in weights}) == 3
        return weights

    stops = [("on_train_batch_end", n) for n in (5, 10, 2, 7)]  # in the fits 1, 2, 2, 3
    _, names, _ = check(program, tmp_path, monkeypatch, *stops)
    assert sum(name.endswith("metrics.csv") for name in names) == 3


def test_a_fit_with_more_epochs_goes_on_with_what_this_process_has_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(Model(), logger=CSVLogger("."))
    assert train(Model(), logger=CSVLogger("."), max_epochs=3).global_step == 12
    assert os.listdir("lightning_logs") == ["version_0"]


@pytest.mark.filterwarnings("ignore:Nothing to train")
def test_the_limit_of_a_fit_may_be_raised_behind_it(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        model = Model()
        trainer = train(model, stop, logger=CSVLogger("."))
        trainer.train_loop.max_epochs = 4
        trainer.fit(model, data(), data(8, False))
        return model.layer.weight

    check(program, tmp_path, monkeypatch, ("on_train_batch_end", 15))


@pytest.mark.parametrize("asks", [True, False])
def test_the_folder_of_the_log_may_be_named_or_asked_for_before_fit(tmp_path, monkeypatch, asks):
    def program(stop: Any) -> Any:
        logger = CSVLogger(".", name="x", version=None if asks else "mine")
        folders = [os.path.join(logger.log_dir, name) for name in ("top", "now")] if asks else [None]
        saves = [ModelCheckpoint(folder, every_n_train_steps=2 + n) for n, folder in enumerate(folders)]
        model = Model()
        train(model, stop, *saves, logger=[logger, TensorBoardLogger(".", name="x", version="mine")])
        return model.layer.weight

    _, names, _ = check(program, tmp_path, monkeypatch, ("on_train_batch_end", 3), ("on_train_batch_end", 3))
    assert len(names) == (3 if asks else 2)


def test_files_of_weights_alone_in_the_same_folder_are_passed_over(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        model = Model()
        saves = ModelCheckpoint("ck", save_weights_only=True, filename="w{step}", every_n_train_steps=1, save_top_k=-1)
        train(model, stop, ModelCheckpoint("ck", every_n_train_steps=3), saves, logger=CSVLogger("."))
        return model.layer.weight

    monkeypatch.setattr(L.Trainer, "_save_interrupted", lambda self: None)  # as by a kill
    check(program, tmp_path, monkeypatch, ("on_train_batch_end", 5))


class Swaps(L.Callback):
    """Averaged weights, in place during validation."""

    def __init__(self) -> None:
        self.mean, self.own = torch.zeros(2, 32), torch.zeros(0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.mean = self.mean + 0.2 * (pl_module.layer.weight.detach() - self.mean)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.own = pl_module.layer.weight.detach().clone()
        pl_module.layer.weight.data.copy_(self.mean)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.layer.weight.data.copy_(self.own)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean = state_dict["mean"]


def test_weights_that_stand_in_for_validation_are_not_what_is_saved_there(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        model = Model()
        train(model, Swaps(), stop, logger=CSVLogger("."), val_check_interval=2)
        return model.layer.weight

    check(program, tmp_path, monkeypatch, ("on_validation_batch_end", 3), ("on_validation_batch_end", 4))


class Keeps(Model):
    """A scheduler whose load_state_dict takes its argument apart, and a metric in a list in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = {"all": [CatMetric()]}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.metrics["all"][0].update(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), 0.1, momentum=0.9)
        scheduler = lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def test_schedulers_and_metrics_of_all_kinds_go_on(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        model = Keeps()
        train(model, stop, logger=CSVLogger("."))
        return model.layer.weight, model.metrics["all"][0].compute()

    check(program, tmp_path, monkeypatch, ("on_train_batch_end", 5))


class Ends(L.Callback):
    def on_train_epoch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = True

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop |= trainer.received_sigterm


@pytest.mark.parametrize("step", [3, 5])
def test_who_had_asked_a_run_to_stop_before_the_signal_has_done_so_afterwards(tmp_path, monkeypatch, step):
    def program(stop: Any) -> Any:
        model = Model()
        options = {"max_epochs": 9, "min_steps": 6}
        return train(model, stop, Ends(), logger=CSVLogger("."), **options).global_step, model.layer.weight

    assert check(program, tmp_path, monkeypatch, ("on_train_batch_end", step))[0][0] == 6


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_metric_that_was_judged_before_the_save_is_not_judged_again(tmp_path, monkeypatch, by_epoch):
    def program(stop: Any) -> Any:
        class Worse(Model):
            def on_train_epoch_end(self) -> None:
                self.log("worse", float(self.current_epoch))

        early = EarlyStopping("worse" if by_epoch else "loss", patience=3, min_delta=1e9)
        return train(Worse(), early, stop, ModelCheckpoint(), logger=CSVLogger("."), max_epochs=9).global_step

    monkeypatch.setattr(L.Trainer, "_save_interrupted", lambda self: None)  # as by a kill
    stops = [("on_train_batch_end", n) for n in (6, 6)]
    assert check(program, tmp_path, monkeypatch, *stops)[0] == 16


def test_a_kill_between_a_save_and_its_copy_leaves_the_copy_to_the_next_start(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        train(Model(), stop, ModelCheckpoint(save_last=True), logger=CSVLogger("."), max_epochs=3)
        return {path.name: files.read(path)["global_step"] for path in Path(".").rglob("*.ckpt")}

    repeat, done = files.repeat, []

    def killed(path: Any, other: Any, link: bool) -> None:
        done.append(path)
        if len(done) == 6:  # the last one of the run that is ended
            raise SIGTERMException(143)
        repeat(path, other, link=link)

    monkeypatch.setattr(files, "repeat", killed)
    monkeypatch.setattr(L.Trainer, "_save_interrupted", lambda self: None)
    check(program, tmp_path, monkeypatch, ("none", 0))


def test_rows_of_before_the_first_save_leave_no_file(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        train(Model(), stop, ModelCheckpoint(every_n_train_steps=99), logger=CSVLogger(".", flush_logs_every_n_steps=1))

    monkeypatch.setattr(L.Trainer, "_save_interrupted", lambda self: None)  # as by a kill
    check(program, tmp_path, monkeypatch, ("on_train_batch_end", 3))


def test_files_of_the_moment_of_the_signal_are_not_written_over(tmp_path, monkeypatch):
    def program(stop: Any) -> Any:
        saves = ModelCheckpoint("c", "{epoch}", save_weights_only=True, save_top_k=-1, save_on_train_epoch_end=False)
        train(Model(), saves, ModelCheckpoint("n", every_n_train_steps=9), stop, logger=False, val_check_interval=1)
        return {name: files.read(f"c/{name}")["global_step"] for name in os.listdir("c")}

    check(program, tmp_path, monkeypatch, ("on_validation_end", 2))


def test_an_iterator_that_is_kept_is_told(tmp_path, monkeypatch):
    model = Model()
    model.others = iter(data())
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"iterator Model\.others stands"):
        train(model, logger=False)
