"""Tables and figures in documents, between markers that name the claim they come from.

<!-- table CLAIM: COLUMN, COLUMN | CONTENDER, CONTENDER -->     columns and contenders may be left out
...
<!-- end -->

<!-- figure CLAIM.FIGURE -->0.20<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.quantities import markdown
from benchmarks.registry import Claim

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/**/*.md", "bundles/*/docs/README.md")
MARKED = re.compile(r"<!-- (?P<kind>table|figure) (?P<what>[^>]+?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)


def documents(root: Path = ROOT) -> Iterator[Path]:
    for pattern in DOCUMENTS:
        yield from sorted(root.glob(pattern))


def rewritten(text: str, claims: Mapping[str, Claim]) -> str:
    """The text with all that is marked made anew. Raises KeyError for a claim, column or contender that is not known."""

    def anew(marked: re.Match[str]) -> str:
        kind, what = marked["kind"], marked["what"]
        made = _table(what, claims) if kind == "table" else _figure(what, claims)
        return f"<!-- {kind} {what} -->{made}<!-- end -->"

    return MARKED.sub(anew, text)


def _table(what: str, claims: Mapping[str, Claim]) -> str:
    asked, _, of = what.partition("|")
    name, _, columns = asked.partition(":")
    claim = claims[name.strip()]
    rows = _words(of) or list(claim.found)
    return f"\n{markdown({row: claim.found[row] for row in rows}, _words(columns) or claim.columns)}\n"


def _figure(what: str, claims: Mapping[str, Claim]) -> str:
    name, _, figure = what.partition(".")
    asked = claims[name].figures[figure]
    return asked.written(asked.measured(claims[name].found))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
