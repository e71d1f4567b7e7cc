"""A member of an nnU-Net family as a MONAI bundle: what nnU-Net does around the network, MONAI's transforms repeat."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.architectures import KINDS
from helpers.bundle_hosts import deployed, labelled, predict, scripts_from
from helpers.commands import fresh
from helpers.in_process import output_of, prox
from helpers.nnunet_task import (
    BARE_DATASET,
    FULLRES,
    SHALLOW,
    TWO_MEMBERS,
    bare_model,
    bare_plans,
    environment,
    stock_predictor,
)
from helpers.orientations import assert_same, stored, write_stored
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImage
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.errors import ProXError
from monai_prox.export.bundle import write_bundle
from monai_prox.export.bundle_entries import output_name
from monai_prox.export.bundle_transforms import ChannelsReader, MaskName, NNUNetInferer, SformReader
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.prediction import Prediction
from monai_prox.families.architecture import build_network
from monai_prox.files import write_json
from monai_prox.trained.family_file import FAMILY, FamilyFile
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

FEW = {"space": TWO_MEMBERS}
PATCH = (16, 24, 32)  # of nnU-Net's axes, z first; all different, so that none can be taken for another
CT = {"percentile_00_5": -50.0, "percentile_99_5": 90.0, "mean": 20.0, "std": 30.0}
REGIONS: dict[str, Any] = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    "regions_class_order": [1, 2, 3],
}


def plans_for(
    *,
    channels: int = 1,
    ct: bool = False,
    masked: bool = False,
    transpose: tuple[int, ...] = (0, 1, 2),
    reader: str = "SimpleITKIO",
    order: int = 3,
    **changes: Any,
) -> dict[str, Any]:
    plans = bare_plans(patch=PATCH, prox=FEW, **SHALLOW, **changes) | {"image_reader_writer": reader}
    (configuration,) = plans["configurations"].values()
    configuration["normalization_schemes"] = ["CTNormalization" if ct else "ZScoreNormalization"] * channels
    configuration["use_mask_for_norm"] = [masked] * channels
    configuration["resampling_fn_data_kwargs"] = configuration["resampling_fn_data_kwargs"] | {"order": order}
    plans["foreground_intensity_properties_per_channel"] = {str(channel): CT for channel in range(channels)}
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [transpose.index(axis) for axis in range(3)]
    return plans


def dataset_for(channels: int = 1, ct: bool = False, **changes: Any) -> dict[str, Any]:
    names = {str(channel): "CT" if ct else f"MR {channel}" for channel in range(channels)}
    return {**BARE_DATASET, "channel_names": names, **changes}


def write_case(folder: Path, channels: int = 1, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), margin: int = 3) -> list[str]:
    """Files of a smooth image, 0 around it, with voxel sizes and an orientation of its own."""
    generator = np.random.default_rng(0)
    shape, files = (27, 22, 18), []
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = 10, -20, 30
    for channel in range(channels):
        coarse = torch.tensor(generator.normal(20, 40, (1, 1, 6, 5, 4)))
        image = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0].numpy()
        image[:margin], image[:, -margin:] = 0, 0
        path = folder / f"case_{channel:04d}.nii.gz"
        folder.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)
        files.append(str(path))
    return files


def parsed(bundle: Path, images: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(images)})
    return parser


def file_axes(array: torch.Tensor, transpose: tuple[int, ...]) -> torch.Tensor:
    """From nnU-Net's axes, (C, z, y, x) then ``transpose``, to those of the file."""
    back = [transpose.index(axis) for axis in range(3)]
    return array.permute(0, *(1 + axis for axis in back)).permute(0, 3, 2, 1)


