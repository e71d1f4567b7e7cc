"""What it takes to make a family of a network that is trained already.

    python -m benchmarks.adoption --task Task04_Hippocampus --work WORK --results OUT

``given`` is the largest network alone, trained by nnU-Net's own trainer for ``--steps`` steps. The others train for a part of
these steps, the number at the end of their name, on the batches of its beginning:

    adopt 0.5              its family by the recipe adopt
    scratch 0.5            the family by the recipe prox, from nothing
    distilled smallest 0.5     one member from nothing, from the labels and the given network, half each
    fastnas smallest 0.5   the given network, pruned to a member's MACs by NVIDIA ModelOpt's FastNAS, and trained on
    alone smallest 1       one member from nothing, from the labels alone

A step of a family takes about half the work of one of the given network, so ``adopt 0.5`` takes a quarter of the work of its
training, and ``adopt 1`` half of it.

A run is recorded when it ends, and an interrupted benchmark goes on where it stopped. See ``benchmarks.claims`` for what is
measured.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks import contest
from benchmarks.claims import SMOKE, streams
from benchmarks.contenders import ALONE, Alone, Contender, Recipe, make_contender
from benchmarks.race import race
from benchmarks.stream import read_stream
from benchmarks.task import prepare
from monai_prox.core import cost
from monai_prox.tensor_file import read_tensors, write_tensors
from monai_prox.training import distill

GIVEN = "given"
PARTS = ("0.5", "1")  # of the given network's batches
MEMBERS = ("smallest", "middle")  # beside the largest
CONTENDERS = [
    GIVEN,
    *(f"{kind} {part}" for part in PARTS for kind in ("adopt", "scratch")),
    *(f"{kind} {member} {part}" for part in PARTS for kind in ("distilled", "fastnas") for member in MEMBERS),
    *(f"alone {member} 1" for member in MEMBERS),
]
SCORED = 4  # batches by whose loss FastNAS chooses


def weights_file(settings: dict[str, Any]) -> Path:
    """Of the given network of a seed."""
    return Path(settings["stream"]).parent / f"{Path(settings['stream']).name}_{settings['steps']}_given.pt"


class Distilled(Contender):
    """One member that learns from the labels and from the given network, half each."""

    def __init__(self, student: Alone, teacher: torch.nn.Module, teacher_macs: int) -> None:
        self.student, self.teacher, self.teacher_macs = student, teacher.eval().requires_grad_(False), teacher_macs
        self.trainer, self.seed, self.macs = student.trainer, student.seed, 0.0
        task, self._x = self.trainer.loss, torch.empty(0)

        def loss(outputs: Any, target: Any) -> torch.Tensor:
            with torch.no_grad():
                taught = self.teacher(self._x)
            return 0.5 * task(outputs, target) + 0.5 * distill.kl(outputs[0], taught[0])

        self.trainer.loss = loss

    def step(self, batch: dict[str, Any], epoch: int, step: int) -> float:
        self._x = batch["data"].to(self.trainer.device)
        return self.student.step(batch, epoch, step)

    def count(self, epoch: int, step: int) -> None:
        before = self.student.macs
        self.student.count(epoch, step)
        taught = self.teacher_macs * self.trainer.configuration_manager.batch_size
        self.macs += self.student.macs - before + taught  # of a run that is taken up, the student has counted none before

    def members(self) -> Any:
        return self.student.members()


class FastNAS(Contender):
    """The given network without the channels that FastNAS finds least needed, by the loss of the first batches."""

    def __init__(self, given: Alone, name: str, part: float, batches: list[dict[str, Any]]) -> None:
        import modelopt.torch.prune as prune  # the extra "benchmarks"

        trainer, self.name, self.seed, self.macs = given.trainer, name, given.seed, 0.0
        network, self.trainer, images = trainer.network, trainer, trainer.configuration_manager.batch_size
        given_macs = cost.macs(network.family, network.subnet, trainer.configuration_manager.patch_size)

        def score(network: torch.nn.Module) -> float:
            self.macs += given_macs * images * len(batches)  # at most
            with torch.no_grad():
                losses = [trainer.loss(network(batch["data"]), batch["target"]) for batch in batches]
            return -float(sum(losses)) / len(losses)

        rules = {"channels_ratio": tuple(i / 8 for i in range(1, 9)), "channel_divisor": 1, "kernel_size": ()}
        norms = {"features_ratio": rules["channels_ratio"], "feature_divisor": 1}
        elastic = {"nn.Conv3d": rules, "nn.ConvTranspose3d": rules, "nn.InstanceNorm3d": norms}
        mode = [("fastnas", {kind: {"*": what} for kind, what in elastic.items()})]
        data = {"data_loader": [batch["data"] for batch in batches], "collect_func": lambda x: x, "score_func": score}
        limit = {"flops": f"{100 * part:.2f}%"}
        trainer.network, _ = prune.prune(network.network, mode, limit, batches[0]["data"][:1], config=data)
        trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
        patch = torch.zeros(1, *batches[0]["data"].shape[1:])
        with torch.no_grad(), cost.counting(trainer.network) as counted:
            trainer.network(patch)
        self._macs = counted.macs

    def count(self, epoch: int, step: int) -> None:
        self.macs += 3 * self._macs * self.trainer.configuration_manager.batch_size

    def members(self) -> Any:
        yield self.name, self.trainer.network


def make(name: str, folder: Path, plan: str, *, settings: dict[str, Any], **training: Any) -> Contender:
    """A contender of this benchmark, see ``make_contender``."""
    kind, _, rest = name.partition(" ")
    member, _, part = rest.rpartition(" ")
    of_epoch = training["steps"] // training["epochs"]
    epochs = training["epochs"] if kind == GIVEN else round(float(part) * training["epochs"])
    training |= {"epochs": epochs, "steps": epochs * of_epoch}
    if kind == "adopt":
        training["learning_rate"] *= settings["adopt_rate"]
    names = {GIVEN: "alone largest", "adopt": "adopt", "scratch": "prox"}
    contender = make_contender(names.get(kind, f"alone {member}"), folder, plan, **training)
    if kind == "adopt":
        assert isinstance(contender, Recipe)
        contender.supernet.network.load_state_dict(read_tensors(weights_file(settings)))
    if kind == "distilled":
        assert isinstance(contender, Alone)
        largest: Any = make_contender("alone largest", folder, plan, **training)
        teacher = deepcopy(largest.trainer.network)
        teacher.network.load_state_dict(read_tensors(weights_file(settings)))
        macs = cost.macs(teacher.family, teacher.subnet, largest.trainer.configuration_manager.patch_size)
        return Distilled(contender, teacher, macs)
    if kind == "fastnas":
        assert isinstance(contender, Alone)
        given: Any = make_contender("alone largest", folder, plan, **training)
        given.trainer.network.network.load_state_dict(read_tensors(weights_file(settings)))
        sizes = [
            cost.macs(of.family, of.subnet, given.trainer.configuration_manager.patch_size)
            for of in (contender.trainer.network, given.trainer.network)
        ]
        batches = list(islice(read_stream(Path(settings["stream"]), 0), SCORED))
        return FastNAS(given, member, sizes[0] / sizes[1], batches)
    return contender


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """See ``benchmarks.contest``."""
    made: list[Contender] = []

    def keep(*arguments: Any, **training: Any) -> Contender:
        made.append(make(*arguments, settings=settings, **training))
        return made[0]

    result = contest.run(settings, make=keep)
    if settings["contender"] == GIVEN:
        network: Any = made[0].trainer.network
        write_tensors(network.network.state_dict(), weights_file(settings))
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True, help="Decathlon task folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's files, the batches and the weights")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, metavar="NAME")
    parser.add_argument("--space", default="default", help="its name, or the JSON of another")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=4000, help="of the given network")
    parser.add_argument("--epochs", type=int, default=100, help="into which the steps are divided")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of AdamW")
    parser.add_argument("--adopt-rate", type=float, default=1.0, help="the part of it with which a family is adopted")
    parser.add_argument("--features", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--patch-size", nargs="+", type=int, help="the plan's own by default")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=60, help="cases, the last by name")
    parser.add_argument("--left-out", type=int, default=0, help="cases after these, which are not touched: for tuning")
    parser.add_argument("--curve", type=int, default=1, help="evaluations of a training, that at its end included")
    parser.add_argument("--curve-cases", type=int, default=12, help="of those held out, for the evaluations before the end")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the given networks come first")
    parser.add_argument("--smoke", action="store_true", help="one seed, a few steps of a tiny network")
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    for name in options.contenders:
        kind, _, rest = name.partition(" ")
        member, _, part = rest.rpartition(" ")
        allowed = [""] if kind in ("adopt", "scratch") else ALONE if kind in ("distilled", "fastnas", "alone") else []
        if name != GIVEN and (member not in allowed or not part):
            parser.error(f"there is no contender {name!r}; there are {', '.join(CONTENDERS)}")
        if name != GIVEN and not 0 < float(part) <= 1:
            parser.error(f"{name!r} would train for more than the batches of the given network; the number is at most 1")
    return options


def main() -> None:
    options = arguments()
    cut = {key: getattr(options, key) for key in ("features", "batch_size", "held_out", "left_out", "patch_size")}
    folder, plan = prepare(options.task, options.work, **cut)
    paths = streams(folder, plan, options)
    of_seed = {seed: {"folder": str(folder), "plan": plan, "stream": str(path)} for seed, path in paths.items()}
    keys = ("space", "steps", "epochs", "learning_rate", "adopt_rate", "curve", "curve_cases")
    options.bfloat16 = False
    of_kind = {kind: [name for name in options.contenders if (name == GIVEN) == kind] for kind in (True, False)}
    for options.contenders in filter(None, of_kind.values()):  # the others need the weights of the given networks
        race("benchmarks.adoption_run", options, keys=(*keys, "bfloat16"), of_seed=of_seed)


if __name__ == "__main__":
    main()
