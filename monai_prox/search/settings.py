"""The settings of a search, and what follows from them: the same for all processes that share a storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256

import optuna

from monai_prox.errors import ProXError
from monai_prox.latency.case import CaseCosts
from monai_prox.latency.device import Device, fingerprint
from monai_prox.runtime.evaluation import HeldOut
from monai_prox.search.budget import OF_A_CASE, UNITS, Budget, Prices, check_costs
from monai_prox.trained.source import Trained

POPULATION = 16
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The settings of a search. Two searches with equal settings on one storage are the same search.

    Args:
        source: the trained family.
        storage: URL of a database, or path of a journal.
        device: the device for latencies, or None.
        case: the costs of a case on the device, or None.
        budget: limits of the costs.
        minimise: costs that are minimised while the score is maximised, names of UNITS.
        trials: number of members that all processes together score.
        cases: number of held-out cases that every member is scored on.
        finalists: number of best members that are scored on all cases.
        seed: seed of the proposals.
        sampler: "nsga2", or "random" for comparison.
        runs_on: device of torch that members are scored on. None means the GPU if there is one.

    Raises:
        ProXError: a setting is out of range, or latency is used without a device.
    """

    source: Trained
    storage: str
    device: Device | None = None
    case: CaseCosts | None = None
    budget: Budget = field(default_factory=Budget)
    minimise: tuple[str, ...] = ("macs",)
    trials: int = 100
    cases: int = 4
    finalists: int = 6
    seed: int = 0
    sampler: str = "nsga2"
    runs_on: str | None = None

    def __post_init__(self) -> None:
        check_costs(self.minimise)
        if "latency_ms" in (*self.minimise, *self.budget.limits()) and self.device is None:
            raise ProXError("latency is known where a device's file is given, see monai-prox profile")
        if self._of_a_case and self.case is None:
            raise ProXError("seconds and memory a case are known where a device's file is given, see monai-prox profile")
        if self.case is not None:
            self.case.check_known(self._of_a_case)
        for name in ("trials", "cases", "finalists"):
            if getattr(self, name) < 1:
                raise ProXError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.minimise:
            raise ProXError(f"there must be something to minimise: {', '.join(UNITS)}")
        if self.sampler not in SAMPLERS:
            raise ProXError(f"the sampler {self.sampler!r} is not known; allowed: {', '.join(SAMPLERS)}")

    # ------------------------------------------------------------------ what is the same for all processes
    @cached_property
    def prices(self) -> Prices:
        """The costs of the members."""
        return Prices(self.source.supernet.family, self.source.size, self.device, self.case)

    @property
    def _of_a_case(self) -> list[str]:
        """The costs of a case that are limited or minimised."""
        return [name for name in OF_A_CASE if name in self.minimise or name in self.budget.limits()]

    def knows(self, name: str) -> bool:
        """Whether a cost is known of the members.

        Args:
            name: one of UNITS.
        """
        largest = self.source.supernet.family.space.largest()
        if name == "ram_gb":
            return self.case is not None and self.case.ram_gb(largest) is not None
        return {"latency_ms": self.device, "seconds": self.case}.get(name, self) is not None

    @cached_property
    def held_out(self) -> HeldOut:
        """The held-out cases."""
        return self.source.held_out()

    @cached_property
    def classes(self) -> list[str]:
        """Names of what is scored, in the order of the task's labels."""
        return self.held_out.classes(self.source.describe(self.source.supernet.family.space.largest()))

    @cached_property
    def subset(self) -> list[int]:
        """Indices of the cases that every member is scored on, evenly spaced over all cases."""
        count = len(self.held_out.names)
        number = min(self.cases, count)
        return [index * count // number for index in range(number)]

    @cached_property
    def scored_on(self) -> list[int]:
        """Indices of those cases of ``subset`` that can be used. Raises ProXError if there are none."""
        return self.usable(self.subset)

    def usable(self, cases: Sequence[int]) -> list[int]:
        """Those of the cases, given as indices, that can be used."""
        return self.held_out.usable(cases, self.source.describe(self.source.supernet.family.space.largest()))

    @cached_property
    def trained(self) -> str:
        """A digest of everything that scores depend on: the family, its weights and its cases."""
        digest = sha256(fingerprint(self.source.supernet.family, self.source.size).encode())
        for name, weight in self.source.supernet.state_dict().items():
            digest.update(name.encode() + weight.cpu().numpy().tobytes())
        digest.update(self.held_out.fingerprint().encode())
        return digest.hexdigest()[:16]

    @cached_property
    def name(self) -> str:
        """The name of the study: a digest of the trained family, and a digest of the settings."""
        timed = None if self.device is None else sorted((str(subnet), time) for subnet, time in self.device.measured.items())
        limits = {name: limit for name, limit in asdict(self.budget).items() if name not in OF_A_CASE or limit is not None}
        settings = [limits, self.minimise, timed, self.subset, self.sampler, self.seed]
        if self._of_a_case and self.case is not None:
            settings.append(self.case.identity())
        return f"{self.trained}-{sha256(repr(settings).encode()).hexdigest()[:8]}"
