"""The search: members within a budget, scored on real files, kept in a storage that processes share."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import SimpleITK as sitk  # noqa: N813 (as everybody writes it)
import torch
from helpers.architectures import unet_architecture
from helpers.in_process import output_of, prox
from helpers.nnunet_task import (
    BARE_DATASET,
    SHALLOW,
    TWO_LEVELS,
    TWO_MEMBERS,
    bare_model,
    bare_plans,
    environment,
    write_held_out,
)
from helpers.refusals import refused
from helpers.searches import NAMES, made_up_device, report_of, search_of
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.storages.journal import JournalFileSymlinkLock
from torch import nn

from monai_prox.core import cost
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.export.device_file import export_file
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.files import write_json
from monai_prox.latency.device import Device
from monai_prox.runtime.cases import Case, read_case
from monai_prox.runtime.evaluation import LabelledScan, LabelledScans, SegmentedCases
from monai_prox.runtime.prediction import label
from monai_prox.runtime.preprocessing import prepare
from monai_prox.search.budget import UNITS, Budget, Price, Prices
from monai_prox.search.front import front, fronts, hypervolume
from monai_prox.search.parameters import distributions
from monai_prox.search.recorded import read_recorded
from monai_prox.search.report import front_table, name_of, report_folder
from monai_prox.search.scored import Scored, SearchProgress
from monai_prox.search.settings import POPULATION
from monai_prox.search.storage import open_storage
from monai_prox.search.study import Search
from monai_prox.search.torch_runner import runnable
from monai_prox.surface_dice import surface_dice_of
from monai_prox.trained.door import open_trained
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

SIZE = (32, 32, 32)
FAMILIES = [
    UNetFamily(unet_architecture(kind, axes=3), input_channels=1, num_classes=3, patch_size=SIZE)
    for kind in ("PlainConvUNet", "ResidualEncoderUNet")
]


# ---------------------------------------------------------------------- fronts
def test_a_front_is_what_no_other_beats() -> None:
    points = np.array([[1, 5], [2, 2], [2, 3], [5, 1], [4, 4], [2, 2]], float)
    assert front(points) == [0, 1, 3], "of equal rows the first"
    assert fronts(points, 10) == [0, 1, 3, 5, 2, 4] or set(fronts(points, 10)) == set(range(6))
    assert set(fronts(points, 3)) == {0, 1, 3}
    assert set(fronts(points, 2)) == {0, 3}, "evenly along the last objective, its ends first"
    assert fronts(points, 1) == [0], "the best by the first objective"


def test_a_table_says_what_its_scores_are_only_if_the_familys_are_others(bare: Path) -> None:
    """nnU-Net's validation mirrors; a bundle's scores its members as the search does."""
    stock = TrainedNNUNet.open(bare_model(bare_plans()).path)
    assert str(front_table([], ["macs"], stock).caption).endswith("monai-prox family lists those of nnU-Net's validation")
    for name in ("hippocampus_prox", "roct_prox"):
        assert front_table([], ["macs"], open_trained(Path(__file__).parents[2] / "bundles" / name)).caption is None


def test_a_hypervolume_is_the_area_below_the_steps() -> None:
    e = np.e
    assert hypervolume([0.5], [1], e**2) == pytest.approx(0.5 * 2)
    assert hypervolume([0.5, 0.8], [1, e], e**2) == pytest.approx(0.5 + 0.8)
    assert hypervolume([0.5, 0.8, 0.4], [1, e, e], e**2) == pytest.approx(0.5 + 0.8), "what is beaten adds nothing"
    assert hypervolume([0.5, 0.9], [1, e**3], e**2) == pytest.approx(0.5 * 2), "beyond the worst cost there is nothing"


# ---------------------------------------------------------------------- budgets
@given(st.sampled_from(FAMILIES), st.integers(0, 2**32))
def test_ranks_are_the_inverse_of_the_nearest_member(family: UNetFamily, seed: int) -> None:
    subnet = family.space.sample(random.Random(seed))
    assert family.space.nearest(family.space.ranks(subnet)) == subnet


@given(st.sampled_from(FAMILIES), st.integers(0, 2**32), st.floats(0.02, 1))
def test_whatever_is_proposed_becomes_a_member_within_the_budget(family: UNetFamily, seed: int, share: float) -> None:
    generator, prices = random.Random(seed), Prices(family, SIZE)
    ranks = {name: [generator.randrange(4) for _ in slots] for name, slots in family.space.dimensions.items()}
    smallest, largest = (prices.price(end) for end in (family.space.smallest(), family.space.largest()))
    budget = Budget(macs=smallest.macs + share * (largest.macs - smallest.macs), memory_mb=largest.memory_mb)
    subnet = budget.nearest(ranks, prices)
    assert subnet in family.space and budget.allows(prices.price(subnet))
    assert subnet == budget.nearest(ranks, prices)
    assert Budget().nearest(ranks, prices) == family.space.nearest(ranks)


def test_whatever_costs_something_can_be_limited_and_is_named() -> None:
    assert set(UNITS) == {field.name for field in fields(Budget)} == {field.name for field in fields(Price)}


def test_a_budget_that_no_member_meets_names_the_closest() -> None:
    prices = Prices(FAMILIES[0], SIZE)
    cheapest = prices.price(FAMILIES[0].space.smallest())
    words = refused("no member is within the budget (MACs a patch 1000)", Budget(macs=1000).cheapest, prices)
    assert f"the closest has MACs a patch {cheapest.macs:.4g}: levels=" in words
    assert Budget(macs=cheapest.macs).cheapest(prices) == FAMILIES[0].space.smallest()
    refused("the most memory, MB is 0; it must be above 0", Budget, memory_mb=0)


@given(st.lists(st.integers(1, 90), min_size=3, max_size=3), st.lists(st.integers(4, 40), min_size=3, max_size=3))
def test_patches_are_counted_as_nnunet_lays_them(image: list[int], patch: list[int]) -> None:
    padded = tuple(max(pair) for pair in zip(image, patch, strict=True))
    steps = compute_steps_for_sliding_window(padded, tuple(patch), 0.5)
    wanted = int(np.prod([len(axis) for axis in steps]))
    assert cost.tiles(image, patch) == wanted and cost.tiles(image, patch, mirrored=3) == 8 * wanted
    flat = int(np.prod([len(axis) for axis in steps[1:]]))
    assert cost.tiles(image, patch[1:]) == image[0] * flat, "on every slice"


# ---------------------------------------------------------------------- searching
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For every score that is computed, the case, and the weights of the network."""
    seen: list[tuple[int, int]] = []
    scores = SegmentedCases.class_scores

    def watching(self: SegmentedCases, which: Sequence[int], description: Any, network: Any) -> list[dict[str, float]]:
        seen.extend((index, LAST[0]) for index in which)
        return scores(self, which, description, network)

    extract = TrainedNNUNet.network

    def network(self: TrainedNNUNet, subnet: Any) -> nn.Module:
        built = extract(self, subnet)
        LAST[0] = sum(weight.numel() for weight in built.parameters())
        return built

    monkeypatch.setattr(SegmentedCases, "class_scores", watching)
    monkeypatch.setattr(TrainedNNUNet, "network", network)
    return seen


