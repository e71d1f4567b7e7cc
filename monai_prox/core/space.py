"""Subnets and the space they are drawn from: plain immutable data, no tensors.

A space has named dimensions (depth, width, kernel, ...). A dimension has slots, for example one for each stage of the network.
A slot has choices in ascending order. The constraints between slots are data, too, so a space can be written to JSON and read
again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from monai_prox.core.slots import ABSENT, Slot, Slots, Value
from monai_prox.errors import ProXError


@dataclass(frozen=True)
class Subnet(Mapping[str, tuple[Value, ...]]):
    """A member of a family as a mapping from each dimension to one value per slot. Hashable, equal by value.

    Args:
        values_by_dimension: pairs of a dimension and the values of its slots. ``from_values`` is easier to write.

    >>> subnet = Subnet.from_values(depth=(1, 2), width=(16, 32))
    >>> subnet["width"]
    (16, 32)
    >>> print(subnet)
    depth=1/2 width=16/32
    """

    values_by_dimension: tuple[tuple[str, tuple[Value, ...]], ...]

    @classmethod
    def from_values(cls, **dimensions: tuple[Value, ...]) -> Subnet:
        """The subnet of the given values.

        Args:
            dimensions: one value per slot, by dimension.
        """
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
        """The subnet as plain data, for a JSON file.

        Returns:
            One list of values per dimension.
        """
        return {name: list(values) for name, values in self.items()}

    @classmethod
    def from_json(cls, data: Any) -> Subnet:
        """The subnet that ``to_json`` wrote.

        Args:
            data: an object that maps dimensions to lists of numbers.

        Raises:
            ProXError: ``data`` is something else.

        >>> Subnet.from_json({"depth": [1, 2]})["depth"]
        (1, 2)
        """
        if not isinstance(data, dict) or not data:
            raise ProXError(f"a subnet is an object of lists such as {{'depth': [1, 2]}}, got {data!r:.80}")
        for name, values in data.items():
            numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
            if not isinstance(name, str) or not numbers:
                raise ProXError(f"subnet dimension {name!r} must be a list of numbers, got {values!r:.80}")
        return cls(tuple((name, tuple(values)) for name, values in data.items()))


@dataclass(frozen=True)
class SearchSpace:
    """All subnets of a supernet.

    A subnet of the space is in normal form: slots that it does not have hold ``ABSENT``. So two subnets with the same network
    compare equal.

    Args:
        dimensions: slots by the name of their dimension. The order matters: a slot refers to earlier slots only.

    Raises:
        ProXError: a slot refers to one that does not exist or that is not an earlier one.

    >>> space = SearchSpace({"depth": (Slot(choices=(1, 2)),), "width": (Slot(choices=(8, 16)), Slot(choices=(16, 32)))})
    >>> space.size()
    8
    >>> print(space.largest())
    depth=2 width=16/32
    """

    dimensions: Mapping[str, tuple[Slot, ...]]

    def __post_init__(self) -> None:
        self._slots.check_references()

    @cached_property
    def _slots(self) -> Slots:
        return Slots(self.dimensions)

    # ------------------------------------------------------------------ members
    def size(self) -> int:
        """The exact number of members."""
        return self._slots.count

    def available(self, chosen: Mapping[str, list[Value]], dimension: str, index: int) -> tuple[Value, ...]:
        """The legal values of one slot, given the values of all earlier slots.

        Args:
            chosen: the values of the earlier slots, by dimension.
            dimension: the dimension of the slot.
            index: the index of the slot in its dimension.

        Returns:
            The values, ascending. There are none if the earlier values leave none.
        """
        return self._slots.available(chosen, dimension, index)

    def _first(self, order: Callable[[str, int, tuple[Value, ...]], Sequence[Value]]) -> Subnet:
        """The first member in depth-first order, see ``Slots.first``."""
        chosen = self._slots.first(order)
        if chosen is None:
            raise ProXError(f"the search space has no legal member: {self}")
        return Subnet(tuple((name, tuple(values)) for name, values in chosen.items()))

    def smallest(self) -> Subnet:
        """The member with the smallest legal choice of each slot.

        Raises:
            ProXError: the space has no member.
        """
        return self._first(lambda dimension, index, choices: choices)

    def largest(self) -> Subnet:
        """The member with the largest legal choice of each slot.

        Raises:
            ProXError: the space has no member.
        """
        return self._first(lambda dimension, index, choices: choices[::-1])

    def sample(self, generator: random.Random) -> Subnet:
        """A random member. Each slot is uniform over the values that the earlier slots leave.

        Args:
            generator: the source of randomness.

        Raises:
            ProXError: the space has no member.
        """
        return self._first(lambda dimension, index, choices: generator.sample(choices, len(choices)))

    def nearest(self, ranks: Mapping[str, Sequence[int]]) -> Subnet:
        """The member with the given choices, or with the nearest legal ones. It is the inverse of ``ranks``.

        Args:
            ranks: for each slot, by dimension, the index of the wanted choice. 0 is the smallest choice.

        Raises:
            ProXError: the space has no member.
        """

        def by_distance(dimension: str, index: int, choices: tuple[Value, ...]) -> Sequence[Value]:
            if choices == (ABSENT,):
                return choices
            slot_choices, rank = self.dimensions[dimension][index].choices, ranks[dimension][index]
            return sorted(choices, key=lambda value: abs(slot_choices.index(value) - rank))

        return self._first(by_distance)

    def ranks(self, subnet: Subnet) -> dict[str, list[int]]:
        """The choices of a member as indices.

        Args:
            subnet: a member in normal form, as ``check`` returns it.

        Returns:
            For each slot, by dimension, the index of the member's choice. It is 0 for a slot that the member does not have.
        """

        def rank(slot: Slot, value: Value) -> int:
            return 0 if value == ABSENT else slot.choices.index(value)

        return {
            name: [rank(*pair) for pair in zip(slots, subnet[name], strict=True)] for name, slots in self.dimensions.items()
        }

    def check(self, subnet: Subnet) -> Subnet:
        """The given member in normal form.

        Args:
            subnet: a member, for example from a file. Its dimensions may have any order, and 1 may stand for 1.0.

        Returns:
            The member with the space's order of dimensions and the space's own numbers.

        Raises:
            ProXError: the subnet is not a member. The message says why.

        >>> space = SearchSpace({"width": (Slot(choices=(8, 16)),)})
        >>> space.check(Subnet.from_values(width=(12,)))
        Traceback (most recent call last):
        monai_prox.errors.ProXError: width[0] = 12 is not legal: allowed here: [8, 16]
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
                    reason = f"allowed here: {list(choices)}"
                    if slot.equals is not None and value in slot.choices:
                        reason = f"it must equal {dimension}[{slot.equals}] = {chosen[dimension][slot.equals]}"
                    elif slot.differs is not None and value in slot.choices:
                        reason = f"it must differ from {dimension}[{slot.differs}], where the network has a projection"
                    raise ProXError(f"{dimension}[{index}] = {value} is not legal: {reason}")
                chosen[dimension].append(choices[choices.index(value)])
        return Subnet(tuple((name, tuple(values)) for name, values in chosen.items()))

    def __contains__(self, subnet: Subnet) -> bool:
        try:
            self.check(subnet)
        except ProXError:
            return False
        return True

    # ------------------------------------------------------------------ narrowing
    def choice_count(self, dimension: str) -> int:
        """The largest number of choices that a slot of a dimension has.

        Args:
            dimension: the name of the dimension.

        Returns:
            The number of choices. 1 means that the dimension is not elastic.
        """
        return max((len(slot.choices) for slot in self.dimensions[dimension]), default=1)

    def restrict(self, counts: Mapping[str, int], *, start: Literal["smallest", "largest"] = "smallest") -> SearchSpace:
        """The part of the space with only the first choices of each slot.

        Args:
            counts: number of choices by dimension. Dimensions that are not named keep one choice.
            start: the end from which choices are counted.
        """

        def cut(dimension: str, slot: Slot) -> Slot:
            count = max(1, counts.get(dimension, 1))
            return replace(slot, choices=slot.choices[:count] if start == "smallest" else slot.choices[-count:])

        return SearchSpace({name: tuple(cut(name, s) for s in slots) for name, slots in self.dimensions.items()})

    def narrow(self, open: Mapping[str, int]) -> SearchSpace:
        """The part of the space with only the first choices of each slot, counted from the smallest.

        Args:
            open: number of choices by dimension. Dimensions that are not named keep all choices.

        Raises:
            ProXError: a dimension is unknown, or has not as many choices.
        """
        counts = {dimension: self.choice_count(dimension) for dimension in self.dimensions}
        for dimension, count in open.items():
            if dimension not in counts:
                dimensions = ", ".join(counts)
                raise ProXError(f"there is no dimension {dimension!r} whose choices could be closed; known: {dimensions}")
            if type(count) is not int or not 1 <= count <= counts[dimension]:
                raise ProXError(f"of {dimension}, 1 to {counts[dimension]} choices can remain open, got {count!r}")
        return self.restrict({**counts, **open})

    def without_last(self, dimension: str) -> SearchSpace:
        """The part of the space without the largest choice of a dimension.

        Args:
            dimension: the name of the dimension.

        Raises:
            ProXError: the dimension has only one choice.
        """
        return self.narrow({dimension: self.choice_count(dimension) - 1})

    def reductions(self) -> dict[str, SearchSpace]:
        """The parts of the space without the largest choice of one dimension.

        Returns:
            One part per dimension that has more than one choice. Parts without members are left out.
        """
        parts = {d: self.without_last(d) for d in self.dimensions if self.choice_count(d) > 1}
        return {dimension: part for dimension, part in parts.items() if part.size() > 0}

    # ------------------------------------------------------------------ JSON
    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """The space as plain data, for a JSON file.

        Returns:
            One list of slots per dimension, see ``Slot.to_json``.
        """
        return {name: [slot.to_json() for slot in slots] for name, slots in self.dimensions.items()}

    @classmethod
    def from_json(cls, data: Any) -> SearchSpace:
        """The space that ``to_json`` wrote.

        Args:
            data: what ``to_json`` returned.

        Raises:
            ProXError: ``data`` is something else.
        """
        try:
            if not data:
                raise TypeError("there are no dimensions")
            return cls({name: tuple(map(Slot.from_json, slots)) for name, slots in data.items()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ProXError(f"not a search space: {error!r}, in {data!r:.80}") from error

    def __str__(self) -> str:
        def text(slots: tuple[Slot, ...]) -> str:
            return " ".join("{" + ", ".join(f"{v:g}" for v in slot.choices) + "}" for slot in slots)

        return "; ".join(f"{name} {text(slots)}" for name, slots in self.dimensions.items())
