"""The code of the guides and of the reference runs, from the top of each page to its end."""

import os
import pathlib
import re

import jax
import pytest

import tz

pytestmark = pytest.mark.slow
DOCS = pathlib.Path(tz.__file__).parents[1] / "docs"
PAGES = [path for path in sorted(DOCS.glob("*/*.md")) if "```python\n" in path.read_text("utf-8")]


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
