"""nnU-Net's loader processes, which otherwise outlive a training that is killed, and wait for it forever."""

from __future__ import annotations

import multiprocessing
import os
import threading
from functools import cache
from typing import Any


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
