"""Synthetic B-scans in the folder layout of the Kermany retinal OCT data set: SYNTHETIC, made by a program, of no patient.

A scan shows the layers of a retina around its fovea, with vessel shadows and speckle. Each patient is scanned by a device with
its own contrast, noise and sharpness. The classes are:

NORMAL  no lesion.
DRUSEN  one to four low bumps of the pigment epithelium.
DME     dark cysts between the inner layers, which are swollen there.
CNV     a bright, ragged mass below a raised pigment epithelium, with its shadow, and often fluid above it.

Small lesions are a few pixels high. Uneven epithelia, shadows and wide pits occur in all classes. So a network has to tell
shape from noise. A higher severity makes lesions larger, for short trainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from monai_prox.data.oct import CLASSES
from monai_prox.errors import ProXError
from monai_prox.files import read_json, temporary_folder, write_json

NAME = "phantom_oct"
GENERATOR_VERSION = 2
SCANS = 2  # per patient
PATIENTS: Mapping[str, int] = {"train": 60, "val": 15, "test": 30}  # per class

Array = NDArray[np.float64]

# The end and the brightness of each layer. Depth is 0 at the inner limiting membrane and 1 at the pigment epithelium.
LAYERS = ((0.14, 0.72), (0.38, 0.45), (0.52, 0.30), (0.60, 0.46), (0.86, 0.22), (0.90, 0.62), (0.93, 0.30), (1.00, 0.92))


def write_phantom_scans(
    folder: Path | str,
    *,
    patients: Mapping[str, int] = PATIENTS,
    size: tuple[int, int] = (224, 224),
    severity: float = 1.0,
    seed: int = 0,
) -> Path:
    """Writes ``<folder>/phantom_oct/{train,val,test}/CLASS/CLASS-PATIENT-NUMBER.jpeg``.

    A scan depends on the size, the severity, the seed, its patient and its number only. A folder with the same arguments is
    returned as it is.

    Args:
        folder: folder in which phantom_oct is made.
        patients: number of patients of each class, by split. No patient is in two classes or splits.
        size: pixels (rows, columns).
        severity: factor of the heights and widths of lesions, from 0.5 to 3.
        seed: seed of all scans.

    Returns:
        ``<folder>/phantom_oct``.

    Raises:
        ProXError: an argument is out of range, or the folder exists with other arguments.
    """
    if set(patients) != set(PATIENTS) or not all(type(count) is int and count > 0 for count in patients.values()):
        raise ProXError(f"patients must be positive numbers for {', '.join(PATIENTS)}, got {dict(patients)}")
    if len(size) != 2 or min(size) < 64:
        raise ProXError(f"size must be two numbers of at least 64 pixels, got {list(size)}")
    if not 0.5 <= severity <= 3:
        raise ProXError(f"severity must be from 0.5 to 3, got {severity}")
    settings = {"patients": dict(patients), "size": list(size), "severity": severity, "seed": seed}
    settings["generator_version"] = GENERATOR_VERSION
    settings["description"] = "SYNTHETIC images made by a program, not of any patient. For demonstrations and tests only."
    target = Path(folder) / NAME
    if target.exists():
        recorded = target / "phantom.json"
        if not recorded.is_file() or read_json(recorded) != settings:
            raise ProXError(f"{target} exists and was not made with {settings}; remove it or choose another folder")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target) as temporary:
        unfinished = temporary / NAME
        numbers = itertools.count(1)
        for split, count in patients.items():
            for kind in CLASSES:
                (unfinished / split / kind).mkdir(parents=True)
                for patient in itertools.islice(numbers, count):
                    for number in range(1, SCANS + 1):
                        image = Image.fromarray(
                            scan(kind, size=size, severity=severity, patient=(seed, patient), number=number)
                        )
                        image.save(unfinished / split / kind / f"{kind}-{1000 + patient}-{number}.jpeg", quality=90)
        write_json(settings, unfinished / "phantom.json")
        unfinished.rename(target)
    return target


@dataclass(frozen=True)
class _Eye:
    """The eye of one patient, and the device that scans it. Lengths are fractions of the image's height or width."""

    level: float
    tilt: float
    bend: float
    thickness: float
    pit: float  # depth of the fovea, relative to the thickness
    pit_width: float
    fovea: float
    unevenness: float  # of the pigment epithelium, pixels
    shadows: int
    # of the device
    gamma: float
    noise: float
    blur: float
    decay: float

    @classmethod
    def draw(cls, g: np.random.Generator) -> _Eye:
        return cls(
            level=g.uniform(0.50, 0.70),
            tilt=g.uniform(-0.12, 0.12),
            bend=g.uniform(-0.10, 0.16),
            thickness=g.uniform(0.17, 0.25),
            pit=g.uniform(0.25, 0.65),
            pit_width=g.uniform(0.06, 0.14),
            fovea=g.uniform(0.3, 0.7),
            unevenness=g.uniform(0.1, 1.2),
            shadows=int(g.integers(1, 6)),
            gamma=g.uniform(0.8, 1.5),
            noise=g.uniform(0.25, 0.55),
            blur=g.uniform(0.3, 0.9),
            decay=g.uniform(4.0, 9.0),
        )


