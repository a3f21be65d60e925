"""The installed package: dependencies for all imports, and a wheel that works without a checkout."""

import ast
import importlib
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tz
from tz.runs import sinks

ROOT = pathlib.Path(tz.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The extras of packages that tz imports only where they are used.
OPTIONAL = ("export", "onnx", "pictures", "play", "tensorboard", "train", "wandb")


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> set[str]:
    """Returns the distributions of all modules that tz imports, at the top of a file or inside a function."""
    distributions = importlib.metadata.packages_distributions()
    found = set()
    for path in (ROOT / "tz").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                found.add(node.module.partition(".")[0])
    found -= sys.stdlib_module_names | {"tz"}
    return {canonicalize_name(distributions.get(module, [module])[0]) for module in found}


def test_runtime_dependencies_are_those_that_tz_imports():
    optional = set().union(*(names(EXTRAS[extra]) for extra in OPTIONAL))
    assert names(PROJECT["dependencies"]).isdisjoint(optional)
    assert names(PROJECT["dependencies"]) | optional == imported()


def test_every_dependency_has_a_lower_bound_so_that_the_oldest_can_be_tested():
    texts = [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
    for requirement in map(Requirement, texts):
        operators = [specifier.operator for specifier in requirement.specifier]
        assert requirement.name == "tz" or operators.count(">=") == 1, requirement
    bounds = {str(r.specifier) for r in map(Requirement, texts) if r.name == "jax"}
    assert len(bounds) == 1, "jax has the same bound everywhere"


@pytest.fixture
def noxfile(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("noxfile")


def test_the_oldest_session_takes_lower_bounds_as_they_stand(noxfile):
    bounds = dict(line.split("==") for line in noxfile.lower_bounds())
    assert set(bounds) == {r.name for r in map(Requirement, PROJECT["dependencies"] + EXTRAS["dev"])} - {"tz"} | {
        r.name for extra in OPTIONAL for r in map(Requirement, EXTRAS[extra])
    }
    (jax,) = (text for text in PROJECT["dependencies"] if text.startswith("jax>"))
    assert jax == f"jax>={bounds['jax']}"


def test_an_interpreter_is_one_that_runs_not_one_that_has_a_name(noxfile, monkeypatch, tmp_path):
    """A shim of pyenv is on the PATH but fails; pyenv itself runs the Python if the version is given."""
    shim = 'echo "pyenv: python3.99: command not found" >&2; exit 127'
    listing = 'if [ "$1" = versions ]; then echo 3.98.1; echo 3.99.2; exit; fi'
    pyenv = listing + '\n[ "$PYENV_VERSION" = 3.99.2 ] && echo 99 2 /a b'
    for name, script in {"python3.99": shim, "pyenv": pyenv}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert noxfile.interpreters() == {sys.version_info[:2]: sys.executable, (3, 99): "/a b"}


def test_run_facts_do_without_the_metadata_of_a_package(monkeypatch):
    """A checkout that is only on the PYTHONPATH has no metadata."""
    version = importlib.metadata.version

    def hidden(name):
        if name == "tz":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", hidden)
    versions = sinks.run_facts()["versions"]
    assert versions["tz"] is None and versions["jax"] == version("jax")
    assert json.loads(json.dumps(versions)) == versions


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Makes a folder with the files that the wheel puts into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: pathlib.Path, code: str) -> str:
    """Runs code in a process that imports the installed files and never the checkout."""
    start = f"import sys; sys.path[:] = [{str(installed)!r}, *(p for p in sys.path if p not in ('', {str(ROOT)!r}))]; "
    command = [sys.executable, "-P", "-c", start + code]
    ran = subprocess.run(command, cwd=installed, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_the_wheel_has_what_belongs_to_it_and_nothing_else(installed):
    files = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tz").rglob("*") if path.is_file()}
    source = {name for name in source if "__pycache__" not in name}
    assert {name for name in files if ".dist-info/" not in name} == source
    agents = {f"tz/agents/{name}.tz" for name in ("connect_four", "connect_four_small", "othello", "go_9x9")}
    assert {"tz/py.typed"} | agents <= source
    (about,) = importlib.metadata.distributions(path=[str(installed)])
    assert about.version == PROJECT["version"] and "licenses/LICENSE" in str(about.files)
    assert set(about.metadata.get_all("Provides-Extra")) == set(EXTRAS)


@pytest.mark.slow
def test_the_installed_form_works_without_a_checkout(installed):
    code = (
        "import jax, tz; player = tz.load_agent('connect_four_small'); "
        "boards = jax.numpy.zeros(tz.from_pgx('connect_four').observation.shape); "
        "logits, value = player.evaluator.predict(boards); "
        "print(tz.__file__, logits.shape, -1 <= value <= 1)"
    )
    file, *rest = run(installed, code).split(maxsplit=1)
    assert pathlib.Path(file) == installed / "tz" / "__init__.py" and rest == ["(7,) True"]


@pytest.mark.slow
def test_the_command_line_of_the_installed_form_says_its_options(installed):
    code = "import runpy; sys.argv = ['tz', '--help']; runpy.run_module('tz', run_name='__main__')"
    assert "--minutes" in run(installed, code)
