"""Subnets and spaces against a brute-force reading of what the slots say."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monai_prox.core.slots import ABSENT, Need, Slot
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.errors import ProXError

NAMES = ("first", "second", "third")
VALUES = (1, 2, 3, 0.5)

# Two or three levels; the third stage needs the third level, and the stages' widths are tied to each other.
SMALL = SearchSpace(
    {
        "levels": (Slot(choices=(2, 3)),),
        "width": (
            Slot(choices=(4, 8)),
            Slot(choices=(8, 16), differs=0),
            Slot(choices=(8, 16), need=Need("levels", 0, 3), equals=1),
        ),
    }
)


def brute_force(space: SearchSpace) -> set[Subnet]:
    """All members, by trying every combination of values."""
    slots = [(name, index, slot) for name, slots in space.dimensions.items() for index, slot in enumerate(slots)]
    members = set()
    for values in product(*((ABSENT, *slot.choices) for _, _, slot in slots)):
        value = {(name, index): v for (name, index, _), v in zip(slots, values, strict=True)}
        legal = True
        for name, index, slot in slots:
            mine = value[name, index]
            if slot.need is not None and value[slot.need.dimension, slot.need.slot] < slot.need.minimum:
                legal &= mine == ABSENT
            else:
                legal &= mine != ABSENT
                if slot.equals is not None and value[name, slot.equals] != ABSENT:
                    legal &= mine == value[name, slot.equals]
                if slot.differs is not None:
                    legal &= mine != value[name, slot.differs]
        if legal:
            rows = {name: tuple(value[name, i] for i in range(len(s))) for name, s in space.dimensions.items()}
            members.add(Subnet.from_values(**rows))
    return members


@st.composite
def spaces(draw: st.DrawFn, *, dead_ends: bool = True) -> SearchSpace:
    """Random small spaces; without ``dead_ends`` the earlier slots always leave the later ones a value."""
    dimensions: dict[str, tuple[Slot, ...]] = {}
    for name in NAMES[: draw(st.integers(1, 3))]:
        slots: list[Slot] = []
        for index in range(draw(st.integers(1, 3))):
            choices = sorted(draw(st.sets(st.sampled_from(VALUES), min_size=1, max_size=3)))
            need = None
            if dimensions and draw(st.booleans()):
                earlier = draw(st.sampled_from(list(dimensions)))
                need = Need(earlier, draw(st.integers(0, len(dimensions[earlier]) - 1)), draw(st.sampled_from(VALUES)))
            tie: dict[str, int] = {}
            if index and draw(st.booleans()):
                kind, other = draw(st.sampled_from(["equals", "differs"])), draw(st.integers(0, index - 1))
                if kind == "equals" and not dead_ends:
                    choices = list(slots[other].choices)
                if kind == "equals" or dead_ends or len(choices) > 1:
                    tie = {kind: other}
            slots.append(Slot(choices=tuple(choices), need=need, **tie))
        dimensions[name] = tuple(slots)
    return SearchSpace(dimensions)


# ---------------------------------------------------------------------- members
@given(spaces())
def test_size_is_the_number_of_members(space: SearchSpace) -> None:
    assert space.size() == len(brute_force(space))


@given(spaces(), st.randoms(use_true_random=False))
def test_members_are_exactly_the_legal_combinations(space: SearchSpace, generator: random.Random) -> None:
    members = brute_force(space)
    assert all(member in space for member in members)
    for _ in range(20):
        values = {name: tuple(generator.choice((ABSENT, *VALUES)) for _ in slots) for name, slots in space.dimensions.items()}
        subnet = Subnet.from_values(**values)
        assert (subnet in space) == (subnet in members)


@given(spaces(dead_ends=False), st.integers())
def test_samples_and_extremes_are_members(space: SearchSpace, seed: int) -> None:
    members, generator = brute_force(space), random.Random(seed)
    drawn = {space.sample(generator) for _ in range(20)}
    assert drawn | {space.smallest(), space.largest()} <= members


def test_every_member_is_drawn_and_a_slot_is_uniform() -> None:
    generator = random.Random(0)
    counts = Counter(SMALL.sample(generator) for _ in range(3000))
    assert set(counts) == brute_force(SMALL)
    three = sum(count for subnet, count in counts.items() if subnet["levels"] == (3,))
    assert 1400 < three < 1600


def test_equal_generators_draw_equal_members() -> None:
    one, other = random.Random(7), random.Random(7)
    assert [SMALL.sample(one) for _ in range(20)] == [SMALL.sample(other) for _ in range(20)]


def test_smallest_and_largest() -> None:
    assert SMALL.smallest() == Subnet.from_values(levels=(2,), width=(4, 8, ABSENT))
    assert SMALL.largest() == Subnet.from_values(levels=(3,), width=(8, 16, 16))


def test_members_are_in_normal_form() -> None:
    """What a subnet does not have is ABSENT, so equal networks are equal, hash equally, and cannot be written twice."""
    assert Subnet.from_values(levels=(2,), width=(4, 8, ABSENT)) in SMALL
    assert Subnet.from_values(levels=(2,), width=(4, 8, 8)) not in SMALL
    assert Subnet.from_values(width=(4, 8, 8), levels=(3,)) in SMALL, (
        "the order in which a file names dimensions does not matter"
    )
    assert (
        len({Subnet.from_values(levels=(2,), width=(4, 8, 0)), Subnet.from_values(levels=(2.0,), width=(4.0, 8.0, 0.0))}) == 1
    )


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        (Subnet.from_values(levels=(2,)), "dimensions ['levels'], this family has ['levels', 'width']"),
        (Subnet.from_values(levels=(3,), width=(4, 8)), "width needs 3 values, got [4, 8]"),
        (Subnet.from_values(levels=(4,), width=(4, 8, 8)), "levels[0] = 4 is not legal: allowed here: [2, 3]"),
        (Subnet.from_values(levels=(3,), width=(6, 8, 8)), "width[0] = 6 is not legal: allowed here: [4, 8]"),
        (Subnet.from_values(levels=(3,), width=(8, 8, 8)), "width[1] = 8 is not legal: it must differ from width[0]"),
        (Subnet.from_values(levels=(3,), width=(4, 8, 16)), "width[2] = 16 is not legal: it must equal width[1] = 8"),
        (Subnet.from_values(levels=(2,), width=(4, 8, 8)), "width[2] = 8 is not legal"),
        (Subnet.from_values(levels=(3,), width=(4, 8, 0)), "width[2] = 0 is not legal"),
        (Subnet.from_values(levels=(3,), width=(4, 6, 8)), "width[1] = 6 is not legal: allowed here: [8, 16]"),
        (Subnet.from_values(levels=(3,), width=(4, 8, 6)), "width[2] = 6 is not legal: allowed here: [8]"),
    ],
)
def test_a_refusal_names_its_reason(subnet: Subnet, reason: str) -> None:
    with pytest.raises(ProXError) as refusal:
        SMALL.check(subnet)
    assert reason in str(refusal.value)
    assert subnet not in SMALL


def test_a_space_without_members_says_so() -> None:
    space = SearchSpace({"width": (Slot(choices=(4,)), Slot(choices=(4,), differs=0))})
    assert space.size() == 0
    for ask in (space.smallest, space.largest, lambda: space.sample(random.Random(0))):
        with pytest.raises(ProXError, match="no legal member"):
            ask()


@pytest.mark.parametrize("choices", [(), (0, 1), (-1,), (2, 1), (1, 1)])
def test_choices_are_positive_distinct_and_ascending(choices: tuple[int, ...]) -> None:
    with pytest.raises(ProXError, match="positive, distinct and ascending"):
        Slot(choices=choices)


# ---------------------------------------------------------------------- ranks
def test_ranks_count_from_the_smallest_and_what_is_not_there_has_none() -> None:
    assert SMALL.ranks(Subnet.from_values(levels=(2,), width=(8, 16, ABSENT))) == {"levels": [0], "width": [1, 1, 0]}
    assert SMALL.ranks(Subnet.from_values(levels=(3,), width=(4, 8, 8))) == {"levels": [1], "width": [0, 0, 0]}


@given(spaces(dead_ends=False), st.integers())
def test_the_nearest_member_of_a_member_s_ranks_is_it(space: SearchSpace, seed: int) -> None:
    subnet = space.sample(random.Random(seed))
    assert space.nearest(space.ranks(subnet)) == subnet


@pytest.mark.parametrize(
    ("ranks", "width"),
    [
        ((0, 2), (4, 12)),
        ((3, 0), (16, 4)),
        ((3, 3), (16, 12)),  # which must differ, and 12 is the nearest of what is left
        ((1, 1), (8, 4)),  # of two that are as near the smaller
        ((9, 9), (16, 12)),  # there is nothing beyond the largest
    ],
)
def test_the_nearest_member_takes_of_each_slot_the_nearest_legal_choice(ranks: Sequence[int], width: tuple[int, ...]) -> None:
    space = SearchSpace({"width": (Slot(choices=(4, 8, 12, 16)), Slot(choices=(4, 8, 12, 16), differs=0))})
    assert space.nearest({"width": ranks}) == Subnet.from_values(width=width)


# ---------------------------------------------------------------------- narrowing
counts_by_name = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3))
every_start = pytest.mark.parametrize("start", ["smallest", "largest"])


@every_start
@given(spaces(), counts_by_name)
def test_a_restricted_space_is_a_part_of_the_whole(start: str, space: SearchSpace, counts: dict[str, int]) -> None:
    assert brute_force(space.restrict(counts, start=start)) <= brute_force(space)


@every_start
@given(spaces(dead_ends=False), counts_by_name)
def test_a_restricted_space_has_the_member_that_it_starts_from(start: str, space: SearchSpace, counts: dict[str, int]) -> None:
    """Where no two slots forbid each other that member's choice."""
    member, end = (space.smallest(), 0) if start == "smallest" else (space.largest(), -1)
    assume(
        all(
            v in (ABSENT, s.choices[end])
            for d, slots in space.dimensions.items()
            for v, s in zip(member[d], slots, strict=True)
        )
    )
    opened = space.restrict(counts, start=start)
    assert member in opened
    assert (opened.smallest() if start == "smallest" else opened.largest()) == member


