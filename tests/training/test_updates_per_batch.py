"""Several updates with one batch: which steps they are, and how many fit into the time that a loader takes."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from monai_prox.errors import ProXError
from monai_prox.training.idle_time import MOST, IdleTime
from monai_prox.training.updates_per_batch import UpdatesPerBatch

BATCHES = 10


class Clock:
    """A host with made-up times: a batch comes every ``loader`` ms, of a full queue at once; an update takes ``gpu`` ms."""

    def __init__(self, updates: UpdatesPerBatch, monkeypatch: pytest.MonkeyPatch) -> None:
        self.updates, self.now = updates, 0.0
        monkeypatch.setattr("monai_prox.training.updates_per_batch.perf_counter", lambda: self.now)

    def epoch(self, stage: int, *, loader: float, gpu: float, queue: int = BATCHES // 2) -> int:
        """The number of updates of each batch of an epoch."""
        self.now += 1e6  # a validation
        self.updates.begin_epoch(stage, BATCHES)
        made: list[int] = []

        def update(step: int) -> tuple[Tensor, bool]:
            made.append(step)
            self.now += gpu
            return torch.zeros(()), True

        for batch in range(BATCHES):
            due = self.now + max(0.0, loader - self.updates.number * gpu) * (batch >= queue)
            self.now = due
            self.updates.run(update)
        assert made == list(range(len(made))) and len(made) % BATCHES == 0
        self.line = self.updates.end_epoch()
        return len(made) // BATCHES


# ---------------------------------------------------------------------- idle time
@pytest.mark.parametrize(
    ("waits", "updates", "number"),
    [
        ([0] * 5, [10] * 5, 1),
        ([19] * 5, [20] * 5, 1),  # a second update would take longer than the batch
        ([20] * 5, [20] * 5, 2),
        ([71] * 5, [15] * 5, 5),  # 86 / 15
        ([0, 100, 0, 100, 0], [10, 30, 10, 30, 20], 3),  # the sums count: 200 / 100
        ([700] * 5, [1] * 5, MOST),
    ],
)
def test_as_many_updates_as_fit_between_two_batches(waits: Sequence[float], updates: Sequence[float], number: int) -> None:
    idle, now = IdleTime(batches=10), 0.0
    for wait, update in zip([1e6, 0, 0, 0, 1000, *waits], [1, 2, 3, 4, 1000, *updates], strict=True):
        idle.add(now + wait, now + wait + update)
        now += wait + update
    assert idle.updates == number
    assert idle.share == pytest.approx(sum(waits) / (sum(waits) + sum(updates)))


@pytest.mark.parametrize("batches", [0, 1])
def test_the_wait_for_the_first_batch_is_that_of_a_validation(batches: int) -> None:
    idle = IdleTime(batches=1)
    for _ in range(batches):
        idle.add(1e6, 1e6 + 1)
    assert idle.updates == 1 and idle.share == 0


# ---------------------------------------------------------------------- updates of a batch
def test_updates_are_the_steps_of_the_epoch_one_after_the_other() -> None:
    updates, seen = UpdatesPerBatch(3, stages=2), list[int]()

    def update(step: int) -> tuple[Tensor, bool]:
        seen.append(step)
        return torch.tensor(float(step)), True

    for stage in (0, 1):
        updates.begin_epoch(stage, batches=2)
        outputs = [updates.run(update) for _ in range(2)]
        assert outputs == [(torch.tensor(1.0), True), (torch.tensor(4.0), True)] and updates.end_epoch() is None
    assert seen == [*range(6), *range(6)]


@pytest.mark.parametrize(
    ("skipped", "made", "loss"), [(0, [0], 0.0), (1, [0, 1], 0.0), (2, [0, 1, 2], 0.5), (9, [0, 1, 2], 1.0)]
)
def test_after_an_update_that_is_skipped_a_batch_makes_no_more(skipped: int, made: list[int], loss: float) -> None:
    """And the next batch begins at its own step, in all ranks."""
    updates, seen = UpdatesPerBatch(3, stages=1), list[int]()

    def update(step: int) -> tuple[Tensor, bool]:
        seen.append(step)
        return torch.tensor(float(step)), step != skipped

    assert updates.run(update) == (torch.tensor(loss), skipped > 0)
    assert seen == made and updates.step == 3


# ---------------------------------------------------------------------- fill
def test_each_stage_has_the_number_that_its_second_epoch_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(UpdatesPerBatch("fill", stages=3), monkeypatch)
    assert [clock.epoch(0, loader=90, gpu=gpu) for gpu in (90, 15, 90, 90)] == [1, 1, 6, 6]
    assert [clock.epoch(1, loader=90, gpu=gpu) for gpu in (15, 40)] == [1, 1]
    assert clock.line == "waited for batches in 56% of the time; updates with each batch from now on: 2"
    assert [clock.epoch(2, loader=90, gpu=gpu) for gpu in (100, 100, 1)] == [1, 1, 1]
    assert clock.line is None and clock.updates.state_dict() == [6, 2, 1]


def test_a_continued_training_keeps_the_numbers_and_measures_those_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Clock(UpdatesPerBatch("fill", stages=2), monkeypatch)
    for _ in range(2):
        first.epoch(0, loader=90, gpu=30)
    first.epoch(1, loader=90, gpu=45)
    saved = first.updates.state_dict()
    assert saved == [3, None]
    for stage, expected in ((0, [3, 3, 3]), (1, [1, 1, 2])):  # broken off between, before or after stage 1 was measured
        second = Clock(UpdatesPerBatch("fill", stages=2), monkeypatch)
        second.updates.load_state_dict(saved)
        assert [second.epoch(stage, loader=90, gpu=45) for _ in range(3)] == expected


def test_where_nothing_is_measured_a_number_that_was_fixed_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(UpdatesPerBatch("fill", stages=2, measures=False), monkeypatch)
    clock.updates.load_state_dict([4, None])
    assert [clock.epoch(stage, loader=90, gpu=10) for stage in (0, 0, 1, 1, 1)] == [4, 4, 1, 1, 1]


def test_all_ranks_have_the_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank whose batches come last knows how much time there is: the others wait for it within their updates."""
    ranks = [1, 5, 2]

    def gather(number: int) -> Iterator[int]:
        assert number == 3
        return iter([*ranks, number])

    monkeypatch.setattr("monai_prox.training.updates_per_batch.gather", gather)
    clock = Clock(UpdatesPerBatch("fill", stages=1), monkeypatch)
    assert [clock.epoch(0, loader=90, gpu=30) for _ in range(3)] == [1, 1, 5]


@pytest.mark.parametrize("state", [[], [1], [1, 0], [1, MOST + 1], [1, True], [1, 2.0], [1, "2"], {0: 1, 1: 1}, 3, (1, 1)])
def test_a_state_that_is_none_is_refused(state: object) -> None:
    updates = UpdatesPerBatch("fill", stages=2)
    updates.load_state_dict([2, None])
    with pytest.raises(
        ProXError, match="cannot continue: the checkpoint's updates_per_batch are 2 numbers from 1 to 8, or null"
    ):
        updates.load_state_dict(state)
    updates.load_state_dict(None)
    assert updates.state_dict() == [2, None]
