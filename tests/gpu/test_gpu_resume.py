"""A training that is interrupted and continued equals an uninterrupted one, with deterministic algorithms on a GPU, too."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bundle_training import checkpoint, training
from helpers.equality import assert_equal
from helpers.nnunet_task import bare_plans, make_trainer
from helpers.validation_batches import PATCH, images, validate
from torch.amp.grad_scaler import GradScaler

pytestmark = [pytest.mark.usefixtures("exact"), pytest.mark.filterwarnings("ignore::UserWarning")]

# All members are of full resolution: interpolation has no deterministic gradient on GPUs
WIDTHS = {"depth": "full", "width": [0.5, 1.0], "levels": 0, "resolution": [1.0]}
INTERRUPTED = 3  # epochs


def scaler_on(device: torch.device) -> GradScaler:
    """On a CPU a real one, too. Its scale changes within the training."""
    return GradScaler(device.type, init_scale=2.0**10, growth_interval=3)


def on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint is loaded to the training's device, also what an optimizer keeps on the CPU."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=False)
    return loaded


# ---------------------------------------------------------------------- nnU-Net
def trainer_on(device: torch.device) -> Any:
    trainer = make_trainer(bare_plans(patch=PATCH, prox={"space": WIDTHS}), device=device)
    trainer.grad_scaler = scaler_on(device)
    trainer.initialize()
    return trainer


def train(trainer: Any, until: int) -> None:
    """nnU-Net's loop, on batches that are a function of the epoch and the step."""
    for epoch in range(trainer.current_epoch, until):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        batches = [images(["a", "b"], seed=10 * epoch + step) for step in range(2)]
        trainer.on_train_epoch_end([trainer.train_step(batch) for batch in batches])
        validate(trainer, [images(["c"], seed=epoch)], epoch=epoch)


def state(trainer: Any) -> dict[str, Any]:
    return {
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.grad_scaler.state_dict(),
        "engine": trainer.engine.state_dict(),
        "progress": trainer.progress,
    }


def test_in_nnunet(device: torch.device, bare: Path) -> None:
    whole, first, second = (trainer_on(device) for _ in range(3))
    train(whole, whole.num_epochs)
    train(first, INTERRUPTED)
    first.save_checkpoint(str(bare / "checkpoint.pth"))
    second.load_checkpoint(str(bare / "checkpoint.pth"))
    assert second.current_epoch == INTERRUPTED
    train(second, second.num_epochs)
    assert_equal(on_cpu(state(second)), on_cpu(state(whole)))
    assert whole.grad_scaler.get_scale() > 2.0**10


# ---------------------------------------------------------------------- MONAI
def test_in_monai(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler_on(device))  # which MONAI makes in every run
    settings: dict[str, Any] = {"choices": WIDTHS, "amp": True, "device": device}
    whole = training("prox", tmp_path, **settings).run()
    rest = training("prox", weights=1, ckpt=checkpoint(tmp_path, INTERRUPTED), **settings).run()
    assert rest.trainer.scaler.state_dict() == whole.trainer.scaler.state_dict()
    assert_equal(on_cpu(rest.state()), on_cpu(whole.state()))
