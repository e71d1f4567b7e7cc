"""Training in MONAI: what is trained when, what may interrupt it, what is validated, and the family that is left."""

import gc
import json
import logging
import math
import random
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers.bundle_training import (
    CHOICES,
    EPOCHS,
    LARGEST,
    METRIC,
    PATCH,
    PLAN,
    SANDWICH,
    Training,
    adamw,
    cases,
    checkpoint,
    evaluator,
    loader,
    loss_function,
    probes,
    sgd,
    training,
)
from helpers.equality import assert_equal
from helpers.ranks import in_threads, together
from helpers.refusals import refused
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler
from monai.metrics import DiceMetric
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from monai_prox import __version__
from monai_prox.bundle.trainer import ProXEvents, SupernetTrainer
from monai_prox.bundle.transforms import LabelsToRegionsd
from monai_prox.core import cost
from monai_prox.core.named_members import named_members
from monai_prox.core.network import largest, prediction_graph
from monai_prox.core.slicing import fill
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet, finest
from monai_prox.data.decathlon import Case, DecathlonTask
from monai_prox.export.from_bundle import prediction_of
from monai_prox.report import plot_progress
from monai_prox.trained.bundle_folder import TrainedBundle
from monai_prox.trained.bundle_source import TrainedSegmenter
from monai_prox.trained.family_file import FamilyFile
from monai_prox.training.monitor import Comparison, verdicts_of
from monai_prox.training.stage import Schedule, Stage


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Errors that a test provokes are ignite's to log, not the test's to show."""
    caplog.set_level("CRITICAL")


@pytest.fixture(autouse=True)
def undrawn() -> Iterator[None]:
    """Trainings of single tests draw no plots; those of the module's fixtures do."""
    with patch("monai_prox.bundle.family_writer.plot_progress"):
        yield


# ---------------------------------------------------------------------- stages
def test_stages_open_at_their_epochs_and_say_so(finished: tuple[Training, Path], whole: tuple[Training, Path]) -> None:
    for run, _ in (finished, whole):
        schedule = run.engine.schedule
        assert run.stages == {epoch: schedule.stages[schedule.index(epoch)].name for epoch in range(EPOCHS)}
        started = [(epoch, stage) for event, epoch, stage in run.events if event == "STAGE_STARTED"]
        assert started == [(start, stage.name) for start, stage in zip(schedule.starts, schedule.stages, strict=True)]
        assert not any(event == "STAGE_RESUMED" for event, _, _ in run.events)


def test_a_stage_is_announced_when_it_is_open_and_before_its_first_iteration() -> None:
    run = training((Stage(name="a"), SANDWICH), epochs=2)
    seen = []

    @run.trainer.on(ProXEvents.STAGE_STARTED)
    def look(trainer: SupernetTrainer) -> None:
        seen.append((trainer.engine.stage.name, trainer.engine.space, trainer.state.iteration))

    run.run()
    whole = run.engine.supernet.family.space
    assert seen == [("a", whole.restrict({}), 0), ("sandwich", whole, 3)]


def test_only_open_members_are_trained(tmp_path: Path) -> None:
    """What no member has yet is left as it was born."""
    run = training((Stage(name="a"), SANDWICH), tmp_path, epochs=2)
    before = {name: tensor.detach().clone() for name, tensor in run.network.named_parameters()}
    regions = run.engine.supernet.regions(run.engine.supernet.family.space.smallest())
    run.run()
    after = torch.load(checkpoint(tmp_path, 1), weights_only=True)["network"]
    for name, tensor in before.items():
        inside = torch.zeros_like(tensor, dtype=torch.bool)
        if name in regions:
            fill(inside, regions[name], True)
        assert torch.equal(tensor[~inside], after[name][~inside]), name
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_epochs_are_validated_before_the_family_and_after_the_last_step(finished: tuple[Training, Path]) -> None:
    run, _ = finished
    schedule = run.engine.schedule
    due = [e for e in range(EPOCHS) if (e + 1) % 3 == 0 or schedule.is_last_of_stage(e)]
    expected = []
    for epoch in range(EPOCHS):
        stage = schedule.stages[schedule.index(epoch)].name
        expected += [("STAGE_STARTED", epoch, stage)] if epoch in schedule.starts else []
        expected += [("MEMBERS_VALIDATED", epoch, stage)] if epoch in due else []
    assert run.events == expected


# ---------------------------------------------------------------------- resume
def cuts(schedule: Schedule) -> tuple[int, int]:
    """Numbers of finished epochs: one within a stage, one between two."""
    same = [e for e in range(1, schedule.epochs) if schedule.index(e) == schedule.index(e - 1)]
    other = [e for e in range(1, schedule.epochs) if schedule.index(e) != schedule.index(e - 1)]
    return same[0], other[-1]


@pytest.mark.parametrize(
    ("recipe", "optimizer_of"),
    [
        *(("prox", adamw), ("prox_paper", sgd)),
        *(
            pytest.param(recipe, optimizer_of, marks=pytest.mark.slow)
            for recipe, optimizer_of in (("prox", sgd), ("prox_paper", adamw))
        ),
    ],
)
def test_an_interrupted_training_continues_bit_for_bit(
    tmp_path: Path, recipe: str, optimizer_of: Callable[[nn.Module], Optimizer]
) -> None:
    """Whether cut within a stage or between two, and whatever weights and generators the new process began with."""
    whole = training(recipe, tmp_path, optimizer_of=optimizer_of, interval=2).run()
    schedule = whole.engine.schedule
    for number, finished in enumerate(cuts(schedule), start=1):
        rest = training(
            recipe, weights=number, optimizer_of=optimizer_of, interval=2, ckpt=checkpoint(tmp_path, finished)
        ).run()
        assert_equal(rest.state(), whole.state(), f"after {finished}")
        assert rest.losses == [(epoch, loss) for epoch, loss in whole.losses if epoch >= finished]
        before, after = (schedule.stages[schedule.index(epoch)].name for epoch in (finished - 1, finished))
        assert rest.events[0] == ("STAGE_RESUMED", finished - 1, before)
        assert (("STAGE_STARTED", finished, after) in rest.events) == (before != after)
        assert rest.events[1:] == [event for event in whole.events if event[1] >= finished]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path]:
    """An uninterrupted training of the recipe ``prox_paper``, and its checkpoints. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    return training("prox_paper", folder).run(), folder


class KilledError(Exception):
    pass


def test_a_training_killed_within_an_epoch_continues_from_the_last_whole_one(
    whole: tuple[Training, Path], tmp_path: Path, quiet: None
) -> None:
    killed = training("prox_paper", tmp_path)

    @killed.trainer.on(Events.ITERATION_COMPLETED(once=3 * 4 + 2))
    def kill(_: Any) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        killed.run()
    assert not checkpoint(tmp_path, 5).exists()
    rest = training("prox_paper", weights=5, ckpt=checkpoint(tmp_path, 4)).run()
    assert_equal(rest.state(), whole[0].state())


def test_a_training_interrupted_twice_continues_bit_for_bit(whole: tuple[Training, Path], tmp_path: Path) -> None:
    run, folder = whole
    again = training("prox_paper", tmp_path, ckpt=checkpoint(folder, 2)).run()
    last = training("prox_paper", weights=8, ckpt=checkpoint(tmp_path, 5)).run()
    assert_equal(again.state(), run.state())
    assert_equal(last.state(), run.state())


@pytest.mark.parametrize(
    "settings",
    [{"accumulation_steps": 2, "epoch_length": 4}, {"epoch_length": 2, "optim_set_to_none": False}],
    ids=str,
)
def test_a_training_of_other_settings_continues_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Three batches in the loader: an epoch of two leaves one out, one of four begins a second pass."""
    whole = training("prox_paper", tmp_path, optimizer_of=sgd, **settings).run()
    for finished in cuts(whole.engine.schedule):
        rest = training("prox_paper", weights=1, optimizer_of=sgd, ckpt=checkpoint(tmp_path, finished), **settings).run()
        assert_equal(rest.state(), whole.state(), f"after {finished}")


