"""Checkpoint files: written whole or not at all, checked when read, on this machine or in a store.

A checkpoint is the zip file that `torch.save` makes, with a CRC32 for each record. A path with a protocol
(`s3://bucket/a.ckpt`) goes through fsspec; everything else, `file://` too, is a plain file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap as memory_map
import os
import pickle
import re
import shutil
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch

from fulmen.errors import CheckpointError, ForeignCheckpoint, FutureCheckpoint, MissingCheckpoint, TornCheckpoint
from fulmen.warn import rank_zero_warn

FORMAT = 1
"""Version of what stands under the key `fulmen` of a checkpoint (`fulmen.version`)."""

PathLike = str | os.PathLike[str]

_MAPPED_FROM = 32 * 2**20  # smaller files are read into memory: they stay good if the file is overwritten in place
_STRANGER_S = 3600.0  # an unfinished file of another host that nobody wrote to for so long belongs to a dead process
_STARTED = time.time()
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.partial")
_CAUSES = {
    errno.ENOSPC: "Make room there, or save fewer checkpoints (save_top_k=1, save_weights_only=True).",
    errno.EDQUOT: "Make room within your quota, or save fewer checkpoints (save_top_k=1, save_weights_only=True).",
    errno.EFBIG: "Raise the limit on the size of a file (`ulimit -f`), or save to another file system.",
    errno.EROFS: "Save to a folder that can be written to (dirpath=... or default_root_dir=...).",
    errno.EACCES: "Save to a folder that this user may write to (dirpath=... or default_root_dir=...).",
}
_UNREADABLE_ZIP = (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error, EOFError)


class UnwritableCheckpoint(CheckpointError, OSError):
    """A checkpoint that could not be written; older files are untouched."""


# ---- writing


def write(checkpoint: dict[str, Any], path: PathLike, storage_options: dict[str, Any] | None = None) -> None:
    """Save `checkpoint` under `path`, in place of what was there, once all of it is safely on the disk.

    `storage_options` are fsspec's, for a remote path. Returns after the bytes and the name are flushed.
    """
    if is_remote(path):
        _write_remote(checkpoint, str(path), storage_options or {})
        return
    if storage_options:
        raise TypeError(f"storage_options={storage_options!r} are for remote paths, and {str(path)!r} is a local file.")
    target = local(path)
    partial = target.with_name(f".{target.name}.{_host()}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target.parent)
        _dump(checkpoint, lambda: open(partial, "wb"), flush=True)
        os.replace(partial, target)
        _flush_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(error, target, checkpoint) from error
        raise


def _write_remote(checkpoint: dict[str, Any], path: str, options: dict[str, Any]) -> None:
    fs, target = _store(path, **options)
    folder, _, name = target.rpartition("/")
    partial = f"{folder}/.{name}.{_host()}.{os.getpid()}.partial"
    try:
        fs.makedirs(folder, exist_ok=True)
        _dump(checkpoint, lambda: fs.open(partial, "wb"))
        fs.mv(partial, target)
    except BaseException as error:
        with contextlib.suppress(Exception):
            fs.rm(partial)
        if isinstance(error, OSError):
            raise UnwritableCheckpoint(f"{path!r} could not be saved: {error}. Older files are untouched.") from error
        raise


class _Sink:
    """A binary file for torch.save that remembers why it failed; torch itself would tell of a wrong position."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: BaseException | None = None

    def write(self, chunk: Any) -> int:
        if self.error is None:
            try:
                return self.file.write(chunk)
            except BaseException as error:
                self.error = error
        return len(chunk)  # torch ends its process when its last write fails, so what follows a failure goes nowhere

    def flush(self) -> None:
        pass


