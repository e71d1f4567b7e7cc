"""From an nnU-Net plan to a family, and from a member back to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from monai_prox.core.family import Family
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices
from monai_prox.runtime.grid import ImageSize
from monai_prox.surface_dice import check_tolerance, default_tolerance
from monai_prox.training.idle_time import MOST
from monai_prox.training.recipes import find_recipe
from monai_prox.training.updates_per_batch import FILL, Asked, is_number

# Of a configuration in a plan: {"space": "default" | "paper" | {...}, "recipe": "prox" | "prox_paper" | ...,
# "monitor": true | false | {"threshold": 0.005, "patience": 3}, "surface_tolerance_mm": 2, "members_per_batch": 2 | "fill",
# "validate": ["smallest", "largest"], "validate_mirroring": true | false, "precision": "fp16" | "bf16"}, all of which may be
# missing
PLAN_KEY = "prox"
ENTRIES = (
    "space",
    "recipe",
    "monitor",
    "surface_tolerance_mm",
    "members_per_batch",
    "validate",
    "validate_mirroring",
    "precision",
)
PRECISIONS = ("fp16", "bf16")
FULL_RESOLUTION = "3d_fullres"  # of images that have slices


def _section(configuration: Mapping[str, Any]) -> dict[str, Any]:
    section = configuration.get(PLAN_KEY, {}) if isinstance(configuration, Mapping) else configuration
    if not isinstance(section, dict) or not set(section) <= set(ENTRIES):
        of_space = [field.name for field in fields(UNetChoices) if isinstance(section, dict) and field.name in section]
        hint = f"; {of_space[0]!r} belongs into 'space'" if of_space else ""
        *first, last = (repr(entry) for entry in ENTRIES)
        raise ProXError(f"the plan's {PLAN_KEY!r} entry may have {', '.join(first)} and {last}, got {section!r:.120}{hint}")
    return section


def _asked(configuration: Mapping[str, Any], entry: str, default: Any) -> tuple[Any, str]:
    """What a plan's configuration asks for, else ``default``, and whose entry it is, for a refusal."""
    section = _section(configuration)
    return section.get(entry, default), f"the {'plan' if entry in section else 'trainer'}'s {entry!r}"


def choices_of(configuration: Mapping[str, Any], default: UNetChoices) -> UNetChoices:
    """The elastic choices a plan's configuration asks for, else ``default``."""
    asked = _section(configuration).get("space")
    return default if asked is None else UNetChoices.from_json(asked)


def recipe_of(configuration: Mapping[str, Any], default: str) -> str:
    """The name of the recipe that a plan's configuration asks for, else ``default``. Raises ProXError for an unknown one."""
    name: str = _section(configuration).get("recipe", default)
    find_recipe(name)
    return name


def monitor_of(configuration: Mapping[str, Any], *, monitored: bool, threshold: float, patience: int) -> dict[str, Any] | None:
    """The monitor's threshold and patience that a plan's configuration asks for, else those given; None for no monitor."""
    asked = _section(configuration).get("monitor", monitored)
    if asked is False:
        return None
    asked = {} if asked is True else asked
    if not isinstance(asked, dict) or not set(asked) <= {"threshold", "patience"}:
        raise ProXError(f"the plan's 'monitor' is true, false, or may have 'threshold' and 'patience', got {asked!r:.120}")
    return {"threshold": threshold, "patience": patience, **asked}


def surface_tolerance_of(plans: Mapping[str, Any], name: str, default: float | None) -> float:
    """The tolerance of the surface Dice in mm that the configuration ``name`` of ``plans`` asks for, else ``default``.

    If that is None, it is the longest edge of a voxel of the plan's full resolution, so that all configurations are measured
    alike. Raises ProXError for what is no tolerance.
    """
    manager = PlansManager(dict(plans))
    asked, whose = _asked(manager.get_configuration(name).configuration, "surface_tolerance_mm", default)
    if asked is not None:
        return check_tolerance(asked, whose)
    full = FULL_RESOLUTION if FULL_RESOLUTION in plans["configurations"] else name
    return default_tolerance(manager.get_configuration(full).spacing)


def members_per_batch_of(configuration: Mapping[str, Any], default: Asked) -> Asked:
    """The number of updates with each batch, or "fill", which a plan's configuration asks for, else ``default``."""
    asked, whose = _asked(configuration, "members_per_batch", default)
    if asked != FILL and not is_number(asked):
        raise ProXError(f"{whose} is a whole number from 1 to {MOST}, or {FILL!r}, got {asked!r:.80}")
    return asked  # type: ignore[no-any-return]


