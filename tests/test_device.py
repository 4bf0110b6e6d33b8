from contextlib import suppress

import pytest
import torch

import fulmen as L
from fulmen.device import (
    Accelerator,
    AcceleratorRegistry,
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    choose,
    find_usable_cuda_devices,
)
from fulmen.errors import MisconfigurationException

CPU = torch.device("cpu")


class Abacus(Accelerator):
    """A user's own kind of device, of which this machine has three."""

    def __init__(self, beads=10):
        self.beads = beads

    @staticmethod
    def name():
        return "meta"  # a type of device that every torch has

    @staticmethod
    def auto_device_count():
        return 3


@pytest.fixture
def machine(monkeypatch):
    """Makes the machine one with so many GPUs of NVIDIA and so many of Apple."""

    def has(cuda=0, mps=0):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))

    return has


@pytest.fixture
def registry():
    before = dict(AcceleratorRegistry)
    yield AcceleratorRegistry
    AcceleratorRegistry.clear()
    AcceleratorRegistry.update(before)


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (2, 2), ("3", 3), ("auto", 1), (" 2 ", 2)])
def test_devices_on_the_cpu_is_a_number_of_processes(devices, count):
    accelerator, found = choose("cpu", devices)
    assert isinstance(accelerator, CPUAccelerator)
    assert found == [CPU] * count


@pytest.mark.parametrize("devices", [[0, 2], [0], "0,2", "1,", -1, "-1", -2, None, 1.5, True, (0, 1), {0}])
def test_anything_else_on_the_cpu_is_an_error(devices):
    with pytest.raises(TypeError, match="devices="):
        choose("cpu", devices)


@pytest.mark.parametrize("devices", [0, "0", [], (), ""])
@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "auto"])
def test_no_devices_is_an_error(machine, accelerator, devices):
    machine(cuda=2)
    with pytest.raises(MisconfigurationException, match=r"asks for no device.*accelerator='cpu' needs no GPU"):
        choose(accelerator, devices)


@pytest.mark.parametrize(
    ("devices", "indices"),
    [
        (1, [0]),
        (3, [0, 1, 2]),
        ("3", [0, 1, 2]),
        (-1, [0, 1, 2, 3]),
        ("-1", [0, 1, 2, 3]),
        ("auto", [0, 1, 2, 3]),
        ([0, 2], [0, 2]),
        ((2, 0), [2, 0]),
        ("0,2", [0, 2]),
        ("1,", [1]),
        (" 1, 3 ", [1, 3]),
    ],
)
def test_devices_with_gpus_is_a_number_or_the_indices(machine, devices, indices):
    machine(cuda=4)
    accelerator, found = choose("gpu", devices)
    assert isinstance(accelerator, CUDAAccelerator)
    assert found == [torch.device("cuda", index) for index in indices]


@pytest.mark.parametrize(
    ("devices", "asked"),
    [(5, "[0, 1, 2, 3, 4]"), ("7", "[0, 1, 2, 3, 4, 5, 6]"), ([0, 9], "[0, 9]"), ([0, -1], "[0, -1]")],
)
def test_gpus_that_are_not_there_are_an_error_with_what_was_asked_and_found(machine, devices, asked):
    machine(cuda=4)
    with pytest.raises(MisconfigurationException) as error:
        choose("cuda", devices)
    assert str(error.value).startswith(f"devices={devices!r} asks for the cuda devices {asked}, ")
    assert str(error.value).endswith("this machine has [0, 1, 2, 3].")


def test_the_same_gpu_twice_is_an_error(machine):
    machine(cuda=4)
    with pytest.raises(MisconfigurationException, match=r"devices=\[1, 1\] names a device twice"):
        choose("cuda", [1, 1])


@pytest.mark.parametrize(
    ("devices", "kind"), [("x", ValueError), ("1,b", ValueError), (["0"], TypeError), (1.5, TypeError)]
)
def test_what_is_no_number_and_no_index_is_an_error(machine, devices, kind):
    machine(cuda=4)
    with pytest.raises(kind, match="devices="):
        choose("cuda", devices)


@pytest.mark.parametrize(("present", "device"), [({"cuda": 2, "mps": 1}, "cuda:0"), ({"mps": 1}, "mps:0"), ({}, "cpu")])
def test_auto_takes_the_best_that_is_there(machine, present, device):
    machine(**present)
    accelerator, found = choose("auto", "auto")
    assert found[0] == torch.device(device)
    assert accelerator.name() == found[0].type


def test_gpu_means_mps_on_a_mac(machine):
    machine(mps=1)
    assert choose("gpu", 1)[1] == [torch.device("mps", 0)]
    with pytest.raises(MisconfigurationException, match=r"devices=2 asks for the mps devices \[0, 1\].* has \[0\]"):
        choose("mps", 2)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_an_accelerator_that_is_not_there_is_an_error(machine, accelerator):
    machine()
    with pytest.raises(
        MisconfigurationException, match=f"accelerator='{accelerator}' was asked for, but no such device"
    ):
        choose(accelerator, 1)


def test_the_error_says_so_if_torch_is_built_without_cuda(machine, monkeypatch):
    machine()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MisconfigurationException, match="is built without CUDA"):
        choose("cuda", 1)


def test_tpus_are_refused_in_one_sentence():
    with pytest.raises(MisconfigurationException, match="'tpu' is not supported"):
        choose("tpu", 8)


