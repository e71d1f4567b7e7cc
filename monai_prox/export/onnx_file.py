"""A member as one ONNX file that holds everything prediction needs, for ``monai_prox.runtime``."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from monai_prox.errors import ProXError
from monai_prox.export.folder import check_vacant
from monai_prox.export.int8 import Loss, find_labelled, quantise
from monai_prox.export.nnunet import member_plans
from monai_prox.files import replacing
from monai_prox.nnunet.model_folder import ModelFolder
from monai_prox.runtime.description import KEY, SCHEMES, Description, Normalisation, Resampling

OPSET = 18
REPEATED = {  # what of a plan the runtime does, too
    "image_reader_writer": ("SimpleITKIO", "NibabelIO"),
    "label_manager": ("LabelManager",),
    "preprocessor_name": ("DefaultPreprocessor",),
    "resampling_fn_data": ("resample_data_or_seg_to_shape",),
    "resampling_fn_probabilities": ("resample_data_or_seg_to_shape",),
}
RESAMPLING = ("is_seg", "order", "order_z", "force_separate_z")


def export_onnx(
    model: ModelFolder, which: str, output: Path, *, fold: str | None = None, overwrite: bool = False, any_patch: bool = False
) -> Path:
    """Writes the member ``which`` of one fold, the first that is finished if None, as the file ``output``, and returns it.

    any_patch: the file takes inputs of any size that the family's strides divide; else of the plan's alone, which is faster.

    Raises ProXError for an unknown or illegal member, a fold that is not there, a plan that the runtime cannot repeat, an
    existing file without ``overwrite``, and where nothing can be written; then no part of the file is left.
    """
    check_vacant(output, overwrite=overwrite)
    fold = model.finished(fold)
    name, subnet = model.member(which)
    checkpoint = model.checkpoint(fold)
    supernet = model.supernet_with(subnet, checkpoint)
    description = describe(
        member_plans(model, supernet, name, subnet),
        model.configuration_name,
        model.dataset,
        member=name,
        subnet=subnet.to_json(),
        source=f"{checkpoint['trainer_name']}, {model.configuration_name}, {fold}, {checkpoint['current_epoch']} epochs",
    )
    divisors = supernet.family.divisor if any_patch else None  # type: ignore[attr-defined]
    write_onnx(supernet.extract(subnet), description, output, divisors=divisors)
    return output


def export_onnx_int8(
    model: ModelFolder, which: str, output: Path, dataset: Path, *, fold: str | None = None, overwrite: bool = False
) -> Loss:
    """``export_onnx`` in 8-bit integers, calibrated and compared on the cases of ``dataset`` that the fold's training held out.

    Raises ProXError as that does, where there are too few such cases, and where integers lose too much Dice.
    """
    check_vacant(output, overwrite=overwrite)
    fold = model.finished(fold)
    cases = find_labelled(dataset, model.dataset["file_ending"], model.held_out(fold))
    with tempfile.TemporaryDirectory() as folder:
        return quantise(export_onnx(model, which, Path(folder, "float32.onnx"), fold=fold), output, cases)


def describe(
    plans: Mapping[str, Any],
    configuration_name: str,
    dataset: Mapping[str, Any],
    *,
    member: str,
    subnet: Mapping[str, Any],
    source: str,
) -> Description:
    """What prediction needs of nnU-Net's plans and dataset.json. Raises ProXError for what the runtime cannot repeat."""
    configuration = plans["configurations"][configuration_name]
    for key, allowed in REPEATED.items():
        value = configuration.get(key, plans.get(key))
        if value not in allowed:
            raise ProXError(f"the plan's {key} is {value}; the runtime repeats {', '.join(allowed)}")
    labels = PlansManager(dict(plans)).get_label_manager(dict(dataset))
    channels = dataset.get("channel_names") or dataset["modality"]  # as older datasets call them
    return Description(
        member=member,
        subnet=subnet,
        task=plans["dataset_name"],
        source=source,
        channels=tuple(channels[key] for key in sorted(channels, key=int)),
        labels=dataset["labels"],
        regions=tuple(dataset["regions_class_order"]) if labels.has_regions else None,
        outputs=labels.num_segmentation_heads,
        patch=tuple(configuration["patch_size"]),
        spacing=tuple(configuration["spacing"]),
        transpose=tuple(plans["transpose_forward"]),
        normalisation=_normalisation(plans, configuration),
        images=_resampling(configuration, "data", range(6)),
        logits=_resampling(configuration, "probabilities", range(2)),
        reader=plans["image_reader_writer"],
        file_ending=dataset["file_ending"],
    )


def write_onnx(network: nn.Module, description: Description, output: Path, *, divisors: Sequence[int] | None = None) -> None:
    """network: (B, C, *patch) -> (B, outputs, *patch), any B; and, with ``divisors``, any multiples of these for the patch."""
    example = torch.zeros(2, len(description.channels), *description.patch)  # a batch of 1 would be taken for a constant
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    for axis, divisor in enumerate(divisors or ()):
        axes[2 + axis] = divisor * torch.export.Dim(f"patch_{axis}")
    network = network.cpu().eval()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as temporary:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter's own code
                program = torch.onnx.export(
                    network,
                    (example,),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=["image"],
                    output_names=["logits"],
                    dynamic_shapes=(axes,),
                    verbose=False,
                )
            assert program is not None
            written = program.model_proto
            onnx.helper.set_model_props(written, {KEY: json.dumps(description.to_json())})
            onnx.save(written, temporary)
    except OSError as error:
        raise ProXError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error


def _normalisation(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> tuple[Normalisation, ...]:
    rules = []
    kinds = zip(configuration["normalization_schemes"], configuration["use_mask_for_norm"], strict=True)
    for index, (scheme, masked) in enumerate(kinds):
        if scheme not in SCHEMES:
            raise ProXError(f"the plan's normalisation {scheme!r} is not nnU-Net's own; known: {', '.join(SCHEMES)}")
        ct = {}
        if scheme == "CTNormalization":
            found = plans["foreground_intensity_properties_per_channel"][str(index)]
            ct = {
                "lower": found["percentile_00_5"],
                "upper": found["percentile_99_5"],
                "mean": found["mean"],
                "std": found["std"],
            }
        rules.append(Normalisation(scheme=scheme, masked=bool(masked), **ct))
    return tuple(rules)


def _resampling(configuration: Mapping[str, Any], of: str, orders: Sequence[int]) -> Resampling:
    given = configuration[f"resampling_fn_{of}_kwargs"]
    if set(given) != set(RESAMPLING) or given["is_seg"] or given["order"] not in orders:
        allowed = f"{', '.join(RESAMPLING)}, is_seg being false and order {orders[0]} to {orders[-1]}"
        raise ProXError(f"the plan's resampling_fn_{of}_kwargs are {given}; the runtime repeats {allowed}")
    return Resampling(order=given["order"], order_z=given["order_z"], separate_z=given["force_separate_z"])
