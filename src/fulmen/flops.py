"""How much a step computes, and how much a device could."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# dense FLOP per second that the makers state: 32-bit (TF32 on tensor cores), 16-bit
PEAKS: dict[str, tuple[float, float]] = {
    "b200": (1.1e15, 2.25e15), "h200": (4.945e14, 9.89e14), "h100 nvl": (4.175e14, 8.35e14),
    "h100 pcie": (3.78e14, 7.56e14), "h100": (4.945e14, 9.89e14), "a100": (1.56e14, 3.12e14),
    "a10g": (3.5e13, 7e13), "l40s": (1.83e14, 3.62e14), "l4": (6e13, 1.21e14), "t4": (8.1e12, 6.5e13),
    "v100": (1.57e13, 1.25e14), "rtx 4090": (8.26e13, 1.652e14), "rtx 3090": (3.55e13, 7.1e13),
}  # fmt: skip


def measure_flops(
    model: nn.Module, forward_fn: Callable[[], Tensor], loss_fn: Callable[[Tensor], Tensor] | None = None
) -> int:
    """The floating-point operations of `forward_fn()`, and with `loss_fn` of the backward pass from its result.

    On the "meta" device nothing is computed and no memory is needed:

        with torch.device("meta"):
            model, batch = MyModel(), torch.randn(2, 32)
        measure_flops(model, lambda: model(batch), lambda output: output.sum())
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        if loss_fn is None:
            forward_fn()
        else:
            loss_fn(forward_fn()).backward()
    return counter.get_total_flops()


def get_available_flops(device: torch.device, dtype: torch.dtype | str) -> int | None:
    """The peak of a CUDA device for 16- or 32-bit numbers in operations per second, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    half = str(dtype).removeprefix("torch.") in ("float16", "bfloat16")
    return next((int(peaks[half]) for kind, peaks in PEAKS.items() if kind in name), None)
