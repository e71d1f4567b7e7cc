"""Subnets and the space they are drawn from: plain immutable data, no tensors.

A space has named dimensions (depth, width, kernel, ...), a dimension has slots (one per stage of the network, say), and
a slot has choices in ascending order. What ties slots to each other is data too, so that a space is written to JSON and
read back whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from monai_prox.errors import ProXError

Value = int | float
ABSENT = 0  # the value of a slot that the subnet does not have, e.g. the depth of a stage below its last level


class Need(NamedTuple):
    """A slot exists only where ``dimension[slot] >= minimum``, e.g. stage 4 only in subnets of five levels."""

    dimension: str
    slot: int
    minimum: Value


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One decision.

    choices: values in ascending order, at least one, all positive.
    need: the condition under which the slot exists; None means always. It may only name an earlier dimension.
    equals: index of an earlier slot of the same dimension whose value this one shares.
    differs: index of an earlier slot of the same dimension whose value this one must not take.
    """

    choices: tuple[Value, ...]
    need: Need | None = None
    equals: int | None = None
    differs: int | None = None

    def __post_init__(self) -> None:
        if not self.choices or list(self.choices) != sorted(set(self.choices)) or self.choices[0] <= 0:
            raise ProXError(f"choices must be positive, distinct and ascending, got {list(self.choices)!s:.80}")


@dataclass(frozen=True)
class Subnet(Mapping[str, tuple[Value, ...]]):
    """A member of the family: one value per slot, by dimension. Hashable, equal by value.

    >>> Subnet.of(depth=(1, 2), width=(16, 32))["width"]
    (16, 32)
    """

    values_by_dimension: tuple[tuple[str, tuple[Value, ...]], ...]

    @classmethod
    def of(cls, **dimensions: tuple[Value, ...]) -> Subnet:
        return cls(tuple((name, tuple(values)) for name, values in dimensions.items()))

    def __getitem__(self, dimension: str) -> tuple[Value, ...]:
        for name, values in self.values_by_dimension:
            if name == dimension:
                return values
        raise KeyError(dimension)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.values_by_dimension)

    def __len__(self) -> int:
        return len(self.values_by_dimension)

    def __str__(self) -> str:
        return " ".join(f"{name}={'/'.join(f'{v:g}' for v in values)}" for name, values in self.items())

    def to_json(self) -> dict[str, list[Value]]:
        return {name: list(values) for name, values in self.items()}

    @classmethod
    def from_json(cls, data: Any) -> Subnet:
        """Raises ProXError unless ``data`` maps dimension names to lists of numbers."""
        if not isinstance(data, dict) or not data:
            raise ProXError(f"a subnet is an object of lists such as {{'depth': [1, 2]}}, got {data!r:.80}")
        for name, values in data.items():
            numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
            if not isinstance(name, str) or not numbers:
                raise ProXError(f"subnet dimension {name!r} must be a list of numbers, got {values!r:.80}")
        return cls(tuple((name, tuple(values)) for name, values in data.items()))


