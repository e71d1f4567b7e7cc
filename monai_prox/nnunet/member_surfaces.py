"""The surface Dice of what nnU-Net's final validation has predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.evaluation.evaluate_predictions import key_to_label_or_region

from monai_prox.surface_dice import mean_over_cases, surface_dice_by_class
from monai_prox.trained.family_file import Scores


def validated_surface_dice(trainer: Any, summary: Mapping[str, Any]) -> Scores:
    """The surface Dice of the cases of a validation, by nnU-Net's keys for labels, and their mean, as the summary has Dice.

    Args:
        trainer: a ProXTrainer.
        summary: nnU-Net's summary.json of the validation. Its files are read.
    """
    reader, ending = trainer.plans_manager.image_reader_writer_class(), trainer.dataset_json["file_ending"]
    labels: dict[str, Any] = {key: key_to_label_or_region(key) for key in summary["mean"]}
    if trainer.label_manager.has_ignore_label:
        labels["ignore"] = trainer.label_manager.ignore_label
    cases = []
    for case in summary["metric_per_case"]:
        truth, predicted = (reader.read_seg(case[f"{of}_file"])[0][0] for of in ("reference", "prediction"))  # (z, y, x)
        name = Path(case["reference_file"]).name.removesuffix(ending)
        # The image's spacing, for nnU-Net keeps no such file beside labels in formats that do not hold it
        dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, [name])
        *_, properties = dataset.load_case(name)
        cases.append(
            surface_dice_by_class(predicted, truth, labels, spacing=properties["spacing"], tolerance=trainer.surface_tolerance)
        )
    return mean_over_cases(cases)
