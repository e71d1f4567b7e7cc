"""Properties of random plans, spaces, members and recipes, and of what a file may say instead.

10,310 cases: 5,710 by the numbers in ``cases(...)`` here and 4,600 in test_crafted_json.py, where they are for each file.
They are the same in every campaign, and a twentieth of them in every other run; MONAI_PROX_FUZZ_SEED=1 gives others.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import pytest
import torch
from helpers.architectures import KINDS, randomise_norms, unet_architecture
from helpers.fuzzing import cases, plain_data
from hypothesis import assume, given
from hypothesis import strategies as st

from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core import cost
from monai_prox.core.slots import ABSENT
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.core.supernet import SuperNet, finest
from monai_prox.data.decathlon_plan import Plan
from monai_prox.data.oct_plan import OctPlan
from monai_prox.errors import ProXError
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.families.mobilenet_choices import MobileNetChoices
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.trained.nnunet_plans import choices_of, monitor_of, recipe_of
from monai_prox.training.recipes import RECIPES, make_schedule
from monai_prox.training.stage import Stage

seeds = st.integers(0, 2**32 - 1)
fractions = st.sampled_from([0.25, 1 / 3, 0.5, 0.7, 0.75, 0.9])


# ---------------------------------------------------------------------- what is drawn
@st.composite
def ascending(draw: Any, values: Any, last: Any) -> tuple[Any, ...]:
    """Up to three of ``values`` and ``last``."""
    return (*sorted(draw(st.sets(values, max_size=2))), last)


@st.composite
def plans(draw: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
    """An ``architecture`` entry and a patch, with any kernels, strides, widths, depths and switches of stock U-Nets."""
    kind, axes, levels = draw(st.sampled_from(KINDS)), draw(st.integers(2, 3)), draw(st.integers(2, 4))

    def each(values: Any, count: int = levels) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    step = st.lists(st.integers(1, 2), min_size=axes, max_size=axes).filter(lambda stride: max(stride) == 2)
    architecture = unet_architecture(
        kind,
        axes=axes,
        features=each(st.integers(1, 6)),
        depths=each(st.integers(1, 3)),
        decoder_depths=each(st.integers(1, 3), levels - 1),
        nonlin=draw(st.sampled_from(["torch.nn.LeakyReLU", "torch.nn.ReLU", "torch.nn.ELU"])),
        dropout=draw(st.sampled_from([0.0, 0.3])),
    )
    kwargs = architecture["arch_kwargs"]
    kwargs["strides"] = [[1] * axes, *each(step, levels - 1)]
    kwargs["kernel_sizes"] = each(st.lists(st.sampled_from([1, 3]), min_size=axes, max_size=axes))
    kwargs["conv_bias"] = draw(st.booleans())
    kwargs["norm_op_kwargs"] = {"eps": 1e-5, "affine": kind == KINDS[1] or draw(st.booleans())}  # stock residual blocks need it
    divisor = [list(accumulate(of, mul))[-1] for of in zip(*kwargs["strides"], strict=True)]
    patch = tuple(length * draw(st.integers(1, 3)) for length in divisor)
    assume(prod(patch) > prod(divisor) and prod(patch) <= 24**2 * 4)
    return architecture, patch


@st.composite
def unet_choices(draw: Any) -> UNetChoices:
    return UNetChoices(
        depth=draw(st.sampled_from(["thirds", "all", "full"])),
        width=draw(ascending(fractions, 1.0)),
        kernel=draw(st.sampled_from([None, None, (3,), (1, 3), (3, 5)])),
        levels=draw(st.integers(0, 3)),
        resolution=draw(ascending(fractions, 1.0)),
    )


@st.composite
def unets(draw: Any) -> UNetFamily:
    """Of plans and choices that go together; those that do not are refused with a reason, and the choices made plain."""
    architecture, patch = draw(plans())
    about = {"input_channels": draw(st.integers(1, 6)), "num_classes": draw(st.integers(2, 6)), "patch_size": patch}
    try:
        return UNetFamily(architecture, choices=draw(unet_choices()), **about)
    except ProXError as refusal:
        assert "\n" not in str(refusal)
        return UNetFamily(architecture, choices=UNetChoices(width=(1.0,), resolution=(1.0,)), **about)


@st.composite
def mobilenet_choices(draw: Any) -> MobileNetChoices:
    return MobileNetChoices(
        depth=draw(ascending(st.just(1), 2)),
        expansion=draw(ascending(st.integers(2, 4), 6)),
        kernel=draw(ascending(st.sampled_from([1, 3, 5]), 7)),
        width=draw(ascending(fractions, 1.0)),
        resolution=draw(ascending(st.integers(32, 63), 64)),
    )


@st.composite
def mobilenets(draw: Any) -> MobileNetFamily:
    channels, classes = draw(st.sampled_from([1, 3])), draw(st.integers(2, 6))
    return MobileNetFamily(input_channels=channels, num_classes=classes, choices=draw(mobilenet_choices()))


families = st.one_of(unets(), unets(), unets(), unets(), mobilenets())


def size_of(family: Any) -> tuple[int, ...]:
    return family.patch_size if isinstance(family, UNetFamily) else (family.choices.resolution[-1],) * 2


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


# ---------------------------------------------------------------------- legal members extract and match
def matches(
    family: Any, seed: int, *, training: bool = False, deep_supervision: bool = False, kernel_transforms: bool = False
) -> None:
    """A random member sliced out of the supernet and the same one cut out compute the same, bit for bit."""
    torch.manual_seed(seed)
    supernet = SuperNet(family, kernel_transforms=kernel_transforms_of(family) if kernel_transforms else None).train(training)
    subnet = family.space.sample(random.Random(seed))
    randomise_norms(supernet.network)
    if kernel_transforms:
        for matrix in supernet.kernel_transforms.parameters():
            torch.nn.init.normal_(matrix)
    if deep_supervision:
        supernet.network.decoder.deep_supervision = True
    x = torch.randn(2, family.input_channels, *size_of(family))
    extracted = supernet.extract(subnet)
    with torch.no_grad():
        sliced, cut_out, member = (
            torch.manual_seed(seed) and run(x)  # of the dropout
            for run in (lambda x: supernet(x, subnet), lambda x: family.run(extracted, x, subnet), supernet.member(subnet))
        )
    assert len(sliced) == len(cut_out) and torch.equal(finest(sliced), finest(member))
    assert all(map(torch.equal, sliced, cut_out))
    assert torch.isfinite(finest(sliced)).all() and finest(sliced).std() > 0
    assert sum(parameter.numel() for parameter in extracted.parameters()) == cost.parameters(family, subnet)


@given(
    unets(), seeds, st.fixed_dictionaries(dict.fromkeys(("training", "deep_supervision", "kernel_transforms"), st.booleans()))
)
@cases(300)
def test_members_of_unets_extract_and_match(family: UNetFamily, seed: int, switches: dict[str, bool]) -> None:
    matches(family, seed, **switches)


@given(mobilenets(), seeds)
@cases(60)
def test_members_of_mobilenets_extract_and_match(family: MobileNetFamily, seed: int) -> None:
    matches(family, seed)


# ---------------------------------------------------------------------- illegal ones are refused
def spoilt(space: SearchSpace, subnet: Subnet, generator: random.Random) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """What was done to a member, and the values of no member any more."""
    values: dict[str, list[Any]] = {name: list(of) for name, of in subnet.items()}
    name = generator.choice([name for name, of in values.items() if of])
    index = generator.randrange(len(values[name]))
    slot, own = space.dimensions[name][index], values[name][index]
    how = generator.choice(["foreign", "between", "absent", "short", "long", "without", "strange"])
    if how == "foreign":
        values[name][index] = max(slot.choices) * generator.choice([2, -1]) + 1
    elif how == "between":
        values[name][index] = slot.choices[0] + 0.125
        if values[name][index] in slot.choices:
            values[name][index] += 1 / 1024
    elif how == "absent":  # what a member has not, or one more than it has
        values[name][index] = slot.choices[0] if own == ABSENT else ABSENT
    elif how == "short":
        values[name].pop()
    elif how == "long":
        values[name].append(own)
    elif how == "without":
        del values[name]
    else:
        values["strange"] = [1]
    return name, {name: tuple(of) for name, of in values.items()}


@given(families, seeds)
@cases(600)
def test_illegal_members_are_refused_with_a_reason(family: Any, seed: int) -> None:
    generator, space = random.Random(seed), family.space
    subnet = space.sample(generator)
    assert subnet in space and space.check(subnet) == subnet
    dimension, values = spoilt(space, subnet, generator)
    illegal = Subnet.from_values(**values)
    assert illegal not in space
    for use in (space.check, family.architecture_of, lambda subnet: cost.parameters(family, subnet)):
        with pytest.raises(ProXError) as refusal:
            use(illegal)
        assert dimension in str(refusal.value) and "\n" not in str(refusal.value)


@given(families, seeds)
@cases(700)
def test_ties_between_slots_are_kept_by_every_member_and_refused_elsewhere(family: Any, seed: int) -> None:
    """Whatever combination of choices is asked for: what the ties allow is a member, and nothing else."""
    generator, space = random.Random(seed), family.space
    values = {name: [generator.choice((*slot.choices, ABSENT)) for slot in slots] for name, slots in space.dimensions.items()}
    for name, slots in space.dimensions.items():  # slots that are not there, as often as not, hold nothing
        for index, slot in enumerate(slots):
            if slot.need and values[slot.need.dimension][slot.need.slot] < slot.need.minimum and generator.random() < 0.9:
                values[name][index] = ABSENT
            elif values[name][index] == ABSENT and generator.random() < 0.95:
                values[name][index] = slot.choices[0]

    def allowed(name: str, index: int) -> bool:
        slot, value = space.dimensions[name][index], values[name][index]
        if slot.need is not None and values[slot.need.dimension][slot.need.slot] < slot.need.minimum:
            return bool(value == ABSENT)
        tied = slot.equals is None or values[name][slot.equals] in (ABSENT, value)
        return value in slot.choices and tied and (slot.differs is None or values[name][slot.differs] != value)

    legal = all(allowed(name, index) for name, of in values.items() for index in range(len(of)))
    asked = Subnet.from_values(**{name: tuple(of) for name, of in values.items()})
    assert (asked in space) == legal
    near = space.nearest(
        {name: [generator.randrange(len(slot.choices)) for slot in of] for name, of in space.dimensions.items()}
    )
    assert near in space and space.nearest(space.ranks(near)) == near


# ---------------------------------------------------------------------- JSON round-trips
@given(families, seeds)
@cases(700)
def test_members_and_spaces_are_the_same_after_json(family: Any, seed: int) -> None:
    subnet = family.space.sample(random.Random(seed))
    again = Subnet.from_json(through_json(subnet.to_json()))
    assert again == subnet and hash(again) == hash(subnet) and str(again) == str(subnet)
    space = SearchSpace.from_json(through_json(family.space.to_json()))
    assert space == family.space and space.size() == family.space.size()
    assert (space.smallest(), space.largest()) == (family.space.smallest(), family.space.largest())
    assert type(family.choices).from_json(through_json(asdict(family.choices))) == family.choices


texts = st.text(max_size=8)
sizes = st.tuples(*[st.floats(1e-3, 1e3)] * 3)
ct = st.fixed_dictionaries({"kind": st.just("ct"), "lower": st.floats(-2e3, 0), "upper": st.floats(0, 2e3)}).map(
    lambda intensity: intensity | {"mean": 1.5, "std": 2.5}
)


@given(plans(), st.lists(texts, min_size=1, max_size=6), st.lists(texts, min_size=2, max_size=6), sizes, ct, texts)
@cases(700)
def test_plans_of_bundles_are_the_same_after_json(
    of: tuple[dict[str, Any], Any], channels: list[str], labels: list[str], spacing: Any, intensity: dict[str, Any], text: str
) -> None:
    architecture, patch = of
    plan = Plan(
        task=text,
        channels=tuple(channels),
        labels=tuple(labels),
        spacing=spacing,
        patch_size=(*patch, 16)[:3],
        intensity=intensity if len(channels) % 2 else {"kind": "z-score"},
        architecture=architecture,
        licence=text,
    )
    assert Plan.from_json(through_json(plan.to_json())) == plan
    scans = OctPlan(task=text, classes=tuple(labels), image_size=(patch[0], patch[1]))
    assert OctPlan.from_json(through_json(scans.to_json())) == scans


# ---------------------------------------------------------------------- schedules cover exactly the epochs
FIRST = {
    "prox": "smallest",
    "prox_paper": "smallest",
    "progressive_shrinking": "largest",
    "sandwich": "all",
    "adopt": "smallest",
}


@given(families.map(lambda family: family.space), st.sampled_from(list(RECIPES)), st.integers(-3, 400))
@cases(900)
def test_schedules_cover_exactly_the_epochs(space: SearchSpace, recipe: str, epochs: int) -> None:
    stages = RECIPES[recipe].stages(space)
    assume(all(stage.space(space).size() > 0 for stage in stages))  # an engine refuses others
    for stage in stages:
        data = through_json(stage.to_json())
        train = tuple(tuple(role) if isinstance(role, list) else role for role in data["train"])
        assert data.pop("sort_channels") == (stage.reorder is not None)
        assert Stage(**data | {"train": train, "reorder": stage.reorder}) == stage
    first, last = stages[0].space(space), stages[-1].space(space)
    assert last == space
    if FIRST[recipe] == "all":
        assert first == space
    else:
        assert first.size() == 1 and first.largest() == (space.smallest() if FIRST[recipe] == "smallest" else space.largest())
    if epochs < 1:
        with pytest.raises(ProXError, match=f"the number of epochs is {epochs}; it must be a whole number, at least 1"):
            make_schedule(recipe, space, epochs)
        return
    schedule = make_schedule(recipe, space, epochs)
    starts = schedule.starts
    assert starts[0] == 0 and list(starts) == sorted(set(starts)) and len(starts) == min(epochs, len(stages))
    assert schedule.stages[-1].space(space) == space
    lengths = [end - start for start, end in zip(starts, (*starts[1:], epochs), strict=True)]
    assert min(lengths) >= 1 and sum(lengths) == epochs
    assert [schedule.index(epoch) for epoch in range(epochs)] == [stage for stage, n in enumerate(lengths) for _ in range(n)]
    assert [epoch for epoch in range(epochs) if schedule.is_last_of_stage(epoch)] == [end - 1 for end in accumulate(lengths)]


@given(plain_data)
@cases(300)
def test_what_is_no_recipe_is_refused(name: Any) -> None:
    assume(not isinstance(name, str) or name not in RECIPES)
    with pytest.raises(ProXError, match="is not known; known: prox, "):
        make_schedule(name, SearchSpace({}), 10)


# ---------------------------------------------------------------------- entries of plans
@given(unet_choices(), st.sampled_from(list(RECIPES)), st.floats(-1, 1), st.integers(1, 9))
@cases(500)
def test_a_plans_entry_says_what_is_trained(choices: UNetChoices, recipe: str, threshold: float, patience: int) -> None:
    asked = {"threshold": threshold, "patience": patience}
    entry = through_json({"prox": {"space": asdict(choices), "recipe": recipe, "monitor": asked}})
    assert choices_of(entry, UNetChoices()) == choices and recipe_of(entry, "prox") == recipe
    assert monitor_of(entry, monitored=False, threshold=0.1, patience=1) == asked


# ---------------------------------------------------------------------- costs are positive and monotone
def raised(space: SearchSpace, subnet: Subnet, dimension: str, index: int) -> Subnet | None:
    """The member with the next larger choice of a slot; tied ones follow, new ones get their smallest. None without one."""
    slot, own = space.dimensions[dimension][index], subnet[dimension][index]
    if own in (ABSENT, slot.choices[-1]):
        return None
    chosen: dict[str, list[Any]] = {}
    for name, slots in space.dimensions.items():
        chosen[name] = []
        for other in range(len(slots)):
            before, legal = subnet[name][other], space.available(chosen, name, other)
            if (name, other) == (dimension, index):
                before = slot.choices[slot.choices.index(own) + 1]
            larger = [value for value in legal if value >= before]
            if not larger:
                return None
            chosen[name].append(larger[0])
    return Subnet.from_values(**{name: tuple(of) for name, of in chosen.items()})


def costs(family: Any, subnet: Subnet) -> dict[str, float]:
    of = cost.member_cost(family, subnet, size_of(family))
    return {"parameters": of.parameters, "macs": of.macs, "activations": of.activations, "memory": of.memory_mb}


@given(families, seeds)
@cases(450)
def test_costs_are_positive_monotone_and_those_of_the_real_network(family: Any, seed: int) -> None:
    """In every slot of every dimension, at the planned size.

    A resolution changes no weights, and no MACs either where strides round two of them to the same feature maps, as of 63 and
    64 pixels. At sizes that are no multiples of the network's divisor a lower resolution may cost more than the full one, for
    it is rounded to such a multiple: of 30 voxels and a divisor of 16, nine tenths are 32. The full network takes none of them.
    """
    space, subnet = family.space, family.space.sample(random.Random(seed))
    own, least, most = (costs(family, member) for member in (subnet, space.smallest(), space.largest()))
    with torch.device("meta"):
        real = sum(parameter.numel() for parameter in family.build(subnet, initialise=False).parameters())
    assert own["parameters"] == real == cost.parameters(family, subnet)
    assert all(0 < least[name] <= own[name] <= most[name] for name in own)
    for dimension, slots in space.dimensions.items():
        for index in range(len(slots)):
            if (more := raised(space, subnet, dimension, index)) is None:
                continue
            larger = costs(family, more)
            assert all(own[name] <= larger[name] for name in own), (dimension, index, more)
            assert own["macs"] < larger["macs"] or dimension == "resolution"
            assert (own["parameters"] == larger["parameters"]) == (dimension == "resolution")