def validated_of(configuration: Mapping[str, Any], names: Sequence[str], default: Sequence[str] | None) -> list[str]:
    """The members, by name, that nnU-Net's final validation is of, which a plan's configuration asks for, else ``default``.

    names: of all named members, which count if that is None. Raises ProXError unless they are some of these, and the largest.
    """
    asked, whose = _asked(configuration, "validate", names if default is None else default)
    asked = list(asked) if isinstance(asked, tuple) else asked  # of a class
    if not isinstance(asked, list) or not all(name in names for name in asked) or "largest" not in asked:
        raise ProXError(
            f"{whose} lists members, of {', '.join(names)}, and always 'largest', nnU-Net's own network, got {asked!r:.120}"
        )
    return [name for name in names if name in asked]


def validation_mirrors(configuration: Mapping[str, Any], default: bool) -> bool:
    """Whether the final validation mirrors, which a plan's configuration asks for, else ``default``."""
    asked, whose = _asked(configuration, "validate_mirroring", default)
    if not isinstance(asked, bool):
        raise ProXError(f"{whose} is true or false, got {asked!r:.80}")
    return asked


def precision_of(configuration: Mapping[str, Any], default: str) -> str:
    """The precision of the training that a plan's configuration asks for, else ``default``. Raises ProXError for another."""
    asked, whose = _asked(configuration, "precision", default)
    if asked not in PRECISIONS:
        raise ProXError(f"{whose} is {' or '.join(map(repr, PRECISIONS))}, got {asked!r:.80}")
    return asked  # type: ignore[no-any-return]


def intensities_of(plans: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Of the training's foreground, by the number of the channel; earlier versions of nnU-Net called channels modalities."""
    old, new = (f"foreground_intensity_properties_{by}" for by in ("by_modality", "per_channel"))
    found: Mapping[str, Mapping[str, float]] = plans[old if new not in plans and old in plans else new]
    return found


def median_image_of(plans: Mapping[str, Any]) -> ImageSize | None:
    """The median size of the training's images, cropped as nnU-Net crops them. None for plans that do not tell it."""
    shape, spacing = (plans.get(f"original_median_{what}_after_transp") for what in ("shape", "spacing"))
    if not shape or not spacing:
        return None
    back = plans["transpose_backward"]
    return ImageSize(tuple(round(shape[axis]) for axis in back), tuple(float(spacing[axis]) for axis in back))


def family_of(
    configuration: Mapping[str, Any],
    *,
    input_channels: int,
    num_classes: int,
    choices: UNetChoices,
    open: Mapping[str, int] | None = None,
) -> UNetFamily:
    """The family of a plan's configuration (a resolved one, as ``ConfigurationManager.configuration``).

    open: by dimension, the choices that remain where the last ones were closed. Raises ProXError for a patch that the network
    cannot take, as one that was edited after the training.
    """
    family = UNetFamily(
        configuration["architecture"],
        input_channels=input_channels,
        num_classes=num_classes,
        patch_size=configuration["patch_size"],
        choices=choices,
        open=open,
    )
    if any(size % divisor for size, divisor in zip(family.patch_size, family.divisor, strict=True)):
        raise ProXError(
            f"patch_size is {list(family.patch_size)!s:.80}; with the plan's strides it must be multiples of "
            f"{', '.join(map(str, family.divisor))}"
        )
    return family


def member_configuration(
    configuration: Mapping[str, Any], family: Family, subnet: Subnet, *, data_identifier: str
) -> dict[str, Any]:
    """A plan's configuration in which stock nnU-Net builds, preprocesses for and predicts with ``subnet``.

    A member of lower resolution gets a smaller patch and, axis by axis, a coarser spacing in the same proportion. Its
    preprocessed data has to be its own then, named ``data_identifier``.
    """
    member = deepcopy(dict(configuration))
    member.pop(PLAN_KEY, None)
    for key in ("inherits_from", "next_stage"):  # the plan is whole without other configurations
        member.pop(key, None)
    member["architecture"] = family.architecture_of(subnet)
    whole = tuple(configuration["patch_size"])
    patch = family.input_size(whole, subnet["resolution"][0])
    if patch != whole:
        scale = [small / full for small, full in zip(patch, whole, strict=True)]
        member["patch_size"] = list(patch)
        for axis, factor in enumerate(scale):
            member["spacing"][axis] /= factor
            if "median_image_size_in_voxels" in member:
                member["median_image_size_in_voxels"][axis] *= factor
        member["data_identifier"] = data_identifier
    return member
