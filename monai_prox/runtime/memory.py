"""What a case takes of the memory, from the sizes of what is made of it, and what there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from math import prod
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.runtime.description import Description, Normalisation
from monai_prox.runtime.grid import Grid
from monai_prox.runtime.labels import BAND, SLAB
from monai_prox.runtime.options import PLAIN, Options
from monai_prox.runtime.resampling import BLOCK

MEMINFO, PROCESS, STATM = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/proc/self/statm")
GROUPS = Path("/sys/fs/cgroup")
V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")  # by the group's version
CACHED = ("inactive_file", "active_file")  # of files, which a group gives up before anything else
FLOAT, HALF = 4, 2  # bytes
RESERVED: ContextVar[int] = ContextVar("RESERVED", default=0)  # bytes, see ``reserving``
MIXED = 170  # bytes for each voxel of a band in which labels are interpolated, at most


def fits(needed: int) -> bool:
    """Whether ``needed`` bytes can be had for sure: not where the system does not tell."""
    free = available()
    return free is not None and needed <= min([free, *_left_to_process()])


@contextmanager
def reserving(count: int) -> Iterator[None]:
    """Within it, in this thread, nothing fits that does not leave ``count`` bytes for others."""
    token = RESERVED.set(count)
    try:
        yield
    finally:
        RESERVED.reset(token)


def check_fits(needed: int) -> None:
    """Raises ProXError unless ``needed`` bytes can be had. Where the system does not tell, nothing is checked."""
    free = available()
    if free is not None and needed + RESERVED.get() > free:
        raise ProXError(f"it would take {_in_words(needed)} of memory, and there are {_in_words(free)}")


def available() -> int | None:
    """Bytes that this process can have before others are swapped out or it is stopped; None where Linux does not tell."""
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return max(0, min([free, *_left_to_groups()]))


def _left_to_process() -> Iterator[int]:
    """Bytes that ``ulimit -v`` leaves to it, of its address space, of which it may have some more that is free."""
    import resource  # which only systems with such limits have

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = int(STATM.read_text().split()[0])
        yield limit - pages * resource.getpagesize()


def _left_to_groups() -> Iterator[int]:
    """Bytes that control groups, as containers have them, leave to this process: its own group and all around it."""
    try:
        entries = [line.split(":", 2) for line in PROCESS.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers in ("", "memory"):
            root, names = (GROUPS, V2) if controllers == "" else (GROUPS / controllers, V1)
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root) and (left := _left_to(folder, *names)) is not None:
                    yield left


def _left_to(group: Path, limit: str, used: str) -> int | None:
    """None for a group without a limit, and for one that this process does not see."""
    try:
        lines = dict(line.split(maxsplit=1) for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(lines.get(f"total_{name}", lines.get(name, 0))) for name in CACHED)
        return int((group / limit).read_text()) - int((group / used).read_text()) + cached
    except (OSError, ValueError):  # of version 2, "max" is no limit
        return None


def needed_for(grid: Grid, description: Description, options: Options = PLAIN) -> int:
    """The most bytes that a case takes at a time once its image is read: more than the image, which is given up on the way.

    What the network has between its layers is not counted: it depends on the patch alone, and stays for the next case.
    """
    image = FLOAT * len(description.channels) * prod(grid.whole)
    to_predict = _to_predict(grid, description, options)
    for second in options.second_opinions:  # one that prepares images in another way is checked when it does
        if second.shares_images(description):
            of_second = _to_predict(grid, second.description, options.of_second_opinion)
            to_predict = max(to_predict, _label_bytes(description) * prod(grid.whole) + of_second)
    return max(_to_prepare(grid, description), to_predict - image, 0)


def _to_prepare(grid: Grid, description: Description) -> int:
    whole, cropped, rules = prod(grid.whole), prod(grid.cropped), description.normalisation
    masked = any(rule.masked and rule.scheme != "NormalizeIntensity" for rule in rules)
    copied = FLOAT * cropped if grid.cropped != grid.whole or description.transpose != (0, 1, 2) else 0
    at_a_time = max(cropped, FLOAT * cropped * max(map(_copies, rules)), FLOAT * _between_axes(grid))
    return whole * (4 if masked else 1) + copied + at_a_time + FLOAT * len(rules) * prod(grid.shape)


def _copies(rule: Normalisation) -> int:
    """How many copies of a channel are made to normalise it."""
    if rule.scheme == "ZScoreNormalization":
        return 2 if rule.masked else 1
    return 2 if rule.scheme == "NormalizeIntensity" else 0


def _between_axes(grid: Grid) -> int:
    """Voxels of a channel that are there between axes that are resampled, of which what shrinks most comes first.

    Those before and after, the channel itself left out, and a block of both.
    """
    sizes = [prod(grid.cropped)]
    for ratio in sorted(new / old for new, old in zip(grid.shape, grid.cropped, strict=True)):
        if ratio != 1:
            sizes.append(round(sizes[-1] * ratio))
    most = 0
    for index, pair in enumerate(pairwise(sizes)):
        most = max(most, sum(pair[index == 0 :]) + sum(min(BLOCK, size) for size in pair))
    return most


def _to_predict(grid: Grid, description: Description, options: Options) -> int:
    channels, outputs, locator = len(description.channels), description.outputs, options.locator
    small = None if locator is None else locator.description
    patches = [of.patch for of in (description, small) if of is not None]
    padded = max(prod(map(max, grid.shape, (1, *patch)[-3:])) for patch in patches)
    prepared, patch = FLOAT * channels * prod(grid.shape), max(map(prod, patches))
    if padded > prod(grid.shape):
        prepared += FLOAT * channels * padded
    logits = HALF * outputs * padded
    if locator is not None:  # the small network's logits, where they matter, and a slice of them in full precision, twice
        of_mask = 1 if locator.unsure is None else FLOAT + 2  # and the sum of the weights of some tiles, and what they cover
        of_parts = FLOAT * padded if locator.specks else 0  # gone before the large one's logits come
        slices = 2 * FLOAT * outputs * prod(grid.shape[1:])
        logits = HALF * outputs * padded + max(logits, of_parts) + of_mask * padded + slices
    tile = FLOAT * patch * (channels + outputs + 3)  # and its weights, and one output weighed
    if options.mirror:
        tile += FLOAT * patch * (channels + outputs)
    labels = prod(grid.whole) * _label_bytes(description) + MIXED * min(BAND, prod(grid.cropped[1:]))
    # Of what is kept of labels: their mask, and the number of each voxel's component
    kept = labels + 5 * prod(grid.whole) if options.postprocess and description.postprocessing else 0
    if options.probabilities:
        slab = FLOAT * description.outputs * prod(grid.cropped[1:]) * SLAB
        labels = max(labels, FLOAT * description.outputs * prod(grid.whole) + 3 * slab)
    return prepared + max(logits + max(tile, padded, labels), kept)


def _label_bytes(description: Description) -> int:
    """Of a voxel."""
    values = description.regions or (description.outputs - 1,)
    return 1 if max(values) < 255 else 2


def _in_words(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
