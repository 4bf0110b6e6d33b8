"""Checkpoint files: written whole or not at all, checked when read, on this machine or in a store.

A checkpoint is the zip file that `torch.save` makes, with a CRC32 for each record. A path with a protocol
(`s3://bucket/a.ckpt`) goes through fsspec; everything else, `file://` too, is a plain file.
"""

from __future__ import annotations

import errno
import io
import os
import pathlib
import pickle
import re
import shutil
import socket
import struct
import tempfile
import time
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

import torch

from fulmen.checkpoint import places, writer
from fulmen.checkpoint.packing import Packer, unpack
from fulmen.checkpoint.places import PathLike
from fulmen.errors import CheckpointError, ForeignCheckpoint, FutureCheckpoint, MissingCheckpoint, TornCheckpoint
from fulmen.warn import rank_zero_warn, warn_once

FORMAT = 1
"""Version of what stands under the key `fulmen` of a checkpoint (`fulmen.version`)."""

_MAPPED_FROM = 32 * 2**20  # smaller ones are read: what is loaded stays good whatever becomes of them
_HEAD = b"PK\x03\x04"
_PLAIN = [Namespace, pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath, frozenset]
_PLAIN += [torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer]
"""Data beyond what torch's safe loader knows that programs keep in checkpoints."""

_PARTIAL = re.compile(r"\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.partial")
_HOST = socket.gethostname().partition(".")[0] or "localhost"
_STRANGER_S = 3600.0  # an unfinished file of another machine that nobody wrote to for so long belongs to a dead process
_STARTED = time.time()
_ADVICE = {
    errno.ENOSPC: "Make room there, or save fewer checkpoints (save_top_k=1, save_weights_only=True).",
    errno.EDQUOT: "Make room within your quota, or save fewer checkpoints (save_top_k=1, save_weights_only=True).",
    errno.EROFS: "The disk is mounted read-only: mount it for writing, or save to another one (dirpath=...).",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
        "The disk or the network mount does not answer: see to it, or save elsewhere (dirpath=...).",
    ),
    errno.EFBIG: "Raise the limit on the size of a file (`ulimit -f`), or save to another disk.",
}


class UnwritableCheckpoint(CheckpointError, OSError):
    """A checkpoint that could not be written; older files are untouched."""

    def __str__(self) -> str:
        return str(self.args[0])


# ---- writing


