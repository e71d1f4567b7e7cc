"""The benchmark for GPUs, end to end on the CPU with tiny networks, and what can be said of the stock plans without a GPU."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.nnunet_task import VARIABLES

from benchmarks import gpu_tests
from monai_prox.training.drawing import draw_members
from monai_prox.training.recipes import make_schedule

ROOT = Path(__file__).parents[1]
STEPS = 250_000  # of a training


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The script as a module, with one task, few steps and quick tests; its nnU-Net variables end with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        from benchmarks import gpu, gpu_first_use, gpu_loaded, gpu_loader, gpu_members, gpu_steps, gpu_tests

        patch.setattr(gpu_tests, "FOLDER", write_tests(tmp_path_factory.mktemp("tests"), "pass"))

        for name in (*VARIABLES, "nnUNet_n_proc_DA", "nnUNet_compile"):
            patch.setenv(name, "")
        shallow = gpu.SIZES["tiny"]["hippocampus"]._replace(image=(10, 12, 9), patch=(8, 8, 8))
        patch.setitem(gpu.SIZES, "tiny", {"hippocampus": shallow})
        for name in ("WARM_UP", "TIMED"):
            patch.setattr(gpu_steps, name, 2)
        patch.setattr(gpu_members, "BACKEND", "eager")  # needs no compiler
        patch.setattr(gpu_first_use, "SKELETONS", 4)
        for name, value in (("WORKERS", (1,)), ("LOADING", 0.3)):
            patch.setattr(gpu_loader, name, value)
        for name, value in (("DEFAULT_WORKERS", "1"), ("MET", 8), ("LEAST", 4), ("MOST", 4), ("HELD", 1)):
            patch.setattr(gpu_loaded, name, value)
        yield gpu


def write_tests(folder: Path, *bodies: str) -> Path:
    """A folder with a test of each body, on either device."""
    lines = ["import pytest, time", "", "devices = pytest.mark.parametrize('device', ['on_cpu', 'on_cuda'])"]
    for number, body in enumerate(bodies):
        lines += ["", "", "@devices", f"def test_{number}(device):", f"    {body}"]
    (folder / "test_of_ours.py").write_text("\n".join(lines) + "\n")
    return folder


def arguments(results: Path, *more: str) -> list[str]:
    return ["--results", str(results), "--device", "cpu", "--size", "tiny", *more]


@pytest.fixture(scope="module")
def results(gpu: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks import gpu_first_use

    path: Path = tmp_path_factory.mktemp("gpu") / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_first_use, "DRAWN", 24)
        gpu.main(arguments(path, "--seconds", "300"))  # counts of steps end it sooner
    return path


@pytest.fixture
def measured(results: Path) -> dict[str, Any]:
    return json.loads(results.read_text())["measured"]["hippocampus"]


def parts_of(gpu: Any, patch: pytest.MonkeyPatch, **measures: Any) -> None:
    """Puts ``measures`` in the place of all parts, and of the tests."""
    patch.setattr(gpu, "run_tests", lambda *_: {"missing": ["pytest"]})
    patch.setattr(gpu, "PARTS", {name: gpu.PARTS["largest"]._replace(share=1) for name in measures})
    patch.setattr(gpu, "measure", lambda name, task, seconds: measures[name]())


# ---------------------------------------------------------------------- plans
@pytest.mark.parametrize(
    ("name", "millions", "gigamacs", "features"),
    [("hippocampus", 5.6, 19, [32, 64, 128, 256]), ("brain_tumour", 31.2, 483, [32, 64, 128, 256, 320, 320])],
)
def test_the_plans_are_those_of_nnunet(
    gpu: Any, tmp_path: Path, name: str, millions: float, gigamacs: int, features: list[int]
) -> None:
    task = gpu.SyntheticTask(name, gpu.SIZES["stock"][name], tmp_path, "cpu")
    described = gpu.describe(task)
    assert round(described["parameters"] / 1e6, 1) == millions
    assert round(described["macs"] / 1e9) == gigamacs
    assert task.configuration["architecture"]["arch_kwargs"]["features_per_stage"] == features


# ---------------------------------------------------------------------- measuring
def test_every_part_is_measured_without_a_failure(gpu: Any, results: Path, measured: dict[str, Any]) -> None:
    assert json.loads(results.read_text())["failures"] == {}
    assert list(measured) == [name for name, part in gpu.PARTS.items() if not part.cuda_only]
    assert measured["loader"]["batches_per_second"].keys() == {"1"} and measured["loader"]["batches_per_second"]["1"] > 0
    assert measured["skeletons"]["build_seconds"]["number"] == len(measured["skeletons"]["extra_seconds"]) >= 2
    assert [path.name for path in results.parent.iterdir()] == [results.name]


@pytest.mark.parametrize("recipe", ["prox", "progressive_shrinking"])
def test_every_stage_of_a_recipe_is_measured_in_whole_turns_of_its_roles(
    gpu: Any, tmp_path: Path, measured: dict[str, Any], recipe: str
) -> None:
    task = gpu.SyntheticTask("hippocampus", gpu.SIZES["tiny"]["hippocampus"], tmp_path, "cpu")
    schedule = make_schedule(recipe, task.family.space, 1000)
    stages = measured[recipe]["stages"]
    assert [stage["name"] for stage in stages] == [stage.name for stage in schedule.stages]
    assert sum(stage["epochs"] for stage in stages) == 1000
    for stage in stages:
        assert stage["step_seconds"]["number"] % (stage["trained"].count(" or ") + 1) == 0
        assert 1 <= stage["members_per_epoch"] <= 34  # a pool of 32, the largest and the smallest
        assert stage["peak_memory_bytes"] is None
    assert (stages[0]["members_per_epoch"], stages[0]["random_members_per_epoch"]) == (1, 0)
    assert stages[0]["new_members_per_epoch"] == 0
    assert stages[-1]["new_members_per_epoch"] <= 4 < stages[-1]["random_members_per_epoch"] <= 32


class Clock:
    """Made-up seconds, in the place of ``time``, that trainers and loaders spend."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
        self.now = 0.0
        for module in modules:
            monkeypatch.setattr(module, "time", self)

    def perf_counter(self) -> float:
        return self.now