def test_a_training_with_loader_processes_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = training((SANDWICH,), tmp_path, epochs=3, data=loader(num_workers=1)).run()
    rest = training((SANDWICH,), epochs=3, weights=1, data=loader(num_workers=1), ckpt=checkpoint(tmp_path, 1)).run()
    assert_equal(rest.state(), whole.state())


def test_a_training_is_a_function_of_its_weights_and_seed() -> None:
    """Not of what has been drawn before in the same process; and every epoch draws anew."""

    def seen(seed: int, noise: int) -> tuple[Training, list[Tensor]]:
        run, images = training((SANDWICH,), epochs=2, seed=seed), []
        run.trainer.add_event_handler(
            IterationEvents.FORWARD_COMPLETED, lambda t: images.append(t.state.output["image"].clone())
        )
        torch.manual_seed(noise)
        np.random.seed(noise)
        random.seed(noise)
        return run.run(), images

    one, images = seen(0, 1)
    same, others = seen(0, 2)
    assert_equal(same.state(), one.state())
    assert_equal(others, images)
    assert len({tuple(image.flatten().tolist()) for image in images}) == len(images) == 6
    other, others = seen(1, 1)
    assert other.losses != one.losses
    assert not any(torch.equal(a, b) for a, b in zip(images, others, strict=True))


def test_a_finished_training_has_nothing_left_to_do(finished: tuple[Training, Path]) -> None:
    run, bundle = finished
    rest = training(weights=1, ckpt=checkpoint(bundle / "models", EPOCHS)).run()
    assert rest.losses == [] and rest.events == [("STAGE_RESUMED", EPOCHS - 1, "everyone")]
    assert_equal(rest.state(), run.state())


def plain(data: Any) -> bool:
    if isinstance(data, Mapping):
        return all(isinstance(key, str | int) and plain(value) for key, value in data.items())
    if isinstance(data, list | tuple):
        return all(map(plain, data))
    return data is None or type(data) in (Tensor, int, float, bool, str)


def test_a_checkpoint_is_plain_data_and_tensors(whole: tuple[Training, Path]) -> None:
    run, folder = whole
    for epochs in (1, EPOCHS):
        state = torch.load(checkpoint(folder, epochs), weights_only=True)
        assert list(state) == ["expansion", "network", "optimizer", "lr_scheduler", "validation"]
        assert plain(state)
    assert state["expansion"]["space"] == run.engine.supernet.family.space.to_json()
    assert state["validation"]["history"] == run.validation.history
    assert len(run.validation.history) == 5  # after the last epoch of each stage


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ({"recipe": "prox_paper"}, "recipe"),
        ({"recipe": (Stage(name="a"), SANDWICH)}, "recipe"),
        ({"choices": {**CHOICES, "resolution": [0.5, 1.0]}}, "search space"),
        ({"choices": {**CHOICES, "width": [0.75, 1.0]}}, "search space"),
    ],
    ids=["recipe", "stages", "resolution", "width"],
)
def test_a_checkpoint_of_another_space_or_recipe_is_refused_and_nothing_is_changed(
    finished: tuple[Training, Path], quiet: None, now: dict[str, Any], what: str
) -> None:
    other = training(**now, weights=1, ckpt=checkpoint(finished[1] / "models", 3))
    before = {key: value for key, value in other.state().items() if key != "network"}
    before["network"] = {name: tensor.clone() for name, tensor in other.network.state_dict().items()}
    message = (
        f"the checkpoint was trained with another {what} than this configuration asks for; continue with the configuration"
    )
    refused(message, other.run)
    after = other.state()
    assert_equal({key: after[key] for key in before}, before)
    assert other.events == [] and other.losses == []


def test_a_checkpoint_of_another_format_is_called_so(finished: tuple[Training, Path], tmp_path: Path, quiet: None) -> None:
    """And not of another recipe, although its stages say other things."""
    state, path = torch.load(checkpoint(finished[1] / "models", 3), weights_only=True), tmp_path / "checkpoint.pt"
    state["expansion"]["engine"]["format"] = 1_000
    state["expansion"]["stages"][0]["news"] = True
    torch.save(state, path)
    refused("the checkpoint is of format 1000", training(ckpt=path).run)


def test_a_checkpoint_of_another_number_of_epochs_is_refused(finished: tuple[Training, Path], quiet: None) -> None:
    """Its stages lie elsewhere: the supernet would be ahead of its schedule, and the learning rate would end early."""
    refused("epochs", training(epochs=20, ckpt=checkpoint(finished[1] / "models", 4)).run)


# ---------------------------------------------------------------------- an iteration
def batches(count: int) -> list[dict[str, Tensor]]:
    data = cases(2 * count)
    return [{key: torch.stack([a[key], b[key]]) for key in a} for a, b in zip(data[::2], data[1::2], strict=True)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_largest_by_itself_trains_as_monai_trains_it(steps: int) -> None:
    """Four batches: with three steps an update, the last one of an epoch is of one batch."""
    data = loader(augment=False, shuffle=False, count=8)
    run = training((LARGEST,), epochs=2, data=data, accumulation_steps=steps, max_gradient_norm=None)
    torch.manual_seed(0)
    network = largest(PLAN.family(CHOICES), deep_supervision=True)
    optimizer = adamw(network)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=2, power=0.9)
    losses: list[float] = []
    monai = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=loader(augment=False, shuffle=False, count=8),
        network=network,
        optimizer=optimizer,
        loss_function=loss_function,
        train_handlers=[LrScheduleHandler(scheduler, print_lr=False)],
        optim_set_to_none=True,
        accumulation_steps=steps,
        decollate=False,
    )
    monai.add_event_handler(Events.ITERATION_COMPLETED, lambda t: losses.append(t.state.output["loss"].item()))
    assert_equal(network.state_dict(), run.network.state_dict())
    monai.run()
    run.run()
    assert_equal(run.network.state_dict(), network.state_dict())
    assert [loss for _, loss in run.losses] == losses


