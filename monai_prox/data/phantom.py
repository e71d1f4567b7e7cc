"""A small synthetic segmentation task in the folder format of the Medical Segmentation Decathlon.

Each case shows one curved, tapered tube, loosely modelled on a hippocampus: a bulb-like anterior part and a posterior part that
meet at the neck of the tube. Intensity alone does not find the tube, because a second tube, blobs and sheets around it have the
same intensity. Intensity does not find the border between the two parts either, only shape does.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from monai_prox.errors import ProXError
from monai_prox.files import read_json, temporary_folder, write_json

TASK_NAME = "Task990_Phantom"
# Recorded with the data. A task of an older generator is not reused.
GENERATOR_VERSION = 1

# Mean intensities before bias, contrast and noise. The background classes lie on both sides of the target, as fluid and
# white matter do, and one close to it, as cortex does.
BACKGROUND = (0.20, 0.48, 1.00)
ANTERIOR, POSTERIOR = 0.73, 0.65


def write_phantom_task(folder: Path | str, *, cases: int = 24, seed: int = 0, test_cases: int = 4) -> Path:
    """Writes ``<folder>/Task990_Phantom``.

    The task has ``dataset.json``, ``imagesTr``, ``labelsTr`` and ``imagesTs``, as ``nnUNetv2_convert_MSD_dataset`` expects
    them, and ``phantom.json``, which records the arguments. Images are int16 and labels uint8 NIfTI volumes of about 36 x 48 x
    36 voxels of 1 mm (axes right, anterior, superior). Label 1 is the anterior part, label 2 the posterior part. A case depends
    on ``seed`` and its number only. On one machine equal arguments give equal bytes. A complete task with the same arguments is
    returned as it is.

    Args:
        folder: folder in which the task's folder is made. It is created if it is missing.
        cases: number of labelled training cases, at least 1.
        seed: seed of the whole task, at least 0.
        test_cases: number of test images without labels, at least 0.

    Returns:
        The folder of the task.

    Raises:
        ProXError: a number is not an integer or is too small, or the task's folder exists with other arguments or is
            incomplete.
    """
    parameters: dict[str, Any] = {"cases": cases, "seed": seed, "test_cases": test_cases}
    for (name, value), minimum in zip(parameters.items(), (1, 0, 0), strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ProXError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    parameters["generator_version"] = GENERATOR_VERSION

    folder = Path(folder)
    task = folder / TASK_NAME
    training = [f"phantom_{i:03d}.nii.gz" for i in range(1, cases + 1)]
    test = [f"phantom_test_{i:03d}.nii.gz" for i in range(1, test_cases + 1)]
    if task.exists():
        _check_reusable(task, parameters, training, test)
        return task

    folder.mkdir(parents=True, exist_ok=True)
    # Written under another name and renamed, so that an interrupted call leaves no folder that looks complete.
    with temporary_folder(folder / TASK_NAME) as temporary:
        unfinished = temporary / TASK_NAME
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (unfinished / name).mkdir(parents=True)
        for i, name in enumerate(training):
            image, label = _make_case(np.random.default_rng((seed, 0, i)))
            _write_nifti(unfinished / "imagesTr" / name, image)
            _write_nifti(unfinished / "labelsTr" / name, label)
        for i, name in enumerate(test):
            image, _ = _make_case(np.random.default_rng((seed, 1, i)))
            _write_nifti(unfinished / "imagesTs" / name, image)
        write_json(_dataset_json(training, test), unfinished / "dataset.json")
        write_json(parameters, unfinished / "phantom.json")
        unfinished.rename(task)
    return task


def _check_reusable(task: Path, parameters: dict[str, Any], training: list[str], test: list[str]) -> None:
    """Raises ProXError unless ``task`` records ``parameters`` and has all files that they stand for."""
    try:
        recorded = read_json(task / "phantom.json")
    except (OSError, ValueError):
        recorded = None
    if recorded != parameters:
        state = "no readable phantom.json" if recorded is None else f"other parameters, {recorded}"
        raise ProXError(f"{task} exists with {state}, not {parameters}; remove it or choose another folder")
    files = [task / "dataset.json", *(task / "imagesTs" / name for name in test)]
    files += [task / part / name for part in ("imagesTr", "labelsTr") for name in training]
    missing = [str(file.relative_to(task)) for file in files if not file.is_file()]
    if missing:
        raise ProXError(f"{task} exists but lacks {', '.join(missing)}; remove it or choose another folder")


def _dataset_json(training: list[str], test: list[str]) -> dict[str, Any]:
    """The Decathlon's ``dataset.json``, key for key."""
    return {
        "name": "Phantom",
        "description": "SYNTHETIC data made by a program, not images of any patient: a curved tube in two parts among "
        "distractors of the same intensity. For demonstrations and tests only.",
        "reference": "monai-prox, monai_prox/data/phantom.py",
        "licence": "CC0-1.0",
        "release": f"{GENERATOR_VERSION}.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in training],
        "test": [f"./imagesTs/{name}" for name in test],
    }


