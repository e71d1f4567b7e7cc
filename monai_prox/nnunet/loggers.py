"""nnU-Net's further loggers, such as Weights & Biases. Its local logger takes no keys but its own, which checkpoints have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def log_scalars(trainer: Any, scalars: Mapping[str, float]) -> None:
    """Gives scalars of the current epoch to nnU-Net's further loggers. Without any nothing happens.

    Args:
        trainer: a ProXTrainer.
        scalars: values by key.
    """
    for logger in getattr(trainer.logger, "loggers", ()):  # no part of nnU-Net's documented interface
        for key, value in scalars.items():
            logger.log(key, value, trainer.current_epoch)


class MemberSummaries:
    """nnU-Net's logger while a member is validated on whole cases: its summaries are not taken for those of the largest.

    Args:
        logger: nnU-Net's logger.
        member: name of the member, which precedes the keys of its summaries.
    """

    def __init__(self, logger: Any, member: str) -> None:
        self._logger, self._member = logger, member

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def log_summary(self, key: str, value: Any) -> None:
        """As nnU-Net's logger, with the member's name in the key.

        Args:
            key: the key.
            value: the value.
        """
        self._logger.log_summary(f"members/{self._member}/{key}", value)
