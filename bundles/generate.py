"""Writes the configurations of the four bundles from bundles/sources.

    python bundles/generate.py

They are files of their own because the model zoo and MONAI Label take a bundle as a whole. ``sources/segmentation`` has the
configurations of the Decathlon bundles, in which BUNDLE and TASK stand for what OWN says. ``sources/classification`` has those
of roct_prox; "=" there is what segmentation has in this place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).parent
SOURCES = BUNDLES / "sources"
SHARED = "segmentation"
SAME = "="
FILES = ("train.json", "multi_gpu_train.json", "evaluate.json", "inference.json")
LOGGING = "logging.conf"
OWN: Mapping[str, Mapping[str, Any]] = {  # by bundle: its source, and entries at the top of its files
    "msd_prox": {"source": SHARED, "task": "Task09_Spleen"},
    "hippocampus_prox": {
        "source": SHARED,
        "task": "Task04_Hippocampus",
        "batch_size": 8,
        "samples_per_image": 1,
        "flips": [0],  # front and back of it are two labels
    },
    "brats_prox": {
        "source": SHARED,
        "task": "Task01_BrainTumour",
        "epochs": 160,
        "val_interval": 10,
        "samples_per_image": 1,
        "regions": {
            "whole tumour": ["edema", "non-enhancing tumor", "enhancing tumour"],
            "tumour core": ["non-enhancing tumor", "enhancing tumour"],
            "enhancing tumour": ["enhancing tumour"],
        },
    },
    "roct_prox": {"source": "classification", "task": "OCT2017"},
}


def generated() -> Iterator[tuple[Path, str]]:
    """Each file and what is to be in it."""
    for bundle, own in OWN.items():
        for name in FILES:
            entries = read(own["source"], name)
            text = json.dumps(entries | {key: own[key] for key in own if key in entries}, indent=4) + "\n"
            yield BUNDLES / bundle / "configs" / name, text.replace("BUNDLE", bundle).replace("TASK", own["task"])
        yield BUNDLES / bundle / "configs" / LOGGING, (SOURCES / LOGGING).read_text()


def read(source: str, name: str) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((SOURCES / source / name).read_text())
    return entries if source == SHARED else filled(entries, read(SHARED, name))


def filled(own: Any, shared: Any) -> Any:
    """``own`` with what ``shared`` has where it says "="."""
    if own == SAME:
        return shared
    if not isinstance(own, dict) or not isinstance(shared, dict):
        return own
    return {key: filled(value, shared[key] if value == SAME else shared.get(key)) for key, value in own.items()}


def main() -> None:
    for path, text in generated():
        path.write_text(text)


if __name__ == "__main__":
    main()
