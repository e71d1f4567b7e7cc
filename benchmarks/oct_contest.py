"""One run of one contender on synthetic B-scans: training, timed, and the accuracy of its members. Writes a JSON."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import PolynomialLR
from torchvision.transforms import v2

from benchmarks.contenders import LENGTHENED, LONG, family_members
from benchmarks.race import one_run
from monai_prox.core import cost
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.data.oct import Scan, read_scan, read_scans
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.families.mobilenet_choices import MobileNetChoices
from monai_prox.training.calibrate import IMAGES, calibrate
from monai_prox.training.engine import Engine
from monai_prox.training.recipes import RECIPES, make_schedule

AUGMENT = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(8, (0.08, 0.08), (0.9, 1.1)),
        v2.GaussianNoise(sigma=0.05, clip=False),  # the images are not within 0 and 1
    ]
)


class Scans:
    """Images (N, 1, H, W), each of mean 0 and standard deviation 1, and the numbers of their classes (N,)."""

    def __init__(self, scans: list[Scan], size: int) -> None:
        images = torch.stack([torch.from_numpy(read_scan(scan.image)) for scan in scans])
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
        self.images = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
        self.labels = torch.tensor([scan.label for scan in scans])

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The same for the same arguments; the state of torch's generator stays."""
        with torch.random.fork_rng():
            torch.manual_seed(1_000_003 * seed + step)
            chosen = torch.randint(len(self.labels), (size,))
            return torch.stack([AUGMENT(image) for image in self.images[chosen]]), self.labels[chosen]


class Contest:
    """A family trained by a recipe, or one member alone, which is its own network from the beginning."""

    def __init__(self, settings: dict[str, Any], train: Scans, classes: int) -> None:
        choices = MobileNetChoices.from_json(json.loads(settings["space"]))
        family = MobileNetFamily(input_channels=1, num_classes=classes, choices=choices)
        name, self.size = settings["contender"], (choices.resolution[-1],) * 2
        torch.manual_seed(settings["seed"])
        self.family, self.supernet = family, RECIPES[name].supernet(family) if name in RECIPES else SuperNet(family)
        self.calibrating = train.images[:: max(1, len(train.images) // IMAGES)]
        self.subnets = family_members(family.space) | {"middle": named_members(self.supernet.family, self.size)["middle"]}
        self.macs, self._counts = 0.0, dict[Subnet, int]()
        self.alone: nn.Module | None = None
        self.parameters = list(self.supernet.parameters())
        if name in RECIPES:
            schedule = make_schedule(name, family.space, settings["epochs"])
            self.engine = Engine(self.supernet, schedule, F.cross_entropy, seed=settings["seed"], calibrate=self.calibrate)
        else:
            which = name.removeprefix("alone ")
            self.subnets = {which: self.subnets[which]}
            self.alone = family.build(self.subnets[which])
            self.parameters = list(self.alone.parameters())
        self.optimizer = AdamW(self.parameters, settings["learning_rate"])
        if self.alone is None:
            self.engine.guard(self.optimizer)

    def calibrate(self, network: nn.Module, subnet: Subnet) -> nn.Module:
        return calibrate(network, self.calibrating, lambda x: self.family.run(network, x, subnet))

    def begin(self, epoch: int) -> None:
        if self.alone is None:
            self.engine.begin_epoch(epoch)

    def step(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        if self.alone is not None:
            ((subnet, network),) = zip(self.subnets.values(), [self.alone], strict=True)
            loss = F.cross_entropy(self.family.run(network, images, subnet), labels)
            loss.backward()
        else:
            loss = self.engine.step(images, labels, epoch=epoch, step=step).loss
        nn.utils.clip_grad_norm_(self.parameters, 12)
        self.optimizer.step()
        return float(loss.detach())

    def _macs_of(self, subnet: Subnet) -> int:
        if subnet not in self._counts:
            self._counts[subnet] = cost.macs(self.supernet.family, subnet, self.size)
        return self._counts[subnet]

    def count(self, images: int, epoch: int, step: int) -> None:
        """Adds the MACs of a step: a backward pass counts as two forward passes."""
        subnets = list(self.subnets.values()) if self.alone is not None else self.engine.members(epoch, step)
        passes = 3 * sum(map(self._macs_of, subnets))
        if self.alone is None and self.engine.teacher is not None:
            passes += self._macs_of(self.engine.teacher)
        self.macs += images * passes

    @torch.no_grad()
    def members(self, held_out: Scans) -> Iterator[dict[str, Any]]:
        def accuracy(predict: Callable[[Tensor], Tensor]) -> float:
            predicted = torch.cat([predict(images).argmax(1) for images in held_out.images.split(50)])
            return float((predicted == held_out.labels).float().mean())

        for name, subnet in self.subnets.items():
            network = self.supernet.extract(subnet)
            if self.alone is not None:
                network.load_state_dict(self.alone.state_dict())
            network.eval()

            def run(x: Tensor, network: nn.Module = network, subnet: Subnet = subnet) -> Tensor:
                return self.family.run(network, x, subnet)

            uncalibrated = accuracy(run)
            self.calibrate(network, subnet)
            size = {"parameters": sum(p.numel() for p in network.parameters()), "macs": self._macs_of(subnet)}
            yield {"name": name, **size, "accuracy": accuracy(run), "uncalibrated": uncalibrated}


def run(settings: dict[str, Any]) -> dict[str, Any]:
    asked = settings
    if settings["contender"] == LONG:
        epochs = round(LENGTHENED * settings["epochs"])
        steps = settings["steps"] // settings["epochs"] * epochs
        settings = settings | {"contender": "prox", "epochs": epochs, "steps": steps}
    scans = read_scans(settings["folder"])
    pixels = MobileNetChoices.from_json(json.loads(settings["space"])).resolution[-1]
    train, held_out = Scans(list(scans.train), pixels), Scans(list(scans.test), pixels)
    contest = Contest(settings, train, len(scans.classes))
    epochs, images = settings["epochs"], settings["batch_size"]
    scheduler = PolynomialLR(contest.optimizer, epochs, 0.9)
    due = {round(epochs * (i + 1) / settings["curve"]) - 1 for i in range(settings["curve"] - 1)}
    seconds, cpu, losses, curve = 0.0, 0.0, [], []
    for epoch in range(epochs):
        contest.begin(epoch)
        of_epoch = []
        for step in range(settings["steps"] // epochs):
            batch = train.batch(settings["seed"], epoch * (settings["steps"] // epochs) + step, images)
            start, start_cpu = time.perf_counter(), time.process_time()
            of_epoch.append(contest.step(*batch, epoch, step))
            seconds, cpu = seconds + time.perf_counter() - start, cpu + time.process_time() - start_cpu
            contest.count(images, epoch, step)
        scheduler.step()
        losses.append(round(sum(of_epoch) / len(of_epoch), 4))
        print(f"{asked['contender']} {asked['seed']} epoch {epoch} loss {losses[-1]} seconds {seconds:.0f}", flush=True)
        if epoch in due:
            rows = [{key: row[key] for key in ("name", "accuracy")} for row in contest.members(held_out)]
            curve.append({"epoch": epoch, "seconds": seconds, "macs": contest.macs, "members": rows})
            print({row["name"]: round(row["accuracy"], 3) for row in rows}, flush=True)
    return {
        "contender": asked["contender"],
        "seed": settings["seed"],
        "training_seconds": seconds,
        "training_cpu_seconds": cpu,
        "training_macs": contest.macs,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": losses,
        "curve": curve,
        "members": list(contest.members(held_out)),
    }


if __name__ == "__main__":
    one_run(run, __doc__)
