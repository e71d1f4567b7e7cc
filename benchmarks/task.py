"""A Decathlon task made ready for benchmarks: converted, planned and preprocessed by nnU-Net, with a plan cut to CPU size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from monai_prox.files import write_json
from monai_prox.nnunet.task import convert_task, is_preprocessed

# nnUNetv2_plan_and_preprocess, which has no script where nnU-Net is found by PYTHONPATH alone
PLAN = "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import *; plan_and_preprocess_entry()"


def prepare(
    task: Path,
    work: Path,
    *,
    features: list[int],
    batch_size: int,
    held_out: int,
    patch_size: list[int] | None = None,
    configuration: str = "3d_fullres",
    left_out: int = 0,
    spacing: Sequence[float] | None = None,
) -> tuple[Path, str]:
    """Returns the preprocessed folder and the name of the cut plan. The last ``held_out`` cases by name are fold 0's.

    held_out: with 0, all cases are trained on and are fold 0's, which says nothing about accuracy. features: of each level;
    there may be fewer than the plan has. patch_size, spacing: the plan's own if None. left_out: of the cases, the last by name
    are neither trained on nor held out, so that they can judge later what was tuned on the others.

    Sets nnU-Net's variables to folders below ``work``, where what is there already is used again, and such that batches are
    loaded in this process: a seed then repeats them. Nothing is compiled.
    """
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(work / variable)
        (work / variable).mkdir(parents=True, exist_ok=True)
    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}  # families are not compiled, so nobody is
    identifier, name = convert_task(task)
    folder = work / "nnUNet_preprocessed" / name
    if not is_preprocessed(name, f"nnUNetPlans_{configuration}"):
        count = str(os.cpu_count())
        command = [sys.executable, "-c", PLAN, "-d", str(identifier), "-c", configuration, "-np", count, "-npfp", count]
        if spacing is not None:
            command += ["-overwrite_target_spacing", *map(str, spacing)]
        planning = os.environ | {"nnUNet_n_proc_DA": "1"}  # with none it cannot plan
        subprocess.run(command, check=True, env=planning)
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    planned = plans["configurations"][configuration]
    planned["batch_size"] = batch_size
    network = planned["architecture"]["arch_kwargs"]
    for key in ("strides", "kernel_sizes", "n_conv_per_stage", "n_conv_per_stage_decoder"):
        network[key] = network[key][: len(features) - (key == "n_conv_per_stage_decoder")]
    network |= {"features_per_stage": features, "n_stages": len(features)}
    if patch_size is not None:
        planned["patch_size"] = patch_size
    shape = "x".join(map(str, [*planned["patch_size"], batch_size, *features]))
    split = f"{held_out}_{left_out}" if left_out else f"{held_out}"
    name = f"nnUNetPlans_{shape}_{split}"  # what is made with one split is not taken up with another
    plans |= {"plans_name": name, "configurations": {configuration: planned}}
    write_json(plans, folder / f"{name}.json")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "gt_segmentations").glob("*.nii.gz"))
    cases = cases[: len(cases) - left_out]
    trained = len(cases) - held_out
    write_json([{"train": cases[:trained], "val": cases[trained:] or cases}], folder / "splits_final.json")
    return folder, name
