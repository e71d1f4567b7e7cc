"""What the training of somebody's own pipeline has left: members that the pipeline itself predicts with."""

from __future__ import annotations

from typing import NoReturn

from torch import nn

from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.runtime.kinds import SEGMENTATION, Kind
from monai_prox.trained.bundle_source import TrainedInBundle
from monai_prox.trained.source import UNNAMED, check_metric, named


class TrainedPipeline(TrainedInBundle):
    """A family of a pipeline's network. See ``monai_prox.trained.source``."""

    @property
    def kind(self) -> Kind:
        return SEGMENTATION

    @property
    def formats(self) -> tuple[str, ...]:
        return ("bundle",)

    @property
    def scored(self) -> str:
        return "the pipeline's validation cases"

    def network(self, which: str | Subnet) -> nn.Module:
        """Norms' statistics are those that the training has kept."""
        return self.bundle.extract(self.supernet, named(self, which)[1]).eval()

    def describe(self, which: str | Subnet, *, name: str = UNNAMED) -> NoReturn:
        raise self._is_its_own("predict with a member that is exported as a bundle, by its inference.json")

    def held_out(self) -> NoReturn:
        raise self._is_its_own("its training scores the members that have names, see monai-prox family")

    def scored_by(self, metric: str) -> TrainedPipeline:
        check_metric(metric, "dice")
        return self

    def _is_its_own(self, instead: str) -> ProXError:
        return ProXError(f"{self.path} is of a pipeline whose transforms are its own: {instead}")
