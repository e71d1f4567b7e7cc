"""Who competes: nnU-Net trainers that take the same batches, by the names of the benchmark.

A recipe's name trains a family with ProXTrainer, ``prox, 2 members a batch`` one by two updates with each batch, ``alone NAME``
one member of it by nnU-Net's own trainer, ``modelopt`` the largest member's network made elastic by NVIDIA ModelOpt, by
nnU-Net's own trainer, too.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from monai_prox.core import cost
from monai_prox.core.named_members import named_members
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import Member
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.nnunet.loss import AnyLevelsLoss
from monai_prox.nnunet.trainer import ProXTrainer
from monai_prox.nnunet.variants import ProXTrainerAdam
from monai_prox.training.recipes import RECIPES

ALONE = ("smallest", "middle", "largest", "random 1", "random 2", "random 3")
LONG, LENGTHENED = "prox long", 2.5  # times the epochs
SEVERAL = {f"prox, {members} members a batch": members for members in (2, 3, 4)}  # updates with each batch
RANDOM_MEMBERS = 12


def family_members(space: SearchSpace) -> dict[str, Subnet]:
    """Smallest, largest and twelve random members, the same in every run."""
    generator = random.Random(2024)
    drawn: dict[Subnet, None] = {}
    while len(drawn) < min(RANDOM_MEMBERS, space.size() - 2):
        member = space.sample(generator)
        if member not in (space.smallest(), space.largest()):
            drawn[member] = None
    return {"smallest": space.smallest(), "largest": space.largest()} | {f"random {i}": m for i, m in enumerate(drawn, 1)}


class Contender:
    """A training of ``steps`` steps in ``epochs`` epochs, and the members it gives.

    ``macs`` are those of the convolutions in training so far: a backward pass counts as two forward passes.
    """

    trainer: nnUNetTrainer
    generator: random.Random | None = None  # what the training draws from, if not from its seed and step alone

    def __init__(self, trainer: nnUNetTrainer, seed: int, steps: int, epochs: int) -> None:
        trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, steps // epochs
        trainer.disable_checkpointing = True
        self.trainer, self.seed, self.macs = trainer, seed, 0.0
        torch.manual_seed(seed)
        trainer.initialize()

    def step(self, batch: dict[str, Any], epoch: int, step: int) -> float:
        return float(self.trainer.train_step(batch)["loss"])

    def count(self, epoch: int, step: int) -> None:
        """Adds the MACs of a batch, the epoch's ``step``."""
        raise NotImplementedError

    def members(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and networks to evaluate, with weights of their own."""
        raise NotImplementedError


class Recipe(Contender):
    """A family trained by a recipe."""

    trainer: ProXTrainer

    def __init__(self, trainer: ProXTrainer, seed: int, steps: int, epochs: int) -> None:
        super().__init__(trainer, seed, steps, epochs)
        self.supernet, self._macs = trainer.supernet, {}
        size = self.trainer.configuration_manager.patch_size
        probes = named_members(self.supernet.family, size)
        middle = {name: probes[name] for name in ("middle",) if name in probes}  # small spaces have none
        self.subnets = family_members(self.supernet.family.space) | middle

    def _macs_of(self, subnet: Subnet) -> int:
        if subnet not in self._macs:
            size = self.trainer.configuration_manager.patch_size
            self._macs[subnet] = cost.macs(self.supernet.family, subnet, size)
        return self._macs[subnet]

    def count(self, epoch: int, step: int) -> None:
        engine, images = self.trainer.engine, self.trainer.configuration_manager.batch_size
        updates = self.trainer.updates_per_batch.number
        for update in range(step * updates, (step + 1) * updates):
            passes = 3 * sum(map(self._macs_of, engine.members(epoch, update)))
            if engine.teacher is not None:
                passes += self._macs_of(engine.teacher)
            self.macs += images * passes

    def members(self) -> Iterator[tuple[str, nn.Module]]:
        yield from ((name, self.supernet.member(subnet)) for name, subnet in self.subnets.items())


class Alone(Contender):
    """One member trained by nnU-Net's own trainer."""

    def __init__(self, trainer: nnUNetTrainer, name: str, family: UNetFamily, subnet: Subnet, *settings: int) -> None:
        super().__init__(trainer, *settings)
        self.name = name
        self._macs = cost.macs(family, subnet, trainer.configuration_manager.patch_size)

    def count(self, epoch: int, step: int) -> None:
        self.macs += 3 * self._macs * self.trainer.configuration_manager.batch_size

    def members(self) -> Iterator[tuple[str, nn.Module]]:
        yield self.name, self.trainer.network


class ModelOpt(Contender):
    """Channels made elastic by NVIDIA ModelOpt's AutoNAS, which trains one random subnet a step, without distillation.

    Its family is its own: widths are chosen layer by layer. There is no other dimension in a PlainConvUNet but the kernel: its
    depth is that of residual blocks, and it knows neither resolution nor the levels of a U-Net.
    """

    def __init__(self, trainer: nnUNetTrainer, choices: UNetChoices, features: int, *settings: int) -> None:
        import modelopt.torch.nas as nas  # the extra "benchmarks"
        from modelopt.torch.utils import random as modelopt_random

        super().__init__(trainer, *settings)
        self.nas, network = nas, trainer.network
        convolutions = {
            "channels_ratio": choices.fractions(features),
            "channel_divisor": 1,
            "kernel_size": choices.kernel[:-1] if choices.kernel else (),
        }
        norms = {"features_ratio": choices.fractions(features), "feature_divisor": 1}
        elastic = {"nn.Conv3d": convolutions, "nn.ConvTranspose3d": convolutions, "nn.InstanceNorm3d": norms}
        mode = {kind: {"*": what} for kind, what in elastic.items()} | {"nn.Sequential": None}
        trainer.network = nas.convert(network, mode=[("autonas", mode)])
        trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
        modelopt_random._set_deterministic_seed(self.seed + 1)  # 0 would mean unseeded
        self.generator = modelopt_random._get_generator()
        self._of_step = 0

    def step(self, batch: dict[str, Any], epoch: int, step: int) -> float:
        with cost.counting(self.trainer.network) as counted:
            loss = super().step(batch, epoch, step)
        self._of_step = counted.macs
        return loss

    def count(self, epoch: int, step: int) -> None:
        self.macs += 3 * self._of_step

    def members(self) -> Iterator[tuple[str, nn.Module]]:
        network, generator = self.trainer.network.eval(), random.Random(2024)
        choose = {"smallest": min, "largest": max} | {f"random {i + 1}": generator.choice for i in range(RANDOM_MEMBERS)}
        for name, choice in choose.items():
            self.nas.sample(network, choice)
            yield name, self.nas.export(copy.deepcopy(network))
        network.train()


def build(trainer: type[nnUNetTrainer], folder: Path, plan: str, fold: int = 0) -> Any:
    """A trainer of the preprocessed data in ``folder``, of the only configuration in the plan."""
    plans = load_json(str(folder / f"{plan}.json")) | {"continue_training": False}
    (configuration,) = plans["configurations"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return trainer(plans, configuration, fold, load_json(str(folder / "dataset.json")), device)


def stock_trainer(family: UNetFamily, subnet: Subnet, configure_optimizers: Any, *, bare: bool = False) -> Any:
    """A subclass of nnU-Net's own trainer that trains one member alone, at home at full resolution unless it is ``bare``."""

    class Stock(nnUNetTrainer):  # type: ignore[misc]
        @staticmethod
        def build_network_architecture(*_: Any, enable_deep_supervision: bool = True, **__: Any) -> nn.Module:
            network: Any = family.build(subnet)
            network.decoder.deep_supervision = enable_deep_supervision
            return network if bare else Member(family, subnet, network)

        def _build_loss(self) -> Any:
            return AnyLevelsLoss(super()._build_loss())

        def set_deep_supervision_enabled(self, enabled: bool) -> None:
            network = self.network if bare else self.network.network
            network.decoder.deep_supervision = enabled

    Stock.configure_optimizers = configure_optimizers
    return Stock


def make_contender(
    name: str, folder: Path, plan: str, *, space: str, seed: int, steps: int, epochs: int, learning_rate: float | None
) -> Contender:
    """name: a recipe's, LONG, of SEVERAL, ``modelopt``, or ``alone`` and a member's. folder: preprocessed data with ``plan``.

    space: a name of monai_prox.families.unet.CHOICES or the JSON of a UNetChoices. learning_rate: AdamW's; None: nnU-Net's own
    SGD, at its own rate.
    """
    if name == LONG:
        of_epoch, epochs = steps // epochs, round(LENGTHENED * epochs)
        name, steps = "prox", of_epoch * epochs
    members_per_batch, name = SEVERAL.get(name, 1), "prox" if name in SEVERAL else name
    choices = UNetChoices.from_json(json.loads(space) if space.startswith("{") else space)

    optimized: Any = nnUNetTrainer if learning_rate is None else ProXTrainerAdam

    class Family(ProXTrainer):
        configure_optimizers = optimized.configure_optimizers

    Family.choices, Family.seed, Family.epochs, Family.learning_rate = choices, seed, epochs, learning_rate
    if name in RECIPES:
        Family.recipe, Family.iterations_per_epoch, Family.monitored = name, steps // epochs, False
        Family.members_per_batch = members_per_batch
        return Recipe(build(Family, folder, plan), seed, steps, epochs)
    manager = build(Family, folder, plan)
    configuration = manager.configuration_manager
    manager.initialize()
    family: Any = manager.supernet.family
    subnets = family_members(family.space) | named_members(manager.supernet.family, configuration.patch_size)
    which = name.removeprefix("alone ") if name != "modelopt" else "largest"

    Stock = stock_trainer(family, subnets[which], optimized.configure_optimizers, bare=name == "modelopt")
    Stock.learning_rate = learning_rate
    if name == "modelopt":
        return ModelOpt(build(Stock, folder, plan), choices, int(subnets["largest"]["width"][0]), seed, steps, epochs)
    return Alone(build(Stock, folder, plan), which, family, subnets[which], seed, steps, epochs)
