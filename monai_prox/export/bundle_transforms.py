"""What exported bundles need around the network that MONAI does not have. They ship this file."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelReader
from monai.inferers import SlidingWindowInferer
from monai.transforms import InvertibleTransform, MapTransform, SpatialResample
from monai.transforms.utils import scale_affine
from monai.utils import convert_to_dst_type, ensure_tuple
from nibabel.affines import from_matvec, voxel_sizes
from nibabel.orientations import aff2axcodes, io_orientation, ornt_transform
from torch import Tensor, nn


class MaskName:
    """The name of the mask of an image, for SaveImage: the image's, without ``channel``, the channel's number.

    It ends in .nii.gz, because MONAI takes off whatever follows the last dot of a name.

    Args:
        channel: what ends the names of images.

    Raises:
        ValueError: another image has had this name, so that one mask would replace the other.
    """

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._named: dict[str, Path] = {}

    def __call__(self, meta: Mapping[str, Any], _: Any = None) -> dict[str, Any]:
        image = Path(meta["filename_or_obj"])
        stem = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix(self.channel)
        if (first := self._named.setdefault(stem, image)) != image:
            raise ValueError(f"{first} and {image} would both have the mask {stem}.nii.gz; give them other names")
        return {"subject": f"{stem}.nii.gz", "idx": None}


class SformReader(NibabelReader):  # type: ignore[misc]
    """Reads NIfTI files and places images as their sform says, with the voxel sizes of pixdim if the two differ.

    MONAI places such an image as its qform says, even if the qform is not set.
    """

    def read(self, data: Any, **arguments: Any) -> Any:
        """Reads files.

        Args:
            data: one file or several.
            arguments: further arguments of MONAI's reader.

        Returns:
            One image or a list of images.
        """
        images = super().read(data, **arguments)
        if isinstance(images, list):
            return [_by_sform(image, file) for image, file in zip(images, data, strict=True)]
        return _by_sform(images, *ensure_tuple(data))


def _by_sform(image: Any, file: Any) -> Any:
    """``image``, which MONAI has read, where the sform of its file says, if no qform is set."""
    stored = nib.load(file)
    if not hasattr(stored, "get_sform") or stored.header["qform_code"] != 0 or not np.isfinite(stored.affine).all():
        return image
    lengths = voxel_sizes(stored.affine)
    affine = from_matvec(
        stored.affine[:3, :3] * (voxel_sizes(image.affine) / np.where(lengths, lengths, 1)), stored.affine[:3, 3]
    )
    return image if np.allclose(image.affine, affine) else type(image)(image.dataobj, affine, image.header)


class ChannelsReader(SformReader):
    """NIfTI files of an image's channels. nnU-Net takes them for one image wherever they lie, MONAI does not.

    turned: whether they are turned to the first one's axes, as some of nnU-Net's readers turn them, or are left as stored.
    """

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned

    def read(self, data: Any, **arguments: Any) -> Any:
        images = super().read(data, **arguments)
        if isinstance(images, list):
            images[1:] = [self._placed(image, images[0], file) for image, file in zip(images[1:], data[1:], strict=True)]
        return images

    def _placed(self, image: Any, first: Any, file: Any) -> Any:
        """``image`` where ``first`` is, with a warning, if it has as many voxels of the same size."""
        if self.turned:
            image = image.as_reoriented(ornt_transform(io_orientation(image.affine), io_orientation(first.affine)))
        same = image.shape == first.shape and np.allclose(voxel_sizes(image.affine), voxel_sizes(first.affine), atol=1e-3)
        if not same or np.allclose(image.affine, first.affine):
            return image  # MONAI refuses what cannot be one image
        warnings.warn(f"{file} lies elsewhere than the first channel, and is taken to be in its place", stacklevel=2)
        return type(image)(image.dataobj, first.affine, image.header)


def name_of(image: Any) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "an image"))


def warn_if_empty(image: Any) -> None:
    if not torch.as_tensor(image).any():
        warnings.warn(f"{name_of(image)} is 0 everywhere; nothing can be seen in it", stacklevel=3)


def usable(image: Tensor) -> Tensor:
    """``image`` with 0 for voxels that are no finite numbers, as ITK reads them for nnU-Net.

    One alone would leave nothing of an image that is normalised. Warns, with the file's name, of these and where nothing can be
    seen.
    """
    wrong = int((~torch.isfinite(image)).sum())
    if wrong:
        warnings.warn(f"{name_of(image)} has {wrong} voxels that are no finite numbers; they count as 0", stacklevel=2)
    image = torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    warn_if_empty(image)
    return image


class CheckChannels:
    """An image (C, *spatial), unchanged. Raises ValueError, with the file's name, unless it has a channel for each name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __call__(self, image: Tensor) -> Tensor:
        if len(image) != len(self.names):
            takes = f"{len(self.names)}: {', '.join(self.names)}"
            raise ValueError(f"{name_of(image)} has {len(image)} channels, the network takes {takes}")
        return image


