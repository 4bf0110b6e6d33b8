"""Checkpoints in a store that fsspec reaches, and on disks that fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest
import torch
from callbacks.small import QUIET, Scored
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files, places
from fulmen.errors import MisconfigurationException, MissingCheckpoint, TornCheckpoint
from fulmen.loggers import CSVLogger

STATE = {"global_step": 3, "state_dict": {"w": torch.arange(500.0)}, "fulmen": {"version": 1}}
MEMORY = "memory://bucket/c"


class Breaking(MemoryFileSystem):
    """A store whose connection breaks within each upload."""

    protocol = "breaking"

    def _open(self, path, mode="rb", **options):
        file = super()._open(path, mode, **options)
        if "w" in mode:
            file.write = lambda chunk: (_ for _ in ()).throw(ConnectionError("reset by the store"))
        return file


class Disk(LocalFileSystem):
    """The local disk as a store of its own, so that it is not taken for plain files."""

    protocol = "disk"


for store in (Breaking, Disk):
    fsspec.register_implementation(store.protocol, store, clobber=True)


@pytest.fixture(autouse=True)
def empty_store():
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


def stored(folder: str) -> list[str]:
    fs, target = places.store(folder)
    return sorted(name.rpartition("/")[2] for name in fs.ls(target, detail=False))


def fit(ckpt_path=None, max_epochs: int = 3, **options) -> ModelCheckpoint:
    callback = ModelCheckpoint(filename="{step}", **options)
    trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True, "max_epochs": max_epochs, "callbacks": [callback]})
    trainer.fit(Scored([3.0, 1.0, 2.0] * 2), ckpt_path=ckpt_path)
    return callback


@pytest.mark.parametrize("place", [MEMORY, "file", "disk"])
def test_a_store_gives_back_what_it_got(place):
    folder = place if "://" in place else f"{place}://{os.getcwd()}/c"
    path = f"{folder}/a.ckpt"
    files.write(STATE, path)
    assert places.exists(path)
    assert stored(folder) == ["a.ckpt"]
    assert torch.equal(files.read(path)["state_dict"]["w"], STATE["state_dict"]["w"])
    files.write({**STATE, "global_step": 4}, path)  # in place of the former one
    assert files.read(files.newest_good(folder))["global_step"] == 4
    with pytest.raises(MissingCheckpoint, match=r"no.ckpt"):
        files.read(f"{folder}/no.ckpt")
    places.remove(path)
    assert not places.exists(path)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("place", [MEMORY, "file", "disk"])
def test_a_run_saves_there_keeps_the_newest_and_goes_on_from_there(place, is_async):
    folder = place if "://" in place else f"{place}://{os.getcwd()}/c"
    options = {"dirpath": folder, "save_last": True, "async_save": is_async}
    callback = fit(max_epochs=2, **options)
    assert stored(folder) == ["last.ckpt", "step=8.ckpt"]
    assert callback.best_model_path.endswith("c/step=8.ckpt")
    fit(ckpt_path="last", **options)
    assert stored(folder) == ["last.ckpt", "step=12.ckpt"]
    assert files.read(f"{folder}/last.ckpt")["global_step"] == 12


class Falls(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 7:
            raise ZeroDivisionError


def test_a_run_whose_whole_folder_is_there_goes_on_in_it():
    root = "memory://runs/digits"
    options = {**QUIET, "max_epochs": 3, "default_root_dir": root, "resume": "auto", "log_every_n_steps": 1}

    def train(*callbacks: L.Callback) -> L.Trainer:
        saves = ModelCheckpoint(every_n_train_steps=3, filename="{step}")
        options.update(enable_checkpointing=True, logger=CSVLogger(root), callbacks=[saves, *callbacks])
        trainer = L.Trainer(**options)
        trainer.fit(Scored([1.0] * 9, train=True))
        return trainer

    with pytest.raises(ZeroDivisionError):
        train(Falls())
    trainer = train()
    assert trainer.log_dir == f"{root}/lightning_logs/version_0"
    assert stored(f"{root}/lightning_logs") == ["version_0"]
    rows = places.read(f"{trainer.log_dir}/metrics.csv").decode().splitlines()
    assert [row.split(",")[0] for row in rows if "1.0" in row] == ["0", "1", "2"]


def test_an_upload_that_breaks_is_not_seen_and_is_told():
    files.write(STATE, f"{MEMORY}/a.ckpt")
    with pytest.raises(OSError, match=r"'breaking://bucket/c/a.ckpt' could not be saved: reset by the store. Older"):
        files.write({**STATE, "global_step": 9}, "breaking://bucket/c/a.ckpt")
    assert stored(MEMORY) == ["a.ckpt"]
    assert files.read(f"{MEMORY}/a.ckpt")["global_step"] == 3
    with pytest.warns(UserWarning, match="reset by the store.*Training goes on"):
        fit(dirpath="breaking://bucket/d", unwritable="warn", max_epochs=1)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://b/c", "'s3://b/c.*' needs a package for its store. .*s3fs"),
        ("memry://b", "memry://b.*Did you mean 'memory'"),
    ],
)
def test_a_store_that_cannot_be_reached_is_told_with_the_way_out(path, said):
    with pytest.raises(MisconfigurationException, match=said):
        fit(dirpath=path)


def test_what_a_killed_upload_left_is_removed_by_the_next_run():
    fs, _ = places.store(MEMORY)
    dead = f"/bucket/c/.a.ckpt.{files._HOST}.4194305.partial"  # above the highest number of a process
    other = "/bucket/c/.a.ckpt.elsewhere.1.partial"  # of another machine, and new
    for path in (dead, other):
        fs.pipe(path, b"half")
    fit(dirpath=MEMORY, max_epochs=1)
    assert stored(MEMORY) == [other.rpartition("/")[2], "step=4.ckpt"]


def test_a_damaged_file_in_a_store_is_told_and_the_newest_good_one_is_found():
    for step in (1, 2):
        files.write({**STATE, "global_step": step}, f"{MEMORY}/{step}.ckpt")
    fs, _ = places.store(MEMORY)
    fs.pipe("/bucket/c/2.ckpt", fs.cat("/bucket/c/2.ckpt")[:900])
    with pytest.raises(TornCheckpoint, match="truncated"):
        files.read(f"{MEMORY}/2.ckpt")
    with pytest.warns(UserWarning, match=r"Skipped: .*2.ckpt' is truncated"):
        assert files.newest_good(MEMORY) == "memory:///bucket/c/1.ckpt"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Make room there"),
        (errno.EDQUOT, "Make room within your quota"),
        (errno.EROFS, "mounted read-only"),
        (errno.ESTALE, "the network mount does not answer"),
        (errno.EIO, "the network mount does not answer"),
        (errno.EACCES, "a folder that can be written to"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whatever_the_disk_says_is_told_with_the_way_out(code, advice, call, monkeypatch):
    files.write(STATE, "c/a.ckpt")
    before = Path("c/a.ckpt").read_bytes()

    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=rf"a.ckpt' could not be saved: {os.strerror(code)}.*untouched.*{advice}"):
            files.write({**STATE, "global_step": 9}, "c/a.ckpt")
    assert os.listdir("c") == ["a.ckpt"]
    assert Path("c/a.ckpt").read_bytes() == before
