"""What mkdocs does beside its plugins: a hook, see mkdocs.yml.

Pages are written to be read in the repository, too. So links may lead to files elsewhere in it: those that readers need become
pages of the site, and other links become their text. The notebook becomes a page. Lists of commands and of public names are
made from the package. The markers of figures and tables, see benchmarks/documents.py, are removed.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from os.path import relpath
from pathlib import Path
from posixpath import dirname
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Files of the repository that are pages or pictures of the site, too: by their path in it, the path among the pages
ELSEWHERE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    **{str(path.relative_to(ROOT)): f"bundles/{path.parts[-3]}.md" for path in ROOT.glob("bundles/*/docs/README.md")},
    **{str(path.relative_to(ROOT)): f"results/{path.parts[-2]}.png" for path in ROOT.glob("benchmarks/results/*/plot.png")},
    "README.md": "index.md",
}
NOTEBOOKS = {str(path.relative_to(DOCS)): str(path.relative_to(DOCS).with_suffix(".md")) for path in DOCS.glob("**/*.ipynb")}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```[ ]*$|~~~.*?^~~~[ ]*$)", re.MULTILINE | re.DOTALL)
ROOMS = {
    "": "Setup",
    "core": "Supernet, search space and costs",
    "families": "Families of networks",
    "training": "Training",
    "data": "Tasks and plans",
    "trained": "Trained families",
    "export": "Export",
    "errors": "Errors",
}


# ---------------------------------------------------------------------- events of mkdocs
def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in ELSEWHERE.items():
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for source, target in NOTEBOOKS.items():
        files.append(File.generated(config, target, content=notebook((DOCS / source).read_text(encoding="utf-8"), source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    name = page.file.src_uri
    made = {source: name for name, source in ELSEWHERE.items() if source != "index.md"}
    origin = made.get(name, f"docs/{name}")
    insertions: dict[str, Callable[[], str]] = {
        "<!-- commands -->": commands,
        "<!-- api monai_prox -->": lambda: api("monai_prox"),
        "<!-- api monai_prox.bundle -->": lambda: api("monai_prox.bundle"),
    }
    for marker, text in insertions.items():
        if marker in markdown:
            markdown = markdown.replace(marker, text())
    markdown = without_markers(markdown)
    return outside_code(markdown, lambda text: LINK.sub(lambda link: relinked(link, origin, name, files), text))


# ---------------------------------------------------------------------- parts
def without_markers(markdown: str) -> str:
    """The text without the markers of figures and tables, whose lines would begin blocks of HTML."""
    markdown = re.sub(r"^<!-- (?:table [^>]+|end|(?:end of the )?gpu table) -->\n", "", markdown, flags=re.MULTILINE)
    return re.sub(r"<!-- figure [^>]+? -->(.*?)<!-- end -->", r"\1", markdown, flags=re.DOTALL)


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with everything changed but fenced code."""
    return "".join(part if index % 2 else change(part) for index, part in enumerate(FENCE.split(markdown)))


def relinked(link: re.Match[str], origin: str, page: str, files: Files) -> str:
    """A link of a page as the site has it.

    Args:
        link: the link.
        origin: path in the repository of the file that has it.
        page: path of its page among the pages.
        files: all files of the site.
    """
    target = link["target"]
    if not target or ":" in target:
        return link[0]
    path = relpath(ROOT / dirname(origin) / target, ROOT)  # of the repository
    within = path.removeprefix("docs/") if path.startswith("docs/") else ELSEWHERE.get(path, "")
    within = NOTEBOOKS.get(within, within)
    if files.get_file_from_path(within) is None:
        if not (ROOT / path).exists():
            return link[0]  # mkdocs says that it leads nowhere
        return link["text"]
    return f"{link['image']}[{link['text']}]({relpath(within, dirname(page) or '.')}{link['anchor'] or ''})"


def commands() -> str:
    """Every command with its options, a heading a command, as Typer writes them."""
    command = [sys.executable, "-m", "typer", "monai_prox.cli.app", "utils", "docs", "--name", "monai-prox"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the commands cannot be listed: {done.stderr[-2000:]}")
    listed = done.stdout.partition("\n")[2]  # without the title
    listed = re.sub(r"^\*\*Commands\*\*:\n\n(?:\* .*\n)+", "", listed, flags=re.MULTILINE)  # they follow with all their words
    listed = re.sub(r"^Example: (.*)$", r"Example: `\1`", listed, flags=re.MULTILINE)
    return (
        listed.replace("```console\n$ ", "```bash\n")
        .replace("**Usage**:\n\n", "")
        .replace("**Options**:", "Options:")
        .replace("**Arguments**:", "Arguments:")
    )


def api(module: str) -> str:
    """A section a room of the package, with the public names in it, see mkdocstrings."""
    tree = ast.parse(Path(ROOT, *module.split("."), "__init__.pyi").read_text(encoding="utf-8"))
    rooms: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            room = node.module.partition(".")[0]
            rooms.setdefault(room, []).extend(f"{module}.{alias.name}" for alias in node.names)
    if module != "monai_prox":
        return listing([name for names in rooms.values() for name in names], 2)
    return "\n".join(f"## {ROOMS[room]}\n\n{listing(names, 3)}" for room, names in rooms.items())


def listing(names: list[str], level: int) -> str:
    return "".join(f"::: {name}\n    options:\n      heading_level: {level}\n\n" for name in names)


def notebook(text: str, source: str) -> str:
    """A notebook with its outputs as Markdown. Pictures are within it."""
    return "\n\n".join(cells(json.loads(text), Path(source).name))


def cells(content: dict[str, Any], name: str) -> Iterator[str]:
    for number, cell in enumerate(content["cells"]):
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            yield source
        elif cell["cell_type"] == "code":
            yield f"```python\n{source}\n```"
            yield from filter(None, map(output, cell["outputs"]))
        if number == 0:
            yield f"This page is a notebook: [download {name}]({name}){{ download={name} }}."


def output(shown: dict[str, Any]) -> str:
    """What a cell has printed or returned."""
    data = shown.get("data", {})
    if "image/png" in data:
        return f"![Output of the cell](data:image/png;base64,{''.join(data['image/png']).strip()})"
    text = "".join(shown.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""