def test_accumulated_gradients_are_the_mean_of_the_batches_losses() -> None:
    """A step of SGD computed by hand, for a sandwich of three members."""
    rate = 0.1
    run = training(
        (SANDWICH,),
        epochs=1,
        data=loader(augment=False, shuffle=False, count=4),
        optimizer_of=lambda network: SGD(network.parameters(), rate),
        max_gradient_norm=None,
        accumulation_steps=2,
    )
    twin = training((SANDWICH,), epochs=1).engine
    twin.begin_epoch(0)
    for step, batch in enumerate(batches(2)):
        twin.step(batch["image"], batch["label"], epoch=0, step=step)
    run.run()
    for (name, weight), start in zip(run.network.named_parameters(), twin.supernet.network.parameters(), strict=True):
        gradient = torch.zeros_like(start) if start.grad is None else start.grad
        torch.testing.assert_close(weight, start - rate * gradient / 2, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_are_clipped_to_the_norm_once_they_are_accumulated() -> None:
    def moved(**settings: Any) -> dict[str, Tensor]:
        run = training(
            (LARGEST,),
            epochs=1,
            data=loader(augment=False, shuffle=False, count=4),
            optimizer_of=lambda network: SGD(network.parameters(), 1.0),
            accumulation_steps=2,
            **settings,
        )
        before = {name: p.detach().clone() for name, p in run.network.named_parameters()}
        run.run()
        return {name: p.detach() - before[name] for name, p in run.network.named_parameters()}

    def norm(changes: dict[str, Tensor]) -> float:
        return float(torch.cat([change.flatten() for change in changes.values()]).norm())

    free, clipped = moved(max_gradient_norm=None), moved(max_gradient_norm=0.5)
    assert norm(free) > 1
    assert norm(clipped) == pytest.approx(0.5, rel=1e-4)
    for name, change in free.items():
        torch.testing.assert_close(clipped[name], change * 0.5 / norm(free), rtol=1e-3, atol=1e-5)
    assert_equal(moved(max_gradient_norm=1000.0), free)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_are_zeroed_as_asked_once_an_accumulation(monkeypatch: pytest.MonkeyPatch, to_none: bool, steps: int) -> None:
    run = training((LARGEST,), epochs=1, optim_set_to_none=to_none, accumulation_steps=steps)
    zero_grad, asked = run.optimizer.zero_grad, []

    def spy(set_to_none: bool = True) -> None:
        asked.append(set_to_none)
        zero_grad(set_to_none=set_to_none)

    monkeypatch.setattr(run.optimizer, "zero_grad", spy)
    run.run()
    assert asked == [to_none] * (3 if steps == 1 else 2)


def test_monais_events_fire_once_an_iteration_and_in_order() -> None:
    run = training((SANDWICH,), epochs=1)
    fired: list[tuple[str, list[str]]] = []
    for event in IterationEvents:
        run.trainer.add_event_handler(
            event,
            lambda t, name=event.name: fired.append((name, sorted(t.state.output if isinstance(t.state.output, dict) else {}))),
        )
    run.run()
    one = [
        ("FORWARD_COMPLETED", ["image", "label", "pred"]),
        ("LOSS_COMPLETED", ["image", "label", "loss", "pred"]),
        ("BACKWARD_COMPLETED", ["image", "label", "loss", "pred"]),
    ]
    assert [event for event in fired if event[0] != "MODEL_COMPLETED"] == one * 3
    assert [name for name, _ in fired] == [*(name for name, _ in one), "MODEL_COMPLETED"] * 3


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("stage", [Stage(name="smallest"), SANDWICH], ids=["smallest", "sandwich"])
def test_the_output_is_the_first_members_at_full_resolution(stage: Stage, deep_supervision: bool) -> None:
    """That of the smallest member too, which works at three quarters of it."""
    run = training(
        (stage,),
        epochs=1,
        data=loader(augment=False, shuffle=False, count=2),
        deep_supervision=deep_supervision,
    )
    twin = training((stage,), epochs=1, deep_supervision=deep_supervision).engine
    twin.begin_epoch(0)
    (batch,) = batches(1)
    member = twin.members(0, 0)[0]
    outputs = twin.supernet(batch["image"], member)
    run.run()
    items = run.trainer.state.output
    assert len(items) == 2 and all(set(item) == {"image", "label", "pred", "loss"} for item in items)
    for index, item in enumerate(items):
        finest = (outputs[0] if deep_supervision else outputs)[index]
        assert item["pred"].shape == (3, *PATCH) and not item["pred"].requires_grad
        torch.testing.assert_close(item["pred"], finest.detach())
        assert torch.equal(item["image"], batch["image"][index])
        assert torch.equal(item["label"], batch["label"][index])
        assert float(item["loss"]) == pytest.approx(loss_function(outputs, batch["label"]).item())


def test_the_inferer_and_the_batch_of_the_configuration_are_used() -> None:
    """Without MONAI's metadata. Further arguments of the network come from prepare_batch, as in MONAI's trainer."""
    calls = []

    def inferer(x: Tensor, network: nn.Module, member: Subnet, *args: Any, **kwargs: Any) -> Any:
        calls.append((member, args, kwargs, type(x)))
        return network(x, member)

    def prepare(batch: dict[str, Tensor], *_: Any, **__: Any) -> tuple[Any, ...]:
        return batch["image"], batch["label"], ("extra",), {"key": 1}

    data = [{key: MetaTensor(value) for key, value in batch.items()} for batch in batches(3)]
    run = training((SANDWICH,), epochs=1, data=data, inferer=inferer, prepare_batch=prepare).run()
    members = [member for step in range(3) for member in run.engine.members(0, step)]
    assert calls == [(member, ("extra",), {"key": 1}, Tensor) for member in members]


def test_batches_need_no_dataset() -> None:
    """MONAI's trainer takes any iterable of batches."""
    run = training((LARGEST,), epochs=2, data=batches(2)).run()
    assert [epoch for epoch, _ in run.losses] == [0, 0, 1, 1]


# ---------------------------------------------------------------------- mixed precision
@pytest.mark.skipif(torch.cuda.is_available(), reason="there the scaler is real, and this device is not its own")
@pytest.mark.filterwarnings("ignore")
def test_mixed_precision_is_off_on_a_cpu(tmp_path: Path) -> None:
    plain, amp = training((SANDWICH,), epochs=2).run(), training((SANDWICH,), tmp_path, epochs=2, amp=True).run()
    assert amp.trainer.scaler is not None
    assert_equal(amp.network.state_dict(), plain.network.state_dict())
    rest = training((SANDWICH,), epochs=2, amp=True, weights=1, ckpt=checkpoint(tmp_path, 1)).run()
    assert_equal(rest.state(), plain.state())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clip", [None, 0.5])
def test_losses_are_scaled_and_the_scale_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    """A scaler for the CPU, as real as CUDA's. Scales are powers of two, so nothing is rounded, and clipping comes after."""
    monkeypatch.setattr(
        torch.cuda.amp, "GradScaler", lambda: torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    )
    settings: dict[str, Any] = {"epochs": 2, "accumulation_steps": 2, "max_gradient_norm": clip}
    plain = training((SANDWICH,), **settings).run()
    amp = training((SANDWICH,), tmp_path, amp=True, **settings).run()
    assert amp.trainer.scaler.get_scale() == 2.0**12  # four updates
    assert_equal(amp.network.state_dict(), plain.network.state_dict())
    rest = training((SANDWICH,), amp=True, weights=1, ckpt=checkpoint(tmp_path, 1), **settings).run()
    assert rest.trainer.scaler.state_dict() == amp.trainer.scaler.state_dict()
    assert_equal(rest.state(), amp.state())


def test_a_training_on_images_as_stored_goes_on_as_it_began() -> None:
    """As version 0.1.0 trained, whose plans say nothing of orientation."""
    run = training((SANDWICH,), epochs=1).run()
    state = run.expansion.state_dict()
    state["plan"] = {key: value for key, value in PLAN.to_json().items() if key != "orientation"}
    run.expansion.plan = PLAN.to_json() | {"orientation": "RAS"}
    words = "the checkpoint was trained on images as stored, this configuration turns them to RAS; continue with --plan#orient"
    refused(words, run.expansion.load_state_dict, state)
    run.expansion.plan = PLAN.to_json()
    run.expansion.load_state_dict(state)
    run.expansion.plan = PLAN.to_json() | {"orientation": "RAS", "licence": "other"}
    refused("was trained with another plan than this", run.expansion.load_state_dict, state)


# ---------------------------------------------------------------------- validation of members
def test_open_members_are_metrics_of_the_epochs_that_validate(finished: tuple[Training, Path]) -> None:
    run, _ = finished
    schedule, whole = run.engine.schedule, run.engine.supernet.family.space
    due = [e for e in range(EPOCHS) if (e + 1) % 3 == 0 or schedule.is_last_of_stage(e)]
    assert 0 < len(due) < EPOCHS
    for epoch in range(EPOCHS):
        space = schedule.stages[schedule.index(epoch)].space(whole)
        opened = [name for name, subnet in run.validation.members.items() if subnet in space]
        expected = {f"{METRIC}_{name}" for name in opened} if epoch in due else set()
        assert set(run.metrics[epoch]) == expected, epoch
    assert set(run.metrics[EPOCHS - 1]) == {f"{METRIC}_{name}" for name in run.validation.members}
    assert [entry["epoch"] for entry in run.validation.history] == due
    for entry in run.validation.history:
        for name, classes in entry["scores"].items():
            assert list(classes) == ["mean", "one", "two"]
            assert run.metrics[entry["epoch"]][f"{METRIC}_{name}"] == classes["mean"]


def test_metrics_of_others_stay() -> None:
    run = training("prox", epochs=2, interval=1)
    run.trainer.add_event_handler(Events.STARTED, lambda t: t.state.metrics.update(own=1.0))
    run.run()
    assert all(metrics["own"] == 1.0 for metrics in run.metrics.values())


def test_networks_of_members_live_as_long_as_their_validation() -> None:
    run = training("prox", epochs=2, interval=1)
    validation, alive = run.validation, []
    network, network_of = validation.validator.network, validation.network_of

    def remember(subnet: Subnet) -> Any:
        made = network_of(subnet)
        alive.append(weakref.ref(made))
        return made

    validation.network_of = remember
    run.run()
    gc.collect()
    assert validation.history and alive and not any(reference() for reference in alive)
    assert validation.validator.network is network


def test_dice_is_that_of_each_member_cut_out(finished: tuple[Training, Path]) -> None:
    run, _ = finished
    (measured,) = [entry["scores"] for entry in run.validation.history if entry["epoch"] == EPOCHS - 1]
    assert len(measured) == 5
    regions = LabelsToRegionsd(["pred", "label"], PLAN.regions())
    for name, subnet in run.validation.members.items():
        member = run.engine.supernet.member(subnet).eval()
        member.network.decoder.deep_supervision = False
        dice = DiceMetric(include_background=True, reduction="none")
        for case in cases(2, seed=1):
            with torch.no_grad():
                pred = member(case["image"][None]).argmax(1)
            both = regions({"pred": pred, "label": case["label"]})
            dice(both["pred"][None], both["label"][None])
        by_case = dice.aggregate()
        expected = {
            "mean": by_case.nanmean(1).nanmean().item(),
            **dict(zip(("one", "two"), by_case.nanmean(0).tolist(), strict=True)),
        }
        assert measured[name] == pytest.approx(expected, abs=1e-6), name
    assert len({tuple(classes.values()) for classes in measured.values()}) > 1


@pytest.mark.parametrize("watched", [True, False])
def test_the_largest_open_member_is_validated_last_watched_or_not(watched: bool) -> None:
    """Its metrics are the validator's own then, for handlers that keep the best network."""
    run = training("prox", epochs=5, interval=1)
    if not watched:
        run.validation.members = {"smallest": run.validation.members["smallest"]}
    order: list[Subnet] = []
    validator = run.validation.validator
    validator.add_event_handler(Events.STARTED, lambda v: order.append(v.network.subnet))
    seen = []

    @run.trainer.on(ProXEvents.MEMBERS_VALIDATED)
    def look(trainer: SupernetTrainer) -> None:
        seen.append((order[-1], trainer.engine.space.largest(), dict(validator.state.metrics), dict(trainer.state.metrics)))
        assert len(set(order)) == len(order)
        assert all(subnet in trainer.engine.space for subnet in order)
        order.clear()

    run.run()
    assert len(seen) == 5
    for epoch, (last, expected, own, metrics) in enumerate(seen):
        assert last == expected, epoch
        named = [name for name, subnet in run.validation.members.items() if subnet == expected]
        assert all(metrics[f"{METRIC}_{name}"] == own[METRIC] for name in named)
        assert set(own) == {METRIC}


def test_a_region_that_no_case_has_is_not_a_number(tmp_path: Path) -> None:
    """And the mean is over those that occur."""
    run = training("prox", tmp_path, epochs=5, interval=1, family=True)
    for item in run.validation.validator.data_loader.dataset.data:
        item["label"][item["label"] == 2] = 0
    run.validation.validator.data_loader.dataset.set_data(run.validation.validator.data_loader.dataset.data)
    run.run()
    for classes in run.validation.history[-1]["scores"].values():
        assert classes["one"] == classes["one"] and classes["two"] != classes["two"]
    for member in TrainedBundle.open(tmp_path).family().members:
        assert member.scores is not None and member.scores["mean"] == member.scores["one"] and member.scores["two"] is None
    rest = training("prox", epochs=5, ckpt=checkpoint(tmp_path, 5)).run()
    assert_equal(rest.validation.history, run.validation.history)


# ---------------------------------------------------------------------- the family that is left
@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path]:
    """A finished training and its bundle's folder, which has its models in it. Not to be changed."""
    bundle = tmp_path_factory.mktemp("bundle")
    return training("prox", bundle / "models", interval=3, family=True).run(), bundle


