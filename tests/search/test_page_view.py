"""How the page of a search looks and is used: on a phone, by keyboard, in the dark, and what it marks."""

import io
import json
from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pages import SCREENSHOTS, centre, entry, made_up, slide
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from monai_prox.search.page import MOST_BYTES, PART, write_page

pytest_plugins = ["helpers.browser"]

Open = Callable[..., Page]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LONG = ["Left atrial appendage with the pulmonary veins", "Unverzichtbarkeitsbescheinigungsstelle", "a", "b"]

# Of every text that is shown: itself, its size and colour, and what is behind it
TEXTS = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element), drawn = element.ownerSVGElement;
    if (!walker.currentNode.textContent.trim() || !element.getBoundingClientRect().width) continue;
    if (element.matches("script, noscript, option")) continue;
    let behind = element;
    const ground = () => getComputedStyle(behind).backgroundColor;
    while (ground() === "rgba(0, 0, 0, 0)" && behind.parentElement) behind = behind.parentElement;
    const scale = drawn ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1;
    found.push({ text: walker.currentNode.textContent, tick: element.matches("text.x, text.y"), behind: ground(),
      size: scale * parseFloat(style.fontSize), colour: drawn ? style.fill : style.color });
  }
  return found;
}"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """The page of a content."""

    def written(contents: Any = None, progress: Path | None = None) -> Path:
        path = tmp_path / "report.html"
        write_page(json.loads(json.dumps(contents or made_up())), path, progress)
        return path

    return written


# ---------------------------------------------------------------------- on a phone
@pytest.mark.parametrize(
    "classes",
    [LONG, ["left_atrium_and_appendage_" * 3, "b"], [f"class {index}" for index in range(104)]],
    ids=["long names", "a name without a break", "many"],
)
def test_a_phone_needs_no_sideways_scrolling(classes: list[str], opened: Open, written: Callable[..., Path]) -> None:
    contents = made_up(classes, model="/a/very/long/path" * 9)
    page = opened(written(contents), **PHONE)
    for axis in contents["axes"]:
        page.locator("#axis").select_option(axis)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        for wrong in (
            "!e.ownerSVGElement && e.clientWidth && e.scrollWidth > e.clientWidth + 1",
            "e.getBoundingClientRect().right > 390.5",
        ):
            found = f"[...document.querySelectorAll('header, main *')].filter(e => {wrong}).map(e => e.outerHTML.slice(0, 80))"
            assert page.evaluate(found) == []
    assert opened(written(contents), viewport={"width": 1200, "height": 900}).evaluate(
        "document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth"
    )
    texts = page.evaluate(TEXTS)
    assert [of for of in texts if of["size"] < (11 if of["tick"] else 14)] == [] and len(texts) > 50


def test_a_tap_shows_a_member_until_one_taps_elsewhere(opened: Open, written: Callable[..., Path]) -> None:
    page = opened(written(), **PHONE)
    name, tip = made_up()["measured"][2]["name"], page.locator("#tip")
    expect(tip).to_be_hidden()
    page.locator("#chart").scroll_into_view_if_needed()
    for dismiss in (lambda: page.touchscreen.tap(20, 20), lambda: page.keyboard.press("Escape")):
        x, y = centre(page, name)
        page.touchscreen.tap(x - 8, y + 6)  # fingers are wider than points
        expect(tip).to_be_visible()
        assert tip.inner_text().startswith(name) and "decoder depth 2 \u2013 2" in tip.inner_text()
        box = tip.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
        dismiss()
        expect(tip).to_be_hidden()
        assert page.locator("#chosen").inner_text() == name, "its details stay"
    page.touchscreen.tap(x, y)
    page.locator("h2#over").tap()
    expect(tip).to_be_hidden()


def test_details_of_another_height_leave_the_tip(opened: Open, written: Callable[..., Path]) -> None:
    """Beside the chart they change its section, but not its width; a chart of another width is drawn anew."""
    contents = made_up([f"class {index}" for index in range(12)])
    contents["measured"][0]["classes"] = None
    page = opened(written(contents), viewport={"width": 1200, "height": 900})
    section = "document.getElementById('chart').parentElement.clientHeight"
    before = page.evaluate(section)
    page.mouse.click(*centre(page, contents["measured"][0]["name"]))
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(section) < before - 100
    expect(page.locator("#tip")).to_be_visible()
    page.set_viewport_size({"width": 1000, "height": 900})
    expect(page.locator("#tip")).to_be_hidden()
    assert page.evaluate("at('chart').viewBox.baseVal.width === at('chart').clientWidth")


# ---------------------------------------------------------------------- by keyboard
def test_members_are_reached_and_chosen_by_keyboard(opened: Open, written: Callable[..., Path]) -> None:
    contents = made_up()
    page, order = opened(written(contents)), [one["name"] for one in contents["members"]]
    focused = "document.activeElement.dataset.name ?? document.activeElement.id"

    def press(key: str) -> Any:
        page.keyboard.press(key)
        return page.evaluate(focused)

    assert [press("Tab"), press("Tab")] == ["axis", "budget"]
    best = page.locator("#chosen").inner_text()
    assert press("Tab") == best, "one stop for all members, the chosen one"
    here = order.index(best)
    assert press("ArrowLeft") == order[here - 1] and press("ArrowRight") == best and press("Home") == order[0]
    assert press("ArrowLeft") == order[0] and press("End") == order[-1] and press("ArrowRight") == order[-1]
    press("Home")
    assert press("ArrowRight") == order[1]
    tip = page.locator("#tip")
    expect(tip).to_contain_text(order[1])
    assert page.locator("#chosen").inner_text() == best
    style = "getComputedStyle(document.activeElement)"
    assert page.evaluate(f"{style}.strokeWidth") == "3px"
    assert page.evaluate(f"{style}.stroke") == page.evaluate("getComputedStyle(document.body).color"), "the focus is seen"
    assert press("Enter") == order[1] and page.locator("#chosen").inner_text() == order[1], "the focus stays"
    expect(tip).to_be_visible()
    press("Escape")
    expect(tip).to_be_hidden()
    assert page.locator("#said").inner_text().startswith(f"{order[1]}, Dice ")
    press("ArrowRight")
    assert press("Space") == order[2] and page.locator("#chosen").inner_text() == order[2]
    page.locator("#choices button").nth(3).focus()
    assert press("Enter") == order[3] and page.locator("#chosen").inner_text() == order[3], "in the table, too"
    assert page.evaluate(f"{style}.outlineStyle") == "solid"
    page.locator("#format").focus()
    assert press("ArrowDown") == "format" and "--format openvino" in page.locator("#command").inner_text()


def test_what_a_screen_reader_reads(opened: Open, written: Callable[..., Path]) -> None:
    page = opened(written())
    assert page.get_by_role("group", name="Dice over MACs a patch, 20 members").count() == 1
    options = page.get_by_role("listbox", name="members").get_by_role("option")
    assert options.count() == 20
    best = page.get_by_role("listbox").get_by_role("option", selected=True)  # and not the formats
    assert "best, front" in str(best.get_attribute("aria-label")) and page.get_by_role("slider", name="budget").count() == 1
    table = page.get_by_role("table", name="The front of MACs a patch, and what is scored on all 10 usable cases")
    heads = ["member", "Dice", "standard error", "cases of 10", "Dice Anterior", "Dice Posterior", "MACs a patch"]
    assert table.get_by_role("columnheader").all_inner_texts()[:7] == heads
    assert table.get_by_role("rowheader").all_inner_texts() == [one["name"] for one in made_up()["measured"]]
    assert page.locator("th:not([scope])").count() == 0 and page.locator("tr[aria-current=true]").count() == 1
    slide(page, 500)
    assert "over the budget" in str(options.nth(18).get_attribute("aria-label"))
    assert page.get_by_role("slider", name="budget").get_attribute("aria-valuetext") == page.locator("#limit").inner_text()


# ---------------------------------------------------------------------- colours
def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(scheme: Any, opened: Open, written: Callable[..., Path]) -> None:
    page = opened(written(), color_scheme=scheme)
    page.locator(".choice.best").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_be_visible()
    assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1) == (scheme == "dark")
    texts = page.evaluate(TEXTS)
    for of in texts:
        low, high = sorted(luminance(of[name]) for name in ("colour", "behind"))
        assert (high + 0.05) / (low + 0.05) >= 4.5, of
    assert len(texts) > 100 and any(of["text"].startswith("choice-") and "Dice" in of["text"] for of in texts)


# ---------------------------------------------------------------------- ticks
def number(label: str) -> float:
    digits, _, prefix = label.replace(",", "").partition("\u00a0")
    return float(digits) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]


BOXES = "(all) => all.map(e => e.getBBox()).map(b => [b.x, b.x + b.width, b.y, b.y + b.height])"
COSTS = [(2.4e8, 4.8e9), (101e6, 105e6), (3, 4e9), (0.9, 1.3), (999e3, 1.02e6), (7, 7), (40e3, 1.4e6)]


@pytest.mark.parametrize(
    ("width", "costs"),
    [
        (390, COSTS),  # where there is least room
        (1200, COSTS[::3]),
        pytest.param(1200, COSTS, marks=pytest.mark.slow),
    ],
    ids=["narrow", "wide", "all, wide"],
)
def test_ticks_are_round_numbers_at_their_places(
    width: int, costs: list[tuple[float, float]], opened: Open, written: Callable[..., Path]
) -> None:
    page = opened(written(), viewport={"width": width, "height": 900})
    for cheapest, dearest in costs:
        found = [
            entry(index + 1, {"a": score, "b": score}, None, macs=macs, memory_mb=macs / 1e6)
            for index, (score, macs) in enumerate([(0.61, cheapest), (0.83, (cheapest * dearest) ** 0.5), (0.87, dearest)])
        ]
        contents = made_up(measured=3, cases=2) | {"finalists": found, "measured": found}
        contents["members"] = [{**one, "expected": one["score"]} for one in found]
        page.goto(written(contents).as_uri())
        for axis, label in (("macs", "MACs a patch"), ("memory_mb", "memory, MB")):
            page.locator("#axis").select_option(axis)
            assert page.locator("#chart text.title").all_text_contents() == [label, "mean Dice"]
            for which in ("x", "y"):
                texts = page.locator(f"#chart text.{which}")
                values = [number(text) for text in texts.all_text_contents()]
                assert len(set(values)) == len(values) >= 2
                steps, powers = np.diff(values), 10 ** np.floor(np.log10(values))
                evenly = np.allclose(steps, steps[0]) and round(float(f"{steps[0]:.3e}"[0])) in (1, 2, 5)
                assert evenly or all(round(mantissa, 9) in (1, 2, 5) for mantissa in values / powers), values
                boxes = texts.evaluate_all(BOXES)
                for one, other in pairwise(boxes):
                    assert one[1] <= other[0] or one[0] >= other[1] or one[2] >= other[3] or one[3] <= other[2], "no overlap"
                assert min(box[0] for box in boxes) >= 0 and max(box[1] for box in boxes) <= page.evaluate(
                    "at('chart').clientWidth"
                )
        if cheapest < dearest:
            ends = [page.locator(f"circle[data-name={found[index]['name']}]").get_attribute("cx") for index in (0, 2)]
            first, last = (float(str(end)) for end in ends)
            values = [number(text) for text in page.locator("#chart text.x").all_text_contents()]
            places = page.locator("#chart line.tick").evaluate_all("(all) => all.map(e => e.x1.baseVal.value)")[: len(values)]
            share = np.log(np.array(values) * 1e6 / cheapest) / np.log(dearest / cheapest)
            assert places == pytest.approx(first + share * (last - first), abs=0.1)


# ---------------------------------------------------------------------- classes
def test_dice_by_class_is_in_the_details_and_in_columns_if_there_are_few(opened: Open, written: Callable[..., Path]) -> None:
    contents = made_up(["one", "two", "three", "four"])
    contents["measured"][-1]["classes"]["two"] = None
    contents["measured"][0]["classes"] = None
    page = opened(written(contents))
    assert page.locator("#classes tr").all_inner_texts() == ["one\t0.7500", "two\t\u2013", "three\t0.7300", "four\t0.7200"]
    heads = page.locator("#choices th[scope=col]").all_inner_texts()
    assert [head for head in heads if head.startswith("Dice ")] == ["Dice one", "Dice two", "Dice three", "Dice four"]
    (first, *_, last) = page.locator("#choices tbody tr").all_inner_texts()
    assert last.split("\t")[4:8] == ["0.7500", "\u2013", "0.7300", "0.7200"] and first.split("\t")[4:8] == ["\u2013"] * 4
    page.locator("#choices button").first.click()
    assert page.locator("#classes").count() == 0, "nothing is known of it by class"


def test_many_classes_are_no_columns_and_are_folded(opened: Open, written: Callable[..., Path]) -> None:
    page = opened(written(made_up([f"organ {index}" for index in range(104)])))
    assert page.locator("#choices th", has_text="organ").count() == 0
    expect(page.locator("#classes")).to_be_hidden()
    page.locator("summary", has_text="104 classes").click()
    expect(page.locator("#classes")).to_be_visible()
    assert page.locator("#classes tbody tr").count() == 104


# ---------------------------------------------------------------------- the error
def test_members_within_the_error_of_the_recommended_one_are_marked(opened: Open, written: Callable[..., Path]) -> None:
    """By the standard error of the difference on the same cases, which a case that is hard for all does not widen."""
    contents = made_up(members=30, measured=30, cases=12)
    generator = np.random.default_rng(1)
    hard = generator.uniform(0.3, 0.8, 12)
    for index, one in enumerate(contents["measured"]):
        scores = hard + 0.0005 * index + generator.normal(0, 0.02, 12)
        one.update(entry(index + 1, {f"case_{i:03}": float(score) for i, score in enumerate(scores)}, None))
    contents["members"] = [{**one, "expected": one["score"]} for one in contents["measured"]]
    page = opened(written(contents))
    for value in (1000, 600):
        slide(page, value)
        limit = page.evaluate("limit()")
        within = [one for one in contents["measured"] if one["price"]["macs"] <= limit]
        best = max(within, key=lambda one: one["score"])
        wanted = set()
        for one in within:
            gaps = np.array(list(best["scores"].values())) - list(one["scores"].values())
            if one is not best and abs(gaps.mean()) <= gaps.std(ddof=1) / 12**0.5:
                wanted.add(one["name"])
        rows = [row.split("\t") for row in page.locator("#choices tbody tr").all_inner_texts()]
        assert {row[0] for row in rows if "≈ best" in row[-1]} == wanted and 0 < len(wanted) < 10
        assert [row[0] for row in rows if row[-1].startswith("best")] == [best["name"]]
        assert set(page.locator(".choice.alike").evaluate_all("(all) => all.map(e => e.dataset.name)")) == wanted
        assert page.locator("#chart .ring").count() == len(wanted)
        said = page.locator("#alike").inner_text()
        assert (
            best["name"] in said and "within one standard error of this difference" in said and f"{len(wanted)} member" in said
        )
        cheapest = min(wanted, key=lambda name: next(one["price"]["macs"] for one in within if one["name"] == name))
        assert f"Within its error and cheaper: {cheapest}" in page.locator("#instead").inner_text()
    page.locator("#instead button").click()
    assert page.locator("#chosen").inner_text() == cheapest
    assert page.locator("#instead").inner_text() == f"Within the error of the recommended member, {best['name']}."


def test_a_single_case_has_no_error(opened: Open, written: Callable[..., Path]) -> None:
    page = opened(written(made_up(cases=1)))
    assert page.locator(".ring").count() == 0 and page.locator("#alike").inner_text().endswith("No member is marked so.")


# ---------------------------------------------------------------------- what is put in
def test_nothing_in_the_content_is_markup(opened: Open, written: Callable[..., Path]) -> None:
    evil = "</script><script>alert(1)</script></title><img src=x onerror=alert(2)>\"' /* script */ \\"
    contents = made_up([evil, "__proto__"], task=evil, model=evil, date=evil)
    contents["device"]["name"] = evil
    contents["cases"]["left_out"] = {evil: evil, "__proto__": None}
    contents["stages"] = [{"name": evil, "first_epoch": evil, "train": [evil, [evil]], "teacher": evil}]
    contents["monitor"] = [{"dimension": evil, "epoch": evil, "verdict": "closed"}]
    for one in {id(one): one for one in [*contents["measured"], *contents["members"]]}.values():
        one |= {"name": f"{one['name']}{evil}", "command": evil, "subnet": {evil: [evil], "__proto__": [1]}}
        one["scores"] = {f"{name}{evil}": score for name, score in one["scores"].items()} | {"__proto__": 0.5}
    page = opened(written(contents))
    assert page.title() == page.locator("h1").inner_text() == f"{evil} - monai-prox search"
    assert page.locator("script").count() == 2 and page.locator("img").count() == 0
    assert page.locator("#classes th").all_inner_texts() == [evil, "__proto__"]
    page.locator("#choices button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#chosen").inner_text() == contents["measured"][0]["name"]
    page.locator(".choice").first.focus()
    page.keyboard.press("ArrowRight")
    assert evil in page.locator("#tip").inner_text()
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert PART.search(written().read_text().replace(page.content(), "")) is None


def test_the_plot_of_the_training_is_in_the_page(tmp_path: Path, opened: Open, written: Callable[..., Path]) -> None:
    plot = tmp_path / "prox_progress.png"
    Image.new("RGB", (64, 48), "red").save(plot)
    page = opened(written(progress=plot))
    image = page.get_by_role("img", name="Progress of the training")
    assert image.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [64, 48]
    assert image.get_attribute("src") == "data:image/png;base64," + b64encode(plot.read_bytes()).decode()
    for content in (b"<svg onload=alert(1)>", plot.read_bytes() + bytes(MOST_BYTES), b""):
        plot.write_bytes(content)
        assert "<img" not in written(progress=plot).read_text()
    assert "<img" not in written(progress=tmp_path / "missing.png").read_text()


# ---------------------------------------------------------------------- pictures
@pytest.mark.slow
def test_the_pictures_of_the_documentation_are_taken(browser: Browser, tmp_path: Path, written: Callable[..., Path]) -> None:
    pictures = SCREENSHOTS["take"](browser, written(), tmp_path)
    there = [Path(SCREENSHOTS["__file__"]).parent / path.name for path in pictures]
    for path, width in zip([*pictures, *there], [1200, 780, 1200, 780], strict=True):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert image.width == width and path.stat().st_size < 150_000