def _make_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one case: image (X, Y, Z) int16 and label (X, Y, Z) uint8."""
    shape = tuple(np.array((36, 48, 36)) + rng.integers(-3, 4, size=3))
    half = (np.array(shape) - 1) / 2
    xyz = np.stack(np.meshgrid(*(np.arange(n) - h for n, h in zip(shape, half, strict=True)), indexing="ij"), axis=-1)
    # Bending space by about a millimetre roughens every surface drawn below.
    xyz += 0.8 * np.stack([_smooth_noise(rng, shape, 4.0) for _ in range(3)], axis=-1)

    centreline, radius, border = _target_curve(rng)
    low = 2.5 - half - (centreline - radius[:, None]).min(axis=0)
    high = half - 2.5 - (centreline + radius[:, None]).max(axis=0)
    middle, slack = (low + high) / 2, np.clip((high - low) / 2, 0.0, 3.0)
    centreline = centreline + middle + slack * rng.uniform(-1, 1, size=3)
    ratio, nearest = _distance_to_curve(xyz, centreline, radius)
    label = np.where(ratio < 1, np.where(nearest < border, 1, 2), 0).astype(np.uint8)

    # Level sets of one smooth field, so that fluid and white matter have cortex between them.
    tissue = np.digitize(_smooth_noise(rng, shape, 4.0), rng.normal((-0.6, 0.5), 0.15))
    intensity = np.array(BACKGROUND)[tissue] + 0.05 * _smooth_noise(rng, shape, 1.5)
    for distractor in _distractors(rng, xyz, centreline, radius):
        intensity[distractor] = rng.uniform(POSTERIOR - 0.02, ANTERIOR + 0.02)
    # A thin capsule of white matter, as the alveus, with gaps at which a distractor can touch the target.
    capsule = (ratio >= 1) & (ratio < 1.3) & (_smooth_noise(rng, shape, 3.0) > -0.9)
    intensity[capsule] = BACKGROUND[2]
    intensity[label == 1] = ANTERIOR + rng.normal(0, 0.015)
    intensity[label == 2] = POSTERIOR + rng.normal(0, 0.015)
    intensity += 0.02 * _smooth_noise(rng, shape, 1.0)

    # Acquisition: partial volume, coil bias, contrast, Rician noise, scanner units.
    intensity = np.clip(ndimage.gaussian_filter(intensity, rng.uniform(0.6, 0.9)), 0.0, None)
    intensity = np.exp(0.12 * _smooth_noise(rng, shape, 12.0)) * intensity ** rng.uniform(0.8, 1.25)
    real, imaginary = rng.normal(0, rng.uniform(0.02, 0.05), size=(2, *shape))
    image = rng.uniform(300, 1200) * np.hypot(intensity + real, imaginary)
    return np.rint(image).astype(np.int16), label


def _target_curve(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Centreline (T, 3) in mm from head to tail, radius (T,) in mm, and the sample at which the posterior part begins.

    The border is the neck, where the tube narrows behind the head; where that lies along the axis varies.
    """
    t = np.linspace(0, 1, 64)
    neck = rng.uniform(0.28, 0.50)
    head, body, tail = rng.uniform(4.6, 5.4), rng.uniform(3.8, 4.5), rng.uniform(2.2, 3.0)
    radius = body + (tail - body) * np.clip((t - neck) / (1 - neck), 0, 1) ** 2
    radius += (head - body) / (1 + np.exp((t - neck + 0.08) / 0.03))
    radius -= rng.uniform(0.6, 1.2) * np.exp(-(((t - neck) / 0.06) ** 2))
    side, lift = rng.choice((-1, 1)) * rng.uniform(2.0, 6.0), rng.uniform(1.0, 5.0)
    x = side * np.sin(np.pi * t * rng.uniform(0.8, 1.3))
    z = lift * (t - rng.uniform(0.2, 0.5)) ** 2 * 3
    centreline = np.stack([x, rng.uniform(25, 32) * (0.5 - t), z], axis=1) @ _rotation(rng, 15).T
    return centreline, radius, int(np.searchsorted(t, neck))


