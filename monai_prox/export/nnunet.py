"""A member as an ordinary nnU-Net model folder, and as a plan for training it further with stock nnU-Net."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.export.folder import new_folder
from monai_prox.export.validation import copy_validation
from monai_prox.files import check_inside, write_json
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.nnunet_files import read_plans
from monai_prox.trained.nnunet_folder import CHECKPOINTS, FINAL, ModelFolder
from monai_prox.trained.nnunet_member import member_plans
from monai_prox.trained.nnunet_source import TrainedNNUNet
from monai_prox.trained.source import Trained

STOCK_TRAINER = "nnUNetTrainer"
WEIGHTS_LICENCE = "weights_license"  # in dataset.json, as in the metadata.json of an exported bundle
NOT_VALIDATED: dict[str, Any] = {"metric_per_case": [], "mean": {}, "foreground_mean": {}}


def stock_folder(model: ModelFolder, plans_name: str) -> Path:
    """Where ``nnUNetv2_predict -tr nnUNetTrainer -p plans_name`` looks, if ``model`` is in nnUNet_results."""
    return model.path.parent / f"{STOCK_TRAINER}__{plans_name}__{model.configuration_name}"


def _is_found_by_name(model: ModelFolder, folder: Path, plans_name: str) -> bool:
    """Whether ``nnUNetv2_predict -p plans_name`` finds ``folder``, which it looks for in nnUNet_results only."""
    results, found = os.environ.get("nnUNet_results"), model.path.parent
    there = results is not None and Path(results, model.plans["dataset_name"]).resolve() == found
    return there and folder.resolve() == stock_folder(model, plans_name)


def how_to_predict(source: TrainedNNUNet, folder: Path) -> list[list[str]]:
    """nnU-Net's commands for the exported ``folder``, by its place and, where nnU-Net finds it so, by its name."""
    model, plans = source.model, read_plans(folder / "plans.json")["plans_name"]
    # nnU-Net asks for the folds 0 to 4 otherwise
    named = ["-f", *(fold.removeprefix("fold_") for fold in source.folds), "-i", "INPUT", "-o", "OUTPUT"]
    commands = [["nnUNetv2_predict_from_modelfolder", "-m", str(folder), *named]]
    if _is_found_by_name(model, folder, plans):
        which = ["-d", model.plans["dataset_name"], "-c", model.configuration_name, "-p", plans]
        commands.append(["nnUNetv2_predict", *which, *named])
    return commands


def how_to_preprocess(source: TrainedNNUNet, folder: Path) -> list[str] | None:
    """nnU-Net's command before the exported ``folder`` is trained further, None where the family's data do for it."""
    model, plans = source.model, read_plans(folder / "plans.json")
    if plans["configurations"][model.configuration_name]["data_identifier"] == model.configuration["data_identifier"]:
        return None
    which = ["-d", model.plans["dataset_name"], "-plans_name", plans["plans_name"], "-c", model.configuration_name]
    return ["nnUNetv2_preprocess", *which]


def export_nnunet(
    source: Trained,
    which: str,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    fine_tune: bool = False,
) -> Path:
    """Writes a member as a model folder of nnU-Net's own trainer.

    Args:
        source: a model folder of ProXTrainer, with all of its finished folds or with those that it was opened for.
        which: a member's name, or a JSON file with a subnet.
        output: the folder. None means the folder beside the model that ``nnUNetv2_predict -tr nnUNetTrainer -p PLANS`` finds.
        overwrite: whether an existing folder is replaced.
        fine_tune: whether the plans are also written beside the preprocessed data, for
            ``nnUNetv2_train ... -pretrained_weights``.

    Returns:
        The folder.

    Raises:
        ProXError: ``source`` is a bundle; the member is unknown or not legal, or a fold has closed it; the folder exists, or
            has other files such as a training's results; the plan beside the data is another; or files cannot be written.
            Then no part of the folder is left.
    """
    if not isinstance(source, TrainedNNUNet):
        raise ProXError(f"{source.path}: a bundle's members become {', '.join(source.formats)}, not nnunet")
    model, folds = source.model, source.folds
    name, subnet = model.member(which)
    supernet, subnet = model.supernet_with(subnet, model.checkpoint(folds[0]))
    plans = member_plans(model, supernet, name, subnet)
    plans_name = plans["plans_name"]
    output = output or stock_folder(model, plans_name)
    plan_file = _preprocessed(model) / f"{plans_name}.json" if fine_tune else None
    beside_data = plans
    if plan_file is not None and plan_file.exists():
        existing = read_plans(plan_file)
        _check_own(plan_file, existing, plans, output if overwrite else None)
        beside_data = plans | {"configurations": existing["configurations"] | plans["configurations"]}
    with new_folder(output, overwrite=overwrite) as folder:
        _write_model(model, folder, folds, subnet, plans, source.family().license)
        if plan_file is not None:
            write_json(beside_data, plan_file)
    return output


