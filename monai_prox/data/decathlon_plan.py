"""From a Decathlon task to what a network for it needs: spacing, patch, normalisation, architecture.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021, supplement), its function for the U-Net's topology included.
The order of axes is MONAI's, (x, y, z) as in a NIfTI file that is stored as RAS; nnU-Net's plans have theirs reversed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite, prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from numpy.typing import NDArray

from monai_prox.data.decathlon import Case, DecathlonTask, Geometry, geometry_of, open_header
from monai_prox.errors import ProXError
from monai_prox.families.architecture import DEPTH_KEY, PLACE
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.runtime.nifti_images import turned, voxels_of
from monai_prox.typed import typed

FORMAT = 1
ORIENTATION = "RAS"
CT = ("lower", "upper", "mean", "std")  # of an intensity of this kind
SMALLEST_FEATURE_MAP = 4  # voxels per axis, nnU-Net's own limit
ANISOTROPIC = 3  # ratio from which on nnU-Net takes slices for thick
FOREGROUND_SAMPLES = 10_000  # voxels per case, for CT statistics, as nnU-Net takes
MOST_ROTATION = 0.5  # radians, as nnU-Net's augmentation
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6)  # per stage of a ResidualEncoderUNet, nnU-Net's presets


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What training and prediction have in common.

    channels, labels: names in order; labels[0] is the background.
    spacing: mm per axis (x, y, z) that images are resampled to; patch_size: voxels per axis of a training patch.
    intensity: {"kind": "z-score"}, of the voxels that are not 0, each channel by itself; or, for CT, {"kind": "ct", "lower",
        "upper", "mean", "std"}: Hounsfield units are clipped to lower and upper, then mean and std are taken out.
    architecture: as in nnU-Net's plans, its axes (x, y, z).
    licence: of the data, as dataset.json says, or "".
    orientation: axis codes that images are turned to, so that x, y and z mean the same in all of them; None: they are taken as
        stored.
    """

    kind: ClassVar = "segmentation"  # which family.json does not say
    task: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    intensity: Mapping[str, Any]
    architecture: Mapping[str, Any]
    licence: str = ""
    orientation: str | None = None

    @property
    def is_ct(self) -> bool:
        return bool(self.intensity["kind"] == "ct")

    @property
    def values(self) -> dict[str, int]:
        """Of the labels, by their names."""
        return {label: value for value, label in enumerate(self.labels)}

    @property
    def window(self) -> tuple[float | None, ...]:
        """CT: the bounds in Hounsfield units and what they become, (lower, upper, from, to); four times None for others."""
        if not self.is_ct:
            return (None,) * 4
        lower, upper, mean, std = (self.intensity[key] for key in CT)
        return lower, upper, (lower - mean) / std, (upper - mean) / std

    @property
    def rotation(self) -> tuple[float, ...]:
        """Radians about (x, y, z) that augmentation may turn a patch; thick slices only within their plane."""
        thick = [size > ANISOTROPIC * min(self.spacing) for size in self.spacing]
        return tuple(MOST_ROTATION if axis_thick or not any(thick) else 0.0 for axis_thick in thick)

    @property
    def images(self) -> str:
        """What the network sees, in words."""
        patch, spacing = (" x ".join(f"{size:g}" for size in sizes) for sizes in (self.patch_size, self.spacing))
        turned = "as stored" if self.orientation is None else f"turned to {self.orientation}"
        return f"patches of {patch} voxels of {spacing} mm, of images {turned}"

    def cached_bytes(self, image: Path | str, *, trains: bool) -> int:
        """Memory of a case that is preprocessed but not cropped to what is not 0, as images other than CT are.

        image: a file, of which the header is read. trains: the label is resampled, too, and both are padded to a patch at
        least; else the label is as stored.
        """
        geometry = geometry_of(open_header(Path(image)), self.orientation)
        planned = zip(geometry.shape, geometry.spacing, self.spacing, self.patch_size, strict=True)
        resampled = prod(
            max(round((size - 1) * own / target) + 1, patch if trains else 1)  # Spacingd leaves voxels' centres where they are
            for size, own, target, patch in planned
        )
        return 4 * (len(self.channels) * resampled + (resampled if trains else prod(geometry.shape)))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """Raises ProXError where ``data`` is no plan of this format."""
        names = {field.name for field in fields(cls)}
        what = f"not a plan of format {FORMAT} with {', '.join(sorted(names))}"
        if not isinstance(data, dict) or data.get("format") != FORMAT or set(data) | {"orientation"} != names | {"format"}:
            raise ProXError(f"{what}: {data!r:.160}")
        plan = typed(cls, {name: value for name, value in data.items() if name != "format"}, what)
        if plan.orientation not in (None, ORIENTATION):
            raise ProXError(f"{what}: orientation is {ORIENTATION}, or null for images as stored, got {plan.orientation!r:.80}")
        axes = {len(plan.spacing), len(plan.patch_size)}
        if axes not in ({2}, {3}) or not min(*plan.spacing, *plan.patch_size) > 0:
            raise ProXError(
                f"{what}: spacing and patch_size are a positive number an axis, got {plan.spacing}, {plan.patch_size}"
            )
        kind, numbers = plan.intensity.get("kind"), [plan.intensity.get(key) for key in CT]
        measured = all(isinstance(number, int | float) and isfinite(number) for number in numbers)
        if kind != "z-score" and not (kind == "ct" and measured and plan.intensity["std"] > 0):
            raise ProXError(f"{what}: intensity is of kind z-score, or ct with {', '.join(CT)}, got {plan.intensity!r:.120}")
        return plan

    def family(self, space: Any = None, *, open: Mapping[str, int] | None = None) -> UNetFamily:
        """The family of this plan's network.

        space: "default", "paper" or an object with fields of UNetChoices. open: by dimension, the choices that remain where
        the last ones were closed. Raises ProXError where ``space`` leaves nothing elastic.
        """
        family = UNetFamily(
            self.architecture,
            input_channels=len(self.channels),
            num_classes=len(self.labels),
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
        """Values of the labels that make up each region to evaluate; every label by itself where none are given.

        regions: {region: names of labels}. Raises ProXError for a name that is no foreground label.
        """
        if regions is None:
            return {name: (value,) for value, name in enumerate(self.labels) if value}
        if not isinstance(regions, Mapping) or any(isinstance(names, str) for names in regions.values()):
            raise ProXError(f"regions are {{name: [labels]}}, got {regions!r:.160}")
        unknown = {name for names in regions.values() for name in names} - set(self.labels[1:])
        if unknown:
            raise ProXError(f"regions name {sorted(unknown)}; the labels of {self.task} are {', '.join(self.labels[1:])}")
        return {region: tuple(self.labels.index(name) for name in names) for region, names in regions.items()}

    def check_fits(self, task: DecathlonTask) -> None:
        """Raises ProXError where ``task`` has other channels or labels than the network was trained with."""
        for what, own, theirs in (("channels", self.channels, task.channels), ("labels", self.labels, task.labels)):
            if own != theirs:
                raise ProXError(f"{task.name} has the {what} {', '.join(theirs)}; this was trained with {', '.join(own)}")


def make_plan(
    task: DecathlonTask,
    cases: Sequence[Case],
    *,
    network: str = "PlainConvUNet",
    features: int = 32,
    patch_voxels: int = 128**3,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    orientation: str | None = None,
) -> Plan:
    """Plans for ``task`` from the headers of ``cases``, the training cases; for CT their images are read too.

    network: "PlainConvUNet" or "ResidualEncoderUNet". features: channels of its first level, doubled from level to level up to
        ten times as many. patch_voxels: of a patch at most; it stands for memory. spacing, patch_size: (x, y, z), where the
        planned ones do not suit; the patch is rounded up to what the network can halve. orientation: "RAS" where the
        training's transforms turn images to it; None where they take them as stored, as those of version 0.1.0 do.

    Raises ProXError where headers contradict dataset.json or arguments are out of range.
    """
    if network not in DEPTH_KEY:
        raise ProXError(f"network is {network!r}; allowed: {', '.join(DEPTH_KEY)}")
    if features < 2 or patch_voxels < SMALLEST_FEATURE_MAP**3:
        raise ProXError(f"features is {features} and patch_voxels {patch_voxels}; at least 2 and {SMALLEST_FEATURE_MAP**3}")
    for name, given in (("spacing", spacing), ("patch_size", patch_size)):
        if given is not None and (len(given) != 3 or not all(isfinite(size) and size > 0 for size in given)):
            raise ProXError(f"{name} is {list(given)}; it must be three positive numbers, for the axes x, y, z")
    if patch_size is not None and any(size != int(size) for size in patch_size):
        raise ProXError(f"patch_size is {list(patch_size)}; it must be three positive whole numbers, for the axes x, y, z")
    if orientation not in (None, ORIENTATION):
        raise ProXError(f"orientation is {orientation!r}; allowed: {ORIENTATION}, or None for images as stored")
    geometries = [task.geometry(case, orientation) for case in cases]
    target = _target_spacing(geometries) if spacing is None else np.array(spacing, float)
    shapes = [np.array(g.shape) * np.array(g.spacing) / target for g in geometries]
    median_shape = np.maximum(np.median(shapes, axis=0).round().astype(int), 1)
    patch, strides, kernels = _topology(target, median_shape, patch_voxels, patch_size)
    return Plan(
        task=task.name,
        channels=task.channels,
        labels=task.labels,
        spacing=tuple(round(float(size), 6) for size in target),
        patch_size=patch,
        intensity=_intensity(task, cases, orientation),
        architecture=plan_architecture(network, features, strides, kernels),
        licence=task.licence,
        orientation=orientation,
    )


def _target_spacing(geometries: Sequence[Geometry]) -> NDArray[np.float64]:
    """The median; for thick slices their tenth percentile, so that thin ones among them lose less."""
    spacings = np.array([g.spacing for g in geometries])
    target: NDArray[np.float64] = np.median(spacings, axis=0)
    shape = np.median([g.shape for g in geometries], axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    if target[worst] > ANISOTROPIC * target[others].max() and shape[worst] * ANISOTROPIC < shape[others].min():
        target[worst] = max(np.percentile(spacings[:, worst], 10), target[others].max() + 1e-5)
    return target


Sizes = tuple[tuple[int, ...], ...]


def _topology(
    spacing: NDArray[np.float64], median_shape: NDArray[np.int64], voxels: int, asked: Sequence[int] | None
) -> tuple[tuple[int, ...], Sizes, Sizes]:
    """Patch, strides and kernels per level. The patch is smaller than the median image, and cut axis by axis to ``voxels``."""

    def plan(patch: Sequence[int]) -> tuple[Any, ...]:
        return tuple(get_pool_and_conv_props(tuple(spacing), tuple(patch), SMALLEST_FEATURE_MAP, 999))

    if asked is not None:
        _, strides, kernels, patch, _ = plan(asked)
    else:
        cube = 1 / spacing * (256**3 / np.prod(1 / spacing)) ** (1 / 3)
        start = np.minimum(cube.round().astype(int), median_shape)
        _, strides, kernels, patch, divisor = plan(start)
        while prod(patch) > voxels:
            share = np.where(np.array(patch) - divisor >= SMALLEST_FEATURE_MAP, np.array(patch) / median_shape, 0)
            if not share.any():
                raise ProXError(f"patch_voxels is {voxels}; the least that can be halved here is {prod(patch)}")
            axis, smaller, before = int(np.argmax(share)), list(patch), prod(patch)
            smaller[axis] -= divisor[axis]
            smaller[axis] = patch[axis] - plan(smaller)[4][axis]  # a smaller patch may be halved less often
            _, strides, kernels, patch, divisor = plan(smaller)
            if prod(patch) >= before:
                raise ProXError(f"patch_voxels is {voxels}; the least that can be halved here is {before}")
    if len(strides) < 2:
        raise ProXError(
            f"a patch of {'x'.join(map(str, patch))} voxels cannot be halved to {SMALLEST_FEATURE_MAP} or more an axis; the "
            f"median image has {'x'.join(map(str, median_shape))}, patch_voxels is {voxels}: plan a larger patch"
        )
    return tuple(int(size) for size in patch), strides, kernels


def plan_architecture(network: str, features: int, strides: Sizes, kernels: Sizes) -> dict[str, Any]:
    """An ``architecture`` entry as nnU-Net's planners write it; strides and kernels per level and axis, else as make_plan."""
    levels = len(strides)
    blocks = list(RESIDUAL_BLOCKS[:levels]) if network == "ResidualEncoderUNet" else [2] * levels
    return {
        "network_class_name": f"{PLACE}.unet.{network}",
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": [min(features * 2**level, 10 * features) for level in range(levels)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [list(kernel) for kernel in kernels],
            "strides": [list(stride) for stride in strides],
            DEPTH_KEY[network]: blocks,
            "n_conv_per_stage_decoder": [1 if network == "ResidualEncoderUNet" else 2] * (levels - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _intensity(task: DecathlonTask, cases: Sequence[Case], orientation: str | None) -> dict[str, Any]:
    ct = [name.strip().casefold() == "ct" for name in task.channels]
    if not any(ct):
        return {"kind": "z-score"}
    if not all(ct):
        raise ProXError(f"{task.name} has CT beside other modalities ({', '.join(task.channels)}), which is not supported")
    samples = []
    for number, case in enumerate(cases):
        # in an order that does not depend on how they are stored, if ``orientation`` is given
        image, label = (voxels_of(p, turned(p, open_header(p), orientation)) for p in (case.image, case.label))
        voxels = image[label.reshape(label.shape[:3]) > 0].ravel()
        if voxels.size:
            chosen = np.random.default_rng(number).integers(voxels.size, size=min(FOREGROUND_SAMPLES, voxels.size))
            samples.append(voxels[chosen])
    if not samples:
        raise ProXError(f"no training case of {task.name} has a labelled voxel, so its CT intensities cannot be measured")
    values = np.concatenate(samples).astype(float)
    if not np.isfinite(values).all():
        raise ProXError(f"the images of {task.name} have values that are not finite numbers (NaN or infinite) where labelled")
    lower, upper = np.percentile(values, (0.5, 99.5))
    statistics = {"lower": lower, "upper": upper, "mean": values.mean(), "std": max(values.std(), 1e-4)}
    return {"kind": "ct", **{name: round(float(value), 4) for name, value in statistics.items()}}
