"""Who started this process, and which rank it is."""

from __future__ import annotations

import os
from signal import SIGUSR2

import pytest

from fulmen import device
from fulmen.errors import MisconfigurationException
from fulmen.strategy import choose
from fulmen.strategy.environment import (
    ClusterEnvironment,
    KubeflowEnvironment,
    LightningEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
    detect,
)

TORCHRUN = {"RANK": 5, "LOCAL_RANK": 1, "WORLD_SIZE": 8, "GROUP_RANK": 1, "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"SLURM_NTASKS": 4, "SLURM_PROCID": 3, "SLURM_LOCALID": 1, "SLURM_NODEID": 1, "SLURM_JOB_NAME": "train"}
MPI = {
    "OMPI_COMM_WORLD_SIZE": 4,
    "OMPI_COMM_WORLD_RANK": 3,
    "OMPI_COMM_WORLD_LOCAL_RANK": 1,
    "OMPI_COMM_WORLD_LOCAL_SIZE": 2,
}
ADDRESS = {"MASTER_ADDR": "first", "MASTER_PORT": 1234}


@pytest.fixture(autouse=True)
def _nobody() -> None:
    """No launcher's variables but the test's own."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_")) or name in {*TORCHRUN, *ADDRESS, "NODE_RANK"}:
            del os.environ[name]


def put(variables: dict[str, object]) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})


@pytest.mark.parametrize(
    ("variables", "kind", "numbers"),
    [
        ({}, LightningEnvironment, (1, 0, 0, 0)),
        (TORCHRUN, TorchElasticEnvironment, (8, 5, 1, 1)),
        (SLURM, SLURMEnvironment, (4, 3, 1, 1)),
        (MPI, MPIEnvironment, (4, 3, 1, 1)),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, LightningEnvironment, (1, 0, 0, 0)),
        ({**SLURM, "SLURM_JOB_NAME": "interactive"}, LightningEnvironment, (1, 0, 0, 0)),
    ],
)
def test_the_launcher_is_found_by_its_variables(variables, kind, numbers):
    put(variables)
    found = detect()

    assert type(found) is kind
    assert (found.world_size(), found.global_rank(), found.local_rank(), found.node_rank()) == numbers
    assert found.creates_processes_externally == (kind is not LightningEnvironment)


@pytest.mark.parametrize("kind", [LightningEnvironment, TorchElasticEnvironment, SLURMEnvironment, KubeflowEnvironment])
def test_the_address_may_be_given(kind):
    put({**ADDRESS, **TORCHRUN})
    assert (kind().main_address, kind().main_port) == ("first", 1234)


def test_a_pod_of_kubeflow_has_one_process():
    put({"RANK": 2, "WORLD_SIZE": 3})
    environment = KubeflowEnvironment()

    assert (environment.global_rank(), environment.local_rank(), environment.node_rank()) == (2, 0, 2)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("alpha,beta,gamma", "alpha"),
        ("alpha beta", "alpha"),
        ("1.2.3.100,1.2.3.200", "1.2.3.100"),
        ("n[22-24,26]", "n22"),
        ("host[03-05],other", "host03"),
        ("run-c1-[7,9]", "run-c1-7"),
        ("cn[5]", "cn5"),
    ],
)
def test_the_first_host_of_slurm_is_read_from_its_list(nodes, first):
    put({**SLURM, "SLURM_NODELIST": nodes})
    assert SLURMEnvironment().main_address == first


def test_the_port_of_slurm_comes_from_the_job():
    put({**SLURM, "SLURM_JOB_ID": 123456})
    assert SLURMEnvironment().main_port == 15000 + 3456
    assert SLURMEnvironment.job_id() == 123456


def test_slurm_keeps_what_it_was_told_about_requeueing():
    assert SLURMEnvironment().auto_requeue is True
    assert SLURMEnvironment(auto_requeue=False, requeue_signal=SIGUSR2).requeue_signal == SIGUSR2


@pytest.mark.parametrize(("variables", "launcher"), [(TORCHRUN, "torchrun"), (SLURM, "srun"), (MPI, "mpirun")])
def test_devices_must_fit_what_was_started(variables, launcher):
    put(variables)
    with pytest.raises(ValueError, match=rf"{launcher} started \d processes, but devices=3 and num_nodes=1 make 3"):
        choose("ddp", *device.choose("cpu", 3))


def test_ranks_follow_from_the_node():
    put({**ADDRESS, "NODE_RANK": 2, "LOCAL_RANK": 1})
    strategy = choose("ddp", *device.choose("cpu", 4), num_nodes=3)

    assert (strategy.global_rank, strategy.local_rank, strategy.node_rank, strategy.world_size) == (9, 1, 2, 12)


def test_several_machines_need_to_know_each_other():
    put({"MASTER_ADDR": "first"})
    with pytest.raises(MisconfigurationException, match="num_nodes=2 needs MASTER_PORT and NODE_RANK"):
        choose("ddp", *device.choose("cpu", 1), num_nodes=2)


def test_an_environment_of_the_user_is_asked():
    class Mine(LightningEnvironment):
        def node_rank(self) -> int:
            return 3

        def validate_settings(self, num_devices: int, num_nodes: int) -> None:
            pass

    strategy = choose("ddp", *device.choose("cpu", 2), num_nodes=4, cluster_environment=Mine())
    assert (strategy.global_rank, strategy.world_size) == (6, 8)


def test_the_base_class_has_to_be_filled_in():
    with pytest.raises(TypeError, match="abstract"):
        ClusterEnvironment()
