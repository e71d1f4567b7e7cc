"""The architecture's rules: rooms are the modules and packages on the ground floor, and imports between them go one way."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import monai_prox

PACKAGE = Path(monai_prox.__file__).parent
NAME = PACKAGE.name
HOSTS = {"nnunetv2", "batchgenerators", "batchgeneratorsv2", "monai", "ignite"}


def modules() -> dict[str, Path]:
    """By their dotted names."""
    files = {path.relative_to(PACKAGE.parent).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix("/__init__").replace("/", "."): path for name, path in files.items()}


def imported(path: Path) -> set[str]:
    """What a module imports anywhere, also within functions: names of modules, and of what is imported from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(names: set[str], known: dict[str, Path]) -> set[str]:
    """The modules of this package among ``names``."""
    parts = {name if name in known else name.rpartition(".")[0] for name in names}
    return {part for part in parts if part in known}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else NAME


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {module: within(imported(path), known) - {module} for module, path in known.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_rooms_are_few_and_imports_between_them_go_one_way() -> None:
    known = modules()
    arrows: dict[str, set[str]] = {}
    for module, path in known.items():
        arrows.setdefault(room(module), set()).update(room(other) for other in within(imported(path), known))
    arrows = {start: ends - {start, NAME} for start, ends in arrows.items()}  # the package itself is asked for its version
    assert list(TopologicalSorter(arrows).static_order())
    assert len(arrows) <= 30 and sum(map(len, arrows.values())) <= 120
    assert arrows["core"] <= {"errors"}
    assert arrows["families"] <= {"core", "errors", "typed"}
    assert arrows["comparators"] <= {"core", "errors"}
    assert arrows["training"] <= {"comparators", "core", "errors"}
    assert "bundle" not in arrows["nnunet"] and "nnunet" not in arrows["bundle"]
    assert not arrows["runtime"] & {"core", "families", "training", "trained", "export"}


def test_what_a_room_needs_of_others_packages() -> None:
    needed: dict[str, set[str]] = {}
    for module, path in modules().items():
        needed.setdefault(room(module), set()).update(name.partition(".")[0] for name in imported(path))
    for without in ("core", "training"):
        assert not needed[without] & HOSTS, without
    networks = {name for path in (PACKAGE / "families").glob("*.py") for name in imported(path) if name.split(".")[0] in HOSTS}
    assert networks == {"monai.networks.nets"}
    assert not needed["nnunet"] & {"monai", "ignite"}
    assert not needed["bundle"] & {"nnunetv2"}
    assert not needed["runtime"] & {*HOSTS, "torchvision"}


def test_a_device_needs_no_torch_to_start() -> None:
    """Files of the format TorchScript alone do, when they are opened."""
    for path in (PACKAGE / "runtime").glob("*.py"):
        first = ast.parse(path.read_text()).body
        names = {alias.name for node in first if isinstance(node, ast.Import) for alias in node.names}
        assert not names & {"torch"} and not [n for n in first if isinstance(n, ast.ImportFrom) and "torch" in str(n.module)]


def test_no_file_is_longer_than_350_lines() -> None:
    assert [path.name for path in modules().values() if len(path.read_text(encoding="utf-8").splitlines()) > 350] == []
