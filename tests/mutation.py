"""Which errors in the mathematics do the fast tests notice? ``python tests/mutation.py`` makes some and gives a score.

A mutant is a module with one small error, such as ``<=`` for ``<``. It is made in memory, in a process of its own, and the
fast tests that call the function with the error run until one fails. A mutant that no test notices has survived: either it
computes what the module does, or a test is missing. Nothing is written into the package. Processes are forked, so this
needs POSIX.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest
from helpers.made_once import SHARED

ROOT = Path(__file__).parents[1]
TESTS = {  # in this folder
    "core.space": ("core/test_space.py", "training/test_monitor.py"),
    "core.slots": ("core/test_space.py",),
    "core.slicing": ("core/test_slicing.py",),
    "core.supernet": ("families/test_unet_family.py", "comparators/test_kernel_transform.py"),
    "training.growth": ("training/test_growth.py", "training/test_engine.py"),
    "training.drawing": ("training/test_drawing.py", "training/test_engine.py"),
    "training.guard": ("training/test_engine.py", "training/test_growth.py"),
    "training.stage": ("training/test_recipes.py", "training/test_engine.py"),
    "training.expansion": (
        "training/test_engine.py",
        "training/test_growth.py",
        "training/test_mobilenet_training.py::test_a_frozen_teacher_without_them_is_refused",
    ),
    "training.engine": ("training/test_engine.py", "training/test_growth.py"),
    "training.monitor": ("training/test_monitor.py",),
    "core.cost": ("core/test_cost.py", "search/test_search.py::test_patches_are_counted_as_nnunet_lays_them"),
}
HEAVY = ("torch", "torchvision", "hypothesis", "nnunetv2.utilities.get_network_from_plans")  # imported once, then forked
MEMORY = 16 << 30  # bytes of address space that a mutant may take
NOTICED = ("failed", "timeout")
BROKEN = 70  # what a process exits with if the check itself fails
NO_RESULT = (BROKEN, 3, 4, 5, -signal.SIGKILL)  # pytest's own errors, no tests, and what ends a process that takes all memory
Result = dict[str, Any]  # of a mutant, plain data

# ---------------------------------------------------------------------- mutants
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
    **{ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "smallest": "largest", "largest": "smallest"}
DROPPED = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)
# What no result depends on: types, decorators, messages, checks of invariants
LEFT_ALONE = {"annotation", "returns", "decorator_list", "exc", "cause"}


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place by mistake."""
    match node:
        case ast.Compare(left, operators, others):
            for index, operator in enumerate(operators):
                yield ast.Compare(left, [*operators[:index], SWAPS[type(operator)](), *operators[index + 1 :]], others)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(SWAPS[type(operator)](), values)
            for index in range(len(values)):
                rest = [*values[:index], *values[index + 1 :]]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.BinOp(left, operator, right) if type(operator) in SWAPS:
            yield ast.BinOp(left, SWAPS[type(operator)](), right)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
            if value > 1:
                yield ast.Constant(value - 1)
        case ast.If(_, body, otherwise):
            yield from (ast.If(ast.Constant(value), body, otherwise) for value in (True, False))
        case ast.IfExp(_, body, otherwise):
            yield from (body, otherwise)
        case ast.comprehension(target, iterable, conditions):
            for index in range(len(conditions)):
                yield ast.comprehension(target, iterable, [*conditions[:index], *conditions[index + 1 :]], node.is_async)
        case ast.Call(function, arguments, keywords):
            for index, keyword in enumerate(keywords):
                if keyword.arg not in (None, "strict"):  # the default instead
                    yield ast.Call(function, arguments, [*keywords[:index], *keywords[index + 1 :]])
            swappable = not (isinstance(function, ast.Name) and function.id in ("min", "max"))
            if swappable and len(arguments) == 2 and not any(isinstance(argument, ast.Starred) for argument in arguments):
                yield ast.Call(function, arguments[::-1], keywords)
        case ast.Name(name, ast.Load()) if name in NAMES:
            yield ast.Name(NAMES[name], node.ctx)
        case ast.Attribute(value, name, ast.Load()) if name in NAMES:
            yield ast.Attribute(value, NAMES[name], node.ctx)
        case ast.Expr(ast.Constant()):
            return  # a docstring
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
    if isinstance(node, DROPPED):
        yield ast.Pass()


