"""The component that makes somebody's own pipeline train a family of its network."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.utils import set_rnd
from monai.handlers import (
    CheckpointLoader,
    EarlyStopHandler,
    LrScheduleHandler,
    StatsHandler,
    TensorBoardHandler,
    ValidationHandler,
)
from monai.handlers import CheckpointSaver as MONAICheckpointSaver
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_prox.bundle.checkpoints import CheckpointSaver, weights_of
from monai_prox.bundle.component import ProX
from monai_prox.bundle.configuration import quiet
from monai_prox.bundle.errors import name_cause_last
from monai_prox.bundle.family_writer import FamilyWriter
from monai_prox.bundle.handlers import MemberValidationHandler, ProXExpansionHandler
from monai_prox.bundle.loss import takes_sigmoid
from monai_prox.core.distributed import rank
from monai_prox.data.pipeline_plan import PipelinePlan, size_of
from monai_prox.errors import ProXError
from monai_prox.families.from_network import check_made_with
from monai_prox.families.monai_arguments import FEATURES, class_named
from monai_prox.log_lines import schedule_lines
from monai_prox.training.calibrate import keeps_statistics
from monai_prox.training.calibrated_members import CalibratedMembers

CALIBRATED_ON = 32  # patches of the training data
LOGGING = (StatsHandler, TensorBoardHandler)


class ProXPipeline(ProX):
    """A family of a pipeline's network, what trains it, and the handlers of the pipeline around that.

    The pipeline keeps its network, loss, data, transforms, inferer, metrics and optimizer. ``monai-prox overlay`` writes the
    configuration.

    Args:
        network: the pipeline's network. It is the largest one of the family.
        arguments: those that the network was made with.
        size: voxels per axis of an input, for which MACs are counted.
        loss: the pipeline's loss.
        epochs: number of epochs of the pipeline's trainer.
        data: the training dataset. Batch norms of members take their statistics from it.
        task: name of the pipeline.
        outputs: names of the network's output channels.
        device: the device of the pipeline.
        ckpt_dir: folder of the family, its weights and the checkpoints.
        output_dir: folder of the plot.
        space: what is elastic, "default" or an object with fields of ``MONAIChoices``.
        recipe: name of the recipe.
        seed: seed of the members that are drawn.
        monitor: see ``ProX``.
        exclusive: whether a voxel has one class (softmax). None means that the loss tells: not if it takes the sigmoid.
        start: a file of the network's weights that the training begins with. None means those that the network has.
        ckpt: a checkpoint that the training continues from.
        save_interval: epochs between checkpoints.

    Raises:
        ProXError: the network cannot be made elastic, or an argument is not valid.
    """

    def __init__(
        self,
        network: nn.Module,
        arguments: Mapping[str, Any],
        *,
        size: Sequence[int],
        loss: Callable[[Any, Any], Tensor],
        epochs: int,
        data: Any,
        task: str = "pipeline",
        outputs: Sequence[str] = (),
        device: str | torch.device = "cpu",
        ckpt_dir: str = "models",
        output_dir: str = "eval",
        space: str | Mapping[str, Any] = "default",
        recipe: str = "prox",
        seed: int = 0,
        monitor: bool | Mapping[str, Any] | None = True,
        exclusive: bool | None = None,
        start: str | None = None,
        ckpt: str | None = None,
        save_interval: int = 1,
    ) -> None:
        name_cause_last()
        if type(seed) is not int or type(save_interval) is not int or save_interval < 1:
            raise ProXError(
                f"seed is {seed!r:.40} and save_interval {save_interval!r:.40}; they must be whole numbers, the latter from 1"
            )
        if ckpt is not None and not Path(ckpt).is_file():
            raise ProXError(f"there is no checkpoint {ckpt}")
        self.plan = PipelinePlan(
            task=task, network=_plain(network, arguments), size=size_of(size, arguments), outputs=tuple(map(str, outputs))
        )
        family = self.plan.family(space)
        check_made_with(network, family)
        patches = _Patches(data, seed)
        super().__init__(
            family,
            recipe=recipe,
            epochs=epochs,
            loss=_OneLine(loss, 2 + len(self.plan.size)),
            size=self.plan.size,
            seed=seed,
            network=network,
            device=device,
            monitor=monitor,
            exclusive=not takes_sigmoid(loss) if exclusive is None else exclusive,
            calibrated=(lambda supernet: CalibratedMembers(supernet, patches, dict, count=CALIBRATED_ON))
            if keeps_statistics(network)
            else None,
        )
        if start is not None:
            network.load_state_dict(weights_of(start, network))
        self.recipe, self.seed, self.device = recipe, seed, device
        self.ckpt_dir, self.output_dir, self.ckpt, self.save_interval = ckpt_dir, output_dir, ckpt, save_interval

    def handlers(self, given: Iterable[Any] | None, optimizer: Optimizer) -> list[Any]:
        """The handlers of a trainer.

        Args:
            given: the pipeline's own. The ValidationHandler becomes one of members. What would write or stop by the score of
                one network is left out, and the log says so.
            optimizer: the trainer's optimizer, whose state checkpoints have.

        Raises:
            ProXError: there is no ValidationHandler, or its validator has no Dice.
        """
        own = [handler for handler in given or () if handler is not None]
        validating = [handler for handler in own if isinstance(handler, ValidationHandler)]
        if len(validating) != 1:
            raise ProXError(
                f"the trainer has {len(validating)} handlers of type ValidationHandler; it needs one, whose validator scores "
                "the members"
            )
        validation = self._member_validation(validating[0])
        expansion = ProXExpansionHandler(self.engine, seed=self.seed, plan=self.plan.to_json())
        saved = {"expansion": expansion, "network": self.network, "validation": validation, "optimizer": optimizer}
        schedulers = [handler.lr_scheduler for handler in own if isinstance(handler, LrScheduleHandler)]
        saved |= {f"lr_scheduler {number}": scheduler for number, scheduler in enumerate(schedulers)}
        loaders = [handler for handler in own if isinstance(handler, CheckpointLoader)]
        if self.ckpt is not None:
            loaders.append(CheckpointLoader(load_path=self.ckpt, load_dict=saved, map_location=self.device))
        others = [validation if handler is validating[0] else handler for handler in _kept(own) if handler not in loaders]
        if rank() > 0:
            others = [handler for handler in others if not isinstance(handler, LOGGING)]
        else:
            self._log()
        others.sort(key=lambda handler: isinstance(handler, LOGGING))  # after the validation, whose metrics they log
        writer = FamilyWriter(
            self.plan,
            self.recipe,
            validation,
            cases=_names(validation.validator),
            ckpt_dir=self.ckpt_dir,
            output_dir=self.output_dir,
            calibrated=self.calibrated,
        )
        saver = CheckpointSaver(self.ckpt_dir, saved, save_interval=self.save_interval)
        return [*loaders, expansion, *others, saver, writer]

    def _member_validation(self, handler: ValidationHandler) -> MemberValidationHandler:
        validator = handler.validator
        metric = getattr(getattr(validator, "state", None), "key_metric_name", None)
        if metric is None:
            raise ProXError("the validator has no key metric; members are compared by MONAI's MeanDice as key_val_metric")
        quiet(validator)
        return MemberValidationHandler(
            validator,
            self.engine,
            self.members,
            regions=self._regions,
            interval=handler.interval,
            network_of=None if self.calibrated is None else self.calibrated.member,
        )

    def _regions(self, channels: int) -> dict[str, tuple[int, ...]]:
        """What the channels of the key metric are: the network's outputs, with or without the first, the background."""
        regions, numbers = list(self.plan.regions().items()), range(1, channels + 1)
        without = len(regions) - channels
        return dict(regions[without:]) if without in (0, 1) else {str(number): (number,) for number in numbers}

    def _log(self) -> None:
        logger, family = logging.getLogger(__name__), self.supernet.family
        logger.info(f"ProX: {type(self.network).__name__} is the largest of {family.space.size():,} members")
        for line in schedule_lines(self.engine, self.recipe):
            logger.info(line)