def scan(
    kind: str, *, size: tuple[int, int], patient: tuple[int, int], number: int, severity: float = 1.0
) -> NDArray[np.uint8]:
    """One B-scan.

    Args:
        kind: name of the class.
        size: pixels (rows, columns).
        patient: the seed and the number of the patient.
        number: number of the scan of this patient.
        severity: factor of the heights and widths of lesions.

    Returns:
        (rows, columns), from 0 to 255.
    """
    eye = _Eye.draw(np.random.default_rng(patient))
    g = np.random.default_rng((*patient, number))
    rows, columns = size
    x = np.linspace(0, 1, columns)
    y = np.arange(rows, dtype=float)[:, None]

    def rough(smoothness: float) -> Array:
        """Of mean square 1 along the columns."""
        line = ndimage.gaussian_filter1d(g.normal(size=columns), smoothness * columns / 224, mode="nearest")
        return np.asarray(line / max(float(line.std()), 1e-9))

    def bell(centre: float, width: float, power: float = 2.0) -> Array:
        return np.asarray(np.exp(-(np.abs((x - centre) / width) ** power)))

    unit = rows / 224  # structures scale with the image
    lesion = severity * unit
    fovea = eye.fovea + g.uniform(-0.06, 0.06)
    epithelium = rows * (eye.level + eye.tilt * (x - 0.5) - eye.bend * ((x - 0.5) ** 2 - 0.08))
    epithelium = epithelium + unit * eye.unevenness * rough(6)
    thickness = rows * eye.thickness * (1 - eye.pit * bell(fovea, eye.pit_width) + 0.12 * bell(fovea, 3 * eye.pit_width))
    base, lift, mass = epithelium.copy(), np.zeros(columns), np.zeros(columns)
    cysts: list[tuple[float, float, float, float]] = []  # centre x, layer, half width, half height in pixels
    fluid = np.zeros(columns)

    if kind == "DRUSEN":
        for _ in range(g.integers(1, 5)):
            width = severity * g.uniform(0.012, 0.035)
            lift = np.maximum(lift, lesion * g.uniform(2, 6) * bell(g.uniform(0.08, 0.92), width, 2.5))
    elif kind == "DME":
        centre = float(np.clip(fovea + g.normal(0, 0.12), 0.12, 0.88))
        thickness = thickness + rows * g.uniform(0.0, 0.10) * bell(centre, g.uniform(0.08, 0.2))
        for _ in range(g.integers(1, 7)):
            across = lesion * g.uniform(2.5, 9)
            cysts.append((centre + g.normal(0, 0.07), g.uniform(0.35, 0.78), across, across * g.uniform(0.5, 1.1)))
    elif kind == "CNV":
        centre, width = float(np.clip(fovea + g.normal(0, 0.1), 0.15, 0.85)), g.uniform(0.04, 0.14)
        ragged = 1 + 0.3 * rough(3)
        mass = np.clip(lesion * g.uniform(5, 20) * bell(centre, width, 3) * ragged, 0, None)
        lift = mass * g.uniform(0.7, 1.0)
        if g.random() < 0.6:
            fluid = lesion * g.uniform(3, 9) * bell(centre + g.normal(0, 0.05), width * g.uniform(0.8, 1.6), 3)

    epithelium = base - lift
    thickness = thickness - 0.8 * np.minimum(lift, 0.6 * thickness)  # the outer layers are compressed
    depth = (y - (epithelium - fluid - thickness)) / np.maximum(
        thickness, 1
    )  # 0 at the inner limiting membrane, 1 above the fluid
    image = np.full(size, 0.06)
    inner = 0.0
    for outer, bright in LAYERS:
        image = np.where((depth >= inner) & (depth < outer), bright, image)
        inner = outer
    band = y - epithelium  # pixels below the inner border of the pigment epithelium
    if fluid.any():
        image = np.where((band < 0) & (band >= -fluid), 0.05, image)
    depth_below = np.maximum(y - base, 0) / rows
    texture = ndimage.gaussian_filter(g.normal(size=size), (2 * unit, 3 * unit)) * 6
    choroid = (0.55 + 0.18 * texture) * np.exp(-eye.decay * depth_below)
    image = np.where(band >= 0, choroid, image)
    inside = (band >= 0) & (y < base + 2 * unit)
    image = np.where(inside & (mass > 0.5), 0.72 + 0.1 * texture, image)  # the mass of a CNV
    image = np.where(inside & (mass <= 0.5) & (lift > 0.5), 0.5, image)  # the content of a druse
    thick = 3.2 * unit
    image = np.where((band >= 0) & (band < thick), np.where(mass > 2 * unit, 0.70, 0.95), image)

    for centre_x, layer, across, high in cysts:
        column = int(np.clip(centre_x * columns, 0, columns - 1))
        row = (epithelium - fluid - thickness)[column] + layer * thickness[column]
        image = np.where(((np.arange(columns) - column) / across) ** 2 + ((y - row) / high) ** 2 < 1, 0.07, image)

    light = np.ones(columns)
    for _ in range(eye.shadows):
        light *= 1 - g.uniform(0.2, 0.6) * bell(g.uniform(0, 1), g.uniform(0.003, 0.012))
    light = light[None] ** np.clip(depth * 2, 0, 1)  # vessels lie in the inner layers
    light = light * np.where(y > base, 1 - 0.6 * np.clip(mass / (12 * unit), 0, 1), 1)
    image = ndimage.gaussian_filter(np.clip(image * light, 0, 1), eye.blur * unit)
    speckle = ndimage.gaussian_filter(g.gamma(1 / eye.noise**2, eye.noise**2, size=size), 0.45 * unit)
    image = np.clip(image * speckle + g.normal(0.02, 0.02, size), 0, 1) ** eye.gamma
    return np.asarray(np.rint(255 * np.clip(image, 0, 1)), dtype=np.uint8)
