"""The results of a claim: a folder with one line a run, and the long lists of all runs beside.

runs.jsonl    a JSON object a line
arrays.npz    every list of more than SHORT numbers, which its line replaces by the array's name
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from monai_prox.files import replacing

Run = dict[str, Any]
RUNS, ARRAYS = "runs.jsonl", "arrays.npz"
SHORT = 8
NAMED = "array"  # the key of an object that stands for an array


def read(folder: Path) -> list[Run]:
    """The runs in their order; none where there are none yet."""
    if not (folder / RUNS).is_file():
        return []
    lines = [json.loads(line) for line in (folder / RUNS).read_text().splitlines()]
    if not (folder / ARRAYS).is_file():
        return lines
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return [_restored(line, arrays) for line in lines]


def write(runs: Iterable[Run], folder: Path) -> None:
    """In the place of what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    lines = [json.dumps(_taken_out(run, str(number), arrays)) for number, run in enumerate(runs)]
    if arrays:
        with replacing(folder / ARRAYS) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
    with replacing(folder / RUNS) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


def _taken_out(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {key: _taken_out(item, f"{name}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) > SHORT and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
            arrays[name] = np.asarray(value)
            return {NAMED: name}
        return [_taken_out(item, f"{name}/{index}", arrays) for index, item in enumerate(value)]
    return value


def _restored(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        return arrays[value[NAMED]].tolist() if value.keys() == {NAMED} else {k: _restored(v, arrays) for k, v in value.items()}
    return [_restored(item, arrays) for item in value] if isinstance(value, list) else value
