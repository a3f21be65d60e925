"""Sessions for nox: `nox -s hello` trains an Othello agent, `nox -s tests` runs everything that must pass."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import nox
from packaging.requirements import Requirement

nox.options.sessions = ["tests"]

# Without the last option, files with few tests come last. If one of these is slow, a process waits for the other.
TWO_PROCESSES = "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"
PROJECT = nox.project.load_toml("pyproject.toml")["project"]


@nox.session
def hello(session: nox.Session) -> None:
    """Trains an agent of Othello; writes it, its learning curve and a film of a game to runs/hello/."""
    session.install("-e", ".[pictures]")
    session.run("python", "experiments/hello_othello.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Runs lint, types, unit tests and notebooks, and then the session `docs`."""
    session.notify("docs", posargs=())
    session.install("-e", ".[dev]")
    lint(session)
    run_pytest(session, "python", *session.posargs)
    run_pytest(session, "python", "--nbmake", "--nbmake-timeout=600", "notebooks")


@nox.session(reuse_venv=True)
def quick(session: nox.Session) -> None:
    """Runs lint, types, and the unit tests that need no long compilation. Use it for everyday work.

    It keeps its environment for the next time, and leaves out the checks of shapes at run time.
    """
    session.install("-e", ".[dev]")
    lint(session)
    session.env["TZ_TEST_UNTYPED"] = "1"
    run_pytest(session, "python", "-m", "not slow", *session.posargs)


@nox.session(venv_backend="none")
def newest(session: nox.Session) -> None:
    """Runs the unit tests with the newest installed Python and its newest dependencies, without checks of types."""
    found = interpreters()
    version = max(found)
    if version <= sys.version_info[:2]:
        session.skip(f"Python {dotted(version)} is the newest that runs here, and `nox -s tests` uses it already")
    python = environment(session, found[version])
    session.run(python, "-m", "pip", "install", "--quiet", "-e", ".[dev]")
    session.env["TZ_TEST_UNTYPED"] = "1"
    run_pytest(session, python, *session.posargs)


@nox.session(venv_backend="none")
def oldest(session: nox.Session) -> None:
    """Runs the unit tests with the oldest Python and the oldest dependencies that pyproject.toml allows."""
    version = tuple(int(number) for number in PROJECT["requires-python"].removeprefix(">=").split("."))
    found = interpreters()
    if version not in found:
        session.skip(f"Python {dotted(version)} does not run here; these do: {', '.join(map(dotted, sorted(found)))}")
    python = environment(session, found[version])
    constraints = pathlib.Path(session.create_tmp()) / "oldest.txt"
    constraints.write_text("\n".join(lower_bounds()) + "\n")
    session.run(python, "-m", "pip", "install", "--quiet", "-c", str(constraints), "-e", ".[dev]")
    run_pytest(session, python, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation in site/; a warning is an error. `-- external` also checks links to other sites."""
    # The reference is made from the source text, so neither tz nor its dependencies have to be installed.
    session.install(*PROJECT["optional-dependencies"]["docs"])
    check_external = str("external" in session.posargs).lower()
    session.run("mkdocs", "build", env={"CHECK_EXTERNAL_LINKS": check_external, "NO_MKDOCS_2_WARNING": "1"})


def lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright")


def run_pytest(session: nox.Session, python: str, *arguments: str) -> None:
    """Runs pytest in two processes, which share compiled programs by a cache that only this run has."""
    show = "import sys, jax; print(f'Python {sys.version.split()[0]}, JAX {jax.__version__}')"
    session.run(python, "-c", show)
    with tempfile.TemporaryDirectory() as cache:
        environment = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
        session.run(python, "-m", "pytest", *TWO_PROCESSES, *arguments, env=environment)


def environment(session: nox.Session, interpreter: str) -> str:
    """Makes a fresh virtual environment with an interpreter; returns the path of its Python."""
    folder = pathlib.Path(session.create_tmp()) / "venv"
    session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", "--python", interpreter, str(folder))
    (python,) = [*folder.glob("bin/python"), *folder.glob("Scripts/python.exe")]
    return str(python)


def interpreters() -> dict[tuple[int, ...], str]:
    """Returns the path of a Python for each version that runs here, found on the PATH or by pyenv.

    Each candidate is run, since a name on the PATH is not enough: a shim of pyenv fails unless its version is selected.
    """
    probe = (
        "import sys; v = sys.version_info\n"
        "if sys.implementation.name == 'cpython' and v.releaselevel == 'final': print(v[1], v[2], sys.executable)"
    )
    folders = [pathlib.Path(folder) for folder in os.get_exec_path() if os.path.isdir(folder)]
    names = {path.name for folder in folders for path in folder.glob("python3.*")}
    tries = [((name,), {}) for name in sorted(names) if re.fullmatch(r"python3\.\d+", name)]
    if shutil.which("pyenv"):
        installed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        tries += [(("pyenv", "exec", "python"), {"PYENV_VERSION": name}) for name in installed if name[:2] == "3."]
    found = {(3, sys.version_info[1]): (sys.version_info[2], sys.executable)}
    for command, extra in tries:
        ran = subprocess.run([*command, "-c", probe], capture_output=True, text=True, env=os.environ | extra)
        if ran.returncode == 0 and ran.stdout:
            minor, micro, path = ran.stdout.strip().split(" ", 2)
            found[3, int(minor)] = max(found.get((3, int(minor)), (-1, "")), (int(micro), path))
    return {version: path for version, (_, path) in found.items()}


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def lower_bounds() -> list[str]:
    """Returns each lower bound of pyproject.toml as an exact version, as constraints for pip."""
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for name in extras if name != "docs" for text in extras[name])]
    requirements = [Requirement(text) for text in texts]
    pairs = {(r.name, s.version) for r in requirements for s in r.specifier if s.operator == ">="}
    return sorted(f"{name}=={version}" for name, version in pairs)
