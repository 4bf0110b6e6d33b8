import pytest

from fulmen import errors
from fulmen.errors import nearest


@pytest.mark.parametrize("kind", ["MissingCheckpoint", "TornCheckpoint", "ForeignCheckpoint", "FutureCheckpoint"])
def test_every_kind_of_unusable_checkpoint_is_a_checkpoint_error(kind):
    with pytest.raises(errors.CheckpointError, match="of no use"):
        raise getattr(errors, kind)("last.ckpt is of no use")


def test_a_missing_checkpoint_is_also_a_missing_file():
    assert issubclass(errors.MissingCheckpoint, FileNotFoundError)


def test_a_misconfiguration_is_a_value_error():
    assert issubclass(errors.MisconfigurationException, ValueError)


def test_sigterm_ends_the_process_unless_somebody_catches_it():
    assert issubclass(errors.SIGTERMException, SystemExit)


def test_the_docstring_draws_every_exception():
    kinds = [
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert [name for name in kinds if name not in errors.__doc__] == []


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("max_epoch", " Did you mean 'max_epochs'?"),
        ("MAX-EPOCHS", " Did you mean 'max_epochs'?"),
        ("nothing like it", ""),
        (None, ""),
        (3, ""),
    ],
)
def test_the_nearest_right_name_is_suggested(word, end):
    assert nearest(word, ["max_epochs", "devices"]) == end


def test_the_suggestion_is_spelt_as_the_right_name_is():
    assert nearest("Cudaaccelerator", ["CUDAAccelerator"]) == " Did you mean 'CUDAAccelerator'?"
