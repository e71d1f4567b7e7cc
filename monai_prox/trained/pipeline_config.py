"""The configuration of somebody's own training bundle, read as data: its trainer, network, evaluator and metric.

No expression in it is evaluated, and no component is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from monai_prox.errors import ProXError
from monai_prox.families.monai_arguments import FEATURES, TARGET, class_named
from monai_prox.files import read_json

OVERLAY = "prox.json"
TRAIN = ("train.json", "train.yaml", "train.yml")
ID = r"[\w]+(?:(?:#|::)[\w]+)*"
MOVED = re.compile(rf"\$\s*@({ID})\s*\.to\(.*\)\s*")  # as the model zoo's bundles write their network
DISABLED = "_disabled_"
MOST_PARTS, MOST_LEVELS = 100_000, 64  # of a configuration
MOST_STEPS = 32  # from one reference to the next


class Found(NamedTuple):
    """A value of a configuration, and its id."""

    id: str
    value: Any


@dataclass(frozen=True)
class PipelineConfig:
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
    def read(cls, folder: Path, config: Path | None = None) -> PipelineConfig:
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
        _check_tree(content, source)
        return cls(folder, content, source)

    # ------------------------------------------------------------------ the parts
    @cached_property
    def trainer(self) -> Found:
        """MONAI's SupervisedTrainer."""
        return self._component("SupervisedTrainer", "trainer")

    @cached_property
    def network(self) -> Found:
        """The network's component, one that can be made elastic."""
        found = self.follow(self.entry(self.trainer, "network"))
        if (moved := self.moved) is not None:
            id = MOVED.fullmatch(moved.value)[1]  # type: ignore[index]
            found = self.follow(Found(id, self._get(id)))
        target = found.value.get(TARGET) if isinstance(found.value, Mapping) else None
        if class_named(target) is None:
            kind = f"{found.value!r:.80}" if target is None else f"a {target}"
            raise ProXError(f"{self.source}: the network, {found.id}, is {kind}; elastic are {', '.join(FEATURES)} of MONAI")
        return found

    @cached_property
    def moved(self) -> Found | None:
        """The expression that moves the network to its device, if the trainer's network is one with an id."""
        found = self.follow(self.entry(self.trainer, "network"))
        own = found.id.startswith(f"{self.trainer.id}#")
        return found if isinstance(found.value, str) and MOVED.fullmatch(found.value) and not own else None

    @cached_property
    def validation(self) -> Found:
        """The evaluator that the trainer's ValidationHandler runs."""
        handlers = self.follow(self.entry(self.trainer, "train_handlers"))
        if not isinstance(handlers.value, list):
            return self._component("SupervisedEvaluator", "evaluator")
        items = [self.follow(Found(f"{handlers.id}#{number}", item)) for number, item in enumerate(handlers.value)]
        found = [item for item in items if class_of(item.value) == "ValidationHandler" and item.value.get(DISABLED) is not True]
        if len(found) != 1:
            raise ProXError(
                f"{self.source}: the handlers of {self.trainer.id} have {len(found)} of type ValidationHandler; there must be "
                "one, whose validator scores the members"
            )
        validator = self.follow(self.entry(found[0], "validator"))
        if class_of(validator.value) != "SupervisedEvaluator":
            kind = class_of(validator.value) or repr(validator.value)
            raise ProXError(f"{self.source}: {validator.id} is {kind:.80}; it must be MONAI's SupervisedEvaluator")
        return validator

    @cached_property
    def metric(self) -> str | None:
        """The name of the key metric, or None if an expression makes it."""
        metrics = self.follow(self.entry(self.validation, "key_val_metric")).value
        return str(next(iter(metrics))) if isinstance(metrics, Mapping) and metrics else None

    def check_metric(self) -> None:
        """Checks that the key metric is a Dice.

        Raises:
            ProXError: there is none, or it is something else.
        """
        metrics = self.follow(self.entry(self.validation, "key_val_metric")).value
        if isinstance(metrics, str) and metrics.startswith("$"):
            return
        if self.metric is None:
            raise ProXError(
                f"{self.source}: the key_val_metric of {self.validation.id} is {metrics!r:.80}; it must be an object"
            )
        kind = class_of(self.follow(Found("", metrics[self.metric])).value)
        if "dice" not in (kind or self.metric).lower():
            raise ProXError(
                f"{self.source}: the key metric of {self.validation.id}, {self.metric}, is a {kind or '?'}; members are "
                "compared by Dice, such as MONAI's MeanDice"
            )

    @cached_property
    def size(self) -> Any:
        """Voxels per axis of an input: of the evaluator's windows, or as metadata.json says. None if neither tells."""
        inferer = self.follow(Found(f"{self.validation.id}#inferer", self.validation.value.get("inferer")))
        if isinstance(inferer.value, Mapping) and "roi_size" in inferer.value:
            size = self.follow(Found("", inferer.value["roi_size"])).value
            numbers = size if isinstance(size, list) else [size]
            if not any(voxels is None or type(voxels) is bool or (type(voxels) is int and voxels < 1) for voxels in numbers):
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
        told = len({*names}) == len(names) and "mean" not in names  # which stands for all of them in tables
        return names if told and all(map(_is_plain, names)) else []

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

    def entry(self, of: Found, name: str) -> Found:
        if not isinstance(of.value, Mapping) or of.value.get(name) is None:
            raise ProXError(f"{self.source}: {of.id} has no {name}")
        return Found(f"{of.id}#{name}", of.value[name])

    def follow(self, found: Found) -> Found:
        """What a value refers to, or itself."""
        for _ in range(MOST_STEPS):
            if not isinstance(found.value, str) or not (reference := re.fullmatch(rf"[@%]({ID})", found.value)):
                return found
            found = Found(reference[1], self._get(reference[1]))
        raise ProXError(f"{self.source}: {found.id} refers to itself")

    def components(self, kind: str) -> list[Found]:
        """The components of a class.

        Args:
            kind: name of the class, without its module.
        """
        return [one for one in _components(self.config, "") if kind in (class_of(one.value), _known(one.value))]

    def _component(self, kind: str, end: str) -> Found:
        found = self.components(kind)
        if len(found) != 1:
            others = [one for one in _components(self.config, "") if one.id.split("#")[-1] == end]
            known = [f"{one.id} is a {class_of(one.value)}" for one in found or others]
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
        value = self.follow(Found("", value)).value
        if isinstance(value, str) and value[:1] in ("$", "@", "%"):
            raise LookupError(value)
        if isinstance(value, Mapping):
            return {key: self.static(item) for key, item in value.items()}
        return [self.static(item) for item in value] if isinstance(value, list) else value


