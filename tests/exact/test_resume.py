"""A run that is killed and started again with the same call ends as one that was not, bit for bit."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from exact.situations import ALL, SITUATIONS, WITH_WORKERS, Killed, Noisy, difference, fit, kept, remains
from small import make_trainer
from torch.utils.data import DataLoader

from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files, find
from fulmen.demos import BoringModel
from fulmen.errors import SIGTERMException
from fulmen.loggers import CSVLogger


def killed_at(place: str, number: int) -> Any:
    def kill(here: str, count: int) -> None:
        if here == place and count >= number:
            raise Killed
        if f"asked in {here}" == place and count >= number:
            signal.raise_signal(signal.SIGTERM)

    return kill


def undisturbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, **options: Any) -> dict[str, Any]:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return remains(fit(name, **options))


def disturbed(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, kills: Any, **options: Any) -> dict[str, Any]:
    folder.mkdir()
    monkeypatch.chdir(folder)
    for place, number in kills:
        try:
            fit(name, killed_at(place, number), **options)
        except (Killed, SIGTERMException):
            continue
        monkeypatch.setattr(find, "_finished", {})  # as in another process
    return remains(fit(name, **options))


def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, runs: Any, **options: Any) -> None:
    warnings.simplefilter("ignore")  # what a situation is warned of is tested elsewhere
    expected = undisturbed(monkeypatch, tmp_path, name, **options)
    for number, kills in enumerate(runs):
        found = disturbed(monkeypatch, tmp_path / f"killed {number}", name, kills, **options)
        wrong = difference(expected, found)
        assert not wrong, f"{name}, killed at {kills}:\n{wrong[:3000]}"


@pytest.mark.parametrize("name", SITUATIONS)
def test_any_run_goes_on_as_if_it_had_not_been_killed(name, tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, name, [[("train", 9), ("val", 7)]])


def test_so_does_one_that_is_killed_before_its_first_save(tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, "validated within", [[("train", 0), ("train", 1)], [("val", 2)]], every=100)


def test_so_does_one_that_is_killed_behind_its_last_step_or_was_finished(tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, "by steps", [[("train epoch end", 17)], [("train", 99)]])


@pytest.mark.filterwarnings("ignore:ckpt_path='last', but there is no checkpoint yet")
@pytest.mark.parametrize(("resume", "ckpt_path"), [("auto", None), (None, "last")])
def test_its_weights_are_the_same_without_a_seed(resume, ckpt_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, first = torch.randn(8, 32), []

    class Unseeded(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            first.append([self.layer.weight.detach().clone(), batch])
            if len(first) == 1:
                raise Killed
            return super().training_step(batch, batch_idx)

    def start() -> None:
        trainer = make_trainer(resume=resume, logger=CSVLogger("."), enable_checkpointing=True, log_every_n_steps=1)
        trainer.fit(Unseeded(), DataLoader(data, shuffle=True), ckpt_path=ckpt_path)

    with pytest.raises(Killed):
        start()
    start()
    assert not difference(first[0], first[1])
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
    assert not list(Path(".").rglob("interrupted.ckpt"))


def test_last_is_the_newest_after_a_kill_before_it_was_copied(tmp_path, monkeypatch):
    copies, repeat = [], files.repeat

    def falls(*args: Any, **kwargs: Any) -> None:
        copies.append(args)
        if len(copies) == 21:  # the last of the run
            raise Killed
        repeat(*args, **kwargs)

    def start() -> Any:
        fit("shuffled")
        return torch.load("newest/last.ckpt", weights_only=True)["global_step"]

    monkeypatch.setattr(files, "repeat", falls)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        start()
    assert start() == 21


@pytest.mark.parametrize(("monitor", "options"), [("val_loss", {}), ("loss_epoch", {"limit_val_batches": 0})])
def test_a_run_goes_on_from_a_last_that_was_saved_before_its_value_was_known(monitor, options, tmp_path, monkeypatch):
    waits = {"monitor": monitor, "save_top_k": 2, "every_n_train_steps": 2, "save_last": True}
    ALL["waits"] = kept(
        callbacks=lambda: [ModelCheckpoint("waits", "{step}", **waits)],
        train=lambda: DataLoader(Noisy(18), batch_size=3, shuffle=True),
        **options,
    )
    runs = [[("train", 5), ("val", 6)], [("train epoch end", 6)], [("train", 11), ("train", 15)]]
    check(monkeypatch, tmp_path, "waits", runs, every=100)
    assert torch.load("waits/last.ckpt", weights_only=True)["global_step"] == 18


def test_weights_alone_leave_no_second_file_where_they_are_saved_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = {"dirpath": "weights", "save_weights_only": True, "save_top_k": -1, "filename": "{epoch}"}
    ALL["weights alone"] = kept(callbacks=lambda: [ModelCheckpoint(**weights)])

    def kill(place: str, count: int) -> None:
        if (place, count) == ("train", 9):
            raise Killed

    with pytest.raises(Killed):
        fit("weights alone", kill, every=5)
    fit("weights alone", every=5)
    assert sorted(path.name for path in Path("weights").iterdir()) == [f"epoch={n}.ckpt" for n in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_so_does_one_that_is_killed_twice_or_while_it_validates(name, tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, name, [[("train", 3), ("train", 9)], [("val", 7)]])


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_WORKERS)
def test_so_does_one_with_workers(name, tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, name, [[("train", 3), ("train", 9)], [("val", 7)], [("train", 16)]])


@pytest.mark.slow
@pytest.mark.parametrize("name", {**SITUATIONS, **WITH_WORKERS})
@pytest.mark.parametrize("every", [1, 3])
def test_wherever_it_is_killed(name, every, tmp_path, monkeypatch):
    runs = [[("train", number)] for number in range(1, 21, 2)] + [[("val", 6)], [("val", 14)], [("train", 20)]]
    check(monkeypatch, tmp_path, name, runs, every=every)
