"""The README's quick start runs as it stands, except that it stops after three epochs."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import tz

pytestmark = pytest.mark.slow


def test_the_quick_start_runs():
    text = (pathlib.Path(tz.__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 32
    code, names = re.sub(r"num_epochs=10\b", "num_epochs=3", code), {}
    with jax.debug_nans(True):  # it divides nothing by 0
        exec(compile(code, "README.md", "exec"), names)
    assert names["state"].epoch == 3
    assert jnp.isclose(tz.action_weights(names["mcts"], names["search"]).sum(), 1)
