"""A thousand steps and evaluations leave no more behind than half of them: caches are bounded, and no graph is kept.

What is counted first are objects, for that is exact. The resident memory has a bound far above its noise and far below what a
cache of the members seen, or a graph of each step, would take.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.architectures import batch, segmentation_loss, unet_family
from helpers.nnunet_task import bare_model, bare_plans, device_file
from torch import Tensor, nn

from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core import cost
from monai_prox.core.supernet import SKELETONS, SuperNet
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.runtime.images import Image
from monai_prox.runtime.model import Model
from monai_prox.runtime.prediction import label
from monai_prox.runtime.preprocessing import prepare
from monai_prox.search.torch_runner import runnable
from monai_prox.training.engine import Engine
from monai_prox.training.stage import Schedule, Stage

pytest_plugins = ["helpers.nnunet_fixtures"]

ROUNDS = 1_200
MEGABYTES = 12  # that the second half may add
PATCH = (16, 16)
LARGE = UNetChoices(depth="all", width=(0.25, 0.5, 0.75, 1.0), kernel=(1, 3), levels=1, resolution=(0.5, 0.75, 1.0))


def supernet_of(*, kernel_transforms: bool = False) -> SuperNet:
    """Of so many members that hardly any comes twice."""
    torch.manual_seed(0)
    family = unet_family(patch=PATCH, features=(4, 4, 4), choices=LARGE)
    assert family.space.size() > 10 * ROUNDS
    return SuperNet(family, kernel_transforms=kernel_transforms_of(family) if kernel_transforms else None)


def objects() -> Counter[str]:
    """Modules and tensors that are alive, and nodes of graphs, for those hold tensors that Python does not see."""
    gc.collect()
    alive: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        if issubclass(kind, nn.Module):
            alive["modules"] += 1
        elif issubclass(kind, Tensor):
            alive["tensors"] += 1
            alive["graphs"] += one.grad_fn is not None
    return alive


def resident() -> float:
    """Megabytes of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if statm.is_file() else 0.0


def levels_off(once: Callable[[int], object], settle: Callable[[], object], *, rounds: int = ROUNDS) -> None:
    """After all rounds there is alive what was after half of them, and the process is hardly larger.

    settle: fills caches with the same, so that what they hold can be compared.
    """
    halves: list[tuple[Counter[str], float]] = []
    for half in range(2):
        for number in range(rounds // 2):
            once(half * (rounds // 2) + number)
        settle()
        halves.append((objects(), resident()))
    (first, before), (second, after) = halves
    assert second == first
    assert after - before < MEGABYTES


def fill_skeletons(supernet: SuperNet) -> None:
    generator, space = random.Random(-1), supernet.family.space
    for subnet in (space.sample(generator) for _ in range(2 * SKELETONS)):
        supernet.shapes(subnet)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_transforms", [False, True], ids=["plain", "kernel transforms"])
def test_training_levels_off(kernel_transforms: bool) -> None:
    """Of the largest member, which teaches, and a random one; fewer steps where kernels are transformed."""
    supernet = supernet_of(kernel_transforms=kernel_transforms)
    space, rounds = supernet.family.space, ROUNDS // 8 if kernel_transforms else ROUNDS
    everything = {dimension: space.choice_count(dimension) for dimension in space.dimensions}
    stage = Stage(name="everything", open=everything, train=("largest", "random"), teacher="largest", distance="kl")
    engine = Engine(supernet, Schedule((stage,), rounds), segmentation_loss, seed=0)
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=1e-4)
    engine.guard(optimizer)
    x, target = batch(0, patch=PATCH)

    def once(number: int) -> None:
        engine.begin_epoch(number)  # each draws members of its own
        optimizer.zero_grad()
        assert engine.step(x, target, epoch=number, step=0).loss.isfinite()
        optimizer.step()

    def settle() -> None:
        optimizer.zero_grad()  # members have gradients of their own, some of more transforms than others
        fill_skeletons(supernet)

    levels_off(once, settle, rounds=rounds)
    assert engine.schedule.index(rounds - 1) == 0


@pytest.mark.slow
def test_evaluating_members_levels_off() -> None:
    """Cut out, copied or looked at, as validation, export and search do."""
    supernet, generator = supernet_of().eval(), random.Random(0)
    family, (x, _) = supernet.family, batch(0, patch=PATCH)
    seen = set()

    def once(number: int) -> None:
        subnet = family.space.sample(generator)
        seen.add(subnet)
        with torch.inference_mode():
            if number % 3 == 2:
                runnable(supernet.extract(subnet))(x.numpy())
            else:
                (supernet.member, supernet.view)[number % 3](subnet)(x)
        cost.member_cost(family, subnet, PATCH)

    levels_off(once, partial(fill_skeletons, supernet))
    assert len(seen) > ROUNDS // 2


@pytest.mark.slow
def test_predicting_on_the_device_levels_off(bare: Path, tmp_path: Path) -> None:
    """Images of ever other sizes, by one session."""
    model = Model(device_file(bare_model(bare_plans()), "smallest", tmp_path / "smallest.onnx"), threads=1)
    generator = np.random.default_rng(0)

    def once(number: int) -> None:
        voxels = generator.normal(size=(1, *generator.integers(12, 40, size=3))).astype(np.float32)
        image = Image(voxels, tuple(generator.uniform(0.8, 1.2, size=3)), lambda *_: None)
        shape = voxels.shape[1:]
        assert label(*prepare(image, model.description), model.description, model).shape == shape

    levels_off(once, lambda: None, rounds=ROUNDS // 20)
