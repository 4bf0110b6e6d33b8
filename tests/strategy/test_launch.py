"""Where the ranks of a program find each other."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from fulmen.strategy import launch


def test_an_attempt_of_torchrun_sees_nothing_of_the_one_that_died(monkeypatch: pytest.MonkeyPatch):
    kept_by_torchrun = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(kept_by_torchrun.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    stores = []
    for attempt in ("0", "0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        stores.append(launch.agents_store(1, timedelta(seconds=20)))
    stores[0].set("rank 0", "address")
    assert [store.check(["rank 0"]) for store in stores] == [True, True, False]


@pytest.mark.parametrize(("name", "value"), [("TORCHELASTIC_USE_AGENT_STORE", "False"), ("GROUP_WORLD_SIZE", "2")])
def test_without_that_store_torch_finds_its_own(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    monkeypatch.setenv(name, value)
    assert launch.agents_store(1, None) is None