# ---------------------------------------------------------------------- the network
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1)], ids=str)
def test_the_turned_network_computes_the_same(bare: Path, kind: str, transpose: tuple[int, ...]) -> None:
    model = bare_model(plans_for(kind=kind, transpose=transpose, anisotropic=True))
    supernet = model.supernet(model.checkpoint("fold_0"))
    for which in ("smallest", "largest"):
        prediction = prediction_of(TrainedNNUNet.of(model), which)
        own = supernet.extract(model.member(which)[1])
        own.decoder.deep_supervision = False
        height, width, depth = prediction.patch_size
        x = torch.rand(1, 1, height, width, depth)  # as in the file
        back = [2 - axis for axis in transpose]  # axis of the file that each axis of nnU-Net's arrays is
        theirs = x.permute(0, 1, *(2 + axis for axis in back))
        with torch.no_grad():
            expected = file_axes(own.eval()(theirs)[0], transpose)
            torch.testing.assert_close(prediction.network.eval()(x)[0], expected, atol=1e-4, rtol=0)


def test_what_is_said_of_the_weights_goes_with_the_bundle(bare: Path) -> None:
    """In family.json, by whoever shares them; a training says nothing."""
    model, said = bare_model(plans_for()), "CC-BY 4.0, Our Clinic"
    before = prediction_of(TrainedNNUNet.of(model), "largest")
    replace(FamilyFile.read(model.path / "fold_0" / FAMILY), license=said).write(model.path / "fold_0")
    after = prediction_of(TrainedNNUNet.of(model), "largest")
    assert after.metadata() == before.metadata() | {"weights_license": said}
    for text, without in ((after.readme(), before.readme()), (after.data_license(), before.data_license())):
        assert text == f"{without}\nSaid of the weights: {said}\n"


def test_the_definition_in_the_bundle_builds_the_stock_network(bare: Path, tmp_path: Path) -> None:
    prediction = prediction_of(TrainedNNUNet.of(bare_model(plans_for())), "largest")
    bundle = write_bundle(prediction, tmp_path / "bundle")
    network = parsed(bundle, tmp_path).get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True), strict=True)
    stock = build_network(prediction.architecture, input_channels=1, num_classes=3)
    assert set(network.state_dict()) < set(stock.state_dict())
    x = torch.rand(1, 1, *prediction.patch_size)
    with torch.no_grad():
        assert torch.equal(network(x), prediction.network(x))
        assert torch.equal(torch.jit.load(bundle / "models" / "model.ts").eval()(x), prediction.network(x))


# ---------------------------------------------------------------------- around the network
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "resampled": {"spacing": (1.3, 0.9, 0.8)},
    "resampled by lines": {"spacing": (1.3, 0.9, 0.8), "order": 1},
    "two channels": {"channels": 2, "spacing": (1.0, 1.25, 1.0)},
    "transposed": {"transpose": (1, 0, 2), "spacing": (1.1, 0.8, 1.3)},
    "CT": {"ct": True},
    "masked": {"masked": True},
    "reoriented": {"reader": "NibabelIOWithReorient", "spacing": (1.1, 0.8, 1.3)},
}


