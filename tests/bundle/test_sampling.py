"""The images of an epoch, which counts iterations: of one process, of several, and of a resumed training."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bundle_training import SANDWICH, Training, cases, checkpoint, training
from helpers.equality import assert_equal
from helpers.ranks import in_threads
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose

from monai_prox.bundle import TrainingSampler
from monai_prox.errors import ProXError


def orders(count: int, processes: int, *, epoch: int = 1, **settings: Any) -> list[list[int]]:
    """The images that each process draws of so many."""

    def order(rank: int) -> list[int]:
        sampler = TrainingSampler(range(count), **settings)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        return drawn

    return in_threads(processes, order)


@pytest.mark.parametrize("count", [1, 3, 7, 24, 100])
def test_an_epoch_has_its_iterations_whatever_the_number_of_images(count: int) -> None:
    """In permutations: no image is drawn again before all were drawn."""
    (order,) = orders(count, 1, iterations=6, batch_size=4)
    assert len(order) == 24
    for start in range(0, 24, count):
        part = order[start : start + count]
        assert len(set(part)) == len(part) and set(part) <= set(range(count))


def test_processes_share_out_what_one_process_draws() -> None:
    """Global batches are those of one process, so an image is in one process's batches only."""
    (whole,) = orders(20, 1, iterations=5, batch_size=4)
    shares = orders(20, 2, iterations=5, batch_size=2)
    assert [len(share) for share in shares] == [10, 10] and not set(shares[0]) & set(shares[1])
    together = [sorted(image for share in shares for image in share[start : start + 2]) for start in range(0, 10, 2)]
    assert together == [sorted(whole[start : start + 4]) for start in range(0, 20, 4)]


def test_the_order_depends_on_the_seed_and_the_epoch_only() -> None:
    settings = {"iterations": 10, "batch_size": 2}
    torch.manual_seed(1)
    first = orders(20, 1, seed=0, **settings)
    torch.manual_seed(2)
    assert orders(20, 1, seed=0, **settings) == first
    assert orders(20, 1, seed=7, **settings) != first != orders(20, 1, seed=0, epoch=2, **settings)


def test_weights_are_the_probabilities_of_images() -> None:
    shares = orders(4, 2, iterations=1000, batch_size=4, weights=[3.0, 1.0, 0.0, 4.0])
    for share in shares:
        counted = Counter(share)
        assert [counted[image] / len(share) for image in range(4)] == pytest.approx([3 / 8, 1 / 8, 0, 1 / 2], abs=0.03)
    assert shares[0] != shares[1]


@pytest.mark.parametrize("iterations", [0, -1, 2.5, "250", None, True])
def test_another_number_of_iterations_is_named(iterations: Any) -> None:
    message = f"the number of iterations of an epoch is {iterations!r}; it must be a whole number, at least 1"
    with pytest.raises(ProXError, match=re.escape(message)):
        TrainingSampler(range(3), iterations=iterations, batch_size=2)


def watched(folder: Path, **settings: Any) -> tuple[Training, dict[int, list[float]]]:
    """A training of two iterations an epoch, of five images, and what each epoch drew: an image's sum stands for it."""
    dataset = CacheDataset(cases(5), Compose([]), progress=False)
    loader = DataLoader(dataset, batch_size=2, sampler=TrainingSampler(range(5), iterations=2, batch_size=2))
    made = training((SANDWICH,), folder, epochs=4, data=loader, **settings)
    drawn: dict[int, list[float]] = {}

    @made.trainer.on(Events.ITERATION_STARTED)
    def note(trainer: Any) -> None:
        drawn.setdefault(trainer.state.epoch, []).extend(trainer.state.batch["image"].sum((1, 2, 3)).tolist())

    return made.run(), drawn


def test_monais_trainer_draws_anew_in_every_epoch_and_a_resumed_one_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, drawn = watched(tmp_path / "whole")
    assert [len(epoch) for epoch in drawn.values()] == [4] * 4
    assert len(set(map(tuple, drawn.values()))) == 4
    resumed, later = watched(tmp_path / "resumed", ckpt=checkpoint(tmp_path / "whole", 2), weights=3)
    assert later == {epoch: drawn[epoch] for epoch in (3, 4)}
    assert_equal(resumed.state(), whole.state())
