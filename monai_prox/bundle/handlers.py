"""Handlers for a SupernetTrainer: one opens the stages, one validates members."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, NamedTuple

import torch
from ignite.engine import Events
from monai.data.utils import set_rnd
from monai.handlers import ValidationHandler
from torch import Tensor, nn

from monai_prox.bundle.trainer import ProXEvents, SupernetTrainer
from monai_prox.core.distributed import broadcast, rank, world_size
from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError
from monai_prox.log_lines import closing_line, processes_line, stage_line
from monai_prox.training.engine import Engine
from monai_prox.training.resume import upgraded, upgraded_origin
from monai_prox.training.scalars import comparison_scalars, stage_scalars
from monai_prox.training.seeding import seed_generators


class ProXExpansionHandler:
    """Handler that opens the stages of the schedule, fires ProXEvents, and makes every epoch repeatable.

    The stage depends on the epoch only. On a CPU the randomness of an epoch depends on the seed, the epoch and the rank only,
    so an interrupted training continues as if it had not been interrupted. Save this handler together with the network, the
    optimizer and the learning rate scheduler. It also saves the trainer's state, because a configuration cannot name the
    trainer among its own handlers. Attach it after the CheckpointLoader, and before all handlers that use what is open.

    The trainer's metrics have the number of the stage and the number of open members, see ``monai_prox.training.scalars``.

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
        broadcast(self.engine.supernet)
        if world_size() > 1:
            again = "--ckpt and the last checkpoint continues, also with another number of processes"
            self.logger.info(processes_line(again))
        if self._scaler_state and trainer.scaler is not None:  # MONAI's trainer makes a new scaler in every run
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
            self.logger.info(stage_line(self.engine))
            trainer.fire_event(ProXEvents.STAGE_STARTED)
        trainer.state.metrics |= stage_scalars(self.engine, epoch)

    def _seed(self, trainer: SupernetTrainer, epoch: int) -> None:
        seed = seed_generators(self.seed, epoch, rank())
        loader = trainer.data_loader  # its processes are seeded by torch's state, transforms in this process are not
        set_rnd(getattr(loader, "dataset", None), seed)
        if getattr(loader, "generator", None) is not None:
            loader.generator.manual_seed(seed)
        if epoch > 0:
            trainer.set_data(trainer.data_loader)  # every epoch has its own iterator, also if the trainer has an epoch_length

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors, which load with ``weights_only=True``."""
        trainer = self._trainer
        assert trainer is not None, "attach the handler first"
        return {
            "engine": self.engine.state_dict(),
            "trainer": dict(trainer.state_dict()),
            # A gradient of 0 lets momentum and weight decay change weights that no member of the step has used, None does not
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
        engine, origin, saved = upgraded(state["engine"]), self._origin(), upgraded_origin(state)
        orientation = (self.plan or {}).get("orientation")
        if self.plan and "orientation" in self.plan and isinstance(saved.get("plan"), Mapping):
            saved["plan"] = {"orientation": None, **saved["plan"]}  # version 0.1.0 took images as stored
            if orientation and saved["plan"] == {**self.plan, "orientation": None}:
                raise ProXError(
                    f"the checkpoint was trained on images as stored, this configuration turns them to {orientation}; continue "
                    "with --plan#orientation '$None', or start anew"
                )
        # The stages of few epochs are merged, so the number of epochs comes first
        meanings = {"space": "search space", "epochs": "number of epochs", "stages": "recipe", "plan": "plan"}
        for key, meaning in meanings.items():
            if saved.get(key) != origin[key]:
                of = f", {saved.get(key)!s:.20}, not {origin[key]}" if key == "epochs" else ""
                raise ProXError(
                    f"the checkpoint was trained with another {meaning} than this configuration asks for{of}; continue with "
                    "the configuration of that training, or start anew"
                )
        assert self._trainer is not None, "attach the handler first"
        self.engine.load_state_dict(engine)
        # The length of an epoch may have changed, with the number of processes for example
        saved_trainer = state["trainer"]
        length = self._trainer.state.epoch_length or saved_trainer["epoch_length"]
        iteration = saved_trainer["iteration"] * length // saved_trainer["epoch_length"]
        self._trainer.load_state_dict(saved_trainer | {"iteration": iteration, "epoch_length": length})
        self._scaler_state = state["scaler"]
        for name, parameter in self._trainer.network.named_parameters():
            parameter.grad = torch.zeros_like(parameter) if name in state["gradients"] else None

    def _origin(self) -> dict[str, Any]:
        return {**self.engine.origin, "epochs": self.engine.schedule.epochs, "plan": self.plan}


class _Result(NamedTuple):
    """The result of a member's validation."""

    metrics: dict[str, Any]
    by_case: Tensor  # (cases, regions), the key metric's details; the cases of all ranks


