"""Small trainings by MONAI's trainer, with the handlers of the bundles' configurations, and notes of what happens in them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, DistributedSampler, set_track_meta
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader, LrScheduleHandler, MeanDice, from_engine
from monai.transforms import AsDiscreted, Compose, RandFlipd, RandGaussianNoised
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from helpers.architectures import segmentation_loss, unet_architecture
from monai_prox.bundle.checkpoints import CheckpointSaver
from monai_prox.bundle.family_writer import FamilyWriter
from monai_prox.bundle.handlers import MemberValidationHandler, ProXExpansionHandler
from monai_prox.bundle.trainer import ProXEvents, SupernetTrainer
from monai_prox.bundle.transforms import LabelsToRegionsd
from monai_prox.core.named_members import named_members
from monai_prox.core.network import largest
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.data.decathlon import Case
from monai_prox.data.decathlon_plan import Plan
from monai_prox.training.engine import Engine
from monai_prox.training.monitor import Monitor
from monai_prox.training.recipes import make_schedule
from monai_prox.training.stage import Schedule, Stage

CHOICES = {"depth": "all", "width": [0.5, 1.0], "levels": 1, "resolution": [0.75, 1.0]}
PATCH = (16, 16)
EPOCHS = 7  # for five stages of either recipe, so that one stage at least is longer than an epoch
PLAN = Plan(
    task="Task42_Toy",
    channels=("T1", "T2"),
    labels=("background", "one", "two"),
    spacing=(1.0, 1.0),
    patch_size=PATCH,
    intensity={"kind": "z-score"},
    architecture=unet_architecture(axes=2, features=(4, 8, 8), depths=(1, 2, 2), decoder_depths=(1, 2)),
    licence="CC0-1.0",
)
ALL = {"depth": 9, "decoder_depth": 9, "width": 9, "levels": 9, "resolution": 9}
LARGEST = Stage(name="largest", open=ALL, train=("largest",))
SANDWICH = Stage(name="sandwich", open=ALL, train=("largest", "smallest", "random"), teacher="largest", distance="kl")
HELD_OUT = [Case(Path(f"{name}.nii.gz"), Path("label")) for name in "bc"]
METRIC = "val_mean_dice"


def loss_function(outputs: Any, target: Tensor) -> Tensor:
    return segmentation_loss(outputs, target[:, 0])


def cases(count: int, *, seed: int = 0) -> list[dict[str, Tensor]]:
    """Images (2, *PATCH) whose labels (1, *PATCH) can be told from them."""
    generator = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(count):
        label = torch.randint(3, (1, *PATCH), generator=generator).float()
        image = torch.cat([label, -label]) + torch.randn(2, *PATCH, generator=generator)
        data.append({"image": image, "label": label})
    return data


def loader(*, augment: bool = True, shuffle: bool = True, count: int = 6, num_workers: int = 0) -> DataLoader:
    """Batches of two, turned and with noise at random."""
    transforms = [RandFlipd(["image", "label"], prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=1, std=0.5)]
    dataset = CacheDataset(cases(count), Compose(transforms if augment else []), progress=False, num_workers=0)
    return DataLoader(dataset, batch_size=2, shuffle=shuffle, num_workers=num_workers)


def evaluator(network: nn.Module, count: int, device: str | torch.device = "cpu") -> SupervisedEvaluator:
    """Of so many cases in one batch, which several ranks share, as in the bundles' multi_gpu_train.json."""
    dataset = CacheDataset(cases(count, seed=1), Compose([]), progress=False)
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    sampler = DistributedSampler(dataset, even_divisible=False, shuffle=False) if several else None
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=count, sampler=sampler),
        network=network,
        postprocessing=Compose([AsDiscreted("pred", argmax=True), LabelsToRegionsd(["pred", "label"], PLAN.regions())]),
        key_val_metric={METRIC: MeanDice(include_background=True, output_transform=from_engine(["pred", "label"]))},
    )


@dataclass
class Training:
    """A trainer with the handlers of the bundles' configurations, and notes of what happened."""

    trainer: SupernetTrainer
    engine: Engine
    optimizer: Optimizer
    scheduler: Any
    expansion: ProXExpansionHandler
    validation: MemberValidationHandler
    events: list[tuple[str, int, str]] = field(default_factory=list)  # event, epoch from 0, stage
    stages: dict[int, str] = field(default_factory=dict)  # by epoch from 0, as it starts
    losses: list[tuple[int, float]] = field(default_factory=list)  # epoch from 0, loss
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)  # by epoch from 0, without those of the training itself

    def run(self) -> "Training":
        set_track_meta(False)  # these images lie nowhere, and every operation would process where
        try:
            self.trainer.run()
        finally:
            set_track_meta(True)
        return self

    @property
    def network(self) -> Any:
        return self.engine.supernet.network

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "engine": self.engine.state_dict(),
            "validation": self.validation.state_dict(),
            "epoch": self.trainer.state.epoch,
            "iteration": self.trainer.state.iteration,
        }


