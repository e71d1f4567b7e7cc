"""Handlers that write the results of a classifier."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine
from monai.metrics import compute_roc_auc
from torch import Tensor

from monai_prox.files import replacing, write_json


class _Collector:
    """Keeps the names of images and the probabilities of their classes, batch by batch."""

    def __init__(self, classes: Sequence[str], output_dir: str) -> None:
        self.classes, self.output_dir = tuple(classes), Path(output_dir)
        self.names: list[str] = []
        self.probabilities: list[Tensor] = []
        self.labels: list[int] = []

    def attach(self, engine: Engine) -> None:
        """Adds the handler to an evaluator.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def _start(self, _: Engine) -> None:
        self.names, self.probabilities, self.labels = [], [], []

    def _collect(self, engine: Engine) -> None:
        for image, probabilities in zip(*from_engine(["image", "pred"])(engine.state.output), strict=True):
            self.names.append(str(getattr(image, "meta", {}).get("filename_or_obj", len(self.names))))
            self.probabilities.append(torch.as_tensor(probabilities).cpu())
        self._collect_labels(engine)

    def _collect_labels(self, engine: Engine) -> None:
        """Collects the labels. A prediction has none."""

    def write(self, engine: Engine) -> None:
        """Writes the file.

        Args:
            engine: the evaluator.
        """
        raise NotImplementedError


class ProbabilityWriter(_Collector):
    """Handler that writes output_dir/predictions.csv.

    A line has the name of an image, its class and the probabilities of all classes. The evaluator's output needs ``image`` and
    ``pred``, the probabilities, decollated.

    Args:
        classes: names of the classes.
        output_dir: folder of the file.
    """

    def write(self, engine: Engine) -> None:
        """Writes the file.

        Args:
            engine: the evaluator.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (
            replacing(self.output_dir / "predictions.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(["image", "class", *self.classes])
            for name, probabilities in zip(self.names, self.probabilities, strict=True):
                predicted = self.classes[int(probabilities.argmax())]
                table.writerow([name, predicted, *(f"{value:.6f}" for value in probabilities.tolist())])


class ClassificationReport(_Collector):
    """Handler that writes output_dir/evaluation.json: accuracy, and by class recall, ROC AUC and confusion matrix.

    The ROC AUC is that of a class against all others. Rows of the confusion matrix are the true classes. The evaluator's output
    needs ``image``, ``pred``, the probabilities, and ``label``, one-hot, decollated. It works in one process.

    Args:
        classes: names of the classes.
        output_dir: folder of the file.
    """

    def _collect_labels(self, engine: Engine) -> None:
        self.labels += [int(torch.as_tensor(label).argmax()) for label in from_engine("label")(engine.state.output)]

    def write(self, engine: Engine) -> None:
        """Writes the file.

        Args:
            engine: the evaluator.
        """
        probabilities, labels, count = torch.stack(self.probabilities), torch.tensor(self.labels), len(self.classes)
        confusion = torch.bincount(count * labels + probabilities.argmax(1), minlength=count**2).view(count, count)
        hits, totals = confusion.diagonal(), confusion.sum(1)
        result: dict[str, Any] = {
            "images": len(labels),
            "accuracy": float(hits.sum() / len(labels)),
            "recall": {name: float(hits[i] / totals[i]) if totals[i] else None for i, name in enumerate(self.classes)},
            "auc": {name: self._auc(probabilities[:, i], labels == i) for i, name in enumerate(self.classes)},
            "confusion": {"classes": list(self.classes), "matrix": confusion.tolist()},
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(result, self.output_dir / "evaluation.json")

    @staticmethod
    def _auc(scores: Tensor, positive: Tensor) -> float | None:
        """The ROC AUC, or None if all images or none are of the class."""
        if positive.all() or not positive.any():
            return None
        return float(compute_roc_auc(scores[:, None], positive[:, None].float(), average="micro"))
