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
from monai_prox.report import closing_line, processes_line, stage_line
from monai_prox.training.engine import Engine
from monai_prox.training.resume import upgraded, upgraded_origin
from monai_prox.training.seeding import seed_generators


class ProXExpansionHandler:
    """Opens the stages of ``engine``'s schedule, announces them as ProXEvents, and makes every epoch repeatable.

    The stage is a pure function of the epoch. So is, on the CPU, an epoch's randomness, of ``seed`` and the rank: an
    interrupted training goes on as if it had not been. Save this handler with the network, the optimizer and the learning
    rate scheduler; it keeps the trainer's state, too, for a checkpoint among the trainer's own handlers cannot name the
    trainer in a configuration. Attach it after the CheckpointLoader and before all handlers that use what is open.

    plan: as plain data, where there is one; a checkpoint of another plan is refused.

    Raises ProXError on loading a checkpoint of another search space, recipe, number of epochs or plan; load this handler
    first, so that nothing is loaded then.
    """

    def __init__(self, engine: Engine, *, seed: int = 0, plan: Mapping[str, Any] | None = None) -> None:
        self.engine, self.seed, self.plan = engine, seed, plan
        self._scaler_state: dict[str, Any] | None = None
        self._trainer: SupernetTrainer | None = None
        self.logger = logging.getLogger(__name__)

    def attach(self, trainer: SupernetTrainer) -> None:
        """Raises ProXError for another trainer, or one of another engine."""
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
        broadcast(self.engine.supernet)
        if world_size() > 1:
            again = "--ckpt and the last checkpoint, also with another number of processes, goes on from there"
            self.logger.info(processes_line(again))
        if self._scaler_state and trainer.scaler is not None:  # the trainer makes a new scaler in every run
            trainer.scaler.load_state_dict(self._scaler_state)
        if trainer.state.epoch > 0:
            self.engine.begin_epoch(trainer.state.epoch - 1)
            trainer.fire_event(ProXEvents.STAGE_RESUMED)

    def start_epoch(self, trainer: SupernetTrainer) -> None:
        epoch = trainer.state.epoch - 1
        self._seed(trainer, epoch)
        if self.engine.begin_epoch(epoch):
            self.logger.info(stage_line(self.engine))
            trainer.fire_event(ProXEvents.STAGE_STARTED)

    def _seed(self, trainer: SupernetTrainer, epoch: int) -> None:
        seed = seed_generators(self.seed, epoch, rank())
        loader = trainer.data_loader  # its processes are seeded by torch's state, transforms in this one are not
        set_rnd(getattr(loader, "dataset", None), seed)
        if getattr(loader, "generator", None) is not None:
            loader.generator.manual_seed(seed)
        if epoch > 0:
            trainer.set_data(trainer.data_loader)  # an iterator of its own for every epoch, also where it has epoch_length

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; loads with ``weights_only=True``."""
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
        engine, own, saved = upgraded(state["engine"]), self._origin(), upgraded_origin(state)
        turned = (self.plan or {}).get("orientation")
        if self.plan and "orientation" in self.plan and isinstance(saved.get("plan"), Mapping):
            saved["plan"] = {"orientation": None, **saved["plan"]}  # version 0.1.0 took images as stored
            if turned and saved["plan"] == {**self.plan, "orientation": None}:
                raise ProXError(
                    f"the checkpoint was trained on images as stored, this configuration turns them to {turned}; continue with "
                    "--plan#orientation '$None', or start anew"
                )
        meanings = {"space": "search space", "stages": "recipe", "epochs": "number of epochs", "plan": "plan"}
        for key, meaning in meanings.items():
            if saved.get(key) != own[key]:
                raise ProXError(
                    f"the checkpoint was trained with another {meaning} than this configuration asks for; continue with the "
                    "configuration of that training, or start anew"
                )
        assert self._trainer is not None, "attach the handler first"
        self.engine.load_state_dict(engine)
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
    """Validates the named members that are open, and the largest that is, every ``interval`` epochs and as a stage ends.

    The trainer's metrics then have ``METRIC_MEMBER`` for each of the validator's metrics and named members, for the trainer's
    own StatsHandler, TensorBoardStatsHandler and MLFlowHandler, which must come after this one; between validations they have
    none of them. The largest member that is open is validated last and leaves the validator's state. ``history`` keeps the
    validator's key metric and its mean per region. Save this handler, too.

    If the engine has a monitor, it gets the key metric by case of the members that it compares. When it closes a choice, the
    named members are chosen anew from what remains.

    members: names and subnets, as monai_prox.named_members chooses them. regions: by name, in the order of the key metric's
        channels, the values of their labels. interval: in epochs. network_of: a member as it is validated; None for its part of
        the supernet's own weights.
    """

    def __init__(
        self,
        validator: Any,
        engine: Engine,
        members: Mapping[str, Subnet],
        *,
        regions: Mapping[str, Any],
        interval: int = 1,
        network_of: Callable[[Subnet], nn.Module] | None = None,
    ) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=True)
        if not isinstance(interval, int) or interval < 1:
            raise ProXError(f"the interval of validations is {interval!r:.80}; it counts epochs and is at least 1")
        self.engine, self.members, self.regions = engine, dict(members), dict(regions)
        self.network_of = network_of or engine.supernet.view
        self.history: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def attach(self, trainer: SupernetTrainer) -> None:
        """Raises ProXError if there is nothing to validate on, before an epoch is trained."""
        cases = getattr(self.validator.data_loader, "dataset", None)
        if isinstance(cases, Sized) and not len(cases):
            raise ProXError("there are no cases to validate on; the validator's data must have at least one")
        trainer.add_event_handler(Events.EPOCH_STARTED, self._forget)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _forget(self, trainer: SupernetTrainer) -> None:
        for name in self._names:
            trainer.state.metrics.pop(name, None)

    def __call__(self, trainer: SupernetTrainer) -> None:
        epoch = trainer.state.epoch - 1
        due, compared = self.engine.schedule.is_due(epoch, self.interval), self.engine.compared(epoch, self.interval)
        if not due and not compared:
            return
        measured: dict[Subnet, _Measured] = {}
        self._validate([*(self.members.values() if due else ()), *compared], trainer, measured)
        closes = bool(compared) and self._observe(trainer, measured)
        if not due:
            return
        if closes:
            self._validate(self.members.values(), trainer, measured)
        named = {name: measured[subnet] for name, subnet in self.members.items() if subnet in measured}
        metrics = {f"{metric}_{name}": value for name, each in named.items() for metric, value in each.metrics.items()}
        self._names = set(metrics)
        trainer.state.metrics |= metrics
        self.history.append({"epoch": epoch, "scores": {name: self._scores(each) for name, each in named.items()}})
        trainer.fire_event(ProXEvents.MEMBERS_VALIDATED)

    def _validate(self, subnets: Iterable[Subnet], trainer: SupernetTrainer, measured: dict[Subnet, _Measured]) -> None:
        """Adds those of ``subnets`` that are open to ``measured``, unless they are there, and the largest open one anyway."""
        space, validator = self.engine.space, self.validator
        largest = space.largest()
        missing = [s for s in dict.fromkeys(subnets) if s in space and s not in measured and s != largest]
        for subnet in [*missing, largest]:
            validator.network = self.network_of(subnet)
            validator.run(trainer.state.epoch)
            state = validator.state
            measured[subnet] = _Measured(dict(state.metrics), state.metric_details[state.key_metric_name])

    def _scores(self, measured: _Measured) -> dict[str, float]:
        mean = float(measured.metrics[self.validator.state.key_metric_name])  # of each case's mean, as MONAI has it
        return {"mean": mean, **dict(zip(self.regions, measured.by_case.nanmean(0).tolist(), strict=True))}

    def _observe(self, trainer: SupernetTrainer, measured: Mapping[Subnet, _Measured]) -> bool:
        """Whether a choice was closed. MONAI gathers the cases from all ranks in one order, so all ranks decide alike."""
        engine, largest = self.engine, self.engine.space.largest()
        by_case = {
            subnet: {str(case): score for case, score in enumerate(each.by_case.nanmean(1).tolist())}
            for subnet, each in measured.items()
        }
        comparison = engine.observe(trainer.state.epoch - 1, by_case)
        if comparison is None:
            return False
        trainer.logger.info(f"ProX monitor: {comparison}")
        if comparison.verdict != "closed":
            return False
        assert engine.monitor is not None
        self.members = named_members(engine.supernet.family, engine.monitor.size, engine.final_space)
        trainer.logger.info(closing_line(engine, comparison.dimension, largest))
        return True

    # ------------------------------------------------------------------ resume
    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "history": self.history,
            "members": {name: subnet.to_json() for name, subnet in self.members.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = list(state["history"])
        self.members = {name: Subnet.from_json(subnet) for name, subnet in state["members"].items()}
        if state.get("monitor") is not None:  # version 0.1.0 kept it here
            self.engine.load_monitor(state["monitor"])