def _distractors(rng: np.random.Generator, xyz: np.ndarray, centreline: np.ndarray, radius: np.ndarray) -> list[np.ndarray]:
    """Masks (X, Y, Z) of structures that share the target's intensity: sheets, a tube without a head, and blobs."""
    shape = xyz.shape[:3]
    sheet = (np.abs(_smooth_noise(rng, shape, 6.0)) < 0.18) & (_smooth_noise(rng, shape, 6.0) > 0.0)
    masks = [sheet]
    # The tube runs beside the target; the blobs lie anywhere, but for one that touches the head, as the amygdala does.
    away = np.array((rng.choice((-1, 1)) * rng.uniform(9, 13), rng.uniform(-6, 6), rng.uniform(-8, 8)))
    t = np.linspace(-0.5, 0.5, 24)
    tube = np.stack([rng.uniform(-6, 6) * np.cos(np.pi * t), rng.uniform(22, 34) * t, 8 * rng.normal() * t**2], axis=1)
    tube = tube @ _rotation(rng, 35).T + centreline.mean(axis=0) + away
    masks.append(_distance_to_curve(xyz, tube, np.full(24, rng.uniform(2.2, 3.8)))[0] < 1)
    centres = rng.uniform(-0.5, 0.5, size=(3, 3)) * shape
    direction = np.array((rng.uniform(-0.6, 0.6), 1.0, rng.uniform(-0.6, 0.6)))
    centres[0] = centreline[0] + direction / np.linalg.norm(direction) * (radius[0] + 3.0)
    for centre in centres:
        segment = centre + np.linspace(-2, 2, 4)[:, None] * _rotation(rng, 180)[0]
        masks.append(_distance_to_curve(xyz, segment, np.full(4, rng.uniform(2.5, 4.5)))[0] < 1)
    return masks


def _distance_to_curve(xyz: np.ndarray, curve: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For points (..., 3), a curve (T, 3) and its radii (T,): distance in radii, below 1 inside, and nearest sample."""
    points = xyz.reshape(-1, 3)
    squared = (points**2).sum(axis=1, keepdims=True) - 2 * points @ curve.T + (curve**2).sum(axis=1)  # (N, T)
    ratio = np.sqrt((np.clip(squared, 0, None) / radius**2).min(axis=1))
    return ratio.reshape(xyz.shape[:-1]), squared.argmin(axis=1).reshape(xyz.shape[:-1])


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise smoothed over ``sigma`` voxels, with mean 0 and standard deviation 1."""
    noise: np.ndarray = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    noise -= noise.mean()
    return noise / float(noise.std())


def _rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3): up to ``degrees`` about each axis in turn."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-degrees, degrees, size=3))):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _write_nifti(path: Path, volume: np.ndarray) -> None:
    """Write ``volume`` with 1 mm voxels; the gzip header carries no time, so that equal volumes give equal files."""
    image = nib.Nifti1Image(volume, np.eye(4))
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
