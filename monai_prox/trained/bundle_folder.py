"""What a bundle's training leaves beside the weights, and the trained family read from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from monai_prox.core.family import Family
from monai_prox.core.network import prediction_graph
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet, WeightTransforms, without_weights
from monai_prox.data.decathlon import Case, DecathlonTask
from monai_prox.data.plans import read_plan
from monai_prox.errors import ProXError, refusing
from monai_prox.files import read_json
from monai_prox.runtime.kinds import KINDS, Kind
from monai_prox.tensor_file import check_weights, read_tensors, write_tensors
from monai_prox.trained.family_file import FAMILY, FORMAT, FamilyFile
from monai_prox.training.calibrate import keeps_statistics
from monai_prox.training.calibrated_members import CalibratedMembers, Statistics, statistics_of
from monai_prox.training.recipes import find_recipe
from monai_prox.typed import check_types

WEIGHTS = "model.pt"
KERNEL_TRANSFORMS = "kernel_transforms.pt"
STATISTICS = "statistics.pt"  # of norms, by member
UNUSABLE = f"the bundle's {FAMILY} cannot be used"


def plan_of(trained: TrainedBundle, **asked: Any) -> Any:
    """The plan that the training had. Raises ProXError for entries of another, such as --plan#features."""
    if asked:
        raise ProXError(f"plan#{next(iter(asked))} is for training; what is trained already keeps its plan, so leave it out")
    return trained.plan


def _is_bundle(path: Path) -> bool:
    return (path / "models").is_dir() or (path / "configs").is_dir()


