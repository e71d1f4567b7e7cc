"""Transforms of nnU-Net's data loaders: their processes end with the training, and a seed repeats their results."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform


class EndWithTraining:
    """A transform that changes nothing, and makes the loader's process end when its parent process ends."""

    def __call__(self, **data: Any) -> dict[str, Any]:
        _end_with_parent()
        return data


@cache
def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_await, args=(parent,), daemon=True).start()


def _await(parent: Any) -> None:
    parent.join()
    os._exit(1)


def prepare_transforms(composed: Any) -> Any:
    """Prepares the transforms of a loader, in place.

    No transform chooses an algorithm by timing, which a seed does not repeat. The loader's process ends with its parent.

    Args:
        composed: nnU-Net's transforms.

    Returns:
        ``composed``.
    """
    for transform in _flattened(composed):
        if isinstance(transform, GaussianBlurTransform):
            transform.benchmark = False
    composed.transforms.insert(0, EndWithTraining())
    return composed


def _flattened(transform: Any) -> Iterator[Any]:
    """A transform and all transforms in it."""
    yield transform
    inner = (*getattr(transform, "transforms", ()), *getattr(transform, "list_of_transforms", ()))
    for child in (*inner, getattr(transform, "transform", None)):
        if child is not None:
            yield from _flattened(child)
