"""Several processes train what one does with their batches in one: gradients, batch norms, losses, members, files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import mobilenet_engines
from helpers.architectures import batch
from helpers.bundle_training import EPOCHS, assert_equal, cases, checkpoint, sgd, training
from helpers.engines import engine_of
from helpers.nnunet_ranks import ProXTrainerOnCPU
from helpers.nnunet_task import FULLRES, TWO_MEMBERS, bare_plans, folders, make_trainer
from helpers.ranks import together
from helpers.validation_batches import PATCH, images, validate
from monai.data import CacheDataset, DataLoader, DistributedSampler
from monai.transforms import Compose
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from monai_prox.training.engine import Engine
from monai_prox.training.recipes import RECIPES

pytest_plugins = ["helpers.nnunet_fixtures"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]

CLOSE = {"rtol": 1e-7, "atol": 1e-9}  # in double precision: sums of another order


def part(rank: int, of: int, size: int = 4) -> slice:
    """A rank's part of a global batch."""
    return slice(rank * size // of, (rank + 1) * size // of)


# ---------------------------------------------------------------------- engine
def unet(recipe: str) -> Engine:
    return engine_of(RECIPES[recipe].stages, kernel_transforms=RECIPES[recipe].kernel_transforms is not None)


def unet_batch(seed: int) -> Any:
    return batch(seed, size=4)


def mobilenet(recipe: str) -> Engine:
    nn.Dropout.forward = lambda _, x: x  # type: ignore[method-assign]  # every process drops others
    return mobilenet_engines.engine_of(recipe)


def mobilenet_batch(seed: int) -> Any:
    return mobilenet_engines.images(seed, 4), torch.tensor([0, 1, 2, seed % 3])


MAKERS: dict[str, tuple[Callable[[str], Engine], Callable[[int], Any]]] = {
    "unet": (unet, unet_batch),
    "mobilenet": (mobilenet, mobilenet_batch),
}


def train(rank: int, of: int, kind: str, recipe: str) -> dict[str, Any]:
    """An epoch of two steps for every stage: who trained, which parameters then had a gradient, losses and weights."""
    torch.set_default_dtype(torch.float64)
    make, batch_of = MAKERS[kind]
    engine = make(recipe)
    optimizer = SGD(engine.supernet.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    engine.guard(optimizer)
    members, used, losses = [], [], []
    for epoch in range(engine.schedule.epochs):
        engine.begin_epoch(epoch)
        for step in range(2):
            optimizer.zero_grad(set_to_none=True)
            x, target = (tensor[part(rank, of)] for tensor in batch_of(100 * epoch + step))
            losses.append(engine.step(x, target, epoch=epoch, step=step).loss)
            members.append([member.to_json() for member in engine.members(epoch, step)])
            used.append([name for name, parameter in engine.supernet.named_parameters() if parameter.grad is not None])
            optimizer.step()
    unused = [len(names) < len(list(engine.supernet.parameters())) for names in used]
    weights = engine.supernet.state_dict()
    return {"members": members, "used": used, "unused": unused, "losses": torch.stack(losses), "weights": weights}


@pytest.mark.parametrize(
    ("kind", "recipe", "processes"),
    [
        ("unet", "prox", 2),
        ("unet", "prox", 4),
        ("unet", "prox_paper", 2),
        ("unet", "progressive_shrinking", 2),
        ("mobilenet", "prox_paper", 2),
        ("mobilenet", "sandwich", 4),
    ],
)
def test_an_engine_in_several_processes_trains_as_in_one(kind: str, recipe: str, processes: int) -> None:
    (alone,) = together(1, train, 1, kind, recipe)
    ranks = together(processes, train, processes, kind, recipe)
    for rank in ranks:
        assert rank["members"] == alone["members"] and rank["used"] == alone["used"]
        assert_equal(rank["weights"], ranks[0]["weights"])
    assert any(alone["unused"]) or recipe == "sandwich"
    torch.testing.assert_close(sum(rank["losses"] for rank in ranks) / processes, alone["losses"], **CLOSE)
    torch.testing.assert_close(ranks[0]["weights"], alone["weights"], **CLOSE)


# ---------------------------------------------------------------------- MONAI
def train_monai(rank: int, of: int, batch_size: int, folder: Path, ckpt: Path | None = None) -> dict[str, Any]:
    """With a part of eight cases in every process, which is given a folder of its own to write to."""
    torch.set_default_dtype(torch.float64)
    dataset = CacheDataset(cases(8), Compose([]), progress=False)
    sampler = DistributedSampler(dataset, num_replicas=of, rank=rank, shuffle=False)
    data = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    own = folder / str(rank)
    own.mkdir(parents=True)
    run = training("prox", own, weights=rank, data=data, optimizer_of=sgd, interval=1, held_out=5, family=True, ckpt=ckpt)
    return run.run().state()


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    torch.testing.assert_close(one["network"], other["network"], **CLOSE)
    torch.testing.assert_close(one["validation"], other["validation"], rtol=1e-5, atol=1e-6)  # MONAI's metrics are single


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[dict[str, Any]]]]:
    """By number of processes: where they wrote to, and what every one of them had in the end. A batch is of four cases."""
    folder = tmp_path_factory.mktemp("monai")
    return {of: (folder / str(of), together(of, train_monai, of, 4 // of, folder / str(of))) for of in (1, 2, 4)}


def test_monais_trainer_in_several_processes_trains_as_in_one(trained: dict[int, Any]) -> None:
    for folder, ranks in trained.values():
        for rank in ranks:
            for key in ("network", "optimizer", "engine", "validation", "epoch", "iteration"):
                assert_equal(rank[key], ranks[0][key], key)
        assert_close(ranks[0], trained[1][1][0])
        files = [{path.name for path in folder.glob(f"{rank}/**/*") if path.is_file()} for rank in range(len(ranks))]
        assert {"family.json", "model.pt", "prox_progress.png", "checkpoint_epoch=7.pt"} <= files[0]
        assert not any(files[1:])


@pytest.mark.parametrize(("before", "after", "epochs"), [(2, 2, 6), (2, 1, 6), (1, 2, 4), (2, 4, 4)])
def test_monais_trainer_goes_on_in_any_number_of_processes(
    before: int, after: int, epochs: int, trained: dict[int, Any], tmp_path: Path
) -> None:
    """From the last epoch of a stage and from within one; in as many processes, bit for bit."""
    folder, whole = trained[before]
    ranks = together(after, train_monai, after, 4 // after, tmp_path, checkpoint(folder / "0", epochs))
    assert_close(ranks[0], whole[0])
    if before == after:
        assert_equal(ranks, whole)


def test_epochs_are_as_long_as_the_number_of_processes_makes_them(trained: dict[int, Any], tmp_path: Path) -> None:
    """With the same batch in each: eight cases in batches of two last for four steps in one process, for two in two."""
    start = checkpoint(trained[2][0] / "0", 4)
    (state,) = together(1, train_monai, 1, 2, tmp_path, start)
    assert state["epoch"] == EPOCHS and state["iteration"] == EPOCHS * 4
    assert [entry["epoch"] for entry in state["validation"]["history"]] == list(range(EPOCHS))


# ---------------------------------------------------------------------- nnU-Net
def train_nnunet(rank: int, of: int, environment: dict[str, str], batch_dice: bool) -> dict[str, Any]:
    """An epoch of two steps for every stage, and a validation of all probes, with its part of batches of four."""
    os.environ.update(environment)
    plans = bare_plans(patch=PATCH, prox={"space": TWO_MEMBERS})
    plans["configurations"][FULLRES] |= {"batch_size": 4, "batch_dice": batch_dice}
    trainer = make_trainer(plans, cls=ProXTrainerOnCPU)
    trainer.initialize()
    losses = []
    for epoch in range(trainer.num_epochs):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for step in range(2):
            losses.append(float(trainer.train_step(shard(rank, of, 10 * epoch + step))["loss"]))
    validate(trainer, [shard(rank, of, seed) for seed in (98, 99)])
    return {
        "wrapped": isinstance(trainer.network, DistributedDataParallel),
        "batch_size": trainer.batch_size,
        "losses": torch.tensor(losses),
        "weights": trainer.supernet.state_dict(),
        "momentum": [state["momentum_buffer"] for state in trainer.optimizer.state_dict()["state"].values()],
        "probes": trainer.progress,
        "dice": float(trainer.logger.get_value("mean_fg_dice", step=-1)),
    }


def shard(rank: int, of: int, seed: int) -> dict[str, Any]:
    whole, own = images([f"case_{number}" for number in range(4)], seed), part(rank, of)
    return {"data": whole["data"][own], "target": [target[own] for target in whole["target"]], "keys": whole["keys"][own]}


@pytest.mark.parametrize(("processes", "batch_dice"), [(2, False), (2, True), (4, True)])
def test_nnunets_trainer_in_several_processes_trains_as_in_one(processes: int, batch_dice: bool, bare: Path) -> None:
    """nnU-Net gives the lowest output a weight of 1e-6 where there are several, so a head that nobody reads may differ."""
    environment = {variable: str(folder) for variable, folder in folders(bare).items()}
    (alone,) = together(1, train_nnunet, 1, environment, batch_dice)
    ranks = together(processes, train_nnunet, processes, environment, batch_dice)
    for rank in ranks:
        assert rank["wrapped"] and rank["batch_size"] == 4 // processes
        for key in ("weights", "momentum", "probes", "dice"):
            assert_equal(rank[key], ranks[0][key], key)
    loss = sum(rank["losses"] for rank in ranks) / processes
    torch.testing.assert_close(loss, alone["losses"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ranks[0]["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ranks[0]["probes"], alone["probes"], rtol=1e-3, atol=1e-3)
    assert ranks[0]["dice"] == pytest.approx(alone["dice"], abs=1e-3)
