"""Counts and sizes, as people write them and as commands print them."""

from pathlib import Path

import pytest
from helpers.in_process import prox
from helpers.nnunet_task import TWO_MEMBERS, bare_model, bare_plans, hold_out, write_held_out

from monai_prox.cli.sizes import read_count, read_megabytes
from monai_prox.errors import ProXError
from monai_prox.report import count

pytest_plugins = ["helpers.nnunet_fixtures"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2000000", 2e6),
        ("2e6", 2e6),
        ("2E+6", 2e6),
        ("2M", 2e6),
        ("2 M", 2e6),
        ("2m", 2e6),
        (" .5k ", 500),
        ("500k", 5e5),
        ("1.5G", 1.5e9),
        ("3T", 3e12),
        ("-1", -1),
    ],
)
def test_a_count_has_units_of_a_thousand(text: str, number: float) -> None:
    assert read_count(text, "--max-macs") == number


@pytest.mark.parametrize("number", [7, 40_200, 1.4e6, 4.81e9])
def test_what_tables_print_is_taken(number: float) -> None:
    assert read_count(count(number), "--max-macs") == pytest.approx(number, rel=0.005)


@pytest.mark.parametrize(
    ("text", "megabytes"), [("900", 900), ("900M", 900), ("900MB", 900), ("1.5G", 1500), ("500k", 0.5), ("500 kB", 0.5)]
)
def test_a_size_is_megabytes_unless_it_has_a_unit(text: str, megabytes: float) -> None:
    assert read_megabytes(text, "--max-file-mb") == megabytes


@pytest.mark.parametrize("text", ["2X", "", "M", "1,5G", "nan", "inf", "1e999", "2MM", "2B", "0x10", "2M\n3M"])
@pytest.mark.parametrize("read", [read_count, read_megabytes])
def test_what_is_no_number_is_named_with_its_option(read: object, text: str) -> None:
    with pytest.raises(ProXError, match=r"^--max-params is '.*'; it must be .*, such as|a number such as"):
        read(text, "--max-params")  # type: ignore[operator]
    assert read_count(None, "--max-params") is None and read_megabytes(None, "--max-file-mb") is None


def test_a_count_is_not_of_bytes() -> None:
    with pytest.raises(ProXError, match=r"^--max-params is '2MB'; it must be a number such as 2000000, 2e6, 500k, 2M or 1.5G$"):
        read_count("2MB", "--max-params")


@pytest.mark.parametrize("option", ["--max-params", "--max-macs", "--max-memory-mb", "--max-file-mb"])
def test_a_search_refuses_a_wrong_size_in_one_line_before_it_opens_anything(option: str) -> None:
    assert prox("search", "no/model", option, "2X").error.startswith(f"{option} is '2X'; it must be ")


def test_a_search_keeps_to_budgets_with_units(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}))
    monkeypatch.setattr("monai_prox.search.study.STALE", 9)  # there is no second member
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["one"]).parent))
    hold_out(model, ["one"])
    smallest, largest = (member.macs for member in model.family().members)
    assert smallest < 13.671e6 < largest
    limits = ["--max-macs", "13.671M", "--max-params", "1G", "--max-memory-mb", "1.5G"]
    done = prox("search", model.path, *limits, "--trials", 2, "--finalists", 1, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.name.startswith("macs-"))
    assert folder.name.startswith("macs-macs_1.3671e07-parameters_1e09-memory_mb_1500-")
    assert "1 members in" in done.out
