"""The precision that a plan or a trainer asks for: what a step computes in, and on which devices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.nnunet_task import TWO_MEMBERS, ProXTrainerTiny, bare_folders, bare_plans, make_trainer
from helpers.validation_batches import PATCH, images, validate
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from monai_prox.errors import ProXError
from monai_prox.nnunet.precision import autocast, check_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Bfloat16(ProXTrainerTiny):
    """In bfloat16, by its own setting."""

    precision = "bf16"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bare_folders(tmp_path, monkeypatch)
    return tmp_path


def trainer_of(cls: type = ProXTrainerTiny, **entries: Any) -> Any:
    torch.manual_seed(0)
    trainer = make_trainer(bare_plans(patch=PATCH, prox={"space": TWO_MEMBERS, "monitor": False} | entries), cls=cls)
    trainer.initialize()
    return trainer


def dtypes_of_a_step(trainer: Any) -> set[torch.dtype]:
    """Of the outputs that the loss gets, in a step whose update takes place."""
    seen, loss = set(), trainer.engine.task_loss

    def noting(outputs: list[torch.Tensor], target: Any) -> torch.Tensor:
        seen.update(output.dtype for output in outputs)
        return loss(outputs, target)

    trainer.engine.task_loss = noting
    trainer.on_train_epoch_start()
    before = [weight.clone() for weight in trainer.network.parameters()]
    assert trainer.train_step(images(["case_0", "case_1"]))["updated"]
    weights = [*trainer.network.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32} and not all(map(torch.equal, weights, before))
    return seen


def test_a_plan_or_a_trainer_asks_for_bfloat16_and_the_plan_counts(bare: Path) -> None:
    assert dtypes_of_a_step(trainer_of(precision="bf16")) == {torch.bfloat16}
    assert dtypes_of_a_step(trainer_of(Bfloat16)) == {torch.bfloat16}
    assert dtypes_of_a_step(trainer_of(Bfloat16, precision="fp16")) == {torch.float32}  # as nnU-Net on a CPU
    assert dtypes_of_a_step(trainer_of()) == {torch.float32}


def test_validation_computes_as_nnunet_predicts(bare: Path) -> None:
    """So that the Dice is that of stock nnU-Net."""
    half, whole = trainer_of(precision="bf16"), trainer_of()
    (first,), (second,) = validate(half), validate(whole)
    assert first["loss"] == second["loss"] and first["loss"].dtype == second["loss"].dtype


def test_bfloat16_has_no_scaler_and_float16_that_of_nnunet(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = nnUNetTrainer.__init__

    def with_scaler(self: Any, *arguments: Any) -> None:  # as on a GPU
        made(self, *arguments)
        self.grad_scaler = torch.amp.GradScaler("cpu")

    monkeypatch.setattr(nnUNetTrainer, "__init__", with_scaler)
    plans = [bare_plans(prox={"space": TWO_MEMBERS, "precision": precision}) for precision in ("fp16", "bf16")]
    assert [make_trainer(plan).grad_scaler is None for plan in plans] == [False, True]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_on_a_gpu_the_context_is_that_of_nnunet_or_of_bfloat16() -> None:
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        context: Any = autocast(precision, GPU)
        assert (context.device, context.fast_dtype) == ("cuda", dtype)


def test_a_device_without_bfloat16_is_refused_before_the_training(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(precision="bf16")
    trainer.device = torch.device("mps")
    with pytest.raises(ProXError, match="the precision is 'bf16', which mps does not compute in: it takes a GPU"):
        trainer.on_train_start()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    for supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=supported: found)
        if supported:
            check_precision("bf16", GPU)
    with pytest.raises(ProXError, match=r"Tesla V100 does not compute in: .*take 'fp16'"):
        check_precision("bf16", GPU)
    for device in (CPU, GPU, torch.device("mps")):
        check_precision("fp16", device)
    check_precision("bf16", CPU)
