"""The time in which a GPU waits for batches, and how many updates fit into it."""

from __future__ import annotations

from math import floor

MOST = 8  # updates with one batch, however long the next one takes


class IdleTime:
    """The times of an epoch's batches, of which each trains one update.

    A loader fills its queue while the host validates, so the first batches of the next epoch come at once. The first half of
    an epoch is therefore left out.

    Args:
        batches: number of batches of the epoch.

    >>> idle = IdleTime(batches=4)
    >>> for began, ended in ((0, 15), (20, 35), (90, 105), (176, 191)):  # the last two come every 86 ms
    ...     idle.add(began, ended)
    >>> idle.updates
    4
    """

    def __init__(self, batches: int) -> None:
        self._left_out, self._seen = batches // 2, 0
        self._ended: float | None = None
        self._waited = self._updated = 0.0

    def add(self, began: float, ended: float) -> None:
        """Notes the update of a batch.

        Args:
            began: time at which the batch was there, in any unit.
            ended: time at which the GPU had finished the update, in the same unit.
        """
        if self._ended is not None and self._seen >= self._left_out:
            self._waited += began - self._ended
            self._updated += ended - began
        self._ended = ended
        self._seen += 1

    @property
    def updates(self) -> int:
        """The number of updates that fit into the time from one batch to the next, 1 to ``MOST``."""
        return min(MOST, 1 + floor(self._waited / self._updated)) if self._updated else 1

    @property
    def share(self) -> float:
        """The part of the time in which the GPU waited, 0 to 1."""
        total = self._waited + self._updated
        return self._waited / total if total else 0.0