def write(checkpoint: dict[str, Any], path: PathLike, storage_options: dict[str, Any] | None = None) -> None:
    """Save `checkpoint` under `path`, in place of what was there, once all of it is safely on the disk.

    `storage_options` are fsspec's, for a remote path. Returns after the bytes and the name are flushed, and those of
    every save that was begun before.
    """
    writer.wait()
    if places.is_remote(path):
        _write_remote(checkpoint, str(path), storage_options or {})
    elif storage_options:
        raise TypeError(f"storage_options={storage_options!r} are for remote paths, and {str(path)!r} is a local file.")
    else:
        with _replacing(places.local(path)) as partial, open(partial, "wb") as file:
            _dump(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if (free := shutil.disk_usage(temp := tempfile.gettempdir()).free) < 2**20:
            warn_once(
                f"No space left in the temporary folder {temp!r} ({free} bytes are free). Checkpoints do not need "
                "it, but workers of data loaders and compiled kernels may."
            )


def repeat(source: PathLike, target: PathLike, link: bool = False) -> None:
    """Put a copy of the local file `source` at `target`, or with `link` a symbolic link where the disk can do that."""
    source = places.local(source)
    with _replacing(places.local(target)) as partial:
        if link:
            with suppress(OSError):
                os.symlink(os.path.relpath(source, partial.parent), partial)
                return
        with open(source, "rb") as old, open(partial, "wb") as new:
            shutil.copyfileobj(old, new, 2**24)
            new.flush()
            os.fsync(new.fileno())


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A path beside `target`; the file written there takes its place when all went well, and is removed otherwise."""
    partial = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        yield partial
        os.replace(partial, target)
        _flush_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(error, target) from error
        raise


def _write_remote(checkpoint: dict[str, Any], path: str, options: dict[str, Any]) -> None:
    fs, target = places.store(path, **options)
    folder, _, name = target.rpartition("/")
    partial = f"{folder}/.{name}.{_HOST}.{os.getpid()}.partial"
    try:
        fs.makedirs(folder, exist_ok=True)
        with fs.open(partial, "wb") as file:
            _dump(checkpoint, file)
        fs.mv(partial, target)
    except BaseException as error:
        with suppress(Exception):
            fs.rm(partial)
        if isinstance(error, Exception):  # each store has errors of its own
            cause = str(error) or type(error).__name__
            raise UnwritableCheckpoint(f"{path!r} could not be saved: {cause}. Older files are untouched.") from error
        raise


class _Sink:
    """A file for torch.save; after a failed write the rest goes nowhere, for torch would hide the cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.num_bytes = 0
        self.error: BaseException | None = None

    def write(self, chunk: Any) -> int:
        self.num_bytes += len(chunk)
        if self.error is None:
            try:
                self.file.write(chunk)
            except BaseException as error:
                self.error = error
        return len(chunk)

    def flush(self) -> None:
        pass


def _dump(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    pack = Packer()
    checkpoint = pack(checkpoint)
    if pack.is_used:
        checkpoint["fulmen"] = {**checkpoint.get("fulmen", {}), "packed": True}
    sink, checksums = _Sink(file), torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)  # a program may have turned them off for its own files
    try:
        torch.save(checkpoint, sink)  # type: ignore[arg-type]
    finally:
        torch.serialization.set_crc32_options(checksums)
    if sink.error is not None:
        sink.error.num_bytes = sink.num_bytes  # type: ignore[attr-defined]
        raise sink.error


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # some systems cannot flush a folder, and some disks need not
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: PathLike) -> None:
    """Remove the unfinished files of processes that were killed while they saved in this folder."""
    if places.is_remote(folder):
        fs, target = places.store(str(folder))
        for path in fs.ls(target, detail=False) if fs.isdir(target) else ():
            with suppress(Exception):  # not every store tells the time
                if _is_leftover(path.rpartition("/")[2], lambda path=path: fs.modified(path).timestamp()):
                    fs.rm(path)
        return
    with os.scandir(places.local(folder)) as entries:
        for entry in entries:
            with suppress(OSError):
                if _is_leftover(entry.name, lambda entry=entry: entry.stat(follow_symlinks=False).st_mtime):
                    os.unlink(entry.path)


def _is_leftover(name: str, written: Callable[[], float]) -> bool:
    match = _PARTIAL.fullmatch(name)
    return match is not None and _is_dead(match["host"], int(match["pid"]), written)


def _is_dead(host: str, pid: int, written: Callable[[], float]) -> bool:
    if host != _HOST or os.name == "nt":
        return time.time() - written() > _STRANGER_S
    if pid == os.getpid():  # in a container a restarted program often has the number of the killed one
        return written() < _STARTED
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _unwritable(error: OSError, target: Path) -> UnwritableCheckpoint:
    room, needed = "", getattr(error, "num_bytes", 0)
    if needed:
        with suppress(OSError):
            free = shutil.disk_usage(target.parent).free
            room = f" ({needed / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} free"
            room += f", {(needed - free) / 2**20:,.1f} missing)" if needed > free else ")"
    advice = _ADVICE.get(
        error.errno or 0, "Save to a folder that can be written to (dirpath=..., default_root_dir=...)."
    )
    cause = error.strerror or str(error)
    failure = UnwritableCheckpoint(
        f"{str(target)!r} could not be saved: {cause}{room}. Older checkpoints are untouched. {advice}"
    )
    failure.errno, failure.filename = error.errno, str(target)
    return failure


# ---- reading