@pytest.mark.parametrize("case", CASES)
def test_images_reach_the_network_as_in_nnunet(bare: Path, tmp_path: Path, case: str) -> None:
    options = dict(CASES[case])
    spacing = options.pop("spacing", (1.0, 1.0, 1.0))
    plans = plans_for(**options)
    channels, ct = options.get("channels", 1), options.get("ct", False)
    dataset = dataset_for(channels, ct)
    files = write_case(tmp_path / "images", channels, spacing)
    manager = PlansManager(plans)
    data, _, _ = DefaultPreprocessor(verbose=False).run_case(files, None, manager, manager.get_configuration(FULLRES), dataset)
    bundle = write_bundle(prediction_of(TrainedNNUNet.of(bare_model(plans, dataset=dataset)), "largest"), tmp_path / "bundle")
    (ours,) = parsed(bundle, tmp_path / "images").get_parsed_content("dataset")
    expected = file_axes(torch.as_tensor(data), options.get("transpose", (0, 1, 2)))
    assert ours["image"].shape == expected.shape
    difference = (ours["image"].as_tensor() - expected).abs()
    # splines differ a little in a few voxels at the border
    assert (difference > 2e-4).double().mean() < 1e-3 and difference.max() < 0.1


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 0.9, 0.8)], ids=str)
def test_logits_become_labels_as_in_nnunet(bare: Path, tmp_path: Path, regions: bool, spacing: tuple[float, ...]) -> None:
    dataset = dataset_for(**(REGIONS if regions else {}))
    plans = plans_for()
    files = write_case(tmp_path / "images", 1, spacing)
    manager = PlansManager(plans)
    configuration, labels = manager.get_configuration(FULLRES), manager.get_label_manager(dataset)
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(files, None, manager, configuration, dataset)
    logits = torch.nn.functional.interpolate(
        torch.randn(1, labels.num_segmentation_heads, 5, 5, 5, generator=torch.Generator().manual_seed(0)),
        data.shape[1:],
        mode="trilinear",
    )[0]
    theirs = convert_predicted_logits_to_segmentation_with_correct_shape(logits, manager, configuration, labels, properties)

    bundle = write_bundle(prediction_of(TrainedNNUNet.of(bare_model(plans, dataset=dataset)), "largest"), tmp_path / "bundle")
    parser = parsed(bundle, tmp_path / "images")
    (item,) = parser.get_parsed_content("dataset")
    item["pred"] = MetaTensor(file_axes(logits, (0, 1, 2)).contiguous(), meta=item["image"].meta)
    *transforms, _ = parser.get_parsed_content("postprocessing").transforms  # the last one saves
    for transform in transforms:
        item = transform(item)
    ours = item["pred"]
    assert ours.shape == (1, *nib.load(files[0]).shape)
    agreement = (ours[0].numpy() == np.asarray(theirs).transpose(2, 1, 0)).mean()
    assert agreement >= 0.999
    assert len(np.unique(theirs)) == 4 - (not regions)


# ---------------------------------------------------------------------- how images are stored
def write_raw(bare: Path, *how: str) -> None:
    """The dataset's images in nnUNet_raw, one stored in each of the ways ``how``."""
    folder = bare / "nnUNet_raw" / "Dataset990_Phantom"
    (folder / "imagesTr").mkdir(parents=True)
    write_json(BARE_DATASET, folder / "dataset.json")
    image = nib.load(write_case(bare / "case")[0])
    for number, one in enumerate(how):
        nib.save(stored(image, one), folder / "imagesTr" / f"case_{number}_0000.nii.gz")


@pytest.mark.parametrize("trained_on", ["RAS", "LPS", "SRA", "reoriented"])
def test_masks_do_not_depend_on_how_an_image_is_stored(bare: Path, tmp_path: Path, trained_on: str) -> None:
    """They are those that nnU-Net predicts of the copy that is stored as the images that it trained on."""
    how, reader = ("RAS", "NibabelIOWithReorient") if trained_on == "reoriented" else (trained_on, "SimpleITKIO")
    write_raw(bare, how, how)
    model = bare_model(plans_for(reader=reader))
    assert model.family_of("fold_0").orientations == {how: 2}
    known = None if trained_on == "reoriented" else how
    assert TrainedNNUNet.of(model).describe("largest").stored_orientation == known  # for DICOM series, on a device
    prediction = prediction_of(TrainedNNUNet.of(model), "largest")
    assert prediction.orientation == how and f"turned to {how}" in prediction.readme()
    image = nib.load(write_case(tmp_path / "case", spacing=(1.1, 0.9, 1.2))[0])
    images = write_stored(image, tmp_path / "images", "_0000.nii.gz")
    predict(write_bundle(prediction, tmp_path / "bundle"), images, tmp_path / "masks")
    assert_same(tmp_path / "masks", images, of_image="_0000.nii.gz")
    ours = np.asarray(nib.load(tmp_path / "masks" / f"{how}.nii.gz").dataobj)
    assert np.mean(ours == by_nnunet(model, images / f"{how}_0000.nii.gz")) >= 0.99  # of noise: weights are random


