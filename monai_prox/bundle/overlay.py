"""A configuration that makes an existing bundle train a family: read from the bundle's own, which stays as it is.

Configurations are read as data. No expression in them is evaluated, and no component is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from monai_prox.core import cost
from monai_prox.data.pipeline_plan import PipelinePlan
from monai_prox.errors import ProXError
from monai_prox.families.monai_arguments import FEATURES, TARGET
from monai_prox.files import read_json
from monai_prox.report import count
from monai_prox.training.recipes import find_recipe

OVERLAY = "prox.json"
TRAIN = ("train.json", "train.yaml", "train.yml")
PROX = "prox"  # id of the component that the overlay adds
HANDLERS = "prox_handlers"
ID = r"[\w]+(?:(?:#|::)[\w]+)*"
MOVED = re.compile(rf"\$\s*@({ID})\s*\.to\(.*\)\s*")  # as the model zoo's bundles write their network
MOST_STEPS = 32  # from one reference to the next


class _Found(NamedTuple):
    """A value of a configuration, and its id."""

    id: str
    value: Any


@dataclass(frozen=True)
class Pipeline:
    """A bundle's training as its configuration describes it.

    Args:
        folder: the bundle.
        config: content of the configuration.
        source: its file.
    """

    folder: Path
    config: Mapping[str, Any]
    source: Path

    @classmethod
    def read(cls, folder: Path, config: Path | None = None) -> Pipeline:
        """Reads a bundle's configuration.

        Args:
            folder: the bundle.
            config: the configuration of its training. None means ``configs/train.json`` or ``.yaml``.

        Raises:
            ProXError: there is none, or it cannot be read.
        """
        candidates = [config] if config is not None else [folder / "configs" / name for name in TRAIN]
        source = next((path for path in candidates if path.is_file()), None)
        if source is None:
            raise ProXError(f"there is no {' or '.join(map(str, candidates))}; give the configuration of the bundle's training")
        try:
            content = ConfigParser.load_config_file(source)
        except Exception as error:  # of JSON, of YAML, or of the system
            raise ProXError(f"{source} cannot be read: {' '.join(str(error).split()):.200}") from error
        if not isinstance(content, Mapping):
            raise ProXError(f"{source} is no configuration, but {content!r:.80}")
        return cls(folder, content, source)

    # ------------------------------------------------------------------ the parts
    @cached_property
    def trainer(self) -> _Found:
        """MONAI's SupervisedTrainer."""
        return self._component("SupervisedTrainer", "trainer")

    @cached_property
    def network(self) -> _Found:
        """The network's component, one that can be made elastic."""
        found = self._follow(self._entry(self.trainer, "network"))
        if isinstance(found.value, str) and (moved := MOVED.fullmatch(found.value)):
            found = self._follow(_Found(moved[1], self._get(moved[1])))
        name = _class(found.value)
        if name not in FEATURES:
            kind = f"a {name}" if name else f"{found.value!r:.80}"
            raise ProXError(f"{self.source}: the network, {found.id}, is {kind}; elastic are {', '.join(FEATURES)}")
        return found

    @cached_property
    def validation(self) -> _Found:
        """The evaluator that the trainer's ValidationHandler runs."""
        handlers = self._follow(self._entry(self.trainer, "train_handlers")).value
        if not isinstance(handlers, list):
            return self._component("SupervisedEvaluator", "evaluator")
        items = [self._follow(_Found(self.trainer.id, item)).value for item in handlers]
        found = [item for item in items if _class(item) == "ValidationHandler"]
        if len(found) != 1 or "validator" not in found[0]:
            raise ProXError(
                f"{self.source}: the handlers of {self.trainer.id} have {len(found)} of type ValidationHandler; there must be "
                "one, whose validator scores the members"
            )
        return self._follow(_Found(self.trainer.id, found[0]["validator"]))

    @cached_property
    def metric(self) -> str:
        """The name of the key metric."""
        metrics = self._follow(self._entry(self.validation, "key_val_metric")).value
        name = next(iter(metrics), "") if isinstance(metrics, Mapping) else metrics
        if isinstance(metrics, Mapping) and "dice" not in str(name).lower():
            raise ProXError(
                f"{self.source}: the key metric of {self.validation.id} is {name!r:.80}; members are compared by Dice, such as "
                "val_mean_dice"
            )
        return str(name)

    @cached_property
    def size(self) -> Any:
        """Voxels per axis of an input: of the evaluator's windows, or as metadata.json says. None if neither tells."""
        inferer = self._follow(_Found(self.validation.id, self.validation.value.get("inferer")))
        if isinstance(inferer.value, Mapping) and "roi_size" in inferer.value:
            size = self._follow(_Found("", inferer.value["roi_size"])).value
            if not isinstance(size, list) or all(type(voxels) is not int or voxels > 0 for voxels in size):
                return f"@{inferer.id}#roi_size"
        shape = self._tensor("inputs", "image").get("spatial_shape")
        known = isinstance(shape, list) and shape and all(type(voxels) is int and voxels > 0 for voxels in shape)
        return shape if known else None

    @property
    def outputs(self) -> list[str]:
        """Names of the network's output channels, as metadata.json has them."""
        channels = self._tensor("outputs", "pred").get("channel_def")
        if not isinstance(channels, Mapping) or set(channels) != {str(number) for number in range(len(channels))}:
            return []
        names = [str(channels[str(number)]) for number in range(len(channels))]
        return names if all(map(_is_plain, names)) else []

    @property
    def name(self) -> str:
        """The bundle's name, as metadata.json has it, or that of its folder."""
        name = self._metadata.get("name")
        usual = self.folder.resolve().name
        return next((of for of in (name, usual) if isinstance(of, str) and of and _is_plain(of)), "pipeline")

    @cached_property
    def _metadata(self) -> Mapping[str, Any]:
        path = self.folder / "configs" / "metadata.json"
        content = read_json(path) if path.is_file() else {}
        return content if isinstance(content, Mapping) else {}

    def _tensor(self, side: str, name: str) -> Mapping[str, Any]:
        found: Any = self._metadata
        for key in ("network_data_format", side, name):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    # ------------------------------------------------------------------ reading
    def _get(self, id: str) -> Any:
        found: Any = self.config
        for key in re.split("#|::", id):
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise ProXError(f"{self.source} has no {id}") from None
        return found

    def _entry(self, of: _Found, name: str) -> _Found:
        if not isinstance(of.value, Mapping) or of.value.get(name) is None:
            raise ProXError(f"{self.source}: {of.id} has no {name}")
        return _Found(f"{of.id}#{name}", of.value[name])

    def _follow(self, found: _Found) -> _Found:
        """What a value refers to, or itself."""
        for _ in range(MOST_STEPS):
            if not isinstance(found.value, str) or not (reference := re.fullmatch(rf"[@%]({ID})", found.value)):
                return found
            found = _Found(reference[1], self._get(reference[1]))
        raise ProXError(f"{self.source}: {found.id} refers to itself")

    def components(self, kind: str) -> list[_Found]:
        """The components of a class.

        Args:
            kind: name of the class, without its module.
        """
        return [one for one in _components(self.config, "") if _class(one.value) == kind]

    def _component(self, kind: str, end: str) -> _Found:
        found = self.components(kind)
        if len(found) != 1:
            others = [one for one in _components(self.config, "") if one.id.split("#")[-1] == end]
            known = [f"{one.id} is a {_class(one.value)}" for one in found or others]
            raise ProXError(
                f"{self.source} has {len(found)} components {kind} of MONAI, where one is needed; {', '.join(known) or 'none'}"
            )
        return found[0]

    def static(self, value: Any) -> Any:
        """A value without references.

        Args:
            value: a part of the configuration.

        Raises:
            LookupError: it depends on an expression.
        """
        value = self._follow(_Found("", value)).value
        if isinstance(value, str) and value[:1] in ("$", "@", "%"):
            raise LookupError(value)
        if isinstance(value, Mapping):
            return {key: self.static(item) for key, item in value.items()}
        return [self.static(item) for item in value] if isinstance(value, list) else value


