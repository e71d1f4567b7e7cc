"""Numbers that are not finite, in nnU-Net's trainer and by MONAI's command: skipped, counted, and their case named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.bundle_commands import TINY, arguments, copy_bundles, monai, write_task
from helpers.nnunet_task import CUT, FULLRES, TWO_MEMBERS, Prepared, ProXTrainerTiny, cut_plans, make_trainer
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from monai_prox.errors import ProXError

pytest_plugins = ["helpers.nnunet_fixtures"]


class EightSteps(ProXTrainerTiny):
    iterations_per_epoch = 8


@pytest.fixture
def spoilt(in_phantom: Prepared, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A trainer, one of whose training cases has lost its values, and the name of the case."""
    trainer = make_trainer(
        cut_plans(in_phantom.plans(), FULLRES, CUT, (16, 16, 16), shallow=True, prox={"space": TWO_MEMBERS}),
        in_phantom.dataset(),
        cls=EightSteps,
    )
    trainer.initialize()
    case: str = trainer.do_split()[0][0]
    load_case = nnUNetDatasetBlosc2.load_case

    def load(self: Any, identifier: str) -> Any:
        data, *rest = load_case(self, identifier)
        return (np.full(data.shape, np.nan, np.float32) if identifier == case else data), *rest

    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", load)
    return trainer, case


def log_of(trainer: Any) -> str:
    return "".join(path.read_text() for path in Path(trainer.output_folder).glob("training_log_*.txt"))


def test_a_case_without_values_ends_the_training_and_is_named(spoilt: tuple[Any, str]) -> None:
    trainer, case = spoilt
    trainer.updates.limit = 3
    with pytest.raises(ProXError, match=f"not finite in 3 updates with the case {case};"):
        trainer.run_training()
    assert log_of(trainer).count(f"the loss is nan with {case}") == 3


def test_a_training_survives_a_few_of_them(spoilt: tuple[Any, str]) -> None:
    trainer, _ = spoilt
    trainer.updates.limit = 1000
    trainer.run_training()
    assert 0 < trainer.updates.skipped < 5 * 8
    assert f"{trainer.updates.skipped} so far" in log_of(trainer)
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()


@pytest.mark.parametrize("factor", [1e12, 1e38])
def test_gradients_that_explode_as_a_stage_opens_do_no_harm(in_phantom: Prepared, factor: float) -> None:
    """Clipped where they are finite, skipped where they are not."""
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, (16, 16, 16), shallow=True, prox={"space": TWO_MEMBERS})
    trainer = make_trainer(plans, in_phantom.dataset())
    trainer.initialize()
    loss, step = trainer.engine.task_loss, trainer.train_step
    moved = []

    def train_step(batch: Any) -> Any:
        opening = trainer.updates_per_batch.step == 0 and trainer.current_epoch in trainer.engine.schedule.starts
        trainer.engine.task_loss = (lambda *of: loss(*of) * factor) if opening else loss
        before = torch.nn.utils.parameters_to_vector(trainer.network.parameters()).detach().clone()
        result = step(batch)
        after = torch.nn.utils.parameters_to_vector(trainer.network.parameters()).detach()
        if opening:
            moved.append(float((after - before).norm()))
        return result

    trainer.train_step = train_step
    trainer.run_training()
    assert len(moved) == len(trainer.engine.schedule.stages) > 1
    # 12 is nnU-Net's limit; momentum of 0.99 with Nesterov adds what the few updates before have left of theirs
    assert max(moved) < trainer.initial_lr * 12 * 2 * len(moved) * trainer.iterations_per_epoch
    assert trainer.updates.skipped == (len(moved) if factor > 1e30 else 0)
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())


def test_a_bundle_s_training_names_the_file(tmp_path: Path) -> None:
    bundle, task = copy_bundles(tmp_path) / "hippocampus_prox", write_task(tmp_path, "hippocampus_prox")
    file = task / "imagesTr" / "case_0.nii.gz"
    image = nib.load(file)
    values = image.get_fdata(dtype=np.float32)
    values[5:10] = 1e38  # so large that their mean is not finite; what is not finite itself is refused before
    nib.save(nib.Nifti1Image(values, image.affine), file)
    overrides = {**TINY, "dataset_dir": task, "task": task.name, "epochs": 12}
    command = ["run", "--config_file", bundle / "configs" / "train.json", *arguments(overrides)]
    done = monai(command, cwd=bundle, check=False)
    assert done.returncode != 0
    assert f"not finite in 10 updates with the case {file}" in done.stderr, done.stderr[-3000:]
    assert "ProX skips an update, 9 so far: the loss is nan with" in done.stdout + done.stderr
