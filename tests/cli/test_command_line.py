"""What all commands have in common: help, examples, the version, completion, and how options are spelt."""

import ast
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.commands import fresh
from helpers.in_process import prox

import monai_prox
from monai_prox.cli import completion
from monai_prox.cli.app import app, main
from monai_prox.families.unet_choices import CHOICES
from monai_prox.latency.pack import RUNTIMES
from monai_prox.runtime.options import FORMATS as OUTPUT_FORMATS
from monai_prox.runtime.providers import PROVIDERS
from monai_prox.search.budget import UNITS
from monai_prox.trained.nnunet_folder import CHECKPOINTS
from monai_prox.trained.source import FILES, FOLDERS
from monai_prox.training.idle_time import MOST
from monai_prox.training.recipes import RECIPES
from monai_prox.training.updates_per_batch import FILL


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups, by the words that they are called with."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands())
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}
DOCS = Path(__file__).parents[2] / "docs"
WRITING = [
    ("demo",),
    ("export",),
    ("publish",),
    ("predict",),
    ("calibrate",),
    ("search",),
    ("profile", "pack"),
    ("profile", "measure"),
]
OTHER_NAMES = {("demo",): ["--work"], ("publish",): ["--to"]}  # as 0.1 has it; as one publishes to a place


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help_that_ends_with_an_example(path: tuple[str, ...], option: str) -> None:
    done = prox(*path, option)
    assert done.code == 0 and done.err == ""
    assert " ".join(["Usage: monai-prox", *path]) in " ".join(done.out.split())
    last = done.out.strip().rpartition("\n\n")[2].splitlines()[-1].strip()
    assert re.match(r"Example: monai-prox \w+", last), last


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_the_example_is_taken_by_the_command(path: tuple[str, ...]) -> None:
    words = shlex.split(LEAVES[path].epilog.removeprefix("Example: "))
    assert words[: len(path) + 1] == ["monai-prox", *path]
    assert LEAVES[path].make_context(path[-1], words[len(path) + 1 :]).command is LEAVES[path]  # a UsageError else


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_helps_are_sentences(path: tuple[str, ...]) -> None:
    command = LEAVES[path]
    for text in (command.help, *(parameter.help for parameter in command.params if parameter.name != "help")):
        assert text and text[0].isupper() and text.rstrip().endswith("."), text


def test_the_installed_command_says_the_package_s_version() -> None:
    """In a new Python."""
    assert fresh(["monai-prox", "--version"], os.environ).stdout == f"monai-prox {monai_prox.__version__}\n"


