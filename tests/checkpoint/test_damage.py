"""Damaged and hostile files by the thousand: each loads right or fails with our error, and none runs code."""

from __future__ import annotations

import io
import pickle
import random
import sys
import zipfile
from pathlib import Path
from types import FrameType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fulmen.checkpoint import files
from fulmen.checkpoint.packing import MARK
from fulmen.errors import CheckpointError

STATE = {
    "epoch": 1,
    "global_step": 3,
    "state_dict": {"w": torch.arange(64.0), "b": torch.ones(3, dtype=torch.bfloat16)},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(8), "step": torch.tensor(3.0)}}, "param_groups": []}],
    "callbacks": {"Mine": {"path": Path("a/b"), "set": frozenset({1}), "name": "x", "sealed": ValueError("x")}},
    "hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.99)},
    "fulmen": {"version": 1},
}
RAN: list[str] = []
WATCHED = ("exec", "os.system", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.remove")


def noted(*_: object) -> None:
    RAN.append("touched")


class Code:
    """Pickles to a call."""

    def __reduce__(self):
        return (noted, ("touched",))


def watch(event: str, args: tuple[object, ...]) -> None:
    if ARMED and event in WATCHED and not is_import(sys._getframe()):
        RAN.append(f"{event} {args}")


def is_import(frame: FrameType | None) -> bool:
    """Whether a module of the program's own is being imported, which may define named tuples and the like."""
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


ARMED: list[bool] = []
sys.addaudithook(watch)


def same(one, other) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def outcome(content: bytes) -> dict | None:
    """What a file with this content loads as; None if our error refuses it."""
    Path("bad.ckpt").write_bytes(content)
    RAN.clear()
    ARMED.append(True)
    try:
        return files.read("bad.ckpt")
    except CheckpointError as error:
        told = str(error)
    finally:
        ARMED.clear()
        assert not RAN, RAN
    assert "bad.ckpt" in told
    return None


def whole() -> tuple[bytes, dict]:
    """A good file as bytes, and what it loads as."""
    files.write(STATE, "good.ckpt")
    content = Path("good.ckpt").read_bytes()
    return content, files.read("good.ckpt")


def rebuilt(content: bytes, change) -> bytes:
    """The zip file with its pickle changed by `change`, and checksums that fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for record in old.infolist():
            data = old.read(record)
            new.writestr(record.filename, change(data) if record.filename.endswith("data.pkl") else data)
    return out.getvalue()


def mangled(content: bytes, draw: random.Random) -> bytes:
    """`content` after one to four accidents: bits, bytes, runs of zeros, pieces cut, copied, moved."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(data) + 1), draw.choice([1, 1, 2, 8, 64, 512])
        match draw.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + size] = draw.randbytes(len(data[at : at + size]))
            case 2:
                data[at : at + size] = bytes(len(data[at : at + size]))
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = draw.randbytes(size)
            case 5:
                data[at:at] = data[at : at + size]
            case 6:
                del data[at:]
    return bytes(data)


ANY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def check_accidents(examples: int) -> None:
    """Accidents anywhere in the file: only what nobody reads may be damaged unnoticed."""
    content, good = whole()

    @given(st.randoms(use_true_random=False))
    @settings(max_examples=examples, **ANY)
    def accident(draw):
        loaded = outcome(mangled(content, draw))
        assert loaded is None or same(loaded, good)

    accident()


def check_attacks(examples: int) -> None:
    """Another pickle under a right checksum, so that the loader itself is put to the test."""
    content, _ = whole()

    @given(st.randoms(use_true_random=False))
    @settings(max_examples=examples, **ANY)
    def attack(draw):
        outcome(rebuilt(content, lambda data: mangled(data, draw)))

    attack()


QUIET = pytest.mark.filterwarnings("ignore::UserWarning")


@QUIET
@pytest.mark.parametrize("check", [check_accidents, check_attacks])
def test_a_few_hundred_mutated_files(check):
    check(150)


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("check", [check_accidents, check_attacks])
def test_ten_thousand_mutated_files(check):
    check(5000)


@QUIET
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["bare pickle", "in the zip", "in a packed value", "in a list of packed ones"])
def test_a_pickle_that_calls_something_is_never_opened(kind, protocol):
    content, _ = whole()
    evil = pickle.dumps(Code(), protocol)
    if kind == "bare pickle":
        assert outcome(evil) is None
    elif kind == "in the zip":
        assert outcome(rebuilt(content, lambda data: pickle.dumps({"a": Code()}, protocol))) is None
    else:
        sealed = {MARK: "pickle", "type": "x", "value": evil}
        value = sealed if kind == "in a packed value" else [{MARK: "deque", "value": [[sealed], None]}]
        files.write({"callbacks": {"a": value}}, "evil.ckpt")
        loaded = outcome(Path("evil.ckpt").read_bytes())
        assert pickle.dumps(loaded).find(b"noted") == -1


@QUIET
@pytest.mark.parametrize("kind", ["deque", "defaultdict", "numpy", "enum", "datetime", "range", "Namespace", "nothing"])
@pytest.mark.parametrize(
    "value", [None, [], "x", [1, 2, 3], ["O", [1], b"x"], {"a": 1}, ["os", "system", "x"], [[], -1]]
)
def test_packed_values_without_sense_are_refused_or_harmless(kind, value):
    files.write({"callbacks": {"a": {MARK: kind, "value": value}}}, "odd.ckpt")
    outcome(Path("odd.ckpt").read_bytes())