@every_start
@given(spaces(), counts_by_name, counts_by_name)
def test_more_choices_are_a_larger_space(start: str, space: SearchSpace, counts: dict[str, int], more: dict[str, int]) -> None:
    wider = {name: max(counts.get(name, 1), more.get(name, 1)) for name in NAMES}
    assert brute_force(space.restrict(counts, start=start)) <= brute_force(space.restrict(wider, start=start))
    every = {name: space.choice_count(name) for name in space.dimensions}
    assert space.restrict(every, start=start) == space


def test_restrict_opens_choices_from_the_smallest() -> None:
    space = SearchSpace({"depth": (Slot(choices=(1, 2, 3)), Slot(choices=(1, 2))), "width": (Slot(choices=(4, 8)),)})
    assert space.choice_count("depth") == 3
    opened = space.restrict({"depth": 2})
    assert [slot.choices for slot in opened.dimensions["depth"]] == [(1, 2), (1, 2)]
    assert [slot.choices for slot in opened.dimensions["width"]] == [(4,)]
    assert opened.smallest() == space.smallest()
    assert space.restrict({"depth": 3, "width": 2}) == space


def test_restrict_opens_choices_from_the_largest() -> None:
    space = SearchSpace(
        {
            "depth": (Slot(choices=(1, 2, 3)), Slot(choices=(1, 2)), Slot(choices=(4,))),
            "width": (Slot(choices=(4, 8)),),
        }
    )
    opened = space.restrict({"depth": 2}, start="largest")
    assert [slot.choices for slot in opened.dimensions["depth"]] == [(2, 3), (1, 2), (4,)]
    assert [slot.choices for slot in opened.dimensions["width"]] == [(8,)]
    assert opened.largest() == space.largest() and opened.smallest() == Subnet.from_values(depth=(2, 1, 4), width=(8,))
    (only,) = brute_force(space.restrict({}, start="largest"))
    assert only == space.largest() == space.restrict({"depth": 0, "width": -1}, start="largest").largest()
    assert space.restrict({"depth": 3, "width": 9}, start="largest") == space