def test_orientation_is_found_in_the_raw_dataset_where_the_training_did_not_note_it(bare: Path) -> None:
    """As version 0.1.0 did not; without it, or of mixed images, the bundle takes images as stored, and says so."""
    model = bare_model(plans_for())
    assert model.family_of("fold_0").orientations == {}
    with pytest.warns(
        UserWarning, match="are not in nnUNet_raw, so their orientation is not known: the bundle takes images as"
    ):
        prediction = prediction_of(TrainedNNUNet.of(model), "largest")
    assert prediction.orientation is None and "as they are stored" in prediction.readme()
    write_raw(bare, "LPS")
    assert prediction_of(TrainedNNUNet.of(model), "largest").orientation == "LPS"
    family = model.path / "fold_0" / "family.json"
    write_json(json.loads(family.read_text()) | {"orientations": {"LPS": 3, "RAS": 1}}, family)
    with pytest.warns(UserWarning, match="are stored in different orientations, LPS, RAS: the bundle takes images as stored"):
        assert prediction_of(TrainedNNUNet.of(model), "largest").orientation is None
    assert TrainedNNUNet.of(model).describe("largest").stored_orientation is None
    axis_codes = r"fold_0/family\.json: orientations (are axis codes such as RAS with numbers|must be of type)"
    for wrong in ({"$exit()": 1}, ["RAS"], {"RAR": 2}):
        write_json(json.loads(family.read_text()) | {"orientations": wrong}, family)
        with pytest.raises(ProXError, match=axis_codes):
            prediction_of(TrainedNNUNet.of(model), "largest")