def test_the_family_is_written_as_it_was_trained(finished: tuple[Training, Path]) -> None:
    run, bundle = finished
    family = json.loads((bundle / "models" / "family.json").read_text())
    engine, space = run.engine, run.engine.supernet.family.space
    expected = {
        "format": 1,
        "plan": PLAN.to_json(),
        "choices": asdict(engine.supernet.family.choices),
        "recipe": "prox",
        "epochs": EPOCHS,
        "validated_epoch": EPOCHS,
        "validation_cases": ["b.nii.gz", "c.nii.gz"],
        "measure": "dice",
        "regions": {"one": [1], "two": [2]},
        "patch_size": list(PATCH),
        "space": space.to_json(),
        "closed": {},
        "monitor": [],
    }
    assert {key: family[key] for key in expected} == json.loads(json.dumps(expected))
    assert [stage.pop("first_epoch") for stage in family["stages"]] == list(engine.schedule.starts)
    assert family["stages"] == json.loads(json.dumps([stage.to_json() for stage in engine.schedule.stages]))
    assert family["version"] == __version__ and list(family["labels"]) == list(PLAN.labels)
    unsaid = {name: family[name] for name in ("trainer", "mirroring", "orientations", "surface_tolerance_mm", "license")}
    assert set(unsaid.values()) == {None}
    assert set(family) == {*expected, *unsaid, "version", "labels", "stages", "members", "progress"}

    assert [member["name"] for member in family["members"]] == ["smallest", "small", "middle", "large", "largest"]
    classes = run.validation.history[-1]["scores"]
    for member in family["members"]:
        subnet = Subnet.from_json(member["subnet"])
        assert subnet == run.validation.members[member["name"]]
        own = engine.supernet.extract(subnet)
        assert member["parameters"] == sum(p.numel() for p in own.parameters())
        assert member["macs"] == cost.macs(engine.supernet.family, subnet, PATCH)
        assert member["dice"] == classes[member["name"]]
        assert list(member["dice"]) == ["mean", "one", "two"]
    assert [probe["epoch"] for probe in family["progress"]] == [entry["epoch"] for entry in run.validation.history]
    for probe, entry in zip(family["progress"], run.validation.history, strict=True):
        assert probe["dice"] == {name: dice["mean"] for name, dice in entry["scores"].items()}
    assert (bundle / "models" / "eval" / "prox_progress.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_is_on_the_cases_and_regions_of_the_training(finished: tuple[Training, Path], tmp_path: Path) -> None:
    """Whatever a configuration says by then."""
    bundle = TrainedBundle.open(finished[1])
    assert bundle.regions == PLAN.regions()
    cases = tuple(Case(Path(f"imagesTr/{name}.nii.gz"), Path("label")) for name in "abcd")
    task = DecathlonTask(tmp_path, "Task", PLAN.channels, PLAN.labels, cases)
    assert bundle.validation_cases(task) == [cases[1], cases[2]]
    smaller = DecathlonTask(tmp_path, "Task", PLAN.channels, PLAN.labels, cases[:2])
    refused("Task lacks 1 cases that the training held out, the first is c.nii.gz", bundle.validation_cases, smaller)


def test_the_weights_are_a_bare_state_of_the_network_that_predicts(finished: tuple[Training, Path]) -> None:
    run, bundle = finished
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert_equal(weights, prediction_graph(run.network).state_dict())
    network = largest(PLAN.family(CHOICES))
    TrainedBundle.open(bundle).load_weights(SuperNet(run.engine.supernet.family, network))
    (batch,) = batches(1)
    with torch.no_grad():
        assert torch.equal(network(batch["image"]), run.network(batch["image"])[0])


def test_the_family_is_written_at_every_validation_and_members_not_open_have_no_dice(tmp_path: Path) -> None:
    run = training("prox", tmp_path, epochs=5, family=True)
    written = []

    @run.trainer.on(Events.EPOCH_COMPLETED)
    def read(trainer: SupernetTrainer) -> None:
        family = TrainedBundle.open(tmp_path).family()
        weights = torch.load(tmp_path / "model.pt", weights_only=True)
        assert_equal(weights, {name: run.network.state_dict()[name] for name in weights})
        measured = [member.name for member in family.members if member.scores is not None]
        assert measured == [name for name, subnet in run.validation.members.items() if subnet in trainer.engine.space]
        written.append((family.validated_epoch, len(family.progress), len(measured)))

    run.run()
    assert [entry[:2] for entry in written] == [(epoch, epoch) for epoch in range(1, 6)]
    assert written[0][2] == 1 and written[-1][2] == 5


def test_a_bundle_opens_by_its_folder_by_its_models_and_before_its_training(
    tmp_path: Path, finished: tuple[Training, Path]
) -> None:
    _, trained = finished
    data = json.loads((trained / "models" / "family.json").read_text())
    planned = tmp_path / "planned"
    (planned / "configs").mkdir(parents=True)
    (planned / "configs" / "family.json").write_text(json.dumps({key: data[key] for key in ("format", "plan", "choices")}))
    for path, root in ((trained, None), (str(trained), None), (trained / "models", None), (trained / "models", planned)):
        bundle = TrainedBundle.open(path, root)
        assert bundle.path == trained / "models" and bundle.file == FamilyFile.read(trained / "models" / "family.json")
    for path, root in ((planned, None), (tmp_path / "not yet there", planned), (str(planned / "models"), str(planned))):
        bundle = TrainedBundle.open(path, root)
        assert bundle.path == (planned / "models" if path == planned else Path(path))
        assert bundle.plan == PLAN
    shutil.copytree(trained / "models", planned / "models")
    assert TrainedBundle.open(planned).path == planned / "models"  # what was trained comes before what was planned


def test_a_trained_bundle_is_the_supernet_that_was_trained(finished: tuple[Training, Path]) -> None:
    run, folder = finished
    bundle = TrainedBundle.open(folder)
    assert bundle.plan == PLAN and bundle.network_family.space == run.engine.supernet.family.space
    supernet = bundle.supernet()
    assert not supernet.training
    (batch,) = batches(1)
    for subnet in run.validation.members.values():
        with torch.no_grad():
            assert torch.equal(supernet(batch["image"], subnet), run.engine.supernet(batch["image"], subnet)[0])


def test_members_are_found_by_name_and_by_file(tmp_path: Path, finished: tuple[Training, Path]) -> None:
    run, folder = finished
    bundle = TrainedBundle.open(folder)
    for name, subnet in run.validation.members.items():
        assert bundle.member(name) == (name, subnet)
        assert bundle.subnet(name) == subnet
    own = bundle.network_family.space.sample(random.Random(4))
    (tmp_path / "my_own.json").write_text(json.dumps({"subnet": own.to_json()}))
    assert bundle.member(str(tmp_path / "my_own.json")) == ("my_own", own)
    assert bundle.subnet(str(tmp_path / "my_own.json")) == own
    refused("there is no member 'tiny'; known: smallest, small, middle, large, largest", bundle.member, "tiny")
    refused("there is no file", bundle.member, str(tmp_path / "none.json"))
    (tmp_path / "wrong.json").write_text(json.dumps(own.to_json() | {"levels": [9]}))
    refused("levels[0] = 9 is not legal", bundle.subnet, str(tmp_path / "wrong.json"))


def test_dice_is_known_of_members_that_were_measured(tmp_path: Path, finished: tuple[Training, Path]) -> None:
    run, folder = finished
    bundle = TrainedBundle.open(folder)
    for member in bundle.family().members:
        assert bundle.measured(member.subnet) == member.scores
    strangers = (bundle.network_family.space.sample(random.Random(seed)) for seed in range(99))
    assert bundle.measured(next(s for s in strangers if s not in run.validation.members.values())) == {}
    first, *others = bundle.file.members
    unmeasured = replace(bundle.file, members=(replace(first, scores=None), *others))  # as written before that member opened
    assert replace(bundle, file=unmeasured).measured(first.subnet) == {}


def test_before_training_only_the_ends_of_the_space_are_known(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    choices = {**CHOICES, "kernel": None}
    data = {"format": 1, "plan": PLAN.to_json(), "choices": choices}
    (tmp_path / "configs" / "family.json").write_text(json.dumps(data))
    bundle = TrainedBundle.open(tmp_path)
    space = PLAN.family(CHOICES).space
    assert (bundle.subnet("smallest"), bundle.subnet("largest")) == (space.smallest(), space.largest())
    untrained = f"{tmp_path} is not trained; first python -m monai.bundle run --config_file configs/train.json"
    for call in (bundle.family, lambda: bundle.member("smallest"), lambda: bundle.subnet("middle")):
        refused(untrained, call)
    refused(untrained, bundle.measured, space.smallest())
    refused(
        f"there is no {tmp_path / 'models' / 'model.pt'}; training writes it, or give its folder as ckpt_dir", bundle.supernet
    )


def test_folders_that_hold_no_family_are_refused(tmp_path: Path) -> None:
    message = f"{tmp_path} is no bundle of a supernet, nor its models: there is no family.json, which training writes"
    refused(message, TrainedBundle.open, tmp_path)
    refused(message, TrainedBundle.open, tmp_path, tmp_path / "elsewhere")


@pytest.mark.parametrize("wrong", [[], None, {}, {"format": 2}, {"plan": None}, {"choices": None}], ids=str)
def test_a_family_of_another_format_is_refused(tmp_path: Path, wrong: Any) -> None:
    whole = {"format": 1, "plan": {}, "choices": {}}
    if isinstance(wrong, dict) and wrong:
        wrong = {key: value for key, value in (whole | wrong).items() if value is not None}
    (tmp_path / "family.json").write_text(json.dumps(wrong))
    refused(f"{tmp_path / 'family.json'} is not a family of format 1", TrainedBundle.open, tmp_path)


def test_weights_that_are_broken_or_of_another_network_are_refused(tmp_path: Path, finished: tuple[Training, Path]) -> None:
    shutil.copy(finished[1] / "models" / "family.json", tmp_path)
    bundle, path = TrainedBundle.open(tmp_path), tmp_path / "model.pt"
    refused(f"there is no {path}; training writes it, or give its folder as ckpt_dir", bundle.supernet)
    whole = (finished[1] / "models" / "model.pt").read_bytes()
    for content in (b"", b"no weights", whole[:1000]):
        path.write_bytes(content)
        refused(f"{path} is not a whole file of tensors: ", bundle.supernet)
    weights = torch.load(finished[1] / "models" / "model.pt", weights_only=True)
    name = next(iter(weights))
    for other in ({}, {**weights, "more": torch.zeros(1)}, {**weights, name: weights[name][:1]}, [1]):
        torch.save(other, path)
        refused(f"{path} does not hold the weights of this network: ", bundle.supernet)


# ---------------------------------------------------------------------- the monitor
FEWER = {"depth": "full", "width": [0.5, 1.0], "levels": 1, "resolution": [0.75, 1.0]}
MONITORED = replace(SANDWICH, monitored=True)
EAGER = {"threshold": 10, "patience": 1}  # no gain is worth it, so that every other validation closes a choice


def monitored(recipe: str | tuple[Stage, ...] = "prox", folder: Path | None = None, **settings: Any) -> Training:
    """Eleven epochs of ``prox`` are five of its last stage: trials begin, and two choices are closed, two epochs each."""
    eager = {"epochs": 11, "epoch_length": 1, "choices": FEWER, "interval": 1, "held_out": 6, "monitor": EAGER}
    return training(recipe, folder, **eager | settings)


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path, list[str]]:
    """A finished training that has closed choices, its bundle's folder and its log. Not to be changed."""
    bundle = tmp_path_factory.mktemp("narrowed")
    run, said = monitored(folder=bundle / "models", family=True), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level = run.trainer.logger.level
    run.trainer.logger.addHandler(handler)
    run.trainer.logger.setLevel(logging.INFO)
    with patch("monai_prox.bundle.family_writer.plot_progress") as plot:
        run.run()
    plot_progress(*plot.call_args.args, **plot.call_args.kwargs)
    said.append(f"plotted verdicts: {plot.call_args.kwargs['verdicts']}")
    run.trainer.logger.removeHandler(handler)
    run.trainer.logger.setLevel(level)
    return run, bundle, said


def test_comparisons_and_what_is_closed_are_logged(narrowed: tuple[Training, Path, list[str]]) -> None:
    run, _, said = narrowed
    history = run.engine.comparisons
    assert [comparison.epoch for comparison in history] == [7, 8, 9, 10]
    assert [line for line in said if line.startswith("ProX monitor")] == [f"ProX monitor: {one}" for one in history]
    closed = [dimension for _, dimension, _ in verdicts_of(run.engine.comparisons)]
    assert len(closed) == 2 and run.engine.closed == dict.fromkeys(closed, 1)
    lines = [line for line in said if line.startswith("ProX closes")]
    assert [line.split(":")[0] for line in lines] == [f"ProX closes the last choice of {dimension}" for dimension in closed]
    assert "of 24 members stay open, the largest has " in lines[-1] and lines[-1].endswith(f". Open: {run.engine.space}")


def test_watched_members_are_chosen_anew_from_what_remains(narrowed: tuple[Training, Path, list[str]]) -> None:
    """And they are what is reported of the very epoch in which a choice was closed."""
    run, _, _ = narrowed
    space = run.engine.final_space
    assert space.size() < 24
    assert run.validation.members == named_members(run.engine.supernet.family, PATCH, space)
    assert run.validation.members != probes(json.dumps(FEWER))
    assert set(run.metrics[10]) == {f"{METRIC}_{name}" for name in run.validation.members}
    assert set(run.validation.history[-1]["scores"]) == set(run.validation.members)
    again = evaluator(run.engine.supernet.view(run.validation.members["largest"]), 6)
    again.run()
    assert again.state.metrics[METRIC] == run.metrics[10][f"{METRIC}_largest"]


def test_each_member_is_validated_once_and_those_compared_are_no_metrics() -> None:
    """Unless a choice is closed."""
    choices = CHOICES | {"width": [0.5, 0.75, 1.0]}
    run = monitored((MONITORED,), epochs=2, choices=choices, monitor={"threshold": -10})
    order: list[Subnet] = []
    run.validation.validator.add_event_handler(Events.STARTED, lambda v: order.append(v.network.subnet))
    run.run()
    assert run.engine.trial is not None
    watched = [subnet for subnet in run.validation.members.values() if subnet != run.engine.space.largest()]
    without = run.engine.trial.largest()
    assert order == [*watched, run.engine.space.largest(), *watched, without, run.engine.space.largest()]
    assert without not in watched
    assert set(run.metrics[1]) == {f"{METRIC}_{name}" for name in run.validation.members}


def test_the_monitor_compares_about_three_times_as_often_as_members_are_watched() -> None:
    run = monitored((MONITORED,), epochs=20, interval=10, monitor={"threshold": -10}).run()
    assert [comparison.epoch for comparison in run.engine.comparisons] == [5, 8, 11, 14, 17, 19]
    assert [probe["epoch"] for probe in run.validation.history] == [9, 19]
    assert [epoch for epoch, metrics in run.metrics.items() if metrics] == [9, 19]


@pytest.mark.parametrize("second", [MONITORED, SANDWICH], ids=["monitored", "not monitored"])
def test_a_trial_ends_with_its_stage_also_where_the_training_is_interrupted(tmp_path: Path, second: Stage) -> None:
    """The first stage ends within a trial; the second has epochs without a comparison, and is interrupted in one."""
    first = replace(MONITORED, open={"width": 9}, teacher="none")
    stages = (first, replace(second, name="second", teacher="none"))
    settings: dict[str, Any] = {"epochs": 10, "interval": 6, "monitor": {"threshold": -10}}
    whole = monitored(stages, tmp_path, **settings).run()
    judged = [(comparison.epoch, comparison.judged) for comparison in whole.engine.comparisons]
    assert judged == ([(3, 0), (4, 1), (7, 0), (9, 1)] if second is MONITORED else [(3, 0), (4, 1)])
    rest = monitored(stages, weights=1, ckpt=checkpoint(tmp_path, 6), **settings).run()
    assert_equal(rest.state(), whole.state())
    assert rest.losses == [(epoch, loss) for epoch, loss in whole.losses if epoch >= 6]


def test_the_largest_open_member_is_validated_last_after_a_closing_too() -> None:
    run = monitored((MONITORED,), epochs=3)
    order: list[Subnet] = []
    run.validation.validator.add_event_handler(Events.STARTED, lambda v: order.append(v.network.subnet))
    run.run()
    assert len(run.engine.closed) == 1
    assert order[-1] == run.engine.space.largest() != run.engine.supernet.family.space.largest()
    assert run.validation.validator.state.metrics[METRIC] == run.metrics[2][f"{METRIC}_largest"]


def test_the_monitor_sees_dice_by_case_without_those_that_have_no_region() -> None:
    """Case 2 has no foreground at all, case 3 one region only."""
    run = monitored((MONITORED,), epochs=2, monitor={"threshold": -10})
    data = run.validation.validator.data_loader.dataset.data
    data[2]["label"][:] = 0
    data[3]["label"][data[3]["label"] == 2] = 0
    run.validation.validator.data_loader.dataset.set_data(data)
    assert run.engine.monitor is not None
    observe, seen = run.engine.monitor.observe, {}

    def spy(epoch: int, space: SearchSpace, dice: Mapping[Subnet, Mapping[str, float]]) -> Comparison | None:
        seen.update(dice)
        return observe(epoch, space, dice)

    run.engine.monitor.observe = spy  # type: ignore[method-assign]
    run.run()
    for subnet, name in ((subnet, name) for name, subnet in run.validation.members.items()):
        scores = {case: score for case, score in seen[subnet].items() if not math.isnan(score)}
        assert list(scores) == ["0", "1", "3", "4", "5"]
        mean = sum(scores.values()) / 5
        assert mean == pytest.approx(run.metrics[1][f"{METRIC}_{name}"], abs=1e-6)
    assert {comparison.cases for comparison in run.engine.comparisons} == {5}


def test_fewer_than_five_cases_decide_nothing() -> None:
    run = monitored((MONITORED,), epochs=3, held_out=4).run()
    assert run.engine.comparisons == [] and run.engine.trial is None and run.engine.closed == {}


@pytest.mark.parametrize("off", [{"recipe": (SANDWICH,)}, {"monitor": None}], ids=["stage", "monitor"])
def test_nothing_is_closed_where_no_stage_is_monitored_or_there_is_no_monitor(tmp_path: Path, off: dict[str, Any]) -> None:
    """Three epochs of this stage close a choice otherwise."""
    run = monitored(**{"recipe": (MONITORED,), "folder": tmp_path, "epochs": 3, "family": True} | off).run()
    family = TrainedBundle.open(tmp_path).family()
    assert family.monitor == () and family.closed == run.engine.closed == {}
    assert run.validation.members == probes(json.dumps(FEWER))


def test_a_monitor_that_closes_nothing_changes_nothing_but_what_trains_during_trials() -> None:
    """Validations of more members leave the training as it is, bit for bit."""
    stages = Stage(name="a", share=0.2), replace(MONITORED, share=0.8)
    watching, without = (monitored(stages, epochs=6, monitor=monitor) for monitor in ({"threshold": -10}, None))
    trials: dict[int, SearchSpace | None] = {}
    watching.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda trainer: trials.update({trainer.state.epoch: watching.engine.trial})
    )
    watching.run()
    assert len(set(map(str, trials.values()))) == 3, "two and none"
    without.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda trainer: setattr(without.engine, "_trial", trials[trainer.state.epoch])
    )
    without.run()
    assert watching.losses == without.losses
    assert_equal(watching.network.state_dict(), without.network.state_dict())
    assert_equal(watching.validation.history, without.validation.history)