def test_restrict_from_the_largest_keeps_needs_and_ties() -> None:
    assert brute_force(SMALL.restrict({"levels": 2, "width": 1}, start="largest")) == {
        Subnet.from_values(levels=(2,), width=(8, 16, ABSENT)),
        Subnet.from_values(levels=(3,), width=(8, 16, 16)),
    }


def test_restrict_keeps_needs_and_ties() -> None:
    narrow = SMALL.restrict({"levels": 2, "width": 1})
    assert [slot.need for slot in narrow.dimensions["width"]] == [slot.need for slot in SMALL.dimensions["width"]]
    assert brute_force(narrow) == {
        Subnet.from_values(levels=(2,), width=(4, 8, ABSENT)),
        Subnet.from_values(levels=(3,), width=(4, 8, 8)),
    }


MANY = SearchSpace({"depth": (Slot(choices=(1, 2, 3)), Slot(choices=(1, 2))), "width": (Slot(choices=(4, 8)),)})


def test_narrow_closes_the_last_choices_of_what_it_names() -> None:
    assert MANY.narrow({"depth": 1}) == MANY.restrict({"depth": 1, "width": 2})
    assert MANY.narrow({"depth": 2}) == MANY.restrict({"depth": 2, "width": 2}) == MANY.without_last("depth")
    assert MANY.narrow({"depth": 3, "width": 2}) == MANY.narrow({}) == MANY