def _check_own(plan_file: Path, existing: dict[str, Any], plans: dict[str, Any], exported: Path | None) -> None:
    """Raises ProXError if ``plan_file`` says ``existing``, which is neither ``plans`` nor those of the folder ``exported``.

    Other configurations, exported into folders of their own, do not count.
    """
    (configuration,) = plans["configurations"]

    def text(of: dict[str, Any]) -> str:
        found = of["configurations"]
        own = {name: found[name] for name in found if name == configuration}
        return json.dumps(of | {"configurations": own}, sort_keys=True)

    allowed = [text(plans), text(plans | {"configurations": {}})]
    if exported is not None and (exported / "plans.json").is_file():
        allowed.append(text(read_plans(exported / "plans.json")))
    if text(existing) not in allowed:
        raise ProXError(
            f"{plan_file} is not replaced, for it is another member's plan or has changed since it was exported; move it, or "
            "give the subnet another name"
        )


def _write_model(
    model: ModelFolder, folder: Path, folds: Sequence[str], subnet: Subnet, plans: dict[str, Any], license: str | None
) -> None:
    # dataset.json is the only file of nnU-Net's that says such things. It goes into nnU-Net's zip
    dataset = {**model.dataset, **({} if license is None else {WEIGHTS_LICENCE: license})}
    write_json(plans, folder / "plans.json")
    write_json(dataset, folder / "dataset.json")
    fingerprint = model.path / "dataset_fingerprint.json"
    if fingerprint.is_file():
        shutil.copyfile(check_inside(fingerprint, model.path), folder / fingerprint.name)
    for fold in folds:
        checkpoint = model.checkpoint(fold)
        network = model.supernet_with(subnet, checkpoint)[0].extract(subnet)
        target = folder / fold
        (target / "validation").mkdir(parents=True)
        init_args = checkpoint["init_args"]
        write_tensors(
            {
                "network_weights": network.state_dict(),
                **_for_validating(network, checkpoint),
                "trainer_name": STOCK_TRAINER,
                "init_args": {
                    "plans": plans,
                    "configuration": model.configuration_name,
                    "fold": init_args["fold"],
                    "dataset_json": dataset,
                },
                "inference_allowed_mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
                "current_epoch": checkpoint["current_epoch"],
            },
            target / FINAL,
        )
        # MONAI's convert_nnunet_to_monai_bundle reads it, too. It is no link, for a training would write through it
        shutil.copyfile(target / FINAL, target / CHECKPOINTS["best"])
        # nnUNetv2_export_model_to_zip expects these two of every fold
        for picture in ("prox_progress.png", "progress.png"):
            if (found := model.path / fold / picture).is_file():
                shutil.copyfile(check_inside(found, model.path), target / "progress.png")
                break
        summary = model.validation_summary(fold, subnet, checkpoint["current_epoch"])
        if summary is not None:
            copy_validation(model, summary, target / "validation")
        else:
            write_json(NOT_VALIDATED, target / "validation" / "summary.json")


def _for_validating(network: nn.Module, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What ``nnUNetv2_train --val`` reads of a checkpoint beside weights: the optimizer of stock nnU-Net, before a step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    return {
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": checkpoint.get("logging", {}),
        "_best_ema": checkpoint.get("_best_ema"),
    }


def _preprocessed(model: ModelFolder) -> Path:
    root = os.environ.get("nnUNet_preprocessed")
    if not root:
        raise ProXError("nnUNet_preprocessed is not set; --fine-tune puts the member's plans there")
    folder = Path(root, model.plans["dataset_name"])
    if not folder.is_dir():
        raise ProXError(f"{folder} does not exist; preprocess the dataset on this machine before --fine-tune")
    return folder