class _OneLine:
    """A loss that says what is wrong if it does not take what the network returns."""

    def __init__(self, loss: Callable[[Any, Any], Tensor], axes: int) -> None:
        self.loss, self.axes = loss, axes

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        try:
            return self.loss(outputs, target)
        except Exception as error:
            several = not isinstance(outputs, Tensor) or outputs.ndim > self.axes  # DynUNet stacks them
            if not several:
                raise
            stacked = isinstance(outputs, Tensor)
            count, taken = (outputs.shape[1], " of torch.unbind(outputs, 1)") if stacked else (len(outputs), "")
            raise ProXError(
                f"the network returns {count} outputs in training, and the loss {type(self.loss).__name__} does not "
                f"take them: {error}; leave deep supervision out, or give a loss such as DeepSupervisionLoss{taken}"
            ) from error


class _Patches(Sequence[Mapping[str, Any]]):
    """Training images as the pipeline's transforms make them, the same in every run."""

    def __init__(self, data: Any, seed: int) -> None:
        self._data, self._seed = data, seed

    def __len__(self) -> int:
        if not hasattr(self._data, "__len__") or not len(self._data):
            raise ProXError(
                f"the training's dataset is a {type(self._data).__name__} without a length; batch norms of members take their "
                "statistics from its items, so take one with a length, or instance norms"
            )
        return CALIBRATED_ON

    def __getitem__(self, index: Any) -> Any:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            seed = self._seed + index
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            set_rnd(self._data, seed)
            item = self._data[index % len(self._data)]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
        item = item[index // len(self._data) % len(item)] if isinstance(item, list) else item
        if not isinstance(item, Mapping) or CommonKeys.IMAGE not in item:
            has = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"a {type(item).__name__}"
            raise ProXError(f"the training's items are {has:.160}; they must have an {CommonKeys.IMAGE}")
        image = item[CommonKeys.IMAGE]
        return {"image": image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image)}


