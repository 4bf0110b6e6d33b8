"""What `strategy=` means."""

from __future__ import annotations

import pytest

from fulmen import device
from fulmen.errors import MisconfigurationException
from fulmen.strategy import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry, choose
from fulmen.strategy.environment import LightningEnvironment
from fulmen.strategy.layer_sync import TorchSyncBatchNorm


def chosen(strategy, devices: int = 1, num_nodes: int = 1, **kwargs) -> Strategy:
    return choose(strategy, *device.choose("cpu", devices), num_nodes, **kwargs)


def test_auto_is_one_device_or_ddp(monkeypatch):
    assert type(chosen("auto")) is SingleDeviceStrategy
    assert type(chosen("auto", devices=2)) is DDPStrategy
    assert chosen("auto", devices=2).start_method == "popen"
    for name, value in {"MASTER_ADDR": "host", "MASTER_PORT": "1", "NODE_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert chosen("auto", devices=1, num_nodes=2).global_rank == 1


def test_auto_forks_in_a_notebook(monkeypatch):
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    assert chosen("auto", devices=2).start_method == "fork"


@pytest.mark.parametrize(
    ("name", "method"), [("ddp", "popen"), ("ddp_spawn", "spawn"), ("ddp_fork", "fork"), ("ddp_notebook", "fork")]
)
def test_names_of_ddp(name, method):
    assert chosen(name, devices=2).start_method == method
    assert chosen(name, devices=2).strategy_name == name
    for unused in (True, False):
        strategy = chosen(f"{name}_find_unused_parameters_{str(unused).lower()}", devices=2)
        assert strategy.ddp_kwargs == {"find_unused_parameters": unused}
        assert strategy.start_method == method


def test_an_object_is_taken_as_it_is():
    strategy = DDPStrategy(static_graph=True)
    assert chosen(strategy, devices=2) is strategy
    assert (strategy.world_size, strategy.global_rank, strategy.device_ids) == (2, 0, [0, 1])
    assert strategy.distributed_sampler_kwargs == {"num_replicas": 2, "rank": 0}


def test_plugins_reach_the_strategy():
    environment = LightningEnvironment()
    assert chosen("ddp", devices=2, cluster_environment=environment).cluster_environment is environment
    sync = TorchSyncBatchNorm()
    assert chosen("ddp", devices=2, layer_sync=sync).layer_sync is sync


@pytest.mark.parametrize("wrong", ["dpp", "ddp_find_unused", 3, None])
def test_a_wrong_name_is_refused_with_the_right_ones(wrong):
    with pytest.raises(ValueError, match="must be one of auto, ddp, ddp_find_unused_parameters_false"):
        chosen(wrong)


def test_a_wrong_name_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'ddp_spawn'"):
        chosen("ddp-spwan")


@pytest.mark.parametrize("name", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2", "xla"])
def test_what_is_not_there_yet(name):
    with pytest.raises(MisconfigurationException, match=f"{name!r} is not there yet"):
        chosen(name)


def test_one_device_under_torchrun_is_a_mistake(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    with pytest.raises(MisconfigurationException, match="torchrun started 2 processes, but devices=1"):
        chosen("auto")
    assert chosen("single_device").world_size == 1


def test_own_strategies_can_be_registered():
    @StrategyRegistry.register("mine", description="my own", device="cpu")
    class Mine(SingleDeviceStrategy): ...

    try:
        assert type(chosen("mine")) is Mine
        assert "mine" in StrategyRegistry.available_strategies()
        with pytest.raises(MisconfigurationException, match="registered already"):
            StrategyRegistry.register("mine", Mine)
        StrategyRegistry.register("mine", DDPStrategy, override=True)
        assert type(StrategyRegistry.get("mine")) is DDPStrategy
    finally:
        StrategyRegistry.remove("mine")
    with pytest.raises(KeyError, match="mine"):
        StrategyRegistry.get("mine")
    assert StrategyRegistry.get("mine", default=3) == 3