def task_of_steps(gpu: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, spend: Any) -> Any:
    """The tiny task; ``spend`` takes the place of its trainers' steps, and gets the trainer."""
    task = gpu.SyntheticTask("hippocampus", gpu.SIZES["tiny"]["hippocampus"], folder, "cpu")
    task.write_cases()
    make = task.trainer

    def trainer(*arguments: Any, **entries: Any) -> Any:
        made = make(*arguments, **entries)
        made.train_step = lambda batch: spend(made)
        return made

    monkeypatch.setattr(task, "trainer", trainer)
    monkeypatch.setitem(task.__dict__, "batches", [{}])
    return task


def test_the_first_step_of_each_member_is_compared_with_its_later_ones(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import gpu_first_use, gpu_steps

    clock, met = Clock(monkeypatch, gpu_steps), set()

    def spend(trainer: Any) -> None:
        (member,) = trainer.engine.members(0, 0)
        clock.now += 0.1 if member in met else 1.0
        met.add(member)

    measured = gpu_first_use.skeletons(task_of_steps(gpu, tmp_path, monkeypatch, spend), 60)
    assert measured["first_step_seconds"]["median"] == 1 and measured["later_step_seconds"]["median"] == 0.1
    assert measured["extra_seconds"] == [0.9] * measured["build_seconds"]["number"]
    assert len(met) == 2 + measured["build_seconds"]["number"]  # the smallest and the largest are known


def test_fill_makes_as_many_updates_as_fit_between_the_batches_of_the_loader(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import gpu_loaded

    clock = Clock(monkeypatch, gpu_loaded)

    @contextmanager
    def loading(*_: Any) -> Iterator[Iterator[dict[str, Any]]]:
        def batches() -> Iterator[dict[str, Any]]:
            due = 0.0
            while True:
                due = clock.now = max(clock.now, due)
                due += 0.086  # the next one is made from now on
                yield {}

        yield batches()

    def spend(trainer: Any) -> None:
        clock.now += 0.02 * trainer.updates_per_batch.number if hasattr(trainer, "engine") else 0.1

    monkeypatch.setattr(gpu_loaded, "loading", loading)
    monkeypatch.setattr(gpu_loaded, "MOST", 20)
    measured = gpu_loaded.loaded(task_of_steps(gpu, tmp_path, monkeypatch, spend), 600)
    assert (measured["largest"]["batch_seconds"], measured["largest"]["busy_share"]) == (0.1, 1)
    assert sum(stage["epochs"] for stage in measured["stages"]) == 1000
    for stage in measured["stages"]:
        found = [(stage[key]["updates_per_batch"], stage[key]["batch_seconds"]) for key in ("once", "fill")]
        assert found == [(1, 0.086), (4, 0.086)]
        shares = [stage[key]["busy_share"] for key in ("once", "fill")]
        assert shares == pytest.approx([0.02 / 0.086, 0.08 / 0.086], abs=1e-4)
    assert measured["stages"][-1]["once"]["batches"] == 12  # of 24, because its roles take four turns


class Bursts:
    """The batches of four loader processes that began together and take a second for each."""

    num_cached = 6

    def __init__(self, clock: Clock) -> None:
        self.clock, self.taken = clock, 1
        self.results_loop_queue = self._queue = self

    def due(self) -> float:
        return 1.0 + self.taken // 4

    def empty(self) -> bool:
        return self.due() > self.clock.now

    def __next__(self) -> dict[str, Any]:
        self.clock.now = max(self.clock.now, self.due()) + 1e-6
        self.taken += 1
        return {}


@pytest.mark.parametrize("seconds", [1, 2, 3, 8])
def test_batches_that_wait_already_do_not_count_however_short_the_time_is(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    from benchmarks import gpu_loader

    clock = Clock(monkeypatch, gpu_loader)

    @contextmanager
    def loading(*_: Any) -> Iterator[Bursts]:
        clock.now = 1.5  # in which the processes have started
        yield Bursts(clock)

    monkeypatch.setattr(gpu_loader, "loading", loading)
    assert gpu_loader.batches_per_second(None, 4, seconds) == pytest.approx(4, rel=1e-3)


def test_a_loader_without_shared_memory_is_a_failure(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not an endless wait for batches that its processes lose."""
    from benchmarks import gpu_loader

    monkeypatch.setattr(gpu_loader, "SHARED", tmp_path)
    monkeypatch.setattr(gpu_loader.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**10))
    with pytest.raises(SystemExit, match="2 parts are missing"):
        gpu.main(arguments(tmp_path / "results.json", "--parts", "loader", "loaded"))
    failures = json.loads((tmp_path / "results.json").read_text())["failures"]
    assert failures.keys() == {"hippocampus, loader", "hippocampus, loaded"}
    assert all("and 0 MiB are free" in failure for failure in failures.values())


def test_the_end_of_a_loader_says_nothing_of_batches_that_are_lost(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import gpu_loader

    def fail() -> None:
        raise FileNotFoundError

    def finish(**_: Any) -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    said: list[Any] = []
    monkeypatch.setattr(gpu_loader, "SHARED", tmp_path / "missing")
    monkeypatch.setattr(threading, "excepthook", said.append)
    loaders = (SimpleNamespace(_finish=finish), SimpleNamespace(_finish=finish))
    with gpu_loader.loading(SimpleNamespace(get_dataloaders=lambda: loaders), 1):
        pass
    assert said == []


@pytest.mark.parametrize("updates", [1, 4])
def test_four_members_are_new_in_an_epoch_of_the_pool(gpu: Any, tmp_path: Path, updates: int) -> None:
    from benchmarks import gpu_first_use

    space = gpu.SyntheticTask("brain_tumour", gpu.SIZES["stock"]["brain_tumour"], tmp_path, "cpu").family.space
    schedule = make_schedule("prox", space, 1000)
    stage, epoch = schedule.stages[-1], schedule.starts[-1]
    draws = partial(draw_members, stage, space, seed=12345)
    engine = SimpleNamespace(stage=stage, space=space, members=lambda epoch, step: draws(epoch=epoch, step=step))
    found = gpu_first_use.members_of_epoch(engine, epoch, 250 * updates)
    assert 3.5 < found["new_members_per_epoch"] <= 4
    assert 25 < found["random_members_per_epoch"] <= 32


def test_the_members_that_repeat_are_measured_eagerly_in_bfloat16_and_compiled(measured: dict[str, Any]) -> None:
    members = measured["members"]
    assert members.keys() == {"largest", "smallest"}
    for variants in members.values():
        assert list(variants) == ["eager", "bf16", "compiled"]
        for variant in variants.values():
            assert variant["step_seconds"]["number"] >= 2 and variant["first_step_seconds"] > 0
        assert variants["compiled"]["first_step_seconds"] > variants["compiled"]["step_seconds"]["median"]


def test_a_variant_keeps_nothing_of_the_one_before(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would count in its peak memory."""
    from benchmarks import gpu_members

    trainers, alive = weakref.WeakSet[Any](), list[int]()

    def run_steps(trainer: Any, *_: Any, **__: Any) -> list[float]:
        trainers.add(trainer)
        alive.append(len(trainers))
        return [1.0]

    task = gpu.SyntheticTask("hippocampus", gpu.SIZES["tiny"]["hippocampus"], tmp_path, "cpu")
    task.write_cases()
    assert task.batches
    monkeypatch.setattr(gpu_members, "run_steps", run_steps)  # without them nothing is compiled, which takes seconds
    monkeypatch.setattr(gpu_members, "time_epoch", lambda *_, **__: {})
    gc.disable()
    try:
        gpu_members.members(task, 1)
    finally:
        gc.enable()
    assert alive == [1] * 6


def test_a_member_that_is_not_compiled_is_a_failure(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not an eager step under another name."""

    def fails(*_: Any) -> None:
        raise ValueError("no compiler")

    from benchmarks import gpu_members

    monkeypatch.setattr(gpu_members, "BACKEND", fails)
    monkeypatch.setattr(gpu_members, "VARIANTS", {"compiled": gpu_members.VARIANTS["compiled"]})
    with pytest.raises(SystemExit, match="1 parts are missing"):
        gpu.main(arguments(tmp_path / "results.json", "--parts", "members"))
    failures = json.loads((tmp_path / "results.json").read_text())["failures"]
    assert "without torch.compile" in failures["hippocampus, members"] and "no compiler" in failures["hippocampus, members"]


def test_a_process_group_trains_and_its_weights_stay_finite(measured: dict[str, Any]) -> None:
    group = measured["group"]
    assert group["backend"] == "gloo" and group["processes"] == 1
    assert group["finite"] and group["alike_in_all_processes"]
    assert group["average_seconds"] > 0 and group["step_seconds"]["median"] > 0


def test_a_second_call_measures_nothing_again_and_a_part_that_is_missing(
    gpu: Any, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "results.json"
    whole = json.loads(results.read_text())
    removed = whole["measured"]["hippocampus"].pop("largest")
    copy.write_text(json.dumps(whole))
    called = []
    monkeypatch.setattr(gpu, "measure", lambda name, *_: called.append(name) or removed)
    gpu.main(arguments(copy))
    assert called == ["largest"]
    again, before = json.loads(copy.read_text()), json.loads(results.read_text())
    assert again == before


def test_a_part_that_fails_does_not_keep_the_others_from_their_turn(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("out of\nmemory")

    parts_of(gpu, monkeypatch, prox=fail, skeletons=lambda: {"build_seconds": {"mean": 1.0}})
    with pytest.raises(SystemExit, match="1 parts are missing"):
        gpu.main(arguments(tmp_path / "results.json"))
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["failures"] == {"hippocampus, prox": "RuntimeError: out of memory"}
    assert list(result["measured"]["hippocampus"]) == ["skeletons"]


def test_a_part_that_takes_too_long_ends_and_what_was_measured_before_stays(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stubborn() -> None:
        try:
            time.sleep(60)
        except Exception:  # as a compiler that takes an error for its own
            time.sleep(60)

    parts_of(gpu, monkeypatch, skeletons=lambda: {"build_seconds": {"mean": 1.0}}, prox=stubborn, loader=stubborn)
    start = time.monotonic()
    with pytest.raises(SystemExit, match="2 parts are missing"):
        gpu.main(arguments(tmp_path / "results.json", "--seconds", "1"))
    assert time.monotonic() - start < 5
    assert list(json.loads((tmp_path / "results.json").read_text())["measured"]["hippocampus"]) == ["skeletons"]


def test_a_part_that_is_stuck_leaves_time_to_the_others(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {f"other {number}": lambda: {"seconds": 1.0} for number in range(8)}
    parts_of(gpu, monkeypatch, stuck=lambda: time.sleep(60), **others)
    start = time.monotonic()
    with pytest.raises(SystemExit, match="1 parts are missing"):
        gpu.main(arguments(tmp_path / "results.json", "--seconds", "3"))
    assert time.monotonic() - start < 3
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["failures"] == {"hippocampus, stuck": "took more than 1 seconds; 0 were its share"}
    assert list(result["measured"]["hippocampus"]) == list(others)


def test_an_interrupted_run_says_how_it_goes_on(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    parts_of(gpu, monkeypatch, prox=interrupt)
    with pytest.raises(SystemExit, match="the same command goes on"):
        gpu.main(arguments(tmp_path / "results.json"))
    assert json.loads((tmp_path / "results.json").read_text())["measured"] == {}


# ---------------------------------------------------------------------- tests
def test_tests_are_counted_on_the_device_that_is_measured(
    gpu: Any, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = json.loads(results.read_text())["tests"]
    assert counts.pop("seconds") > 0
    assert counts == {"passed": 1, "failed": 0, "skipped": 0, "finished": True}
    bodies = ("pass", "pass", "pytest.skip('no')", "assert device == 'on_gpu', 'a reason'")
    monkeypatch.setattr(gpu_tests, "FOLDER", write_tests(tmp_path, *bodies))
    found = gpu_tests.run_tests("cuda", 240)
    assert {name: found[name] for name in ("passed", "failed", "skipped", "finished")} == {
        "passed": 2,
        "failed": 1,
        "skipped": 1,
        "finished": True,
    }
    assert "a reason" in found["said"] and "on_cpu" not in found["said"]
    assert gpu_tests.tests_line(found) == "tests/gpu: 2 passed, 1 failed, 1 skipped"


def test_tests_that_take_too_long_end_and_are_run_again(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tests, "FOLDER", write_tests(tmp_path, "time.sleep(600)"))
    monkeypatch.setattr(gpu, "TESTS_SHARE", 0.2)
    file = tmp_path / "results.json"
    gpu.main(arguments(file, "--parts", "tests", "--seconds", "2"))
    assert json.loads(file.read_text())["tests"]["finished"] is False
    write_tests(tmp_path, "pass", "pass")
    gpu.main(arguments(file, "--parts", "tests"))
    counts = json.loads(file.read_text())["tests"]
    assert (counts["passed"], counts["finished"]) == (2, True) and "said" not in counts


def test_what_has_ended_counts_if_the_time_is_up() -> None:
    said = """collected 5 items

tests/gpu/test_memory.py::test_a[on_cuda] PASSED                 [ 20%]
tests/gpu/test_memory.py::test_b[on_cuda-2] FAILED               [ 40%]
tests/gpu/test_memory.py::test_c[on_cuda] SKIPPED (no PASSED)    [ 60%]
tests/gpu/test_memory.py::test_d[on_cuda] ERROR                  [ 80%]
tests/gpu/test_memory.py::test_e[on_cuda] """
    assert gpu_tests.counted(said) == {"passed": 1, "failed": 2, "skipped": 1}


def test_without_pytest_the_parts_are_measured_alone(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tests, "NEEDED", ("pytest", "no_such_package"))
    found = gpu_tests.run_tests("cpu", 60)
    assert found == {"missing": ["no_such_package"]}
    assert gpu_tests.tests_line(found) == "tests/gpu: not run, without no_such_package"


# ---------------------------------------------------------------------- refusing
@pytest.mark.parametrize(("key", "value"), [("machine", "another"), ("commit", None), ("settings", {"size": "stock"})])
def test_results_of_other_settings_are_refused(gpu: Any, results: Path, tmp_path: Path, key: str, value: Any) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(results.read_text()) | {key: value}))
    before = other.read_bytes()
    with pytest.raises(SystemExit, match=f"was made with other {key}"):
        gpu.main(arguments(other))
    assert other.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "is no result of this benchmark"), ("[1", "is not valid JSON")], ids=["object", "text"]
)
def test_files_of_something_else_are_refused(gpu: Any, tmp_path: Path, content: str, message: str) -> None:
    other = tmp_path / "other.json"
    other.write_text(content)
    with pytest.raises(SystemExit, match=message):
        gpu.main(arguments(other))
    assert other.read_text() == content


def test_where_nothing_can_be_written_it_ends_before_it_measures(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="cannot write to"):
        gpu.main(arguments(tmp_path / "file" / "results.json"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(SystemExit, match=r"folder\.json"):
        gpu.main(arguments(tmp_path / "folder.json"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--parts", "unknown"], "invalid choice: 'unknown'"),
        (["--parts", "compiled"], "these parts need a GPU"),
        (["--seconds", "nan"], "--seconds must be positive"),
        (["--processes", "-1"], "--processes must be positive"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as error:
        gpu.main(arguments(tmp_path / "results.json", *more))
    assert error.value.code == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- hours
def step(seconds: float) -> dict[str, Any]:
    return {"step_seconds": {"mean": seconds}}


NO_RANDOM = {"new_members_per_epoch": 0, "random_members_per_epoch": 0}


def test_hours_follow_from_steps_stages_skeletons_and_loaders(gpu: Any) -> None:
    new = {"new_members_per_epoch": 4, "random_members_per_epoch": 28}
    stages = [step(0.01) | {"epochs": 400} | NO_RANDOM, step(0.3) | {"epochs": 600} | new]
    measured = {
        "largest": step(0.1),
        "smallest": step(0.01),
        "prox": {"stages": stages},
        "skeletons": {"extra_seconds": [9.0, 0.01, 0.03]},  # the second half counts
        "loader": {"batches_per_second": {"1": 4.0, "8": 20.0, "12": 8.0}},
    }
    hours = gpu.hours(measured)
    assert hours["largest"] == pytest.approx(
        {"steps_alone": STEPS * 0.1 / 3600, "best_loader": STEPS * 0.1 / 3600, "default_loader": STEPS * 0.125 / 3600}, rel=1e-3
    )
    assert hours["smallest"]["best_loader"] == pytest.approx(STEPS * 0.05 / 3600, rel=1e-3)
    # 400 epochs of 250 steps of 0.01 s, 600 of 250 steps of 0.3 s and 4 new skeletons
    alone = 400 * 2.5 + 600 * (75 + 0.08)
    assert hours["prox"]["steps_alone"] == pytest.approx(alone / 3600, rel=1e-3)
    assert hours["prox"]["best_loader"] == pytest.approx((400 * 250 * 0.05 + 600 * 75.08) / 3600, rel=1e-3)
    del measured["skeletons"], measured["loader"]
    assert gpu.hours(measured).keys() == {"largest", "smallest"}
    assert gpu.hours(measured)["largest"].keys() == {"steps_alone"}


def test_hours_beside_the_loader_are_those_of_its_batches_and_of_new_members(gpu: Any) -> None:
    from benchmarks import gpu_hours

    def trained(batch: float, busy: float, **new: int) -> dict[str, Any]:
        return {"batch_seconds": batch, "busy_share": busy} | NO_RANDOM | new

    stages = [
        {"epochs": 400, "once": trained(0.1, 0.2), "fill": trained(0.1, 0.9)},
        {"epochs": 600, "once": trained(0.2, 0.5), "fill": trained(0.24, 1.0, new_members_per_epoch=4)},
    ]
    measured = {"loaded": {"largest": trained(0.2, 1.0), "stages": stages}, "skeletons": {"extra_seconds": [9.0, 2.5]}}
    hours = gpu.hours(measured)["beside_loader"]
    assert hours == pytest.approx({"largest": STEPS * 0.2 / 3600, "once": 40_000 / 3600, "fill": 52_000 / 3600}, rel=1e-3)
    assert gpu_hours.busy_share("once", measured) == pytest.approx((10_000 * 0.2 + 30_000 * 0.5) / 40_000)
    assert gpu_hours.busy_share("fill", measured) == pytest.approx((10_000 * 0.9 + 42_000) / 52_000)
    del measured["skeletons"]
    assert gpu.hours(measured)["beside_loader"].keys() == {"largest"}


def test_the_pool_is_compared_with_an_epoch_of_new_members(gpu: Any) -> None:
    from benchmarks import gpu_hours

    stage = {"new_members_per_epoch": 4, "random_members_per_epoch": 32}
    found = gpu_hours.new_members(stage, {"skeletons": {"extra_seconds": [9.0, 0.5]}})
    assert found == ((4, 32), (2, 16))


def test_the_hours_of_a_result_are_those_of_its_steps(results: Path, measured: dict[str, Any]) -> None:
    hours = json.loads(results.read_text())["hours"]["hippocampus"]
    assert hours.keys() == {"largest", "smallest", "prox", "progressive_shrinking", "beside_loader"}
    for network in ("largest", "smallest"):
        seconds = measured[network]["step_seconds"]["mean"]
        assert hours[network]["steps_alone"] == pytest.approx(STEPS * seconds / 3600, rel=1e-3)
        slower = max(seconds, 1 / measured["loader"]["batches_per_second"]["1"])
        assert hours[network]["best_loader"] == pytest.approx(STEPS * slower / 3600, rel=1e-3)


# ---------------------------------------------------------------------- table
def test_the_table_takes_its_place_in_the_document(gpu: Any, results: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    page = tmp_path / "gpu.md"
    page.write_text((ROOT / "docs" / "gpu.md").read_text())
    for _ in range(2):  # the second time it replaces its own table
        gpu.main(["--table", str(results), "--page", str(page)])
    text = page.read_text()
    assert text.count("<!-- gpu table -->") == text.count("<!-- end of the gpu table -->") == 1
    stages = {recipe: measured[recipe]["stages"] for recipe in ("prox", "progressive_shrinking")}
    of_stages = sum(map(len, stages.values()))
    drawing = sum(stage["random_members_per_epoch"] > 0 for several in stages.values() for stage in several)
    tables: list[list[str]] = []
    for before, line in pairwise(text.splitlines()):
        if line.startswith("|---"):
            tables.append([before])
        elif line.startswith("| hippocampus |"):
            tables[-1].append(line)
    assert [len(rows) - 1 for rows in tables] == [4 + of_stages + 6, 1 + 2 * (1 + len(stages["prox"])), drawing]
    assert [{row.count("|") for row in rows} for rows in tables] == [{8}, {7}, {8}]
    assert "A new member, hippocampus, median of " in text
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="the page has no"):
        gpu.main(["--table", str(results), "--page", str(page)])
    assert page.read_text() == "no markers"
    page.write_text("{}")
    with pytest.raises(SystemExit, match="is no result of this benchmark"):
        gpu.main(["--table", str(page)])
