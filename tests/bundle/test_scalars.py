"""What trainings give to TensorBoard, and that bundles train without it."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from helpers.bundle_checks import config
from helpers.bundle_commands import BUNDLES, ROOT, trained_once
from helpers.bundle_training import METRIC, training
from helpers.in_process import prox
from helpers.pipelines import ORGAN, run, trained_organ, write_organ
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.handlers import TensorBoardStatsHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_prox.bundle.trainer import SupernetTrainer
from monai_prox.trained.bundle_folder import TrainedBundle

Curves = dict[str, dict[int, float]]  # values of a tag by step
WIDTHS = {"depth": "full", "width": [0.5, 1.0], "levels": 1, "resolution": [0.75, 1.0]}
BOARD = {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "iteration_log": False}


class Writer:
    """Stands for TensorBoard's SummaryWriter."""

    def __init__(self) -> None:
        self.curves: Curves = defaultdict(dict)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert step not in self.curves[tag]
        self.curves[tag][step] = value

    def flush(self) -> None:
        pass


def read(folder: Path) -> Curves:
    """What TensorBoard's writers have left in ``folder``."""
    curves: Curves = {}
    for file in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        curves |= {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    return curves


def test_tensorboard_has_stages_members_and_the_monitors_comparisons() -> None:
    """Eleven epochs of ``prox`` are five of its last stage, in which no gain is worth a choice; every other one closes one."""
    writer = Writer()
    made = training("prox", epochs=11, choices=WIDTHS, interval=3, held_out=6, monitor={"threshold": 10, "patience": 1})
    TensorBoardStatsHandler(summary_writer=writer, iteration_log=False).attach(made.trainer)
    opened: dict[int, int] = {}

    @made.trainer.on(Events.EPOCH_STARTED)
    def note(trainer: SupernetTrainer) -> None:
        opened[trainer.state.epoch] = made.engine.space.size()

    made.run()
    schedule, curves = made.engine.schedule, writer.curves
    assert curves["prox/stage"] == {epoch + 1: schedule.index(epoch) + 1 for epoch in range(11)}
    assert curves["prox/open_members"] == opened
    history = made.validation.history
    for name in made.validation.members:
        scores = {entry["epoch"] + 1: entry["scores"][name]["mean"] for entry in history if name in entry["scores"]}
        assert scores and curves[f"{METRIC}_{name}"] == scores
    comparisons = made.engine.comparisons
    assert len(made.engine.closed) == 2 and {one.epoch for one in comparisons} > {entry["epoch"] for entry in history[-2:]}
    for dimension in {comparison.dimension for comparison in comparisons}:
        own = [comparison for comparison in comparisons if comparison.dimension == dimension]
        assert curves[f"prox/gain/{dimension}"] == {one.epoch + 1: one.gain for one in own}
        assert curves[f"prox/gain_error/{dimension}"] == {one.epoch + 1: one.error for one in own}
        assert curves[f"prox/choices/{dimension}"] == {one.epoch + 1: 1 for one in own if one.verdict == "closed"}


def test_a_bundles_training_writes_them() -> None:
    trained = trained_once("hippocampus_prox", "hippocampus_prox", new=True)
    curves, family = read(trained.bundle / "eval"), TrainedBundle.open(trained.bundle).family()
    assert curves["prox/stage"] == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5} and set(curves["prox/open_members"]) == {1, 2, 3, 4, 5}
    for entry in family.progress:
        for name, score in entry["dice"].items():
            assert curves[f"val_mean_dice_{name}"][entry["epoch"] + 1] == pytest.approx(score, nan_ok=True)


def test_a_pipeline_of_somebody_writes_them_wherever_its_handler_stands(tmp_path: Path) -> None:
    """The handler of its validator, which runs once a member, would write all of them under one name."""
    handlers, validators = ORGAN["train"]["handlers"], ORGAN["validate"]["handlers"]
    parts = {part: dict(ORGAN[part]) for part in ("train", "validate")}
    parts["train"]["handlers"] = [BOARD, *handlers]
    parts["validate"]["handlers"] = [BOARD, *validators]
    bundle = write_organ(tmp_path / "bundle", **parts)
    assert prox("overlay", bundle).code == 0
    run(bundle, "train.json", "prox.json", dataset_dir=trained_organ() / "task", epochs=2, val_interval=1)
    curves = read(bundle / "eval")
    assert curves["prox/stage"] == {1: 1, 2: 2} and "val_mean_dice" not in curves
    assert set(curves["val_mean_dice_smallest"]) == set(curves["val_mean_dice_largest"]) == {1, 2}


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("installed", [True, False], ids=["installed", "missing"])
def test_a_bundle_has_its_handler_if_tensorboard_is_installed(
    name: str, rank: int | None, installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MONAI's handler cannot be made without it. Of several processes the first has one."""
    bundle = ROOT / "bundles" / name
    parser = ConfigParser(config(bundle, "train") | {"output_dir": str(tmp_path)})
    if rank is not None:
        parser.update(config(bundle, "multi_gpu_train"))
        parser.get_parsed_content("initialize#1")  # which imports torch.distributed
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    if not installed:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    handler = parser.get_parsed_content("train#tensorboard")
    assert (handler is not None) == (installed and not rank)