def nonzero(image: Tensor) -> Tensor:
    """The voxels of an image that are not 0, to crop the image to them. All voxels if all are 0.

    Args:
        image: (C, x, y, z).

    Returns:
        A mask of the same shape.

    >>> nonzero(torch.tensor([0.0, 2.0]))
    tensor([False,  True])
    """
    seen: Tensor = image != 0
    return seen if seen.any() else torch.ones_like(seen)


def label_fault(label: Tensor, image: Tensor, declared: Collection[int]) -> str | None:
    """Why a label image cannot be one of an image, with its file's name; None if it can.

    Args:
        label: (1, x, y, z), as it is stored.
        image: (C, x, y, z), as it is stored.
        declared: values that the label may have.
    """
    if label.shape[0] != 1:
        return f"{name_of(label)} has {label.shape[0]} channels; a label has one"
    if label.shape[1:] != image.shape[1:]:
        return f"{name_of(label)} has the shape {tuple(label.shape[1:])}, its image {tuple(image.shape[1:])}"
    own, wanted = (aff2axcodes(one.affine.numpy()) if isinstance(one, MetaTensor) else None for one in (label, image))
    if own != wanted and None not in (own, wanted):  # turned each by its own header they would come apart
        codes = ["".join(str(code) for code in axes) for axes in (own or (), wanted or ())]
        return f"{name_of(label)} is stored as {codes[0]}, its image as {codes[1]}; mend the header that is wrong"
    wrong = [value for value in torch.unique(torch.as_tensor(label)).tolist() if value not in declared]
    if wrong:
        gaps = max(declared) >= len(declared)
        known = ", ".join(map(str, sorted(declared))) if gaps else f"0 to {max(declared)}"
        listed = ", ".join(f"{value:g}" for value in wrong[:5])
        return f"{name_of(label)} has the labels {listed}, which are not declared; declared are {known}"
    return None


