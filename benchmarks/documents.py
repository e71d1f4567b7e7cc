"""Tables and figures in documents, between markers that name the claim they come from.

<!-- table CLAIM: COLUMN, COLUMN | CONTENDER, CONTENDER -->     columns and contenders may be left out
...
<!-- end -->

<!-- figure CLAIM.FIGURE -->0.20<!-- end -->

A document in which one of them is not closed, or is written in another way, is refused: what stands between would be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.quantities import markdown
from benchmarks.registry import Claim

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/**/*.md", "bundles/*/docs/README.md")
END = "<!-- end -->"
BEGIN = re.compile(r"<!-- (?P<kind>table|figure) (?P<what>[^>]+?) -->")
MARKED = re.compile(rf"{BEGIN.pattern}.*?{END}", re.DOTALL)
LIKE_MARKERS = re.compile(r"<!--\s*(?:(?:table|figure)\b.*?|end\s*)-->", re.DOTALL | re.IGNORECASE)


def documents(root: Path = ROOT) -> Iterator[Path]:
    for pattern in DOCUMENTS:
        yield from sorted(root.glob(pattern))


def rewritten(text: str, claims: Mapping[str, Claim]) -> str:
    """The text with all that is marked made anew.

    Raises KeyError for a claim, column, contender or figure that is not known, and ValueError for markers that are not closed,
    lie within each other or are not written as above.
    """
    _check_markers(text)

    def anew(marked: re.Match[str]) -> str:
        kind, what = marked["kind"], marked["what"]
        try:
            made = _table(what, claims) if kind == "table" else _figure(what, claims)
        except KeyError as error:
            raise KeyError(f"<!-- {kind} {what} --> names {error}, which is not known") from None
        return f"<!-- {kind} {what} -->{made}{END}"

    return MARKED.sub(anew, text)


def _check_markers(text: str) -> None:
    opened = None
    for found in LIKE_MARKERS.finditer(text):
        marker = found.group()
        if marker != END and not BEGIN.fullmatch(marker):
            raise ValueError(
                f"{marker:.80} is no marker, which are <!-- table CLAIM -->, <!-- figure CLAIM.FIGURE --> and {END}"
            )
        if opened is None and marker == END:
            raise ValueError(f"{marker} closes nothing")
        if opened is not None and marker != END:
            raise ValueError(f"{opened:.80} is not closed before {marker:.80}")
        opened = None if marker == END else marker
    if opened is not None:
        raise ValueError(f"{opened:.80} is not closed by {END}")


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
