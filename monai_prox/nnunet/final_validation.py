"""nnU-Net's final validation, on whole cases, of members."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from monai_prox.core.space import Subnet
from monai_prox.nnunet.loggers import MemberSummaries
from monai_prox.nnunet.member_validation import evaluating
from monai_prox.trained.nnunet_plans import validated_of, validation_mirrors


class FinalValidation:
    """The validation of the members that a plan asks for, else a trainer: of the largest in ``validation``, as nnU-Net's own
    network, and of others in ``members/NAME``.

    Args:
        trainer: a ProXTrainer whose members are named.

    Raises:
        ProXError: what is asked for of mirroring is neither true nor false.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._configuration: dict[str, Any] = trainer.configuration_manager.configuration
        self._first_names = [*trainer.named_members]
        self._mirrors = validation_mirrors(self._configuration, trainer.validate_mirroring)

    @property
    def members(self) -> dict[str, Subnet]:
        """The members by name. Closing choices can leave fewer than are asked for.

        Those that remain may have other names than those at the start, so that both may be asked for.

        Raises:
            ProXError: others are asked for.
        """
        named = self._trainer.named_members
        names = list(dict.fromkeys([*self._first_names, *named]))
        asked = validated_of(self._configuration, names, self._trainer.validate)
        return {name: subnet for name, subnet in named.items() if name in asked}

    @property
    def axes(self) -> tuple[int, ...] | None:
        """The axes along which cases are mirrored, None for none."""
        return self._trainer.inference_allowed_mirroring_axes if self._mirrors else None

    def __str__(self) -> str:
        return ", ".join([*self.members, *(() if self._mirrors else ("without mirroring",))])

    def __call__(self, validate: Callable[[], None]) -> None:
        """Validates the members.

        Args:
            validate: nnU-Net's validation of its network.
        """
        trainer, members = self._trainer, self.members
        with evaluating(trainer, inference_allowed_mirroring_axes=self.axes):
            validate()
            next_stage = self._configuration.pop("next_stage", None)  # a cascade uses the largest member's predictions only
            for name, subnet in members.items():
                if name != "largest":
                    trainer.print_to_log_file(f"Validation of the member {name}")
                    folder = os.path.join(trainer.output_folder, "members", name)
                    logger = MemberSummaries(trainer.logger, name)
                    with evaluating(trainer, network=trainer.supernet.member(subnet), output_folder=folder, logger=logger):
                        validate()
            if next_stage is not None:
                self._configuration["next_stage"] = next_stage
