"""The direction of imports, and that importing does no work."""

import ast
import importlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

import tz

ROOT = pathlib.Path(tz.__file__).parents[1]
PACKAGE = ROOT / "tz"
# Each room, a package or a module of `tz` itself, imports only from the rooms before it.
ROOMS = [
    "_arguments",
    "_arrays",
    "_programs",
    "_promotion",
    "sharding",
    "games",
    "nn",
    "mcts",
    "matches",
    "learn",
    "runs",
    "plot",
    "play",
    "_commands",
]
ROOMS += ["__init__", "__main__"]


def modules() -> dict[str, pathlib.Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imported(path: pathlib.Path) -> set[str]:
    """Returns the modules of `tz` that a file imports from, without the prefix `tz.`."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    return {node.module.removeprefix("tz.") for node in nodes if node.module.startswith("tz.")}


def room(module: str) -> int:
    return ROOMS.index(module.split(".")[0])


def test_a_package_imports_only_from_those_before_it():
    assert {module.split(".")[0] for module in modules()} == set(ROOMS)
    for module, path in modules().items():
        for other in imported(path):
            assert room(other) <= room(module), f"tz.{module} imports tz.{other}"
            assert other in modules() or module == "__init__", (
                f"tz.{module} imports a package, tz.{other}; take a module"
            )


def test_no_module_imports_itself_by_way_of_others():
    within = {name: imported(path) & set(modules()) for name, path in modules().items() if "__init__" not in name}
    while leaves := {name for name, others in within.items() if not others & set(within)}:
        within = {name: others for name, others in within.items() if name not in leaves}
    assert not within, f"a circle of imports among {sorted(within)}"


def test_packages_re_export_and_do_nothing_else():
    """A public object is the same under each of its names, and each package has a docstring."""
    for path in PACKAGE.rglob("__init__.py"):
        text, *body = ast.parse(path.read_text()).body
        assert isinstance(text, ast.Expr) and all(isinstance(node, ast.ImportFrom) for node in body)
        package = importlib.import_module(".".join(path.relative_to(ROOT).parent.parts))
        names = [alias.asname for node in body for alias in node.names]
        assert len(names) == len(set(names)) and all(hasattr(package, name) for name in names)
        modules_here = {module.stem for module in path.parent.glob("*.py")}
        assert not modules_here & set(names), "a public function hides a module"


def public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.replace(".__main__", "").split("."))


def names_used(source: str) -> set[str]:
    """Returns the dotted names under `tz` that a program uses."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tz":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            found |= {text} if re.fullmatch(r"tz(\.\w+)+", text) else set()
    return found


def test_notebooks_and_experiments_use_public_names_only():
    sources = {path: path.read_text() for path in (ROOT / "experiments").rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        sources[path] = re.sub(r"(?m)^\s*[%!].*$", "", "\n".join("".join(cell["source"]) for cell in cells))
    used = {path: names_used(source) for path, source in sources.items()}
    assert sum(map(len, used.values())) > 200
    for path, names in used.items():
        hidden = sorted(name for name in names if not public(name))
        assert not hidden, f"{path.name}: {hidden}"


@pytest.mark.slow
def test_importing_makes_no_array_and_loads_no_matplotlib():
    code = (
        "import sys, tz; tz.plot.plot_tree; tz.play.Game; from jax._src import xla_bridge;"
        "assert not xla_bridge.backends_are_initialized(), 'a device was touched';"
        "loaded = {'matplotlib', 'pgx', 'wandb', 'orbax', 'tensorboardX'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
