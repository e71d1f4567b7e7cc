"""Which options of ``monai-prox export`` go with which format and which kind of family: what would be ignored is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from monai_prox.errors import ProXError
from monai_prox.runtime.kinds import SEGMENTATION, Kind
from monai_prox.trained.source import EVERY, FILES, FOLDERS, Trained

WORDS = ("all", "every")  # nnU-Net's fold that trains on all cases, and all folds that hold some out
SMALLER = ("onnx", "openvino")  # formats that have other precisions than float32


def folds_of(given: Sequence[str]) -> tuple[str, ...]:
    """Folders' names of what --fold was given: "0", "0,1", "0 1" or one of WORDS, once or several times; () for nothing.

    Raises ProXError for others.
    """
    words = [word for text in given for word in re.split(r"[,\s]+", text.strip())]
    if wrong := [word for word in words if word not in WORDS and not re.fullmatch(r"[0-9]{1,4}", word)]:
        raise ProXError(f"--fold is one or more numbers such as 0 or 0,1,2, or {' or '.join(WORDS)}; got {wrong[0]!r:.80}")
    return tuple(dict.fromkeys(f"fold_{word if word in WORDS else int(word)}" for word in words))


def one_fold(folds: Sequence[str], what: str) -> str | None:
    """The only one of ``folds``, None if there is none. Raises ProXError where there are more, for ``what`` is of one."""
    if len(folds) > 1 or EVERY in folds:
        numbers = ", ".join(fold.removeprefix("fold_") for fold in folds)
        raise ProXError(f"{what} has the network of one fold; give one --fold, got {numbers}")
    return folds[0] if folds else None


def check_options(
    format: str,
    source: Trained,
    *,
    fine_tune: bool = False,
    folds: Sequence[str] = (),
    any_patch: bool = False,
    int8: bool = False,
    half: bool = False,
    portable: bool = False,
    onnxruntime_web: bool = False,
    dataset: bool = False,
) -> None:
    """Raises ProXError for an unknown format, and for an option that says nothing about it or about the family.

    Of the options, folds are names, the others whether they were given.
    """
    if format not in (*FOLDERS, *FILES):
        raise ProXError(f"the format {format!r} is not known; allowed: {', '.join((*FOLDERS, *FILES))}")
    if format not in source.formats:
        raise ProXError(f"a bundle's members become {', '.join(source.formats)}, not {format}")
    if format in FOLDERS and (int8 or half or any_patch or portable):
        raise ProXError(f"--int8, --half, --any-patch and --portable are for files for devices, --format {', '.join(FILES)}")
    check_file_options(format, source.kind, any_patch=any_patch, int8=int8, half=half, portable=portable)
    if onnxruntime_web and format != "html":
        raise ProXError(f"--onnxruntime-web is for --format html, got {format}")
    if fine_tune and format != "nnunet":
        raise ProXError(f"--fine-tune is for --format nnunet, got {format}")
    if format == "bundle":
        one_fold(folds, f"the format {format}")
    if int8:
        one_fold(folds, "an export with --int8, which is measured on cases that the network was not trained on,")
    if dataset and not int8 and not source.kind.calibrated:
        raise ProXError("--dataset is for --int8 and for classifiers; leave it out")
    if dataset and format == "nnunet":
        raise ProXError("--dataset is not for --format nnunet; leave it out")


def check_file_options(format: str, kind: Kind, *, any_patch: bool, int8: bool, half: bool, portable: bool) -> None:
    """Raises ProXError for an option of files that is not for their format, for members of this kind, or for the other."""
    for asked, name in ((int8, "int8"), (half, "half precision")):
        if asked and format not in SMALLER:
            raise ProXError(f"there is no {name} for {format}; allowed: {', '.join(SMALLER)}")
    if half and int8:
        raise ProXError("--half and --int8 are two precisions; give one of them")
    if half and kind is not SEGMENTATION:
        raise ProXError("--half is for members that segment; leave it out")
    if int8 and any_patch:
        raise ProXError("--int8 is for the plan's patch alone; leave out --any-patch")
    if portable and any_patch:
        raise ProXError("--portable is for the plan's patch alone; leave out --any-patch")
    if any_patch and format == "html":
        raise ProXError("--any-patch is not for --format html, which takes images of any size anyway; leave it out")
    if any_patch and not kind.any_patch:
        raise ProXError(
            "--any-patch is for members that segment; leave it out, for scans of any size are resized in prediction"
        )
