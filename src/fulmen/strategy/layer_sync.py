"""Layers that compute over all ranks, put in the place of those that do not."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch.nn import Module, SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm


class LayerSync(ABC):
    """A part of strategies with several processes, given as `Trainer(plugins=[...])`."""

    @abstractmethod
    def apply(self, model: Module) -> Module:
        """The model with the layers that synchronize; called before it is placed."""

    @abstractmethod
    def revert(self, model: Module) -> Module:
        """The model with its own layers again; called at the end of a run."""


class TorchSyncBatchNorm(LayerSync):
    """Batch norm over the batches of all ranks, on GPUs; `Trainer(sync_batchnorm=True)`."""

    def __init__(self) -> None:
        self._own: dict[str, Module] = {}

    def apply(self, model: Module) -> Module:
        self._own = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
        return SyncBatchNorm.convert_sync_batchnorm(model)

    def revert(self, model: Module) -> Module:
        for name, layer in self._own.items():
            synced = model.get_submodule(name)
            layer._parameters, layer._buffers, layer.training = synced._parameters, synced._buffers, synced.training
            if not name:
                return layer
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer)
        return model
