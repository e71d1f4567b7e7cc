"""What the tests of nnU-Net's side share: bare plans that need no data, and tasks made ready by nnU-Net itself."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring

from helpers.architectures import randomise_norms, unet_architecture
from helpers.commands import APART, call, forked
from monai_prox.export.device_file import export_file
from monai_prox.export.nnunet import export_nnunet
from monai_prox.nnunet import family_report
from monai_prox.nnunet.family_report import write_family
from monai_prox.nnunet.task import convert_task, task_id
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.nnunet.variants import ProXTrainerDemo
from monai_prox.runtime import prediction, preprocessing
from monai_prox.runtime.cases import Case, read_case
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
FULLRES = "3d_fullres"
CUT = "nnUNetPlansCut"
CPU = torch.device("cpu")
Start = Callable[..., "subprocess.CompletedProcess[str]"]
# For bare_plans: half the layers are exported in half the time
SHALLOW: dict[str, Any] = {"depths": (1, 1, 1), "decoder_depths": (1, 1)}
TWO_LEVELS: dict[str, Any] = {"features": (4, 8), "depths": (1, 1), "decoder_depths": (1,)}
# Of the fixture ``stock``: its image, and the labels of which its postprocessing keeps the largest component
STOCK_IMAGE, STOCK_KEPT = "images/case_0000.nii.gz", [[1, 2], 2]
# Two members that differ in resolution alone, so that a training validates no more than the smallest and the largest
TWO_MEMBERS = {"depth": "full", "width": [1.0], "levels": 0, "resolution": [0.75, 1.0]}


class ProXTrainerTiny(ProXTrainer):
    """One epoch per stage of the recipe ``prox``, in seconds, with nnU-Net's plots of the last one."""

    epochs = 5
    iterations_per_epoch = 2
    validation_iterations_per_epoch = 1

    def initialize(self) -> None:
        torch.set_num_threads(1)  # nnU-Net's command takes all cores, and on tiny layers threads wait for each other
        super().initialize()
        plot = self.logger.plot_progress_png  # it takes longer than an epoch here
        self.logger.plot_progress_png = lambda folder: plot(folder) if self.current_epoch == self.num_epochs - 1 else None


class ProXTrainerQuick(ProXTrainer):
    """One epoch per stage of the recipe ``prox``, in seconds, without nnU-Net's plots, and validated without mirroring."""

    epochs = 5
    iterations_per_epoch = 2
    validation_iterations_per_epoch = 1

    def initialize(self) -> None:
        torch.set_num_threads(1)  # as ProXTrainerTiny
        super().initialize()
        self.logger.plot_progress_png = lambda folder: None  # it takes longer than an epoch here

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802
        configured = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return configured


class nnUNetTrainerTiny(nnUNetTrainerNoMirroring):  # noqa: N801 (nnU-Net's own style)
    """nnU-Net's own training: one epoch of two steps."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.num_val_iterations_per_epoch = 1
        self.num_iterations_per_epoch = 2


class ProXTrainerDemoShort(ProXTrainerDemo):
    """The demo's trainer, in seconds: it validates those members alone that the demo shows."""

    epochs = 5
    iterations_per_epoch = 2
    validation_iterations_per_epoch = 1

    def initialize(self) -> None:
        super().initialize()
        self.named_members = {name: self.named_members[name] for name in ("smallest", "middle", "largest")}


# ---------------------------------------------------------------------- running
def write_trainers(folder: Path, *classes: type) -> Path:
    """A folder for nnUNet_extTrainer with the source of ``classes``, all direct children of one trainer."""
    folder.mkdir(parents=True, exist_ok=True)
    parent = classes[0].__mro__[1]
    head = f"import torch\nfrom {parent.__module__} import {parent.__name__}\n\n\n"
    (folder / "trainers.py").write_text(head + "\n\n".join(inspect.getsource(one) for one in classes))
    return folder


def environment(**variables: str | Path) -> dict[str, str]:
    """This process's environment for a command: no nnU-Net variables but ``variables``, few processes and threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    few = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    return kept | few | {name: str(value) for name, value in variables.items()}


def folders(root: Path) -> dict[str, str | Path]:
    """nnU-Net's three variables, pointing to folders below ``root`` that exist afterwards."""
    for variable in VARIABLES:
        (root / variable).mkdir(parents=True, exist_ok=True)
    return {variable: root / variable for variable in VARIABLES}


def attempt(
    command: Sequence[object], env: Mapping[str, str], *, cwd: Path | None = None, start: Start = forked
) -> subprocess.CompletedProcess[str]:
    """Runs a console script. start: ``fresh`` for a new Python."""
    return start(command, env, cwd=cwd)


