"""`nox -s hello` trains an Othello agent; `nox -s tests` runs everything that must pass, `nox -s docs` included."""

import tempfile

import nox

nox.options.sessions = ["tests"]


@nox.session
def hello(session: nox.Session) -> None:
    """Trains an agent that plays Othello and leaves it, its curves and a game under runs/hello/."""
    session.install("-e", ".")
    session.run("python", "experiments/hello_othello.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types, unit tests, notebooks and, in the session `docs`, the documentation."""
    session.notify("docs", posargs=())
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright")
    with tempfile.TemporaryDirectory() as cache:  # compiled programs, shared by the processes of this run
        environment = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
        side_by_side = ("-n", "2", "--dist", "loadfile")  # two processes use two cores better than one does
        session.run("pytest", *side_by_side, *session.posargs, env=environment)
        session.run("pytest", *side_by_side, "--nbmake", "--nbmake-timeout=600", "notebooks", env=environment)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into site/; a warning is an error. `-- external` follows the links to other sites as well."""
    # The reference is read from the source text, so neither tz nor what it needs has to be installed.
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    check_external = str("external" in session.posargs).lower()
    session.run("mkdocs", "build", env={"CHECK_EXTERNAL_LINKS": check_external, "NO_MKDOCS_2_WARNING": "1"})
