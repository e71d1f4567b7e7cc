"""Searches with a budget of seconds and gigabytes a case."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.cases import with_cases
from helpers.in_process import prox
from helpers.refusals import refused
from helpers.searches import made_up_device, report_of, search_of

from monai_prox.files import write_json
from monai_prox.latency.case import CaseCosts
from monai_prox.latency.device import Device
from monai_prox.runtime.grid import ImageSize
from monai_prox.search.budget import UNITS, Budget
from monai_prox.search.report import PAGE, report_folder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]


def costs_of(source: TrainedNNUNet, size: ImageSize | None = None, **change: Any) -> CaseCosts:
    """Of a device that is made up."""
    data = with_cases(made_up_device(source), source) | change
    return CaseCosts.of(source, Device.from_json(data, source.supernet.family, source.size, "a test"), size)


@pytest.mark.parametrize("name", ["seconds", "ram_gb"])
def test_a_budget_of_a_case_keeps_the_members_that_meet_it(name: str, source: TrainedNNUNet, tmp_path: Path) -> None:
    costs, space = costs_of(source), source.supernet.family.space
    cost_of = getattr(costs, name)
    low, high = cost_of(space.smallest()), cost_of(space.largest())
    most = low + 0.4 * (high - low)
    few: dict[str, Any] = {
        "trials": 4,
        "finalists": 1,
        "device": costs.device,
        "budget": Budget(**{name: most}),
        "minimise": (name,),
    }
    search = search_of(source, tmp_path / "journal", case=costs, **few)
    result = search.run()
    assert len(result.members) == 4 and max(one.price.value(name) for one in result.members) <= most < high
    assert all(one.price.value(name) == cost_of(one.subnet) for one in result.finalists)
    again = search_of(source, tmp_path / "journal", case=costs, **few)
    assert again.name == search.name and len(again.run().members) == 4, "it goes on"
    larger = costs_of(source, ImageSize((60, 60, 60), (1.0, 1.0, 1.0)))
    other = search_of(source, tmp_path / "journal", case=larger, **few)
    assert other.name != search.name, "of other cases"
    contents = report_of(result, tmp_path / "out")
    assert contents["axes"][name] == UNITS[name] and contents["budget"] == {name: most}
    assert contents["case"]["size"] == str(costs.size) and contents["case"]["shape"] == [38, 49, 34]
    page = (report_folder(search, tmp_path / "out") / PAGE).read_text()
    assert json.dumps(contents["case"]["size"]) in page and UNITS[name] in page


def test_costs_of_a_case_change_no_search_without_them(source: TrainedNNUNet, tmp_path: Path) -> None:
    """Searches of before go on: their names are the same, whatever is known of a case."""
    costs = costs_of(source)
    with_case, without = (search_of(source, tmp_path / "journal", device=costs.device, case=of) for of in (costs, None))
    assert with_case.name == without.name
    assert with_case.knows("seconds") and with_case.knows("ram_gb") and not without.knows("seconds")
    unknown = costs_of(source, process_mb=None)
    assert not search_of(source, tmp_path / "journal", device=costs.device, case=unknown).knows("ram_gb")
    words = "does not have the memory of its processes"
    refused(words, search_of, source, tmp_path, device=costs.device, case=unknown, budget=Budget(ram_gb=4))
    for setting in ({"budget": Budget(seconds=5)}, {"minimise": ("ram_gb",)}):
        refused("seconds and memory a case are known where a device's file is given", search_of, source, tmp_path, **setting)


def test_the_command_searches_within_seconds_and_gigabytes(source: TrainedNNUNet, tmp_path: Path) -> None:
    costs, output = costs_of(source), tmp_path / "out"
    seconds = costs.seconds(source.supernet.family.space.largest())
    write_json(with_cases(made_up_device(source), source), tmp_path / "device.json")
    few = [
        "search",
        source.path,
        "--trials",
        3,
        "--cases",
        1,
        "--finalists",
        1,
        "-o",
        output,
        "--profile",
        tmp_path / "device.json",
    ]
    done = prox(*few, "--max-seconds", seconds, "--max-ram-gb", 4)
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "a case of 38 x 49 x 34 voxels of 1 x 1 x 1 mm: beside the network predicted within 0.0% (median)" in words
    (folder,) = (path for path in output.iterdir() if path.name.startswith("seconds-seconds_"))
    found = json.loads((folder / "front.json").read_text())
    assert found["budget"] == {"seconds": seconds, "ram_gb": 4} and {"seconds", "ram_gb"} <= set(found["axes"])
    assert all(0 < one["price"]["seconds"] <= seconds for one in found["members"])
    write_json(made_up_device(source), tmp_path / "device.json")
    words = "the device's file says nothing of a case beside the network; measure it again: monai-prox profile measure, or "
    assert words in prox(*few, "--max-seconds", 5).error
    assert "--case-shape needs --case-spacing, too" in prox(*few, "--case-shape", 3, 3, 3).error
    assert prox(*few, "--max-seconds", -1).error.startswith("the most time a case, s is -1.0; it must be above 0")