LAST = [0]


def test_a_search_scores_members_on_some_cases_and_the_best_on_all(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, told = watched(monkeypatch), list[SearchProgress]()
    result = search_of(source, tmp_path / "new" / "study.journal").run(told.append)
    assert len(result.members) == 10 and len({one.subnet for one in result.members}) == 10
    assert [list(one.scores) for one in result.members] == [["case_0"]] * 10
    assert [list(one.scores) for one in result.finalists] == [NAMES] * 3
    assert len(seen) == 10 + 3 * 2, "what has been scored is not scored again"
    space = source.supernet.family.space
    best = max(result.finalists, key=lambda one: one.score)
    assert best.subnet == space.largest() and best.score == pytest.approx(1, abs=1e-4)
    assert {space.smallest(), space.largest()} <= {one.subnet for one in result.members}
    counted = {one.price.parameters for one in result.members}
    assert {weights for _, weights in seen} == counted, "no member needs a larger network than itself"
    assert (told[-1].phase, told[-1].done, told[-1].total) == ("finalists", 3, 3) and told[9].phase == "members"
    assert result.seconds > 0


def test_a_case_that_cannot_be_read_is_named_and_left_out(source: TrainedNNUNet, tmp_path: Path) -> None:
    """Among those that all members are scored on, and among the others."""
    raw = source.path.parents[2] / "raw" / "Dataset990_Phantom"
    (raw / "imagesTr" / "case_0_0000.nii.gz").write_bytes(b"no image")
    (raw / "labelsTr" / "case_1.nii.gz").write_bytes(b"no labels")
    search = search_of(source, tmp_path / "study.journal", trials=3, cases=3, finalists=2)
    result = search.run()
    assert [list(one.scores) for one in result.members] == [["case_2"]] * 3
    assert [list(one.scores) for one in result.finalists] == [["case_2"]] * 2
    assert list(search.held_out.left_out) == ["case_0", "case_1"]
    assert "case_0_0000.nii.gz cannot be read" in search.held_out.left_out["case_0"]
    written = report_of(result, tmp_path)
    assert written["cases"] == {"some": 1, "all": 1, "left_out": search.held_out.left_out}
    again = report_of(search_of(source, tmp_path / "study.journal", trials=3, cases=3, finalists=2).run(), tmp_path)
    assert again["cases"] == written["cases"]
    (raw / "imagesTr" / "case_2_0000.nii.gz").write_bytes(b"no image")
    refused("none of 3 held-out cases can be used, e.g. case_0: ", search_of(source, tmp_path / "other.journal", cases=3).run)


def test_images_of_two_axes_are_searched_and_quantised(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = BARE_DATASET | {"file_ending": ".mha"}
    model = bare_model(bare_plans(patch=(24, 32), prox={"space": TWO_MEMBERS}, **TWO_LEVELS), dataset=dataset)
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, NAMES, flat=True).parent))
    monkeypatch.setattr("monai_prox.search.budget.LOOKED_AT", 9)
    source = TrainedNNUNet.open(model.path)
    result = search_of(source, tmp_path / "study.journal", trials=2, cases=2, finalists=1).run()
    assert max(one.score for one in result.members) == pytest.approx(1, abs=1e-4)
    loss = export_file(source, "largest", tmp_path / "int8.onnx", "onnx", int8=True, most_loss=1)
    assert loss is not None and loss.before == pytest.approx(1, abs=1e-4) and loss.calibrated == 2


