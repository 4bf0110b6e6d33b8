"""Passes over loaders; that another process goes on in their midst is in exact/."""

from __future__ import annotations

from multiprocessing import active_children

import pytest
from small import Net, Numbers, make_trainer
from torch.utils.data import DataLoader


def test_persistent_workers_end_with_the_run():
    def data() -> DataLoader:
        return DataLoader(Numbers(), batch_size=2, num_workers=1, persistent_workers=True)

    class Fails(Net):
        def on_train_epoch_end(self) -> None:
            raise InterruptedError

    make_trainer().fit(Net(), data())
    assert not active_children()
    with pytest.raises(InterruptedError):
        make_trainer().fit(Fails(), data())
    assert not active_children()
