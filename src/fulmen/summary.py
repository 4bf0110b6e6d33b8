"""Layers and parameters of a module, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fulmen.parameters import modes_kept
from fulmen.seed import isolate_rng
from fulmen.tree import move

if TYPE_CHECKING:
    from fulmen.module import LightningModule

UNKNOWN_SIZE = "?"
NOT_APPLICABLE = "n/a"
UNITS = (" ", "K", "M", "B", "T")


class LayerSummary:
    """One layer; `in_size` and `out_size` are those of the first forward pass that it sees, "?" before."""

    in_size: str | list[Any] = UNKNOWN_SIZE
    out_size: str | list[Any] = UNKNOWN_SIZE
    layer_type: str

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.layer_type = type(module).__name__
        can_hook = not isinstance(module, torch.jit.ScriptModule)
        self._hook = module.register_forward_hook(self._see) if can_hook else None

    def _see(self, _: nn.Module, inputs: Any, output: Any) -> None:
        self.in_size = parse_batch_shape(inputs[0] if len(inputs) == 1 else inputs)
        self.out_size = parse_batch_shape(output)
        self.detach_hook()

    def detach_hook(self) -> None:
        """Stop waiting for a forward pass."""
        if self._hook is not None:
            self._hook.remove()

    @property
    def num_parameters(self) -> int:
        return _count(self._module.parameters())

    @property
    def training(self) -> bool:
        return self._module.training


def check_depth(max_depth: Any) -> None:
    if not isinstance(max_depth, int) or max_depth < -1:
        raise ValueError(f"max_depth={max_depth!r} must be -1 for all levels, 0 for none, or a positive int.")


class ModelSummary:
    """What a module consists of, down to `max_depth` levels (-1: all, 0: only the totals); `print` shows it.

    With `example_input_array` in the module its forward runs once, in eval mode and without moving any random state,
    for the sizes of the layers and their floating point operations.
    """

    layer_names: list[str]
    layer_types: list[str]
    in_sizes: list[Any]
    out_sizes: list[Any]
    param_nums: list[int]
    training_modes: list[bool]
    total_training_modes: dict[str, int]  # "train" and "eval", of all depths
    total_parameters: int
    trainable_parameters: int
    total_layer_params: int  # of the layers in the table, each parameter once
    model_size: float  # megabytes
    flop_counts: dict[str, dict[Any, int]]  # of each layer by operator; empty without example_input_array
    total_flops: int

    def __init__(self, model: LightningModule, max_depth: int = 1) -> None:
        check_depth(max_depth)
        self._model = model
        self._max_depth = max_depth
        self._has_example = getattr(model, "example_input_array", None) is not None
        self._flops: dict[str, dict[Any, int]] = {}
        layers = self.summarize()
        self.layer_names = list(layers)
        self.layer_types = [layer.layer_type for layer in layers.values()]
        self.in_sizes = [layer.in_size for layer in layers.values()]
        self.out_sizes = [layer.out_size for layer in layers.values()]
        self.param_nums = [layer.num_parameters for layer in layers.values()]
        self.training_modes = [layer.training for layer in layers.values()]
        self.flop_counts = {name: self._flops.get(f"{type(model).__name__}.{name}", {}) for name in layers}
        self.total_flops = sum(self._flops.get("Global", {}).values())
        modes = [module.training for module in model.modules()][1:]
        self.total_training_modes = {"train": modes.count(True), "eval": modes.count(False)}
        parameters = [p for p in model.parameters() if not is_lazy(p)]
        self.total_parameters = _count(parameters)
        self.trainable_parameters = _count(p for p in parameters if p.requires_grad)
        self.total_layer_params = _count({p: None for _, module in self.named_modules for p in module.parameters()})
        self.model_size = sum(p.numel() * p.element_size() for p in parameters) * 1e-6

    def summarize(self) -> dict[str, LayerSummary]:
        """The layers by name, in the order in which the module holds them."""
        layers = {name: LayerSummary(module) for name, module in self.named_modules}
        try:
            if self._has_example:
                self._forward_example_input()
        finally:
            for layer in layers.values():
                layer.detach_hook()
        return layers

    @property
    def named_modules(self) -> list[tuple[str, nn.Module]]:
        deepest = self._max_depth if self._max_depth >= 0 else torch.inf
        return [(n, m) for n, m in self._model.named_modules() if n and n.count(".") < deepest]

    def _forward_example_input(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        model, example = self._model, move(self._model.example_input_array, self._model.device)
        precision = model.trainer.precision_plugin if getattr(model, "_trainer", None) else None
        counter = FlopCounterMode(display=False)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(isolate_rng())
            if precision is not None:
                example = precision.convert_input(example)
                stack.enter_context(precision.forward_context())
            stack.enter_context(counter)
            stack.enter_context(modes_kept(model))
            model.eval()
            try:
                _call(model, example)
            except Exception as error:
                raise RuntimeError(f"forward could not take example_input_array, for the summary: {error}") from error
        self._flops = {name: dict(counts) for name, counts in counter.get_flop_counts().items()}

    def _get_summary_data(self) -> list[tuple[str, list[str]]]:
        """The columns: a title and one text per row."""
        columns = {
            " ": [str(index) for index in range(len(self.layer_names))],
            "Name": self.layer_names,
            "Type": self.layer_types,
            "Params": [get_human_readable_count(count) for count in self.param_nums],
            "Mode": ["train" if training else "eval" for training in self.training_modes],
        }
        if self._has_example:
            columns["FLOPs"] = [get_human_readable_count(sum(f.values())) for f in self.flop_counts.values()]
            columns["In sizes"] = [str(size) for size in self.in_sizes]
            columns["Out sizes"] = [str(size) for size in self.out_sizes]
        if others := self.total_parameters - self.total_layer_params:
            row = {" ": " ", "Name": "other params", "Params": get_human_readable_count(others)}
            for title, texts in columns.items():
                texts.append(row.get(title, NOT_APPLICABLE))
        return list(columns.items())

    def __str__(self) -> str:
        numbers = (self.total_parameters, self.trainable_parameters, self.model_size, self.total_training_modes)
        return summary_table(self._get_summary_data(), *numbers, self.total_flops)

    __repr__ = __str__


def summarize(lightning_module: LightningModule, max_depth: int = 1) -> ModelSummary:
    """The summary of `lightning_module`, down to `max_depth` levels."""
    return ModelSummary(lightning_module, max_depth=max_depth)


def totals(
    total_parameters: int, trainable_parameters: int, model_size: float, modes: dict[str, int], total_flops: int
) -> dict[str, str]:
    """What stands under the table."""
    lines = {
        "Trainable params": get_human_readable_count(trainable_parameters),
        "Non-trainable params": get_human_readable_count(total_parameters - trainable_parameters),
        "Total params": get_human_readable_count(total_parameters),
        "Total estimated model params size (MB)": get_formatted_model_size(model_size),
        "Modules in train mode": str(modes["train"]),
        "Modules in eval mode": str(modes["eval"]),
    }
    return lines | ({"Total FLOPs": get_human_readable_count(total_flops)} if total_flops else {})


def summary_table(columns: list[tuple[str, list[str]]], *numbers: Any) -> str:
    """The table as text, with the `totals` of `numbers` under it."""
    widths = [max(map(len, (title, *texts))) for title, texts in columns]
    rows = [[title for title, _ in columns], *zip(*(texts for _, texts in columns), strict=True)]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    rule = "-" * len(lines[0])
    below = [f"{number:<10}{title}" for title, number in totals(*numbers).items()]
    return "\n".join([lines[0], rule, *lines[1:], rule, *below])


def get_human_readable_count(number: int) -> str:
    """A count in three digits and a unit, as wide for all: `1234` is "1.2 K", `66` is "66  "."""
    if number < 0:
        raise ValueError(f"number={number} must not be negative.")
    power = min((len(str(int(number))) - 1) // 3, len(UNITS) - 1)
    scaled = number / 1000**power
    digits = f"{scaled:,.1f}" if power and scaled < 100 else f"{int(scaled):,d}"
    return f"{digits} {UNITS[power]}"


def get_formatted_model_size(total_model_size: float) -> str:
    """Megabytes with three decimals."""
    return f"{total_model_size:,.3f}"


def parse_batch_shape(batch: Any) -> str | list[Any]:
    """The shape of a tensor, the shapes of several, "?" for anything else."""
    if isinstance(batch, Tensor):
        return list(batch.shape)
    return [parse_batch_shape(item) for item in batch] if isinstance(batch, (list, tuple)) else UNKNOWN_SIZE


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(0 if is_lazy(p) else p.numel() for p in parameters)


def _call(model: nn.Module, example: Any) -> None:
    if isinstance(example, dict):
        model(**example)
    else:
        model(*example) if isinstance(example, (tuple, list)) else model(example)
