from __future__ import annotations

import gc
import weakref

import pytest
import torch

from fulmen.memory import garbage_collection_cuda, is_oom_error


@pytest.mark.parametrize(
    ("error", "is_oom"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear ..."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (MemoryError(), True),
        (RuntimeError("shape '[2]' is invalid"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error, is_oom):
    assert is_oom_error(error) is is_oom


def test_an_allocation_that_cannot_be_had_is_one():
    with pytest.raises((RuntimeError, MemoryError)) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_oom_error(error.value)


def test_collection_frees_circles():
    class Circle:
        pass

    circle = Circle()
    circle.itself = circle
    gone = weakref.ref(circle)
    gc.disable()
    try:
        del circle
        garbage_collection_cuda()
        assert gone() is None
    finally:
        gc.enable()
