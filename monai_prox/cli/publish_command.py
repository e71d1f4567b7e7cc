"""``monai-prox publish`` and ``upload``: a family for the MONAI model zoo and Hugging Face."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from monai_prox.cli.model_argument import on_model
from monai_prox.cli.terminal import CheckpointOption, FoldOption, open_family, say, say_failed, say_origin
from monai_prox.errors import ProXError

ASKED = {  # what only people can say, in words
    "authors": "Authors of the weights",
    "licence": "Licence of the weights, such as apache-2.0 or cc-by-4.0",
    "copyright": "Copyright of the weights, such as Copyright (c) 2026 Our Clinic",
}


@on_model
def publish(
    model: Path,
    *,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", "--to", help="The folder to write. Bundles begin with its name.", metavar="DIR"),
    ],
    fold: FoldOption = None,
    checkpoint: CheckpointOption = None,
    dataset: Annotated[
        Path | None, typer.Option(help="The training's images, for classifiers whose members are not named.")
    ] = None,
    members: Annotated[
        list[str] | None,
        typer.Option(
            help="A member: a name that `family` lists, or a JSON file with a subnet. It may be repeated. By default it is all "
            "that have names.",
        ),
    ] = None,
    authors: Annotated[str | None, typer.Option(help="The authors of the weights.")] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            help="The licence of the weights, a tag of Hugging Face such as apache-2.0 or cc-by-sa-4.0, or other.",
        ),
    ] = None,
    licence_name: Annotated[
        str | None,
        typer.Option("--licence-name", "--license-name", help="The name of another licence, such as my-license-1.0."),
    ] = None,
    licence_file: Annotated[
        Path | None,
        typer.Option("--licence-file", "--license-file", help="The text of the licence, which goes into the file LICENSE."),
    ] = None,
    copyright: Annotated[str | None, typer.Option(help="The copyright of the weights, a line of text.")] = None,
    version: Annotated[str, typer.Option(help="The version of the bundles.")] = "0.1.0",
    owner: Annotated[
        str | None, typer.Option(help="The user or organisation on Hugging Face that the bundles will belong to.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Another place of the weights, for large_files.yml: a file is URL/BUNDLE/models/model.pt."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The name that bundles begin with, if it is not that of DIR.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="The file of the model zoo's schema of metadata. By default it is downloaded.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write a family for the MONAI model zoo and Hugging Face: a card, a bundle a member, and what tests them."""
    from monai_prox.export.publishing.details import Details
    from monai_prox.export.publishing.folder import publish as write
    from monai_prox.export.publishing.licence import Licence

    said = asked(authors=authors, licence=licence, copyright=copyright)
    details = Details(
        authors=said["authors"],
        copyright=said["copyright"],
        licence=Licence.of(said["licence"], name=licence_name, file=licence_file),
        version=version,
        owner=owner,
        url=url,
    )
    source = open_family(model, fold, dataset, checkpoint, "a bundle")
    with _each_warning_once():  # not for every member
        done = write(source, members or (), output, details, name=name, schema=schema, overwrite=overwrite)
    checks = [f"{bundle}: {'; '.join(found)}" for bundle, found in done.checks.items()]
    lines = [f"cd {shlex.quote(str(output))} && python {done.tests[0]}"]
    if (of_family := source.family().license) is not None:
        lines.append(f"Of the family's weights it is said: {of_family}. {details.licence.name} has to agree with that")
    if details.licence.text is None:
        lines.append(f"LICENSE names {details.licence.name}, without its text; --licence-file puts it there")
    if owner is None and url is None:
        lines.append("There is no large_files.yml: --owner or --url says where the weights will be")
    if owner is not None:
        lines.append(f"monai-prox upload {shlex.quote(str(output))} --owner {owner}")
    say(str(output), *checks, *lines)
    say_origin(source)


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Python's own filter for this forgets what it has shown as soon as any code changes the filters for a moment."""
    show, shown = warnings.showwarning, set[str]()

    def show_new(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            show(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():  # which restores the function, too
        warnings.showwarning = show_new
        yield


def upload(
    folder: Annotated[Path, typer.Argument(help="The folder that publish has written.", metavar="DIR")],
    owner: Annotated[str, typer.Option(help="The user or organisation on Hugging Face, as publish was told.")],
    name: Annotated[str | None, typer.Option(help="The name of the family, if it is not that of DIR.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make repositories that everybody sees.")] = False,
    latest: Annotated[
        bool, typer.Option("--latest", help="Tag the version as the one that MONAI downloads if none is named.")
    ] = False,
) -> None:
    """Upload a published family to Hugging Face, with the token of HF_TOKEN or `hf auth login`. Exit code 1 if one failed."""
    from monai_prox.export.publishing.hub import upload as send

    failed = {}
    for address, problem in send(folder, owner, name=name, public=public, latest=latest):
        if problem is None:
            say(address)
        else:
            failed[address] = problem
    say_failed(failed)
    if failed:
        raise typer.Exit(1)


def asked(**given: str | None) -> dict[str, str]:
    """What was given, and what somebody at the terminal answers for the rest.

    Args:
        given: values by the names of options, None for those that were left out.

    Raises:
        ProXError: one was left out, and there is no terminal to ask at.
    """
    lacking = [name for name, value in given.items() if value is None]
    if lacking and not sys.stdin.isatty():
        options = ", ".join(f"--{name}" for name in lacking)
        raise ProXError(f"give {options}: what only you can say of the weights, and what is never guessed")
    return {name: typer.prompt(ASKED[name]) if value is None else value for name, value in given.items()}
