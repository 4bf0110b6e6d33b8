"""Checkpoint files: whole or not there, and checked when they are read."""

from __future__ import annotations

import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fulmen.checkpoint import files, places
from fulmen.errors import CheckpointError, ForeignCheckpoint, FutureCheckpoint, MissingCheckpoint, TornCheckpoint

STATE = {
    "epoch": 1,
    "global_step": 3,
    "state_dict": {"w": torch.arange(500.0), "b": torch.ones(3)},
    "fulmen": {"version": 1},
}


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


class Code:
    """Pickles to a call."""

    def __reduce__(self):
        return (open, ("touched", "w"))


def test_what_is_written_is_read_and_plain_torch_reads_it_too():
    files.write(STATE, "new/folder/a.ckpt")
    assert same(files.read("new/folder/a.ckpt"), STATE)
    assert same(torch.load("new/folder/a.ckpt", weights_only=True), STATE)
    assert os.listdir("new/folder") == ["a.ckpt"]


def test_a_file_url_is_a_plain_file():
    files.write(STATE, f"file://{Path.cwd()}/a.ckpt")
    assert Path("a.ckpt").exists()
    assert same(files.read(Path("a.ckpt")), STATE)


def test_a_big_file_is_mapped_and_not_copied(monkeypatch):
    monkeypatch.setattr(files, "_MAPPED_FROM", 1)
    files.write(STATE, "a.ckpt")
    weights = files.read("a.ckpt")["state_dict"]["w"]
    assert "a.ckpt" in Path("/proc/self/maps").read_text() if sys.platform == "linux" else True
    weights += 1  # copied by the system when it is written to
    assert same(files.read("a.ckpt"), STATE)


@pytest.mark.parametrize("mapped_from", [0, 2**40])
def test_no_single_flipped_bit_goes_unnoticed(mapped_from, monkeypatch):
    monkeypatch.setattr(files, "_MAPPED_FROM", mapped_from)
    files.write(STATE, "a.ckpt")
    good = Path("a.ckpt").read_bytes()

    @given(st.integers(0, len(good) * 8 - 1))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def flip(bit: int) -> None:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        Path("bad.ckpt").unlink(missing_ok=True)
        Path("bad.ckpt").write_bytes(bad)
        try:
            read, said = files.read("bad.ckpt"), ""
        except CheckpointError as error:
            read, said = None, str(error)
        assert ("bad.ckpt" in said and "damaged" in said) or same(read, STATE)  # the latter: a bit that nobody needs

    flip()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_called_truncated(share):
    files.write(STATE, "a.ckpt")
    good = Path("a.ckpt").read_bytes()
    Path("a.ckpt").write_bytes(good[: int(len(good) * share)])
    with pytest.raises(TornCheckpoint, match=r"'a.ckpt' is .*truncated"):
        files.read("a.ckpt")


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>" * 9, b"\x00" * 99, b"\x80\x02]q\x00.", b"PK"],
    ids=["text", "zeros", "pickle", "two letters"],
)
def test_a_foreign_file_is_told_from_a_torn_one(content):
    Path("a.ckpt").write_bytes(content)
    with pytest.raises(ForeignCheckpoint, match=r"'a.ckpt' is not a .*checkpoint, or damaged"):
        files.read("a.ckpt")