def _dump(checkpoint: dict[str, Any], open_file: Callable[[], IO[bytes]], flush: bool = False) -> None:
    with _checksums(), open_file() as file:
        sink = _Sink(file)
        try:
            torch.save(checkpoint, sink)
        except RuntimeError:
            if sink.error is None:
                raise
        if sink.error is not None:
            raise sink.error
        if flush:
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _checksums() -> Iterator[None]:
    """Have torch write a CRC32 for each record, also where the program has turned that off for its own files."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _flush_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some network disks cannot, and need not
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _host() -> str:
    return socket.gethostname().partition(".")[0] or "localhost"


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed while they saved."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if (match := _PARTIAL.fullmatch(entry.name)) and _is_dead(match, entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_dead(match: re.Match[str], entry: os.DirEntry[str]) -> bool:
    try:
        written = entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    if match["host"] != _host():
        return time.time() - written > _STRANGER_S
    pid = int(match["pid"])
    if pid == os.getpid():  # in a container a restarted program often has the number of the killed one
        return written < _STARTED
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _unwritable(error: OSError, target: Path, checkpoint: dict[str, Any]) -> UnwritableCheckpoint:
    cause = error.strerror or str(error)
    room = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        needed = _num_bytes(checkpoint)
        room = f" (it needs about {needed / 2**20:,.1f} MiB"
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(target.parent).free
            room += f", {free / 2**20:,.1f} MiB are free"
            if error.errno == errno.ENOSPC:
                room += f", about {max(needed - free, 0) / 2**20:,.1f} MiB are missing"
        room += ")"
    advice = _CAUSES.get(error.errno or 0, "Check the folder, or save to another one.")
    text = f"{str(target)!r} could not be saved: {cause}{room}. Older checkpoints are untouched. {advice}"
    failure = UnwritableCheckpoint(text)
    failure.errno, failure.filename = error.errno, str(target)
    return failure


def _num_bytes(tree: Any) -> int:
    """Bytes of all tensors in `tree`, each storage once."""
    sizes: dict[int, int] = {}

    def visit(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            storage = node.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(node, dict):
            for value in node.values():
                visit(value)
        elif isinstance(node, list | tuple):
            for value in node:
                visit(value)

    visit(tree)
    return sum(sizes.values())


# ---- reading


def read(
    path: PathLike, map_location: Any = "cpu", weights_only: bool | None = True, mmap: bool = True
) -> dict[str, Any]:
    """The checkpoint at `path` (a file, or a URL that ends at one), after a look at its checksums.

    Nothing in it can run code unless the caller says `weights_only=False`. With `mmap` the tensors of a big local
    file are views of it, read when they are touched: copy what must outlive the file.
    """
    safe = weights_only is not False
    name = str(path)
    if is_remote(path):
        file: IO[bytes] = io.BytesIO(_fetch(name))
        checkpoint = _load(file, file, name, map_location, safe)
    else:
        with _open(local(path)) as file:
            big = os.fstat(file.fileno()).st_size >= _MAPPED_FROM
            if mmap and big and file.read(4) == b"PK\x03\x04":
                checkpoint = _load(file, str(local(path)), name, map_location, safe)
            else:
                file.seek(0)
                content = file if big else io.BytesIO(file.read())
                checkpoint = _load(content, content, name, map_location, safe)
    if not isinstance(checkpoint, dict):
        raise ForeignCheckpoint(f"{name!r} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dict.")
    _check_version(checkpoint, name)
    return checkpoint


def _check_version(checkpoint: dict[str, Any], name: str) -> None:
    own = checkpoint.get("fulmen")
    version = own.get("version") if isinstance(own, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise FutureCheckpoint(
            f"{name!r} was written by a newer Fulmen (format {version}; this one knows {FORMAT}). Upgrade to read it."
        )


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise ForeignCheckpoint(f"{str(path)!r} is a folder, not a checkpoint file. Pass the path of a file in it.")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise MissingCheckpoint(f"Checkpoint {str(path)!r} does not exist.") from None


def _fetch(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        from urllib.error import HTTPError
        from urllib.request import urlopen

        try:
            with urlopen(url, timeout=60) as answer:
                content: bytes = answer.read()
                return content
        except HTTPError as error:
            raise MissingCheckpoint(f"Checkpoint {url!r} cannot be had: {error}.") from error
    fs, target = _store(url)
    try:
        found: bytes = fs.cat_file(target)
        return found
    except FileNotFoundError:
        raise MissingCheckpoint(f"Checkpoint {url!r} does not exist.") from None


def _load(content: IO[bytes], source: IO[bytes] | str, name: str, map_location: Any, safe: bool) -> Any:
    """Check `content`, then load it from `source`: the same file object, or a path to map into memory."""
    is_zip = _check(content, name)
    content.seek(0)
    try:
        return torch.load(source, map_location=map_location, weights_only=safe, mmap=isinstance(source, str) or None)
    except pickle.UnpicklingError as error:
        if safe and (
            wanted := re.search(r"GLOBAL (\S+)|to load (\S+)|Unsupported (?:class|operand) (\S+)", str(error))
        ):
            raise _unsafe(name, next(filter(None, wanted.groups())), content if is_zip else None) from error
        reason = "it cannot be unpickled safely" if safe else "it cannot be unpickled"
        raise ForeignCheckpoint(f"{name!r} is not a valid checkpoint, or damaged: {reason}.") from error
    except (RuntimeError, EOFError, KeyError, ValueError, IndexError, UnicodeDecodeError, AssertionError) as error:
        if not is_zip:
            raise ForeignCheckpoint(f"{name!r} is not a checkpoint, or damaged at its start.") from error
        first = str(error).partition("\n")[0]
        raise ForeignCheckpoint(f"{name!r} is not a valid checkpoint, or damaged: {first}") from error


def _unsafe(name: str, wanted: str, content: IO[bytes] | None) -> ForeignCheckpoint:
    names = [wanted]
    if content is not None:
        with contextlib.suppress(Exception):
            content.seek(0)
            names = torch.serialization.get_unsafe_globals_in_checkpoint(content) or names
    return ForeignCheckpoint(
        f"{name!r} was refused: to load {', '.join(names)} in it could run code. Only if you trust the file, "
        f"pass weights_only=False, or allow just that with torch.serialization.add_safe_globals([{', '.join(names)}])."
    )


def _check(content: IO[bytes], name: str) -> bool:
    """Compare every record with its checksum. False if this is not a zip file, so that there are none."""
    content.seek(0)
    head = content.read(4)
    if not head:
        raise TornCheckpoint(f"{name!r} is empty (0 bytes): a truncated file, not a checkpoint. Use an earlier one.")
    try:
        with zipfile.ZipFile(content) as archive:
            records = archive.infolist()
    except _UNREADABLE_ZIP as error:
        if head != b"PK\x03\x04":
            return False
        raise TornCheckpoint(
            f"{name!r} is truncated or damaged: the table at its end is missing. Use an earlier checkpoint."
        ) from error
    if not any(record.filename.endswith("/data.pkl") for record in records):
        raise ForeignCheckpoint(f"{name!r} is not a checkpoint: a zip file that torch.save did not write, or damaged.")
    with _bytes_of(content) as buffer:
        bad = _altered(buffer, records, head)
    if bad:
        raise TornCheckpoint(
            f"{name!r} is damaged: {bad!r} in it does not match its checksum. Use an earlier checkpoint."
        )
    return True


@contextlib.contextmanager
def _bytes_of(content: IO[bytes]) -> Iterator[memoryview]:
    if isinstance(content, io.BytesIO):
        with content.getbuffer() as buffer:
            yield buffer
    else:
        with (
            memory_map.mmap(content.fileno(), 0, access=memory_map.ACCESS_READ) as mapped,
            memoryview(mapped) as buffer,
        ):
            yield buffer


def _altered(buffer: memoryview, records: list[zipfile.ZipInfo], head: bytes) -> str | None:
    """Name of the first record that is not what was written."""
    if head != b"PK\x03\x04":
        return "the start"
    if not any(record.CRC for record in records):  # written while torch's checksums were turned off
        return None

    def matches(record: zipfile.ZipInfo) -> bool:
        at = record.header_offset
        if record.compress_type or record.file_size != record.compress_size or buffer[at : at + 4] != b"PK\x03\x04":
            return False
        begin = at + 30 + sum(struct.unpack_from("<HH", buffer, at + 26))
        with buffer[begin : begin + record.file_size] as piece:
            return len(piece) == record.file_size and zlib.crc32(piece) == record.CRC

    with ThreadPoolExecutor(4) as pool:
        for record, good in zip(records, pool.map(matches, records), strict=True):
            if not good:
                return record.filename.partition("/")[2]
    return None


def newest_good(folder: PathLike) -> str | None:
    """The checkpoint in `folder` that went furthest and can be read; a warning for each one that cannot."""
    found = []
    for path in _checkpoints(folder):
        try:
            checkpoint = read(path, map_location="meta")
        except CheckpointError as error:
            rank_zero_warn(f"Skipped: {error}")
            continue
        found.append((checkpoint.get("global_step", -1), modified(path), path))
    return max(found)[2] if found else None


def _checkpoints(folder: PathLike) -> list[str]:
    if is_remote(folder):
        fs, target = _store(str(folder))
        names = fs.ls(target, detail=False) if fs.isdir(target) else []
        return [fs.unstrip_protocol(name) for name in names if name.endswith(".ckpt")]
    return [str(path) for path in local(folder).glob("*.ckpt") if path.is_file() and not path.is_symlink()]


# ---- paths, here or in a store


def is_remote(path: PathLike) -> bool:
    """Whether `path` names a protocol other than that of plain files."""
    protocol, separator, _ = str(path).partition("://")
    return bool(separator) and protocol not in ("file", "local")


def local(path: PathLike) -> Path:
    """`path` without the protocol of plain files."""
    return Path(str(path).removeprefix("file://").removeprefix("local://"))


def _store(path: str, **options: Any) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ModuleNotFoundError(f"{path!r} is a remote path, which needs fsspec: pip install fsspec") from None
    fs, target = url_to_fs(path, **options)
    return fs, target


def exists(path: PathLike) -> bool:
    """Whether there is a file or folder at `path`."""
    if is_remote(path):
        fs, target = _store(str(path))
        return bool(fs.exists(target))
    return local(path).exists()


def modified(path: PathLike) -> float:
    """When the file at `path` was last written, in seconds."""
    if is_remote(path):
        fs, target = _store(str(path))
        return float(fs.modified(target).timestamp())
    return local(path).stat().st_mtime


def remove(path: PathLike) -> None:
    """Delete the file or folder at `path`, if there is one."""
    if is_remote(path):
        fs, target = _store(str(path))
        with contextlib.suppress(FileNotFoundError):
            fs.rm(target, recursive=True)
    elif local(path).is_dir() and not local(path).is_symlink():
        shutil.rmtree(local(path))
    else:
        local(path).unlink(missing_ok=True)


def makedirs(path: PathLike) -> None:
    """Make the folder at `path`, with those above it, where they are missing."""
    if is_remote(path):
        fs, target = _store(str(path))
        fs.makedirs(target, exist_ok=True)
    else:
        local(path).mkdir(parents=True, exist_ok=True)


def read_text(path: PathLike) -> str:
    """The text of a small file."""
    return _fetch(str(path)).decode() if is_remote(path) else local(path).read_text()


def write_text(path: PathLike, text: str) -> None:
    """Write a small file."""
    if is_remote(path):
        fs, target = _store(str(path))
        fs.pipe_file(target, text.encode())
    else:
        local(path).write_text(text)


def join(folder: PathLike, *names: str) -> str:
    """`names` under `folder`."""
    return "/".join([str(folder).rstrip("/"), *names]) if is_remote(folder) else os.path.join(str(folder), *names)
