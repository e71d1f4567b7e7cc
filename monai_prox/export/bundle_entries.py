"""Entries of an exported bundle's configuration: MONAI's transforms, and those of ours that the bundle ships as scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCRIPTS, OWN_TRANSFORMS = "scripts", "transforms"  # as the model zoo's bundles have it; MONAI Label looks there
SMALL, LARGE = "$torch.uint8", "$torch.int32"  # of label images in memory
SCRIPTS_PATH = "scripts_path"  # in a configuration: what makes Python find them


def orienting(orientation: str | None) -> list[Mapping[str, Any]]:
    """Transforms that turn ``image`` to these axis codes, which Invertd undoes; none where it stays as stored."""
    if orientation is None:
        return []
    return [{"_target_": "Orientationd", "keys": "image", "axcodes": orientation, "labels": None}]


def resampling(spacing: Sequence[float], *, mode: int | str, padding_mode: str) -> Mapping[str, Any]:
    """The transform that brings ``image`` to ``spacing``, its outer faces kept in place, as nnU-Net and the families resize."""
    return resampling_by(own("ResampleToSpacing", spacing=list(spacing), mode=mode, padding_mode=padding_mode))


def resampling_by(resampler: Mapping[str, Any]) -> Mapping[str, Any]:
    """The transform that resamples ``image`` by one of MONAI's transforms of arrays, or of ours."""
    return own("Resampled", keys="image", resampler=resampler)


def loading(reader: str, **arguments: Any) -> Mapping[str, Any]:
    """The transform that loads ``image`` by one of our readers."""
    return {"_target_": "LoadImaged", "keys": "image", "reader": own(reader, **arguments)}


def preprocessing(
    load: Mapping[str, Any], channels: Sequence[str], orientation: str | None, *steps: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ...]:
    """From the file ``image`` to the network: ``steps``, of an image with these channels that is turned to these axis codes."""
    return (
        load,
        checking(),
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Lambdad", "keys": "image", "func": own("CheckChannels", names=list(channels))},
        *orienting(orientation),
        *steps,
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    )


def normalising(*, nonzero: bool) -> Mapping[str, Any]:
    """The transform that takes mean and standard deviation out of each channel of ``image``. nonzero: of what is not 0."""
    return {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": nonzero, "channel_wise": True}


def scaling(lower: float, upper: float, start: float, end: float) -> Mapping[str, Any]:
    """The transform that clips ``image`` to ``lower`` and ``upper``, which become ``start`` and ``end``."""
    bounds = {"a_min": lower, "a_max": upper, "b_min": start, "b_max": end}
    return {"_target_": "ScaleIntensityRanged", "keys": "image", **bounds, "clip": True}


def checking() -> Mapping[str, Any]:
    """The transform that makes ``image`` one that a network can take, with warnings."""
    return {"_target_": "Lambdad", "keys": "image", "func": own("usable", _mode_="callable")}


def cropping() -> Mapping[str, Any]:
    """The transform that crops ``image`` to what is not 0."""
    crop = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "allow_smaller": True}
    return crop | {"select_fn": own("nonzero", _mode_="callable")}


def regions_to_labels(values: Sequence[int]) -> Mapping[str, Any]:
    """The transform that makes labels of the logits ``pred`` of regions, ``values`` by region; later ones on top."""
    return own("RegionsToLabelsd", keys="pred", values=list(values))


def with_label(images: Sequence[Mapping[str, Any]], values: Sequence[int]) -> list[Mapping[str, Any]]:
    """Transforms ``images`` of ``image``, for cases that have a ``label``, too, which stays as it is stored.

    values: that the label may have; with another one, or stored otherwise than its image, it is refused.
    """
    load, *others = images
    label = {**loading("SformReader"), "keys": "label"}
    check = own("CheckLabeld", keys="label", values=list(values))
    steps = [with_key(step, "label") if step["_target_"] == "EnsureChannelFirstd" else step for step in others]
    position = 1 + next(index for index, step in enumerate(steps) if step["_target_"] == "EnsureChannelFirstd")
    return [load, label, *steps[:position], check, *steps[position:]]


def with_moved_label(images: Sequence[Mapping[str, Any]], values: Sequence[int]) -> list[Mapping[str, Any]]:
    """``with_label``, with the label moved as its image is, voxels to the nearest."""
    steps: list[Mapping[str, Any]] = []
    for step in with_label(images, values):
        if step["_target_"] in ("Orientationd", "CropForegroundd"):
            step = with_key(step, "label")
        steps.append(step)
        if "resampler" in step:
            nearest = {**step["resampler"], "mode": "nearest", "padding_mode": "border"}
            steps.append({**step, "keys": "label", "resampler": nearest})
    *others, typing = steps
    return [*others, {**with_key(typing, "label"), "dtype": [typing["dtype"], SMALL if max(values) <= 255 else LARGE]}]


def with_key(step: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The transform ``step`` of the item ``key``, too."""
    return {**step, "keys": [step["keys"], key]}


def inverting(preprocessing: str) -> Mapping[str, Any]:
    """The transform that brings logits ``pred`` back to where ``image`` came from by ``preprocessing``."""
    return {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": preprocessing,
        "orig_keys": "image",
        "nearest_interp": False,
    }


def own(name: str, **arguments: Any) -> dict[str, Any]:
    """One of bundle_transforms, which is in the bundle's folder of scripts."""
    return {"_target_": f"{SCRIPTS}.{OWN_TRANSFORMS}.{name}", "_requires_": f"@{SCRIPTS_PATH}", **arguments}


def output_name(images: str) -> Mapping[str, Any]:
    """The function for the name of a mask: that of its image, of nnU-Net's ``images`` without the first channel's number."""
    return own("MaskName", channel="_0000" if images.startswith("*_0000") else "")