@pytest.mark.parametrize(
    ("open", "message"),
    [
        ({"depth": 0}, "of depth, 1 to 3 choices can remain open, got 0"),
        ({"depth": 4}, "of depth, 1 to 3 choices can remain open, got 4"),
        ({"width": 1.0}, "of width, 1 to 2 choices can remain open, got 1.0"),
        ({"breadth": 1}, "no dimension 'breadth' whose choices could be closed; known: depth, width"),
    ],
)
def test_a_narrowing_that_a_space_has_not_is_refused(open: dict[str, int], message: str) -> None:
    with pytest.raises(ProXError, match=message):
        MANY.narrow(open)


def test_reductions_are_the_parts_without_a_last_choice_that_have_members() -> None:
    assert MANY.reductions() == {"depth": MANY.restrict({"depth": 2, "width": 2}), "width": MANY.restrict({"depth": 3})}
    assert MANY.restrict({"depth": 2}).reductions() == {"depth": MANY.restrict({})}
    tied = SearchSpace({"depth": (Slot(choices=(1, 2)),), "width": (Slot(choices=(4, 8)), Slot(choices=(4, 8), differs=0))})
    assert list(tied.reductions()) == ["depth"], "widths that have to differ need two"


# ---------------------------------------------------------------------- JSON
@given(spaces())
def test_a_space_survives_json(space: SearchSpace) -> None:
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@given(spaces(dead_ends=False), st.integers())
def test_a_subnet_survives_json(space: SearchSpace, seed: int) -> None:
    subnet = space.sample(random.Random(seed))
    again = Subnet.from_json(json.loads(json.dumps(subnet.to_json())))
    assert again == subnet and hash(again) == hash(subnet) and again in space


@pytest.mark.parametrize(
    "data",
    [None, 1, "depth", [], {}, {"depth": 1}, {"depth": ["1"]}, {"depth": [True]}, {"depth": [None]}, {"cls": 1}],
)
def test_a_malformed_subnet_is_refused(data: object) -> None:
    with pytest.raises(ProXError, match="subnet"):
        Subnet.from_json(data)


def test_a_dimension_may_have_any_name() -> None:
    assert Subnet.from_json({"cls": [1], "self": [2]})["cls"] == (1,)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"depth": 1},
        {"depth": [1]},
        {"depth": [{}]},
        {"depth": [{"choices": 1}]},
        {"depth": [{"choices": []}]},
        {"depth": [{"choices": ["a"]}]},
        {"depth": [{"choices": [2, 1]}]},
        {"depth": [{"choices": [1], "need": ["levels", 0]}]},
        {"depth": [{"choices": [1], "need": 3}]},
        {"depth": [{"choices": [1], "need": ["levels", 0, 2]}]},
        {"depth": [{"choices": [1], "need": ["depth", 0, 1]}]},
        {"depth": [{"choices": [1], "need": ["depth", 0, 1]}], "levels": [{"choices": [1]}]},
        {"levels": [{"choices": [1]}], "depth": [{"choices": [1], "need": ["levels", 1, 1]}]},
        {"levels": [{"choices": [1]}], "depth": [{"choices": [1], "need": ["levels", 0, "1"]}]},
        {"depth": [{"choices": [1], "equals": 0}]},
        {"depth": [{"choices": [1]}, {"choices": [1], "equals": 2}]},
        {"depth": [{"choices": [1]}, {"choices": [1], "differs": -1}]},
        {"depth": [{"choices": [1]}, {"choices": [1], "differs": "0"}]},
    ],
)
def test_a_malformed_space_is_refused(data: object) -> None:
    with pytest.raises(ProXError):
        SearchSpace.from_json(data)


def test_a_subnet_is_a_mapping_that_prints_itself() -> None:
    subnet = Subnet.from_values(depth=(1, 2), resolution=(0.75,))
    assert dict(subnet) == {"depth": (1, 2), "resolution": (0.75,)}
    assert str(subnet) == "depth=1/2 resolution=0.75"
    with pytest.raises(KeyError):
        subnet["width"]


def test_a_space_prints_the_choices_of_each_slot() -> None:
    space = SearchSpace({"resolution": (Slot(choices=(0.75, 1.0)),), "width": (Slot(choices=(4,)), Slot(choices=(4, 8)))})
    assert str(space) == "resolution {0.75, 1}; width {4} {4, 8}"


def test_dead_ends_are_not_tried_again() -> None:
    """Of sixteen slots only the last decides whether there is a member, for some of the first one's values."""
    deep = tuple(Slot(choices=(1, 2, 3, 4, 5, 6, 7, 8)) for _ in range(16))
    width = (Slot(choices=(1,)), Slot(choices=(1,), need=Need("levels", 0, 2), differs=0))
    space = SearchSpace({"levels": (Slot(choices=(1, 2)),), "depth": deep, "width": width})
    assert space.size() == 8**16
    assert space.largest() == Subnet.from_values(levels=(1,), depth=(8,) * 16, width=(1, 0))
    assert space.sample(random.Random(0)) in space
