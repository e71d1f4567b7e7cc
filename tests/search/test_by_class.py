"""Scores of a search by class: what is recorded, what earlier searches lack, and what a spoilt journal says."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused
from helpers.searches import report_of, search_of

from monai_prox.search.budget import Budget
from monai_prox.search.recorded import CLASSES
from monai_prox.search.result import Result
from monai_prox.search.torch_runner import runnable
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]


def change(journal: Path, name: str, value: object) -> None:
    """Replaces the attribute ``name`` of members in a journal; None removes it."""
    lines = []
    for line in map(json.loads, journal.read_text().splitlines()):
        for record in [line.get("user_attr", {}), *line.get("user_attr", {}).values()]:
            if isinstance(record, dict) and name in record:
                del record[name]
                record.update({} if value is None else {name: value})
        if line.get("user_attr") != {}:
            lines.append(json.dumps(line))
    journal.write_text("\n".join(lines) + "\n")


def test_members_are_scored_by_class_with_the_names_of_the_tasks_labels(source: TrainedNNUNet, tmp_path: Path) -> None:
    result = search_of(source, tmp_path / "study.journal", trials=5, cases=2, finalists=2).run()
    held_out = source.held_out()
    for member in [*result.members, *result.finalists]:
        cases = [held_out.names.index(name) for name in member.scores]
        network = runnable(source.network(member.subnet))
        by_case = held_out.class_scores(cases, source.describe(member.subnet), network)
        wanted = {name: np.mean([of[name] for of in by_case if name in of]) for name in ("anterior", "posterior")}
        assert result.by_class(member) == pytest.approx(wanted, abs=1e-6) and len(cases) == member.cases
        assert [np.mean(list(of.values())) for of in by_case] == pytest.approx(list(member.scores.values()))
    contents = report_of(result, tmp_path)
    assert [one["classes"] for one in contents["measured"]] != [one["classes"] for one in contents["members"]]
    assert all(list(one["classes"]) == ["anterior", "posterior"] for one in [*contents["measured"], *contents["members"]])


def test_a_class_that_no_case_has_and_that_nothing_finds_has_no_score(
    source: TrainedNNUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = type(source.held_out())
    found = [{"posterior": 0.5}, {"anterior": 0.25, "posterior": 1.0}, {}]
    monkeypatch.setattr(held_out, "class_scores", lambda self, which, *_: [found[index] for index in which])
    result = search_of(source, tmp_path / "study.journal", trials=2, finalists=1).run()
    assert [result.by_class(one) for one in result.members] == [{"anterior": None, "posterior": 0.5}] * 2
    (best,) = result.finalists
    assert result.by_class(best) == {"anterior": 0.25, "posterior": 0.75}
    assert best.score == pytest.approx((0.5 + 0.625) / 2) and best.cases == 2, "the third has nothing to score"


def test_other_searches_and_a_continued_one_know_the_classes(source: TrainedNNUNet, tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    before = search_of(source, journal).run()
    again = search_of(source, journal).run()
    other = search_of(source, journal, budget=Budget(parameters=1e9)).run()

    def by_class(result: Result) -> list[object]:
        return [result.by_class(member) for member in sorted(result.finalists, key=lambda one: str(one.subnet))]

    assert by_class(before) == by_class(again) and None not in by_class(before)
    assert None not in [other.by_class(member) for member in [*other.members, *other.finalists]]


def test_a_journal_of_0_1_0_is_read_without_classes(source: TrainedNNUNet, tmp_path: Path) -> None:
    """What is scored stays; nothing is scored again for the classes' sake, and what is scored from now on has them."""
    journal = tmp_path / "study.journal"
    before = search_of(source, journal, trials=4).run()
    change(journal, CLASSES, None)
    assert CLASSES not in journal.read_text()
    after = search_of(source, journal, trials=5).run()
    known = {one.subnet for one in before.members}
    assert {one.subnet: one.score for one in after.members if one.subnet in known} == {
        one.subnet: one.score for one in before.members
    }
    assert [after.by_class(one) is None for one in after.members] == [one.subnet in known for one in after.members]
    assert any(one["classes"] is None for one in report_of(after, tmp_path)["members"])


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (["anterior"], "'classes' must be of type"),
        ({"anterior": 0.5}, "'classes' must be of type"),
        ({"anterior": ["much"]}, "'classes' must be of type"),
        ({"anterior": [0.5, 0.5, 0.5, 0.5]}, "the scores of 'anterior' are numbers up to 1 or null, one for each of 1 cases"),
        ({"anterior": [1.5]}, "the scores of 'anterior' are numbers up to 1 or null"),
    ],
)
def test_what_a_spoilt_journal_says_of_classes_is_refused(
    spoilt: object, words: str, source: TrainedNNUNet, tmp_path: Path
) -> None:
    journal = tmp_path / "study.journal"
    search_of(source, journal, trials=2).run()
    change(journal, CLASSES, spoilt)
    refused(words, search_of(source, journal, trials=2).run)


def test_classes_that_the_task_does_not_have_are_not_shown(source: TrainedNNUNet, tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    search_of(source, journal, trials=2, finalists=1).run()
    journal.write_text(journal.read_text().replace('"anterior"', '"renamed"'))
    result = search_of(source, journal, trials=2, finalists=1).run()
    assert [result.by_class(one) for one in [*result.members, *result.finalists]] == [None] * 3
