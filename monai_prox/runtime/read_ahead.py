"""Cases ready for the network: the next one is read and prepared in a thread while the present one is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.runtime.cases import Case, read_case
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.memory import fits, needed_for
from monai_prox.runtime.options import Options
from monai_prox.runtime.preprocessing import prepare
from monai_prox.runtime.resampling import Array


@dataclass(frozen=True)
class Ready:
    """prepared: (C, *grid). empty: whether the image is 0 everywhere. save, properties: as of an Image. needed: bytes, see
    ``needed_for``.
    """

    prepared: Array
    grid: Grid
    empty: bool
    save: Callable[[NDArray[np.integer], Path], None]
    properties: Mapping[str, Any]
    needed: int


def make_ready(case: Case, description: Description, options: Options, *, reserved: int = 0) -> Ready:
    """Raises ProXError for a case that cannot be read, is not for the network, or would not fit beside ``reserved`` bytes."""
    image = read_case(case, description)
    empty, save, properties = not image.voxels.any(), image.save, image.properties
    prepared, grid = prepare(image, description, options, reserved=reserved)
    return Ready(prepared, grid, empty, save, properties, needed_for(grid, description, options))


class ReadAhead:
    """``cases`` in their order. Within it as a context, ``ready`` gives each when it is its turn.

    Only one case is read ahead, and only where the memory has room for two as large as the present one. If anything goes wrong
    with it, it is read again at its turn, so that no case fails for want of what another one holds.
    """

    def __init__(self, cases: Sequence[Case], description: Description, options: Options) -> None:
        self._description, self._options = description, options
        self._following = dict(pairwise(cases))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read ahead")
        self._ahead: Future[Ready] | None = None

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def ready(self, case: Case) -> Ready:
        """Raises what ``make_ready`` raises."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.exception() is None:
            ready = ahead.result()
        else:
            ready = make_ready(case, self._description, self._options)
        following = self._following.get(case)
        if following is not None and fits(2 * (ready.needed + ready.prepared.nbytes)):
            reserved = ready.needed
            self._ahead = self._thread.submit(make_ready, following, self._description, self._options, reserved=reserved)
        return ready
