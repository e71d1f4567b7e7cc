"""The certificate: what was measured on which cases and on which machine. Plain data, without any name of a case.

A case is known by digests of its voxels. Whoever has the image can tell that it was among the cases, and nobody else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.files import parse_json
from monai_prox.runtime.dice import mean_score
from monai_prox.runtime.model_entries import read_entry, write_entry
from monai_prox.runtime.options import Options
from monai_prox.typed import typed

KEY = "monai_prox_certificate"  # in a model file
FORMAT = 1
DIGEST = re.compile(r"[0-9a-f]{32}")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
MOST_CASES, MOST_LABELS, MOST_REPEATS = 10_000, 1_000, 1_000
MOST_VOXELS = 2**40
LEAST_SECONDS, MOST_SECONDS = 1e-6, 1e7  # of a case
MOST_MEMORY = 2**50  # bytes
MOST_CORES = 2**16
LONGEST = 200  # characters of a name


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A label or region in the segmentation of a case.

    Args:
        voxels: number of voxels that have it.
        true_voxels: number of voxels that should have it, or None without labels.
        dice: Dice, or None without labels, and if no voxel has it or should have it.
    """

    voxels: int
    true_voxels: int | None = None
    dice: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.voxels <= MOST_VOXELS and 0 <= (self.true_voxels or 0) <= MOST_VOXELS):
            raise ProXError(f"a label has {self.voxels} and {self.true_voxels} voxels; allowed are 0 to {MOST_VOXELS:,}")
        if self.dice is not None and not 0 <= self.dice <= 1:
            raise ProXError(f"Dice is 0 to 1, got {self.dice:g}")