@pytest.mark.parametrize("finished", [7, 8, 9, 10, 11], ids=["trial", "run in", "closed", "run in again", "all"])
def test_a_training_interrupted_around_a_closing_continues_bit_for_bit(
    narrowed: tuple[Training, Path, list[str]], tmp_path: Path, finished: int
) -> None:
    """Choices were closed after epochs 9 and 11; the members are those of what remained."""
    whole, bundle, _ = narrowed
    rest = monitored(weights=1, ckpt=checkpoint(bundle / "models", finished)).run()
    assert_equal(rest.state(), whole.state())
    assert rest.losses == [(epoch, loss) for epoch, loss in whole.losses if epoch >= finished]
    assert rest.validation.members == whole.validation.members


def test_a_training_continues_without_its_monitor_and_what_is_closed_stays_closed(
    narrowed: tuple[Training, Path, list[str]],
) -> None:
    whole, bundle, _ = narrowed
    rest = monitored(weights=1, ckpt=checkpoint(bundle / "models", 10), monitor=None)
    rest.run()
    (_, first, _), _ = verdicts_of(whole.engine.comparisons)
    assert rest.engine.closed == {first: 1} and rest.engine.trial is None
    assert all(subnet in rest.engine.space for subnet in rest.validation.members.values())


def test_a_monitored_checkpoint_is_plain_data(narrowed: tuple[Training, Path, list[str]]) -> None:
    state = torch.load(checkpoint(narrowed[1] / "models", 11), weights_only=True)
    assert plain(state)
    assert len(state["expansion"]["engine"]["monitor"]["history"]) == 4


