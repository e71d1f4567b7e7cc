"""What of family.json can be told from a checkpoint, where the file is lost or is of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, prod
from typing import Any, NamedTuple

from monai_prox.core.family import Family
from monai_prox.core.named_members import named_members
from monai_prox.core.space import SearchSpace
from monai_prox.errors import ProXError
from monai_prox.trained.family_file import FamilyFile, NamedMember, Scores
from monai_prox.trained.nnunet_dataset import named_scores
from monai_prox.typed import check_types

STAGE = {"name": str, "open": Mapping[str, int], "start": str}
MOST = 2**14  # members of which those with names are chosen


class Opened(NamedTuple):
    """What a training had opened when a checkpoint was written.

    space: the members that it had trained. final: those that it would have trained in the end. stage: in words.
    """

    space: SearchSpace
    final: SearchSpace
    stage: str


def dice_of(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The Dice of nnU-Net's summary.json by its keys for labels, and their mean."""
    scores = {"mean": summary["foreground_mean"]} | summary["mean"]
    dice = {key: float(values["Dice"]) for key, values in scores.items()}
    return {key: value if isfinite(value) else None for key, value in dice.items()}


def with_names(family: FamilyFile, dataset: Mapping[str, Any]) -> FamilyFile:
    """A fold's family.json, its scores by the names of its labels, which 0.1.0 did not write, else by those of ``dataset``."""
    labels = family.labels or dataset["labels"]

    def named(scores: Scores | None) -> Scores | None:
        return scores and named_scores(scores, labels)

    members = [
        replace(member, scores=named(member.scores), surface_dice=named(member.surface_dice)) for member in family.members
    ]
    return replace(family, members=tuple(members))


def opened(prox: Mapping[str, Any], family: Family, source: str) -> Opened:
    """What of ``family``, the one that remained open, a checkpoint's entry ``prox`` had trained.

    Raises ProXError, naming ``source``, where the entry does not say so.
    """
    engine, stages = prox["engine"], prox.get("stages")
    check_types(engine, {"stage": int | None}, source)
    index = max(engine["stage"] or 0, 0)  # None, or -1 of 0.1.0, before the first stage
    if not isinstance(stages, list | tuple) or not 0 <= index < len(stages):
        raise ProXError(f"{source} is of stage {engine['stage']!s:.20}, of which it has no description")
    spaces = []
    for stage in (stages[index], stages[-1]):
        check_types(stage, STAGE, f"{source}, a stage")
        if stage["start"] not in ("smallest", "largest"):
            raise ProXError(f"{source}: a stage starts with the smallest or the largest, got {stage['start']!r:.80}")
        most = {dimension: family.space.choice_count(dimension) for dimension in family.space.dimensions}
        counts = {dimension: min(count, most.get(dimension, 1)) for dimension, count in stage["open"].items()}
        spaces.append(family.space.restrict(counts, start=stage["start"]))
    return Opened(spaces[0], spaces[1], f"stage {index + 1} of {len(stages)}, {stages[index]['name']!r:.80}")


def members_of(family: Family, of: Opened, patch: Sequence[int], source: str) -> tuple[NamedMember, ...]:
    """Of those that the trainer watches the ones that are trained, without scores.

    Raises ProXError, naming ``source``, for a search space in which choosing them takes long.
    """
    choices = prod(of.final.choice_count(dimension) for dimension in of.final.dimensions)
    if choices > MOST:
        raise ProXError(f"{source}: its search space has too many choices to name members of it, {choices:,}; at most {MOST:,}")
    probes = named_members(family, patch, of.final)
    return tuple(NamedMember.of(name, subnet, family, patch) for name, subnet in probes.items() if subnet in of.space)
