"""What a training gives to nnU-Net's further loggers, Weights & Biases for example, and that nnU-Net's own stays as it was."""

from __future__ import annotations

import json
from collections import defaultdict
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.nnunet_task import (
    CUT,
    FULLRES,
    TWO_MEMBERS,
    Prepared,
    ProXTrainerQuick,
    ProXTrainerTiny,
    bare_plans,
    cut_plans,
    make_trainer,
)
from helpers.validation_batches import PATCH, validate
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging import nnunet_logger

pytest_plugins = ["helpers.nnunet_fixtures"]

FEW = {"space": TWO_MEMBERS}


class Run:
    """Stands for a run of wandb."""

    step = 0

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.curves: dict[str, dict[int, Any]] = defaultdict(dict)

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step, "wandb leaves out what comes late"
        self.step = step
        for key, value in values.items():
            self.curves[key][step] = value


class Eager(ProXTrainerTiny):
    """A trial begins in the only validation of an epoch, and the next one closes a choice."""

    validation_interval = 1
    monitor_threshold = 10.0
    monitor_patience = 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs of wandb that nnU-Net starts, as a user asks it to."""
    started: list[Run] = []

    def init(**_: Any) -> Run:
        started.append(Run())
        return started[-1]

    forkserver.ensure_running()  # without the variable, for it outlives this test
    monkeypatch.setattr(nnunet_logger, "wandb", SimpleNamespace(init=init))
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    return started


def test_stages_and_members_are_logged_beside_nnunets_own(in_phantom: Prepared, runs: list[Run]) -> None:
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, (24, 32, 24), (4, 8), shallow=True, prox=FEW)
    trainer = make_trainer(plans, in_phantom.dataset(), cls=ProXTrainerQuick)
    stock = set(trainer.logger.get_checkpoint())
    trainer.save_every = 1
    trainer.run_training()
    trainer.perform_actual_validation()
    (run,) = runs
    starts, curves = trainer.engine.schedule.starts, run.curves
    assert curves["prox/stage"] == {epoch: sum(start <= epoch for start in starts) for epoch in range(trainer.epochs)}
    sizes = [stage.space(trainer.supernet.family.space).size() for stage in trainer.engine.schedule.stages]
    assert [*curves["prox/open_members"].values()] == [sizes[int(number) - 1] for number in curves["prox/stage"].values()]
    for name in trainer.named_members:
        dice = {entry["epoch"]: entry["dice"][name] for entry in trainer.progress if name in entry["dice"]}
        assert dice and curves[f"prox/pseudo_dice/{name}"] == dice
    assert stock == set(trainer.logger.get_checkpoint())
    assert {len(values) for values in trainer.logger.get_checkpoint().values()} == {trainer.epochs}
    assert all(len(curves[key]) == trainer.epochs for key in stock - {"dice_per_class_or_region"})
    described = json.loads(json.dumps(run.config["prox"]))
    assert described["recipe"] == "prox" and len(described["stages"]) == max(curves["prox/stage"].values())

    largest, smallest = (
        json.loads(Path(trainer.output_folder, *part, "validation", "summary.json").read_text())["foreground_mean"]["Dice"]
        for part in ((), ("members", "smallest"))
    )
    assert run.summary["final_val/foreground_dice"] == largest
    assert run.summary["members/smallest/final_val/foreground_dice"] == smallest


def test_a_continued_training_goes_on_in_its_curves(in_phantom: Prepared, runs: list[Run]) -> None:
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, PATCH, (4, 8), shallow=True, prox=FEW)
    first = make_trainer(plans, in_phantom.dataset())
    first.save_every, first.num_epochs = 1, 3  # it ends early
    first.run_training()
    Path(first.output_folder, "checkpoint_final.pth").rename(Path(first.output_folder, "checkpoint_latest.pth"))
    second = make_trainer(plans, in_phantom.dataset(), continue_training=True)
    maybe_load_checkpoint(second, continue_training=True, validation_only=False)
    second.run_training()
    assert [sorted(run.curves["prox/stage"]) for run in runs] == [[0, 1, 2], [3, 4]]
    # Weights & Biases refuses other values in a run that goes on, and a later version may describe stages otherwise
    assert ["prox" in run.config for run in runs] == [True, False]


def test_the_monitors_comparisons_are_logged(bare: Path, runs: list[Run]) -> None:
    trainer = make_trainer(bare_plans(patch=PATCH, prox=FEW), cls=Eager)
    trainer.initialize()
    trainer.network.load_state_dict(trainer.network.state_dict())  # as if pretrained, so that members are not alike
    for _ in range(4):
        validate(trainer)
    (run,), (*_, comparison) = runs, trainer.engine.comparisons
    assert comparison.verdict == "closed"
    logged = {key: value for key, value in run.curves.items() if key.endswith(f"/{comparison.dimension}")}
    last = trainer.num_epochs - 1
    assert logged == {
        f"prox/gain/{comparison.dimension}": {last: comparison.gain},
        f"prox/gain_error/{comparison.dimension}": {last: comparison.error},
        f"prox/choices/{comparison.dimension}": {last: 1},
    }


def test_a_logger_of_another_kind_gets_stock_keys_alone(bare: Path) -> None:
    """As that of a version whose logger is one."""
    trainer = make_trainer(bare_plans(patch=PATCH, prox=FEW))
    trainer.initialize()
    trainer.logger = nnunet_logger.LocalLogger()
    trainer.engine.begin_epoch(0)
    trainer.on_train_epoch_start()
    assert trainer.logger.get_value("lrs", None) == [trainer.initial_lr]
