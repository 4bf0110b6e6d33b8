"""When memory runs out: which errors mean it, and how to get some back."""

from __future__ import annotations

import gc
from contextlib import suppress

import torch

from fulmen.collection import recursive_detach

__all__ = [
    "garbage_collection_cuda",
    "is_cuda_out_of_memory",
    "is_cudnn_snafu",
    "is_oom_error",
    "is_out_of_cpu_memory",
    "recursive_detach",
]


def is_oom_error(exception: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the device or on the host."""
    return is_cuda_out_of_memory(exception) or is_cudnn_snafu(exception) or is_out_of_cpu_memory(exception)


def is_cuda_out_of_memory(exception: BaseException) -> bool:
    return isinstance(exception, torch.OutOfMemoryError) or _says(exception, "CUDA", "out of memory")


def is_cudnn_snafu(exception: BaseException) -> bool:
    """cuDNN reports a lack of memory as an unsupported operation."""
    return _says(exception, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.")


def is_out_of_cpu_memory(exception: BaseException) -> bool:
    return isinstance(exception, MemoryError) or _says(exception, "DefaultCPUAllocator: can't allocate memory")


def _says(exception: BaseException, *words: str) -> bool:
    return isinstance(exception, RuntimeError) and all(word in str(exception) for word in words)


def garbage_collection_cuda() -> None:
    """Free what nothing refers to any more, on the host and in CUDA's cache."""
    gc.collect()
    with suppress(RuntimeError):  # after an error of the device even this may fail; the first one is worth more
        torch.cuda.empty_cache()
