"""Layers and parameters of a module, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fulmen.seed import isolate_rng
from fulmen.tree import move

if TYPE_CHECKING:
    from fulmen.module import LightningModule

UNKNOWN_SIZE = "?"
NOT_APPLICABLE = "n/a"
UNITS = (" ", "K", "M", "B", "T")


class LayerSummary:
    """One layer; its sizes are those of the first forward pass that it sees."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._in_size: Any = None
        self._out_size: Any = None
        can_hook = not isinstance(module, torch.jit.ScriptModule)
        self._hook = module.register_forward_hook(self._see) if can_hook else None

    def _see(self, _: nn.Module, inputs: Any, output: Any) -> None:
        if self._in_size is None:
            self._in_size = parse_batch_shape(inputs[0] if len(inputs) == 1 else inputs)
            self._out_size = parse_batch_shape(output)

    def detach_hook(self) -> None:
        """Stop looking at forward passes."""
        if self._hook is not None:
            self._hook.remove()

    @property
    def in_size(self) -> str | list[Any]:
        return self._in_size or UNKNOWN_SIZE

    @property
    def out_size(self) -> str | list[Any]:
        return self._out_size or UNKNOWN_SIZE

    @property
    def layer_type(self) -> str:
        return type(self._module).__name__

    @property
    def num_parameters(self) -> int:
        return _count(self._module.parameters())

    @property
    def training(self) -> bool:
        return self._module.training


class ModelSummary:
    """What a module consists of, down to `max_depth` levels (-1: all, 0: only the totals); `print` shows it.

    With `example_input_array` in the module its forward runs once, in eval mode and without moving any random state,
    for the sizes and FLOPs of the layers.
    """

    def __init__(self, model: LightningModule, max_depth: int = 1) -> None:
        if not isinstance(max_depth, int) or max_depth < -1:
            raise ValueError(f"max_depth={max_depth!r} must be -1 for all levels, 0 for none, or a positive int.")
        self._model = model
        self._max_depth = max_depth
        self._flops: dict[str, dict[Any, int]] = {}
        self._layers = self.summarize()

    def summarize(self) -> dict[str, LayerSummary]:
        """The layers by name, in the order in which the module holds them."""
        layers = {name: LayerSummary(module) for name, module in self.named_modules}
        if self._has_example:
            self._forward_example_input()
        for layer in layers.values():
            layer.detach_hook()
        return layers

    @property
    def _has_example(self) -> bool:
        return getattr(self._model, "example_input_array", None) is not None

    @property
    def named_modules(self) -> list[tuple[str, nn.Module]]:
        deepest = self._max_depth if self._max_depth >= 0 else torch.inf
        return [(n, m) for n, m in self._model.named_modules() if n and n.count(".") < deepest]

    @property
    def layer_names(self) -> list[str]:
        return list(self._layers)

    @property
    def layer_types(self) -> list[str]:
        return [layer.layer_type for layer in self._layers.values()]

    @property
    def in_sizes(self) -> list[Any]:
        return [layer.in_size for layer in self._layers.values()]

    @property
    def out_sizes(self) -> list[Any]:
        return [layer.out_size for layer in self._layers.values()]

    @property
    def param_nums(self) -> list[int]:
        return [layer.num_parameters for layer in self._layers.values()]

    @property
    def training_modes(self) -> list[bool]:
        return [layer.training for layer in self._layers.values()]

    @property
    def total_training_modes(self) -> dict[str, int]:
        """How many layers, of all depths, are in train and in eval mode."""
        modes = [module.training for module in self._model.modules()][1:]
        return {"train": modes.count(True), "eval": modes.count(False)}

    @property
    def total_parameters(self) -> int:
        return _count(self._model.parameters())

    @property
    def trainable_parameters(self) -> int:
        return _count(p for p in self._model.parameters() if p.requires_grad)

    @property
    def total_layer_params(self) -> int:
        """The parameters that belong to a layer of the table, each counted once."""
        return _count({p: None for _, module in self.named_modules for p in module.parameters()})

    @property
    def model_size(self) -> float:
        """Megabytes of all parameters."""
        parameters = [p for p in self._model.parameters() if not is_lazy(p)]
        return sum(p.numel() * p.element_size() for p in parameters) * 1e-6

    @property
    def flop_counts(self) -> dict[str, dict[Any, int]]:
        """Floating point operations of each layer by operator; empty without `example_input_array`."""
        prefix = f"{type(self._model).__name__}."
        return {name: self._flops.get(prefix + name, {}) for name in self._layers}

    @property
    def total_flops(self) -> int:
        return sum(self._flops.get("Global", {}).values())

    def _forward_example_input(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        model, example = self._model, move(self._model.example_input_array, self._model.device)
        precision = model.trainer.precision_plugin if getattr(model, "_trainer", None) else None
        modes = [(module, module.training) for module in model.modules()]
        counter = FlopCounterMode(display=False)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(isolate_rng())
            if precision is not None:
                example = precision.convert_input(example)
                stack.enter_context(precision.forward_context())
            stack.enter_context(counter)
            try:
                model.eval()
                _call(model, example)
            finally:
                for module, training in modes:
                    module.training = training
        self._flops = {name: dict(counts) for name, counts in counter.get_flop_counts().items()}

    def _get_summary_data(self) -> list[tuple[str, list[str]]]:
        """The columns: a title and one text per row."""
        columns = {
            " ": [str(index) for index in range(len(self._layers))],
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
        return summary_table(
            self._get_summary_data(),
            self.total_parameters,
            self.trainable_parameters,
            self.model_size,
            self.total_training_modes,
            self.total_flops,
        )

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