def test_the_family_that_is_left_is_the_narrowed_one(narrowed: tuple[Training, Path, list[str]]) -> None:
    run, folder, said = narrowed
    family, bundle = TrainedBundle.open(folder).family(), TrainedBundle.open(folder)
    assert family.closed == run.engine.closed
    assert family.space == json.loads(json.dumps(run.engine.final_space.to_json()))
    assert family.monitor == tuple(comparison.to_json() for comparison in run.engine.comparisons)
    assert {member.name: member.subnet for member in family.members} == run.validation.members
    assert {member.name: member.scores for member in family.members} == run.validation.history[-1]["scores"]
    assert [entry["epoch"] for entry in family.progress] == list(range(11))
    assert bundle.network_family.space == run.engine.final_space
    assert bundle.subnet("largest") == run.engine.final_space.largest() == bundle.member("largest")[1]
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    own = prediction_graph(run.engine.supernet.extract(run.engine.final_space.largest()))
    assert_equal(weights, own.state_dict())
    assert sum(w.numel() for w in weights.values()) < sum(p.numel() for p in prediction_graph(run.network).parameters())
    assert (folder / "models" / "eval" / "prox_progress.png").is_file()
    verdicts = verdicts_of(run.engine.comparisons)
    assert [verdict for *_, verdict in verdicts] == ["closed"] * 2 and said[-1] == f"plotted verdicts: {verdicts}"


