"""The parts of `experiments/gpu.py` on a CPU, at its tiny sizes."""

import argparse
import pathlib
import sys

import jax
import pytest

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def parts():
    """Imports the script. JAX has its default promotion of types and ranks, also in threads that compile."""
    before = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    promote("standard", "allow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXPERIMENTS), str(EXPERIMENTS / "connect_four"), *sys.path])
        import gpu_parts

        yield gpu_parts
    promote(*before)


def promote(dtypes, ranks):
    jax.config.update("jax_numpy_dtype_promotion", dtypes)
    jax.config.update("jax_numpy_rank_promotion", ranks)


def rows(parts, name, out):
    """Returns the cells of the table that a part yields."""
    args = argparse.Namespace(part=name, minutes=1.0, out=out, cells=[], seed=0, tiny=True)
    lines = [line for line in parts.PARTS[name](args) if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_every_search_is_timed_and_agrees_with_mctx(parts, tmp_path):
    found = rows(parts, "speed", tmp_path)
    constant = {row[3]: row for row in found if row[2] == "constant"}
    assert set(constant) == {"tz, PUCT", "tz, Gumbel", "mctx, gumbel_muzero_policy", "`env.step` alone"}
    assert all(float(row[4].replace(",", "")) > 0 for row in found)
    assert constant["tz, Gumbel"][7] == constant["mctx, gumbel_muzero_policy"][7], "the same weights, bit for bit"


def test_an_agent_is_trained_measured_and_used_for_the_leaves(parts, tmp_path):
    found = rows(parts, "connect_four", tmp_path)
    assert [row[0] for row in found] == ["policy", "4 simulations"]
    assert all(0 <= float(row[1]) <= 100 for row in found)
    card = tz.runs.agent_card(tmp_path / "connect_four.tz")
    assert card["epochs"] == 2 and list(card["mistakes"]) == ["policy", "4 simulations"]
    assert [row[0] for row in rows(parts, "leaves", tmp_path)] == ["1", "2"]
