"""The page of a search, in a browser."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers.nnunet_task import BARE_DATASET, SHALLOW, TWO_MEMBERS, bare_model, bare_plans, write_held_out
from helpers.pages import centre, made_up, slide
from helpers.searches import made_up_device, report_of, search_of
from PIL import Image
from playwright.sync_api import Page, expect

from monai_prox.core.space import Subnet
from monai_prox.latency.device import Device
from monai_prox.search.budget import Prices
from monai_prox.search.report import report_folder
from monai_prox.search.study import Search
from monai_prox.trained.door import open_trained
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures", "helpers.browser"]

Open = Callable[..., Page]


def test_the_page_shows_the_best_member_within_a_budget(source: TrainedNNUNet, tmp_path: Path, opened: Open) -> None:
    device = Device.from_json(made_up_device(source), source.supernet.family, source.size, "a test")
    search = search_of(source, tmp_path / "study.journal", device=device, minimise=("latency_ms",), finalists=4, trials=16)
    output = tmp_path / "</script><b>out"  # what is in the data must stay data
    contents = report_of(search.run(), output)
    page = opened(report_folder(search, output) / "report.html")
    assert page.title() == page.locator("h1").inner_text() == "Phantom - monai-prox search"
    assert set(contents) == set(made_up()), "what the tests of its looks are made of"
    assert all(set(one) == set(made_up()["measured"][0]) for one in contents["measured"])
    finalists = contents["finalists"]
    whole = {one["name"]: one["score"] for one in finalists}
    few = {one["name"]: one["expected"] for one in contents["members"] if one["name"] not in whole}
    scores, prices = few | whole, {one["name"]: one["price"] for one in contents["members"]}
    assert len(scores) == len(contents["members"]) == 16 and few
    assert whole[page.locator("#chosen").inner_text()] == max(whole.values()), "without a limit the best of the finalists"
    assert page.locator("#chart circle.finalist").count() == len(finalists) and page.locator(
        "#chart circle.member"
    ).count() == len(few)

    for axis in contents["axes"]:
        page.locator("#axis").select_option(axis)
        slide(page, 0)
        assert "No member is this cheap" in page.locator("#card").inner_text()
        for value in range(50, 1001, 190):
            slide(page, value)
            limit = page.evaluate("limit()")
            within = [name for name, price in prices.items() if price[axis] <= limit]
            assert page.locator("#chart circle.choice.dear").count() == len(prices) - len(within)
            if within:
                chosen = page.locator("#chosen").inner_text()
                within = [name for name in within if name in whole] or within  # a guess displaces nothing measured
                assert scores[chosen] == max(scores[name] for name in within), f"the best of those within {axis}"
                equal = [name for name in within if scores[name] == scores[chosen]]
                assert prices[chosen][axis] == min(prices[name][axis] for name in equal), "and of these the cheapest"
        measured = min(prices[name][axis] for name in whole)
        cheaper = {name for name in few if prices[name][axis] < measured}
        ahead = [
            name
            for among in (cheaper, set(whole))
            for name in among
            if not any(prices[o][axis] <= prices[name][axis] and scores[o] > scores[name] for o in among)
            and not any(prices[o][axis] < prices[name][axis] and scores[o] >= scores[name] for o in among)
        ]
        listed = {row.split("\t")[0] for row in page.locator("#choices tbody tr").all_inner_texts()}
        assert listed <= set(ahead) | set(whole) and set(whole) <= listed
        assert {scores[name] for name in ahead} == {scores[name] for name in listed if name in ahead}
    slide(page, 1000)
    one = next(iter(few))
    page.locator(f"#chart circle[data-name={one}]").focus()
    page.locator(f"#chart circle[data-name={one}]").dispatch_event("click")
    assert page.locator("#chosen").inner_text() == one
    assert "held-out: only 1 of 3 cases, shifted by" in page.locator("#cases").inner_text()
    assert (output / "members" / f"{one}.json").is_file() and f"{one}.json" in page.locator("#command").inner_text()
    place = centre(page, finalists[0]["name"])  # other points may lie over it
    page.mouse.move(*place)
    assert "decoder depth" in page.locator("#tip").inner_text()
    page.mouse.click(*place)
    assert page.locator("#chosen").inner_text() == finalists[0]["name"]
    assert "held-out: 3 of 3 cases" in page.locator("#cases").inner_text()
    page.locator("#format").select_option("openvino")
    command = page.locator("#command").inner_text()
    assert command == f"{finalists[0]['command']} --format openvino --output {finalists[0]['name']}.xml"
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text(re.compile("Copied|Selected"))
    stages = [row.split("\t")[0] for row in page.locator("#stages tr").all_inner_texts()[1:]]
    assert stages == [stage["name"] for stage in contents["stages"]]


def test_the_page_says_what_was_scored_on_what(source: TrainedNNUNet, tmp_path: Path, opened: Open) -> None:
    raw = source.path.parents[2] / "raw" / "Dataset990_Phantom"
    (raw / "imagesTr" / "case_1_0000.nii.gz").write_bytes(b"no image")
    search = search_of(source, tmp_path / "study.journal", trials=4, cases=9, finalists=1)
    contents = report_of(search.run(), tmp_path)
    assert len(contents["measured"]) == 4 and len(contents["finalists"]) == 1
    assert all(one["expected"] == one["score"] for one in contents["members"])
    page = opened(report_folder(search, tmp_path) / "report.html")
    assert "members scored on all 2 usable cases held out" in page.locator("#about").inner_text()
    assert page.locator("#left").inner_text().startswith("Left out of the 3 held-out cases: case_1 (")
    assert "shifted" not in page.locator("#legend").inner_text() and page.locator("#chart circle.finalist").count() == 4
    page.locator(f"#chart circle[data-name={contents['members'][0]['name']}]").dispatch_event("click")
    assert page.locator("#cases").inner_text().endswith("held-out: 2 of 2 cases")
    assert "largest + random, smallest, random in turn" in page.evaluate(
        """(data.stages = [{name: "all", train: ["largest", ["random", "smallest", "random"]]}], training(),
            document.getElementById("stages").innerText)"""
    )


def test_a_guessed_score_is_none_above_1_and_displaces_no_measured_one(
    source: TrainedNNUNet, tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finalists do better on all cases than on the few, by more than others can."""
    costs = Prices(source.supernet.family, source.size)
    most = costs.price(source.supernet.family.space.largest()).macs

    def scores(self: Search, subnet: Subnet, which: Sequence[int]) -> list[float]:
        few = 0.5 + 0.45 * costs.price(subnet).macs / most
        return [few if index == 0 else min(0.99, few + 0.3) for index in which]

    monkeypatch.setattr(Search, "_scores", scores)
    search = search_of(source, tmp_path / "study.journal", finalists=3, trials=12)
    contents = report_of(search.run(), tmp_path)
    finalists = {one["name"]: one for one in contents["finalists"]}
    few = [one for one in contents["members"] if one["name"] not in finalists]
    assert max(one["expected"] for one in few) == 1
    page = opened(report_folder(search, tmp_path) / "report.html")
    best = max(finalists.values(), key=lambda one: one["score"])
    assert page.locator("#chosen").inner_text() == best["name"] and best["score"] < 1
    cheapest = min(one["price"]["macs"] for one in finalists.values())
    prices = {one["name"]: one["price"]["macs"] for one in contents["members"]}
    ahead = set(page.evaluate("front().map(one => one.name)"))
    assert all(name in finalists or prices[name] < cheapest for name in ahead)


