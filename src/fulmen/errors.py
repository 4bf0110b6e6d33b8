"""Every exception of Fulmen.

    Exception
    ├── ValueError
    │   └── MisconfigurationException     arguments, hooks or data that do not go together
    ├── RuntimeError
    │   ├── NonFiniteError                a loss, gradient or weight became NaN or infinite (also a ValueError)
    │   └── CheckpointError               a checkpoint that cannot be used
    │       ├── MissingCheckpoint         there is none (also a FileNotFoundError)
    │       ├── TornCheckpoint            cut off or altered after it was written
    │       ├── ForeignCheckpoint         a file that no trainer wrote, or one of another model
    │       └── FutureCheckpoint          written by a newer version than this one
    SystemExit
    └── SIGTERMException                  the process was asked to end

Wrong values and types of single arguments are plain `ValueError` and `TypeError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class MisconfigurationException(ValueError):
    """Arguments, hooks or data that do not go together."""


class SIGTERMException(SystemExit):
    """Raised at the end of the step in which SIGTERM came, so that a run stops in good order."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the kinds below say why."""


class NonFiniteError(RuntimeError, ValueError):
    """A loss, gradient or weight became NaN or infinite."""


class MissingCheckpoint(CheckpointError, FileNotFoundError):
    """No checkpoint where one was asked for."""


class TornCheckpoint(CheckpointError):
    """A checkpoint that was cut off or altered after it was written."""


class ForeignCheckpoint(CheckpointError):
    """A file that is not a trainer's checkpoint, or one of another model."""


class FutureCheckpoint(CheckpointError):
    """A checkpoint written by a newer version than the one that reads it."""


def nearest(word: object, words: Iterable[object]) -> str:
    """The end of an error's sentence, " Did you mean 'x'?", or "" when nothing in `words` comes near.

    Upper case, hyphens and underscores make no difference.
    """
    by_plain_form = {_plain(candidate): str(candidate) for candidate in words}
    alike = {form: SequenceMatcher(None, form, _plain(word)).ratio() for form in by_plain_form}
    found = max(alike, key=alike.__getitem__, default="")  # of several as near, the first
    return f" Did you mean {by_plain_form[found]!r}?" if alike.get(found, 0.0) >= 0.6 else ""


def _plain(word: object) -> str:
    return str(word).lower().replace("-", "_")
