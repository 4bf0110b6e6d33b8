"""Where a run stands: plain counters that a checkpoint holds and resume reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Points of an epoch at which a checkpoint may be taken, in their order; resume goes on behind them.
IN_EPOCH, VALIDATED, EPOCH_ENDED = "in_epoch", "validated", "epoch_ended"

# Places within a validation, behind those of its batches, where a run looks whether it is to end.
ALL_EVALUATED, VALIDATION_OVER = 2**31, 2**31 + 1


@dataclass
class Progress:
    """Counters of a fit.

    `batch` counts the batches of this epoch that were trained on, `batches` those of all epochs; `steps` is
    global_step: optimizer steps over all optimizers; `stepped` counts the batches that ended with a step.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    steps: int = 0
    stepped: int = 0
    validations: int = 0
    point: str = IN_EPOCH

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in asdict(self):
            setattr(self, name, state[name])

    def place(self, validated: int = 0, further: int = 0) -> int:
        """A number that grows with the run, the same on all ranks at the same place."""
        return (self.batches + further) * 2**32 + validated

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch = 0
        self.point = IN_EPOCH
