"""nnU-Net's own variants, mixed into ProXTrainer: they do there what they do to nnU-Net's trainer, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from helpers.nnunet_task import CUT, FULLRES, TWO_MEMBERS, Prepared, ProXTrainerTiny, bare_plans, cut_plans, make_trainer
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.benchmarking.nnUNetTrainerBenchmark_5epochs_noDataLoading import (
    nnUNetTrainerBenchmark_5epochs_noDataLoading,
)
from nnunetv2.training.nnUNetTrainer.variants.competitions.aortaseg24 import nnUNetTrainer_onlyMirror01_DA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainer_noDummy2DDA import nnUNetTrainer_noDummy2DDA
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDAOrd0 import nnUNetTrainer_DASegOrd0
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import nnUNetTrainerDiceLoss
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainer_warmup import nnUNetTrainer_warmup
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainerCosAnneal import nnUNetTrainerCosAnneal
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3
from nnunetv2.training.nnUNetTrainer.variants.sampling.nnUNetTrainer_probabilisticOversampling import (
    nnUNetTrainer_probabilisticOversampling,
)
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (
    nnUNetTrainer_100epochs,
    nnUNetTrainer_2000epochs,
)
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs_NoMirroring import (
    nnUNetTrainer_250epochs_NoMirroring,
)

from monai_prox.errors import ProXError
from monai_prox.nnunet.loader_process import EndWithTraining, prepare_transforms
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.nnunet.variants import ProgressiveShrinkingTrainer, ProXTrainer_5epochs
from monai_prox.trained.nnunet_folder import ModelFolder

pytest_plugins = ["helpers.nnunet_fixtures"]

FEW = {"space": TWO_MEMBERS}
KERNELS = {"space": {"kernel": [3, 5], "resolution": [1.0]}}


def mixed(*bases: type) -> type:
    return type("Mine", bases, {})


def made(*bases: type, **plans: Any) -> Any:
    return make_trainer(bare_plans(**{"prox": FEW} | plans), cls=mixed(*bases))


def augmentation(trainer: Any) -> Any:
    """The transforms that a training would use, by nnU-Net's own way of asking for them."""
    scales = trainer._get_deep_supervision_scales()
    rotation, dummy, _, mirrored = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return trainer.get_training_transforms((16, 24, 16), rotation, scales, mirrored, dummy, use_mask_for_norm=[False])


def within(transform: BasicTransform) -> list[BasicTransform]:
    """A transform and all in its attributes."""
    found = [transform]
    for value in vars(transform).values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, BasicTransform | EndWithTraining):
                found += within(one)
    return found


VARIANTS = (
    nnUNetTrainerNoDA,
    nnUNetTrainerDA5,
    nnUNetTrainer_DASegOrd0,
    nnUNetTrainerNoMirroring,
    nnUNetTrainer_onlyMirror01_DA5,
    nnUNetTrainer_noDummy2DDA,
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_augments_and_mirrors_as_the_variant(variant: type, bare: Path) -> None:
    trainer, theirs = made(ProXTrainer, variant), make_trainer(bare_plans(), cls=variant)
    ours, expected = augmentation(trainer), augmentation(theirs)
    assert [type(one) for one in ours.transforms] == [EndWithTraining, *map(type, expected.transforms)]
    names = [[type(one) for one in within(transforms)] for transforms in (ours, expected)]
    names[0].remove(EndWithTraining)
    assert names[0] == names[1]
    assert trainer.inference_allowed_mirroring_axes == theirs.inference_allowed_mirroring_axes


def test_no_blur_within_others_chooses_an_algorithm_by_timing() -> None:
    given = {"blur_sigma": (0.5, 1), "synchronize_channels": False, "synchronize_axes": False, "p_per_channel": 1}
    blurs = [GaussianBlurTransform(benchmark=True, **given) for _ in range(4)]
    several = OneOfTransform([blurs[1], RandomTransform(ComposeTransforms([blurs[2]]), apply_probability=0.5)])
    composed = ComposeTransforms([RandomTransform(blurs[0], apply_probability=0.5), several, blurs[3]])
    assert [one for one in within(prepare_transforms(composed)) if isinstance(one, GaussianBlurTransform)] == blurs
    assert not any(blur.benchmark for blur in blurs)


def test_what_a_trainer_of_0_1_sets_is_named(bare: Path) -> None:
    class Mine(ProXTrainer):
        probe_every = 1

    with pytest.raises(ProXError, match=r"Mine sets probe_every, which is validation_interval since version 0\.2"):
        make_trainer(bare_plans(), cls=Mine)


@pytest.mark.parametrize(
    ("bases", "epochs"),
    [
        ((ProXTrainer,), 1000),
        ((ProXTrainer, nnUNetTrainer_100epochs), 100),
        ((ProXTrainer, nnUNetTrainer_2000epochs), 2000),
        ((ProXTrainer, nnUNetTrainer_250epochs_NoMirroring), 250),
        ((ProXTrainer, nnUNetTrainer_warmup), 1000),
        ((ProXTrainer_5epochs, nnUNetTrainer_100epochs), 5),
        ((nnUNetTrainer_100epochs, ProXTrainer), 100),
    ],
    ids=lambda value: "+".join(one.__name__ for one in value) if isinstance(value, tuple) else str(value),
)
def test_trains_as_long_as_the_first_of_them_that_says_so(bases: tuple[type, ...], epochs: int, bare: Path) -> None:
    trainer = made(*bases)
    trainer.initialize()
    assert trainer.num_epochs == trainer.engine.schedule.epochs == epochs
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (250, 50)


def test_has_the_variant_s_loss_for_members_of_any_number_of_levels(bare: Path) -> None:
    for variant in (nnUNetTrainerDiceLoss, nnUNetTrainerCELoss):
        trainer, theirs = made(ProXTrainer, variant), make_trainer(bare_plans(), cls=variant)
        trainer.initialize()
        assert type(trainer.loss.deep_supervision.loss) is type(theirs._build_loss().loss)
        outputs = [torch.randn(2, 3, 16, 24, 16), torch.randn(2, 3, 8, 12, 8)]
        targets = [torch.randint(3, (2, 1, *output.shape[2:])).float() for output in outputs]
        assert trainer.loss(outputs[:1], targets) == trainer.loss.deep_supervision.loss(outputs[0], targets[0])
        assert trainer.loss(outputs, targets) == theirs._build_loss()(outputs, targets)


def test_has_the_variant_s_optimizer_and_sampling(bare: Path) -> None:
    trainer = made(ProXTrainer, nnUNetTrainerAdam1en3, nnUNetTrainer_probabilisticOversampling)
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW) and trainer.optimizer.param_groups[0]["lr"] == 1e-3
    assert trainer.probabilistic_oversampling and trainer.oversample_foreground_percent == 0.5  # of batches of two


