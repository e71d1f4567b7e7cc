"""The Decathlon bundles have the configurations of msd_prox, with a few values of their own. This writes them.

    python bundles/generate.py

They are files of their own because the model zoo and MONAI Label take a bundle as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).parent
SOURCE = "msd_prox"
SHARED = ("train.json", "multi_gpu_train.json", "evaluate.json", "inference.json", "logging.conf")
OWN: Mapping[str, Mapping[str, Any]] = {  # by bundle, entries at the top of its files
    "hippocampus_prox": {"task": "Task04_Hippocampus", "epochs": 100, "batch_size": 8, "samples_per_image": 1},
    "brats_prox": {
        "task": "Task01_BrainTumour",
        "epochs": 200,
        "samples_per_image": 1,
        "regions": {
            "whole tumour": ["edema", "non-enhancing tumor", "enhancing tumour"],
            "tumour core": ["non-enhancing tumor", "enhancing tumour"],
            "enhancing tumour": ["enhancing tumour"],
        },
    },
}


def generated() -> Iterator[tuple[Path, str]]:
    """Each file and what is to be in it."""
    task = json.loads((BUNDLES / SOURCE / "configs" / "train.json").read_text())["task"]
    for bundle, own in OWN.items():
        for name in SHARED:
            text = (BUNDLES / SOURCE / "configs" / name).read_text().replace(SOURCE, bundle).replace(task, own["task"])
            if name.endswith(".json"):
                entries = json.loads(text)
                text = json.dumps(entries | {key: own[key] for key in own if key in entries}, indent=4) + "\n"
            yield BUNDLES / bundle / "configs" / name, text


def main() -> None:
    for path, text in generated():
        path.write_text(text)


if __name__ == "__main__":
    main()