def assert_left(run: Training, folder: Path) -> None:
    """The family in ``folder`` computes what the supernet of ``run`` does, within it and cut out, bit for bit."""
    bundle, space = TrainedBundle.open(folder), run.engine.final_space
    source, supernet, trained = TrainedSegmenter(bundle), bundle.supernet(), run.engine.supernet.eval()
    (batch,) = batches(1)
    some = [space.sample(random.Random(seed)) for seed in range(5)]
    with torch.no_grad():
        for subnet in {*run.validation.members.values(), *some, space.smallest(), space.largest()}:
            expected = finest(trained(batch["image"], subnet))
            assert torch.equal(supernet(batch["image"], subnet), expected), str(subnet)
        for name, subnet in run.validation.members.items():
            prediction = prediction_of(source, name)
            own = bundle.network_family.run(prediction.network, batch["image"], subnet)
            assert torch.equal(own, finest(trained(batch["image"], subnet))), name
            assert prediction.patch_size == trained.family.input_size(PATCH, subnet["resolution"][0])
            assert prediction.architecture == trained.family.architecture_of(subnet)


def test_members_of_a_narrowed_family_are_those_that_were_trained(narrowed: tuple[Training, Path, list[str]]) -> None:
    assert_left(*narrowed[:2])


@pytest.mark.parametrize("dimension", ["levels", "resolution", "depth", "decoder_depth", "width"])
def test_any_dimension_can_be_closed(tmp_path: Path, dimension: str) -> None:
    run = monitored((MONITORED,), tmp_path, epochs=1, choices=CHOICES, family=True)
    assert run.engine.monitor is not None
    closing = {"gain": 0.0, "error": 0.0, "cases": 5, "parameters": 0, "macs": 0, "judged": 3, "verdict": "closed"}
    run.engine.monitor.observe = lambda epoch, *_: Comparison(  # type: ignore[method-assign]
        epoch=epoch, dimension=dimension, choices=2, **closing
    )
    run.run()
    assert TrainedBundle.open(tmp_path).family().closed == {dimension: 1}
    assert_left(run, tmp_path)


