"""Mixed precision: what is computed in half of it, and what becomes of gradients that overflow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bundle_training import SANDWICH, training
from helpers.equality import equal
from helpers.nnunet_task import bare_plans, make_trainer
from helpers.validation_batches import PATCH, SIX
from torch import nn
from torch.amp.grad_scaler import GradScaler

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of CUDA's autocast on a CPU, which MONAI asks for there, too

(BATCH,) = SIX
LARGE = {"cuda": 2.0**24, "cpu": 2.0**127}  # scales with which gradients overflow, those of half and of single precision
FACTOR = 64  # of the loss, with which they do so in single precision, too


def trainer_on(device: torch.device) -> Any:
    trainer = make_trainer(bare_plans(patch=PATCH), device=device)
    trainer.initialize()
    trainer.on_train_epoch_start()
    return trainer


def copies(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def are_finite(network: nn.Module) -> bool:
    return all(bool(weight.isfinite().all()) for weight in network.parameters())


def test_convolutions_are_of_half_precision_on_a_gpu_and_weights_never(device: torch.device, bare: Path) -> None:
    trainer, dtypes = trainer_on(device), set()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Conv3d):
            dtypes.add(output.dtype)

    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        trainer.train_step(BATCH)
    finally:
        hook.remove()
    assert dtypes == {torch.float16 if device.type == "cuda" else torch.float32}
    assert {weight.dtype for weight in trainer.network.parameters()} == {torch.float32}
    assert {weight.device.type for weight in trainer.network.parameters()} == {device.type}


def test_the_loss_is_that_of_single_precision_but_for_rounding(device: torch.device, bare: Path) -> None:
    mixed, single = (trainer_on(device) for _ in range(2))  # of the same weights
    target = [level.to(device) for level in BATCH["target"]]
    expected = single.engine.step(BATCH["data"].to(device), target, epoch=0, step=0).loss
    assert float(mixed.train_step(BATCH)["loss"]) == pytest.approx(float(expected), rel=1e-2)


def test_an_overflow_in_nnunet_is_skipped_and_the_scale_halves_until_training_goes_on(device: torch.device, bare: Path) -> None:
    trainer = trainer_on(device)
    loss, trainer.engine.task_loss = trainer.engine.task_loss, lambda *given: FACTOR * loss(*given)
    trainer.grad_scaler = GradScaler(device.type, init_scale=LARGE[device.type])
    before, skipped = copies(trainer.network), 0
    while not trainer.train_step(BATCH)["updated"]:
        skipped += 1
        assert trainer.grad_scaler.get_scale() == LARGE[device.type] / 2**skipped and skipped < 100
        assert equal(copies(trainer.network), before)
    assert skipped > 0 and not equal(copies(trainer.network), before)
    updated = [trainer.train_step(BATCH)["updated"] for _ in range(4)]  # whose gradients are not the same
    assert any(updated) and trainer.grad_scaler.get_scale() == LARGE[device.type] / 2 ** (skipped + updated.count(False))
    assert are_finite(trainer.network)
    assert trainer.updates.skipped == 0  # overflows are the scaler's affair, and no fault of the data


def test_so_does_an_overflow_in_monai(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = GradScaler(device.type, init_scale=LARGE[device.type])
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)  # which MONAI makes
    made = training((SANDWICH,), epochs=8, amp=True, device=device)
    loss, made.engine.task_loss = made.engine.task_loss, lambda *given: FACTOR * loss(*given)
    before = copies(made.network)
    made.run()
    assert scaler.get_scale() < LARGE[device.type] and made.trainer.updates.skipped == 0
    assert not equal(copies(made.network), before) and are_finite(made.network)