class CheckLabeld(MapTransform):  # type: ignore[misc]
    """Checks the label of ``image`` and returns the case unchanged. values: that it may have.

    Raises ValueError, with the file's name, as ``label_fault`` says.
    """

    def __init__(self, keys: KeysCollection, values: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = values

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        for key in self.key_iterator(data):
            if fault := label_fault(data[key], data["image"], self.values):
                raise ValueError(fault)
        return data


class LabelsToRegionsd(MapTransform):  # type: ignore[misc]
    """From label values (1, *spatial) to one binary channel per region (R, *spatial). regions: values of each."""

    def __init__(self, keys: KeysCollection, regions: Sequence[Sequence[int]]) -> None:
        super().__init__(keys)
        self.regions = regions

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        changed = dict(data)
        for key in self.key_iterator(changed):
            changed[key] = region_masks(changed[key], self.regions, axis=0).to(torch.float32)
        return changed


def region_masks(label: Tensor, regions: Sequence[Sequence[int]], *, axis: int) -> Tensor:
    """Values of labels, with one channel -> masks of regions, of bool. axis: of the channel."""
    values = [torch.tensor(list(of), device=label.device, dtype=label.dtype) for of in regions]
    return torch.cat([torch.isin(label, of) for of in values], axis)


class ResampleToSpacing(SpatialResample):  # type: ignore[misc]
    """An image (C, x, y, z) to ``spacing``, in mm, with its outer faces kept in place, as nnU-Net resamples.

    MONAI's Spacing keeps the centre of the first voxel in place. mode, padding_mode: as of MONAI's SpatialResample. The inverse
    is for logits, and linear.
    """

    def __init__(self, spacing: Sequence[float], mode: int | str, padding_mode: str) -> None:
        super().__init__(mode=mode, padding_mode=padding_mode)
        self.spacing = spacing

    def __call__(self, image: Any) -> Any:
        shape, pixdim = image.shape[1:], image.pixdim.tolist()
        size = [max(1, round(mm / to * voxels)) for voxels, mm, to in zip(shape, pixdim, self.spacing, strict=True)]
        affine = image.affine @ torch.as_tensor(scale_affine(shape, size))
        return super().__call__(image, dst_affine=affine, spatial_size=size)

    def inverse(self, data: Any) -> Any:
        data.applied_operations[-1]["extra_info"] |= {"mode": "bilinear", "padding_mode": "border"}
        return super().inverse(data)


class Resampled(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Transform that resamples items of a dictionary by a transform of images.

    MONAI's Spacingd takes every other item that begins with ``image_`` for meta data, such as MONAI Label's ``image_path``.

    Args:
        keys: keys of the images.
        resampler: the transform of images (C, x, y, z), which has an inverse.
        allow_missing_keys: whether an item may be missing.
    """

    def __init__(self, keys: KeysCollection, resampler: Any, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resampler = resampler

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self.resampler(data[key]) for key in self.key_iterator(data)}}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Brings items back to where they were before.

        Args:
            data: the items.

        Returns:
            All items.
        """
        return {**data, **{key: self.resampler.inverse(data[key]) for key in self.key_iterator(data)}}


class RegionsToLabelsd(MapTransform):  # type: ignore[misc]
    """From logits of regions (R, x, y, z) to labels (1, x, y, z): ``values``, by region, a later one covers an earlier one."""

    def __init__(self, keys: KeysCollection, values: Sequence[int]) -> None:
        super().__init__(keys)
        self.values = values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        changed = dict(data)
        for key in self.key_iterator(changed):
            labels = torch.zeros_like(torch.as_tensor(changed[key])[:1])
            for region, value in zip(torch.as_tensor(changed[key]), self.values, strict=True):
                labels[0][region > 0] = value
            changed[key] = convert_to_dst_type(labels, changed[key])[0]
        return changed


class NNUNetInferer(SlidingWindowInferer):  # type: ignore[misc]
    """Weighs a tile's voxels as nnU-Net: by a Gaussian whose centre is half a voxel off MONAI's where sizes are even."""

    def __init__(self, roi_size: Sequence[int], **arguments: Any) -> None:
        super().__init__(roi_size, **arguments)
        axes = [torch.exp(-0.5 * ((torch.arange(size) - size // 2) / (size / 8)) ** 2) for size in roi_size]
        self.roi_weight_map = torch.stack(torch.meshgrid(*axes, indexing="ij")).prod(0)[None, None]


class BestWeightsSaver:
    """Handler of an evaluator that writes the weights of ``network`` to ``path`` when the key metric is better than before.

    MONAI's CheckpointSaver removes the file before it writes another one. A process that is killed in between, or a full disk,
    leaves none or a part of one. Here the file is replaced when the new one is complete.
    """

    def __init__(self, path: str, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self._best = -inf

    def attach(self, engine: Any) -> None:
        """Adds the handler to an evaluator.

        Args:
            engine: the evaluator.
        """
        from ignite.engine import Events  # not above: what only predicts has no need of ignite

        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        score = engine.state.metrics[engine.state.key_metric_name]
        if not score > self._best:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")  # MONAI Label lists what ends in .pt
        try:
            torch.save(self.network.state_dict(), unfinished)
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._best = score