@dataclass(frozen=True)
class SearchSpace:
    """The subnets that a supernet can be cut down to.

    dimensions: slots by dimension name. Order matters: a slot's ``need`` names an earlier dimension.

    Every subnet of the space is in normal form: slots that it does not have hold ``ABSENT``, so two subnets with the
    same network compare equal.
    """

    dimensions: Mapping[str, tuple[Slot, ...]]

    def __post_init__(self) -> None:
        slots_of: dict[str, int] = {}  # of the dimensions before
        for name, slots in self.dimensions.items():
            for index, slot in enumerate(slots):
                for other in (slot.equals, slot.differs):
                    if other is not None and other not in range(index):
                        raise ProXError(f"{name}[{index}] is tied to slot {other!r}, which is not an earlier one of {name}")
                if (need := slot.need) is not None and (
                    need.slot not in range(slots_of.get(need.dimension, 0)) or not isinstance(need.minimum, int | float)
                ):
                    raise ProXError(f"{name}[{index}] needs {list(need)}, which is no slot of an earlier dimension")
            slots_of[name] = len(slots)

    # ------------------------------------------------------------------ choosing
    def available(self, chosen: Mapping[str, list[Value]], dimension: str, index: int) -> tuple[Value, ...]:
        """Legal values of one slot, given all slots before it; empty when the earlier ones leave none."""
        slot = self.dimensions[dimension][index]
        if slot.need is not None:
            name, other, minimum = slot.need
            if chosen[name][other] < minimum:
                return (ABSENT,)
        before = chosen[dimension]
        if slot.equals is not None and before[slot.equals] != ABSENT:
            return tuple(v for v in slot.choices if v == before[slot.equals])
        if slot.differs is not None:
            return tuple(v for v in slot.choices if v != before[slot.differs])
        return slot.choices

    def _first(self, order: Callable[[str, int, tuple[Value, ...]], Sequence[Value]]) -> Subnet:
        """The first member in depth-first order, the values of each slot being tried in ``order``.

        order: from a slot's dimension and index, and the values that the earlier slots leave.
        """
        if self.size() == 0:
            raise ProXError(f"the search space has no legal member: {self}")
        slots = self._order
        chosen: dict[str, list[Value]] = {dimension: [] for dimension in self.dimensions}
        dead: set[tuple[int, tuple[Value, ...]]] = set()  # positions, and choices that later ones depend on, without a member

        def descend(position: int) -> bool:
            if position == len(slots):
                return True
            state = position, tuple(chosen[name][other] for name, other in self._referred[position])
            if state in dead:
                return False
            dimension, index = slots[position]
            for value in order(dimension, index, self.available(chosen, dimension, index)):
                chosen[dimension].append(value)
                if descend(position + 1):
                    return True
                chosen[dimension].pop()
            dead.add(state)
            return False

        descend(0)
        return Subnet(tuple((name, tuple(values)) for name, values in chosen.items()))

    def smallest(self) -> Subnet:
        return self._first(lambda dimension, index, choices: choices)

    def largest(self) -> Subnet:
        return self._first(lambda dimension, index, choices: choices[::-1])

    def sample(self, generator: random.Random) -> Subnet:
        """A random member; each slot is uniform over what the earlier ones leave. ProXError if there is none."""
        return self._first(lambda dimension, index, choices: generator.sample(choices, len(choices)))

    def nearest(self, ranks: Mapping[str, Sequence[int]]) -> Subnet:
        """The member of these choices, by rank from the smallest, 0, or of the nearest legal ones; the inverse of ``ranks``."""

        def by_distance(dimension: str, index: int, choices: tuple[Value, ...]) -> Sequence[Value]:
            if choices == (ABSENT,):
                return choices
            of, rank = self.dimensions[dimension][index].choices, ranks[dimension][index]
            return sorted(choices, key=lambda value: abs(of.index(value) - rank))

        return self._first(by_distance)

    def ranks(self, subnet: Subnet) -> dict[str, list[int]]:
        """By slot the rank of the member's choice from the smallest, 0, which is also that of a slot that it does not have."""

        def rank(slot: Slot, value: Value) -> int:
            return 0 if value == ABSENT else slot.choices.index(value)

        return {
            name: [rank(*pair) for pair in zip(slots, subnet[name], strict=True)] for name, slots in self.dimensions.items()
        }

    # ------------------------------------------------------------------ asking
    def check(self, subnet: Subnet) -> Subnet:
        """Returns ``subnet`` in normal form if it is a member, raises ProXError with the reason if not.

        That is with the dimensions in the space's order, and the space's own values, 1.0 where a file says 1.
        """
        if set(subnet) != set(self.dimensions):
            raise ProXError(f"subnet has the dimensions {list(subnet)}, this family has {list(self.dimensions)}")
        chosen: dict[str, list[Value]] = {}
        for dimension, slots in self.dimensions.items():
            if len(subnet[dimension]) != len(slots):
                raise ProXError(f"{dimension} needs {len(slots)} values, got {list(subnet[dimension])!s:.80}")
            chosen[dimension] = []
            for index, value in enumerate(subnet[dimension]):
                choices = self.available(chosen, dimension, index)
                if value not in choices:
                    slot = slots[index]
                    why = f"allowed here: {list(choices)}"
                    if slot.equals is not None and value in slot.choices:
                        why = f"it must equal {dimension}[{slot.equals}] = {chosen[dimension][slot.equals]}"
                    elif slot.differs is not None and value in slot.choices:
                        why = f"it must differ from {dimension}[{slot.differs}], where the network has a projection"
                    raise ProXError(f"{dimension}[{index}] = {value} is not legal: {why}")
                chosen[dimension].append(choices[choices.index(value)])
        return Subnet(tuple((name, tuple(values)) for name, values in chosen.items()))

    def __contains__(self, subnet: Subnet) -> bool:
        try:
            self.check(subnet)
        except ProXError:
            return False
        return True

    @cached_property
    def _order(self) -> list[tuple[str, int]]:
        return [(name, index) for name, slots in self.dimensions.items() for index in range(len(slots))]

    @cached_property
    def _last_use(self) -> dict[tuple[str, int], int]:
        """Of slots that later ones refer to, the place of the last of these."""
        last_use: dict[tuple[str, int], int] = {}
        for position, (name, index) in enumerate(self._order):
            slot = self.dimensions[name][index]
            for other in (slot.equals, slot.differs):
                if other is not None:
                    last_use[name, other] = position
            if slot.need is not None:
                last_use[slot.need.dimension, slot.need.slot] = position
        return last_use

    @cached_property
    def _referred(self) -> list[list[tuple[str, int]]]:
        """By place, the slots before it that it or later ones refer to."""
        return [
            [slot for slot in self._order[:position] if self._last_use.get(slot, -1) >= position]
            for position in range(len(self._order))
        ]

    def size(self) -> int:
        """Number of members, exact."""
        return self._size

    @cached_property
    def _size(self) -> int:  # by dynamic programming over the slots; a state is the values that later slots refer to
        order, last_use = self._order, self._last_use
        counts: dict[tuple[tuple[tuple[str, int], Value], ...], int] = {(): 1}
        for position, (name, index) in enumerate(order):
            need = self.dimensions[name][index].need
            referred = {name} if need is None else {name, need.dimension}
            following: dict[tuple[tuple[tuple[str, int], Value], ...], int] = {}
            for state, count in counts.items():
                known = dict(state)
                chosen = {d: [known.get((d, i), ABSENT) for i in range(len(self.dimensions[d]))] for d in referred}
                for value in self.available(chosen, name, index):
                    kept = {**known, (name, index): value}
                    key = tuple(item for item in kept.items() if last_use.get(item[0], -1) > position)
                    following[key] = following.get(key, 0) + count
            counts = following
        return sum(counts.values())

    # ------------------------------------------------------------------ narrowing
    def choice_count(self, dimension: str) -> int:
        """The most choices that any slot of ``dimension`` has; 1 means that the dimension is not elastic."""
        return max((len(slot.choices) for slot in self.dimensions[dimension]), default=1)

    def restrict(self, counts: Mapping[str, int], *, start: Literal["smallest", "largest"] = "smallest") -> SearchSpace:
        """The space with only ``counts[dimension]`` choices of each slot open, counted from the smallest or the largest.

        Dimensions that ``counts`` does not name keep one choice.
        """

        def cut(dimension: str, slot: Slot) -> Slot:
            count = max(1, counts.get(dimension, 1))
            return replace(slot, choices=slot.choices[:count] if start == "smallest" else slot.choices[-count:])

        return SearchSpace({name: tuple(cut(name, s) for s in slots) for name, slots in self.dimensions.items()})

    def narrow(self, open: Mapping[str, int]) -> SearchSpace:
        """The part with only ``open[dimension]`` choices of each slot, counted from the smallest.

        Dimensions that ``open`` does not name keep all. Raises ProXError for an unknown dimension and a count that it has not.
        """
        counts = {dimension: self.choice_count(dimension) for dimension in self.dimensions}
        for dimension, count in open.items():
            if dimension not in counts:
                known = ", ".join(counts)
                raise ProXError(f"there is no dimension {dimension!r} whose choices could be closed; known: {known}")
            if type(count) is not int or not 1 <= count <= counts[dimension]:
                raise ProXError(f"of {dimension}, 1 to {counts[dimension]} choices can remain open, got {count!r}")
        return self.restrict({**counts, **open})

    def without_last(self, dimension: str) -> SearchSpace:
        """The part without the last choice of ``dimension``. Raises ProXError where there is only one."""
        return self.narrow({dimension: self.choice_count(dimension) - 1})

    def reductions(self) -> dict[str, SearchSpace]:
        """By dimension with more than one choice, the part without the last one, where that has members."""
        parts = {d: self.without_last(d) for d in self.dimensions if self.choice_count(d) > 1}
        return {dimension: part for dimension, part in parts.items() if part.size() > 0}

    # ------------------------------------------------------------------ JSON
    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        def one(slot: Slot) -> dict[str, Any]:
            data: dict[str, Any] = {"choices": list(slot.choices)}
            if slot.need is not None:
                data["need"] = list(slot.need)
            return data | {key: value for key in ("equals", "differs") if (value := getattr(slot, key)) is not None}

        return {name: [one(slot) for slot in slots] for name, slots in self.dimensions.items()}

    @classmethod
    def from_json(cls, data: Any) -> SearchSpace:
        """Raises ProXError where ``data`` is not what ``to_json`` writes."""

        def one(slot: Mapping[str, Any]) -> Slot:
            need = Need(*slot["need"]) if "need" in slot else None
            return Slot(choices=tuple(slot["choices"]), need=need, equals=slot.get("equals"), differs=slot.get("differs"))

        try:
            if not data:
                raise TypeError("there are no dimensions")
            return cls({name: tuple(one(slot) for slot in slots) for name, slots in data.items()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ProXError(f"not a search space: {error!r}, in {data!r:.80}") from error

    def __str__(self) -> str:
        def one(slots: tuple[Slot, ...]) -> str:
            return " ".join("{" + ", ".join(f"{v:g}" for v in slot.choices) + "}" for slot in slots)

        return "; ".join(f"{name} {one(slots)}" for name, slots in self.dimensions.items())