def test_a_misspelt_accelerator_is_an_error_with_the_nearest_name_and_all_valid_ones():
    with pytest.raises(
        ValueError, match=r"'cudaa' must be one of \['auto', 'cpu', 'cuda', 'gpu', 'mps'\].*mean 'cuda'\?"
    ):
        choose("cudaa", 1)
    with pytest.raises(ValueError, match="accelerator=None must be one of"):
        choose(None, 1)


def test_an_accelerator_of_the_users_own():
    accelerator, found = choose(mine := Abacus(), [0, 2])
    assert accelerator is mine
    assert found == [torch.device("meta", 0), torch.device("meta", 2)]
    assert len(choose(Abacus(), "auto")[1]) == 3


def test_a_registered_accelerator_is_chosen_by_its_name(registry):
    registry.register("abacus", Abacus, description="counts", beads=7)
    accelerator, found = choose("abacus", -1)
    assert (accelerator.beads, len(found)) == (7, 3)
    assert registry["abacus"]["description"] == "counts"


def test_the_registry(registry):
    assert registry.available_accelerators() == {"cpu", "cuda", "mps"}

    @registry.register("abacus", beads=3)
    class Other(Abacus):
        pass

    assert isinstance(registry.get("abacus"), Other)
    assert registry.get("abacus").beads == 3
    with pytest.raises(MisconfigurationException, match="'abacus' is registered already"):
        registry.register("abacus", Abacus)
    registry.register("abacus", Abacus, override=True)
    assert type(registry.get("abacus")) is Abacus
    registry.remove("abacus")
    assert registry.get("abacus", "nothing") == "nothing"
    with pytest.raises(KeyError, match="Did you mean 'cuda'"):
        registry.get("cudaa")


def test_a_process_can_only_be_set_up_for_a_device_of_its_accelerator():
    CPUAccelerator().setup_device(CPU)
    with pytest.raises(ValueError, match="device=cpu is not of type 'cuda'"):
        CUDAAccelerator().setup_device(CPU)
    with pytest.raises(ValueError, match="device=meta is not of type 'cpu'"):
        CPUAccelerator().setup_device(torch.device("meta"))


def test_the_stages_can_be_called_one_by_one(machine):
    machine(cuda=2, mps=1)
    assert CPUAccelerator.get_parallel_devices(CPUAccelerator.parse_devices("2")) == [CPU, CPU]
    assert CUDAAccelerator.get_parallel_devices(CUDAAccelerator.parse_devices(-1))[1] == torch.device("cuda", 1)
    assert MPSAccelerator.get_parallel_devices(MPSAccelerator.parse_devices([0])) == [torch.device("mps", 0)]
    kinds = (CPUAccelerator, CUDAAccelerator, MPSAccelerator)
    assert [kind.auto_device_count() for kind in kinds] == [1, 2, 1]


def test_figures_of_the_cpu():
    pytest.importorskip("psutil")
    stats = CPUAccelerator().get_device_stats(CPU)
    assert set(stats) == {"cpu_percent", "cpu_vm_percent", "cpu_swap_percent"}
    assert 0 < stats["cpu_vm_percent"] <= 100


@pytest.mark.parametrize(
    ("present", "busy", "asked", "usable"), [(3, [], -1, [0, 1, 2]), (3, [0], 2, [1, 2]), (3, [], 0, [])]
)
def test_busy_gpus_are_passed_over(machine, monkeypatch, present, busy, asked, usable):
    machine(cuda=present)

    def zeros(size, device):
        if device.index in busy:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

    monkeypatch.setattr(torch, "zeros", zeros)
    assert find_usable_cuda_devices(asked) == usable
    if busy:
        with pytest.raises(RuntimeError, match=r"num_devices=3 .* of 3 only \[1, 2\] are free"):
            find_usable_cuda_devices(3)


def test_more_usable_gpus_than_there_are_is_an_error(machine):
    for present, asked in ((0, -1), (0, 1), (2, 3)):
        machine(cuda=present)
        with pytest.raises(ValueError, match=f"num_devices={asked} GPUs were asked for, but {present} are visible"):
            find_usable_cuda_devices(asked)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"accelerator": "cudaa"}, ValueError, "Did you mean 'cuda'"),
        ({"accelerator": "cpu", "devices": [0]}, TypeError, "should be an int > 0"),
        ({"accelerator": "cpu", "devices": 0}, MisconfigurationException, "devices=0 asks for no device"),
    ],
)
def test_the_trainer_refuses_devices_when_it_is_made(options, kind, message):
    with pytest.raises(kind, match=message):
        L.Trainer(max_epochs=1, **options)


def test_the_trainer_has_the_chosen_accelerator():
    trainer = L.Trainer(max_epochs=1, accelerator="auto", devices=1, logger=False)
    best_first = (CUDAAccelerator, MPSAccelerator, CPUAccelerator)
    assert type(trainer.accelerator) is next(kind for kind in best_first if kind.is_available())


@pytest.mark.gpu
def test_a_gpu_is_chosen_set_up_and_given_back(caplog):
    accelerator, [device] = choose("auto", 1)
    assert device == torch.device("cuda", 0)
    accelerator.setup_device(device)
    assert torch.cuda.current_device() == 0
    assert ("set_float32_matmul_precision" in caplog.text) == (torch.cuda.get_device_capability(0)[0] >= 8)
    held = torch.ones(1000, device=device)
    assert accelerator.get_device_stats(device)["allocated_bytes.all.current"] >= held.numel() * 4
    del held
    accelerator.teardown()
    assert find_usable_cuda_devices() == list(range(torch.cuda.device_count()))
    with suppress(MisconfigurationException):
        choose("cuda", torch.cuda.device_count() + 1)
        pytest.fail("one more GPU than there is was found")
