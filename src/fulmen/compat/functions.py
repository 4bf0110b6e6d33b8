"""Functions of older releases that have no place in today's: each does what it did."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from inspect import getfullargspec, unwrap
from typing import Any

import torch

from fulmen.checkpoint.places import store
from fulmen.optim import LRSchedulerConfig
from fulmen.tree import move


def data_loader(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The decorator that methods such as `train_dataloader` once needed."""
    return function


def auto_move_data(function: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator for `forward` that brings the arguments to the module's device outside of a trainer."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *move(args, self.device), **move(kwargs, self.device))

    return forward


def load(path_or_url: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Read a checkpoint from a path or URL."""
    from fulmen.checkpoint.files import read

    return read(path_or_url, map_location=map_location, weights_only=weights_only)


def get_filesystem(path: Any, **kwargs: Any) -> Any:
    """The fsspec file system that a path or URL belongs to."""
    return store(str(path), **kwargs)[0]


def _module_available(module_path: str) -> bool:
    """Whether a module could be imported."""
    try:
        return find_spec(module_path) is not None
    except ModuleNotFoundError:
        return False


def rank_prefixed_message(message: str, rank: int | None) -> str:
    """The message with the rank that says it."""
    return message if rank is None else f"[rank: {rank}] {message}"


def is_param_in_hook_signature(
    hook_fx: Callable[..., Any], param: str, explicit: bool = False, min_args: int | None = None
) -> bool:
    """Whether a method takes `param` by name or, unless `explicit`, in `*args` or as one of `min_args` arguments."""
    spec = getfullargspec(unwrap(hook_fx))
    taken = spec.args[1:]
    enough = spec.varargs is not None or (min_args is not None and len(taken) >= min_args)
    return param in taken or (enough and not explicit)


def _convert_params(params: Any) -> dict[str, Any]:
    """Hyperparameters as a dict."""
    return dict(vars(params) if isinstance(params, Namespace) else params or {})


def _flatten_dict(params: Any, delimiter: str = "/", parent_key: str = "") -> dict[str, Any]:
    """A nested dict's values under the keys that lead to them."""
    found: dict[str, Any] = {}
    for key, value in _convert_params(params).items():
        name = f"{parent_key}{delimiter}{key}" if parent_key else str(key)
        below = isinstance(value, (Mapping, Namespace))
        found.update(_flatten_dict(value, delimiter, name) if below else {name: value})
    return found


def _sanitize_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with texts in place of what is no number, text or tensor."""
    plain = (bool, int, float, str, torch.Tensor)
    return {name: value if isinstance(value, plain) else str(value) for name, value in params.items()}


def _get_default_scheduler_config() -> dict[str, Any]:
    """What a scheduler has when the user says nothing."""
    return {**vars(LRSchedulerConfig(None)), "opt_idx": None}
