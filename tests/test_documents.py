"""Documents that are drawn, run or quoted from something: they are of what is there now."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from helpers.bundle_commands import ROOT

from benchmarks import records
from benchmarks.registry import RESULTS

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *ROOT.glob("bundles/*/docs/README.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    """Those within the site, with their anchors, mkdocs checks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in LINK.findall(text) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_figure_begins_a_line(page: Path) -> None:
    """There its marker would be a block of HTML, and end the paragraph."""
    assert not re.findall(r"^\s*<!-- figure .*$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs asks for it, too, but is not installed everywhere."""
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page for page in DOCS.glob("**/*.md") if str(page.relative_to(DOCS)) not in listed]


def test_the_front_is_drawn_from_the_committed_results(tmp_path: Path) -> None:
    pictures = runpy.run_path(str(DOCS / "pictures.py"))
    drawn = pictures["drawn_from"](records.read(RESULTS / pictures["CLAIM"]))
    assert drawn.digest in (DOCS / "front.svg").read_text(), "python docs/pictures.py"
    pictures["draw_front"](drawn, tmp_path / "front.svg")
    pictures["draw_supernet"](tmp_path / "supernet.svg")
    assert drawn.digest in (tmp_path / "front.svg").read_text()
    costs = [point.gmacs for point in pictures["front"](drawn.points["prox"])]
    assert costs == sorted(costs) and len(costs) > 2


@pytest.fixture(scope="module")
def said() -> str:
    """All texts in the package's code, those with values in them in parts, one below the other."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "monai_prox").glob("**/*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_messages_that_are_explained_are_messages(said: str) -> None:
    page = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert len(explained) > 15
    for message in explained:
        missing = [part for part in message.split("...") if part.strip() not in said]
        assert not missing, f"{message}: nothing says {missing}"


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """With fewer steps than in the page."""
    notebook = json.loads((DOCS / "tutorials" / "python.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code = "\n\n".join(cells)
    assert code.count("EPOCHS, STEPS = 20, 40\n") == 1
    names: dict[str, object] = {}
    exec(code.replace("EPOCHS, STEPS = 20, 40\n", "EPOCHS, STEPS = 5, 1\n"), names)
    assert capsys.readouterr().out.splitlines()[-1] == "PlainConvUNet True"
