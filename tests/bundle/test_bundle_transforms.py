"""The bundles' own transforms: cases that cannot be trained on are named, and regions are what they are made of."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, EnsureChannelFirstd, LoadImaged

from monai_prox.bundle.transforms import CheckCased, LabelsToRegionsd
from monai_prox.errors import ProXError
from monai_prox.export.bundle_transforms import nonzero

SHAPE = (5, 4, 3)


def named(data: torch.Tensor, name: str) -> MetaTensor:
    return MetaTensor(data, meta={"filename_or_obj": name})


def case(image: torch.Tensor | None = None, label: torch.Tensor | None = None) -> dict[str, Any]:
    image = torch.randn(2, *SHAPE) if image is None else image
    label = torch.arange(60).reshape(1, *SHAPE).remainder(3).float() if label is None else label
    return {"image": named(image, "imagesTr/a.nii.gz"), "label": named(label, "labelsTr/a.nii.gz")}


def refused(message: str, data: dict[str, Any], check: CheckCased | None = None) -> None:
    with pytest.raises(ProXError) as error:
        (check or CheckCased(channels=2, labels=3))(data)
    assert str(error.value) == message


# ---------------------------------------------------------------------- CheckCased
def test_an_image_and_its_label_are_stored_alike() -> None:
    """Else each would be turned by its own header, and they would come apart."""
    data = case()
    data["label"].affine = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    refused("labelsTr/a.nii.gz is stored as LPS, its image as RAS; mend the header that is wrong", data)
    data["image"].affine = torch.diag(torch.tensor([-2.0, -1.0, 1.5, 1.0]))
    assert CheckCased(channels=2, labels=3)(data) is data


def test_a_whole_case_passes_as_it_is() -> None:
    data = case()
    assert CheckCased(channels=2, labels=3)(data) is data


def test_a_case_without_a_label_passes_and_its_image_is_checked() -> None:
    data = {"image": case()["image"]}
    assert CheckCased(channels=2, labels=3)(data) is data
    data["image"][0, 0, 0, 0] = float("nan")
    refused("imagesTr/a.nii.gz has 1 voxels that are not finite numbers (NaN or infinite)", data)


def test_labels_need_not_all_occur_and_integers_are_labels_too() -> None:
    check = CheckCased(channels=2, labels=3)
    for label in (torch.zeros(1, *SHAPE), torch.full((1, *SHAPE), 2, dtype=torch.uint8)):
        check(case(label=label))
    check(case(image=torch.ones(2, *SHAPE, dtype=torch.int16)))


def test_arrays_are_checked_as_tensors_are() -> None:
    data: dict[str, Any] = {"image": np.ones((2, *SHAPE), np.float32), "label": np.zeros((1, *SHAPE), np.uint8)}
    assert CheckCased(channels=2, labels=3)(data) is data
    data["image"][1, 0, 0, :2] = np.nan, -np.inf
    refused("an image has 2 voxels that are not finite numbers (NaN or infinite)", data)


def test_an_empty_image_is_not_trained_on_and_predicted_with_a_warning() -> None:
    """Cropping would leave nothing of it in training; in prediction it is not cropped."""
    data = case(torch.zeros(2, *SHAPE))
    refused("imagesTr/a.nii.gz is 0 everywhere", data)
    del data["label"]
    with pytest.warns(UserWarning, match=r"^imagesTr/a\.nii\.gz is 0 everywhere; nothing can be seen in it$"):
        assert CheckCased(channels=2, labels=3)(data) is data
    crop = CropForegroundd("image", "image", select_fn=nonzero, allow_smaller=True)
    assert crop(data)["image"].shape == (2, *SHAPE)
    data["image"][:, 1:3] = 1
    assert crop(data)["image"].shape == (2, 2, *SHAPE[1:])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_voxels_that_are_not_finite_are_counted(value: float) -> None:
    image = torch.zeros(2, *SHAPE)
    image[1, 2, :, 0] = value
    refused("imagesTr/a.nii.gz has 4 voxels that are not finite numbers (NaN or infinite)", case(image))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_those_of_the_network(channels: int) -> None:
    message = f"imagesTr/a.nii.gz has {channels} channels, the network takes 2"
    refused(message, case(torch.zeros(channels, *SHAPE)))


def test_image_and_label_have_one_shape() -> None:
    message = "labelsTr/a.nii.gz has the shape (5, 4, 2), its image (5, 4, 3)"
    refused(message, case(label=torch.zeros(1, 5, 4, 2)))


def test_a_label_has_one_channel() -> None:
    """Several would be several labels for the same voxels."""
    with pytest.raises(ProXError, match=r"labelsTr/a\.nii\.gz"):
        CheckCased(channels=2, labels=3)(case(label=torch.zeros(2, *SHAPE)))


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        ((3,), "3"),
        ((-1, 0.5), "-1, 0.5"),
        ((255,), "255"),
        ((4, 5, 6, 7, 8, 9), "4, 5, 6, 7, 8"),
        ((float("nan"),), "nan"),
    ],
)
def test_labels_that_are_not_declared_are_listed(values: tuple[float, ...], listed: str) -> None:
    label = torch.zeros(1, *SHAPE)
    label.view(-1)[: len(values)] = torch.tensor(values)
    message = f"labelsTr/a.nii.gz has the labels {listed}, which are not declared; declared are 0 to 2"
    refused(message, case(label=label))


def test_keys_can_be_others() -> None:
    data = {"ct": case()["image"], "seg": case(label=torch.full((1, *SHAPE), 7))["label"], "image": None}
    check = CheckCased(channels=2, labels=3, image_key="ct", label_key="seg")
    message = "labelsTr/a.nii.gz has the labels 7, which are not declared; declared are 0 to 2"
    refused(message, data, check)


def test_a_loaded_case_is_named_by_its_path(tmp_path: Path) -> None:
    """Within a Compose, whose own errors name the transform and keep this one as their cause."""
    image = np.zeros(SHAPE, np.float32)
    image[0, 0, 0] = np.nan
    for part, volume in (("image", image), ("label", np.zeros(SHAPE, np.uint8))):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{part}.nii.gz")
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), CheckCased(channels=1, labels=2)])
    with pytest.raises(RuntimeError) as error:
        load({key: str(tmp_path / f"{key}.nii.gz") for key in keys})
    cause: BaseException | None = error.value
    while cause is not None and not isinstance(cause, ProXError):
        cause = cause.__cause__
    assert str(cause) == f"{tmp_path / 'image.nii.gz'} has 1 voxels that are not finite numbers (NaN or infinite)"


# ---------------------------------------------------------------------- LabelsToRegionsd
REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "active": (3,), "none": ()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_a_region_is_where_one_of_its_labels_is(dtype: torch.dtype) -> None:
    label = torch.tensor([0, 1, 2, 3, 4]).to(dtype).reshape(1, 5, 1, 1)
    data = {"label": label, "other": label}
    regions = LabelsToRegionsd("label", REGIONS)(data)
    expected = [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert regions["label"].dtype == torch.float32
    assert regions["label"].reshape(4, 5).tolist() == expected
    assert data["label"] is label and regions["other"] is label  # the case itself is not changed


def test_channels_are_in_the_order_of_the_regions() -> None:
    label = torch.tensor([1.0, 2.0]).reshape(1, 2)
    assert LabelsToRegionsd(["a", "b"], {"b": [2], "a": [1]})({"a": label, "b": label})["b"].tolist() == [[0, 1], [1, 0]]


def test_all_keys_are_changed_and_metadata_stays() -> None:
    data = {"pred": case()["label"], "label": case()["label"]}
    regions = LabelsToRegionsd(["pred", "label"], {"one": (1,), "two": (2,)})(data)
    for key in ("pred", "label"):
        assert regions[key].shape == (2, *SHAPE)
        assert torch.equal(regions[key].as_tensor()[0], (data[key].as_tensor()[0] == 1).float())
        assert regions[key].meta["filename_or_obj"] == "labelsTr/a.nii.gz"


def test_a_missing_key_is_an_error() -> None:
    with pytest.raises(KeyError, match="pred"):
        LabelsToRegionsd("pred", REGIONS)({"label": torch.zeros(1, 2)})
