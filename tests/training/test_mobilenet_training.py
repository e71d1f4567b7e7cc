"""The recipes on MobileNetV3, whose norms keep statistics: every frozen teacher gets its own."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.mobilenet_engines import engine_of, images, optimizer_of, train
from helpers.refusals import refused

from monai_prox.core.space import Subnet
from monai_prox.training.calibrate import calibrate
from monai_prox.training.recipes import RECIPES, progressive_shrinking, prox_paper

# What these resume, engines of a U-Net resume in tests of a second; a family that was adopted resumes as that of prox
IN_THE_CAMPAIGN = ("adopt", "prox", "progressive_shrinking")


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in IN_THE_CAMPAIGN else name for name in RECIPES]
)
def test_resumed_is_uninterrupted_bit_for_bit(recipe: str) -> None:
    whole, half = engine_of(recipe), engine_of(recipe)
    optimizers = optimizer_of(whole), optimizer_of(half)
    epochs, middle = whole.schedule.epochs, whole.schedule.epochs // 2
    train(whole, optimizers[0], range(epochs))
    train(half, optimizers[1], range(middle))
    file = io.BytesIO()
    torch.save([half.state_dict(), half.supernet.network.state_dict(), optimizers[1].state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    again = engine_of(recipe, weights=1)
    optimizer = optimizer_of(again)
    again.supernet.network.load_state_dict(states[1])
    again.load_state_dict(states[0])
    optimizer.load_state_dict(states[2])
    train(again, optimizer, range(middle, epochs))
    expected, found = whole.supernet.state_dict(), again.supernet.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("recipe", "teachers"),
    [
        ("prox_paper", lambda spaces: [space.largest() for space in spaces[:-1]]),
        ("progressive_shrinking", lambda spaces: [spaces[0].largest()]),
    ],
)
def test_a_frozen_teacher_has_statistics_of_its_own(recipe: str, teachers: Callable[[Any], list[Subnet]]) -> None:
    calibrated: list[Subnet] = []
    engine = engine_of(recipe, calibrated=calibrated)
    train(engine, optimizer_of(engine), range(engine.schedule.epochs))
    stages = {"prox_paper": prox_paper, "progressive_shrinking": progressive_shrinking}[recipe](engine.supernet.family.space)
    assert calibrated == teachers([stage.space(engine.supernet.family.space) for stage in stages])
    teacher = engine._expansion.teacher
    assert teacher is not None
    subnet, network = teacher.subnet, teacher._member.network
    again = engine.supernet.family.build(subnet, initialise=False)
    again.load_state_dict(network.state_dict())
    calibrate(again, images(99), lambda x: engine.supernet.family.run(again, x, subnet))
    for (name, own), expected in zip(network.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(own, expected) or name.endswith("num_batches_tracked"), name


def test_a_frozen_teacher_without_them_is_refused() -> None:
    refused("of which every teacher needs its own: give calibrate", engine_of, "prox_paper", calibrate=None)
    engine_of("prox", calibrate=None)  # has none
    engine_of("prox_paper")  # whose teachers are calibrated
