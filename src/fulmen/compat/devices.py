"""Old arguments that choose devices and how many processes share the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from fulmen.compat.names import newest_import
from fulmen.device import choose, find_usable_cuda_devices
from fulmen.errors import MisconfigurationException
from fulmen.warn import warn_once

if TYPE_CHECKING:
    from fulmen.compat.arguments import Translation

BACKENDS = {
    "ddp": "ddp", "ddp_spawn": "ddp_spawn", "ddp_cpu": "ddp_spawn", "ddp_sharded": "ddp",
    "ddp_sharded_spawn": "ddp_spawn", "ddp_fully_sharded": "fsdp", "dp": "auto", "ddp2": "auto",
}  # fmt: skip
"""Old words for `strategy`; "dp" and "ddp2" were one process for several devices."""

GONE = ("horovod", "bagua", "colossalai", "hivemind", "tpu_spawn")


HARDWARE = ("gpus", "tpu_cores", "num_tpu_cores", "ipus")

SAID: set[str] = set()
"""The old arguments that a trainer of this process was made with."""


def release(trainer: Any) -> tuple[int, ...]:
    """The release that the program is of at least: its newest import's; 1.6 where it says devices= and never gpus=."""
    by_devices = trainer.options.devices != "auto" and SAID.isdisjoint((*HARDWARE, "num_processes"))
    return max(newest_import(), (1, 6) if by_devices else (0,))


def is_old_word(name: str, word: Any) -> bool:
    """Whether `accelerator=` or `strategy=` was given a word that only old releases knew there."""
    known = ("ddp", "ddp_spawn") if name == "strategy" else ()
    return isinstance(word, str) and (word in GONE or (word in BACKENDS and word not in known))


def gpus(translation: Translation, name: str, value: Any) -> None:
    asked = parse_gpus(value)
    if translation.is_set("devices") or translation.new["accelerator"] == "cpu":
        return
    if asked == "auto":
        translation.say(name, "accelerator='auto', devices='auto'")
    elif asked in (0, []):
        if not translation.is_set("accelerator"):
            translation.new["accelerator"] = "cpu"
            translation.say(name, "accelerator='cpu'")
    else:
        found = translation.num_gpus()
        if found < _least(asked):
            _too_few(translation, name, f"{name}={value!r} asks for {_in_words(asked)}", found)
            return
        if translation.old.get("auto_select_gpus") and isinstance(asked, int):
            asked = find_usable_cuda_devices(asked)
        translation.new |= {"accelerator": "gpu", "devices": asked}
        translation.say(name, f"accelerator='gpu', devices={asked!r}")


def others(translation: Translation, name: str, value: Any) -> None:
    """TPUs and IPUs."""
    kind = "IPUs" if name == "ipus" else "TPUs"
    _too_few(translation, name, f"{name}={value!r} asks for {kind}, which Fulmen does not drive", 0)


def fit(translation: Translation) -> None:
    """On request, what today's arguments ask for as well comes down to what is here."""
    accelerator = translation.new["accelerator"]
    if os.environ.get("FULMEN_DEVICES") == "available" and isinstance(accelerator, str) and accelerator in AT_MOST:
        asked = parse_gpus(translation.new["devices"])
        found = AT_MOST[accelerator](translation)
        if found < _least(asked):
            _too_few(translation, "devices", f"accelerator={accelerator!r}, devices={asked!r} asks for more", found)


AT_MOST: dict[str, Callable[[Translation], int]] = {
    **dict.fromkeys(("gpu", "cuda", "mps"), lambda translation: translation.num_gpus()),
    **dict.fromkeys(("tpu", "ipu", "hpu"), lambda translation: 0),
}


def _least(asked: Any) -> int:
    """How many devices must be there for this."""
    return max(max(asked) + 1 if isinstance(asked, list) else asked if isinstance(asked, int) else 1, 1)


def _too_few(translation: Translation, name: str, asked: str, found: int) -> None:
    """Hardware that is not here: an error, or on request whatever there is."""
    here = f"{found} GPU{'s' if found != 1 else ''}" if found else "no GPU that torch can use"
    if os.environ.get("FULMEN_DEVICES") != "available":
        build = "" if torch.version.cuda or torch.version.hip else f" (torch {torch.__version__} is built without CUDA)"
        raise MisconfigurationException(
            f"{asked}; this machine has {here}{build}. Pass gpus=0, today accelerator='cpu', or set "
            "FULMEN_DEVICES=available in the environment to run on what there is."
        )
    translation.new |= {"accelerator": "gpu", "devices": found} if found else {"accelerator": "cpu", "devices": 1}
    warn_once(f"{asked}; FULMEN_DEVICES=available runs this on {here if found else 'the CPU'}.")


def num_processes(translation: Translation, name: str, value: Any) -> None:
    if not translation.is_set("devices"):
        translation.new |= {"accelerator": "cpu", "devices": value}
        if not translation.is_set("strategy"):
            translation.new["strategy"] = "ddp_spawn"
        translation.say(name, f"accelerator='cpu', devices={value!r}, strategy='ddp_spawn'")


def backend(translation: Translation, name: str, word: Any) -> None:
    if word in GONE:
        raise MisconfigurationException(f"{name}={word!r} left Lightning in 2.0; use strategy='ddp'.")
    if not translation.is_set("devices"):  # then these words meant processes on the CPU
        translation.new |= {"accelerator": "cpu", "devices": 1}
    devices = translation.new["devices"]
    count = len(devices) if isinstance(devices, list) else devices
    if word in ("dp", "ddp2") and count != 1:
        raise MisconfigurationException(
            f"{name}={word!r} over {count} devices in one process is not part of Fulmen. strategy='ddp' with the batch "
            "size divided by their number computes the same, and faster."
        )
    translation.new["strategy"] = BACKENDS.get(word, word)
    translation.say(name, f"strategy={translation.new['strategy']!r}")


def parse_gpus(value: Any) -> Any:
    """`gpus=` as a number (-1: all), a list of indices, or "auto"; the string "0" is the first GPU."""
    if isinstance(value, str):
        text = value.strip()
        try:
            indices = [int(part) for part in text.split(",") if part.strip()] if text != "auto" else "auto"
        except ValueError:
            raise MisconfigurationException(f"gpus={value!r} must be a number, or indices such as '0,1'.") from None
        return indices if not indices or "," in text or indices in ([0], "auto") else indices[0]
    if value is None or isinstance(value, int):
        return int(value or 0)
    if isinstance(value, (list, tuple)):
        return list(value)
    raise TypeError(f"gpus={value!r} must be an int, a string or a list of indices, not {type(value).__name__}.")


def _in_words(asked: Any) -> str:
    if asked == -1:
        return "all GPUs"
    return f"the GPUs {asked}" if isinstance(asked, list) else f"{asked} GPU{'s' if asked > 1 else ''}"


class AskedDevices:
    """What two of Trainer's arguments mean on this machine, for libraries that ask before they make a trainer."""

    def __init__(self, devices: Any = "auto", accelerator: Any = "auto") -> None:
        self.accelerator, found = choose(accelerator, devices)
        self._accelerator_flag = self.accelerator.name()
        on_cpu = self._accelerator_flag == "cpu"
        self._devices_flag = len(found) if on_cpu else [device.index or 0 for device in found]
