"""The page of a search in tests: the content of a front.json that no search has found, and hands for a browser."""

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page

SCREENSHOTS: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "screenshots.py"))


def entry(number: int, scores: Mapping[str, float | None], classes: Mapping[str, float | None] | None, **price: Any) -> Any:
    known = [score for score in scores.values() if score is not None]
    costs = {"parameters": 1e5 * number, "macs": 1e8 * number, "memory_mb": 20.0 * number, "file_mb": 0.4 * number}
    return {
        "name": f"choice-{number:08x}",
        "subnet": {"levels": [4], "resolution": [1.0], "width": [16, 32, 64, 128, 256, 320, 320], "decoder_depth": [2, 0, 2]},
        "score": float(np.mean(known)),
        "standard_error": float(np.std(known, ddof=1) / len(known) ** 0.5) if len(known) > 1 else None,
        "cases": len(known),
        "scores": dict(scores),
        "classes": classes,
        "price": costs | {"latency_ms": 12.5 * number} | price,
        "patches_a_case": 8.0,
        "patches_a_case_mirrored": 64.0,
        "macs_a_case": 8e8 * number,
        "file": f"/models/{number}.json",
        "command": f"monai-prox export /models/family --subnet /models/{number}.json --fold 0",
    }


def made_up(
    classes: Sequence[str] = ("Anterior", "Posterior"), measured: int = 6, members: int = 20, cases: int = 10, **changed: Any
) -> dict[str, Any]:
    """Of ``members`` members, the dearer the better, of which the first ``measured`` are scored on all ``cases``.

    changed: entries that are others than here.
    """
    generator = np.random.default_rng(0)
    names = [f"case_{index:03}" for index in range(cases)]
    hard = generator.uniform(-0.1, 0.1, cases)
    found = []
    for index in range(members):
        some = names if index < measured else names[:4]
        level = 0.7 + 0.2 * index / max(measured, members)
        scores = {name: float(level + hard[place] + generator.normal(0, 0.02)) for place, name in enumerate(some)}
        found.append(entry(index + 1, scores, {name: level - 0.01 * place for place, name in enumerate(classes)}))
    return {
        "format": 2,
        "model": "/models/nnUNet_results/Dataset004_Hippocampus/ProXTrainer__nnUNetPlans__3d_fullres",
        "task": "Hippocampus",
        "date": "2026-01-31",
        "measure": "dice",
        "classes": list(classes),
        "formats": ["nnunet", "bundle", "onnx", "openvino", "torchscript"],
        "minimised": ["macs"],
        "axes": {
            "macs": "MACs a patch",
            "latency_ms": "latency a patch, ms",
            "parameters": "parameters",
            "memory_mb": "memory, MB",
            "file_mb": "file, MB",
        },
        "budget": {"memory_mb": 900.0},
        "device": {"name": "made up", "held_out_error": 0.03},
        "case": None,
        "cases": {"some": 4, "all": cases, "left_out": {"case_999": "its image cannot be read"}},
        "seconds": 12.0,
        "space": 22464,
        "finalists": found[:measured],
        "measured": found[:measured],
        "members": [{**one, "expected": one["score"]} for one in found],
        "stages": [{"name": "everyone", "first_epoch": 0, "train": ["largest", ["random", "smallest"]], "teacher": "none"}],
        "monitor": [{"dimension": "width", "epoch": 3, "verdict": "closed"}],
        "closed": {},
    } | changed


def centre(page: Page, name: str) -> tuple[float, float]:
    """Of a member's point, on the screen."""
    box = page.locator(f"#chart circle[data-name={name}]").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def slide(page: Page, value: int) -> None:
    page.locator("#budget").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)