def test_another_zip_file_is_foreign():
    with zipfile.ZipFile("a.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ForeignCheckpoint, match=r"'a.ckpt' is not a checkpoint"):
        files.read("a.ckpt")


def test_a_file_of_something_else_than_a_dict_is_foreign():
    torch.save([1, 2], "a.ckpt")
    with pytest.raises(ForeignCheckpoint, match=r"'a.ckpt' is not a checkpoint: it holds a list"):
        files.read("a.ckpt")


def test_missing_file_and_folder_are_named():
    with pytest.raises(MissingCheckpoint, match=r"'no.ckpt' does not exist"):
        files.read("no.ckpt")
    with pytest.raises(FileNotFoundError):
        files.read("no.ckpt")
    Path("folder.ckpt").mkdir()
    with pytest.raises(ForeignCheckpoint, match=r"'folder.ckpt' cannot be read: it is a folder"):
        files.read("folder.ckpt")


def test_a_newer_format_says_so():
    files.write({**STATE, "fulmen": {"version": files.FORMAT + 1}}, "a.ckpt")
    with pytest.raises(FutureCheckpoint, match=r"'a.ckpt' was written by a newer Fulmen \(format 2"):
        files.read("a.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("weights_only", [True, None])
def test_code_in_a_file_does_not_run_unless_asked_for(zipped, weights_only):
    torch.save({"state_dict": {"x": Code()}}, "a.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ForeignCheckpoint, match=r"loading \S*open in it could run code.*weights_only=False"):
        files.read("a.ckpt", weights_only=weights_only)
    assert not Path("touched").exists()
    files.read("a.ckpt", weights_only=False)["state_dict"]["x"].close()
    assert Path("touched").exists()


def test_plain_data_of_the_standard_library_is_safe():
    state = {"a": Namespace(lr=0.1), "b": Path("x"), "c": frozenset({1})}
    torch.save(state, "a.ckpt")
    assert files.read("a.ckpt") == state


def test_files_without_checksums_and_of_the_former_torch_format_load():
    torch.save(STATE, "old.ckpt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, "unchecked.ckpt")
        files.write(STATE, "checked.ckpt")
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    assert all(same(files.read(name), STATE) for name in ("old.ckpt", "unchecked.ckpt", "checked.ckpt"))
    with zipfile.ZipFile("checked.ckpt") as archive:
        assert archive.testzip() is None


def test_a_failed_write_leaves_the_older_file_and_nothing_else(monkeypatch):
    files.write(STATE, "c/a.ckpt")

    class Full(io.FileIO):
        def write(self, chunk):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", Full)
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1024))
        with pytest.raises(files.UnwritableCheckpoint) as failure:
            files.write({"state_dict": torch.zeros(2**19)}, "c/a.ckpt")
    assert isinstance(failure.value, OSError)
    assert failure.value.errno == 28
    assert "a.ckpt' could not be saved: No space left on device (2.0 MiB are needed, 0.0 free, 2.0 missing)" in str(
        failure.value
    )
    assert os.listdir("c") == ["a.ckpt"]
    assert same(files.read("c/a.ckpt"), STATE)


LIMITED = """
import resource, signal, sys, torch
from fulmen.checkpoint import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
try:
    files.write({"state_dict": torch.zeros(2**20)}, "c/a.ckpt")
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on the size of files")
def test_a_real_limit_of_the_system_is_told_and_harms_nothing():
    files.write(STATE, "c/a.ckpt")
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert "a.ckpt' could not be saved: File too large (4.0 MiB are needed" in done.stdout
    assert "Older checkpoints are untouched." in done.stdout
    assert os.listdir("c") == ["a.ckpt"]
    assert same(files.read("c/a.ckpt"), STATE)


KILLED = """
import os, signal, torch
from fulmen.checkpoint import files
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
files.write({"state_dict": torch.zeros(2**16)}, "c/a.ckpt")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_what_a_killed_save_left_is_removed_by_the_next_one_and_living_saves_are_let_be():
    files.write(STATE, "c/a.ckpt")
    subprocess.run([sys.executable, "-c", KILLED])
    (left,) = (name for name in os.listdir("c") if name != "a.ckpt")
    assert left.startswith(".a.ckpt.")
    assert same(files.read("c/a.ckpt"), STATE)

    living = f"c/.a.ckpt.{left.split('.')[3]}.{os.getppid()}.partial"
    Path(living).touch()
    Path("c/.other.partial").touch()
    files.write(STATE, "c/b.ckpt")
    assert sorted(os.listdir("c")) == sorted([Path(living).name, ".other.partial", "a.ckpt", "b.ckpt"])


def test_a_copy_and_a_link_take_the_place_of_what_was_there():
    files.write(STATE, "c/a.ckpt")
    files.write({"epoch": 9}, "c/last.ckpt")
    files.repeat("c/a.ckpt", "c/last.ckpt")
    assert not Path("c/last.ckpt").is_symlink()
    assert same(files.read("c/last.ckpt"), STATE)
    files.repeat("c/a.ckpt", "c/last.ckpt", link=True)
    assert os.readlink("c/last.ckpt") == "a.ckpt"
    assert sorted(os.listdir("c")) == ["a.ckpt", "last.ckpt"]


def test_storage_options_are_for_remote_paths():
    with pytest.raises(TypeError, match="storage_options"):
        files.write(STATE, "a.ckpt", storage_options={"key": 1})


def test_a_file_behind_a_url_is_read_as_safely():
    torch.save({"x": Code()}, "evil.ckpt")
    files.write(STATE, "good.ckpt")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert same(files.read(f"{url}/good.ckpt"), STATE)
        with pytest.raises(ForeignCheckpoint, match="could run code"):
            files.read(f"{url}/evil.ckpt")
        with pytest.raises(MissingCheckpoint, match=r"no.ckpt' cannot be read: .*404"):
            files.read(f"{url}/no.ckpt")
        server.shutdown()
    assert not Path("touched").exists()


def test_the_newest_good_file_is_found_and_bad_ones_are_named():
    for step in (5, 20, 10):
        files.write({**STATE, "global_step": step}, f"c/s{step}.ckpt")
    assert files.newest_good("c") == os.path.join("c", "s20.ckpt")
    content = bytearray(Path("c/s20.ckpt").read_bytes())
    at = content.index(STATE["state_dict"]["w"].numpy().tobytes())
    content[at] ^= 1
    Path("c/s20.ckpt").write_bytes(content)
    Path("c/s30.ckpt").write_bytes(content[:100])
    with (
        pytest.warns(UserWarning, match=r"s30.ckpt' is truncated"),
        pytest.warns(UserWarning, match=r"s20.ckpt' is damaged"),
    ):
        assert files.newest_good("c") == os.path.join("c", "s10.ckpt")
    assert files.newest_good("nowhere") is None


def test_files_of_a_former_run_count_only_without_newer_ones():
    for name, step, written in (("s99", 99, 100), ("last", 10, 200), ("s15", 15, 300)):
        files.write({**STATE, "global_step": step}, f"c/{name}.ckpt")
        os.utime(f"c/{name}.ckpt", (written, written))
    assert files.newest_good("c", "last*.ckpt") == os.path.join("c", "s15.ckpt")
    Path("c/s15.ckpt").unlink()
    assert files.newest_good("c", "last*.ckpt") == os.path.join("c", "last.ckpt")
    Path("c/last.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"last.ckpt' is empty"):
        assert files.newest_good("c", "last*.ckpt") == os.path.join("c", "s99.ckpt")


def test_paths_are_joined_as_their_place_needs():
    assert places.join("a", "b", "c.ckpt") == os.path.join("a", "b", "c.ckpt")
    assert places.join("s3://a/", "b", "c.ckpt") == "s3://a/b/c.ckpt"
    assert [places.is_remote(path) for path in ("a", Path("b"), "file://c", "s3://d")] == [False, False, False, True]


@pytest.mark.slow
def test_a_save_of_200_mib_takes_hardly_longer_than_torch_save():
    state = {f"layer{i}": torch.randn(1000, 1000) for i in range(50)}

    def seconds(save) -> float:
        from time import perf_counter

        begin = perf_counter()
        save()
        return perf_counter() - begin

    def raw():  # into a new file too: writing over an old one is cheaper, and unsafe
        Path("raw.ckpt").unlink(missing_ok=True)
        with open("raw.ckpt", "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    pairs = [(seconds(raw), seconds(lambda: files.write(state, "ours.ckpt"))) for _ in range(5)]
    assert min(ours for _, ours in pairs) < 1.5 * min(raw for raw, _ in pairs) + 0.05
