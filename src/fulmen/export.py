"""A module written for other runtimes: ONNX, TorchScript, TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fulmen.parameters import modes_kept


@contextmanager
def _attached(module: Any) -> Iterator[None]:
    """torch.jit looks at every attribute of a module; here none says that there is no trainer."""
    alone = [part for part in module.modules() if isinstance(part, Exports) and part.__dict__.get("_trainer") is None]
    for part in alone:
        part.__dict__["_trainer"] = object()
    try:
        yield
    finally:
        for part in alone:
            part.__dict__["_trainer"] = None


class Exports:
    """The exports of a LightningModule; each needs an example of forward's input."""

    def _example_of(self, given: Any, argument: str) -> Any:
        example = self.example_input_array if given is None else given  # type: ignore[attr-defined]
        if example is None:
            raise ValueError(f"Exporting needs an input: pass {argument}=..., or set self.example_input_array.")
        return example

    @torch.no_grad()
    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Write the module as ONNX with torch.onnx.export, which takes `kwargs`; needs the package onnx."""
        example = self._example_of(input_sample, "input_sample")
        with modes_kept(self):  # type: ignore[arg-type]
            self.eval()  # type: ignore[attr-defined]
            arguments = example if isinstance(example, tuple) else (example,)
            try:
                return torch.onnx.export(self, arguments, file_path, **kwargs)  # type: ignore[arg-type]
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(f"to_onnx needs {error.name}: pip install onnx onnxscript.") from error

    @torch.no_grad()
    def to_torchscript(
        self, file_path: Any = None, method: str | None = "script", example_inputs: Any = None, **kwargs: Any
    ) -> Any:
        """Compile the module to TorchScript by "script" or "trace", and write it if a path is given."""
        if method not in ("script", "trace"):
            raise ValueError(f"to_torchscript(method={method!r}) must be 'script' or 'trace'.")
        with modes_kept(self), _attached(self):  # type: ignore[arg-type]
            self.eval()  # type: ignore[attr-defined]
            if method == "script":
                compiled: Any = torch.jit.script(self, **kwargs)
            else:
                compiled = torch.jit.trace(self, self._example_of(example_inputs, "example_inputs"), **kwargs)
        if file_path is not None:
            with open(file_path, "wb") as file:
                torch.jit.save(compiled, file)
        return compiled

    @torch.no_grad()
    def to_tensorrt(
        self,
        file_path: Any = None,
        input_sample: Any = None,
        ir: str = "default",
        output_format: str = "exported_program",
        retrace: bool = False,
        default_device: Any = "cuda",
        **compile_kwargs: Any,
    ) -> Any:
        """Compile with torch_tensorrt, which must be installed; needs a CUDA device."""
        try:
            import torch_tensorrt  # type: ignore[import-not-found]
        except ImportError as error:
            raise ModuleNotFoundError(
                "to_tensorrt needs the package torch_tensorrt: pip install torch-tensorrt."
            ) from error
        example = self._example_of(input_sample, "input_sample")
        inputs = list(example) if isinstance(example, tuple) else [example]
        module: Any = self.eval().to(default_device)  # type: ignore[attr-defined]
        compiled = torch_tensorrt.compile(
            module, ir=ir, inputs=[i.to(default_device) for i in inputs], **compile_kwargs
        )
        if file_path is not None:
            torch_tensorrt.save(compiled, file_path, inputs=inputs, output_format=output_format, retrace=retrace)
        return compiled
