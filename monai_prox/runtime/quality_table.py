"""``quality.csv``: a score for each case that was segmented and, if there is a calibration, the Dice that it lets expect."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable
from contextlib import suppress
from math import isnan, nan
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.files import replacing
from monai_prox.runtime.calibration import Calibration

TABLE = "quality.csv"
SCORED, EXPECTED = ("case", "score"), ("expected_dice", "lower", "upper")


class QualityTable:
    """The table in a folder, which is written anew, whole, with every case.

    calibration: None for scores alone. keep: whether cases of a table that is there stay, with what is expected of them now;
    else it is removed. Raises ProXError where such a table cannot be read, and OSError where it cannot be removed.
    """

    def __init__(self, folder: Path, calibration: Calibration | None, *, keep: bool) -> None:
        self.path, self.calibration = folder / TABLE, calibration
        if not keep:
            self.path.unlink(missing_ok=True)
        former = _read(self.path) if self.path.exists() else {}
        self._rows = {case: self._row(case, score) for case, score in former.items()}

    def __contains__(self, case: str) -> bool:
        return case in self._rows

    def add(self, case: str, score: float) -> None:
        """score: NaN for a case that has none."""
        self._rows[case] = self._row(case, round(score, 6))  # as it is written: read again, it lets expect the same
        self._write()

    def forget(self, cases: Iterable[str]) -> None:
        """Takes out cases that are predicted anew: the rows are of other segmentations."""
        former = len(self._rows)
        for case in cases:
            self._rows.pop(case, None)
        if len(self._rows) < former:
            self._write()

    def _write(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(SCORED if self.calibration is None else (*SCORED, *EXPECTED))
            table.writerows(self._rows.values())

    def _row(self, case: str, score: float) -> list[str]:
        expected: tuple[float, ...] = ()
        if self.calibration is not None:
            expected = (nan, nan, nan) if isnan(score) else self.calibration.expected(score)
        return [case, *("" if isnan(number) else f"{number:.6f}" for number in (score, *expected))]


def outdate(folder: Path, cases: Collection[str]) -> None:
    """Removes a table that has rows of ``cases``, which are predicted anew without a score."""
    with suppress(ProXError):  # it is another file
        if (folder / TABLE).is_file() and not _read(folder / TABLE).keys().isdisjoint(cases):
            (folder / TABLE).unlink()


def _read(path: Path) -> dict[str, float]:
    """Scores by case. Raises ProXError for other files."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a mark before it
            scores = {row["case"]: float(row["score"]) if row["score"] else nan for row in csv.DictReader(file)}
        sound = all(0 <= score <= 1 or isnan(score) for score in scores.values())
    except (KeyError, TypeError, ValueError, csv.Error):
        sound = False
    if not sound:
        raise ProXError(f"{path} is no table of cases and scores; remove it, or predict without --no-overwrite")
    return scores