@dataclass(frozen=True)
class TrainedBundle:
    """Read-only view of a family in a bundle: what its training wrote, or, before any training, what its authors planned."""

    path: Path  # the folder of models: family.json and model.pt, once trained
    file: FamilyFile

    @classmethod
    def open(cls, path: Path | str, bundle_root: Path | str | None = None) -> TrainedBundle:
        """path: a bundle, or the folder its training wrote models to; bundle_root: then the bundle, with the planned family.

        Raises ProXError where there is neither a trained nor a planned family.
        """
        path = Path(path)
        models = path if (path / FAMILY).is_file() or not _is_bundle(path) else path / "models"
        planned = [Path(root) / "configs" / FAMILY for root in (path, bundle_root) if root is not None]
        for place in (models / FAMILY, *planned):
            if place.is_file():
                file = FamilyFile.from_json(read_json(place), place, planned=True)
                if file.plan is None or file.choices is None:
                    raise ProXError(f"{place} is not a family of format {FORMAT}")
                return cls(models, file)
        raise ProXError(f"{path} is no bundle of a supernet, nor its models: there is no {FAMILY}, which training writes")

    @cached_property
    def plan(self) -> Any:
        """A Plan or, of a classifier, an OctPlan."""
        return read_plan(self.file.plan)

    @cached_property
    @refusing(UNUSABLE)
    def network_family(self) -> Family:
        """Of what remained open: a UNetFamily or, of a classifier, a MobileNetFamily."""
        family: Family = self.plan.family(self.file.choices, open=self.file.closed)
        return family

    @property
    def kind(self) -> Kind:
        """What the members do with images."""
        return KINDS[self.plan.kind]

    @property
    def measure(self) -> Literal["dice", "accuracy"]:
        """What the members' scores measure, and their name in family.json."""
        return self.file.measure

    @property
    def scored(self) -> str:
        """In words, what they are of."""
        return self.kind.scored

    @property
    @refusing(UNUSABLE)
    def kernel_transforms(self) -> WeightTransforms | None:
        """New transforms of the supernet's kernels, if the recipe trains any."""
        transforms_of = None if self.file.recipe is None else find_recipe(self.file.recipe).kernel_transforms
        return transforms_of and transforms_of(self.network_family)

    @property
    @refusing(UNUSABLE)
    def regions(self) -> dict[str, tuple[int, ...]]:
        """What is evaluated: values of the labels by region."""
        regions: dict[str, tuple[int, ...]] = self.plan.regions() if self.file.regions is None else dict(self.file.regions)
        return regions

    @refusing(UNUSABLE)
    def validation_cases(self, task: DecathlonTask) -> list[Case]:
        """The cases that the training held out. Raises ProXError where ``task`` does not have them all."""
        cases = {case.image.name: case for case in task.cases}
        names = self.held_out()
        missing = [name for name in names if name not in cases]
        if missing:
            raise ProXError(f"{task.name} lacks {len(missing)} cases that the training held out, the first is {missing[0]}")
        return [cases[name] for name in names]

    def held_out(self) -> tuple[str, ...]:
        """Names of the cases that the training held out. Raises ProXError where family.json does not have them."""
        names = self.family().validation_cases
        if names is None:
            raise ProXError(f"{self.path / FAMILY} has no 'validation_cases', those that the training held out")
        return names

    def subnet(self, which: str) -> Subnet:
        """The subnet of a name or a JSON file, see ``member``; "smallest" and "largest" are known before training, too."""
        space = self.network_family.space
        ends = {"smallest": space.smallest, "largest": space.largest}
        subnet: Subnet = ends[which]() if which in ends else space.check(self.member(which)[1])
        return subnet

    def family(self) -> FamilyFile:
        """family.json. Raises ProXError where nothing has been trained yet."""
        if not self.file.members:
            raise ProXError(
                f"{self.path.parent} is not trained; first python -m monai.bundle run --config_file configs/train.json"
            )
        return self.file

    @property
    def origin(self) -> str:
        """In words, which training its members come from. Raises ProXError where family.json does not say."""
        family = self.family()
        if family.recipe is None or family.epochs is None:
            raise ProXError(f"{self.path / FAMILY} has no 'recipe' or no 'epochs' of the training")
        return f"a family trained on {self.plan.task} by {family.recipe}, {family.epochs} epochs"

    def member(self, which: str) -> tuple[str, Subnet]:
        """Name and subnet of ``which``, a member's name or a JSON file with a subnet. Raises ProXError."""
        return self.family().find(which)

    def measured(self, subnet: Subnet) -> dict[str, float]:
        """Scores by class of ``subnet`` as its training measured them with the weights that are there; {} where it did not.

        Classes that were in no case have none.
        """
        member = self.family().named(subnet)
        scores = (member and member.scores) or {}
        return {name: score for name, score in scores.items() if score is not None}

    def supernet(self) -> SuperNet:
        """With the trained weights. Raises ProXError as ``load_weights`` does."""
        family, weights = self.network_family, self._weights()
        network = family.build(family.space.largest(), initialise=False)
        supernet = SuperNet(family, network, kernel_transforms=self.kernel_transforms)
        self._load(weights, supernet)
        return supernet.eval()

    def load_weights(self, supernet: SuperNet) -> None:
        """Loads the trained weights. Raises ProXError where they are missing, broken or another network's."""
        self._load(self._weights(), supernet)

    def _weights(self) -> list[Any]:
        """Of the network and, if there are any, of its kernels' transforms, checked before anything is allocated for them."""
        shapes = without_weights(self.network_family, kernel_transforms=self.kernel_transforms)
        weights = []
        for name, module in self._parts(shapes).items():
            path = self.path / name
            if not path.is_file():
                raise ProXError(f"there is no {path}; training writes it, or give its folder as ckpt_dir")
            weights.append(read_tensors(path))
            check_weights(weights[-1], module, path)
        return weights

    def _load(self, weights: list[Any], supernet: SuperNet) -> None:
        for state, module in zip(weights, self._parts(supernet).values(), strict=True):
            module.load_state_dict(state)

    @staticmethod
    def _parts(supernet: SuperNet) -> dict[str, nn.Module]:
        """By the file that their weights are in."""
        parts: dict[str, nn.Module] = {WEIGHTS: prediction_graph(supernet.network)}
        return parts if supernet.kernel_transforms is None else parts | {KERNEL_TRANSFORMS: supernet.kernel_transforms}

    def network(self, which: str, supernet: SuperNet, calibrated: CalibratedMembers | None = None) -> Member:
        """The trained member of a name or a JSON file, cut out; the trained weights are loaded into ``supernet``.

        calibrated, and errors: as of ``extract`` and ``load_weights``.
        """
        subnet = self.subnet(which)
        self.load_weights(supernet)
        return Member(self.network_family, subnet, self.extract(supernet, subnet, calibrated))

    def extract(self, supernet: SuperNet, subnet: Subnet, calibrated: CalibratedMembers | None = None) -> nn.Module:
        """The stock network of ``subnet`` out of ``supernet``, which has the trained weights, with its norms' statistics.

        Members whose statistics the training did not keep are given theirs by ``calibrated``, which are then kept, too.
        Raises ProXError where that is None.
        """
        network = supernet.extract(subnet)
        if not keeps_statistics(network):
            return network
        path, known = self.path / STATISTICS, self.statistics()
        if str(subnet) not in known:
            if calibrated is None:
                raise ProXError(
                    f"{path} has no statistics of the norms of {subnet}; evaluate this member first, which takes them from "
                    "training images"
                )
            known[str(subnet)] = statistics_of(calibrated.calibrate(network, subnet))
            write_tensors(known, path)
        network.load_state_dict(known[str(subnet)], strict=False)
        return network

    def statistics(self) -> dict[str, Statistics]:
        """Of the norms, by member: those that are kept. Raises ProXError where the file is broken."""
        path = self.path / STATISTICS
        if not path.is_file():
            return {}
        kept: dict[str, Statistics] = read_tensors(path)
        check_types(kept, {}, path)
        for member, statistics in kept.items():
            if not isinstance(statistics, dict) or not all(isinstance(tensor, Tensor) for tensor in statistics.values()):
                raise ProXError(f"{path} does not hold the statistics of norms, but of {member!s:.80} a {statistics!r:.80}")
        return kept
