"""Back to the last good checkpoint within a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fulmen.checkpoint import find, hparams, places, state, writer
from fulmen.errors import NonFiniteError

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


def rewind(trainer: Trainer, since: float) -> str:
    """Put back the weights and the optimizers' states of the newest checkpoint that this run wrote, or began with.

    Data, counters and learning rates stay where they are: the batches since then are left out. `since` is when the
    run began.
    """
    writer.wait()
    path = find.newest(trainer)
    if path is not None and path != str(trainer.ckpt_path) and not places.is_remote(path):
        path = path if Path(path).stat().st_mtime >= since else None
    path = path or trainer.ckpt_path
    if path is None:
        raise NonFiniteError(
            "nonfinite='rewind' found NaN or infinite values, but this run has no checkpoint to go back to yet: save "
            "some early, with ModelCheckpoint(every_n_train_steps=...)."
        )
    checkpoint = state.read(trainer, path, None)
    module = trainer.lightning_module
    hparams.load_weights(module, checkpoint["state_dict"], module.strict_loading, str(path))
    for optimizer, saved in zip(trainer.optimizers, checkpoint.get("optimizer_states") or (), strict=False):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
    return str(path)