@pytest.mark.slow
def test_a_bundle_runs_from_anywhere_and_is_replaced_after_it(bare: Path, tmp_path: Path) -> None:
    """Also from a folder that has scripts of its own."""
    prediction = prediction_of(TrainedNNUNet.of(bare_model(plans_for())), "largest")
    bundle = write_bundle(prediction, tmp_path / "bundle")
    write_case(tmp_path / "images", spacing=(1.2, 0.9, 1.1))
    (tmp_path / "elsewhere" / "scripts").mkdir(parents=True)
    (tmp_path / "elsewhere" / "scripts" / "__init__.py").touch()
    command = ["monai.bundle", "run", "--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle]
    options = ["--dataset_dir", tmp_path / "images", "--output_dir", tmp_path / "masks", "--dataloader#num_workers", 1]
    writing = environment()
    writing.pop("PYTHONDONTWRITEBYTECODE", None)
    done = fresh([*command, *options], writing, cwd=tmp_path / "elsewhere", launcher=["-m"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "masks" / "case.nii.gz").is_file()
    assert list(bundle.rglob("*.pyc"))
    write_bundle(prediction, bundle, overwrite=True)
    assert not list(bundle.rglob("*.pyc"))


# ---------------------------------------------------------------------- in other hands
HOSTED = {
    "labels": ({"spacing": (1.3, 0.9, 0.8)}, {}),
    "regions": ({"spacing": (1.3, 0.9, 0.8)}, REGIONS),
    "CT": ({"ct": True}, {}),
    "turned": ({"reader": "NibabelIOWithReorient", "transpose": (1, 0, 2)}, {}),
}


@pytest.mark.parametrize(("kind", "which"), zip(HOSTED, ["smallest", "largest"] * 2, strict=True))
def test_monai_deploy_and_label_predict_with_a_bundle(bare: Path, tmp_path: Path, kind: str, which: str) -> None:
    """What the bundle's own configuration predicts."""
    options, changes = dict(HOSTED[kind][0]), HOSTED[kind][1]
    spacing = options.pop("spacing", (1.0, 1.0, 1.0))
    dataset = dataset_for(ct=options.get("ct", False), **changes)
    bundle = write_bundle(
        prediction_of(TrainedNNUNet.of(bare_model(plans_for(**options), dataset=dataset)), which), tmp_path / "bundle"
    )
    (file,) = write_case(tmp_path / "images", spacing=spacing)
    parser = parsed(bundle, tmp_path / "images")
    (preprocessed,) = parser.get_parsed_content("dataset")
    pickle.dumps([parser.get_parsed_content(f"{when}processing").transforms for when in ("pre", "post")])  # no lambdas
    assert [key for key, value in preprocessed.items() if isinstance(value, torch.Tensor)] == ["image"]
    predict(bundle, tmp_path / "images", tmp_path / "masks")
    own = np.asarray(nib.load(tmp_path / "masks" / "case.nii.gz").dataobj)
    assert len(np.unique(own)) > 1
    with scripts_from(bundle):
        by_deploy = deployed(bundle, Path(file))
    for found in (by_deploy, labelled(bundle, Path(file))):
        assert found.shape == own.shape and np.mean(found == own) >= 0.9999


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_an_image_of_zeros_is_predicted_as_by_nnunet_with_a_warning(bare: Path, tmp_path: Path, masked: bool) -> None:
    model = bare_model(plans_for(masked=masked))
    (file,) = write_case(tmp_path / "images", margin=30)
    bundle = write_bundle(prediction_of(TrainedNNUNet.of(model), "largest"), tmp_path / "bundle")
    with pytest.warns(UserWarning, match=r"\.nii\.gz is 0 everywhere; nothing can be seen in it"):
        predict(bundle, tmp_path / "images", tmp_path / "masks")
    ours = np.asarray(nib.load(tmp_path / "masks" / "case.nii.gz").dataobj)
    assert np.mean(ours == by_nnunet(model, file)) >= 0.99


TURNED = np.array([[np.cos(0.02), -np.sin(0.02), 0, 1], [np.sin(0.02), np.cos(0.02), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_channels_that_lie_elsewhere_are_predicted_as_by_nnunet_with_a_warning(reader: str, bare: Path, tmp_path: Path) -> None:
    """Turned by 0.02 and off by a voxel; to readers that turn images the second is also stored in another way."""
    model = bare_model(plans_for(channels=2, reader=reader), dataset=dataset_for(2))
    files = write_case(tmp_path / "images", 2)
    second = nib.load(files[1])
    moved = nib.Nifti1Image(np.asarray(second.dataobj), TURNED @ second.affine)
    nib.save(moved if reader == "SimpleITKIO" else stored(moved, "SRA"), files[1])
    bundle = write_bundle(prediction_of(TrainedNNUNet.of(model), "largest"), tmp_path / "bundle")
    with pytest.warns(UserWarning, match=r"case_0001\.nii\.gz lies elsewhere than the first channel"):
        predict(bundle, tmp_path / "images", tmp_path / "masks")
    stock_predictor(model).predict_from_files_sequential([files], [str(tmp_path / "theirs")])
    ours, theirs = nib.load(tmp_path / "masks" / "case.nii.gz"), nib.load(tmp_path / "theirs.nii.gz")
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    assert np.mean(np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)) >= 0.99


@pytest.mark.parametrize("turned", [None, True, False], ids=["alone", "turned", "stored"])
@pytest.mark.parametrize("factor", [1.0, 1.00003, 0.5], ids=["same", "rounded", "half"])
def test_an_image_lies_where_its_sform_says(factor: float, turned: bool | None, tmp_path: Path) -> None:
    """Though its voxels have other sizes in pixdim, which are taken. MONAI takes the qform, which is not set."""
    image = stored(nib.load(write_case(tmp_path / "images")[0]), "SLP")
    header = image.header.copy()
    header.set_sform(image.affine @ np.diag([factor, factor, factor, 1]), code=1)
    for name in ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = 0
    header["pixdim"][0] = 1
    file = tmp_path / "case_0000.nii.gz"
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, header), file)
    assert np.allclose(LoadImage()(file).affine, image.affine, atol=0.1) == (factor == 1)
    reader = SformReader() if turned is None else ChannelsReader(turned=turned)
    for files in (file, [file]) if turned is None else ([file], [file, file]):
        read = LoadImage(reader, image_only=True, ensure_channel_first=True)(files)
        np.testing.assert_allclose(read.affine, image.affine, atol=1e-4)
        np.testing.assert_array_equal(read[0], np.asanyarray(image.dataobj))


def test_channels_of_other_voxels_are_refused_by_monai(bare: Path, tmp_path: Path) -> None:
    bundle = write_bundle(
        prediction_of(TrainedNNUNet.of(bare_model(plans_for(channels=2), dataset=dataset_for(2))), "largest"),
        tmp_path / "bundle",
    )
    files = write_case(tmp_path / "images", 2)
    second = nib.load(files[1])
    nib.save(nib.Nifti1Image(np.asarray(second.dataobj), np.diag([1, 1, 2, 1]) @ second.affine), files[1])
    with pytest.raises(RuntimeError) as failure:
        parsed(bundle, tmp_path / "images").get_parsed_content("dataset")[0]
    assert "affine matrix of all images should be the same" in str(failure.value.__cause__)


# ---------------------------------------------------------------------- names
def test_names_and_folders_are_taken_as_they_are(bare: Path, tmp_path: Path) -> None:
    """Dots, of which MONAI takes what follows for an ending, and what glob takes for patterns."""
    (written,) = write_case(tmp_path)
    images = tmp_path / "patients [1-2]*"
    images.mkdir()
    names = ["1.2.840.1001", "1.2.840.1002", "a[1]", "b*", "c.nii", "plain"]
    for name in names:
        shutil.copyfile(written, images / f"{name}_0000.nii.gz")
    predict(
        write_bundle(prediction_of(TrainedNNUNet.of(bare_model(plans_for())), "largest"), tmp_path / "bundle"),
        images,
        tmp_path / "masks",
    )
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [f"{name}.nii.gz" for name in names]


@pytest.mark.parametrize(("images", "names"), [("*_0000.nii", ["1.2", "a_0001"]), ("*.nii.gz", ["1.2_0000", "a_0001_0000"])])
def test_only_nnunets_names_have_the_number_of_a_channel(images: str, names: list[str]) -> None:
    """To MONAI's families case_0000 and case are two cases."""
    arguments = {key: value for key, value in output_name(images).items() if not key.startswith("_")}
    named = MaskName(**arguments)
    for image, name in zip(["1.2_0000", "a_0001_0000"], names, strict=True):
        for _ in range(2):
            assert named({"filename_or_obj": f"/a folder/{image}.nii.gz"}, None) == {"subject": f"{name}.nii.gz", "idx": None}
        with pytest.raises(ValueError, match=f"/a folder/{image}.nii.gz and /another/{image}.nii would both have the mask"):
            named({"filename_or_obj": f"/another/{image}.nii"}, None)


# ---------------------------------------------------------------------- what is written
@pytest.mark.parametrize("size", [(24, 40, 24), (28, 25, 16)])
def test_tiles_are_weighed_as_in_nnunet(size: tuple[int, ...]) -> None:
    (weights,) = NNUNetInferer(size, mode="gaussian").roi_weight_map[0]
    theirs = compute_gaussian(size, sigma_scale=1 / 8, dtype=torch.float64, device=torch.device("cpu"))
    torch.testing.assert_close((weights / weights.max()).double(), theirs / theirs.max(), atol=1e-6, rtol=1e-3)


def test_metadata_say_where_the_member_comes_from(bare: Path) -> None:
    dataset = dataset_for(licence="CC0")
    prediction = prediction_of(TrainedNNUNet.of(bare_model(plans_for(), dataset=dataset)), "smallest")
    metadata = prediction.metadata()
    assert metadata["prox_member"]["name"] == "smallest"
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == list(prediction.patch_size)
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "anterior",
        "2": "posterior",
    }
    assert metadata["eval_metrics"] == {}, "nothing was validated"
    assert "Not measured." in prediction.readme()
    assert "CC0" in prediction.data_license()
    # resolution 3/4 of the patch (16, 24, 32), rounded to multiples of 4, and the axes turned
    assert prediction.patch_size == (24, 20, 12)
    assert prediction.spacing == pytest.approx((32 / 24, 24 / 20, 16 / 12))


def test_folds_have_bundles_of_their_own(bare: Path) -> None:
    model = bare_model(plans_for(), folds=(0, 2))
    first, third = (prediction_of(TrainedNNUNet.of(model, fold), "largest") for fold in ("fold_0", "fold_2"))
    assert not torch.equal(next(first.network.parameters()), next(third.network.parameters()))
    assert torch.equal(
        next(first.network.parameters()), next(prediction_of(TrainedNNUNet.of(model), "largest").network.parameters())
    )
    with pytest.raises(ProXError, match="has no finished fold_1; finished are fold_0, fold_2"):
        prediction_of(TrainedNNUNet.of(model, "fold_1"), "largest")


@pytest.fixture
def prediction(bare: Path) -> Prediction:
    return prediction_of(TrainedNNUNet.of(bare_model(plans_for())), "largest")


def test_a_folder_is_replaced_only_if_asked_and_only_a_bundle_of_ours(prediction: Prediction, tmp_path: Path) -> None:
    output = write_bundle(prediction, tmp_path / "deep" / "bundle")
    with pytest.raises(ProXError, match="exists; give another --output or --overwrite"):
        write_bundle(prediction, output)
    write_bundle(prediction, output, overwrite=True)
    (output / "eval").mkdir()
    (output / "eval" / "case.nii.gz").touch()
    with pytest.raises(ProXError, match=r"is not replaced, for eval/case\.nii\.gz there were not exported"):
        write_bundle(prediction, output, overwrite=True)
    assert (output / "eval" / "case.nii.gz").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ProXError, match="is not an exported member, so it is not replaced"):
        write_bundle(prediction, tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_nothing_is_left_of_a_bundle_that_failed(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("monai_prox.export.bundle.ckpt_export", full)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ProXError, match="No space left on device; nothing was left behind"):
        write_bundle(prediction, tmp_path / "new" / "bundle")
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------- what cannot be
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization_schemes": ["ZScoreNormalization", "CTNormalization"]}, "normalises channels differently"),
        ({"normalization_schemes": ["MyNormalization"] * 2}, "the plan's normalisation 'MyNormalization' is not nnU-Net's own"),
        ({"normalization_schemes": ["CTNormalization"] * 2}, "has no counterpart among MONAI's transforms"),
    ],
    ids=["mixed", "unknown", "two of CT"],
)
def test_normalisation_that_cannot_be_repeated_is_refused(bare: Path, changes: dict[str, Any], message: str) -> None:
    model = bare_model(plans_for(channels=2), dataset=dataset_for(2))
    plans = json.loads((model.path / "plans.json").read_text())
    plans["configurations"][FULLRES] |= changes
    plans["foreground_intensity_properties_per_channel"]["1"] |= {"mean": 12.0}
    write_json(plans, model.path / "plans.json")
    with pytest.raises(ProXError, match=message):
        prediction_of(TrainedNNUNet.open(model.path), "largest")


