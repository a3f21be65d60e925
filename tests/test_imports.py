"""The direction of imports, and that importing does no work."""

import ast
import pathlib
import subprocess
import sys

import tz

PACKAGE = pathlib.Path(tz.__file__).parent
LAYERS = [
    {"env", "given", "dice", "rules", "conformance", "tree", "layers", "promotion", "sharding"},
    {
        "evaluators",
        "selectors",
        "backups",
        "roots",
        "moves",
        "solver",
        "networks",
        "replay",
        "targets",
        "trajectory",
        "symmetries",
        "envs.pgx",
        "openings",
        "elo",
    },
    {"mcts", "search", "results", "train"},
    {"selfplay", "players", "arena", "league", "testers"},
    {
        "compatibility",
        "config",
        "checks",
        "phases",
        "loop",
        "agent",
        "checkpoint",
        "saved",
        "stopping",
        "fork",
        "memory",
        "run",
        "__main__",
        "logging",
        "recipe",
    },
]
SIDE = {f"plot.{name}" for name in ("animations", "canvas", "games", "learning", "roots", "shown", "trees")}


def modules() -> dict[str, pathlib.Path]:
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def imports(path: pathlib.Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    return {node.module.removeprefix("tz.") for node in nodes if node.module.startswith("tz.")}


def test_a_module_imports_only_from_its_own_layer_or_lower():
    layer = {name: index for index, names in enumerate(LAYERS) for name in names}
    assert set(layer) | SIDE == set(modules())
    for name, path in modules().items():
        for imported in imports(path):
            assert imported not in SIDE or name in SIDE, f"{name} imports {imported}"
            assert name in SIDE or layer[imported] <= layer[name], (
                f"{name} imports {imported}, which is in a higher layer"
            )


def test_the_package_re_exports_and_does_nothing_else():
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert all(isinstance(node, ast.ImportFrom) for node in body[1:]) and isinstance(body[0], ast.Expr)
    names = [alias.asname for node in body[1:] for alias in node.names]
    assert len(names) == len(set(names)) and all(hasattr(tz, name) for name in names)


def test_importing_makes_no_array_and_loads_no_matplotlib():
    code = (
        "import sys, tz, tz.plot; from jax._src import xla_bridge;"
        "assert not xla_bridge.backends_are_initialized(), 'a device was touched';"
        "loaded = {'matplotlib', 'pgx', 'wandb', 'orbax', 'tensorboardX', 'tyro'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
