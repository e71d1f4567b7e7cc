"""The plan of a network for a Decathlon task: spacing, patch, normalisation, architecture.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021, supplement). The order of axes is MONAI's, (x, y, z) as in a NIfTI
file that is stored as RAS. nnU-Net's plans have it reversed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from monai_prox.data.data_list import numbered
from monai_prox.data.decathlon import Case, DecathlonTask, geometry_of, open_header
from monai_prox.data.foreground import foreground_geometries
from monai_prox.data.intensity import plan_intensity
from monai_prox.data.plan_settings import ORIENTATION, PREDICTION, check_settings
from monai_prox.data.regions import regions_of, written_values
from monai_prox.data.topology import SMALLEST_FEATURE_MAP, largest_rotation, plan_architecture, plan_topology, target_spacing
from monai_prox.errors import ProXError
from monai_prox.families.architecture import DEPTH_KEY
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.typed import typed

FORMAT = 1
OPTIONAL = {"orientation", "trained_regions"}
CT = ("lower", "upper", "mean", "std")  # keys of an intensity of this kind


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that training and prediction share.

    Args:
        task: name of the task.
        channels: names of the channels, in their order.
        labels: names of the labels, in their order. The first is the background.
        spacing: mm per axis (x, y, z) that images are resampled to.
        patch_size: voxels per axis of a training patch.
        intensity: the normalisation. {"kind": "z-score"} is computed from the voxels that are not 0, for each channel. For CT,
            {"kind": "ct", "lower", "upper", "mean", "std"}: Hounsfield units are clipped to lower and upper, then the mean is
            subtracted and the result is divided by std.
        architecture: as in nnU-Net's plans, with the axes (x, y, z).
        licence: licence of the data as in dataset.json, or "".
        orientation: axis codes that images are turned to, so that x, y and z have the same meaning in all images. None means
            that images are taken as stored.
        trained_regions: values of labels by the name of the region that is an output of the network, larger ones first. None
            means that labels are the outputs, and exclude each other.
    """

    kind: ClassVar[str] = "segmentation"  # which family.json does not say
    task: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    intensity: Mapping[str, Any]
    architecture: Mapping[str, Any]
    licence: str = ""
    orientation: str | None = None
    trained_regions: Mapping[str, tuple[int, ...]] | None = None

    @property
    def is_ct(self) -> bool:
        """Whether the images are CT."""
        return bool(self.intensity["kind"] == "ct")

    @property
    def values(self) -> dict[str, int]:
        """The value of each label, by its name."""
        return {label: value for value, label in enumerate(self.labels)}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the network's outputs, labels or regions."""
        return self.labels if self.trained_regions is None else tuple(self.trained_regions)

    @property
    def written(self) -> tuple[int, ...] | None:
        """The label that each region is written as, later ones on top. None if labels are the outputs."""
        return None if self.trained_regions is None else written_values(self.trained_regions)

    @property
    def window(self) -> tuple[float | None, ...]:
        """For CT (lower, upper, lower normalised, upper normalised), the first two in Hounsfield units; else four None."""
        if not self.is_ct:
            return (None,) * 4
        lower, upper, mean, std = (self.intensity[key] for key in CT)
        return lower, upper, (lower - mean) / std, (upper - mean) / std

    @property
    def rotation(self) -> tuple[float, ...]:
        """The largest angles of augmentation, see ``largest_rotation``."""
        return largest_rotation(self.spacing)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's input channels."""
        return self.channels

    @property
    def images(self) -> str:
        """What the network sees, in words."""
        patch, spacing = (" x ".join(f"{size:g}" for size in sizes) for sizes in (self.patch_size, self.spacing))
        turned = "as stored" if self.orientation is None else f"turned to {self.orientation}"
        return f"patches of {patch} voxels of {spacing} mm, of images {turned}"

    def cached_bytes(self, image: Any, *, trains: bool) -> int | None:
        """Memory of a preprocessed case, in bytes. Images other than CT are cropped, so they may need less.

        Args:
            image: the file, whose header is read. For anything else, such as a list of files, the memory is not known.
            trains: whether the case is for training. If so, the label is resampled, and image and label are padded to the patch
                size. If not, the label is used as stored.

        Raises:
            ProXError: the file is not NIfTI.
        """
        if not isinstance(image, str | Path):
            return None
        geometry = geometry_of(open_header(Path(image)), self.orientation)
        planned = zip(geometry.shape, geometry.spacing, self.spacing, self.patch_size, strict=True)
        resampled = prod(
            max(round((size - 1) * own / target) + 1, patch if trains else 1)  # Spacingd leaves voxels' centres where they are
            for size, own, target, patch in planned
        )
        return 4 * len(self.channels) * resampled + (resampled if trains else prod(geometry.shape))

    def changed(self, **asked: Any) -> Plan:
        """The plan of a trained network with other settings of ``make_plan``.

        Args:
            asked: ``spacing``, ``patch_size`` and ``orientation`` are replaced, ``features`` and ``network`` have to be those
                of the training, and ``patch_voxels`` has no meaning any more.

        Raises:
            ProXError: a setting is unknown, out of range, or not that of the training.
        """
        arguments = self.architecture["arch_kwargs"]
        trained = {
            "features": arguments["features_per_stage"][0],
            "network": self.architecture["network_class_name"].rpartition(".")[2],
        }
        changes: dict[str, Any] = {}
        for name, value in asked.items():
            if name in trained and value != trained[name]:
                raise ProXError(f"plan#{name} is {value!r:.80}; the family was trained with {trained[name]}, so leave it out")
            if name not in (*trained, *PREDICTION, "patch_voxels"):
                allowed = ", ".join((*PREDICTION, *trained))
                raise ProXError(f"plan#{name} is not known; a plan has {allowed}")
            if name in PREDICTION and (value is not None or name == "orientation"):
                changes[name] = value
        check_settings(**changes)
        if "patch_size" in changes:
            strides = np.prod(arguments["strides"], axis=0)
            patch = np.ceil(np.array(changes["patch_size"]) / strides) * strides
            if (patch == strides).all():
                raise ProXError(f"patch_size is {list(changes['patch_size'])}; the network needs more than {strides.tolist()}")
            changes["patch_size"] = tuple(int(size) for size in patch)
        if "spacing" in changes:
            changes["spacing"] = tuple(map(float, changes["spacing"]))
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, for a JSON file."""
        data = {"format": FORMAT, **asdict(self)}
        return {key: value for key, value in data.items() if key != "trained_regions" or value is not None}

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """The plan that ``to_json`` wrote.

        Args:
            data: what ``to_json`` returned.

        Raises:
            ProXError: ``data`` is something else.
        """
        names = {field.name for field in fields(cls)}
        problem = f"not a plan of format {FORMAT} with {', '.join(sorted(names))}"
        if not isinstance(data, dict) or data.get("format") != FORMAT or set(data) | OPTIONAL != names | {"format"}:
            raise ProXError(f"{problem}: {data!r:.160}")
        plan = typed(cls, {name: value for name, value in data.items() if name != "format"}, problem)
        if plan.orientation not in (None, ORIENTATION):
            raise ProXError(
                f"{problem}: orientation is {ORIENTATION}, or null for images as stored, got {plan.orientation!r:.80}"
            )
        axes = {len(plan.spacing), len(plan.patch_size)}
        if axes not in ({2}, {3}) or not min(*plan.spacing, *plan.patch_size) > 0:
            raise ProXError(
                f"{problem}: spacing and patch_size are a positive number an axis, got {plan.spacing}, {plan.patch_size}"
            )
        kind, numbers = plan.intensity.get("kind"), [plan.intensity.get(key) for key in CT]
        measured = all(isinstance(number, int | float) and isfinite(number) for number in numbers)
        if kind != "z-score" and not (kind == "ct" and measured and plan.intensity["std"] > 0):
            raise ProXError(f"{problem}: intensity is of kind z-score, or ct with {', '.join(CT)}, got {plan.intensity!r:.120}")
        if plan.trained_regions is not None:
            written_values(plan.trained_regions)
        if not {v for of in (plan.trained_regions or {}).values() for v in of} <= set(range(1, len(plan.labels))):
            raise ProXError(f"{problem}: trained_regions have values of labels, got {plan.trained_regions!r:.120}")
        return plan

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> UNetFamily:
        """The family of the plan's network.

        Args:
            space: "default", "paper", or an object with fields of ``UNetChoices``. None means the default.
            open: number of choices that remain of each dimension whose last choices were closed, see ``SearchSpace.narrow``.

        Raises:
            ProXError: nothing is elastic in ``space``, or ``space`` is not valid.
        """
        family = UNetFamily(
            self.architecture,
            input_channels=len(self.channels),
            num_classes=len(self.outputs),
            patch_size=self.patch_size,
            choices=UNetChoices.from_json({} if space is None else space),
            open=open,
        )
        if not open and family.space.size() == 1:
            raise ProXError(
                f"the search space {space!r} has one member only, so there is nothing to expand; open at least one of "
                "depth ('thirds', 'all'), width (e.g. [0.5, 1]), kernel ([3, 5]), levels (1), resolution ([0.75, 1])"
            )
        return family

    def regions(self, regions: Mapping[str, Sequence[str]] | None = None) -> dict[str, tuple[int, ...]]:
        """The labels of each region that is evaluated.

        Args:
            regions: names of labels by the name of the region. None means one region per label.

        Returns:
            Values of labels by the name of the region.

        Raises:
            ProXError: a name is not a label of the foreground.
        """
        return regions_of(regions, self.labels, self.task)

    def check_fits(self, task: DecathlonTask) -> None:
        """Checks that a task has the channels and labels that the network was trained with.

        Args:
            task: the task. If nobody has named its channels and labels, only their numbers are compared.

        Raises:
            ProXError: the channels or labels differ.
        """
        if not task.named or self.channels == numbered("channel", len(self.channels)):
            if len(task.channels) != len(self.channels) or len(task.labels) > len(self.labels):
                raise ProXError(
                    f"{task.name} has {len(task.channels)} channels and labels up to {len(task.labels) - 1}; this was trained "
                    f"with {len(self.channels)} and up to {len(self.labels) - 1}"
                )
            return
        for kind, plan_names, task_names in (("channels", self.channels, task.channels), ("labels", self.labels, task.labels)):
            if plan_names != task_names:
                raise ProXError(
                    f"{task.name} has the {kind} {', '.join(task_names)}; this was trained with {', '.join(plan_names)}"
                )


def make_plan(
    task: DecathlonTask,
    cases: Sequence[Case] | None = None,
    *,
    network: str = "PlainConvUNet",
    features: int = 32,
    patch_voxels: int = 128**3,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    orientation: str | None = None,
    regions: Mapping[str, Sequence[str]] | None = None,
    regions_as_outputs: bool = False,
) -> Plan:
    """Plans a network for a task from the headers and images of its training cases.

    CT images are read for their intensities. Others are cropped to what is not 0 before the training, and read for the sizes
    that they then have.

    Args:
        task: the task.
        cases: the training cases. None means all of the task.
        network: "PlainConvUNet" or "ResidualEncoderUNet".
        features: channels of the first level, at least 2. They double from level to level, up to ten times as many.
        patch_voxels: largest number of voxels of a patch, which limits memory.
        spacing: mm per axis (x, y, z). None means the planned one.
        patch_size: voxels per axis (x, y, z), which are rounded up to multiples of the network's strides. None means the
            planned one.
        orientation: "RAS" if the training's transforms turn images to it. None if they take images as stored, as those of
            version 0.1.0 do.
        regions: names of labels by the name of the region.
        regions_as_outputs: whether the network has the regions as outputs, and not the labels.

    Raises:
        ProXError: the headers contradict dataset.json or each other, or an argument is out of range.

    >>> import tempfile
    >>> from monai_prox.data.phantom import write_phantom_task
    >>> task = DecathlonTask.read(write_phantom_task(tempfile.mkdtemp(), cases=1, test_cases=0))
    >>> plan = make_plan(task, task.cases, features=4, patch_voxels=16**3)
    >>> plan.spacing, plan.patch_size
    ((1.0, 1.0, 1.0), (14, 20, 14))
    """
    if network not in DEPTH_KEY:
        raise ProXError(f"network is {network!r}; allowed: {', '.join(DEPTH_KEY)}")
    if features < 2 or patch_voxels < SMALLEST_FEATURE_MAP**3:
        raise ProXError(f"features is {features} and patch_voxels {patch_voxels}; at least 2 and {SMALLEST_FEATURE_MAP**3}")
    check_settings(spacing=spacing, patch_size=patch_size, orientation=orientation)
    trained_regions = regions_of(regions or {}, task.labels, task.name) if regions_as_outputs else None
    if trained_regions is not None:
        written_values(trained_regions)
    cases = task.cases if cases is None else cases
    if len(task.labels) < 2:
        raise ProXError(f"no label image of {task.name} has a label beside the background, 0, so there is nothing to train")
    geometries = [task.geometry(case, orientation) for case in cases]
    target = target_spacing(geometries) if spacing is None else np.array(spacing, float)
    intensity = plan_intensity(task, cases, orientation)
    trained = geometries if intensity["kind"] == "ct" else foreground_geometries([case.image for case in cases], orientation)
    shapes = [np.array(g.shape) * np.array(g.spacing) / target for g in trained]
    median_shape = np.maximum(np.median(shapes, axis=0).round().astype(int), 1)
    patch, strides, kernels = plan_topology(target, median_shape, patch_voxels, patch_size)
    return Plan(
        task=task.name,
        channels=task.channels,
        labels=task.labels,
        spacing=tuple(round(float(size), 6) for size in target),
        patch_size=patch,
        intensity=intensity,
        architecture=plan_architecture(network, features, strides, kernels),
        licence=task.licence,
        orientation=orientation,
        trained_regions=trained_regions,
    )
