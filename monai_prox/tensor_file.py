"""Files of tensors and plain data that torch.save wrote, read without executing code, inflating archives or trusting sizes.

torch.load(weights_only=True) does not execute code. But it inflates archives, makes byte arrays of any length that a file asks
for, and returns lists that contain each other thousands of times. torch.save writes nothing of this kind.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
from collections import Counter
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from monai_prox.errors import ProXError
from monai_prox.files import DEEPEST, replacing
from monai_prox.numpy_numbers import LONGEST, STAND_INS

MOST_BYTES = 2**25  # of the pickle, which has everything but the tensors' values
MOST_STEPS = 2**23  # of the pickle
MOST_ENTRIES = 100_000  # of the archive
END, LOCATOR = 22, 20  # bytes of an archive's last record, and of the one before it
MOST_VALUES = 2**20  # numbers, texts, tensors and containers, each counted as often as it is reached
KINDS = "Double Float Half BFloat16 Long Int Short Char Byte Bool"
NAMED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",  # among nnU-Net's init_args
    "torch.nn.parameter Parameter",
    "torch.storage UntypedStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in KINDS.split()),
}
WRAPPERS = ("module.", "_orig_mod.")  # in names of weights, of DistributedDataParallel and torch.compile
ENCODE = "_codecs encode"  # by which pickles of torch.save make bytes of a text
PLAIN = (type(None), bool, int, float, str, torch.device)


def write_tensors(data: Any, path: Path | str) -> None:
    """Writes tensors and plain data for ``read_tensors``.

    Args:
        data: tensors and plain data.
        path: path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = BytesIO()  # torch's own writer reports neither a full disk nor the file
    torch.save(data, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_tensors(
    path: Path | str, device: torch.device | str = "cpu", *, kind: str = "file of tensors", numpy: bool = False
) -> Any:
    """Reads a file of tensors and plain data.

    Args:
        path: path of the file.
        device: device of the tensors.
        kind: name of the kind of file, for errors.
        numpy: whether the file may hold numbers of NumPy's types. They are read as Python's.

    Raises:
        ProXError: the file is missing or broken, or contains something else.
    """
    path = Path(path)
    try:
        stand_ins = STAND_INS if numpy else {}
        stored = _check_archive(path, stand_ins)
        with torch.serialization.safe_globals([(made, name.replace(" ", ".")) for name, made in stand_ins.items()]):
            data = torch.load(path, map_location=device, weights_only=True)
        storages: dict[int, int] = {}
        _count(data, {}, 0, storages)
        # Old versions of torch read beyond the end of the stored data
        if Counter(size for size in storages.values() if size) - stored:
            raise ProXError("a tensor is larger than what is stored of it")
    except FileNotFoundError:
        raise ProXError(f"there is no {kind} {path}") from None
    except pickle.UnpicklingError:  # its message recommends to load the file unsafely
        raise ProXError(f"{path} is not a whole {kind}: it holds more than tensors and plain data") from None
    except Exception as error:  # torch raises errors of many kinds for broken files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProXError(f"{path} is not a whole {kind}: {reason:.200}") from None
    return data


def _check_archive(path: Path, further: Collection[str]) -> Counter[int]:
    """Checks the archive and returns the sizes of its tensors. torch's and Python's readers must find the same content.

    Args:
        path: path of the archive.
        further: what its pickle may name besides NAMED.
    """
    size = path.stat().st_size
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename.lower() for entry in entries}  # torch ignores case
            if len(entries) > MOST_ENTRIES or len(names) < len(entries):
                raise ProXError(f"it has {len(entries):,} entries, which may be {MOST_ENTRIES:,} with names of their own")
            inflated = sum(entry.file_size for entry in entries)
            if any(entry.compress_type != ZIP_STORED for entry in entries) or inflated > size:
                raise ProXError(f"it is compressed, {size:,} bytes hold {inflated:,}; save it again by torch.save")
            _check_directory(path, archive.start_dir)
            top = entries[0].filename.partition("/")[0] + "/" if entries else ""
            pickles = [entry for entry in entries if entry.filename.lower().endswith("data.pkl")]
            if [entry.filename for entry in pickles] != [f"{top}data.pkl"] or pickles[0].file_size > MOST_BYTES:
                raise ProXError(f"it has no data.pkl of at most {MOST_BYTES:,} bytes, or several")
            _check_pickle(archive.read(pickles[0]), further)
            return Counter(entry.file_size for entry in entries if entry.filename.startswith(f"{top}data/"))
    except (BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if isinstance(error, ProXError):
            raise
        raise ProXError(f"it is no archive of torch.save, {str(error)[:80]}") from None


def _check_directory(path: Path, start: int) -> None:
    """Raises ProXError unless the archive ends with one directory, which begins at ``start`` as the archive itself says.

    Python reads a directory at another place as that of an archive with other data in front.
    """
    with path.open("rb") as file:
        file.seek(-END, os.SEEK_END)
        end = file.tell()
        signature, *_, start_there, comment = struct.unpack("<4s4H2LH", file.read(END))
        starts = [start_there]
        file.seek(end - LOCATOR)
        if file.read(4) == b"PK\6\7":  # the locator of the ZIP64 format
            file.read(4)
            (record,) = struct.unpack("<Q", file.read(8))
            file.seek(record + 48)
            starts = [value for value in starts if value != 2**32 - 1] + list(struct.unpack("<Q", file.read(8)))
    if signature != b"PK\5\6" or comment or any(place != start for place in starts):
        raise ProXError("it is no archive of torch.save, its directory is not where it says")


def _check_pickle(data: bytes, further: Collection[str]) -> None:
    named = {*NAMED, *further, *([ENCODE] if further else [])}
    encoded = _Encoded()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if step >= MOST_STEPS:
            raise ProXError(f"its data.pkl has more than {MOST_STEPS:,} steps")
        encoded.follow(opcode.name, argument)
        if opcode.name == "GLOBAL" and argument in named:
            continue
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise ProXError(f"it holds more than tensors and plain data: {str(argument or opcode.name).replace(' ', '.'):.80}")


class _Encoded:
    """Follows the calls of ENCODE in a pickle. Each makes the few bytes of a number of a text that stands there.

    Calls within calls, or with other encodings, could make bytes of any length.
    """

    def __init__(self) -> None:
        self._memo: dict[int, tuple[str, Any] | None] = {}  # texts and names, None for anything else
        self._pushed: tuple[str, Any] | None = None
        self._part = 0  # of a call, that comes next: its text, its encoding, their tuple, the call; 0 outside

    def follow(self, opcode: str, argument: Any) -> None:
        """The next step of the pickle. Raises ProXError if it makes another call of ENCODE than those allowed."""
        if opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._pushed
            return
        if opcode in ("BINGET", "LONG_BINGET"):
            self._pushed = self._memo.get(argument)
        else:
            self._pushed = (opcode, argument) if opcode in ("BINUNICODE", "GLOBAL") else None
        kind, value = self._pushed or (opcode, argument)
        if self._part == 0:
            self._part = int(kind == "GLOBAL" and value == ENCODE)
            return
        fits = (
            kind == "BINUNICODE" and len(value) <= LONGEST,
            kind == "BINUNICODE" and value == "latin1",
            kind == "TUPLE2",
            kind == "REDUCE",
        )
        if not fits[self._part - 1]:
            raise ProXError("it holds more than tensors and plain data: bytes that are no number")
        self._part = (self._part + 1) % (len(fits) + 1)


def _count(data: Any, counts: dict[int, int], depth: int, storages: dict[int, int]) -> int:
    """The number of values in ``data``, each counted as often as it is reached. Reading them takes as long.

    The size of each storage in bytes is added to ``storages``.
    """
    if depth > DEEPEST:
        raise ProXError(f"it is nested more than {DEEPEST} deep")
    if isinstance(data, Tensor):
        storages[data.untyped_storage()._cdata] = data.untyped_storage().nbytes()
        if data.layout is not torch.strided or data.numel() * data.element_size() > data.untyped_storage().nbytes():
            raise ProXError(f"a tensor of the shape {tuple(data.shape)} is not stored whole")
        return 1
    if isinstance(data, PLAIN):
        return 1
    if not isinstance(data, (dict, list, tuple)):
        raise ProXError(f"it holds a {type(data).__name__}")
    if id(data) not in counts:
        children = [*data, *data.values()] if isinstance(data, dict) else data
        counts[id(data)] = MOST_VALUES  # if it contains itself
        counts[id(data)] = 1 + sum(_count(child, counts, depth + 1, storages) for child in children)
    if counts[id(data)] > MOST_VALUES:
        raise ProXError(f"it holds more than {MOST_VALUES:,} values")
    return counts[id(data)]


def unwrapped(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights with the names that they have in the network itself, not in a wrapper of it.

    Args:
        weights: weights of a network, which DistributedDataParallel or torch.compile may have wrapped.

    >>> unwrapped({"module.weight": 1, "module.bias": 2})
    {'weight': 1, 'bias': 2}
    """
    weights = dict(weights)
    while wrapper := next((w for w in WRAPPERS if weights and all(str(name).startswith(w) for name in weights)), None):
        weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    return weights


def check_weights(weights: Any, network: nn.Module, source: Path | str) -> None:
    """Checks that weights from a file are those of a network.

    The file must contain at least one byte per weight, because a file could claim any shape.

    Args:
        weights: what ``read_tensors`` returned.
        network: the network on the meta device, which takes no memory.
        source: the file, which the error names.

    Raises:
        ProXError: names, shapes or sizes differ, or a weight is not a finite number.
    """
    problem = f"{source} does not hold the weights of this network"
    if not isinstance(weights, Mapping):
        raise ProXError(f"{problem}: it holds a {type(weights).__name__}")
    network_shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    file_shapes = {
        name: tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        for name, value in weights.items()
    }
    for name in (*network_shapes, *file_shapes):
        if network_shapes.get(name) != file_shapes.get(name):
            file_shape, network_shape = file_shapes.get(name, "missing"), network_shapes.get(name, "missing")
            raise ProXError(f"{problem}: {name!s:.80} is {file_shape}, the network's is {network_shape}")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ProXError(f"{source} has weights that are no finite numbers, {name:.80}: its training has diverged")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()}
    needed, stored = sum(parameter.numel() for parameter in network.parameters()), sum(storages.values())
    if needed > stored:
        raise ProXError(f"{problem}: it has {stored:,} bytes for {needed:,} weights")
