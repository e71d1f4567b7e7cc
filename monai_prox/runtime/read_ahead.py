"""Cases ready for the network: the next one is read and prepared in a thread while the present one is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_prox.runtime.cases import Case, read_case
from monai_prox.runtime.description import Description
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.memory import fits, needed_for, reserving
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


def make_ready(case: Case, description: Description, options: Options) -> Ready:
    """Raises ProXError for a case that cannot be read, is not for the network, or would not fit into memory."""
    image = read_case(case, description)
    empty, save, properties = not image.voxels.any(), image.save, image.properties
    prepared, grid = prepare(image, description, options)
    return Ready(prepared, grid, empty, save, properties, needed_for(grid, description, options))


class ReadAhead:
    """``cases`` in their order: ``ready`` gives each when it is its turn.

    Only one case is read ahead, and only where the memory has room for two as large as the present one. If anything goes wrong
    with it, it is read again at its turn, so that no case fails for want of what another one holds. Nobody waits for a case
    that is not asked for, but Python itself, at its end: libraries that read may not be left in the middle.
    """

    def __init__(self, cases: Sequence[Case], description: Description, options: Options) -> None:
        self._description, self._options = description, options
        self._following = dict(pairwise(cases))
        self._ahead: Future[Ready | None] | None = None

    def ready(self, case: Case) -> Ready:
        """Raises what ``make_ready`` raises."""
        ready = self._taken() or make_ready(case, self._description, self._options)
        following = self._following.get(case)
        if following is not None and fits(2 * (ready.needed + ready.prepared.nbytes)):
            self._ahead = Future()
            Thread(target=self._read, args=(following, self._ahead, ready.needed), name="read ahead").start()
        return ready

    def give_up(self) -> bool:
        """Reads ahead no more; whether it held a case."""
        self._following = {}
        return self._taken() is not None

    def _taken(self) -> Ready | None:
        """Waited for."""
        ahead, self._ahead = self._ahead, None
        return None if ahead is None else ahead.result()

    def _read(self, case: Case, into: Future[Ready | None], reserved: int) -> None:
        """None if it failed: then all that the failure holds is gone."""
        ready = None
        with suppress(BaseException), reserving(reserved):
            ready = make_ready(case, self._description, self._options)
        into.set_result(ready)
