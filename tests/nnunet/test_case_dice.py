"""Dice by case from patches: of whole cases, whatever patches and ranks they were counted on."""

import numpy as np
import pytest

from monai_prox.nnunet.case_dice import Counts, add, dice_by_case


def patch(tp: list[float], fp: list[float], fn: list[float]) -> dict[str, np.ndarray]:
    counts = zip(("tp_hard", "fp_hard", "fn_hard"), (tp, fp, fn), strict=True)
    return {name: np.array(values, np.float32) for name, values in counts} | {"loss": np.array(0.5)}


def test_patches_of_a_case_are_counted_together() -> None:
    counts: Counts = {}
    add(counts, "a", patch([1, 0], [2, 0], [1, 4]))
    add(counts, "b", patch([5, 5], [0, 0], [0, 0]))
    add(counts, "a", patch([3, 2], [0, 0], [0, 0]))
    assert dice_by_case([counts]) == {"a": pytest.approx((8 / 11 + 4 / 8) / 2), "b": 1.0}


def test_ranks_add_up() -> None:
    patches = [("a", patch([1, 0], [2, 0], [1, 4])), ("b", patch([5, 5], [0, 1], [0, 0])), ("a", patch([3, 2], [0, 0], [0, 1]))]
    one: Counts = {}
    ranks: list[Counts] = [{}, {}]
    for number, (case, counted) in enumerate(patches):
        add(one, case, counted)
        add(ranks[number // 2], case, counted)
    before = {case: counts.copy() for case, counts in ranks[0].items()}
    assert dice_by_case(ranks) == dice_by_case([one])
    assert all(np.array_equal(before[case], counts) for case, counts in ranks[0].items())


def test_classes_that_neither_occur_nor_are_predicted_say_nothing() -> None:
    counts: Counts = {}
    add(counts, "one class", patch([1, 0], [1, 0], [0, 0]))
    add(counts, "false alarm", patch([1, 0], [0, 3], [0, 0]))
    add(counts, "empty", patch([0, 0], [0, 0], [0, 0]))
    assert dice_by_case([counts]) == {"one class": pytest.approx(2 / 3), "false alarm": 0.5}


def test_no_case_has_no_dice() -> None:
    assert dice_by_case([]) == dice_by_case([{}]) == {}


def test_large_patches_are_counted_exactly() -> None:
    """Single precision has no odd numbers beyond 2 ** 24."""
    counts: Counts = {}
    for _ in range(3):
        add(counts, "a", patch([2**24 - 1], [0], [0]))
    assert counts["a"][0, 0] == 3 * (2**24 - 1)