@pytest.mark.parametrize(
    ("changes", "dataset", "message"),
    [
        ({"image_reader_writer": "Tiff3DIO"}, {}, "the plan's image_reader_writer is Tiff3DIO; bundles repeat SimpleITKIO, "),
        ({}, {"file_ending": ".nrrd"}, "the dataset's images are .nrrd files; bundles read .nii.gz and .nii"),
    ],
    ids=["reader", "ending"],
)
def test_files_that_are_read_in_another_way_are_refused(
    bare: Path, changes: dict[str, Any], dataset: dict[str, Any], message: str
) -> None:
    model = bare_model(plans_for(), dataset=dataset_for(**dataset))
    write_json(json.loads((model.path / "plans.json").read_text()) | changes, model.path / "plans.json")
    with pytest.raises(ProXError, match=re.escape(message)):
        prediction_of(TrainedNNUNet.open(model.path), "largest")


def test_a_folder_without_images_is_named(prediction: Prediction, tmp_path: Path) -> None:
    bundle = write_bundle(prediction, tmp_path / "bundle")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError) as failure:
        parsed(bundle, tmp_path / "empty").get_parsed_content("dataset")
    assert f"there is no image *_0000.nii.gz in {tmp_path / 'empty'}" in str(failure.value.__cause__)


