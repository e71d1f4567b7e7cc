"""The topology of a U-Net for images of given shapes and spacings: spacing, patch, levels, strides and kernels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from numpy.typing import NDArray

from monai_prox.data.decathlon import Geometry
from monai_prox.errors import ProXError
from monai_prox.families.architecture import DEPTH_KEY, PLACE

SMALLEST_FEATURE_MAP = 4  # voxels per axis, nnU-Net's own limit
ANISOTROPIC = 3  # nnU-Net calls slices thick above this ratio of spacings
MOST_ROTATION = 0.5  # radians, as in nnU-Net's augmentation
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6)  # per stage of a ResidualEncoderUNet, nnU-Net's presets
Sizes = tuple[tuple[int, ...], ...]  # per level and axis


def target_spacing(geometries: Sequence[Geometry]) -> NDArray[np.float64]:
    """The median spacing. Along thick slices it is the tenth percentile, so that thinner slices lose less.

    Args:
        geometries: shapes and spacings of the training cases.

    Returns:
        mm per axis.
    """
    spacings = np.array([g.spacing for g in geometries])
    target: NDArray[np.float64] = np.median(spacings, axis=0)
    shape = np.median([g.shape for g in geometries], axis=0)
    worst = int(target.argmax())
    in_plane = [axis for axis in range(3) if axis != worst]
    if target[worst] > ANISOTROPIC * target[in_plane].max() and shape[worst] * ANISOTROPIC < shape[in_plane].min():
        target[worst] = max(np.percentile(spacings[:, worst], 10), target[in_plane].max() + 1e-5)
    return target


def plan_topology(
    spacing: NDArray[np.float64], median_shape: NDArray[np.int64], voxels: int, patch_size: Sequence[int] | None
) -> tuple[tuple[int, ...], Sizes, Sizes]:
    """The patch and the levels of a U-Net by nnU-Net's own function.

    The planned patch is at most as large as the median image. It is made smaller along one axis after the other until it has at
    most ``voxels`` voxels.

    Args:
        spacing: mm per axis.
        median_shape: voxels per axis of the median image.
        voxels: largest number of voxels of a planned patch.
        patch_size: voxels per axis of the patch, which are rounded up to multiples of the strides. None means a planned patch.

    Returns:
        Voxels per axis of the patch, and strides and kernel sizes per level and axis.

    Raises:
        ProXError: the patch is too small for two levels, or cannot be made small enough.
    """

    def plan(patch: Sequence[int]) -> tuple[Any, ...]:
        return tuple(get_pool_and_conv_props(tuple(spacing), tuple(patch), SMALLEST_FEATURE_MAP, 999))

    if patch_size is not None:
        _, strides, kernels, patch, _ = plan(patch_size)
    else:
        cube = 1 / spacing * (256**3 / np.prod(1 / spacing)) ** (1 / 3)
        start = np.minimum(cube.round().astype(int), median_shape)
        _, strides, kernels, patch, divisor = plan(start)
        while prod(patch) > voxels:
            share = np.where(np.array(patch) - divisor >= SMALLEST_FEATURE_MAP, np.array(patch) / median_shape, 0)
            if not share.any():
                raise ProXError(f"patch_voxels is {voxels}; the least that can be halved here is {prod(patch)}")
            axis, smaller, voxels_before = int(np.argmax(share)), list(patch), prod(patch)
            smaller[axis] -= divisor[axis]
            smaller[axis] = patch[axis] - plan(smaller)[4][axis]  # a smaller patch can have fewer levels, so another divisor
            _, strides, kernels, patch, divisor = plan(smaller)
            if prod(patch) >= voxels_before:
                raise ProXError(f"patch_voxels is {voxels}; the least that can be halved here is {voxels_before}")
    if len(strides) < 2:
        raise ProXError(
            f"a patch of {'x'.join(map(str, patch))} voxels cannot be halved to {SMALLEST_FEATURE_MAP} or more an axis; the "
            f"median image has {'x'.join(map(str, median_shape))}, patch_voxels is {voxels}: plan a larger patch"
        )
    return tuple(int(size) for size in patch), strides, kernels


def plan_architecture(network: str, features: int, strides: Sizes, kernels: Sizes) -> dict[str, Any]:
    """An ``architecture`` entry as nnU-Net's planners write it.

    Args:
        network: "PlainConvUNet" or "ResidualEncoderUNet".
        features: channels of the first level.
        strides: per level and axis.
        kernels: kernel sizes per level and axis.
    """
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


def largest_rotation(spacing: Sequence[float]) -> tuple[float, ...]:
    """The largest angles about (x, y, z) of augmentation, in radians. Thick slices are rotated in their plane only.

    Args:
        spacing: mm per axis.

    >>> largest_rotation((1.0, 1.0, 5.0))
    (0.0, 0.0, 0.5)
    """
    thick = [size > ANISOTROPIC * min(spacing) for size in spacing]
    return tuple(MOST_ROTATION if axis_thick or not any(thick) else 0.0 for axis_thick in thick)
