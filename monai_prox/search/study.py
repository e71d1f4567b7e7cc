"""The search: Optuna's NSGA-II proposes members, some cases score them, and all cases score the best of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from monai_prox.core.named_members import named_members
from monai_prox.core.space import Subnet
from monai_prox.errors import ProXError, refusing
from monai_prox.runtime.dice import mean_score
from monai_prox.search.front import fronts
from monai_prox.search.parameters import distributions, parameters_of, ranks_of
from monai_prox.search.recorded import CLASSES, DIGITS, FINALIST, ByClass, read_recorded
from monai_prox.search.result import Result
from monai_prox.search.sampler import ByFirstTrial
from monai_prox.search.scored import Scored, SearchProgress
from monai_prox.search.settings import SAMPLERS, SearchSettings
from monai_prox.search.storage import open_storage
from monai_prox.search.torch_runner import runnable
from monai_prox.typed import check_types

STALE = 200  # known proposals in a row that end a search: no other member is within the budget


class Search(SearchSettings):
    """A search, which runs or goes on where it was interrupted."""

    def run(self, watch: Callable[[SearchProgress], object] = lambda _: None) -> Result:
        """Runs the search, or continues it from the storage.

        Args:
            watch: called with the progress after each member.

        Raises:
            ProXError: no member is within the budget, or no case can be used.
        """
        cheapest = self.budget.cheapest(self.prices)
        with self._stored():
            study = self._study(cheapest)
        scored_members = self._search(study, watch)
        finalists, seconds = self._score_finalists(study, scored_members, watch)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        seconds += sum(trial.duration.total_seconds() for trial in trials if trial.duration is not None)
        members = list(scored_members.values())
        return Result(
            search=self,
            members=members,
            finalists=finalists,
            known=self._all_known(study, members),
            classes=self._all_classes(study),
            seconds=seconds,
        )

    def _study(self, cheapest: Subnet) -> optuna.Study:
        directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * len(self.minimise)]
        storage = open_storage(self.storage)
        study = optuna.create_study(
            storage=storage,
            sampler=ByFirstTrial(SAMPLERS[self.sampler], self.seed),
            study_name=self.name,
            directions=directions,
            load_if_exists=True,
        )
        study.set_user_attr("family", self.trained)
        if not study.get_trials(deepcopy=False):
            members = named_members(self.source.supernet.family, self.source.size).values() if self.sampler != "random" else ()
            for subnet in dict.fromkeys([*members, cheapest]):
                study.enqueue_trial(parameters_of(subnet, self.prices.family.space), skip_if_exists=True)
        return study

    def _add_scored(self, study: optuna.Study, scored_members: dict[Subnet, Scored], read: set[int]) -> None:
        """Adds the members that any process of this search has scored.

        read: the numbers of trials that have been read before, whose scores no process changes any more; gets those read now.
        """
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.number not in read:
                subnet, scores = self._recorded(trial.user_attrs)
                scored_members.setdefault(subnet, Scored(subnet, self.prices.price(subnet), scores))
                read.add(trial.number)

    def _search(self, study: optuna.Study, watch: Callable[[SearchProgress], object]) -> dict[Subnet, Scored]:
        """Scores members until there are enough, and returns them all."""
        scored_members, read = dict[Subnet, Scored](), set[int]()
        with self._stored():
            self._add_scored(study, scored_members, read)
        names, stale = [self.held_out.names[index] for index in self.scored_on], 0
        while len(scored_members) < self.trials and stale < STALE:
            with self._stored():
                trial = study.ask(distributions(self.prices.family.space))
                self._add_scored(study, scored_members, read)
            subnet = self.budget.nearest(ranks_of(trial.params, self.prices.family.space), self.prices)
            stale = stale + 1 if subnet in scored_members or not self.budget.allows(self.prices.price(subnet)) else 0
            if not self.budget.allows(self.prices.price(subnet)):
                study.tell(trial, state=TrialState.FAIL)
                continue
            if subnet in scored_members:
                scores = scored_members[subnet].scores
            else:
                scores = self._elsewhere(subnet, names) or dict(zip(names, self._scores(subnet, self.scored_on), strict=True))
            scored = Scored(subnet, self.prices.price(subnet), scores)
            if not scored.cases:
                raise ProXError(f"no class occurs in, or is predicted for, the cases {', '.join(names)}; score on more --cases")
            with self._stored():
                trial.set_user_attr("subnet", subnet.to_json())
                trial.set_user_attr("scores", scores)
                trial.set_user_attr(CLASSES, self._classes_of(subnet, scores))
                study.tell(trial, [scored.score, *(scored.price.value(name) for name in self.minimise)])
            scored_members[subnet] = scored
            watch(SearchProgress("members", len(scored_members), self.trials, list(scored_members.values())))
        return scored_members

    def _score_finalists(
        self, study: optuna.Study, scored_members: dict[Subnet, Scored], watch: Callable[[SearchProgress], object]
    ) -> tuple[list[Scored], float]:
        """Scores the best members on all cases, except those that another process has scored. Returns them, and the seconds."""
        members = list(scored_members.values())
        points = np.array([[-member.score, *(member.price.value(name) for name in self.minimise)] for member in members])
        chosen = [members[index] for index in fronts(points, self.finalists)]
        random.shuffle(chosen)  # so that two processes begin with different members
        finalists, seconds = list[Scored](), 0.0
        for member in chosen:
            key = f"{FINALIST} {member.subnet}"
            record = study.user_attrs.get(key)  # may be of another process
            if record is not None:
                check_types(record, {"seconds": float}, f"{self.storage.split('://')[0]}, {key:.80}")
            else:
                start = time.perf_counter()
                scores_by_case = self._others.get(member.subnet, {}) | member.scores
                usable = {self.held_out.names[index]: index for index in self.usable(range(len(self.held_out.names)))}
                remaining = {name: index for name, index in usable.items() if name not in scores_by_case}
                scores_by_case |= (
                    dict(zip(remaining, self._scores(member.subnet, list(remaining.values())), strict=True))
                    if remaining
                    else {}
                )
                scores = {name: scores_by_case[name] for name in usable}
                record = {
                    "subnet": member.subnet.to_json(),
                    "scores": scores,
                    CLASSES: self._classes_of(member.subnet, scores),
                    "seconds": time.perf_counter() - start,
                }
                study.set_user_attr(key, record)
            finalists.append(Scored(member.subnet, member.price, self._recorded(record)[1]))
            seconds += record["seconds"]
            watch(SearchProgress("finalists", len(finalists), len(chosen), finalists))
        return finalists, seconds

    def _all_known(self, study: optuna.Study, members: Sequence[Scored]) -> list[Scored]:
        """The members with all known scores, of this search and of others."""
        finalist_scores = dict(self._recorded(finalist) for finalist in self._finalists(study.user_attrs))
        return [
            Scored(
                member.subnet,
                member.price,
                self._others.get(member.subnet, {}) | finalist_scores.get(member.subnet, {}) | member.scores,
            )
            for member in members
        ]

    def _elsewhere(self, subnet: Subnet, names: Sequence[str]) -> dict[str, float] | None:
        """The scores of a member on the cases ``names``, if a search with other settings on the same storage has them."""
        scores = self._others.get(subnet, {})
        return {name: scores[name] for name in names} if set(names) <= set(scores) else None

    @staticmethod
    def _finalists(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The finalists in the attributes of a study."""
        return [value for key, value in attributes.items() if key.startswith(FINALIST)]

    @cached_property
    def _records_of_others(self) -> list[Mapping[str, Any]]:
        """What searches with other settings have recorded of members of this family."""
        storage = open_storage(self.storage)
        records: list[Mapping[str, Any]] = []
        for study in storage.get_all_studies():
            if study.user_attrs.get("family") == self.trained and study.study_name != self.name:
                trials = storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.COMPLETE,))
                records += [*(trial.user_attrs for trial in trials), *self._finalists(study.user_attrs)]
        return records

    @cached_property
    def _others(self) -> dict[Subnet, dict[str, float]]:
        scores: dict[Subnet, dict[str, float]] = {}
        for attributes in self._records_of_others:
            subnet, scores_by_case = self._recorded(attributes)
            scores.setdefault(subnet, {}).update(scores_by_case)
        return scores

    def _all_classes(self, study: optuna.Study) -> dict[Subnet, ByClass]:
        """The scores by class that this search and others have recorded."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        own = [*(trial.user_attrs for trial in trials), *self._finalists(study.user_attrs)]
        classes: dict[Subnet, ByClass] = {}
        for attributes in [*self._records_of_others, *own]:
            subnet, scores = self._recorded(attributes)
            known = classes.setdefault(subnet, {})
            for name, of_cases in attributes.get(CLASSES, {}).items():
                found = zip(scores, of_cases, strict=True)
                known.setdefault(name, {}).update({case: score for case, score in found if score is not None})
        return classes

    def _classes_of(self, subnet: Subnet, scores: Mapping[str, float]) -> dict[str, list[float | None]]:
        """What this process has scored of a member, as it is recorded."""
        by_class = self._scored_here.get(subnet, {})
        return {name: [known.get(case) for case in scores] for name, known in by_class.items()}

    @contextmanager
    def _stored(self) -> Iterator[None]:
        """A context in which the storage is read. Raises ProXError if the storage is not one of this version."""
        problem = f"the storage {self.storage.split('://')[0]} is of no search of this version"  # without a password
        with refusing(problem):
            try:
                yield
            except optuna.exceptions.OptunaError as error:
                raise ProXError(f"{problem}: {type(error).__name__}: {error!s:.160}") from error

    def _recorded(self, attributes: Any) -> tuple[Subnet, dict[str, float]]:
        source = f"{self.storage.split('://')[0]}, a scored member"
        return read_recorded(attributes, source, self.held_out.names, self.prices.family.space)

    def _scores(self, subnet: Subnet, cases: Sequence[int]) -> list[float]:
        network = runnable(self.source.network(subnet), self.runs_on)
        by_class = self.held_out.class_scores(cases, self.source.describe(subnet), network)
        known = self._scored_here.setdefault(subnet, {})
        for index, scores in zip(cases, by_class, strict=True):
            for name, score in scores.items():
                known.setdefault(name, {})[self.held_out.names[index]] = round(score, DIGITS)
        return [mean_score(scores) for scores in by_class]

    @cached_property
    def _scored_here(self) -> dict[Subnet, ByClass]:
        """The scores by class that ``_scores`` has computed."""
        return {}
