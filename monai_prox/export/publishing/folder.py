"""The folder of a published family: its card, its front's picture, and a bundle and a test a member where the zoo has them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monai_prox.errors import ProXError
from monai_prox.export.bundle import write_bundle
from monai_prox.export.exportable import exportable, write_member
from monai_prox.export.folder import new_folder
from monai_prox.export.publishing.card import CARD, FRONT, Entry, family_card
from monai_prox.export.publishing.checks import check_files, check_metadata, check_network, find_schema
from monai_prox.export.publishing.details import Details
from monai_prox.export.publishing.member_bundle import LICENSE, Signed, bundle_name, check_name, complete
from monai_prox.export.publishing.unit_test import inference_test, network_test
from monai_prox.report import plot_family
from monai_prox.runtime.kinds import SEGMENTATION
from monai_prox.trained.family_file import NamedMember
from monai_prox.trained.pipeline_source import TrainedPipeline
from monai_prox.trained.source import Trained

MODELS, TESTS = "models", "ci/unit_tests"  # of the model zoo's repository
DATA_LICENCE = "docs/data_license.txt"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What was published. checks: by bundle, what each has found, in words. tests: files from the folder."""

    folder: Path
    checks: dict[str, list[str]]
    tests: list[str]


def publish(
    source: Trained,
    members: Sequence[str],
    output: Path,
    details: Details,
    *,
    name: str | None = None,
    schema: Path | None = None,
    overwrite: bool = False,
) -> Publication:
    """Writes a family as the model zoo and Hugging Face want it.

    Args:
        source: the trained family.
        members: names of members, or JSON files with subnets. None at all means all that have names.
        output: the folder to write.
        details: what only people can say.
        name: name of the family, with which those of the bundles begin. None means the name of ``output``.
        schema: the file of the metadata's schema. None means that it is downloaded, if that is possible.
        overwrite: whether an existing folder is replaced.

    Returns:
        What was written, and what the checks have found.

    Raises:
        ProXError: a member is unknown or cannot become a bundle, a check fails, or the folder exists or cannot be written. Then
            nothing is left behind.
    """
    family, source = check_name(output.resolve().name if name is None else name), _of_one_fold(source)
    named = sorted((_member(source, which) for which in members or [m.name for m in source.members()]), key=lambda m: m[1].macs)
    bundles = [bundle_name(family, member.name) for _, member in named]
    if twice := {bundle for bundle in bundles if bundles.count(bundle) > 1}:
        raise ProXError(f"several members become the bundle {', '.join(sorted(twice))}; give each once, by names that differ")
    with new_folder(output, overwrite=overwrite) as folder:
        (folder / TESTS).mkdir(parents=True)
        entries, tests = [], []
        for (which, member), bundle in zip(named, bundles, strict=True):
            place, change = folder / MODELS / bundle, f"the member {member.name} of the family {family}"
            tests.append(f"{TESTS}/test_{bundle}.py")
            test = _write_bundle(source, which, place, details, change)
            entries.append(Entry(member=member, bundle=bundle, metadata=complete(place, details, change)))
            (folder / tests[-1]).write_text(test, encoding="utf-8")
        checks = _checked(source, [folder / MODELS / bundle for bundle in bundles], entries, schema)
        picture = any((member.scores or {}).get("mean") is not None for _, member in named)
        if picture:
            words = {"measure": f"mean {source.measure}", "input": "patch" if source.kind is SEGMENTATION else "image"}
            plot_family([member for _, member in named], folder / FRONT, title=family, **words)
        data = folder / MODELS / bundles[0] / DATA_LICENCE
        text = data.read_text(encoding="utf-8", errors="replace") if data.is_file() else ""
        card = family_card(family, source, entries, details, data=text, picture=picture)
        (folder / CARD).write_text(card, encoding="utf-8")
        (folder / LICENSE).write_text(details.licence.file(None, details.copyright), encoding="utf-8")
    return Publication(folder=output, checks=checks, tests=tests)


def _of_one_fold(source: Trained) -> Trained:
    """The scores of nnU-Net's members are the mean over all folds; a bundle has the network of one, so its own scores count."""
    if "nnunet" not in source.formats:  # nnU-Net may be missing
        return source
    from monai_prox.trained.nnunet_source import TrainedNNUNet

    assert isinstance(source, TrainedNNUNet)
    return replace(source, folds=source.folds[:1])


def _member(source: Trained, which: str) -> tuple[str, NamedMember]:
    """What was asked for, with what it costs and, if it was validated, its scores."""
    name, subnet = source.member(which)
    known = next((member for member in source.members() if member.is_of(subnet)), None)
    if known is None:
        return which, NamedMember.of(name, subnet, source.supernet.family, source.size)
    return which, replace(known, name=name)


def _write_bundle(source: Trained, which: str, place: Path, details: Details, change: str) -> str:
    """Writes a member's bundle. Returns the text of its test."""
    if isinstance(source, TrainedPipeline):
        return network_test(write_member(source, which, place))
    member = exportable(source, which)
    write_bundle(Signed(member=member, details=details, change=change), place)
    return inference_test(place.name, member)


def _checked(source: Trained, bundles: Sequence[Path], entries: Sequence[Entry], schema: Path | None) -> dict[str, list[str]]:
    """By bundle what the checks have found."""
    with tempfile.TemporaryDirectory() as folder:
        found = find_schema(entries[0].metadata, Path(folder), schema)
        checks = {bundle.name: [check_files(bundle), check_metadata(bundle, found)] for bundle in bundles}
    foreign = isinstance(source, TrainedPipeline)  # to build its network would be to run its configuration, somebody's code
    for bundle in bundles:
        checks[bundle.name].append("network not run: its test does" if foreign else check_network(bundle))
    return checks
