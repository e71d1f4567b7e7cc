"""Slots: the single decisions that make up a subnet, and which values the constraints between them leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from monai_prox.errors import ProXError

Value = int | float
ABSENT = 0  # the value of a slot that the subnet does not have, e.g. the depth of a stage below its last level


class Need(NamedTuple):
    """The condition that slot number ``slot`` of ``dimension`` has a value of at least ``minimum``.

    An example is the depth of the fourth stage, which only subnets of four levels or more have.
    """

    dimension: str
    slot: int
    minimum: Value


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One decision about a subnet, such as the width of one stage.

    Args:
        choices: the values that it can take, ascending, at least one, all positive.
        need: the condition under which the slot exists; None means always. It names a slot of an earlier dimension.
        equals: index of an earlier slot of the same dimension that has the same value.
        differs: index of an earlier slot of the same dimension that has another value.

    Raises:
        ProXError: the choices are not positive, distinct and ascending.

    >>> Slot(choices=(16, 32)).choices
    (16, 32)
    """

    choices: tuple[Value, ...]
    need: Need | None = None
    equals: int | None = None
    differs: int | None = None

    def __post_init__(self) -> None:
        if not self.choices or list(self.choices) != sorted(set(self.choices)) or self.choices[0] <= 0:
            raise ProXError(f"choices must be positive, distinct and ascending, got {list(self.choices)!s:.80}")

    def to_json(self) -> dict[str, Any]:
        """The slot as plain data.

        Returns:
            An object with ``choices`` and with those of the other fields that are not None.
        """
        data: dict[str, Any] = {"choices": list(self.choices)}
        if self.need is not None:
            data["need"] = list(self.need)
        return data | {key: value for key in ("equals", "differs") if (value := getattr(self, key)) is not None}

    @classmethod
    def from_json(cls, data: Any) -> Slot:
        """The slot that ``to_json`` wrote.

        Args:
            data: what ``to_json`` returned.

        Raises:
            ProXError: the choices are not positive, distinct and ascending.
            TypeError: ``data`` is something else. So do AttributeError and KeyError.
        """
        need = Need(*data["need"]) if "need" in data else None
        return cls(choices=tuple(data["choices"]), need=need, equals=data.get("equals"), differs=data.get("differs"))


class Slots:
    """The slots of all dimensions, and the legal ways to give each of them a value.

    Args:
        dimensions: slots by the name of their dimension.
    """

    def __init__(self, dimensions: Mapping[str, tuple[Slot, ...]]) -> None:
        self._dimensions = dimensions
        self._order = [(name, index) for name, slots in dimensions.items() for index in range(len(slots))]

    def check_references(self) -> None:
        """Checks that slots refer to earlier slots only.

        Raises:
            ProXError: a slot refers to one that does not exist or that is not an earlier one.
        """
        slot_counts: dict[str, int] = {}  # of the earlier dimensions
        for name, slots in self._dimensions.items():
            for index, slot in enumerate(slots):
                for tied in (slot.equals, slot.differs):
                    if tied is not None and tied not in range(index):
                        raise ProXError(f"{name}[{index}] is tied to slot {tied!r}, which is not an earlier one of {name}")
                if (need := slot.need) is not None and (
                    need.slot not in range(slot_counts.get(need.dimension, 0)) or not isinstance(need.minimum, int | float)
                ):
                    raise ProXError(f"{name}[{index}] needs {list(need)}, which is no slot of an earlier dimension")
            slot_counts[name] = len(slots)

    def available(self, chosen: Mapping[str, list[Value]], dimension: str, index: int) -> tuple[Value, ...]:
        """The legal values of slot ``index`` of ``dimension``, given the values of all earlier slots.

        Returns:
            The values, ascending. There are none if the earlier values leave none.
        """
        slot = self._dimensions[dimension][index]
        if slot.need is not None and chosen[slot.need.dimension][slot.need.slot] < slot.need.minimum:
            return (ABSENT,)
        earlier = chosen[dimension]
        if slot.equals is not None and earlier[slot.equals] != ABSENT:
            return tuple(v for v in slot.choices if v == earlier[slot.equals])
        if slot.differs is not None:
            return tuple(v for v in slot.choices if v != earlier[slot.differs])
        return slot.choices

    def first(self, order: Callable[[str, int, tuple[Value, ...]], Sequence[Value]]) -> dict[str, list[Value]] | None:
        """The first legal combination of values in depth-first order.

        Args:
            order: gets the dimension and the index of a slot and its available values, and returns them in the order in which
                they are tried.

        Returns:
            The values of the slots by dimension, or None if no combination is legal.
        """
        chosen: dict[str, list[Value]] = {dimension: [] for dimension in self._dimensions}
        dead: set[tuple[int, tuple[Value, ...]]] = set()  # positions, and values that later slots refer to, without a solution

        def descend(position: int) -> bool:
            if position == len(self._order):
                return True
            state = position, tuple(chosen[name][index] for name, index in self._referred[position])
            if state in dead:
                return False
            dimension, index = self._order[position]
            for value in order(dimension, index, self.available(chosen, dimension, index)):
                chosen[dimension].append(value)
                if descend(position + 1):
                    return True
                chosen[dimension].pop()
            dead.add(state)
            return False

        return chosen if descend(0) else None

    @cached_property
    def count(self) -> int:
        """The exact number of legal combinations of values."""
        # Dynamic programming over the slots. A state is the values that later slots refer to.
        counts: dict[tuple[tuple[tuple[str, int], Value], ...], int] = {(): 1}
        for position, (name, index) in enumerate(self._order):
            need = self._dimensions[name][index].need
            referred = {name} if need is None else {name, need.dimension}
            next_counts: dict[tuple[tuple[tuple[str, int], Value], ...], int] = {}
            for state, count in counts.items():
                values = dict(state)
                chosen = {d: [values.get((d, i), ABSENT) for i in range(len(self._dimensions[d]))] for d in referred}
                for value in self.available(chosen, name, index):
                    extended = {**values, (name, index): value}
                    key = tuple(item for item in extended.items() if self._last_use.get(item[0], -1) > position)
                    next_counts[key] = next_counts.get(key, 0) + count
            counts = next_counts
        return sum(counts.values())

    @cached_property
    def _last_use(self) -> dict[tuple[str, int], int]:
        """The position of the last slot that refers to a slot, by the slot that is referred to."""
        last_use: dict[tuple[str, int], int] = {}
        for position, (name, index) in enumerate(self._order):
            slot = self._dimensions[name][index]
            for tied in (slot.equals, slot.differs):
                if tied is not None:
                    last_use[name, tied] = position
            if slot.need is not None:
                last_use[slot.need.dimension, slot.need.slot] = position
        return last_use

    @cached_property
    def _referred(self) -> list[list[tuple[str, int]]]:
        """By position, the earlier slots that this slot or later slots refer to."""
        return [
            [slot for slot in self._order[:position] if self._last_use.get(slot, -1) >= position]
            for position in range(len(self._order))
        ]
