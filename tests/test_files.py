"""Files are whole or not there."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from monai_prox import files
from monai_prox.errors import ProXError
from monai_prox.files import REPLACED, UNFINISHED, read_json, remove_unfinished, replacing, temporary_folder, write_json


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".pth"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path, existed: bool, error: type) -> None:
    path = tmp_path / "model.pth"
    if existed:
        path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == ([(path, "old")] if existed else [])


def test_what_gets_the_name_is_on_the_disk_and_then_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut there is the old file or the new one, never an empty one."""
    fsync, replace, path = os.fsync, Path.replace, tmp_path / "model.pth"
    done: list[object] = []
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.fstat(file).st_ino), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert done == [path.stat().st_ino, "replace", tmp_path.stat().st_ino][: 3 if os.name == "posix" else 2]


def left_by(folder: Path, name: str, host: str, process: object) -> Path:
    """What a process that was killed while it wrote ``name`` has left."""
    left = folder / f".{name}.{host}.{process}.x1_y2{UNFINISHED}"
    left.mkdir()
    (left / name).touch()
    return left


def test_what_killed_processes_have_left_is_removed(tmp_path: Path) -> None:
    ended = multiprocessing.get_context("spawn").Process()
    ended.start()
    ended.join()
    with temporary_folder(tmp_path / "a[1].pth") as folder:
        host, process, *_ = folder.name.removeprefix(".a[1].pth.").split(".")
    assert process == str(os.getpid())
    others = [tmp_path / name for name in ("a[1].pth", ".a[1].pth.swp", "b.pth", f".a[1].pth.x1_y2{UNFINISHED}")]
    for other in others:
        other.touch()
    others.append(left_by(tmp_path, "a[1].pth", "elsewhere", ended.pid))
    others.append(left_by(tmp_path, "a[1].pth", host, os.getppid()))
    others.append(left_by(tmp_path, "a[1].pth", host, 10**12))
    left = {name: left_by(tmp_path, name, host, ended.pid) for name in ("a[1].pth", "b.pth")}
    remove_unfinished(tmp_path, "a[1].pth")
    assert set(tmp_path.iterdir()) == {*others, left["b.pth"]}
    remove_unfinished(tmp_path)
    assert set(tmp_path.iterdir()) == set(others)


def test_writers_side_by_side_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with temporary_folder(path) as one:
        remove_unfinished(tmp_path, "model")
        with temporary_folder(path) as other:
            assert one != other and one.is_dir()


def test_data_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    """A results folder is often shared in a group; a temporary file is the owner's alone."""
    before = os.umask(0o027)
    try:
        write_json([], tmp_path / "table.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.json").stat().st_mode) == 0o640


def test_json_comes_back(tmp_path: Path) -> None:
    data = {"name": "Süd", "values": [1, 2.5, None, True]}
    write_json(data, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == data


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"nonsense", b"[" * 100_000], ids=["empty", "cut", "bytes", "text", "deep"]
)
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plans.json"
    path.write_bytes(content)
    with pytest.raises(ProXError, match=r"plans\.json is not valid JSON"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProXError, match=r"there is no file .*plans\.json"):
        read_json(tmp_path / "plans.json")


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "family.json"
    write_json({"dice": [float("nan"), 0.5], "most": (float("inf"), 1)}, path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"dice": [None, 0.5], "most": [None, 1]}


def test_what_was_to_be_replaced_is_put_back(tmp_path: Path) -> None:
    """By the next writer, if the one before was killed when it had taken the old folder away."""
    ended = multiprocessing.get_context("spawn").Process()
    ended.start()
    ended.join()
    with temporary_folder(tmp_path / "model") as folder:
        host = folder.name.removeprefix(".model.").partition(".")[0]
    left = left_by(tmp_path, "model", host, ended.pid)
    (left / "model").unlink()
    (left / "model").mkdir()
    (left / REPLACED).mkdir()
    (left / REPLACED / "old").touch()
    remove_unfinished(tmp_path, "model")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == [Path("model"), Path("model/old")]


def test_names_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 243 + ".nii.gz")
    with replacing(path) as temporary:
        temporary.touch()
    assert path.is_file()


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plans.json")
    with pytest.raises(ProXError, match=r"plans\.json is no file"):
        read_json(tmp_path / "plans.json")


def test_json_of_more_values_than_fit_into_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text("[" + "[]," * 2_000_000 + "[]]")
    with pytest.raises(ProXError, match=r"more than .* 3,000,000 values"):
        read_json(tmp_path / "many.json")


def test_where_the_system_makes_no_links_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").write_text("image")
    files.link(tmp_path / "link", tmp_path / "image")
    assert (tmp_path / "link").is_symlink()

    def refuse(*_: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    files.link(tmp_path / "copy", tmp_path / "image")
    assert (tmp_path / "copy").read_text() == "image" and not (tmp_path / "copy").is_symlink()
    with pytest.raises(OSError, match="privilege"):
        files.link(tmp_path / "copy", tmp_path / "image")
