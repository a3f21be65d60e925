"""The planned memory of a run is the memory that it takes, and a run that cannot fit raises an error at once."""

import dataclasses

import equinox as eqx
import jax
import pytest
import trainer

import tz
from tz.runs.memory_plan import check_memory, plan_memory

pytestmark = [pytest.mark.once, pytest.mark.slow]

ENV = tz.from_pgx("tic_tac_toe")
CONFIG = dataclasses.replace(
    trainer.config(), testers=(tz.TwoPlayerTester(num_games=4, max_moves=9), tz.ApproxEloTester(3, 4, 2))
)


def network_and_state():
    return eqx.nn.make_with_state(tz.AZResNet)(
        ENV.observation.shape, ENV.num_actions, 1, 8, norm="batch", key=jax.random.key(0)
    )


@pytest.mark.parametrize("num_devices", [1, 2])
def test_the_state_takes_what_was_said(num_devices):
    mesh = tz.data_mesh(jax.devices()[:num_devices])
    network, norm_state = network_and_state()
    plan = plan_memory(CONFIG, ENV, network, norm_state, mesh=mesh)
    state = tz.init_loop(CONFIG, ENV, network, norm_state, key=jax.random.key(1), mesh=mesh)

    def on_first(tree):
        leaves = [x for x in jax.tree.leaves(tree) if eqx.is_array(x)]
        return sum(x.addressable_shards[0].data.nbytes for x in leaves)

    for name, part in {"games": "games", "buffer": "replay", "network": "train", "testers": "testers"}.items():
        assert getattr(plan, name) == on_first(getattr(state, part)), name
    assert f"games {plan.games / 1e6:.1f} MB" in str(plan) and plan.gradient > 0 and plan.self_play > plan.games


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"replay": tz.EpisodeReplayBuffer(10**10)}, "lower the buffer's capacity or num_games"),
        ({"mcts": tz.MCTS(3, 10**9)}, "lower num_games or the search's max_nodes"),
        ({"testers": (tz.ApproxEloTester(10**8, 4, 2),)}, "lower the testers' pool of networks, total_epochs"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_anything_is_allocated(changes, advice):
    network = tz.MLP(ENV.observation.shape, ENV.num_actions, width=8, key=jax.random.key(0))
    config = dataclasses.replace(CONFIG, **changes)
    mesh = tz.data_mesh(jax.devices()[:1])
    with pytest.raises(ValueError, match=rf"needs at least [\d.]+ GB on each device, which has .*{advice}"):
        tz.init_loop(config, ENV, network, key=jax.random.key(1), mesh=mesh)


def test_what_just_fits_is_not_refused():
    network, norm_state = network_and_state()
    mesh = tz.data_mesh(jax.devices()[:1])
    plan = plan_memory(CONFIG, ENV, network, norm_state, mesh=mesh)
    for twice in "games", "network":  # whichever of the two is larger
        plan = dataclasses.replace(plan, **{twice: 10**9})
        check_memory(plan, mesh, plan.state + 10**9)
        with pytest.raises(ValueError, match="each device"):
            check_memory(plan, mesh, plan.state + 10**9 - 1)