def test_the_package_is_a_command_whose_help_imports_no_torch(tmp_path: Path) -> None:
    code = "import runpy, sys\ntry:\n    runpy.run_module('monai_prox', run_name='__main__')\nexcept SystemExit:\n    pass\n"
    slow = ("torch", "numpy", "scipy", "nnunetv2", "monai", "matplotlib", "onnxruntime", "optuna")
    done = fresh(
        ["-c", f"{code}print(*sorted({{*{slow}}} & {{*sys.modules}}), 'end')", "--help"], os.environ, launcher=["-X", "utf8"]
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: monai-prox [OPTIONS] COMMAND" in done.stdout and done.stdout.splitlines()[-1].split() == ["end"]


@pytest.mark.parametrize("path", WRITING, ids=" ".join)
def test_what_a_command_writes_is_output(path: tuple[str, ...]) -> None:
    (output,) = (parameter for parameter in LEAVES[path].params if parameter.name == "output")
    assert output.opts == ["-o", "--output", *OTHER_NAMES.get(path, [])]


THREADED = [path for path, command in LEAVES.items() if any(parameter.name == "threads" for parameter in command.params)]


@pytest.mark.parametrize("path", THREADED, ids=" ".join)
def test_more_threads_than_a_machine_has_are_refused(path: tuple[str, ...]) -> None:
    """ONNX Runtime would start for hours."""
    done = prox(*path, "--threads", 100_000)
    assert done.code == 2 and "--threads" in done.err and "1024" in done.err  # Typer's versions word the rest differently


def test_the_script_on_a_device_spells_it_alike() -> None:
    tree = ast.parse(Path(monai_prox.__file__).with_name("latency").joinpath("measure.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "parser.add_argument"]
    assert [ast.literal_eval(word) for word in calls[0].args] == ["-o", "--output"]


# ---------------------------------------------------------------------- completion
def completed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What bash is told to complete the last of ``words`` to."""
    monkeypatch.setenv("_MONAI_PROX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", shlex.join(["monai-prox", *words]).replace("''", ""))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return prox().out.splitlines()


def test_completion_can_be_shown_and_installed() -> None:
    said = prox("--help").out
    assert "--install-completion" in said and "--show-completion" in said


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("fam",), ["family"]),
        (("profile", ""), ["pack", "measure"]),
        (("export", "--format", ""), ["nnunet", "bundle", "onnx", "openvino", "torchscript", "html"]),
        (("export", "--format", "o"), ["onnx", "openvino"]),
        (("export", "--checkpoint", "l"), ["latest"]),
        (("search", "--minimise", "m"), ["macs", "memory_mb"]),
        (("profile", "measure", "--runtime", "t"), ["torch"]),
        (("profile", "measure", "--device", "c"), ["cpu", "cuda"]),
        (("plan", "4", "--recipe", "prox"), ["prox", "prox_paper"]),
        (("plan", "4", "--space", ""), ["default", "paper"]),
        (("family", "-d", "4", "-c", "3d_f"), ["3d_fullres"]),
    ],
)
def test_values_are_completed(words: tuple[str, ...], values: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, *words) == values


def test_completed_values_are_those_that_are_known() -> None:
    assert set(completion.FORMATS) == {*FOLDERS, *FILES}
    assert set(completion.CHECKPOINTS) == set(CHECKPOINTS)
    assert set(completion.RECIPES) == set(RECIPES)
    assert set(completion.SPACES) == set(CHOICES)
    assert (*map(str, range(1, MOST + 1)), FILL) == completion.UPDATES
    assert set(completion.COSTS) == set(UNITS)
    assert set(completion.RUNTIMES) == set(RUNTIMES)
    assert set(completion.PROVIDERS) == set(PROVIDERS)
    assert set(completion.OUTPUTS) == set(OUTPUT_FORMATS)


def test_profiles_are_completed_to_json_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clinic.json", "clinic.zip", "other.json", ".hidden.json"):
        (tmp_path / name).touch()
    (tmp_path / "closet").mkdir()
    assert completion.complete_profile("") == ["clinic.json", "closet/", "other.json"]
    assert completion.complete_profile("./cl") == ["./clinic.json", "./closet/"]
    assert completion.complete_profile("nowhere/") == []
    assert completed(monkeypatch, "search", "MODEL", "--profile", "cl") == ["clinic.json", "closet/"]


def test_datasets_are_completed_where_nnunet_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = completion.complete_dataset("nnUNet_results")
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert complete("") == []
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    for name in ("Dataset004_Hippocampus", "Dataset990_Phantom", "other"):
        (tmp_path / name).mkdir()
    assert complete("") == ["Dataset004_Hippocampus", "Dataset990_Phantom"]
    assert complete("Dataset9") == ["Dataset990_Phantom"]
    assert completed(monkeypatch, "family", "-d", "Dataset0") == ["Dataset004_Hippocampus"]


def test_the_page_has_an_example_of_every_command_that_the_command_takes() -> None:
    page = DOCS / "how-to" / "command-line.md"
    lines = [shlex.split(line) for line in re.findall(r"^monai-prox .*$", page.read_text(), re.MULTILINE)]
    seen = set()
    for line in lines:
        path = tuple(line[1:3]) if tuple(line[1:3]) in LEAVES else (line[1],)
        LEAVES[path].make_context(path[-1], line[len(path) + 1 :])
        seen.add(path)
    assert {*LEAVES} - seen == {("trainers",)}, "which stands within export"


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_in_the_documentation_are_commands(page: Path) -> None:
    """With options that they take; whether they do what the page says, other tests show."""
    for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^monai-prox .*$", block, re.MULTILINE):
            words = shlex.split(line.partition(" && ")[0], comments=True)
            path = tuple(words[1:3]) if tuple(words[1:3]) in LEAVES else (words[1],)
            LEAVES[path].make_context(path[-1], words[len(path) + 1 :])  # a UsageError else


def test_a_console_without_a_character_shows_another_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, whose pipes have an encoding of the country."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    monkeypatch.setattr("monai_prox.cli.app.app", lambda **_: print("µ, 肝"))
    main()
    sys.stdout.flush()
    assert written.getvalue().decode("cp1252").strip() == "µ, ?"