def test_two_dimensional_models_are_refused(bare: Path) -> None:
    model = bare_model(bare_plans(patch=(24, 32), prox=FEW, **SHALLOW))
    with pytest.raises(ProXError, match="2d is two-dimensional; only 3D models become bundles, use --format nnunet"):
        prediction_of(TrainedNNUNet.of(model), "largest")


# ---------------------------------------------------------------------- the command
def test_the_command_writes_a_bundle_of_an_nnunet_family(bare: Path, tmp_path: Path) -> None:
    model = bare_model(plans_for())
    command = ["export", model.path, "--subnet", "smallest", "--format", "bundle"]
    said = output_of(*command, "--output", tmp_path / "out", "--fold", 0)
    assert said.splitlines()[0] == str(tmp_path / "out")
    assert (tmp_path / "out" / "models" / "model.ts").is_file()
    assert "give --output, the folder of the bundle" in prox(*command).error


# ---------------------------------------------------------------------- odd voxels
def by_nnunet(model: ModelFolder, file: Path | str) -> np.ndarray:
    """The mask that nnU-Net predicts with the exported member, (x, y, z)."""
    (theirs,) = stock_predictor(model).predict_from_files_sequential([[str(file)]], None)
    return np.asarray(theirs).T


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number_is_0_as_nnunet_reads_it(bare: Path, tmp_path: Path, wrong: float) -> None:
    model = bare_model(plans_for())
    (file,) = write_case(tmp_path / "images")
    image = nib.load(file)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[12, 9, 9] = wrong
    nib.save(nib.Nifti1Image(voxels, image.affine), file)
    bundle = write_bundle(prediction_of(TrainedNNUNet.of(model), "largest"), tmp_path / "bundle")
    with pytest.warns(UserWarning, match=r"case_0000\.nii\.gz has 1 voxels that are no finite numbers; they count as 0"):
        predict(bundle, tmp_path / "images", tmp_path / "masks")
    ours = np.asarray(nib.load(tmp_path / "masks" / "case.nii.gz").dataobj)
    assert len(np.unique(ours)) > 1
    assert np.mean(ours == by_nnunet(model, file)) >= 0.99  # of noise: weights are random


@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (300, np.uint16), (65535, np.uint16)])
def test_regions_of_high_values_are_written_as_they_are(bare: Path, tmp_path: Path, highest: int, dtype: Any) -> None:
    dataset = dataset_for(**REGIONS | {"regions_class_order": [1, 2, highest]})
    bundle = write_bundle(
        prediction_of(TrainedNNUNet.of(bare_model(plans_for(), dataset=dataset)), "largest"), tmp_path / "bundle"
    )
    write_case(tmp_path / "images")
    predict(bundle, tmp_path / "images", tmp_path / "masks")
    mask = np.asarray(nib.load(tmp_path / "masks" / "case.nii.gz").dataobj)
    assert mask.dtype == dtype and highest in mask
    assert set(np.unique(mask)) <= {0, 1, 2, highest}


def test_a_region_above_16_bits_is_refused(bare: Path) -> None:
    model = bare_model(plans_for(), dataset=dataset_for(**REGIONS | {"regions_class_order": [1, 2, 65536]}))
    with pytest.raises(ProXError, match=r"the regions are \(1, 2, 65536\); allowed are 3 values up to 65535"):
        prediction_of(TrainedNNUNet.of(model), "largest")