def run(command: Sequence[object], env: Mapping[str, str], *, cwd: Path | None = None, start: Start = forked) -> str:
    """``attempt`` of what has to succeed; returns its standard output."""
    done = attempt(command, env, cwd=cwd, start=start)
    words = " ".join(map(str, command))
    assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def bare_folders(root: Path, patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's variables below ``root``, with a preprocessed dataset that has the name of a case, no data."""
    for variable, folder in folders(root).items():
        patch.setenv(variable, str(folder))
    patch.delenv("nnUNet_extTrainer", raising=False)
    for configuration in (FULLRES, "2d"):
        folder = Path(root, "nnUNet_preprocessed", "Dataset990_Phantom", f"nnUNetPlans_{configuration}")
        folder.mkdir(parents=True)
        (folder / "case.b2nd").touch()


# ---------------------------------------------------------------------- plans
def cut_plans(
    plans: Mapping[str, Any],
    configuration: str,
    name: str,
    patch: Sequence[int],
    features: Sequence[int] = (4, 8, 16),
    *,
    shallow: bool = False,
    **entries: Any,
) -> dict[str, Any]:
    """A planner's plans under ``name`` with one configuration, cut to a level per entry of ``features`` and a small patch.

    shallow: with one convolution or block per stage. entries: put into the configuration, e.g. prox={"recipe": "prox_paper"}.
    """
    plans = deepcopy(dict(plans))
    plans["plans_name"] = name
    plans["configurations"] = {configuration: plans["configurations"][configuration]}
    cut = plans["configurations"][configuration]
    kwargs = cut["architecture"]["arch_kwargs"]
    levels = len(features)
    kwargs |= {"n_stages": levels, "features_per_stage": list(features)}
    for key in ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if key in kwargs:
            kwargs[key] = kwargs[key][:levels]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: levels - 1]
    for key in ("n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder"):
        if shallow and key in kwargs:
            kwargs[key] = [1] * len(kwargs[key])
    cut |= {"patch_size": list(patch), "batch_size": 2} | entries
    return plans


def bare_plans(
    kind: str = "PlainConvUNet",
    patch: Sequence[int] = (16, 24, 16),
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    name: str = CUT,
    prox: Any = None,
    **architecture: Any,
) -> dict[str, Any]:
    """Plans as nnU-Net writes them, of the phantom's dataset, with one configuration: 3d_fullres, or 2d for two axes."""
    axes = len(patch)
    configuration = FULLRES if axes == 3 else "2d"
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset990_Phantom",
        "plans_name": name,
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [34, 49, 38],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            configuration: {
                "data_identifier": f"nnUNetPlans_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "median_image_size_in_voxels": [34.5, 49.0, 38.0][-axes:],
                "spacing": list(spacing)[-axes:],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
                "architecture": unet_architecture(kind, axes=axes, **{"features": (4, 8, 16)} | architecture),
                "batch_dice": False,
                **({} if prox is None else {"prox": prox}),
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 480.0, "std": 130.0}},
    }


BARE_DATASET: dict[str, Any] = {
    "name": "Phantom",
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 8,
    "file_ending": ".nii.gz",
    "channel_names": {"0": "MRI"},
}


def make_trainer(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any] = BARE_DATASET,
    *,
    cls: type = ProXTrainerTiny,
    fold: int = 0,
    continue_training: bool = False,
    device: torch.device = CPU,
) -> Any:
    """A trainer of the plans' only configuration, made as ``nnUNetv2_train -device DEVICE`` makes it."""
    (configuration,) = plans["configurations"]
    plans = deepcopy(dict(plans)) | {"continue_training": continue_training}
    return cls(plans=plans, configuration=configuration, fold=fold, dataset_json=deepcopy(dict(dataset)), device=device)


def bare_model(
    plans: Mapping[str, Any],
    folds: Sequence[int] = (0,),
    dataset: Mapping[str, Any] = BARE_DATASET,
    *,
    cls: type = ProXTrainerTiny,
) -> ModelFolder:
    """A model folder as a training leaves it, without a training: every fold has random weights of its own.

    cls: the trainer, which may be one of nnU-Net's own.
    """
    for fold in folds:
        trainer = make_trainer(plans, dataset, cls=cls, fold=fold)
        trainer.initialize()
        randomise_norms(trainer.network)
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        trainer.save_checkpoint(str(Path(trainer.output_folder, FINAL)))
        if issubclass(cls, ProXTrainer):
            write_family(trainer, {})
    folder = Path(trainer.output_folder_base)
    (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    return ModelFolder.open(folder)


def device_file(model: ModelFolder, which: str, path: Path, format: str = "onnx", **options: Any) -> Path:
    """A member of ``bare_model`` as a file for a device."""
    export_file(TrainedNNUNet.open(model.path), which, path, format, **options)
    return path


def stock_predictor(model: ModelFolder, which: str = "largest", output: Path | None = None) -> nnUNetPredictor:
    """nnU-Net's own, without mirroring, with a member that is exported for it, to ``output`` or beside the model."""
    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(export_nnunet(TrainedNNUNet.of(model), which, output)), None)
    return predictor