class Mutant(NamedTuple):
    """One error; ``make`` puts it into the tree in which it was found."""

    line: int
    function: int  # first line of the innermost one, its decorators included; 0 outside of functions
    before: str
    after: str
    make: Callable[[], None]


def mutants(node: ast.AST, function: int = 0) -> Iterator[Mutant]:
    """All mutants of a tree."""
    if isinstance(node, ast.FunctionDef):
        function = min(part.lineno for part in (node, *node.decorator_list))
    for field, value in ast.iter_fields(node):
        several = isinstance(value, list)
        for index, child in enumerate(value if several else [value]):
            strict = isinstance(child, ast.keyword) and child.arg == "strict"
            if field in LEFT_ALONE or strict or not isinstance(child, ast.AST) or isinstance(child, ast.Assert):
                continue
            place = partial(value.__setitem__, index) if several else partial(setattr, node, field)
            for other in alternatives(child):
                at = child.target if isinstance(child, ast.comprehension) else child
                before, after = (ast.unparse(each).strip().partition("\n")[0] for each in (child, other))
                yield Mutant(at.lineno, function, before, after, partial(place, other))
            yield from mutants(child, function)


# ---------------------------------------------------------------------- processes
class Loader(SourceFileLoader):
    """Loads a module from a tree in place of its file."""

    def __init__(self, name: str, path: Path, tree: ast.AST) -> None:
        super().__init__(name, str(path))
        self.tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")

    def find_spec(self, fullname: str, *_: Any) -> Any:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None


class Watch:
    """Notes which tests call which function of a file, by the function's first line, and how long each test takes."""

    def __init__(self, path: Path) -> None:
        self.path, self.test = str(path), ""  # "" while modules are imported
        self.calls: defaultdict[int, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code.co_filename == self.path:
            self.calls[frame.f_code.co_firstlineno].add(self.test)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.test, start = item.nodeid, time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - start
        return result


class Select:
    """Runs some tests alone, in their order, and does not shrink the example with which one fails."""

    def __init__(self, tests: list[str]) -> None:
        self.rank = {test: rank for rank, test in enumerate(tests)}

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("as it fails", settings.get_profile("repeatable"), phases=(Phase.explicit, Phase.generate))
        settings.load_profile("as it fails")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])


def run_tests(module: str, plugin: Any) -> int:
    os.chdir(ROOT)
    tests = [f"tests/{each}" for each in TESTS[module]]
    return int(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests], plugins=[plugin]))


def forked(work: Callable[[], int], limit: float = 0) -> int:
    """The id of a process that exits with the result of ``work``, silent, and is killed after ``limit`` seconds."""
    if process := os.fork():
        return process
    code = BROKEN
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.setitimer(signal.ITIMER_REAL, limit)
        code = work()
    finally:
        os._exit(code)


def watched(module: str, path: Path) -> tuple[dict[int, set[str]], dict[str, float]]:
    """Tests by function, and their seconds in the order in which they are to run; without an error they have to pass."""
    reader, writer = os.pipe()

    def work() -> int:
        watch = Watch(path)
        sys.settrace(watch)
        threading.settrace(watch)  # in which tests run ranks
        code = run_tests(module, watch)
        sys.settrace(None)
        with os.fdopen(writer, "w") as out:
            json.dump([{line: [*tests] for line, tests in watch.calls.items()}, watch.seconds], out)
        return code

    process = forked(work)
    os.close(writer)
    with os.fdopen(reader) as incoming:
        text = incoming.read()
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the tests of {module} fail without any error in it")
    calls, seconds = json.loads(text)
    order = dict(sorted(seconds.items(), key=lambda item: item[1]))
    return {int(line): set(order) if "" in tests else set(tests) for line, tests in calls.items()} | {0: set(order)}, order


