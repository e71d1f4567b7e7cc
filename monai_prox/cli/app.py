"""The command ``monai-prox``. Thin: what a command needs is imported inside it, so that help is quick."""

from __future__ import annotations

import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from monai_prox.cli.adopt_command import adopt
from monai_prox.cli.calibrate_command import calibrate
from monai_prox.cli.certificate_commands import certify, verify
from monai_prox.cli.demo_command import demo
from monai_prox.cli.doctor_command import doctor, trainers
from monai_prox.cli.export_command import export
from monai_prox.cli.family_command import family
from monai_prox.cli.init_bundle_command import init_bundle
from monai_prox.cli.model_argument import ModelCommand
from monai_prox.cli.overlay_command import overlay
from monai_prox.cli.plan_command import plan
from monai_prox.cli.predict_command import predict
from monai_prox.cli.profile_command import profile
from monai_prox.cli.publish_command import publish, upload
from monai_prox.cli.search_command import search
from monai_prox.cli.terminal import example
from monai_prox.errors import ProXError, printable

NAME = "monai-prox"  # also of ``python -m monai_prox``, so that messages and shell completion name the command
PYTHONS_FORMAT = warnings.formatwarning

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
for command, line in (
    (demo, "demo --quick"),
    (plan, "plan 4 -c 3d_fullres --space paper --recipe prox_paper"),
    (adopt, "adopt -d 4 -tr nnUNetTrainer"),
    (overlay, "overlay spleen_ct_segmentation"),
    (init_bundle, "init-bundle msd_prox liver_prox --task Task03_Liver"),
    (export, "export -d 4 --subnet smallest"),
    (predict, "predict smallest.onnx -i IMAGES -o SEGMENTATIONS"),
    (certify, "certify smallest.onnx --images IMAGES --labels LABELS"),
    (verify, "verify smallest.onnx --images IMAGES --labels LABELS"),
    (calibrate, "calibrate large.onnx -s small.onnx -i IMAGES -l LABELS"),
    (search, "search -d 4 --max-params 2M"),
    (family, "family -d 4"),
    (publish, "publish -d 4 --to hippocampus_mri"),
    (upload, "upload hippocampus_mri --owner our-clinic"),
    (doctor, "doctor"),
    (trainers, "trainers"),
):
    app.command(epilog=example(line), cls=ModelCommand)(command)
app.add_typer(profile, name="profile", epilog=example("profile measure -d 4 -o device.json"))


def _print_version(asked: bool) -> None:
    if asked:
        import monai_prox

        print(f"{NAME} {monai_prox.__version__}")
        raise typer.Exit


@app.callback(epilog=example("demo --quick"))
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Once-for-all supernets for nnU-Net and MONAI, trained by progressive expansion."""


def main() -> None:
    """Entry point: errors that users can mend are one line and exit code 1."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # of packages that nnU-Net imports
    warnings.formatwarning = format_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # into a pipe, Windows writes an encoding that lacks most characters
            stream.reconfigure(errors="replace")
    try:
        app(prog_name=NAME)
    except ProXError as error:
        message = " ".join(str(error).split())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("monai_prox"):
            raise
        from monai_prox.requirements import missing

        message = f"this command needs a package: {missing(error.name)}"
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
    else:
        return
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(printable(message))}", highlight=False)
    sys.exit(1)


def format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of this package is for users, a line without the code that gave it; others as Python has them."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"warning: {printable(str(message))}\n"
    return PYTHONS_FORMAT(message, category, filename, lineno, line)