@dataclass(frozen=True, kw_only=True)
class CaseFigures:
    """What was measured of a case.

    Args:
        image: digest of the voxels and spacing that were read.
        truth: digest of the labels, or None without labels.
        segmentation: digest of the labels that were predicted.
        segments: by the name of the label or region.
        seconds: of each repeat, from the image's file to the labels, without writing them.
        memory: most bytes that the process had meanwhile, or None if the system does not tell.
    """

    image: str
    truth: str | None = None
    segmentation: str
    segments: Mapping[str, Segment]
    seconds: tuple[float, ...]
    memory: int | None = None

    def __post_init__(self) -> None:
        for digest in (self.image, self.segmentation, self.truth):
            if digest is not None and not DIGEST.fullmatch(digest):
                raise ProXError(f"a digest is 32 hexadecimal digits, got {digest!r:.80}")
        if not 1 <= len(self.segments) <= MOST_LABELS or max(map(len, self.segments)) > LONGEST:
            raise ProXError(f"a case has {len(self.segments)} labels; allowed are 1 to {MOST_LABELS:,} of {LONGEST} characters")
        if not 1 <= len(self.seconds) <= MOST_REPEATS or not all(LEAST_SECONDS <= s <= MOST_SECONDS for s in self.seconds):
            raise ProXError(
                f"the seconds of a case are {self.seconds!s:.80}; allowed are 1 to {MOST_REPEATS:,} numbers from "
                f"{LEAST_SECONDS:g} to {MOST_SECONDS:g}"
            )
        if self.memory is not None and not 0 < self.memory <= MOST_MEMORY:
            raise ProXError(f"the memory of a case is {self.memory} bytes; allowed are 1 to {MOST_MEMORY:,}")

    @cached_property
    def dice(self) -> dict[str, float]:
        """By the name of each label that has one."""
        return {name: segment.dice for name, segment in self.segments.items() if segment.dice is not None}

    @cached_property
    def mean_dice(self) -> float:
        """The mean over the labels that have one; NaN if none has."""
        return mean_score(self.dice)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a file was measured on, without the machine's name.

    Args:
        processor: the processor's name.
        system: kind of the operating system.
        cores: number of logical cores.
        threads: number of threads that the network had.
        runtime: name and version of what ran the network.
        provider: on what ONNX Runtime ran it; "cpu" for other runtimes.
        versions: of Python packages, by their names.
    """

    processor: str
    system: str
    cores: int
    threads: int
    runtime: str
    provider: str
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        texts = (self.processor, self.system, self.runtime, self.provider, *self.versions, *self.versions.values())
        if max(map(len, texts)) > LONGEST or len(self.versions) > MOST_LABELS:
            raise ProXError(
                f"the machine is described by texts of up to {max(map(len, texts)):,} characters, at most {LONGEST}"
            )
        if not (1 <= self.cores <= MOST_CORES and 1 <= self.threads <= MOST_CORES):
            raise ProXError(f"{self.cores} cores and {self.threads} threads; allowed are 1 to {MOST_CORES:,}")

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.processor}, cores {self.cores}, threads {self.threads}, {self.system}, {self.runtime} on {self.provider}, "
            f"{versions}"
        )

    def differences(self, other: Machine) -> list[str]:
        """What is not equal in both, in words."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the prediction, see ``monai_prox.runtime.options.Options``."""

    step: float = Options.step
    mirror: bool = False
    postprocess: bool = True

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> Options:
        """Raises ProXError for what no prediction takes."""
        return Options(step=self.step, mirror=self.mirror, postprocess=self.postprocess)

    def __str__(self) -> str:
        mirrored = "mirrored" if self.mirror else "not mirrored"
        return f"step size {self.step:g}, {mirrored}, {'with' if self.postprocess else 'without'} postprocessing"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Measurements of a model file.

    Args:
        date: of the measurement, year-month-day.
        settings: of the prediction.
        machine: that it ran on.
        cases: figures by case.
    """

    date: str
    settings: Settings
    machine: Machine
    cases: tuple[CaseFigures, ...]

    def __post_init__(self) -> None:
        if not DATE.fullmatch(self.date):
            raise ProXError(f"the date is {self.date!r:.40}; it must be like 2026-01-31")
        if not 1 <= len(self.cases) <= MOST_CASES:
            raise ProXError(f"it has {len(self.cases):,} cases; allowed are 1 to {MOST_CASES:,}")


def expected_size(cases: int, labels: Iterable[str], repeats: int, *, scored: bool) -> int:
    """About how many characters a certificate has, of which ``write_certificate`` takes ``MOST_BYTES`` at most.

    Args:
        cases: number of cases.
        labels: names of the labels or regions that are scored.
        repeats: number of predictions of each case.
        scored: whether they have Dice.
    """
    segment = Segment(voxels=10**9, true_voxels=10**9, dice=1 / 3) if scored else Segment(voxels=10**9)
    of = CaseFigures(
        image="0" * 32,
        truth="0" * 32,
        segmentation="0" * 32,
        segments=dict.fromkeys(labels, segment),
        seconds=(100 / 3,) * repeats,
        memory=10**11,
    )
    return cases * len(json.dumps(asdict(of)))


def to_json(certificate: Certificate) -> str:
    """What a file has of a certificate."""
    return json.dumps({"format": FORMAT, **asdict(certificate)})


def parse_certificate(text: str, source: str) -> Certificate:
    """A certificate from what a file has of it.

    Args:
        text: JSON.
        source: the file, which errors name.

    Raises:
        ProXError: it is not what ``to_json`` makes.
    """
    data = parse_json(text, f"{source}: its certificate")
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        raise ProXError(f"{source}: its certificate has the format {found!r:.40}; this version reads {FORMAT}")
    given = {name: value for name, value in data.items() if name != "format"}
    with _about(source):
        return typed(Certificate, given, "it")


@contextmanager
def _about(source: str) -> Iterator[None]:
    try:
        yield
    except ProXError as error:
        raise ProXError(f"{source}: its certificate is malformed: {error}") from None


def has_certificate(path: Path) -> bool:
    """Whether a model file has a certificate, or what should be one."""
    return read_entry(path, KEY) is not None


def read_certificate(path: Path) -> Certificate | None:
    """The certificate in a model file, or None if it has none. Raises ProXError for one that is malformed."""
    text = read_entry(path, KEY)
    return None if text is None else parse_certificate(text, str(path))


def write_certificate(certificate: Certificate, path: Path) -> None:
    """Puts a certificate into a model file, in the place of the one that is there.

    Raises:
        ProXError: the file is not of its format.
        OSError: the file cannot be written. Then it is as before.
    """
    write_entry(path, KEY, to_json(certificate))