def test_labels_that_are_markup_are_text(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    """Of a family whose dataset names them, as columns and in the details."""
    evil = "</script><script>alert(1)</script>"
    model = bare_model(
        bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW),
        dataset=BARE_DATASET | {"labels": {"background": 0, evil: 1, "<b>b": 2}},
    )
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["<i>case"]).parent))
    search = search_of(TrainedNNUNet.open(model.path), tmp_path / "study.journal", trials=2)
    report_of(search.run(), tmp_path)
    page = opened(report_folder(search, tmp_path) / "report.html")
    assert page.locator("#classes th").all_inner_texts() == [evil, "<b>b"]
    assert f"Dice {evil}" in page.locator("#choices thead").inner_text()
    assert page.locator("script").count() == 2 and page.locator("b").count() == 0


def test_the_plot_is_that_of_the_fold_or_bundle(source: TrainedNNUNet, tmp_path: Path, opened: Open) -> None:
    """A link that leads out of the model's folder is none."""
    assert source.progress is None
    Image.new("RGB", (64, 48)).save(tmp_path / "elsewhere.png")
    plot = source.path / "fold_0" / "prox_progress.png"
    plot.symlink_to(tmp_path / "elsewhere.png")
    assert source.progress is None
    plot.unlink()
    plot.write_bytes((tmp_path / "elsewhere.png").read_bytes())
    search = search_of(source, tmp_path / "study.journal", trials=2, finalists=1)
    report_of(search.run(), tmp_path)
    assert opened(report_folder(search, tmp_path) / "report.html").locator("img[alt]").evaluate("e => e.naturalWidth") == 64
    bundle = shutil.copytree(Path(__file__).parents[2] / "bundles" / "hippocampus_prox", tmp_path / "bundle")
    (bundle / "models").mkdir(exist_ok=True)
    trained = open_trained(bundle)
    assert trained.progress is None
    for folder in (bundle / "eval", bundle / "models" / "eval"):  # of the latter it is by another output_dir
        folder.mkdir(exist_ok=True)
        (folder / "prox_progress.png").write_bytes(plot.read_bytes())
        assert trained.progress == folder / "prox_progress.png"
