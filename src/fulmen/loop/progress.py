"""Where a run stands: plain counters that a checkpoint holds and resume reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Points of an epoch at which a checkpoint may be taken, in their order; resume goes on behind them.
IN_EPOCH, VALIDATED, EPOCH_ENDED = "in_epoch", "validated", "epoch_ended"


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

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch = 0
        self.point = IN_EPOCH