@cache
def probes(choices: str) -> Mapping[str, Subnet]:
    """Of the space in JSON; to count the cost of so many members takes longer than these trainings."""
    return named_members(PLAN.family(json.loads(choices)), PATCH)


def sgd(network: nn.Module) -> Optimizer:
    return SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)


def adamw(network: nn.Module) -> Optimizer:
    return AdamW(network.parameters(), 0.003)


def training(
    recipe: str | tuple[Stage, ...] = "prox",
    folder: Path | None = None,
    *,
    epochs: int = EPOCHS,
    weights: int = 0,
    seed: int = 0,
    choices: Mapping[str, Any] = CHOICES,
    deep_supervision: bool = True,
    optimizer_of: Callable[[nn.Module], Optimizer] = adamw,
    data: Any = None,
    ckpt: Path | None = None,
    interval: int = 100,
    held_out: int = 2,
    monitor: Mapping[str, Any] | None = None,
    family: bool = False,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Training:
    """Handlers in the order of the bundles' train.json; every epoch is saved to ``folder``, all others follow ``settings``.

    held_out: cases to validate on. monitor: what the Monitor is given, if there shall be one.
    Initial weights are a function of ``weights``, which leaves every global generator at a place of its own.
    """
    torch.manual_seed(weights)
    unet_family = PLAN.family(choices)
    network = largest(unet_family, deep_supervision=deep_supervision).to(device)
    supernet = SuperNet(unet_family, network)
    space = unet_family.space
    schedule = make_schedule(recipe, space, epochs) if isinstance(recipe, str) else Schedule(recipe, epochs)
    watching = None if monitor is None else Monitor(supernet.family, PATCH, **monitor)
    engine = Engine(supernet, schedule, loss_function, seed=seed, monitor=watching)
    optimizer = optimizer_of(network)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=epochs, power=0.9)
    expansion = ProXExpansionHandler(engine, seed=seed)
    validator = evaluator(supernet.view(space.largest()), held_out, device)
    members = probes(json.dumps(choices))
    validation = MemberValidationHandler(
        validator,
        engine,
        members,
        regions=PLAN.regions(),
        interval=interval,
    )
    saved = {
        "expansion": expansion,
        "network": network,
        "optimizer": optimizer,
        "lr_scheduler": scheduler,
        "validation": validation,
    }
    handlers: list[Any] = [expansion]
    if ckpt is not None:
        handlers.insert(0, CheckpointLoader(str(ckpt), saved, map_location=device))
    handlers += [LrScheduleHandler(scheduler, print_lr=False), validation]
    if folder is not None:
        handlers.append(CheckpointSaver(str(folder), saved, save_interval=1, n_saved=epochs))
    if family:
        assert folder is not None
        name = recipe if isinstance(recipe, str) else "prox"
        handlers.append(
            FamilyWriter(
                PLAN,
                name,
                validation,
                cases=[case.image.name for case in HELD_OUT],
                ckpt_dir=str(folder),
                output_dir=str(folder / "eval"),
            )
        )
    trainer = SupernetTrainer(
        engine,
        device=device,
        max_epochs=epochs,
        train_data_loader=loader() if data is None else data,
        optimizer=optimizer,
        train_handlers=handlers,
        **{"optim_set_to_none": True, "max_gradient_norm": 12} | settings,
    )
    made = Training(trainer, engine, optimizer, scheduler, expansion, validation)

    def note(name: str) -> None:
        made.events.append((name, trainer.state.epoch - 1, engine.stage.name))

    for event in ProXEvents:
        trainer.add_event_handler(event, lambda _, name=event.name: note(name))

    @trainer.on(Events.EPOCH_STARTED)
    def note_stage(_: Any) -> None:
        made.stages[trainer.state.epoch - 1] = engine.stage.name

    @trainer.on(Events.ITERATION_COMPLETED)
    def note_loss(_: Any) -> None:
        made.losses.append((trainer.state.epoch - 1, float(trainer.state.output[0]["loss"])))

    @trainer.on(Events.EPOCH_COMPLETED)
    def note_metrics(_: Any) -> None:
        scores = {name: value for name, value in trainer.state.metrics.items() if not name.startswith("prox/")}
        made.metrics[trainer.state.epoch - 1] = scores

    return made


def checkpoint(folder: Path, epochs: int) -> Path:
    """The one that was saved after so many epochs."""
    return folder / f"checkpoint_epoch={epochs}.pt"
