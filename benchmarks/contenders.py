"""Who competes: nnU-Net trainers that take the same batches, by the names of the benchmark.

A recipe's name trains a family with ProXTrainer, ``alone NAME`` one member of it by nnU-Net's own trainer.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from monai_prox import cost
from monai_prox.families.unet import CHOICES, UNetFamily
from monai_prox.nnunet.trainer import AnyLevelsLoss, ProXTrainer
from monai_prox.nnunet.variants import ProXTrainerAdam
from monai_prox.probes import choose_probes
from monai_prox.space import SearchSpace, Subnet
from monai_prox.supernet import Member, SuperNet

ALONE = ("smallest", "middle", "largest")
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

    def __init__(self, trainer: nnUNetTrainer, seed: int, steps: int, epochs: int) -> None:
        trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, steps // epochs
        trainer.disable_checkpointing = True
        self.trainer, self.seed, self.macs = trainer, seed, 0.0
        torch.manual_seed(seed)
        trainer.initialize()

    def step(self, batch: dict[str, Any], epoch: int, step: int) -> float:
        return float(self.trainer.train_step(batch)["loss"])

    def count(self, epoch: int, step: int) -> None:
        """Adds the MACs of a step."""
        raise NotImplementedError

    def members(self) -> dict[str, nn.Module]:
        """Networks to evaluate, with their own weights, by name."""
        raise NotImplementedError


class Recipe(Contender):
    """A family trained by a recipe."""

    trainer: ProXTrainer

    def __init__(self, trainer: ProXTrainer, seed: int, steps: int, epochs: int) -> None:
        super().__init__(trainer, seed, steps, epochs)
        self.supernet, self._macs = trainer.supernet, {}
        size = self.trainer.configuration_manager.patch_size
        self.subnets = family_members(self.supernet.family.space) | {"middle": choose_probes(self.supernet, size)["middle"]}

    def _macs_of(self, subnet: Subnet) -> int:
        if subnet not in self._macs:
            size = self.trainer.configuration_manager.patch_size
            self._macs[subnet] = cost.macs(self.supernet, subnet, size)
        return self._macs[subnet]

    def count(self, epoch: int, step: int) -> None:
        engine, images = self.trainer.engine, self.trainer.configuration_manager.batch_size
        passes = 3 * sum(map(self._macs_of, engine.members(epoch, step)))
        if engine.teacher is not None:
            passes += self._macs_of(engine.teacher)
        self.macs += images * passes

    def members(self) -> dict[str, nn.Module]:
        return {name: self.supernet.member(subnet) for name, subnet in self.subnets.items()}


class Alone(Contender):
    """One member trained by nnU-Net's own trainer."""

    def __init__(self, trainer: nnUNetTrainer, name: str, family: UNetFamily, subnet: Subnet, *settings: int) -> None:
        super().__init__(trainer, *settings)
        self.name = name
        self._macs = cost.macs(SuperNet(family), subnet, trainer.configuration_manager.patch_size)

    def count(self, epoch: int, step: int) -> None:
        self.macs += 3 * self._macs * self.trainer.configuration_manager.batch_size

    def members(self) -> dict[str, nn.Module]:
        return {self.name: self.trainer.network}


def make_contender(
    name: str, folder: Path, plan: str, *, space: str, seed: int, steps: int, epochs: int, learning_rate: float
) -> Contender:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def build(trainer: type[nnUNetTrainer]) -> Any:
        plans = load_json(str(folder / f"{plan}.json")) | {"continue_training": False}
        return trainer(plans, "3d_fullres", 0, load_json(str(folder / "dataset.json")), device)

    class Trainer(ProXTrainerAdam):
        pass

    Trainer.choices, Trainer.seed, Trainer.epochs, Trainer.learning_rate = CHOICES[space], seed, epochs, learning_rate
    if not name.startswith("alone "):
        Trainer.recipe = name
        Trainer.iterations_per_epoch = steps // epochs
        return Recipe(build(Trainer), seed, steps, epochs)
    whole = build(Trainer)
    torch.manual_seed(seed)
    whole.initialize()
    family: Any = whole.supernet.family
    which = name.removeprefix("alone ")
    subnet = choose_probes(whole.supernet, whole.configuration_manager.patch_size)[which]

    class StockTrainer(nnUNetTrainer):
        configure_optimizers = ProXTrainerAdam.configure_optimizers

        @staticmethod
        def build_network_architecture(*_: Any, enable_deep_supervision: bool = True, **__: Any) -> nn.Module:
            network = family.build(subnet)
            network.decoder.deep_supervision = enable_deep_supervision
            return Member(family, subnet, network)

        def _build_loss(self) -> Any:
            return AnyLevelsLoss(super()._build_loss())

        def set_deep_supervision_enabled(self, enabled: bool) -> None:
            self.network.network.decoder.deep_supervision = enabled

    StockTrainer.learning_rate = learning_rate
    return Alone(build(StockTrainer), which, family, subnet, seed, steps, epochs)