def make_overlay(
    pipeline: Pipeline, *, size: Sequence[int] | None = None, width: Sequence[float] | None = None, recipe: str = "prox"
) -> dict[str, Any]:
    """The configuration that, after the pipeline's own, trains a family.

    Args:
        pipeline: the bundle's training.
        size: voxels per axis of an input, for which costs are counted. None means that the bundle says it.
        width: fractions of the network's features. None means the default.
        recipe: name of the recipe.

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
    if not isinstance(validation.value, Mapping):
        raise ProXError(f"{pipeline.source}: {validation.id} is {validation.value!r:.80}; it must be a component")
    if pipeline.metric == "":
        raise ProXError(f"{pipeline.source}: {validation.id} has no key metric; name MONAI's MeanDice as key_val_metric")
    size = list(size) if size is not None else pipeline.size
    if size is None:
        raise ProXError(
            f"{pipeline.source}: neither {validation.id}#inferer nor metadata.json says what size a patch has; give --size"
        )
    arguments = {name: f"@{network.id}#{name}" for name in network.value if not (name.startswith("_") and name.endswith("_"))}
    prox: dict[str, Any] = {
        TARGET: "monai_prox.bundle.ProXPipeline",
        "network": f"@{network.id}",
        "arguments": arguments,
        "size": size,
        "loss": f"@{trainer.id}#loss_function",
        "epochs": f"@{trainer.id}#max_epochs",
        "optimizer": f"@{trainer.id}#optimizer",
        "data": f"$@{trainer.id}#train_data_loader.dataset",
        "task": pipeline.name,
        "outputs": pipeline.outputs,
        "device": f"@{trainer.id}#device",
        "recipe": recipe,
        "width": None if width is None else list(width),
        "ckpt": None,
    }
    for folder, usual in (("ckpt_dir", "models"), ("output_dir", "eval")):
        root = f"$@bundle_root + '/{usual}'" if "bundle_root" in pipeline.config else usual
        prox[folder] = f"@{folder}" if folder in pipeline.config else root
    overlay: dict[str, Any] = {
        PROX: prox,
        f"{trainer.id}#{TARGET}": "monai_prox.bundle.SupernetTrainer",
        f"{trainer.id}#engine": f"$@{PROX}.engine",
    }
    for component, key, method in ((trainer, "train_handlers", "handlers"), (validation, "val_handlers", "validator_handlers")):
        given = component.value.get(key)
        if given is None:
            continue
        if isinstance(given, list):
            overlay[f"{HANDLERS}_{method}"], given = given, f"@{HANDLERS}_{method}"
        overlay[f"{component.id}#{key}"] = f"$@{PROX}.{method}({str(given).removeprefix('$')})"
    return overlay


def understood(pipeline: Pipeline, overlay: Mapping[str, Any]) -> list[str]:
    """What was read in a bundle, in lines.

    Args:
        pipeline: the bundle's training.
        overlay: what ``make_overlay`` returned.

    Raises:
        ProXError: the network cannot be made elastic.
    """
    prox, network = overlay[PROX], pipeline.network
    try:
        arguments, size = (pipeline.static(prox[key]) for key in ("arguments", "size"))
    except LookupError as unknown:
        members = f"its members are known when it runs, because of {unknown}"
    else:
        plan = PipelinePlan(task=prox["task"], network={TARGET: _class(network.value), **arguments}, size=tuple(size))
        family = plan.family({"width": prox["width"]})
        ends = [count(cost.macs(family, of, size)) for of in (family.space.smallest(), family.space.largest())]
        patch = " x ".join(map(str, size))
        members = f"{family.space.size():,} members, {family.space}; {ends[0]}MAC to {ends[1]}MAC for {patch}"
    trainer, validation = pipeline.trainer, pipeline.validation
    loss = pipeline._follow(pipeline._entry(trainer, "loss_function"))
    return [
        f"network: {network.id}, a {_class(network.value)}: {members}",
        f"loss: {loss.id}, {_class(loss.value) or 'an expression'}",
        f"trained by: {trainer.id}, for its max_epochs, on its data, by its optimizer",
        f"scored by: {validation.id}, {pipeline.metric}, with its inferer and transforms",
        "left out: handlers that save or stop by the score of one network",
    ]


def _is_plain(text: str) -> bool:
    """Whether a configuration takes a text for a text, and not for an expression or a reference."""
    return not text.lstrip().startswith(("$", "@", "%"))


def _class(value: Any) -> str:
    """The class of a component, without its module."""
    target = value.get(TARGET) if isinstance(value, Mapping) else None
    return target.rpartition(".")[2] if isinstance(target, str) else ""


def _components(value: Any, id: str) -> Iterator[_Found]:
    if isinstance(value, Mapping) and TARGET in value:
        yield _Found(id, value)
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _components(item, f"{id}#{key}" if id else str(key))
