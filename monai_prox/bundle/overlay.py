"""A configuration that makes an existing bundle train a family. The bundle's own files stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_prox.core import cost
from monai_prox.data.pipeline_plan import PipelinePlan, size_of
from monai_prox.errors import ProXError
from monai_prox.families.monai_arguments import TARGET
from monai_prox.families.monai_networks import MONAIFamily
from monai_prox.report import count
from monai_prox.trained.pipeline_config import PipelineConfig, class_of
from monai_prox.training.recipes import find_recipe

PROX = "prox"  # id of the component that the overlay adds
GIVEN = "models/given.pt"  # the weights of a network that is adopted


def make_overlay(
    pipeline: PipelineConfig,
    *,
    size: Sequence[int] | None = None,
    space: Any = "default",
    recipe: str = "prox",
    adopts: bool = False,
) -> dict[str, Any]:
    """The configuration that, after the pipeline's own, trains a family.

    Args:
        pipeline: the bundle's training.
        size: voxels per axis of an input, for which costs are counted. None means that the bundle says it.
        space: what is elastic, "default" or an object with fields of ``MONAIChoices``.
        recipe: name of the recipe.
        adopts: whether the training begins with the weights in the bundle's file GIVEN.

    Raises:
        ProXError: the bundle lacks something, or its network cannot be made elastic.
    """
    find_recipe(recipe)
    trainer, network, validation = pipeline.trainer, pipeline.network, pipeline.validation
    if PROX in pipeline.config:
        raise ProXError(f"{pipeline.source} has an entry {PROX!r} of its own; it trains a family already, or rename the entry")
    if trainer.value.get("iteration_update") is not None:
        raise ProXError(
            f"{pipeline.source}: {trainer.id} has an iteration_update, steps of the bundle's own; a supernet's steps train its "
            "members, so it cannot be kept"
        )
    for name in ("loss_function", "optimizer", "max_epochs", "device", "train_data_loader"):
        pipeline.entry(trainer, name)
    pipeline.check_metric()
    size = list(size) if size is not None else pipeline.size
    if size is None:
        raise ProXError(
            f"{pipeline.source}: neither {validation.id}#inferer nor metadata.json says what size a patch has; give --size"
        )
    arguments = {name: f"@{network.id}#{name}" for name in network.value if not (name.startswith("_") and name.endswith("_"))}
    prox: dict[str, Any] = {
        TARGET: "monai_prox.bundle.ProXPipeline",
        "network": f"@{trainer.id}#network",
        "arguments": arguments,
        "size": size,
        "loss": f"@{trainer.id}#loss_function",
        "epochs": f"@{trainer.id}#max_epochs",
        "data": f"$@{trainer.id}#train_data_loader.dataset",
        "task": pipeline.name,
        "outputs": pipeline.outputs,
        "device": f"@{trainer.id}#device",
        "recipe": recipe,
        "space": space,
        "ckpt": None,
    }
    for folder, usual in (("ckpt_dir", "models"), ("output_dir", "eval")):
        root = f"$@bundle_root + '/{usual}'" if "bundle_root" in pipeline.config else usual
        prox[folder] = f"@{folder}" if folder in pipeline.config else root
    if adopts:
        prox["start"] = f"$@bundle_root + '/{GIVEN}'" if "bundle_root" in pipeline.config else GIVEN
    overlay: dict[str, Any] = {
        PROX: prox,
        f"{trainer.id}#{TARGET}": "monai_prox.bundle.PipelineTrainer",
        f"{trainer.id}#prox": f"@{PROX}",
        f"{validation.id}#{TARGET}": "monai_prox.bundle.PipelineEvaluator",
    }
    # A configuration for several processes, before this one, wraps the network, and cuts the last handlers off
    if pipeline.moved is not None:
        overlay[pipeline.moved.id] = pipeline.moved.value
    if isinstance(handlers := trainer.value["train_handlers"], str):
        overlay[f"{trainer.id}#train_handlers"] = handlers
    return overlay


def family_of(pipeline: PipelineConfig, overlay: Mapping[str, Any]) -> tuple[MONAIFamily, tuple[int, ...]]:
    """The family that an overlay trains, and the voxels per axis for which costs are counted.

    Args:
        pipeline: the bundle's training.
        overlay: what ``make_overlay`` returned.

    Raises:
        LookupError: an argument of the network is known only when it runs.
        ProXError: the network cannot be made elastic.
    """
    prox = overlay[PROX]
    arguments, size = (pipeline.static(prox[key]) for key in ("arguments", "size"))
    named = {TARGET: pipeline.network.value[TARGET], **arguments}
    plan = PipelinePlan(task=prox["task"], network=named, size=size_of(size, arguments))
    return plan.family(prox["space"]), plan.size


def understood(pipeline: PipelineConfig, overlay: Mapping[str, Any]) -> list[str]:
    """What was read in a bundle, in lines.

    Args:
        pipeline: the bundle's training.
        overlay: what ``make_overlay`` returned.

    Raises:
        ProXError: the network cannot be made elastic.
    """
    try:
        family, size = family_of(pipeline, overlay)
    except LookupError as unknown:
        members = f"its members are known when it runs, because of {unknown}"
    else:
        ends = [count(cost.macs(family, of, size)) for of in (family.space.smallest(), family.space.largest())]
        patch = " x ".join(map(str, size))
        members = f"{family.space.size():,} members, {family.space}; {ends[0]}MAC to {ends[1]}MAC for {patch}"
    network, trainer, validation = pipeline.network, pipeline.trainer, pipeline.validation
    loss = pipeline.follow(pipeline.entry(trainer, "loss_function"))
    return [
        f"network: {network.id}, a {class_of(network.value)}: {members}",
        f"loss: {loss.id}, {class_of(loss.value) or 'an expression'}",
        f"trained by: {trainer.id}, for its max_epochs, on its data, by its optimizer",
        f"scored by: {validation.id}, {pipeline.metric or 'its key metric'}, with its inferer and transforms",
        "left out: handlers that save or stop by the score of one network",
    ]
