"""Which accelerators exist, and what `accelerator=` and `devices=` mean."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from fulmen.errors import MisconfigurationException, nearest
from fulmen.warn import rank_zero_info


class Accelerator(ABC):
    """A kind of device. Subclasses can be passed as `Trainer(accelerator=...)`, or by name once they are registered."""

    @staticmethod
    @abstractmethod
    def name() -> str:
        """The word for `accelerator=`, also the type in `torch.device`."""

    @staticmethod
    @abstractmethod
    def auto_device_count() -> int:
        """How many `devices="auto"` means; found without starting a device."""

    @classmethod
    def is_available(cls) -> bool:
        """Whether this machine has at least one."""
        return cls.auto_device_count() > 0

    @classmethod
    def parse_devices(cls, devices: Any) -> Any:
        """Check what the user asked for, and return what `get_parallel_devices` takes: a list of indices."""
        return _indices(devices, cls.auto_device_count(), cls.name())

    @classmethod
    def get_parallel_devices(cls, devices: Any) -> list[torch.device]:
        """The devices, one for each process."""
        return [torch.device(cls.name(), index) for index in devices]

    def setup_device(self, device: torch.device) -> None:
        """Make `device` the one that this process works on."""
        if device.type != self.name():
            raise ValueError(f"device={device} is not of type {self.name()!r}, the accelerator that was chosen.")

    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        """Figures on the device's load and memory."""
        return {}

    def teardown(self) -> None:
        """Give back what the run held; here nothing is."""
        return


class CPUAccelerator(Accelerator):
    """Processes on the CPU; `devices` is their number."""

    @staticmethod
    def name() -> str:
        return "cpu"

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @classmethod
    def parse_devices(cls, devices: int | str) -> int:
        asked = _asked(devices)
        if not isinstance(asked, int) or asked < 1:
            raise TypeError(
                f"devices={devices!r} with accelerator='cpu' should be an int > 0, the number of processes."
            )
        return asked

    @classmethod
    def get_parallel_devices(cls, devices: int | str) -> list[torch.device]:
        return [torch.device("cpu")] * int(devices)

    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        try:
            import psutil
        except ImportError as error:
            raise ModuleNotFoundError("CPU figures need the package psutil: pip install psutil") from error
        return {
            "cpu_percent": psutil.cpu_percent(),
            "cpu_vm_percent": psutil.virtual_memory().percent,
            "cpu_swap_percent": psutil.swap_memory().percent,
        }


class CUDAAccelerator(Accelerator):
    """GPUs of NVIDIA, or of AMD with PyTorch for ROCm."""

    @staticmethod
    def name() -> str:
        return "cuda"

    @staticmethod
    def auto_device_count() -> int:
        return torch.cuda.device_count()  # unlike cuda.is_available this leaves the process able to fork

    def setup_device(self, device: torch.device) -> None:
        super().setup_device(device)
        torch.cuda.set_device(device)
        if torch.cuda.get_device_capability(device)[0] >= 8 and torch.get_float32_matmul_precision() == "highest":
            rank_zero_info(
                f"{torch.cuda.get_device_name(device)} has Tensor Cores, which 32-bit matrix products do not use yet: "
                "torch.set_float32_matmul_precision('high') makes them faster and slightly less precise."
            )

    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        return torch.cuda.memory_stats(device)

    def teardown(self) -> None:
        torch.cuda.empty_cache()


class MPSAccelerator(Accelerator):
    """The GPU of a Mac; there is one."""

    @staticmethod
    def name() -> str:
        return "mps"

    @staticmethod
    def auto_device_count() -> int:
        return int(torch.backends.mps.is_available())

    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        return {"allocated": torch.mps.current_allocated_memory(), "reserved": torch.mps.driver_allocated_memory()}

    def teardown(self) -> None:
        torch.mps.empty_cache()


