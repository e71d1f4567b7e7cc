"""A run that goes on where it was interrupted: nnU-Net's checkpoint of it, and what was measured until then."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_prox.files import write_json

if TYPE_CHECKING:  # at run time it brings nnU-Net with it
    from benchmarks.contenders import Contender

EVERY = 300.0  # seconds from one checkpoint to the next


@dataclass
class Measured:
    """What a run has measured. epoch: the next one. parts: processes that it took."""

    epoch: int = 0
    parts: int = 1
    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    losses: list[float] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)


class Unfinished:
    """What is kept of a run of a contender until it ends. place: path of its files, without their endings."""

    def __init__(self, contender: Contender, place: Path) -> None:
        self.contender, self.place, self._last = contender, place, time.monotonic()

    def take_up(self) -> Measured:
        """What was measured before the run was interrupted, after which the contender is as it was; nothing of a new run."""
        note = self.place.with_suffix(".unfinished")
        if not note.is_file():
            return Measured()
        data = json.loads(note.read_text())
        self.contender.trainer.load_checkpoint(str(self.place.parent / data["checkpoint"]))
        self.contender.macs = data["macs"]
        if (generator := self.contender.generator) is not None:
            version, state, rest = data["generator"]
            generator.setstate((version, tuple(state), rest))
        measured = Measured(**data["measured"])
        measured.parts += 1
        return measured

    def keep(self, measured: Measured) -> None:
        """Writes what has to be known to go on, if it is time to. The trainer's epoch is the one that has just ended."""
        if time.monotonic() - self._last < EVERY:
            return
        trainer, generator = self.contender.trainer, self.contender.generator
        checkpoint = self.place.with_suffix(f".{measured.epoch}.pth")
        trainer.disable_checkpointing = False
        trainer.save_checkpoint(str(checkpoint))
        trainer.disable_checkpointing = True
        kept = {"checkpoint": checkpoint.name, "macs": self.contender.macs, "measured": asdict(measured)}
        if generator is not None:
            kept["generator"] = generator.getstate()
        write_json(kept, self.place.with_suffix(".unfinished"))  # from now on this checkpoint counts
        for former in checkpoints(self.place):
            if former != checkpoint:
                former.unlink()
        self._last = time.monotonic()


def checkpoints(place: Path) -> Iterator[Path]:
    yield from place.parent.glob(f"{place.name}.*.pth")


def forget(place: Path) -> None:
    """Removes what was kept of a run that has ended."""
    place.with_suffix(".unfinished").unlink(missing_ok=True)
    for checkpoint in checkpoints(place):
        checkpoint.unlink()
