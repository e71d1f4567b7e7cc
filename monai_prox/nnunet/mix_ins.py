"""nnU-Net's own variants, mixed into a trainer: ``class Mine(ProXTrainer, nnUNetTrainerNoDA)``."""

from __future__ import annotations

from typing import Any

from monai_prox.errors import ProXError

RENAMED = {"probe_every": "validation_interval"}


def check_mixed_in(trainer: type, family: type, stock: type) -> None:
    """Checks that every method of the variants has an effect, and that none replaces a method that trains a family.

    A method that calls super() does not replace another method.

    Args:
        trainer: the user's class, a subclass of ``family``.
        family: ProXTrainer, a subclass of ``stock``.
        stock: nnU-Net's trainer.

    Raises:
        ProXError: a method of a variant is ignored, or replaces a method of ``family``.
    """
    for former, name in RENAMED.items():
        if hasattr(trainer, former):
            raise ProXError(f"{trainer.__name__} sets {former}, which is {name} since version 0.2")
    order = trainer.__mro__
    first, last = order.index(family), order.index(stock)
    for variant in order[:first]:
        replaced = [] if issubclass(variant, family) else [name for name in vars(family) if _replaces(variant, name)]
        if replaced:
            raise ProXError(
                f"{trainer.__name__}: {variant.__name__} replaces {replaced[0]} of {family.__name__}; name it after "
                f"{family.__name__}, as in class {trainer.__name__}({family.__name__}, {variant.__name__})"
            )
    overridden = [name for name in vars(stock) if _replaces(family, name)]
    for variant in order[first + 1 : last]:
        ignored = [name for name in overridden if name in vars(variant)]
        if ignored:
            raise ProXError(
                f"{trainer.__name__}: {variant.__name__} has a {ignored[0]} of its own, which {family.__name__} cannot use, "
                f"for it has another; leave {variant.__name__} out"
            )


def _replaces(cls: type, name: str) -> bool:
    """Whether a class has a method of this name that does not call super()."""
    method: Any = vars(cls).get(name)
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    return code is not None and "__class__" not in code.co_freevars  # super() without arguments needs it