def read(
    path: PathLike, map_location: Any = "cpu", weights_only: bool | None = True, mmap: bool = True
) -> dict[str, Any]:
    """The checkpoint at `path` (a file, or a URL that ends at one), after a look at its checksums.

    Nothing in it can run code unless the caller says `weights_only=False`. With `mmap` the tensors of a big local
    file are views of it, read when they are touched: copy what must outlive the file.
    """
    with _open(path) as file:
        is_zip = _check(file, str(path))
        return _load(file, str(path), map_location, weights_only is not False, mmap, is_zip)


def upgraded(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint in today's layout, whatever wrote it."""
    if "fulmen" in checkpoint:
        return checkpoint
    from fulmen.compat.checkpoints import upgrade

    return upgrade(checkpoint)


def newest_good(folder: PathLike, mark: str = "", wanted: Any = None) -> str | None:
    """The checkpoint in `folder` that went furthest and is whole; a warning for each one that is not.

    Files that are older than the newest one whose name fits the pattern `mark` count only if no other is whole.
    `wanted` says of what a file holds, tensors without values, whether it may be the one.
    """
    writer.wait()
    found, start = [], 0.0
    for path in _checkpoints(folder):
        written = 0.0 if places.is_remote(path) else places.local(path).stat().st_mtime
        try:
            with _open(path) as file:
                held = _load(file, path, "meta", True, True, _check(file, path, sums=False))
            if wanted is not None and not wanted(held):
                continue
            found.append((held.get("global_step", -1), written, path))
        except CheckpointError as error:
            rank_zero_warn(f"Skipped: {error}")
        start = max(start, written) if fnmatch(os.path.basename(path), mark) else start
    for _, _, path in sorted(found, key=lambda one: (one[1] >= start, *one), reverse=True):
        try:
            with _open(path) as file:
                _check(file, path)
            return path
        except CheckpointError as error:
            rank_zero_warn(f"Skipped: {error}")
    return None


def reach(path: str) -> tuple[int, float]:
    """How far a checkpoint went, and when it was written."""
    written = 0.0 if places.is_remote(path) else places.local(path).stat().st_mtime
    return read(path, map_location="meta").get("global_step", -1), written


def _checkpoints(folder: PathLike) -> list[str]:
    if places.is_remote(folder):
        fs, target = places.store(str(folder))
        names = fs.ls(target, detail=False) if fs.isdir(target) else []
        return [fs.unstrip_protocol(name) for name in names if name.endswith(".ckpt")]
    return [str(path) for path in places.local(folder).glob("*.ckpt") if path.is_file()]


def _open(path: PathLike) -> IO[bytes]:
    """The file, or if it is remote or small its content."""
    if (content := getattr(path, "read", None)) is not None:
        return io.BytesIO(content())
    if not path:
        raise MissingCheckpoint(f"The path of the checkpoint is {path!r}, as best_model_path is before the first save.")
    if places.is_remote(path):
        return io.BytesIO(places.fetch(path))
    try:
        file = open(places.local(path), "rb")  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError as error:
        raise MissingCheckpoint(f"Checkpoint {str(path)!r} does not exist.{places.alike(path)}") from error
    except OSError as error:
        reason = "it is a folder, not a file" if places.local(path).is_dir() else error.strerror
        raise ForeignCheckpoint(f"Checkpoint {str(path)!r} cannot be read: {reason}.") from error
    if os.fstat(file.fileno()).st_size >= _MAPPED_FROM:
        return file
    with file:
        return io.BytesIO(file.read())


def _load(file: IO[bytes], name: str, map_location: Any, safe: bool, mmap: bool, is_zip: bool) -> dict[str, Any]:
    mapped = mmap and is_zip and not isinstance(file, io.BytesIO)

    def load(pickler: Any = None) -> Any:
        file.seek(0)
        with torch.serialization.safe_globals(_PLAIN):
            source: Any = file.name if mapped else file
            return torch.load(source, map_location, pickler, weights_only=safe, mmap=mapped or None)

    try:
        try:
            checkpoint = load()
        except (pickle.UnpicklingError, ModuleNotFoundError) as error:
            from fulmen.compat.checkpoints import load_old

            checkpoint = load_old(load, error)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if not (safe and wanted):
            raise ForeignCheckpoint(
                f"{name!r} is not a valid checkpoint, or damaged: it cannot be unpickled."
            ) from error
        raise ForeignCheckpoint(
            f"{name!r} was refused: loading {wanted[1]} in it could run code. Only if you trust the file, "
            "pass weights_only=False, or allow just that with torch.serialization.add_safe_globals([...])."
        ) from error
    except Exception as error:  # whatever the bytes of a damaged file lead to
        if isinstance(error, torch.OutOfMemoryError) or not (safe or isinstance(error, RuntimeError | EOFError)):
            raise  # of a device, or of code that the user allowed to run
        first = str(error).partition("\n")[0] or type(error).__name__
        raise ForeignCheckpoint(f"{name!r} is not a valid checkpoint, or damaged: {first}") from error
    if not isinstance(checkpoint, dict):
        raise ForeignCheckpoint(f"{name!r} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dict.")
    return _unpacked(checkpoint, name, not safe)


def _unpacked(checkpoint: dict[str, Any], name: str, runs_code: bool) -> dict[str, Any]:
    own = checkpoint.get("fulmen")
    own = own if isinstance(own, dict) else {}
    if isinstance(version := own.get("version"), int) and version > FORMAT:
        raise FutureCheckpoint(
            f"{name!r} was written by a newer Fulmen (format {version}; this one knows {FORMAT}). Upgrade to read it."
        )
    try:
        return unpack(checkpoint, runs_code, name) if own.get("packed") else checkpoint
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        if runs_code:
            raise
        raise ForeignCheckpoint(f"{name!r} is not a valid checkpoint: what is packed in it cannot be read.") from error


def _check(file: IO[bytes], name: str, sums: bool = True) -> bool:
    """Compare every record with its checksum. False if this is not a zip file, so that there are none."""
    file.seek(0)
    head = file.read(4)
    if not head:
        raise TornCheckpoint(f"{name!r} is empty (0 bytes), so not a checkpoint or a truncated one.")
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error, EOFError) as error:
        if head != _HEAD:
            return False
        raise TornCheckpoint(
            f"{name!r} is truncated or damaged: its end is missing. Use another checkpoint."
        ) from error
    if head != _HEAD:
        raise TornCheckpoint(f"{name!r} is damaged at its start. Use another checkpoint.")
    if not any(record.filename.endswith("/data.pkl") for record in records):
        raise ForeignCheckpoint(f"{name!r} is not a checkpoint, or damaged: a zip file without torch's records.")
    memory = isinstance(file, io.BytesIO)
    with file.getbuffer() if memory else memoryview(mmap(file.fileno(), 0, access=ACCESS_READ)) as buffer:
        bad = _altered(buffer, records) if sums else ""
    if bad:
        raise TornCheckpoint(f"{name!r} is damaged: {bad!r} in it differs from its checksum. Use another checkpoint.")
    return True


def _altered(buffer: memoryview, records: list[zipfile.ZipInfo]) -> str | None:
    """Name of the first record that is not what was written."""
    if not any(record.CRC for record in records):  # written while torch's checksums were turned off
        return None

    def is_good(record: zipfile.ZipInfo) -> bool:
        at = record.header_offset
        if record.compress_type or record.file_size != record.compress_size or buffer[at : at + 4] != _HEAD:
            return False
        begin = at + 30 + sum(struct.unpack_from("<HH", buffer, at + 26))
        with buffer[begin : begin + record.file_size] as piece:
            return len(piece) == record.file_size and zlib.crc32(piece) == record.CRC

    with ThreadPoolExecutor(4) as pool:  # crc32 lets other threads run
        verdicts = list(pool.map(is_good, records))
    return next((record.filename for record, good in zip(records, verdicts, strict=True) if not good), None)
