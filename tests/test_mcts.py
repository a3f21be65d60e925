"""The settings of a search, and what they refuse."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import tz


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": -1}, "found num_simulations=-1, expected at least 0; give 0 to play without a search"),
        ({"num_simulations": 4, "max_nodes": 1}, "found max_nodes=1, expected at least 2"),
        ({"num_simulations": 4, "temperature": -0.5}, "found temperature=-0.5, expected a finite number"),
        ({"num_simulations": 4, "temperature": float("nan")}, "found temperature=nan, expected a finite number"),
        ({"num_simulations": 4, "discount": 1.5}, "found discount=1.5, expected from 0 to 1"),
        ({"num_simulations": 6, "num_leaves": 4}, "found num_leaves=4 and num_simulations=6, expected .* to divide"),
        ({"num_simulations": 4, "num_leaves": 0}, "found num_leaves=0 .* expected num_leaves to be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tz.MCTS(**options)


def test_a_small_tree_is_announced():
    with pytest.warns(UserWarning, match="max_nodes=8, with room for 7 nodes .* that 32 simulations can add"):
        tz.MCTS(32, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("completed_q", "is_played"),
    [(tz.mcts.CompletedQ(c_scale=0.5, rescale=False), True), (tz.mcts.CompletedQ(), False)],
)
def test_a_scale_of_q_decides_whether_a_win_is_played_that_the_prior_thinks_nothing_of(completed_q, is_played):
    env = tz.from_pgx("tic_tac_toe")
    state, metadata = tz.play_moves(env, jnp.array([0, 3, 1, 4]))  # 2 wins
    mcts = tz.without_exploration(tz.gumbel_mcts(16, completed_q=completed_q))

    def evaluator(env_state, metadata, key):
        return jnp.zeros(9).at[2].set(-9.0), jnp.float32(0)

    searched = tz.search(mcts, env, evaluator, tz.init_search(mcts, state, metadata), key=jax.random.key(0))
    assert searched.root.q[2] == 1
    assert (tz.choose_action(mcts, searched, key=jax.random.key(0)) == 2) == is_played


def test_settings_show_what_differs_from_the_defaults():
    assert repr(tz.MCTS(8)) == "MCTS(num_simulations=8)"
    assert repr(tz.MCTS(8, root=tz.Dirichlet(alpha=0.5), solve=True)) == (
        "MCTS(num_simulations=8, root=Dirichlet(alpha=0.5), solve=True)"
    )
    assert repr(tz.gumbel_mcts(16, 4, discount=jnp.float32(0.5))).splitlines() == [
        "MCTS(",
        "    num_simulations=16,",
        "    selector=ImprovedPolicy(),",
        "    root=Gumbel(max_num_considered_actions=4),",
        "    discount=an array of shape (),",
        ")",
    ]
    assert repr(tz.runs.Recipe()) == "Recipe()"
    config, _ = tz.runs.Recipe("othello", window=None, train_batch_size=256).build()
    shown = repr(config)
    for part in ("num_games=128,", "train_batch_size=256,", "optimizer=a GradientTransformation"):
        assert f"\n    {part}" in shown
    for default in ("skip_nonfinite", "testers"):
        assert default not in shown
    # A trace knows no value, so nothing can be equal to its default.
    traced = []
    jax.jit(lambda x: traced.append(repr(tz.MCTS(8, discount=x))))(1.0)
    assert traced == ["MCTS(num_simulations=8, discount=an array of shape ())"]


WITHOUT_SEARCH = {
    "plain": tz.MCTS(0, root=tz.PlainRoot()),
    "Gumbel": tz.gumbel_mcts(0),
    "forced": tz.MCTS(0, root=tz.mcts.ForcedPlayouts()),
    "solver, bound": tz.MCTS(0, solve=True, final_move=tz.mcts.LowerConfidenceBound()),
}


@pytest.mark.parametrize("mcts", WITHOUT_SEARCH.values(), ids=WITHOUT_SEARCH)
def test_without_simulations_the_policy_of_the_evaluator_plays(mcts):
    env = tz.from_pgx("tic_tac_toe")
    position = tz.play_moves(env, jnp.array([8]))  # the move with the largest logit is illegal now
    logits = jnp.arange(9.0)

    @jax.jit
    def played(key):
        quiet = tz.without_exploration(mcts)
        state = tz.search(quiet, env, lambda *_: (logits, jnp.float32(0.25)), tz.init_search(quiet, *position), key=key)
        after = tz.advance(quiet, state, jnp.int32(7), *env.step(position[0], jnp.int32(7)))
        read = tz.choose_action(quiet, state, key=key), tz.action_weights(quiet, state), tz.root_value(quiet, state)
        return *read, after.tree.size

    action, policy, value, size = played(jax.random.key(0))
    assert (action, value, size) == (7, 0.25, 1)
    chex.assert_trees_all_close(policy, jax.nn.softmax(logits.at[8].set(-jnp.inf)), rtol=1e-5)


def test_a_step_without_simulations_is_refused():
    env, mcts = tz.from_pgx("tic_tac_toe"), tz.gumbel_mcts(0)
    start = tz.init_search(mcts, *env.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="search_step: found settings with num_simulations=0, expected at least 1"):
        tz.search_step(mcts, env, tz.uniform_evaluator, start, key=jax.random.key(0))


def test_training_without_simulations_is_refused():
    given = {"optimizer": optax.sgd(0.1), "replay": tz.EpisodeReplayBuffer(16), "num_games": 2, "train_batch_size": 2}
    given |= {"moves_per_epoch": 4, "train_steps_per_epoch": 1}
    with pytest.raises(ValueError, match=r"found mcts.num_simulations=0, expected at least 1, since a policy learns"):
        tz.TrainConfig(mcts=tz.MCTS(0), **given)
