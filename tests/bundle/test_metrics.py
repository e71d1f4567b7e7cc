"""Metrics: what MONAI's handlers compute with them, case by case."""

from __future__ import annotations

from math import isnan

import pytest
import torch
from helpers.refusals import refused
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine

from monai_prox.bundle import SurfaceDice
from monai_prox.surface_dice import surface_dice_by_class


def case(*spacing: float) -> tuple[torch.Tensor, MetaTensor]:
    """A cube of one region, predicted a voxel too far along the first axis, and a region that is nowhere."""
    truth = torch.zeros(2, 10, 10, 10)
    truth[0, 2:7, 2:7, 2:7] = 1
    return truth.roll(1, 1), MetaTensor(truth, affine=torch.diag(torch.tensor([-spacing[0], *spacing[1:], 1.0])))


def test_a_handler_measures_each_case_with_its_own_spacing() -> None:
    engine = Engine(lambda *_: [dict(zip(("pred", "label"), case(*mm), strict=True)) for mm in ((1.0, 1, 1), (3.0, 1, 1))])
    handler = IgniteMetricHandler(metric_fn=SurfaceDice(2), output_transform=from_engine(["pred", "label"]))
    handler.attach(engine, "surface")
    engine.run([None])
    thin, thick = engine.state.metric_details["surface"]
    assert thin[0] == 1 and isnan(thin[1])
    predicted, truth = case(3.0, 1, 1)
    pair = (mask[0].numpy().astype(int) for mask in (predicted, truth.as_tensor()))
    expected = surface_dice_by_class(*pair, {"cube": 1}, spacing=(3, 1, 1), tolerance=2)["cube"]
    assert expected < 1 and thick[0] == pytest.approx(expected)
    assert engine.state.metrics["surface"] == pytest.approx((1 + expected) / 2)


def test_batches_are_measured_as_their_cases() -> None:
    predicted, truth = case(3.0, 1, 1)
    batch = MetaTensor(torch.stack([truth.as_tensor()] * 2), affine=torch.stack([truth.affine] * 2))
    batched, listed = SurfaceDice(2), SurfaceDice(2)
    assert torch.equal(
        torch.nan_to_num(batched(torch.stack([predicted] * 2), batch)), torch.nan_to_num(listed([predicted] * 2, [truth] * 2))
    )


def test_what_it_cannot_measure_is_one_line() -> None:
    predicted, truth = case(1.0, 1, 1)
    refused("got a label without one", SurfaceDice(2), [predicted], [truth.as_tensor()])
    refused("the surface tolerance is in mm, above 0 and at most 1000; got 0", SurfaceDice, 0)
