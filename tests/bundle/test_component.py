"""The component that stands for supernet, schedule, engine, monitor and members, and handlers that have ids."""

import json
import logging
import re
from typing import Any

import pytest
import torch
from helpers.bundle_checks import config
from helpers.bundle_commands import BUNDLES, ROOT
from helpers.bundle_training import CHOICES, EPOCHS, PATCH, PLAN, loss_function
from helpers.mobilenet_engines import CHOICES as MOBILE
from helpers.refusals import refused
from monai.bundle import ConfigParser
from monai.handlers import StatsHandler

from monai_prox.bundle import ProX, TrainingSampler, cache, cache_rate, listed, log_plan, summary
from monai_prox.core.named_members import named_members
from monai_prox.core.network import largest
from monai_prox.data.oct_plan import OctPlan
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.training.calibrated_members import CalibratedMembers
from monai_prox.training.recipes import make_schedule

ALL = [*BUNDLES, "roct_prox"]
MOST = 31  # expressions in a train.json


def component(**settings: Any) -> ProX:
    given = {"epochs": EPOCHS, "loss": loss_function, "size": PATCH}
    return ProX(PLAN.family(CHOICES), **given | settings)


def test_it_is_what_the_parts_would_be_one_by_one() -> None:
    family = PLAN.family(CHOICES)
    network = largest(family, deep_supervision=True)
    made = component(network=network, seed=3)
    assert made.network is made.supernet.network is network
    assert made.engine.supernet is made.supernet and made.engine.seed == 3
    assert made.engine.schedule == make_schedule("prox", family.space, EPOCHS)
    assert made.members == named_members(family, PATCH)
    assert list(map(id, made.parameters())) == list(map(id, network.parameters()))
    assert made.engine.task_loss is loss_function and made.calibrated is made.engine.calibrate is None


def test_a_recipe_may_transform_kernels_which_are_trained_too() -> None:
    made = component(recipe="progressive_shrinking", network=largest(PLAN.family(CHOICES), deep_supervision=True))
    assert made.supernet.kernel_transforms is not None
    assert set(map(id, made.supernet.kernel_transforms.parameters())) <= set(map(id, made.parameters()))


def test_norms_that_keep_statistics_are_calibrated_for_teachers() -> None:
    data = [{"image": torch.rand(1, 64, 64)}] * 2
    made = ProX(
        MobileNetFamily(input_channels=1, num_classes=3, choices=MOBILE),
        recipe="prox_paper",
        epochs=9,
        loss=torch.nn.CrossEntropyLoss(),
        size=(64, 64),
        calibrated=lambda supernet: CalibratedMembers(supernet, data, dict),
    )
    assert made.calibrated is not None and made.calibrated.supernet is made.supernet
    assert made.engine.calibrate == made.calibrated.calibrate


@pytest.mark.parametrize(
    ("asked", "found"), [(True, (0.005, 3)), ({}, (0.005, 3)), ({"threshold": 0.01}, (0.01, 3)), ({"patience": 5}, (0.005, 5))]
)
def test_the_monitor_is_as_asked(asked: Any, found: tuple[float, int]) -> None:
    monitor = component(monitor=asked).engine.monitor
    assert monitor is not None and (monitor.threshold, monitor.patience) == found and monitor.size == PATCH


@pytest.mark.parametrize("off", [False, None])
def test_there_may_be_no_monitor(off: Any) -> None:
    assert component(monitor=off).engine.monitor is None


def test_arguments_of_a_place_in_the_list_are_refused() -> None:
    refused("n_saved: a handler's arguments belong to its id, such as train#saver#n_saved", listed, None, n_saved=9)


@pytest.mark.parametrize("asked", ["false", 0, 1, [], {"threshold": 1, "_disabled_": True}, {"tolerance": 1}])
def test_another_monitor_is_refused(asked: Any) -> None:
    refused(f"monitor is {asked!r}; it is True, False, or may have threshold and patience", component, monitor=asked)


def test_other_arguments_that_cannot_be_are_refused() -> None:
    refused("the recipe 'prix' is not known", component, recipe="prix")
    refused("the number of epochs is 2.5; it must be a whole number, at least 1", component, epochs=2.5)
    refused("threshold is a difference of scores such as 0.005, got 'low'", component, monitor={"threshold": "low"})


