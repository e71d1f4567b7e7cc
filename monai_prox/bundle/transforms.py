"""Transforms that MONAI does not have."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, MapTransform

from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct import read_scan
from monai_prox.errors import ProXError
from monai_prox.export import bundle_transforms
from monai_prox.export.bundle_transforms import RegionsToLabelsd, label_fault, name_of, warn_if_empty
from monai_prox.export.bundle_transforms import Resampled as Resampled


class CheckCased(MapTransform):  # type: ignore[misc]
    """Transform that checks a case and returns it unchanged.

    An image that is 0 everywhere is refused if it has a label. Without a label there is a warning.

    Args:
        plan: the plan, which has the numbers of channels and labels. None means that the next two arguments have them.
        channels: number of channels of the image (C, x, y, z).
        labels: number of labels, the background included, in the label image (1, x, y, z).
        image_key: key of the image.
        label_key: key of the label image.

    Raises:
        ProXError: an image or label cannot be trained on. The message names the file.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        channels: int = 1,
        labels: int = 2,
        image_key: str = "image",
        label_key: str = "label",
    ) -> None:
        super().__init__([image_key, label_key], allow_missing_keys=True)
        self.channels, self.labels = (channels, labels) if plan is None else (len(plan.channels), len(plan.labels))
        self.image_key, self.label_key = image_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        image = data[self.image_key]
        if image.shape[0] != self.channels:
            raise ProXError(f"{name_of(image)} has {image.shape[0]} channels, the network takes {self.channels}")
        wrong = int((~torch.isfinite(torch.as_tensor(image))).sum())
        if wrong:
            raise ProXError(f"{name_of(image)} has {wrong} voxels that are not finite numbers (NaN or infinite)")
        if isinstance(data.get(self.label_key), (str, Path, type(None))):  # none, or none that was loaded
            warn_if_empty(image)
        elif not torch.as_tensor(image).any():  # training would crop it to nothing
            raise ProXError(f"{name_of(image)} is 0 everywhere")
        else:
            fault = label_fault(data[self.label_key], image, range(self.labels))
            if fault is not None:
                raise ProXError(fault)
        return data


class LoadScand(MapTransform):  # type: ignore[misc]
    """Transform that reads retinal scans, files or arrays (H, W), as images (1, H, W) from 0 to 1.

    It raises ProXError as ``read_scan`` does.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        changed = dict(data)
        for key in self.key_iterator(changed):
            scan = changed[key]
            meta = {"filename_or_obj": str(scan)} if isinstance(scan, str | Path) else {}
            changed[key] = MetaTensor(torch.from_numpy(read_scan(Path(scan) if meta else scan)), meta=meta)
        return changed


class LabelsToRegionsd(bundle_transforms.LabelsToRegionsd):
    """Transform from label values (1, *spatial) to one binary channel per region (R, *spatial).

    Metrics of overlapping regions need it.

    Args:
        keys: keys of the label images.
        regions: values of labels by the name of the region, in the order of the channels.

    >>> transform = LabelsToRegionsd("label", {"organ": [1, 2], "tumour": [2]})
    >>> transform({"label": torch.tensor([[0, 1, 2]])})["label"]
    tensor([[0., 1., 1.],
            [0., 0., 1.]])
    """

    def __init__(self, keys: KeysCollection, regions: Mapping[str, Iterable[int]]) -> None:
        super().__init__(keys, [list(values) for values in regions.values()])


def outputs_to_labels(keys: KeysCollection, plan: Plan) -> MapTransform:
    """The transform from a network's logits (outputs, *spatial) to labels (1, *spatial).

    Args:
        keys: keys of the logits.
        plan: the plan, which knows whether the outputs are labels, or regions and as which labels they are written.
    """
    return AsDiscreted(keys, argmax=True) if plan.written is None else RegionsToLabelsd(keys, plan.written)