@pytest.mark.parametrize("variant", [nnUNetTrainerCosAnneal, nnUNetTrainer_warmup], ids=lambda variant: variant.__name__)
@pytest.mark.parametrize("family", [ProXTrainer, ProgressiveShrinkingTrainer], ids=lambda family: family.__name__)
def test_has_the_variant_s_learning_rates(variant: type, family: type, bare: Path) -> None:
    """Also for the kernel transforms of progressive shrinking, a group of parameters of their own."""
    trainer = made(family, variant, patch=(20, 24, 20), prox=KERNELS)
    theirs = make_trainer(bare_plans(), cls=variant)
    for one in (trainer, theirs):
        one.initialize()
    for epoch in (0, 10, 49, 50, 600):
        for one in (trainer, theirs):
            one.current_epoch = epoch
            one.on_train_epoch_start()
        (rate,) = (group["lr"] for group in theirs.optimizer.param_groups)
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {rate}
    trainer.save_checkpoint(str(bare / "checkpoint.pth"))
    again = made(family, variant, patch=(20, 24, 20), prox=KERNELS)
    again.load_checkpoint(str(bare / "checkpoint.pth"))
    assert again.current_epoch == 601 and again.engine.stage == trainer.engine.stage


def test_trains_with_several_at_once(in_phantom: Prepared) -> None:
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, (20, 24, 20), shallow=True, prox=FEW)
    bases = (ProXTrainerTiny, nnUNetTrainerNoDA, nnUNetTrainerNoDeepSupervision, nnUNetTrainerDiceLoss)
    trainer = make_trainer(plans, in_phantom.dataset(), cls=mixed(*bases))
    trainer.run_training()
    assert isinstance(trainer.loss, MemoryEfficientSoftDiceLoss)
    assert max(trainer.logger.get_value("train_losses", step=None)) < 0  # a Dice alone, without cross entropy
    assert isinstance(trainer.network(torch.zeros(1, 1, 20, 24, 20)), torch.Tensor)
    model = ModelFolder.open(trainer.output_folder_base)
    assert model.checkpoint("fold_0")["trainer_name"] == "Mine"
    assert {member.name for member in model.family().members} == {"smallest", "largest"}
    assert model.scored().endswith("by nnU-Net's validation, without mirroring")


def test_nnunet_s_benchmark_measures_a_family_too(in_phantom: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch that is of no case, no checkpoint, no validation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # it refuses to run without
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 0)
    plans = cut_plans(in_phantom.plans(), FULLRES, CUT, (20, 24, 20), shallow=True, prox=FEW)
    trainer = make_trainer(
        plans, in_phantom.dataset(), cls=mixed(ProXTrainerTiny, nnUNetTrainerBenchmark_5epochs_noDataLoading)
    )
    trainer.run_training()
    trainer.perform_actual_validation()
    (result,) = json.loads(Path(trainer.output_folder, "benchmark_result.json").read_text()).values()
    assert result["fastest_epoch"] > 0 and not trainer.crashed_with_runtime_error
    assert not list(Path(trainer.output_folder).glob("*.pth"))


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ((ProXTrainer, nnUNetTrainerBN), "nnUNetTrainerBN has a build_network_architecture of its own"),
        ((nnUNetTrainerBN, ProXTrainer), "nnUNetTrainerBN replaces build_network_architecture of ProXTrainer"),
        ((nnUNetTrainerDiceLoss, ProXTrainer), r"replaces _build_loss .* class Mine\(ProXTrainer, nnUNetTrainerDiceLoss\)"),
        ((nnUNetTrainerNoDA, ProXTrainer), r"replaces get_training_transforms .*\(ProXTrainer, nnUNetTrainerNoDA\)"),
        ((nnUNetTrainer_warmup, ProXTrainer), "replaces load_checkpoint"),
    ],
    ids=["norms", "norms first", "loss first", "augmentation first", "checkpoints first"],
)
def test_what_would_be_ignored_or_break_the_family_is_refused(bases: tuple[type, ...], message: str, bare: Path) -> None:
    with pytest.raises(ProXError, match=f"^Mine: .*{message}"):
        made(*bases)


def test_a_method_that_calls_super_may_stand_on_either_side(bare: Path) -> None:
    class Counting(nnUNetTrainer):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            self.counted = getattr(self, "counted", 0) + 1
            super().on_train_epoch_start()

    for bases in ((Counting, ProXTrainer), (ProXTrainer, Counting), (Counting, nnUNetTrainerNoMirroring, ProXTrainer)):
        trainer = made(*bases)
        trainer.initialize()
        trainer.on_train_epoch_start()
        assert trainer.counted == 1 and trainer.engine.stage.name == "smallest"