class MemberValidationHandler(ValidationHandler):  # type: ignore[misc]
    """Handler that validates the open named members and the largest open member.

    It does so every ``interval`` epochs and at the end of a stage. The trainer's metrics then have ``METRIC_MEMBER`` for each
    of the validator's metrics and named members. StatsHandler, TensorBoardStatsHandler and MLFlowHandler of the trainer log
    them if they come after this handler. Between validations the metrics are removed. The largest open member is validated last
    and leaves the validator's state, also if the monitor compares members. ``history`` keeps the validator's key metric and its
    mean per region. Save this handler, too.

    If the engine has a monitor, the monitor gets the key metric by case of the members that it compares. Its comparison is
    among the trainer's metrics, see ``monai_prox.training.scalars``. When it closes a choice, members are named again from the
    choices that remain.

    Args:
        validator: MONAI's evaluator.
        engine: the engine of the trainer.
        members: named members, as ``monai_prox.named_members`` chooses them.
        regions: values of labels by the name of the region, in the order of the key metric's channels. Or a function that
            returns them for the number of these channels.
        interval: epochs between validations.
        network_of: makes the network that is validated from a member. None means a view of the supernet.

    Raises:
        ProXError: ``interval`` is not a number of epochs.
    """

    def __init__(
        self,
        validator: Any,
        engine: Engine,
        members: Mapping[str, Subnet],
        *,
        regions: Mapping[str, Any] | Callable[[int], Mapping[str, Any]],
        interval: int = 1,
        network_of: Callable[[Subnet], nn.Module] | None = None,
    ) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=True)
        if not isinstance(interval, int) or interval < 1:
            raise ProXError(f"the interval of validations is {interval!r:.80}; it counts epochs and is at least 1")
        self.engine, self.members = engine, dict(members)
        self._regions_of = regions if callable(regions) else lambda _: regions
        self.regions: dict[str, Any] = {}  # known with the first validation
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
        trainer.add_event_handler(Events.EPOCH_STARTED, self._remove_metrics)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _add(self, trainer: SupernetTrainer, metrics: Mapping[str, Any]) -> None:
        """Adds metrics of this epoch."""
        self._names |= set(metrics)
        trainer.state.metrics |= metrics

    def _remove_metrics(self, trainer: SupernetTrainer) -> None:
        for name in self._names:
            trainer.state.metrics.pop(name, None)
        self._names = set()

    def __call__(self, trainer: SupernetTrainer) -> None:
        epoch = trainer.state.epoch - 1
        validates, compared = self.engine.schedule.is_due(epoch, self.interval), self.engine.compared(epoch, self.interval)
        if not validates and not compared:
            return
        results: dict[Subnet, _Result] = {}
        self._validate([*(self.members.values() if validates else ()), *compared], trainer, results)
        closed = bool(compared) and self._observe(trainer, results)
        if not validates:
            return
        if closed:
            self._validate(self.members.values(), trainer, results)
        named = {name: results[subnet] for name, subnet in self.members.items() if subnet in results}
        metrics = {f"{metric}_{name}": value for name, result in named.items() for metric, value in result.metrics.items()}
        self._add(trainer, metrics)
        self.history.append({"epoch": epoch, "scores": {name: self._scores(result) for name, result in named.items()}})
        trainer.fire_event(ProXEvents.MEMBERS_VALIDATED)

    def _validate(self, subnets: Iterable[Subnet], trainer: SupernetTrainer, results: dict[Subnet, _Result]) -> None:
        """Validates open members that have no result, and always the largest open member, and adds the results."""
        space, validator = self.engine.space, self.validator
        largest = space.largest()
        missing = [s for s in dict.fromkeys(subnets) if s in space and s not in results and s != largest]
        network = validator.network
        try:
            for subnet in [*missing, largest]:
                validator.network = self.network_of(subnet)
                validator.run(trainer.state.epoch)
                results[subnet] = self._result()
        finally:
            validator.network = network  # else the last copy of a member would stay in memory

    def _result(self) -> _Result:
        """The result of the validator's run."""
        state = self.validator.state
        details = state.metric_details.get(state.key_metric_name)
        if not isinstance(details, Tensor) or details.ndim != 2:
            raise ProXError(
                f"the key metric {state.key_metric_name} keeps no values by case and class, which MONAI's MeanDice does; the "
                "monitor needs them"
            )
        cases = getattr(self.validator.data_loader, "dataset", None)
        if isinstance(cases, Sized) and len(details) == world_size() * len(cases):
            details = details[: len(cases)]  # every process has validated all cases, see validation_sampler
        self.regions = self.regions or dict(self._regions_of(details.shape[1]))
        return _Result(dict(state.metrics), details)

    def _scores(self, result: _Result) -> dict[str, float]:
        mean = float(result.metrics[self.validator.state.key_metric_name])  # over the means of the cases, as in MONAI
        return {"mean": mean, **dict(zip(self.regions, result.by_case.nanmean(0).tolist(), strict=True))}

    def _observe(self, trainer: SupernetTrainer, results: Mapping[Subnet, _Result]) -> bool:
        """Lets the monitor compare. Returns whether a choice was closed.

        MONAI gathers the cases of all ranks in the same order, so all ranks decide alike.
        """
        engine, largest = self.engine, self.engine.space.largest()
        by_case = {
            subnet: {str(case): score for case, score in enumerate(result.by_case.nanmean(1).tolist())}
            for subnet, result in results.items()
        }
        comparison = engine.observe(trainer.state.epoch - 1, by_case)
        if comparison is None:
            return False
        trainer.logger.info(f"ProX monitor: {comparison}")
        self._add(trainer, comparison_scalars(comparison))
        if comparison.verdict != "closed":
            return False
        assert engine.monitor is not None
        self.members = named_members(engine.supernet.family, engine.monitor.size, engine.final_space)
        trainer.logger.info(closing_line(engine, comparison.dimension, largest))
        return True

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        return {
            "history": self.history,
            "members": {name: subnet.to_json() for name, subnet in self.members.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state_dict`` returned.
        """
        self.history = list(state["history"])
        self.members = {name: Subnet.from_json(subnet) for name, subnet in state["members"].items()}
        if state.get("monitor") is not None:  # version 0.1.0 kept it here
            self.engine.load_monitor(state["monitor"])
