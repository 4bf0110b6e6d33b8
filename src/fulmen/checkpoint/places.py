"""Paths of files, on this machine or in a store that fsspec reaches."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from fulmen.errors import MisconfigurationException, MissingCheckpoint, nearest

PathLike = str | os.PathLike[str]


def is_remote(path: PathLike) -> bool:
    """Whether `path` names a protocol other than that of plain files."""
    protocol, separator, _ = str(path).partition("://")
    return bool(separator) and protocol not in ("file", "local")


def local(path: PathLike) -> Path:
    """`path` without the protocol of plain files."""
    return Path(str(path).removeprefix("file://").removeprefix("local://"))


def store(path: str, **options: Any) -> tuple[Any, str]:
    """The file system of a remote path, and the path's name there."""
    try:
        from fsspec import available_protocols
        from fsspec.core import url_to_fs
    except ImportError:
        raise ModuleNotFoundError(f"{path!r} is a remote path, which needs fsspec: pip install fsspec") from None
    try:
        return url_to_fs(path, **options)
    except ImportError as error:
        raise MisconfigurationException(f"{path!r} needs a package for its store. {error}.") from error
    except ValueError as error:
        known = nearest(path.partition("://")[0], available_protocols())
        raise MisconfigurationException(f"{path!r} names no place that fsspec knows: {error}.{known}") from error


def alike(path: PathLike) -> str:
    """The checkpoint beside `path` that may be meant, as the end of a sentence."""
    return nearest(local(path).name, ("last", "best", *(one.name for one in local(path).parent.glob("*.ckpt"))))


def exists(path: PathLike) -> bool:
    """Whether there is a file or folder at `path`."""
    if is_remote(path):
        fs, target = store(str(path))
        return bool(fs.exists(target))
    return local(path).exists()


def remove(path: PathLike) -> None:
    """Delete the file or folder at `path`, if there is one."""
    if is_remote(path):
        fs, target = store(str(path))
        with suppress(FileNotFoundError):
            fs.rm(target, recursive=True)
    elif local(path).is_dir() and not local(path).is_symlink():
        shutil.rmtree(local(path))
    else:
        local(path).unlink(missing_ok=True)


def makedirs(path: PathLike) -> None:
    """Make the folder at `path`, with those above it, where they are missing."""
    if is_remote(path):
        fs, target = store(str(path))
        fs.makedirs(target, exist_ok=True)
    else:
        local(path).mkdir(parents=True, exist_ok=True)


def obstacle(folder: PathLike) -> str:
    """Make the folder, and say in words why nothing can be written there, if that is so."""
    try:
        makedirs(folder)
    except (FileExistsError, NotADirectoryError):
        return "it, or a folder above it, is a file, not a directory"
    except OSError as error:
        return error.strerror or str(error)
    return "" if is_remote(folder) or os.access(local(folder), os.W_OK) else "it is not writable"


def names(folder: PathLike) -> list[str]:
    """What is in `folder`; nothing if there is no such folder."""
    if is_remote(folder):
        fs, target = store(str(folder))
        return [name.rstrip("/").rpartition("/")[2] for name in fs.ls(target, detail=False)] if fs.isdir(target) else []
    return os.listdir(local(folder)) if local(folder).is_dir() else []


def join(folder: PathLike, *names: str) -> str:
    """`names` under `folder`."""
    return "/".join([str(folder).rstrip("/"), *names]) if is_remote(folder) else os.path.join(str(folder), *names)


def read(path: PathLike) -> bytes:
    """All bytes of a file."""
    if not is_remote(path):
        return local(path).read_bytes()
    fs, target = store(str(path))
    return fs.cat_file(target)


def fetch(path: PathLike) -> bytes:
    """The same, also from a web server."""
    url = str(path)
    try:
        if url.startswith(("http://", "https://")):
            from urllib.request import urlopen

            with urlopen(url, timeout=60) as answer:
                return answer.read()
        return read(path)
    except OSError as error:  # what urllib raises for an answer like 404 is one too
        raise MissingCheckpoint(f"{url!r} cannot be read: {error}.") from error
