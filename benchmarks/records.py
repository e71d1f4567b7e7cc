"""The results of a claim: a folder with one line a run, and the long lists of all runs beside.

runs.jsonl    a JSON object a line
arrays.npz    every list of more than SHORT numbers, which its line replaces by the array's name, a digest of its numbers
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
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
    arrays = _arrays(folder)
    return [_restored(json.loads(line), arrays) for line in (folder / RUNS).read_text(encoding="utf-8").splitlines()]


def write(runs: Iterable[Run], folder: Path) -> None:
    """In the place of what is there. A process that is killed leaves the old runs or the new ones, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    lines = [json.dumps(_taken_out(run, arrays)) for run in runs]
    former = _arrays(folder)
    if not former.keys() >= arrays.keys():
        _write_arrays(former | arrays, folder)
    with replacing(folder / RUNS) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if not former.keys() <= arrays.keys():  # some are of the old runs alone
        _write_arrays(arrays, folder)


def by_seed(folder: Path) -> dict[tuple[str, int], Run]:
    """The runs by contender and seed."""
    return {(run["contender"], run["seed"]): run for run in read(folder)}


def add(run: Run, folder: Path) -> None:
    """Puts a run beside those that are there, unless another process has added that of its contender and seed."""
    known = by_seed(folder)
    if (run["contender"], run["seed"]) not in known:
        write([*known.values(), run], folder)


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / ARRAYS).is_file():
        return {}
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return dict(arrays)


def _write_arrays(arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    with replacing(folder / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _taken_out(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {key: _taken_out(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) > SHORT and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
            array = np.asarray(value)
            name = sha256(array.dtype.str.encode() + array.tobytes()).hexdigest()[:16]
            arrays[name] = array
            return {NAMED: name}
        return [_taken_out(item, arrays) for item in value]
    return value


def _restored(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return arrays[value[NAMED]].tolist() if value.keys() == {NAMED} else {k: _restored(v, arrays) for k, v in value.items()}
    return [_restored(item, arrays) for item in value] if isinstance(value, list) else value
