"""MONAI's SupervisedTrainer, whose steps train members of a supernet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from ignite.engine import EventEnum
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_prox.bundle.configuration import switch
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.training.engine import Engine
from monai_prox.training.update import Updates


class ProXEvents(EventEnum):  # type: ignore[misc]
    """Events that a SupernetTrainer fires besides MONAI's events.

    STAGE_STARTED: a stage has opened, before its first epoch. ``trainer.engine.stage`` is the stage.
    STAGE_RESUMED: a training continues within or after this stage. Settings that depend on the stage have to be set again.
    MEMBERS_VALIDATED: the named members have been validated. ``trainer.state.metrics`` has their metrics.
    """

    STAGE_STARTED = "prox_stage_started"
    STAGE_RESUMED = "prox_stage_resumed"
    MEMBERS_VALIDATED = "prox_members_validated"


class SupernetTrainer(SupervisedTrainer):  # type: ignore[misc]
    """MONAI's SupervisedTrainer for a supernet, with its handlers, AMP, accumulation of gradients and metrics.

    An iteration trains the members that the current stage asks for, with its teacher. ``loss`` and ``pred`` of the output are
    those of the first member, and ``pred`` is at full resolution. FORWARD_COMPLETED, LOSS_COMPLETED and BACKWARD_COMPLETED fire
    once per iteration, after the backward passes of all members.

    It needs a ``ProXExpansionHandler``, which opens the stages. Under torch.distributed the engine averages the gradients, so
    the network must not be wrapped in DistributedDataParallel. torch.compile is not supported, because every member has its own
    shapes.

    Args:
        engine: its supernet is the network, its task loss is the loss function.
        device: device of the network.
        max_epochs: number of epochs, equal to the schedule's.
        train_data_loader: loader of the training batches.
        optimizer: optimizer of the supernet's weights.
        max_gradient_norm: norm that gradients are clipped to, 12 in nnU-Net. None means no clipping.
        event_names: further events.
        network: None, or the supernet's largest network, as the pipeline of a SupervisedTrainer has it.
        loss_function: None, because the engine has the loss. A pipeline's own may stay where it is.
        supervised: further arguments of SupervisedTrainer.

    Raises:
        ProXError: the number of epochs or the network differs, ``amp`` is not a switch, ``compile`` is true, or there is an
            ``iteration_update``.
    """

    def __init__(
        self,
        engine: Engine,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Any,
        optimizer: Optimizer,
        *,
        max_gradient_norm: float | None = None,
        event_names: Sequence[Any] | None = None,
        network: nn.Module | None = None,
        loss_function: Any = None,
        **supervised: Any,
    ) -> None:
        if engine.schedule.epochs != max_epochs:
            raise ProXError(
                f"the schedule covers {engine.schedule.epochs} epochs, max_epochs is {max_epochs}; they must agree: a bundle's "
                "--epochs sets both"
            )
        supervised["amp"] = switch(supervised.get("amp", False))
        if network is not None and network is not engine.supernet.network:
            raise ProXError(
                f"network is a {type(network).__name__} that is not the family's; it must not be wrapped, in "
                "DistributedDataParallel for example, because the engine averages the gradients"
            )
        if supervised.get("iteration_update") is not None:
            raise ProXError(
                f"iteration_update is {supervised['iteration_update']!r:.80}, steps of the pipeline's own; a supernet's steps "
                "train its members, so leave it out"
            )
        if supervised.get("compile"):
            raise ProXError(
                "compile is true; a supernet's members differ in shape, and each would be compiled anew: leave it out"
            )
        self.engine = engine
        self.expands = False  # set by a ProXExpansionHandler when it is attached
        engine.guard(optimizer)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=engine.supernet,
            optimizer=optimizer,
            loss_function=engine.task_loss,
            event_names=[ProXEvents, *(event_names or ())],
            **supervised,
        )
        self.updates = Updates(engine.supernet.parameters(), max_norm=max_gradient_norm, log=self.logger.warning)

    def run(self) -> None:
        """Runs the training.

        Raises:
            ProXError: there is no ProXExpansionHandler.
        """
        if not self.expands:
            raise ProXError("there is no ProXExpansionHandler among the trainer's handlers, so no stage would ever open")
        if self.state.epoch_length is None:
            raise ProXError("the training's loader has no length; give the trainer an epoch_length")
        super().run()

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)
        inputs, targets, args, kwargs = batch if len(batch) == 4 else (*batch, (), {})
        index = (self.state.iteration - 1) % self.state.epoch_length
        starts_update, ends_update = self._accumulation(index)
        self.network.train()
        if starts_update:
            self.optimizer.zero_grad(set_to_none=self.optim_set_to_none)

        def forward(x: Tensor, member: Subnet) -> Any:
            return self.inferer(x, self.network, member, *args, **kwargs)

        step = self.engine.step(
            _plain(inputs),
            _plain(targets),
            epoch=self.state.epoch - 1,
            step=index,
            backward=self._backward,
            precision=self._precision,
            forward=forward,
        )
        self.updates.add(_plain(inputs), step, _cases(inputs))
        self.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets, CommonKeys.PRED: step.output}
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.state.output[CommonKeys.LOSS] = step.loss
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if ends_update:
            self.updates(self.optimizer, self.scaler)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        output: dict[str, Any] = self.state.output
        return output

    def _accumulation(self, index: int) -> tuple[bool, bool]:
        """Whether an iteration starts, and whether it ends an accumulation. The last one of an epoch always ends it."""
        steps = self.accumulation_steps
        return index % steps == 0, (index + 1) % steps == 0 or index + 1 == self.state.epoch_length

    @property
    def _precision(self) -> Callable[[], AbstractContextManager[Any]]:
        if not self.amp:
            return nullcontext
        return lambda: torch.autocast("cuda", **self.amp_kwargs)

    def _backward(self, loss: Tensor) -> None:
        loss = loss / self.accumulation_steps
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()


def _plain(data: Any) -> Any:
    """Data without MONAI's metadata, which every operation would process."""
    return data.as_tensor() if hasattr(data, "as_tensor") else data


def _cases(inputs: Any) -> list[str]:
    """The files of a batch, from MONAI's metadata. Images without a file are numbered."""
    files = getattr(inputs, "meta", {}).get("filename_or_obj")
    if not isinstance(files, list):
        files = [f"number {index} of the batch" for index in range(len(inputs))]
    return [str(file) for file in files]