def test_members_are_scored_by_what_torch_computes(source: TrainedNNUNet) -> None:
    name, subnet = source.member("largest")
    description, network = source.describe(subnet, name=name), source.network(subnet)
    x = torch.randn(1, *description.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = network(x).numpy()
    np.testing.assert_allclose(runnable(source.network(subnet))(x.numpy()), wanted, atol=1e-4)


def test_surface_dice_is_searched_for_where_it_is_asked_for(source: TrainedNNUNet, tmp_path: Path) -> None:
    by_surface = source.scored_by("surface_dice")
    assert source.scored_by("dice") is source and by_surface.held_out().fingerprint() != source.held_out().fingerprint()
    result = search_of(by_surface, tmp_path / "study.journal", trials=5, finalists=1).run()
    scores = {one.subnet: one.score for one in result.members}
    space = source.supernet.family.space
    assert scores[space.largest()] == pytest.approx(1, abs=1e-4) and 0 <= scores[space.smallest()] < 1
    dice = search_of(source, tmp_path / "study.journal", trials=1, finalists=1).run()
    assert scores[space.smallest()] != {one.subnet: one.score for one in dice.members}[space.smallest()], "nor mixed with it"
    contents = report_of(result, tmp_path)
    assert contents["measure"] == "surface Dice"
    caption = str(front_table([], ["macs"], by_surface).caption)
    assert caption == "Surface Dice within 1 mm, without mirroring, as monai-prox predict computes labels"
    refused("this family is scored by dice or surface_dice; got 'accuracy'", source.scored_by, "accuracy")
    roct = open_trained(Path(__file__).parents[2] / "bundles" / "roct_prox")
    refused("this family is scored by accuracy; got 'surface_dice'", roct.scored_by, "surface_dice")
    said = output_of("search", source.path, "--metric", "surface_dice", "--trials", 1, "--finalists", 1)
    assert "Surface Dice (cases)" in said


def test_surface_dice_is_in_mm_of_the_image_whatever_the_network_s_order_of_axes(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = bare_plans() | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    model = bare_model(turned)
    raw = write_held_out(model, NAMES[:1])
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    for file in raw.glob("*/*.nii.gz"):
        image = sitk.ReadImage(file)
        image.SetSpacing((0.7, 1.1, 3.0))
        sitk.WriteImage(image, file)
    source = TrainedNNUNet.open(model.path)
    description, network = source.describe("smallest"), runnable(source.network("smallest"))
    (found,) = source.scored_by("surface_dice").held_out().scores([0], description, network)
    (image,), (labels,) = ([*raw.glob(f"{part}/*")] for part in ("imagesTr", "labelsTr"))
    predicted = label(*prepare(read_case(Case(NAMES[0], (image,)), description), description), description, network)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(labels))
    expected = surface_dice_of(predicted, truth, description.labels, spacing=(3.0, 1.1, 0.7), tolerance=1)
    assert 0 < found < 1 and found == pytest.approx(expected)


def test_a_search_keeps_to_its_budget(source: TrainedNNUNet, tmp_path: Path) -> None:
    prices = Prices(source.supernet.family, source.size)
    smallest, largest = (prices.price(end) for end in (prices.family.space.smallest(), prices.family.space.largest()))
    budget = Budget(parameters=(smallest.parameters + largest.parameters) / 4, memory_mb=largest.memory_mb * 0.8)
    result = search_of(source, tmp_path / "study.journal", budget=budget, minimise=("memory_mb", "parameters")).run()
    assert all(budget.allows(one.price) for one in [*result.members, *result.finalists])
    assert len(result.members) == 10


def test_what_a_killed_search_has_scored_is_not_lost(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, path = watched(monkeypatch), tmp_path / "study.journal"

    def kill(progress: SearchProgress) -> None:
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_of(source, path).run(kill)
    assert len(seen) == 4
    result = search_of(source, path).run()
    assert len(result.members) == 10 and len(seen) == 10 + 3 * 2
    again = search_of(source, path).run()
    assert len(seen) == 10 + 3 * 2, "a finished search scores nothing"
    assert {one.subnet for one in again.finalists} == {one.subnet for one in result.finalists}


def test_a_database_serves_as_well_as_a_file(source: TrainedNNUNet, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    settings: dict[str, Any] = {"source": source, "storage": url, "cases": 1, "finalists": 1}
    assert len(Search(**settings, trials=3).run().members) == 3
    assert len(Search(**settings, trials=5).run().members) == 5


def test_another_budget_uses_what_is_known(source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.journal"
    first = search_of(source, path).run()
    seen = watched(monkeypatch)
    known = {one.subnet for one in first.members}
    most = float(np.median([one.price.macs for one in first.members]))
    second = search_of(source, path, budget=Budget(macs=most), finalists=1).run()
    new = [one for one in second.members if one.subnet not in known]
    (best,) = second.finalists
    rest = 0 if best.subnet in {one.subnet for one in first.finalists} else 2
    assert len(new) < 10 and len(seen) == len(new) + rest


def test_fewer_cases_are_compared_on_those_alone(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.journal"
    search_of(source, path, cases=3).run()
    seen = watched(monkeypatch)
    result = search_of(source, path, cases=1).run()
    assert {tuple(one.scores) for one in result.members} == {("case_0",)} and len(seen) < 10


def test_changed_labels_are_scored_anew(source: TrainedNNUNet, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    before = search_of(source, path, trials=2).run()
    labels = source.path.parents[2] / "raw" / "Dataset990_Phantom" / "labelsTr"
    (labels / "case_0.nii.gz").write_bytes((labels / "case_1.nii.gz").read_bytes())
    after = search_of(source, path, trials=2).run()
    assert {one.subnet: one.score for one in after.members} != {one.subnet: one.score for one in before.members}


def test_images_replaced_by_others_of_the_same_size_are_another_search(source: TrainedNNUNet) -> None:
    """And an image that only moved in time is not."""
    raw = source.path.parents[2] / "raw" / "Dataset990_Phantom"
    image = raw / "imagesTr" / "case_0_0000.nii.gz"
    before, content = source.held_out().fingerprint(), image.read_bytes()
    os.utime(image, (0, 0))
    assert source.held_out().fingerprint() == before
    image.write_bytes(bytes(len(content)))
    assert source.held_out().fingerprint() != before


def test_scans_replaced_by_others_of_the_same_size_are_another_search(tmp_path: Path) -> None:
    scan = tmp_path / "scan.png"
    scan.write_bytes(b"one")
    cases = LabelledScans([LabelledScan("scan", scan, 0)])
    before = cases.fingerprint()
    scan.write_bytes(b"two")
    assert cases.fingerprint() != before
    scan.unlink()
    assert cases.fingerprint() != before


def test_other_latencies_are_another_search(source: TrainedNNUNet, tmp_path: Path) -> None:
    """A device that was measured again may be slower: nothing beyond the budget is kept."""
    path, data = tmp_path / "study.journal", made_up_device(source)
    family, size = source.supernet.family, source.size
    fast = Device.from_json(data, family, size, "a test")
    most = float(np.median(list(fast.measured.values())))
    slower = [one | {"milliseconds": 1.5 * one["milliseconds"]} for one in data["members"]]
    slow = Device.from_json(data | {"members": slower}, family, size, "a test")
    for device in (fast, slow):
        search = search_of(source, path, device=device, budget=Budget(latency_ms=most))
        result = search.run()
        assert len(result.members) == 10
        assert all(device.latency_ms(one.subnet) <= most for one in [*result.members, *result.finalists])


def test_the_journal_may_be_named_relative_to_where_one_is(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = search_of(source, Path("some/study.journal"), trials=2).run()
    assert len(result.members) == 2 and (tmp_path / "some" / "study.journal").is_file()


def test_a_space_smaller_than_the_trials_ends_the_search(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = {"depth": "full", "width": [0.5, 1.0], "levels": 0, "resolution": [1.0]}
    model = bare_model(bare_plans(prox={"space": few}, **SHALLOW))
    monkeypatch.setattr("monai_prox.search.study.STALE", 50)
    monkeypatch.setattr("monai_prox.search.budget.LOOKED_AT", 9)
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, NAMES).parent))
    source = TrainedNNUNet.open(model.path)
    result = search_of(source, tmp_path / "study.journal", trials=50).run()
    assert len(result.members) == source.supernet.family.space.size() == 8


def test_what_a_trial_has_recorded_is_read_once_in_the_search(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not before each other trial: then a long search would do little else."""
    read: list[Any] = []

    def noted(attributes: Any, *rest: Any) -> Any:
        read.append(attributes)
        return read_recorded(attributes, *rest)

    monkeypatch.setattr("monai_prox.search.study.read_recorded", noted)
    reads = []  # after each member
    search_of(source, tmp_path / "study.journal", trials=8, finalists=1).run(
        lambda progress: reads.append(len(read)) if progress.phase == "members" else None
    )
    assert 7 <= reads[-1] < 16, "a proposal of a known member is a trial, too"


def test_what_cannot_be_searched_is_said(source: TrainedNNUNet, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    refused("latency is known where a device's file is given", search_of, source, path, budget=Budget(latency_ms=5))
    refused("latency is known where a device's file is given", search_of, source, path, minimise=("latency_ms",))
    refused("beauty cannot be minimised; allowed: latency_ms, macs", search_of, source, path, minimise=("beauty",))
    refused("there must be something to minimise", search_of, source, path, minimise=())
    refused("trials is 0; it must be at least 1", search_of, source, path, trials=0)
    refused("the sampler 'oracle' is not known; allowed: nsga2, random", search_of, source, path, sampler="oracle")
    refused("no member is within the budget", search_of(source, path, budget=Budget(macs=1)).run)
    url = f"sqlite:///{tmp_path}/missing/study.db"
    refused("cannot be opened: ", Search(source=source, storage=url).run)
    assert not path.exists()


TOY = UNetFamily(
    unet_architecture("PlainConvUNet"),
    input_channels=1,
    num_classes=3,
    patch_size=(16, 16),
    choices=UNetChoices(depth="all", width=(0.25, 0.5, 0.75, 1.0), kernel=(3, 5), levels=1, resolution=(0.75, 1.0)),
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A family without training, whose every member scores 0.5."""
    cases = SimpleNamespace(names=["case"], fingerprint=lambda: "", usable=lambda which, _: list(which))
    monkeypatch.setattr(Search, "_scores", lambda self, subnet, which: [0.5] * len(which))
    monkeypatch.setattr("monai_prox.search.budget.LOOKED_AT", 9)
    described: dict[str, Any] = {"held_out": lambda: cases, "describe": lambda *_: None}
    return SimpleNamespace(supernet=SuperNet(TOY), size=TOY.patch_size, **described)


@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_what_is_proposed_is_by_the_seed_and_another_in_every_process(
    sampler: str, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process draws by the number of its first trial, too."""

    def proposals(storage: BaseStorage, seed: int, trials: int) -> list[dict[str, int]]:
        """All of a search, in the order of its trials, after a process has searched on."""
        monkeypatch.setattr("monai_prox.search.study.open_storage", lambda _: storage)  # writing a file takes seconds
        search = search_of(toy, Path("nowhere"), sampler=sampler, seed=seed, trials=trials)
        search.run()
        return [trial.params for trial in optuna.load_study(study_name=search.name, storage=storage).get_trials()]

    one, same, other = (InMemoryStorage() for _ in range(3))
    begun = proposals(one, 3, 10)
    assert begun == proposals(same, 3, 10) != proposals(other, 4, 10)
    after, twin = proposals(one, 3, 16), proposals(same, 3, 16)
    assert after[: len(begun)] == begun and after == twin, "the first trial of a search that goes on, too"
    drawn, joined = begun[-4:], after[len(begun) :]  # the probes and the cheapest come before them
    assert len(joined) >= 4 and not any(params in drawn for params in joined)


def test_whoever_goes_on_proposes_children_of_what_is_known(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first proposal on: NSGA-II's have parents among the members that were scored, others' are drawn blindly."""
    storage = InMemoryStorage()
    monkeypatch.setattr("monai_prox.search.study.open_storage", lambda _: storage)
    known = POPULATION + 5  # the probes are no part of a generation
    search_of(toy, Path("nowhere"), trials=known).run()
    going_on = search_of(toy, Path("nowhere"), trials=known + 1)
    study = going_on._study(toy.supernet.family.space.smallest())
    number = study.ask(distributions(toy.supernet.family.space)).number
    attributes = study.get_trials()[number].system_attrs
    generation = [value for key, value in attributes.items() if key.endswith(":generation")]  # versions have names of their own
    assert generation == [1], "the members that are known are generation 0"


def test_cases_without_any_class_count_nothing(toy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A member that finds nothing where nothing is gets no score for that, as in nnU-Net's own evaluation."""
    price = Prices(TOY, TOY.patch_size).price(TOY.space.smallest())
    one = Scored(TOY.space.smallest(), price, {"a": 0.5, "empty": float("nan"), "b": 0.7})
    assert one.score == pytest.approx(0.6) and one.cases == 2 and one.standard_error == pytest.approx(0.1)
    monkeypatch.setattr(Search, "_scores", lambda self, subnet, which: [float("nan")] * len(which))
    refused(
        "no class occurs in, or is predicted for, the cases case; score on more", search_of(toy, tmp_path / "s.journal").run
    )


# ---------------------------------------------------------------------- the storage
@pytest.mark.parametrize("torn", [b'{"op_code": 3, "wor', b"{", b'{"op_code": 3}'], ids=["half", "one character", "no end"])
def test_half_a_line_at_the_end_of_a_journal_is_left_out(torn: bytes, tmp_path: Path) -> None:
    """A process that was killed has left it: what was written before and after it is read by everyone."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_storage(str(path)), study_name="a search")
    study.set_user_attr("before", 1)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(torn)
    for attribute in ("after", "later"):
        optuna.load_study(storage=open_storage(str(path)), study_name="a search").set_user_attr(attribute, 2)
    written = path.read_bytes()
    assert written.startswith(whole) and written.endswith(b"\n") and written.count(b"\n") == whole.count(b"\n") + 2
    assert all(json.loads(line) for line in written.splitlines())
    again = optuna.load_study(storage=open_storage(str(path)), study_name="a search")
    assert again.user_attrs == {"before": 1, "after": 2, "later": 2}


def test_half_a_line_that_another_leaves_at_the_last_moment_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the lock must look at the journal's end once it has it, and not before."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_storage(str(path)), study_name="a search")
    acquire = JournalFileSymlinkLock.acquire

    def waiting(self: JournalFileSymlinkLock) -> bool:
        with path.open("ab") as file:
            file.write(b'{"op_code": 3, "wor')
        return acquire(self)

    monkeypatch.setattr(JournalFileSymlinkLock, "acquire", waiting)
    study.set_user_attr("after", 1)
    assert optuna.load_study(storage=open_storage(str(path)), study_name="a search").user_attrs == {"after": 1}


def test_a_journal_of_nothing_but_half_a_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_co')
    optuna.create_study(storage=open_storage(str(path)), study_name="a search")
    assert [study.study_name for study in open_storage(str(path)).get_all_studies()] == ["a search"]


# ---------------------------------------------------------------------- the command
def arguments(source: TrainedNNUNet, output: Path, *more: object) -> list[str]:
    few = ["--trials", 12, "--cases", 1, "--finalists", 3, "-o", output]
    return ["search", str(source.path), *map(str, [*few, *more])]


@pytest.mark.slow
def test_two_processes_are_one_search_and_a_killed_one_costs_its_trial(source: TrainedNNUNet, tmp_path: Path) -> None:
    raw = source.path.parents[2] / "raw"
    env = environment(nnUNet_raw=raw)
    command = [str(Path(sys.executable).parent / "monai-prox"), *arguments(source, tmp_path / "out")]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    journal = tmp_path / "out" / "study.journal"
    while both[0].poll() is None and (not journal.is_file() or journal.read_text().count('"scores"') < 3):
        time.sleep(0.05)
    both[0].send_signal(signal.SIGKILL)
    both[0].communicate()
    _, errors = both[1].communicate()
    assert both[1].returncode == 0, errors.decode()
    (front,) = (tmp_path / "out").glob("*/front.json")
    found = json.loads(front.read_text())
    assert 12 <= len(found["members"]) <= 13 and len(found["finalists"]) == 3
    assert {len(one["subnet"]) for one in found["members"]} == {6}


def test_the_command_writes_a_front_from_a_devices_file(source: TrainedNNUNet, tmp_path: Path) -> None:
    write_json(made_up_device(source), tmp_path / "device.json")
    output = tmp_path / "out"
    most = ["--profile", tmp_path / "device.json", "--max-latency-ms", 30, "--max-params", 1e7, "--max-memory-mb", 900]
    said = output_of(*arguments(source, output, *most))
    for word in ("Members by cost", "latency predicted within 0.0%"):
        assert word in said
    (folder,) = (path for path in output.iterdir() if path.name not in ("members", "study.journal"))
    assert folder.name.startswith("latency_ms-latency_ms_30-parameters_1e07-memory_mb_900-") and str(folder) in said
    assert {path.name for path in folder.iterdir()} == {"front.json", "front.png", "report.html"}
    found = json.loads((folder / "front.json").read_text())
    assert all(one["name"] in said for one in found["finalists"])
    assert all(one["price"]["latency_ms"] <= 30 for one in found["members"])
    costs = [one["price"]["latency_ms"] for one in found["finalists"]]
    assert costs == sorted(costs) and found["minimised"] == ["latency_ms"]
    best = found["finalists"][-1]
    _, *command = shlex.split(best["command"])
    output_of(*command, "--format", "onnx", "--output", tmp_path / "best.onnx")
    assert (tmp_path / "best.onnx").stat().st_size > 4 * best["price"]["parameters"]
    write_json(made_up_device(source) | {"family": "another"}, tmp_path / "device.json")
    assert "was measured with another family, another; this one is" in prox(*arguments(source, output, *most)).error


def test_the_commands_export_the_fold_that_was_scored(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, too: another may be finished later, and nnunet takes all."""
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), folds=(0,))
    monkeypatch.setattr("monai_prox.search.budget.LOOKED_AT", 9)
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, NAMES).parent))
    source = TrainedNNUNet.open(model.path)
    contents = report_of(search_of(source, tmp_path / "study.journal", trials=2, finalists=1).run(), tmp_path)
    bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW), folds=(1,))
    for one in [*contents["members"], *contents["finalists"]]:
        assert shlex.split(one["command"])[-2:] == ["--fold", "0"]
    _, *command = shlex.split(contents["finalists"][0]["command"])
    output_of(*command, "--format", "nnunet", "--output", tmp_path / "exported")
    assert [path.name for path in (tmp_path / "exported").glob("fold_*")] == ["fold_0"]


def test_what_earlier_runs_scored_on_all_cases_is_not_forgotten(source: TrainedNNUNet, tmp_path: Path) -> None:
    """With more finalists, and within another budget."""
    storage = tmp_path / "study.journal"
    before = {one.subnet: one.scores for one in search_of(source, storage, finalists=4).run().finalists}
    for budget in (Budget(), Budget(parameters=1e9)):
        result = search_of(source, storage, finalists=1, budget=budget).run()
        assert len(result.finalists) == 1
        here = {one.subnet for one in result.members}
        assert {one.subnet: one.scores for one in result.measured} == {s: of for s, of in before.items() if s in here}
        assert len(result.measured) > 1
        contents = report_of(result, tmp_path / "out")
        assert {one["name"] for one in contents["measured"]} == {name_of(one.subnet) for one in result.measured}


def test_the_shown_scores_of_members_are_shifted_to_those_of_all_cases(source: TrainedNNUNet, tmp_path: Path) -> None:
    contents = report_of(search_of(source, tmp_path / "study.journal").run(), tmp_path / "out")
    before = {json.dumps(one["subnet"]): one for one in contents["members"]}
    same = [(one, before[json.dumps(one["subnet"])]) for one in contents["finalists"]]
    assert np.mean([one["score"] - other["expected"] for one, other in same]) == pytest.approx(0, abs=1e-9)
    assert {path.stem for path in (tmp_path / "out" / "members").iterdir()} == {one["name"] for one in contents["members"]}


def test_searches_lie_side_by_side_and_a_name_is_always_the_same_member(source: TrainedNNUNet, tmp_path: Path) -> None:
    storage, output = tmp_path / "study.journal", tmp_path / "out"
    prices = Prices(source.supernet.family, source.size)
    largest = prices.price(prices.family.space.largest())
    budgets = [Budget(), Budget(parameters=0.6 * largest.parameters), Budget(parameters=0.5 * largest.parameters)]
    searches = [search_of(source, storage, budget=budget, finalists=2) for budget in budgets]
    found = [report_of(search.run(), output) for search in searches]
    folders = [report_folder(search, output) for search in searches]
    assert len(set(folders)) == 3 and all((folder / "report.html").is_file() for folder in folders)
    for contents, folder in zip(found, folders, strict=True):
        assert json.loads((folder / "front.json").read_text())["budget"] == contents["budget"]
    named: dict[str, Any] = {}
    for one in (one for contents in found for one in [*contents["members"], *contents["finalists"]]):
        assert named.setdefault(one["name"], one["subnet"]) == one["subnet"]
        name, subnet = source.member(str(output / "members" / f"{one['name']}.json"))
        assert (name, subnet.to_json()) == (one["name"], one["subnet"]) and one["command"].count(f"{name}.json") == 1
    assert len({json.dumps(subnet) for subnet in named.values()}) == len(named)
    before = (folders[0] / "front.json").read_bytes()
    again = report_of(search_of(source, storage, budget=budgets[1], finalists=2).run(), output)
    assert [one["name"] for one in again["finalists"]] == [one["name"] for one in found[1]["finalists"]]
    assert (folders[0] / "front.json").read_bytes() == before
    assert name_of(Subnet.from_values(levels=(3,), resolution=(0.75,), width=(4, 8, 16))) == "choice-5605506b", (
        "names that were given must mean the same in later versions"
    )
