"""What a bundle's training leaves beside the weights, and the trained family read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from monai_prox.core.family import Family
from monai_prox.core.network import predicting
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import Member, SuperNet, WeightTransforms, without_weights
from monai_prox.data.decathlon import Case, DecathlonTask
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.image_files import is_called
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
    """The plan of a training.

    Args:
        trained: the bundle.
        asked: entries of a plan, such as --plan#spacing, see ``Plan.changed``. Classifiers have none.

    Raises:
        ProXError: an entry cannot be changed any more, or the plan is not valid.
    """
    if isinstance(trained.plan, Plan):
        return trained.plan.changed(**asked)
    if asked:
        raise ProXError(f"plan#{next(iter(asked))} is for training; what is trained already keeps its plan, so leave it out")
    return trained.plan


def _is_bundle(path: Path) -> bool:
    return (path / "models").is_dir() or (path / "configs").is_dir()


@dataclass(frozen=True)
class TrainedBundle:
    """A family in a bundle: the files that its training wrote or, before any training, the plan of its authors.

    Args:
        path: folder of the models, with family.json and model.pt after a training.
        file: content of family.json.
    """

    path: Path  # the folder of models: family.json and model.pt, once trained
    file: FamilyFile

    @classmethod
    def open(cls, path: Path | str, bundle_root: Path | str | None = None) -> TrainedBundle:
        """Opens a bundle.

        Args:
            path: the bundle, or the folder in which its training wrote models.
            bundle_root: in the second case the bundle, which has the planned family.

        Raises:
            ProXError: there is neither a trained nor a planned family.
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
        """The plan: a Plan or, of a classifier, an OctPlan."""
        return read_plan(self.file.plan)

    @cached_property
    @refusing(UNUSABLE)
    def network_family(self) -> Family:
        """The family with the choices that remained open: a UNetFamily or, of a classifier, a MobileNetFamily."""
        family: Family = self.plan.family(self.file.choices, open=self.file.closed)
        return family

    @property
    def kind(self) -> Kind:
        """What the members do with images."""
        return KINDS[self.plan.kind]

    @property
    def measure(self) -> Literal["dice", "accuracy"]:
        """The name of the members' scores in family.json."""
        return self.file.measure

    @property
    def scored(self) -> str:
        """The cases that were scored, in words."""
        return self.kind.scored

    @property
    @refusing(UNUSABLE)
    def kernel_transforms(self) -> WeightTransforms | None:
        """New transforms of the supernet's kernels, or None if the recipe has none."""
        return self._make_transforms and self._make_transforms(self.network_family)

    @property
    def _make_transforms(self) -> Callable[[Family], WeightTransforms] | None:
        return None if self.file.recipe is None else find_recipe(self.file.recipe).kernel_transforms

    @property
    @refusing(UNUSABLE)
    def regions(self) -> dict[str, tuple[int, ...]]:
        """Values of labels by the name of the region that is evaluated."""
        regions: dict[str, tuple[int, ...]] = self.plan.regions() if self.file.regions is None else dict(self.file.regions)
        return regions

    @refusing(UNUSABLE)
    def validation_cases(self, task: DecathlonTask) -> list[Case]:
        """The cases that the training held out.

        Args:
            task: the task.

        Raises:
            ProXError: the task does not have all of them.
        """
        names = self.held_out()
        found = [[case for case in task.cases if is_called(case.image, name)] for name in names]
        missing = [name for name, cases in zip(names, found, strict=True) if len(cases) != 1]
        if missing:
            raise ProXError(f"{task.name} lacks {len(missing)} cases that the training held out, the first is {missing[0]}")
        return [case for (case,) in found]

    def held_out(self) -> tuple[str, ...]:
        """Names of the cases that the training held out.

        Raises:
            ProXError: family.json does not have them.
        """
        names = self.family().validation_cases
        if names is None:
            raise ProXError(f"{self.path / FAMILY} has no 'validation_cases', those that the training held out")
        return names

    def subnet(self, which: str) -> Subnet:
        """A member by name. "smallest" and "largest" are known before a training, too.

        Args:
            which: a member's name, or a JSON file with a subnet.

        Raises:
            ProXError: the member is unknown or not legal.
        """
        space = self.network_family.space
        ends = {"smallest": space.smallest, "largest": space.largest}
        subnet: Subnet = ends[which]() if which in ends else space.check(self.member(which)[1])
        return subnet

    def family(self) -> FamilyFile:
        """The content of family.json.

        Raises:
            ProXError: nothing has been trained yet.
        """
        if not self.file.members:
            raise ProXError(
                f"{self.path.parent} is not trained; first python -m monai.bundle run --config_file configs/train.json"
            )
        return self.file

    @property
    def origin(self) -> str:
        """The training that the members come from, in words.

        Raises:
            ProXError: family.json does not name it.
        """
        family = self.family()
        if family.recipe is None or family.epochs is None:
            raise ProXError(f"{self.path / FAMILY} has no 'recipe' or no 'epochs' of the training")
        return f"a family trained on {self.plan.task} by {family.recipe}, {family.epochs} epochs"

    def member(self, which: str) -> tuple[str, Subnet]:
        """Name and subnet of a member.

        Args:
            which: a member's name, or a JSON file with a subnet.

        Raises:
            ProXError: the member is unknown or not legal.
        """
        return self.family().find(which)

    def measured(self, subnet: Subnet) -> dict[str, float]:
        """A member's scores by class, as the training measured them with the final weights.

        Args:
            subnet: the member.

        Returns:
            The scores. Classes that no case has are left out. There are none if the member was not measured.
        """
        member = self.family().named(subnet)
        scores = (member and member.scores) or {}
        return {name: score for name, score in scores.items() if score is not None}

    def supernet(self) -> SuperNet:
        """The supernet with the trained weights.

        Raises:
            ProXError: see ``load_weights``.
        """
        family, weights = self.network_family, self._weights()
        network = family.build(family.space.largest(), initialise=False)
        supernet = SuperNet(family, network, kernel_transforms=self.kernel_transforms)
        self._load(weights, supernet)
        return supernet.eval()

    def load_weights(self, supernet: SuperNet) -> None:
        """Loads the trained weights.

        Args:
            supernet: the supernet.

        Raises:
            ProXError: the weights are missing, broken or of another network.
        """
        self._load(self._weights(), supernet)

    @refusing(UNUSABLE)
    def _shapes(self) -> SuperNet:
        """The supernet without weights, whose shapes files are checked against."""
        return without_weights(self.network_family, kernel_transforms=self._make_transforms)

    def _weights(self) -> list[Any]:
        """Of the network and, if there are any, of its kernels' transforms, checked before anything is allocated for them."""
        weights = []
        for name, module in self._parts(self._shapes()).items():
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
        parts: dict[str, nn.Module] = {WEIGHTS: predicting(supernet.network)}
        return parts if supernet.kernel_transforms is None else parts | {KERNEL_TRANSFORMS: supernet.kernel_transforms}

    def network(self, which: str, supernet: SuperNet, calibrated: CalibratedMembers | None = None) -> Member:
        """A trained member as a network of its own.

        Args:
            which: a member's name, or a JSON file with a subnet.
            supernet: the supernet, into which the trained weights are loaded.
            calibrated: see ``extract``.

        Raises:
            ProXError: see ``subnet``, ``load_weights`` and ``extract``.
        """
        subnet = self.subnet(which)
        self.load_weights(supernet)
        return Member(self.network_family, subnet, self.extract(supernet, subnet, calibrated))

    def extract(self, supernet: SuperNet, subnet: Subnet, calibrated: CalibratedMembers | None = None) -> nn.Module:
        """The stock network of a member, with the statistics of its norms.

        Args:
            supernet: the supernet with the trained weights.
            subnet: the member.
            calibrated: computes the statistics of a member if the training did not keep them. They are kept then. None means
                that they cannot be computed.

        Raises:
            ProXError: the statistics are needed and cannot be computed.
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
        """The statistics of norms that are kept, by member.

        Raises:
            ProXError: the file is broken.
        """
        path = self.path / STATISTICS
        if not path.is_file():
            return {}
        kept: dict[str, Statistics] = read_tensors(path)
        check_types(kept, {}, path)
        for member, statistics in kept.items():
            if not isinstance(statistics, dict) or not all(isinstance(tensor, Tensor) for tensor in statistics.values()):
                raise ProXError(f"{path} does not hold the statistics of norms, but of {member!s:.80} a {statistics!r:.80}")
        return kept
