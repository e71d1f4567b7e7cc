"""What MONAI does with a bundle, and as their sources say what MONAI Deploy and MONAI Label do: neither is installed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as run_bundle
from monai.data import MetaTensor, partition_dataset
from monai.transforms import Compose, LoadImaged, MapTransform, SaveImaged, apply_transform


def workflow_of(bundle: Path, names: Sequence[str] = ("inference",), kind: str = "infer", **overrides: Any) -> ConfigWorkflow:
    """MONAI's workflow, train or infer, of the configurations ``names`` together, ready to run."""
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f"{name}.json") for name in names],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        **overrides,
    )
    workflow.initialize()
    return workflow


def predict(bundle: Path, images: Path, output: Path, **options: Any) -> dict[str, np.ndarray]:
    """Labels by the names of the files that MONAI's workflow writes for ``images`` to ``output``."""
    workflow_of(bundle, dataset_dir=str(images), output_dir=str(output), **options).run()
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(output.glob("*.nii.gz"))}


@contextmanager
def scripts_from(folder: Path) -> Iterator[None]:
    """Within it, ``folder`` is where an application finds the package ``scripts``, which is loaded anew."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]

    forget()
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
        forget()


def deployed(bundle: Path, file: Path, *, folder: bool = False) -> np.ndarray:
    """Labels (x, y, z) of an image by MonaiBundleInferenceOperator, which knows models/model.ts alone, and no image's file.

    folder: whether it is given the bundle's folder, without model.ts, of which it takes the configurations and models/model.pt.
    """
    model = bundle / "models" / "model.ts"
    parser = ConfigParser()
    if folder:
        parser.read_meta(str(bundle / "configs" / "metadata.json"))
        parser.read_config([str(bundle / "configs" / "inference.json")])
    else:
        with ZipFile(model) as archive:
            parser.read_meta(json.loads(archive.read(f"{model.stem}/extra/metadata.json")))
            parser.read_config(json.loads(archive.read(f"{model.stem}/extra/inference.json")))
    parser.parse()
    device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
    preprocessing, postprocessing = (
        without_files(parser.get_parsed_content(name)) for name in ("preprocessing", "postprocessing")
    )
    if folder:
        network = parser.get_parsed_content("network")
        network.load_state_dict(torch.load(model.with_suffix(".pt"), map_location=device), strict=True)
    else:
        network = torch.jit.load(model, map_location=device)
    network.eval()
    image = nib.load(file)
    meta = {"affine": image.affine, "original_affine": image.affine.copy(), "spatial_shape": np.array(image.shape[:3])}
    meta |= {"original_channel_dim": "no_channel" if image.ndim == 3 else -1, "space": "RAS"}
    inputs = {"image": MetaTensor.ensure_torch_and_prune_meta(np.asarray(image.dataobj, np.float32), meta)}
    with torch.no_grad():
        inputs = preprocessing(inputs)
        seen = inputs.pop("image")
        others = {key: value[None].to(device) for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        (outputs,) = inferer(inputs=seen[None].to(device), network=network, **others)
        result = postprocessing({"pred": outputs} | inputs | {"image": seen})["pred"]
    return np.asarray(result.cpu()).squeeze(0).astype(np.uint8)


def without_files(compose: Compose) -> Compose:
    """``compose`` itself, without the transforms that load and save."""
    kept = [one for one in compose.transforms if not any(word in type(one).__name__ for word in ("LoadImage", "SaveImage"))]
    assert isinstance(kept[0], MapTransform)
    compose.transforms = tuple(kept)
    return compose


class LoadedAsRequested(MapTransform):  # type: ignore[misc]
    """Around LoadImaged, as MONAI Label puts it: an image that is already loaded stays as it is."""

    def __init__(self, keys: Any, load: LoadImaged) -> None:
        super().__init__(keys)
        self.load = load

    def __call__(self, data: Any) -> Any:
        return self.load(data) if isinstance(data["image"], str) else data


def labelled(bundle: Path, file: Path) -> np.ndarray:
    """Labels (x, y, z) of an image by MONAI Label's BundleInferTask and BasicInferTask.

    They take pre- and post-processing, inferer and network by their ids, change the device, and run transform by transform.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.config.update({"bundle_root": str(bundle)})  # type: ignore[union-attr]
    with scripts_from(bundle):
        network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    data: dict[str, Any] = {"image": str(file), "image_path": str(file), "device": "cpu", "model": "member", "restored": True}
    with scripts_from(bundle):
        parser.config.update({"device": "cpu"})  # type: ignore[union-attr]
        before = list(parser.get_parsed_content("preprocessing", instantiate=True).transforms)
    for one in before:
        if isinstance(one, LoadImaged):
            one._loader.image_only = False  # so that there is an item image_meta_dict, too
    before = [LoadedAsRequested(one.keys, one) if isinstance(one, LoadImaged) else one for one in before]
    for transform in before:
        data = apply_transform(transform, data)
    with scripts_from(bundle):
        inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None], deepcopy(network).eval())[0]
    with scripts_from(bundle):
        after = parser.get_parsed_content("postprocessing", instantiate=True).transforms
    for transform in [one for one in after if not isinstance(one, SaveImaged)]:
        data = apply_transform(transform, data)
    shape = data["image"].meta["spatial_shape"]  # to which it resizes what has another one
    assert tuple(data["pred"].shape[1:]) == tuple(shape), (data["pred"].shape, shape)
    return np.asarray(data["pred"].cpu()).squeeze(0).astype(np.uint8)


def label_trains(
    bundle: Path, cases: Sequence[Mapping[str, str]], model_filename: str, max_epochs: int, more: Mapping[str, Any]
) -> None:
    """MONAI Label's BundleTrainTask on one device, with a fifth of ``cases`` for validation.

    It starts from a file of ``models``, by a handler that it puts first if there is none that loads weights. more: overrides of
    a derived class. Call it in a process of its own, for it sets the logging.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    parser.config.update({"bundle_root": str(bundle)})  # type: ignore[union-attr]
    training, validation = partition_dataset(cases, ratios=[0.8, 0.2], shuffle=False)
    handlers, model = parser.get("train#handlers", []), bundle / "models" / model_filename
    if model.exists() and not [one for one in handlers if one.get("_target_") == "CheckpointLoader"]:
        loaded = {"load_path": str(model), "load_dict": {"model": "$@network"}, "strict": False}
        handlers.insert(0, {"_target_": "CheckpointLoader", **loaded})
    overrides: dict[str, Any] = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": max_epochs,
        "train#dataset#data": training,
        "device": "cpu",
        "train#handlers": handlers,
        "validate#dataset#data": validation,
    }
    with scripts_from(bundle):
        run_bundle(
            run_id="run",
            init_id=None,
            final_id=None,
            meta_file=str(bundle / "configs" / "metadata.json"),
            config_file=str(bundle / "configs" / "train.json"),
            **overrides | more,
        )
