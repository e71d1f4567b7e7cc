"""nnU-Net's loading of data, made to end with a training that is killed, and to be repeatable."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform


class EndWithTraining:
    """The first of a loader's transforms: it changes nothing, but sees to it that the loader's process ends with its parent."""

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


def prepared(composed: Any) -> Any:
    """A loader's transforms, none of which chooses by timing, which no seed repeats; its process ends with its parent."""
    for transform in _within(composed):
        if isinstance(transform, GaussianBlurTransform):
            transform.benchmark = False
    composed.transforms.insert(0, EndWithTraining())
    return composed


def _within(transform: Any) -> Iterator[Any]:
    """A transform and all those that it is made of."""
    yield transform
    several = (*getattr(transform, "transforms", ()), *getattr(transform, "list_of_transforms", ()))
    for inner in (*several, getattr(transform, "transform", None)):
        if inner is not None:
            yield from _within(inner)
