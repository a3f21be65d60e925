"""The README's quick start runs as it stands, except that it has fewer epochs, games and gradient steps."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]
SMALLER = {
    "num_epochs=10)": "num_epochs=2)",
    "num_games=64,": "num_games=16,",
    "train_steps_per_epoch=100,": "train_steps_per_epoch=4,",
}


def test_the_quick_start_runs():
    text = (pathlib.Path(tz.__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 32
    names = {}
    for given, smaller in SMALLER.items():
        assert given in code
        code = code.replace(given, smaller)
    with jax.debug_nans(True):  # it divides nothing by 0
        exec(compile(code, "README.md", "exec"), names)
    assert names["state"].epoch == 2
    assert jnp.isclose(tz.action_weights(names["mcts"], names["search"]).sum(), 1)
