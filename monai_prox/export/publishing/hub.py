"""The upload of a published family to Hugging Face by MONAI's ``push_to_hf_hub``: a repository a bundle, one for the card.

That function guesses the licence of a bundle from its file LICENSE, which is that of the configurations in the first place. It
leaves a card alone that it finds. So each bundle is sent with a card whose tags are those of the family's card, in the place of
docs/README.md.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.export.bundle import without_log_lines
from monai_prox.export.publishing.card import CARD, FRONT, read_front_matter
from monai_prox.export.publishing.details import HUB, check_owner, check_version
from monai_prox.export.publishing.folder import MODELS
from monai_prox.export.publishing.licence import OTHER
from monai_prox.export.publishing.licence_tags import TAGS
from monai_prox.export.publishing.member_bundle import LARGE_FILES, LICENSE, METADATA, README, check_name
from monai_prox.files import check_inside, read_json

LOGIN = "hf auth login"


def upload(
    folder: Path, owner: str, *, name: str | None = None, public: bool = False, latest: bool = False
) -> Iterator[tuple[str, str | None]]:
    """Uploads a published family.

    The token is that of the environment (HF_TOKEN) or of ``hf auth login``.

    Args:
        folder: the folder that ``publish`` has written.
        owner: user or organisation that the repositories belong to.
        name: name of the family. None means the name of ``folder``.
        public: whether everybody sees repositories that are made.
        latest: whether MONAI downloads this version if none is named.

    Returns:
        The address of each repository, and what was wrong or None; one that fails stops none of the others.

    Raises:
        ProXError: nothing is uploaded, because the folder is not a published family or there is no token.
    """
    import huggingface_hub

    check_owner(owner)
    family = check_name(folder.resolve().name if name is None else name)
    for path in folder.rglob("*"):
        check_inside(path, folder)
    front, tags = read_front_matter(folder / CARD)
    if tags["license"] not in (*TAGS, OTHER):
        raise ProXError(f"{folder / CARD} has the license {tags['license']!r:.80}, which is no tag of Hugging Face's")
    bundles = sorted(path.parents[1] for path in (folder / MODELS).glob(f"*/{METADATA}"))
    if not bundles:
        raise ProXError(f"there is no bundle in {folder / MODELS}; give the folder that monai-prox publish has written")
    if f"{HUB}/{owner}/" not in (folder / CARD).read_text(encoding="utf-8", errors="replace"):
        raise ProXError(f"{folder / CARD} does not lead to {HUB}/{owner}; publish the family with --owner {owner}")
    versions = [check_version(_version(bundle), f"the version in {bundle / METADATA}") for bundle in bundles]
    if huggingface_hub.get_token() is None:
        raise ProXError(f"there is no token of Hugging Face: set HF_TOKEN, or run `{LOGIN}`")
    return _sent(folder, bundles, versions, family, owner, front, {"private": not public, "tag_as_latest_version": latest})


def _version(bundle: Path) -> Any:
    metadata = read_json(bundle / METADATA)
    return metadata.get("version") if isinstance(metadata, dict) else None


def _sent(
    folder: Path, bundles: list[Path], versions: list[str], family: str, owner: str, front: str, options: dict[str, bool]
) -> Iterator[tuple[str, str | None]]:
    with tempfile.TemporaryDirectory() as temporary:
        for bundle, version in zip(bundles, versions, strict=True):
            staged = Path(temporary, bundle.name)
            shutil.copytree(bundle, staged, ignore=shutil.ignore_patterns("__pycache__", LARGE_FILES))
            if (staged / README).is_file():
                (staged / CARD).write_bytes(front.encode() + (staged / README).read_bytes())
                (staged / README).unlink()
            yield _push(staged, owner, version=version, **options)
            shutil.rmtree(staged)
        staged = Path(temporary, family)
        staged.mkdir()
        for name in (CARD, FRONT, LICENSE):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, staged / name)
        yield _push(staged, owner, version=None, private=options["private"])


def _push(staged: Path, owner: str, **options: Any) -> tuple[str, str | None]:
    from monai.bundle import push_to_hf_hub

    repository = f"{owner}/{staged.name}"
    try:
        with without_log_lines():
            push_to_hf_hub(repo=repository, name=staged.name, bundle_dir=str(staged.parent), **options)
    except Exception as error:  # of whatever library Hugging Face's package sends with
        return f"{HUB}/{repository}", " ".join(str(error).split())[:300] or type(error).__name__
    return f"{HUB}/{repository}", None