# ---------------------------------------------------------------------- what is said before a training
def logged(caplog: pytest.LogCaptureFixture, *data: Any, **settings: Any) -> list[str]:
    caplog.clear()
    sampler = TrainingSampler(data[0], iterations=1000, batch_size=2)
    with caplog.at_level(logging.INFO):
        log_plan(PLAN, component(), *data, sampler=sampler, **settings)
    return caplog.messages


def test_cases_are_counted_and_what_nobody_knows_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Images that are no single files have no header; without a cache nothing is kept."""
    several = [{"image": ["a.nii.gz", "b.nii.gz"]}] * 3
    plan, network, length = logged(caplog, several, several[:1])
    assert plan.endswith("of images as stored; 3 cases to train on, 1 to validate on")
    assert network.startswith("Network: 3 stages of 4, 8, 8 features; the largest of ")
    assert length == f"Length: {EPOCHS} epochs of 1,000 iterations, {EPOCHS},000 in all; an iteration takes 2 images"
    (plan, *_) = logged(caplog, [{"image": "nowhere.nii.gz"}], [], cache_rate=0.0)
    assert plan.endswith("1 cases to train on, 0 to validate on")


def test_scans_are_counted_by_their_size(caplog: pytest.LogCaptureFixture) -> None:
    plan = OctPlan(task="a", classes=("CNV", "DME"), image_size=(64, 64))
    training, sampler = [{"image": "a"}] * 8, TrainingSampler(range(8), iterations=1, batch_size=1)
    with caplog.at_level(logging.INFO):
        log_plan(plan, component(), training, [{"image": "b"}] * 3, sampler=sampler, cache_rate=0.5)
    assert caplog.messages[0] == (
        "Plan: images of 64 x 64 pixels, of CNV, DME; 8 cases to train on, 3 to validate on, kept in up to 81.9 kB of memory"
    )


@pytest.mark.parametrize(
    ("free", "processes", "rate"),
    [(819_200, 1, 1.0), (81_920, 1, 0.5), (81_920, 2, 0.25), (54_000, 1, 0.32), (None, 1, 1.0), (0, 1, 0.0)],
)
def test_the_cache_takes_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int | None, processes: int, rate: float
) -> None:
    """Five scans of 64 x 64 pixels take 81,920 bytes."""
    monkeypatch.setattr(cache, "available", lambda: free)
    monkeypatch.setattr(cache, "world_size", lambda: processes)
    plan, items = OctPlan(task="a", classes=("CNV", "DME"), image_size=(64, 64)), [{"image": "a"}]
    assert cache_rate(plan, items * 3, items * 2) == rate
    assert cache_rate(plan, items * 3, items * 2, 0.75) == 0.75
    refused("cache_rate is 2; it is a number from 0 to 1", cache_rate, plan, items, items, 2)


def test_the_first_process_alone_says_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "rank", lambda: 1)
    assert logged(caplog, [], []) == []


# ---------------------------------------------------------------------- configurations
def test_a_handler_with_an_id_may_be_disabled_by_it() -> None:
    """Where "@stats" would leave None in the list, and MONAI's check of properties takes dictionaries only."""
    parser = ConfigParser(
        {
            "stats": {"_target_": "StatsHandler"},
            "off": {"_target_": "StatsHandler", "_disabled_": True},
            "handlers": [{"_target_": "monai_prox.bundle.listed", "handler": f"@{name}"} for name in ("off", "stats")],
        }
    )
    (found,) = parser.get_parsed_content("handlers")
    assert isinstance(found, StatsHandler) and found is parser.get_parsed_content("stats")


@pytest.mark.parametrize("name", ALL)
def test_configurations_name_handlers_by_ids_and_have_few_expressions(name: str) -> None:
    texts = {file: json.dumps(config(ROOT / "bundles" / name, file)) for file in ("train", "multi_gpu_train", "evaluate")}
    assert not re.search(r"handlers#-?\d", "".join(texts.values()))
    assert texts["train"].count('"$') <= MOST
    train = config(ROOT / "bundles" / name, "train")["train"]
    loader, *others = train["handlers"]
    assert loader["_target_"] == "CheckpointLoader", "itself, for MONAI Label adds one where it finds none"
    ids = [entry["handler"].removeprefix("@train#") for entry in others]
    assert len(set(ids)) == len(ids) == 8 and set(ids) <= set(train)
