"""The code of the guides and of the reference runs, each page from its top to its end. So do examples in docstrings."""

import ast
import gc
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import pytest

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]
DOCS = pathlib.Path(tz.__file__).parents[1] / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "```python\n" in path.read_text("utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_guide_runs(page, tmp_path, monkeypatch):
    if page.stem == "export":
        pytest.importorskip("flatbuffers")
    monkeypatch.chdir(tmp_path)
    names = {}
    # A user's JAX promotes types and ranks, which the tests otherwise forbid.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL):
            exec(compile(code, os.fspath(page), "exec"), names)


def examples():
    """Returns the examples in docstrings: for each the name of the object, and its code."""
    found = {}
    for path in pathlib.Path(tz.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            if text and (blocks := re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)):
                found[node.name] = "\n".join(blocks)
    return found


EXAMPLES = examples()


@pytest.mark.filterwarnings("ignore:Animation was deleted")  # a notebook shows the last line of a cell
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_docstring_runs(name, tmp_path, monkeypatch):
    if name == "export_network":
        pytest.importorskip("flatbuffers")
    if name == "GtpEngine" and shutil.which("gtp-rhino", path=f"{os.environ['PATH']}:/usr/games") is None:
        pytest.skip("gtp-rhino is not installed: apt-get install grhino")
    monkeypatch.chdir(tmp_path)
    env, key = tz.from_pgx("othello" if name == "GtpEngine" else "tic_tac_toe"), jax.random.key(0)
    agent, jumps = tz.Player(tz.MCTS(2, root=tz.PlainRoot()), tz.uniform_evaluator), (lambda n: n, lambda n: n + 1)
    names = {
        "tz": tz,
        "jax": jax,
        "env": env,
        "agent": agent,
        "key": key,
        "observations": jnp.zeros((3, 6, 7, 2), bool),
    }
    names |= {"init": jumps[0], "step": jumps[1], "observe": jumps[0]}  # of a game that the example only makes
    code = EXAMPLES[name].replace("num_games=100", "num_games=2")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if "match." in code.split("match = ")[0]:
            names["match"] = tz.play_match(env, agent, agent, num_games=2, key=key)
        exec(compile(code, name, "exec"), names)
    if name in ("animate_search", "render_game"):
        names.clear()
        gc.collect()  # so that the warning comes now, and not in another test
