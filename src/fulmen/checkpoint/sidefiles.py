"""Hyperparameters in a file of their own: hparams.yaml, or a .csv file."""

from __future__ import annotations

import ast
import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch

from fulmen.checkpoint import places
from fulmen.checkpoint.plain import to_saveable


def load_hparams(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Hyperparameters from a .yaml file, or from a .csv file with the columns key and value."""
    suffix = os.path.splitext(str(path))[1].lower()
    if suffix == ".csv":
        rows = csv.DictReader(places.fetch(path).decode().splitlines())
        return {row["key"]: _literal(row["value"]) for row in rows}
    if suffix not in (".yaml", ".yml"):
        raise ValueError(f"hparams_file={str(path)!r} must end in .yaml, .yml or .csv.")
    return load_hparams_from_yaml(path)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def load_hparams_from_yaml(config_yaml: str | os.PathLike[str], use_omegaconf: bool = True) -> dict[str, Any]:
    """Hyperparameters from a YAML file; tags that would make objects are refused."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows tuples too."""

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
    try:
        return yaml.load(places.fetch(config_yaml), Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{str(config_yaml)!r} is not plain YAML, so it was refused: {error}") from error


def _tuple(loader: Any, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node))


def save_hparams_to_yaml(
    config_yaml: str | os.PathLike[str], hparams: Mapping[str, Any] | Namespace, use_omegaconf: bool = True
) -> None:
    """Write hyperparameters as plain YAML; those that are not plain data are left out with a warning."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes what YAML has no word for as text."""

    Dumper.add_multi_representer(dict, lambda dumper, value: dumper.represent_dict(value))
    Dumper.add_multi_representer(torch.Tensor, lambda dumper, value: dumper.represent_data(value.tolist()))
    Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))
    places.local(config_yaml).write_text(yaml.dump(to_saveable(hparams)[0], Dumper=Dumper, sort_keys=False))