def test_all_dimensions_can_be_closed(tmp_path: Path) -> None:
    """A family of one member is what is left."""
    run = monitored((MONITORED,), tmp_path, epochs=7, family=True).run()
    assert run.engine.closed == {"levels": 1, "resolution": 1, "width": 1} and list(run.validation.members) == ["largest"]
    assert_left(run, tmp_path)
    bundle = TrainedBundle.open(tmp_path)
    assert bundle.subnet("smallest") == bundle.subnet("largest")


# ---------------------------------------------------------------------- wrong use
def test_the_handler_belongs_to_a_supernet_trainer_of_its_engine() -> None:
    run = training((SANDWICH,), epochs=1)
    message = "ProXExpansionHandler belongs to a SupernetTrainer of the same engine"
    stock = {"device": "cpu", "max_epochs": 1, "train_data_loader": loader(), "loss_function": loss_function}
    other = SupervisedTrainer(network=run.network, optimizer=run.optimizer, **stock)
    refused(message, run.expansion.attach, other)
    refused(message, run.expansion.attach, training((SANDWICH,), epochs=1).trainer)
    refused(
        message,
        SupervisedTrainer,
        network=run.network,
        optimizer=run.optimizer,
        train_handlers=[run.expansion],
        **stock,
    )


def bare(**settings: Any) -> SupernetTrainer:
    engine = training((SANDWICH,), epochs=3).engine
    needed = {"device": "cpu", "max_epochs": 3, "train_data_loader": loader(), "optimizer": sgd(engine.supernet.network)}
    return SupernetTrainer(engine, **needed | settings)


def test_the_trainer_covers_the_schedule() -> None:
    for epochs in (2, 4):
        refused(f"the schedule covers 3 epochs, max_epochs is {epochs}; they must agree", bare, max_epochs=epochs)
    assert bare(max_epochs=3).state.max_epochs == 3


def test_compiling_is_refused() -> None:
    refused("compile is true; a supernet's members differ in shape", bare, compile=True)
    refused("amp is 'no'; write True or False", bare, amp="no")
    assert not bare(amp="false").amp
    assert not bare(compile=False).compile


def test_events_of_others_can_be_registered_too() -> None:
    trainer = bare(event_names=["own"])
    fired = []
    trainer.add_event_handler("own", lambda _: fired.append("own"))
    trainer.fire_event("own")
    assert fired == ["own"]


# ---------------------------------------------------------------------- several ranks
def test_every_rank_augments_by_itself() -> None:
    """The same cases in the same order, with other random numbers, which its next start repeats."""

    def seen(rank: int) -> Tensor:
        run, images = training((Stage(name="a"),), epochs=1, data=loader(shuffle=False)), list[Tensor]()
        run.trainer.add_event_handler(
            IterationEvents.FORWARD_COMPLETED, lambda t: images.append(t.state.output["image"].clone())
        )
        with patch("monai_prox.bundle.handlers.rank", return_value=rank):
            run.run()
        return torch.stack(images)

    first, again, second = map(seen, (0, 0, 1))
    assert torch.equal(first, again) and len(first) == 3
    assert not any(map(torch.equal, first, second))


def test_ranks_start_with_the_first_ones_weights() -> None:
    runs = [training((SANDWICH,), epochs=1, weights=weights) for weights in (0, 1, 0)]
    in_threads(2, lambda rank: runs[rank].expansion.start(runs[rank].trainer))
    for run in runs[:2]:
        assert_equal(run.network.state_dict(), runs[2].network.state_dict())


def _rank(rank: int) -> dict[str, Any]:
    run = training((Stage(name="a"), SANDWICH), epochs=2, weights=rank, data=loader(shuffle=False))
    members: list[Any] = []
    images: list[Tensor] = []

    def note_member(supernet: nn.Module, inputs: tuple[Tensor, Subnet]) -> None:
        if supernet.training:  # validation is not of interest
            members.append(inputs[1].to_json())

    run.engine.supernet.register_forward_pre_hook(note_member)
    run.trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, lambda t: images.append(t.state.output["image"].clone()))
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run.run()
    return {"members": members, "images": images, "before": before, "losses": run.losses, **run.state()}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_keep_equal_weights_train_the_same_members_and_augment_by_themselves() -> None:
    """They begin with weights of their own, of which the first rank's are everyone's, and are shown the same cases."""
    first, second = together(2, _rank)
    assert any(not torch.equal(tensor, second["before"][name]) for name, tensor in first["before"].items())
    assert any(not torch.equal(tensor, first["network"][name]) for name, tensor in first["before"].items())
    for key in ("network", "optimizer", "engine", "epoch", "iteration"):
        assert_equal(first[key], second[key], key)
    assert first["members"] == second["members"] and len(first["members"]) == 3 * 1 + 3 * 3
    assert len(first["images"]) == 6
    assert not any(torch.equal(*pair) for pair in zip(first["images"], second["images"], strict=True))
    assert first["losses"] != second["losses"]


def _rank_that_closes(_: int) -> dict[str, Any]:
    run = monitored((MONITORED,), epochs=4, held_out=7, data=loader(shuffle=False)).run()
    return {"closed": run.engine.closed, "trial": str(run.engine.trial), **run.state()}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_decide_alike_and_from_all_cases() -> None:
    """Seven cases, four of the first rank and three of the second, too few to decide by itself."""
    first, second = together(2, _rank_that_closes)
    assert len(first["closed"]) == 1 and first["trial"] != "None"
    comparisons = first["engine"]["monitor"]["history"]
    assert len(comparisons) == 3 and all(comparison["cases"] == 7 for comparison in comparisons)
    for key in ("closed", "trial", "validation", "network", "optimizer", "engine"):
        assert_equal(first[key], second[key], key)