class Registry(dict[str, dict[str, Any]]):
    """Classes by name, accelerators or strategies; `kind` is the word for what they are."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(
        self,
        name: str,
        made_of: Callable[..., Any] | str | None = None,
        description: str = "",
        override: bool = False,
        **init_params: Any,
    ) -> Any:
        """Add a class, which `get` calls with `init_params`; without one (also given as `kind`) a class decorator."""
        made_of = init_params.pop(self.kind, made_of)
        if name in self and not override:
            raise MisconfigurationException(f"{self.kind} {name!r} is registered already; override=True replaces it.")
        if made_of is None:
            return lambda cls: self.register(name, cls, description, override, **init_params)
        entry = {self.kind: made_of, f"{self.kind}_name": name, "description": description, "init_params": init_params}
        self[name] = entry
        return made_of

    def get(self, name: str, default: Any = None) -> Any:
        """A new one of that name, or `default`."""
        if name in self:
            return self[name][self.kind](**self[name]["init_params"])
        if default is None:
            raise KeyError(f"No {self.kind} {name!r} is registered.{nearest(name, self)}")
        return default

    def remove(self, name: str) -> None:
        """Forget the one of that name."""
        del self[name]


class Accelerators(Registry):
    """Accelerators by the name for `accelerator=`.

    >>> @AcceleratorRegistry.register("npu", description="a neural processor", slots=2)
    ... class NPUAccelerator(Accelerator): ...
    """

    def available_accelerators(self) -> set[str]:
        """All registered names, whether or not this machine has such a device."""
        return set(self)


AcceleratorRegistry = Accelerators("accelerator")
for _kind in (CPUAccelerator, CUDAAccelerator, MPSAccelerator):
    AcceleratorRegistry.register(_kind.name(), _kind, description=_kind.__doc__ or "")


def choose(accelerator: str | Accelerator, devices: Any) -> tuple[Accelerator, list[torch.device]]:
    """The accelerator and, one for each process on this machine, the devices that two of Trainer's arguments mean."""
    chosen = accelerator if isinstance(accelerator, Accelerator) else _by_word(accelerator)
    if not chosen.is_available():
        no_cuda = chosen.name() == "cuda" and not (torch.version.cuda or torch.version.hip)
        raise MisconfigurationException(
            f"accelerator={accelerator!r} was asked for, but no such device was found on this machine"
            f"{f' (torch {torch.__version__} is built without CUDA)' if no_cuda else ''}. "
            "accelerator='auto' takes what is there."
        )
    if devices in (0, "0", "", (), []) and devices is not False:
        raise MisconfigurationException(
            f"devices={devices!r} asks for no device. Pass a positive int or 'auto'; accelerator='cpu' needs no GPU."
        )
    if isinstance(devices, str) and devices.strip() == "auto":
        devices = chosen.auto_device_count()
    return chosen, chosen.get_parallel_devices(chosen.parse_devices(devices))


def _by_word(word: Any) -> Accelerator:
    if word == "auto":
        return next(kind() for kind in (CUDAAccelerator, MPSAccelerator, CPUAccelerator) if kind.is_available())
    if word == "gpu":
        return MPSAccelerator() if MPSAccelerator.is_available() else CUDAAccelerator()
    if isinstance(word, str) and word in AcceleratorRegistry:
        return AcceleratorRegistry.get(word)
    if word == "tpu":
        raise MisconfigurationException("accelerator='tpu' is not supported: it would need torch_xla.")
    valid = sorted({"auto", "gpu", *AcceleratorRegistry})
    raise ValueError(f"accelerator={word!r} must be one of {valid} or an Accelerator.{nearest(word, valid)}")


def _asked(devices: Any) -> int | list[int]:
    """A number of devices or a list of their indices."""
    asked = devices
    if isinstance(devices, str):
        try:
            asked = [int(part) for part in devices.split(",") if part.strip()] if "," in devices else int(devices)
        except ValueError:
            raise ValueError(f"devices={devices!r} must be a number, indices as in '0,2', or 'auto'.") from None
    if type(asked) is int:
        return asked
    if isinstance(asked, (list, tuple)) and all(type(index) is int for index in asked):
        return list(asked)
    raise TypeError(f"devices={devices!r} must be an int, a list of ints or a string, not {type(devices).__name__}.")


def _indices(devices: Any, found: int, kind: str) -> list[int]:
    """The indices of the devices that `devices` asks for, of which `found` are there."""
    asked = _asked(devices)
    if isinstance(asked, int):
        asked = list(range(found if asked == -1 else asked))
    if len(set(asked)) < len(asked):
        raise MisconfigurationException(f"devices={devices!r} names a device twice; each can be used once.")
    if not asked or not set(asked) <= set(range(found)):
        raise MisconfigurationException(
            f"devices={devices!r} asks for the {kind} devices {asked}, but this machine has {list(range(found))}."
        )
    return asked


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_usable_cuda_devices(num_devices: int = -1) -> list[int]:
    """The indices of the first `num_devices` GPUs (-1: of all) on which memory can be had just now.

    For machines whose GPUs are in exclusive mode: `Trainer(devices=find_usable_cuda_devices(2))`.
    """
    found = torch.cuda.device_count()
    if (num_devices and not found) or num_devices > found:
        raise ValueError(f"num_devices={num_devices} GPUs were asked for, but {found} are visible on this machine.")
    usable: list[int] = []
    for index in range(found):
        if len(usable) != num_devices and _is_usable(index):
            usable.append(index)
    if len(usable) < num_devices:
        raise RuntimeError(f"num_devices={num_devices} GPUs were asked for, but of {found} only {usable} are free.")
    return usable


def _is_usable(index: int) -> bool:
    try:
        torch.zeros(1, device=torch.device("cuda", index))
    except RuntimeError:
        return False
    return True
