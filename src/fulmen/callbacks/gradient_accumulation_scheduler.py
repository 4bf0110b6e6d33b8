"""Change how many batches are accumulated as the training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fulmen.callbacks.base import Callback
from fulmen.errors import MisconfigurationException

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer


class GradientAccumulationScheduler(Callback):
    """Accumulates gradients over `scheduling[epoch]` batches from that epoch on; before the first one it is 1.

    Trainer(callbacks=[GradientAccumulationScheduler({4: 2, 8: 4})])
    """

    def __init__(self, scheduling: dict[int, int]) -> None:
        if not isinstance(scheduling, dict) or not scheduling:
            raise TypeError(f"scheduling={scheduling!r} must be a dict of epoch: number of batches, such as {{4: 2}}.")
        for name, least, numbers in (("epoch", 0, scheduling), ("number of batches", 1, scheduling.values())):
            for number in numbers:
                if not isinstance(number, int) or number < least:
                    raise MisconfigurationException(
                        f"scheduling={scheduling!r}: the {name} {number!r} must be an int of at least {least}."
                    )
        self.scheduling = {0: 1, **scheduling}
        self.epochs = sorted(self.scheduling)
        self._own: int | None = None  # what this callback wrote last, so that a second fit is not taken for a conflict

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether any epoch accumulates at all."""
        return any(number > 1 for number in self.scheduling.values())

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """The number of batches in `epoch`."""
        return self.scheduling[max(start for start in self.epochs if start <= epoch)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "GradientAccumulationScheduler does nothing with automatic_optimization=False: "
                "remove the callback and call optimizer.step() when it is due, or use automatic optimization."
            )
        if trainer.options.accumulate_across_epochs:
            raise MisconfigurationException(
                "GradientAccumulationScheduler gives each epoch its own number of batches, and accumulate_across_epochs"
                "=True goes on over the ends of epochs: remove one of them."
            )
        if trainer.accumulate_grad_batches not in (1, self._own):
            raise MisconfigurationException(
                f"accumulate_grad_batches={trainer.accumulate_grad_batches} and GradientAccumulationScheduler both say "
                "how many batches to accumulate: remove one of them."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._own = trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)