def _plain(network: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A network as a configuration has it, as plain data."""
    if class_named(type(network).__name__) is not type(network):
        raise ProXError(
            f"the network is a {type(network).__module__}.{type(network).__name__}; elastic are MONAI's {', '.join(FEATURES)}, "
            "not wrapped, in DistributedDataParallel for example"
        )
    for name, value in arguments.items():
        try:
            json.dumps(value)
        except TypeError:
            raise ProXError(f"{name} of {type(network).__name__} is {value!r:.80}; it must be plain data") from None
    plain: dict[str, Any] = json.loads(json.dumps({"_target_": type(network).__name__, **arguments}))
    return plain


def _kept(handlers: Iterable[Any]) -> list[Any]:
    """Without those that act on the score of one network."""
    kept = []
    for handler in handlers:
        if isinstance(handler, (MONAICheckpointSaver, EarlyStopHandler)):
            logging.getLogger(__name__).info(
                f"ProX: {type(handler).__name__} is left out, which would save or stop by the score of one network"
            )
        elif handler is not None:
            kept.append(handler)
    return kept


def members_handlers(given: Iterable[Any] | None) -> list[Any]:
    """The handlers of a validator that runs once for every named member.

    Args:
        given: the pipeline's own.
    """
    return [handler for handler in _kept(given or ()) if not isinstance(handler, LOGGING)]


def _names(validator: Any) -> list[str]:
    """Names of a validator's cases, or their numbers."""
    dataset = getattr(validator.data_loader, "dataset", None)
    items = getattr(dataset, "data", None)
    if not isinstance(items, Sequence):
        items = [None] * len(dataset or ())
    images = [item.get(CommonKeys.IMAGE) if isinstance(item, Mapping) else None for item in items]
    firsts = [image[0] if isinstance(image, list) and image else image for image in images]
    return [str(first) if isinstance(first, str) else f"case {number}" for number, first in enumerate(firsts)]