def hold_out(model: ModelFolder, names: Sequence[str]) -> None:
    """As if the training of fold 0 had validated on the cases ``names``."""
    folder = model.path / "fold_0" / "validation"
    folder.mkdir(exist_ok=True)
    cases = [{"reference_file": f"/elsewhere/{name}{model.dataset['file_ending']}"} for name in names]
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))


def write_held_out(model: ModelFolder, names: Sequence[str], *, flat: bool = False) -> Path:
    """A raw dataset of smooth images, with labels that the largest member gives them: its own Dice is 1.

    flat: of two axes.
    """
    hold_out(model, names)
    source = TrainedNNUNet(model, ("fold_0",))
    name, largest = source.member("largest")
    description, run = source.describe(largest, name=name), runnable(source.network(largest))
    folder = model.path.parents[2] / "raw" / model.plans["dataset_name"]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index, case in enumerate(names):
        noise = np.random.default_rng(index).normal(size=(30, 20) if flat else (16, 30, 20)).astype(np.float32)
        image = sitk.DiscreteGaussian(sitk.GetImageFromArray(noise), 4.0)
        file = folder / "imagesTr" / f"{case}_0000{description.file_ending}"
        sitk.WriteImage(image, file)
        read = read_case(Case(case, (file,)), description)
        segmented = prediction.label(*preprocessing.prepare(read, description), description, run)
        read.save(segmented, folder / "labelsTr" / f"{case}{description.file_ending}")
    return folder


# ---------------------------------------------------------------------- tasks
@dataclass(frozen=True)
class Prepared:
    """A dataset in nnU-Net's folders below ``root``, planned and preprocessed."""

    root: Path
    identifier: int
    name: str

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.name

    def dataset(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.preprocessed / "dataset.json").read_text())
        return data

    def plans(self, name: str = "nnUNetPlans") -> dict[str, Any]:
        plans: dict[str, Any] = json.loads((self.preprocessed / f"{name}.json").read_text())
        return plans

    def write_plans(self, plans: Mapping[str, Any]) -> None:
        (self.preprocessed / f"{plans['plans_name']}.json").write_text(json.dumps(plans))

    def environment(self, **variables: str | Path) -> dict[str, str]:
        return environment(**folders(self.root) | variables)


def prepare(task: Path, root: Path, configurations: Sequence[str] = (FULLRES,), **entries: Any) -> Prepared:
    """Converts a Decathlon task and has nnU-Net plan and preprocess it below ``root``.

    entries: put into the converted dataset.json, e.g. labels that are regions, which Decathlon tasks do not have.
    """
    prepared = Prepared(root, task_id(task), f"Dataset{task_id(task):03d}_{task.name.partition('_')[2]}")
    call(_convert, task, prepared.name, entries, environment=prepared.environment())
    command = ["nnUNetv2_plan_and_preprocess", "-d", prepared.identifier, "-c", *configurations, "-np", "2", "-npfp", "2"]
    run(command, prepared.environment())
    return prepared


def _convert(task: Path, name: str, entries: Mapping[str, Any]) -> None:
    assert convert_task(task) == (task_id(task), name)
    converted = Path(os.environ["nnUNet_raw"], name, "dataset.json")
    converted.write_text(json.dumps(json.loads(converted.read_text()) | entries))
    fingerprint = DatasetFingerprintExtractor(name, num_processes=1)
    fingerprint.num_foreground_voxels_for_intensitystats = 1e4  # 10,000 times as many take minutes and gigabytes
    fingerprint.run()


@contextmanager
def training_on(prepared: Prepared, results: Path) -> Iterator[None]:
    """Within the block this process trains on ``prepared`` without loader processes, writes to ``results``, draws no plots."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (folders(prepared.root) | {"nnUNet_results": results, "nnUNet_n_proc_DA": "0"}).items():
            patch.setenv(name, str(value))
        patch.setattr(multiprocessing, "get_context", lambda method=None: APART)  # where pools start in no time
        patch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)  # twelve forks of this process, to list a few files
        for owner, plot in ((MetaLogger, "plot_progress_png"), (family_report, "plot_progress")):
            patch.setattr(owner, plot, lambda *_, **__: None)  # it takes longer than an epoch here
        yield
