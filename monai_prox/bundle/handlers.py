"""Handlers for a SupernetTrainer: one opens the stages, one validates members."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from ignite.engine import Events
from monai.data.utils import set_rnd
from monai.handlers import ValidationHandler
from torch import Tensor, nn

from monai_prox.bundle.trainer import ProXEvents, SupernetTrainer
from monai_prox.core.distributed import rank, world_size
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.training.engine import Engine, check_format
from monai_prox.training.monitor import Monitor, comparing_interval


class ProXExpansionHandler:
    """Handler that opens the stages of the schedule, fires ProXEvents, and makes every epoch repeatable.

    The stage depends on the epoch only. On a CPU the randomness of an epoch depends on the seed, the epoch and the rank only,
    so an interrupted training continues as if it had not been interrupted. Save this handler together with the network, the
    optimizer and the learning rate scheduler. It also saves the trainer's state, because a configuration cannot name the
    trainer among its own handlers. Attach it after the CheckpointLoader, and before all handlers that use what is open.

    Args:
        engine: the engine of the trainer.
        seed: seed of the training.
        plan: the plan as plain data, or None. A checkpoint with another plan is refused.
    """

    def __init__(self, engine: Engine, *, seed: int = 0, plan: Mapping[str, Any] | None = None) -> None:
        self.engine, self.seed, self.plan = engine, seed, plan
        self._scaler_state: dict[str, Any] | None = None
        self._trainer: SupernetTrainer | None = None
        self.logger = logging.getLogger(__name__)

    def attach(self, trainer: SupernetTrainer) -> None:
        """Adds the handler to a trainer.

        Args:
            trainer: the trainer.

        Raises:
            ProXError: it is another trainer, one with another engine, or one whose loader keeps its processes.
        """
        if not isinstance(trainer, SupernetTrainer) or trainer.engine is not self.engine:
            raise ProXError("ProXExpansionHandler belongs to a SupernetTrainer of the same engine")
        if getattr(trainer.data_loader, "persistent_workers", False):
            raise ProXError(
                "persistent_workers is true; such loader processes cannot be seeded anew for an epoch: leave it out"
            )
        self._trainer, self.logger = trainer, trainer.logger
        trainer.expands = True
        trainer.add_event_handler(Events.STARTED, self.start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)

    def start(self, trainer: SupernetTrainer) -> None:
        """Prepares a training, or the continuation of one.

        Args:
            trainer: the trainer.
        """
        self.engine.broadcast()
        if world_size() > 1:
            self.logger.info(
                f"{world_size()} processes train together: if one ends, all do. The same command with --ckpt and the last "
                "checkpoint, also with another number of processes, goes on from there."
            )
        if self._scaler_state and trainer.scaler is not None:  # the trainer makes a new scaler in every run
            trainer.scaler.load_state_dict(self._scaler_state)
        if trainer.state.epoch > 0:
            self.engine.begin_epoch(trainer.state.epoch - 1)
            trainer.fire_event(ProXEvents.STAGE_RESUMED)

    def start_epoch(self, trainer: SupernetTrainer) -> None:
        """Seeds an epoch, and opens its stage.

        Args:
            trainer: the trainer.
        """
        epoch = trainer.state.epoch - 1
        self._seed(trainer, epoch)
        if self.engine.begin_epoch(epoch):
            stage, space = self.engine.stage, self.engine.space
            self.logger.info(
                f"ProX stage {stage.name!r} opens: {space.size():,} of {self.engine.supernet.family.space.size():,} members, "
                f"training {stage.trained}, teacher {stage.teacher}. Open: {space}"
            )
            trainer.fire_event(ProXEvents.STAGE_STARTED)

    def _seed(self, trainer: SupernetTrainer, epoch: int) -> None:
        seed = random.Random(f"{self.seed} {epoch} {rank()}").getrandbits(32)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = trainer.data_loader  # its processes are seeded by torch's state, transforms in this one are not
        set_rnd(getattr(loader, "dataset", None), seed)
        if getattr(loader, "generator", None) is not None:
            loader.generator.manual_seed(seed)
        if epoch > 0:
            trainer.set_data(trainer.data_loader)  # an iterator of its own for every epoch, also where it has epoch_length

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors, which load with ``weights_only=True``."""
        trainer = self._trainer
        assert trainer is not None, "attach the handler first"
        return {
            "engine": self.engine.state_dict(),
            "trainer": dict(trainer.state_dict()),
            # With zeros instead of None, optimizers go on moving weights that no member of the step has used
            "gradients": [name for name, p in trainer.network.named_parameters() if p.grad is not None],
            "scaler": trainer.scaler and trainer.scaler.state_dict(),
            **self._origin(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state. Load this handler first, so that nothing is loaded from a checkpoint that is refused.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            ProXError: the search space, the recipe, the number of epochs or the plan is another.
        """
        check_format(state["engine"])
        own, theirs = self._origin(), dict(state)
        turned = (self.plan or {}).get("orientation")
        if self.plan and "orientation" in self.plan and isinstance(theirs.get("plan"), Mapping):
            theirs["plan"] = {"orientation": None, **theirs["plan"]}  # version 0.1.0 took images as stored
            if turned and theirs["plan"] == {**self.plan, "orientation": None}:
                raise ProXError(
                    f"the checkpoint was trained on images as stored, this configuration turns them to {turned}; continue with "
                    "--plan#orientation '$None', or start anew"
                )
        for key, what in (("space", "search space"), ("stages", "recipe"), ("epochs", "number of epochs"), ("plan", "plan")):
            if theirs.get(key) != own[key]:
                raise ProXError(
                    f"the checkpoint was trained with another {what} than this configuration asks for; continue with the "
                    "configuration of that training, or start anew"
                )
        assert self._trainer is not None, "attach the handler first"
        self.engine.load_state_dict(state["engine"])
        # The number of processes may have changed, and with it an epoch's length
        before = state["trainer"]
        length = self._trainer.state.epoch_length or before["epoch_length"]
        iteration = before["iteration"] * length // before["epoch_length"]
        self._trainer.load_state_dict(before | {"iteration": iteration, "epoch_length": length})
        self._scaler_state = state["scaler"]
        for name, parameter in self._trainer.network.named_parameters():
            parameter.grad = torch.zeros_like(parameter) if name in state["gradients"] else None

    def _origin(self) -> dict[str, Any]:
        return {**self.engine.origin, "epochs": self.engine.schedule.epochs, "plan": self.plan}


class _Measured(NamedTuple):
    """What a validation of one member gave."""

    metrics: dict[str, Any]
    by_case: Tensor  # (cases, regions), the key metric's details; the cases of all ranks


class MemberValidationHandler(ValidationHandler):  # type: ignore[misc]
    """Handler that validates the open named members and the largest open member.

    It does so every ``interval`` epochs and at the end of a stage. The trainer's metrics then have ``METRIC_MEMBER`` for each
    of the validator's metrics and named members. StatsHandler, TensorBoardStatsHandler and MLFlowHandler of the trainer log
    them if they come after this handler. Between validations the metrics are removed. The largest open member is validated last
    and leaves the validator's state, also if the monitor compares members. ``history`` keeps the validator's key metric and its
    mean per region. Save this handler, too.

    Args:
        validator: MONAI's evaluator.
        engine: the engine of the trainer.
        members: named members, as ``monai_prox.named_members`` chooses them.
        regions: values of labels by the name of the region, in the order of the key metric's channels.
        interval: epochs between validations.
        monitor: in monitored stages it gets the key metric by case of the members that it compares, about three times as often
            as named members are validated. Choices that are not worth their cost are closed, and members are named again. None
            or False means that nothing is closed.
        network_of: makes the network that is validated from a member. None means a view of the supernet.

    Raises:
        ProXError: ``interval`` or ``monitor`` is not valid.
    """

    def __init__(
        self,
        validator: Any,
        engine: Engine,
        members: Mapping[str, Subnet],
        *,
        regions: Mapping[str, Any],
        interval: int = 1,
        monitor: Monitor | Literal[False] | None = None,
        network_of: Callable[[Subnet], nn.Module] | None = None,
    ) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=True)
        if not isinstance(interval, int) or interval < 1:
            raise ProXError(f"the interval of validations is {interval!r:.80}; it counts epochs and is at least 1")
        if monitor not in (None, False) and not isinstance(monitor, Monitor):
            raise ProXError(f"monitor is {monitor!r:.80}; it is a Monitor, with threshold and patience, or false for none")
        self.engine, self.members, self.regions, self.monitor = engine, dict(members), dict(regions), monitor or None
        self.network_of = network_of or engine.supernet.view
        self.history: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def attach(self, trainer: SupernetTrainer) -> None:
        """Adds the handler to a trainer.

        Args:
            trainer: the trainer.

        Raises:
            ProXError: the validator has no cases.
        """
        cases = getattr(self.validator.data_loader, "dataset", None)
        if isinstance(cases, Sized) and not len(cases):
            raise ProXError("there are no cases to validate on; the validator's data must have at least one")
        trainer.add_event_handler(Events.EPOCH_STARTED, self._forget)
        if self.monitor is not None:
            trainer.add_event_handler(ProXEvents.STAGE_STARTED, self.monitor.abandon)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self._is_due), self)

    def _is_due(self, _: Any, epoch: int) -> bool:
        return self._watches(epoch) or bool(self._compared(epoch))

    def _watches(self, epoch: int) -> bool:
        return epoch % self.interval == 0 or self.engine.schedule.is_last_of_stage(epoch - 1)

    def _compared(self, epoch: int) -> list[Subnet]:
        """What the monitor compares after ``epoch``, which counts from 1."""
        due = self.engine.schedule.is_last_of_stage(epoch - 1) or epoch % comparing_interval(self.interval) == 0
        return self.monitor.members(self.engine.space) if self.monitor and self.engine.stage.monitored and due else []

    def _forget(self, trainer: SupernetTrainer) -> None:
        for name in self._names:
            trainer.state.metrics.pop(name, None)

    def __call__(self, trainer: SupernetTrainer) -> None:
        measured: dict[Subnet, _Measured] = {}
        watches, compared = self._watches(trainer.state.epoch), self._compared(trainer.state.epoch)
        self._validate([*(self.members.values() if watches else ()), *compared], trainer, measured)
        closes = bool(compared) and self._try_choices(trainer, measured)
        if not watches:
            return
        if closes:
            self._validate(self.members.values(), trainer, measured)
        watched = {name: measured[subnet] for name, subnet in self.members.items() if subnet in measured}
        metrics = {f"{metric}_{name}": value for name, of in watched.items() for metric, value in of.metrics.items()}
        self._names = set(metrics)
        trainer.state.metrics |= metrics
        scores = {name: self._scores(of) for name, of in watched.items()}
        self.history.append({"epoch": trainer.state.epoch - 1, "scores": scores})
        trainer.fire_event(ProXEvents.MEMBERS_VALIDATED)

    def _validate(self, subnets: Iterable[Subnet], trainer: SupernetTrainer, measured: dict[Subnet, _Measured]) -> None:
        """Adds those of ``subnets`` that are open to ``measured``, unless they are there, and the largest open one anyway."""
        space, validator = self.engine.space, self.validator
        largest = space.largest()
        due = [s for s in dict.fromkeys(subnets) if s in space and s not in measured and s != largest]
        for subnet in [*due, largest]:
            validator.network = self.network_of(subnet)
            validator.run(trainer.state.epoch)
            state = validator.state
            measured[subnet] = _Measured(dict(state.metrics), state.metric_details[state.key_metric_name])

    def _scores(self, of: _Measured) -> dict[str, float]:
        mean = float(of.metrics[self.validator.state.key_metric_name])  # of each case's mean, as MONAI has it
        return {"mean": mean, **dict(zip(self.regions, of.by_case.nanmean(0).tolist(), strict=True))}

    def _try_choices(self, trainer: SupernetTrainer, measured: Mapping[Subnet, _Measured]) -> bool:
        """Whether one was closed. MONAI gathers the cases from all ranks in one order, so all ranks decide alike."""
        engine, monitor = self.engine, self.monitor
        assert monitor is not None
        known = len(monitor.history)
        by_case = {
            subnet: {str(case): score for case, score in enumerate(of.by_case.nanmean(1).tolist())}
            for subnet, of in measured.items()
        }
        dimension = monitor.observe(trainer.state.epoch - 1, engine.space, by_case)
        for comparison in monitor.history[known:]:
            trainer.logger.info(f"ProX monitor: {comparison}")
        if dimension is not None:
            engine.close(dimension)
            self.members = named_members(engine.supernet.family, monitor.size, engine.final_space)
            trainer.logger.info(
                f"ProX closes the last choice of {dimension}: {engine.space.size():,} of "
                f"{engine.supernet.family.space.size():,} members stay open. Open: {engine.space}"
            )
        engine.trial = monitor.trial(engine.space)
        return dimension is not None

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        return {
            "history": self.history,
            "members": {name: subnet.to_json() for name, subnet in self.members.items()},
            "monitor": self.monitor and self.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state_dict`` returned.
        """
        self.history = list(state["history"])
        self.members = {name: Subnet.from_json(subnet) for name, subnet in state["members"].items()}
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])
            self.engine.trial = self.monitor.trial(self.engine.space)
