"""Look into checkpoint files: what `fulmen checkpoint show`, `verify` and `diff` do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import torch
from torch import Tensor

from fulmen.checkpoint import files, places

LINES = 40
"""Rows of a list that are shown before the rest is only counted."""


def show(path: str) -> str:
    """What is in a checkpoint, as text. Tensors are described, not read."""
    checkpoint = files.read(path, map_location="meta")
    lines = [path, f"  written      {_written(path)}"]
    if "epoch" in checkpoint:
        lines.append(f"  stands at    epoch {checkpoint['epoch']}, global step {checkpoint.get('global_step')}")
    for key, value in checkpoint.items():
        if key not in ("epoch", "global_step", "state_dict", "hyper_parameters", "callbacks"):
            lines.append(f"  {key:12} {_brief(value)}")
    for title in ("hyper_parameters", "callbacks"):
        if checkpoint.get(title):
            lines += [f"  {title}:", *_rows(f"{key}: {_brief(value)}" for key, value in checkpoint[title].items())]
    weights = checkpoint.get("state_dict")
    if isinstance(weights, dict):
        lines += [
            f"  state_dict:  {_brief(weights)}",
            *_rows(f"{key}: {_brief(value)}" for key, value in weights.items()),
        ]
    return "\n".join(lines)


def verify(path: str) -> None:
    """Raise a CheckpointError that says what is wrong, unless the file is whole, unaltered and safe to load."""
    files.read(path, map_location="meta")


def diff(first: str, second: str) -> str:
    """In what two checkpoints differ, a line for each leaf of their trees; nothing if they are equal."""
    old, new = (dict(_leaves(files.read(path))) for path in (first, second))
    changed = [f"~ {key}: {change}" for key in old if key in new and (change := _change(old[key], new[key]))]
    lost = [f"- {key}: {_brief(value)}" for key, value in old.items() if key not in new]
    added = [f"+ {key}: {_brief(value)}" for key, value in new.items() if key not in old]
    return "\n".join([*lost, *added, *changed])


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in nested dicts and lists, with the keys that lead to it."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    if not pairs:
        yield path, tree
    for key, value in pairs:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _change(old: Any, new: Any) -> str:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        same = type(old) is type(new) and (old == new or repr(old) == repr(new))  # nan is nan
        return "" if same else f"{_brief(old)} -> {_brief(new)}"
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{_brief(old)} -> {_brief(new)}"
    if torch.equal(old, new) or torch.allclose(old, new, rtol=0, atol=0, equal_nan=True):
        return ""
    gap = (new.double() - old.double()).abs() if not old.is_complex() else (new - old).abs()
    differing = int((old != new).sum())
    return (
        f"{differing:,} of {old.numel():,} numbers differ, by up to {gap.nan_to_num(posinf=torch.inf).max().item():.3g}"
    )


def _brief(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return f"{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
    if not isinstance(value, dict | list | tuple):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    leaves = [leaf for _, leaf in _leaves(value)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        text = repr(value)
        return text if len(text) <= 80 else f"{len(value)} entries"
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return f"{len(tensors)} tensors, {sum(map(torch.numel, tensors)):,} numbers, {num_bytes / 2**20:,.1f} MiB"


def _rows(rows: Iterator[str]) -> list[str]:
    listed = [f"    {row}" for row in rows]
    return listed if len(listed) <= LINES else [*listed[:LINES], f"    ... and {len(listed) - LINES} more"]


def _written(path: str) -> str:
    if places.is_remote(path):
        return "in a store"
    status = places.local(path).stat()
    return f"{datetime.fromtimestamp(status.st_mtime):%Y-%m-%d %H:%M:%S}, {status.st_size / 2**20:,.1f} MiB"