# ---------------------------------------------------------------------- the check
def check(module: str, sample: int, seed: int, jobs: int, known: Mapping[str, Result]) -> Iterator[Result]:
    """Results of a sample of the module's mutants, as they come; those ``known`` by their id are not tried again."""
    path = (ROOT / "monai_prox" / module.replace(".", "/")).with_suffix(".py")
    source = path.read_bytes()
    tree, lines = ast.parse(source), source.decode().splitlines()
    every = [*mutants(tree)]
    drawn = sorted(random.Random(f"{seed} {module}").sample(range(len(every)), min(sample, len(every))))
    version = sha256(source + Path(__file__).read_bytes()).hexdigest()[:12]
    ids = {number: f"{module} {version} {number}" for number in drawn}
    yield from (known[each] for each in ids.values() if each in known)
    pending = [number for number in drawn if ids[number] not in known]
    if not pending:
        return
    calls, seconds = watched(module, path)
    running: dict[int, tuple[int, float]] = {}

    def work(mutant: Mutant, tests: list[str]) -> int:
        mutant.make()
        sys.meta_path.insert(0, Loader(f"monai_prox.{module}", path, tree))
        return run_tests(module, Select(tests))

    def result(number: int, outcome: str, start: float) -> Result:
        line, _, before, after, _ = every[number]
        error = {"line": line, "before": before, "after": after, "source": lines[line - 1].strip()}
        seconds = round(time.perf_counter() - start, 2)
        return {"id": ids[number], "module": module, "of": len(every), **error, "outcome": outcome, "seconds": seconds}

    try:
        while pending or running:
            while pending and len(running) < jobs:
                number, start = pending.pop(0), time.perf_counter()
                tests = [test for test in seconds if test in calls.get(every[number].function, ())]
                if tests:
                    limit = 30 + 5 * sum(seconds[test] for test in tests)
                    running[forked(partial(work, every[number], tests), limit)] = number, start
                else:
                    yield result(number, "not reached", start)
            if running:
                process, status = os.wait()
                number, start = running.pop(process)
                code = os.waitstatus_to_exitcode(status)
                if code in NO_RESULT:
                    raise SystemExit(f"{module} with the error {every[number]} cannot be run: its process ended with {code}")
                yield result(number, {0: "survived", -signal.SIGALRM: "timeout"}.get(code, "failed"), start)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def report(results: list[Result]) -> str:
    """A table of scores and a list of survivors, in Markdown."""
    rows = ["| module | mutants | tried | noticed | score | seconds |", "|---|---|---|---|---|---|"]
    for name in [*dict.fromkeys(result["module"] for result in results), "all"]:
        of = [result for result in results if name in (result["module"], "all")]
        noticed, seconds = sum(result["outcome"] in NOTICED for result in of), sum(result["seconds"] for result in of)
        total = sum({result["module"]: result["of"] for result in of}.values())
        rows.append(f"| {name} | {total} | {len(of)} | {noticed} | {noticed / len(of):.1%} | {seconds:.0f} |")
    left = [result for result in results if result["outcome"] not in NOTICED]
    rows += ["", "Not noticed:", ""] if left else []
    for each in left:
        rows.append(f"- {each['module']}.py:{each['line']} {each['outcome']}: `{each['before']}` -> `{each['after']}`")
        rows.append(f"  in `{each['source']}`")
    return "\n".join(rows)


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help=f"of monai_prox; all if none: {', '.join(TESTS)}")
    parser.add_argument("--sample", type=positive, default=60, help="mutants of each module (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--jobs", type=positive, default=1, help="processes at a time (default: 1)")
    parser.add_argument(
        "--results", type=Path, help="file of lines of JSON to which results go; what was noticed there is not tried again"
    )
    options = parser.parse_args()
    modules = options.modules or [*TESTS]
    if unknown := set(modules) - set(TESTS):
        parser.error(f"no such module: {', '.join(unknown)}")

    sys.path.insert(0, str(ROOT))
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    lines = []
    if options.results:
        options.results.touch()  # better now than after the first result, if it cannot be written
        *lines, rest = options.results.read_text().split("\n")
        os.truncate(options.results, options.results.stat().st_size - len(rest.encode()))  # of a line that was being written
    known = {result["id"]: result for result in map(json.loads, lines) if result["outcome"] in NOTICED}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ[SHARED] = folder  # a mutant that is killed leaves none of its own
        for module in modules:
            for result in check(module, options.sample, options.seed, options.jobs, known):
                results.append(result)
                if options.results and result["id"] not in known:
                    with options.results.open("a") as file:
                        print(json.dumps(result), file=file)
    print(report(results))


if __name__ == "__main__":
    main()