def _known(value: Mapping[str, Any]) -> str:
    """The name of a component's class, if it is a network that can be made elastic, by whatever name it is called."""
    cls = class_named(value.get(TARGET))
    return "" if cls is None else cls.__name__


def _is_plain(text: str) -> bool:
    """Whether a configuration takes a text for a text, without expressions, references and what a terminal obeys."""
    return text.isprintable() and not re.search(r"[$@%]|::", text)


def class_of(value: Any) -> str:
    """The class of a component, without its module."""
    target = value.get(TARGET) if isinstance(value, Mapping) else None
    return target.rpartition(".")[2] if isinstance(target, str) else ""


def _check_tree(content: Any, source: Path) -> None:
    """Refuses what has too many parts, which a few lines of YAML can have, is nested too deep, or has keys that are no text."""
    parts, todo = 0, [(content, 0)]
    while todo:
        value, depth = todo.pop()
        parts += 1
        if parts > MOST_PARTS or depth > MOST_LEVELS:
            raise ProXError(f"{source} has more than {MOST_PARTS:,} parts or {MOST_LEVELS} levels")
        if isinstance(value, Mapping):
            if other := [key for key in value if not isinstance(key, str)]:
                raise ProXError(f"{source} has the key {other[0]!r:.80}; keys must be text")
            todo += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            todo += [(item, depth + 1) for item in value]


def _components(value: Any, id: str) -> Iterator[Found]:
    if isinstance(value, Mapping) and TARGET in value:
        yield Found(id, value)
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _components(item, f"{id}#{key}" if id else str(key))
