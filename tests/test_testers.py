"""Testers: recorded results, kept states, and when networks are replaced and rungs climbed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])


class Skilled(eqx.Module):
    """Counts stones in the lines that a player can still fill, times a factor: 1 plays well, 0 at random, and -1 to
    lose."""

    skill: jax.Array

    def __call__(self, env_state, metadata, key):
        held = env_state._x.board[LINES]
        stones = [jnp.sum(held == colour, axis=1) for colour in (0, 1)]
        first, second = (jnp.sum(jnp.where(stones[1 - i] == 0, stones[i] ** 2, 0)) for i in (0, 1))
        ahead = jnp.where(env_state._x.color == 0, first - second, second - first)
        return jnp.zeros(9), 0.3 * self.skill * ahead.astype(jnp.float32)


MESH = tz.data_mesh(jax.devices()[:1])
SMALL = tz.MCTS(12, 24, root=tz.PlainRoot(), temperature=0.0)
NUM_GAMES = 20  # always the same, so that each pair of players has one program


def test_the_elo_tester_rates_networks_and_anchors_on_two_scales(env):
    """Three networks of growing skill in a pool for two: ratings rise, and results are in the right rows."""
    tester = tz.ApproxEloTester(2, NUM_GAMES, 2, anchors=(tz.random_player(),), opening_moves=2, max_moves=9)
    state, found = tester.init(Skilled(jnp.float32(-1)), mesh=MESH), []
    for index, skill in enumerate((0.0, 1.0, 1.0)):
        evaluator = Skilled(jnp.float32(skill))
        state, metrics = tester.test(SMALL, env, evaluator, state, key=jax.random.key(index), mesh=MESH)
        found.append(metrics)
        games = state.wins + state.wins.T + state.draws
        assert games[0, 0] == 0 and set(np.unique(games)) <= {0, NUM_GAMES}
        if index == 1:
            played = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
            np.testing.assert_array_equal(games, NUM_GAMES * played)
    assert state.pool.skill.tolist() == [-1, 1, 1], "the untrained network stays, the next oldest made room"
    assert int(state.size) == 3
    np.testing.assert_array_equal(games[1:, 1:], NUM_GAMES * (1 - np.eye(3)))
    assert 0 < found[0]["elo"] < found[1]["elo"]
    for metrics in found:
        assert metrics["elo_low"] < metrics["elo"] < metrics["elo_high"]
        assert metrics["elo_anchored_low"] < metrics["elo_anchored"] < metrics["elo_anchored_high"]
    assert found[1]["elo_anchored"] < found[1]["elo"], "even the random player beats one bent on losing"
    met = np.ix_([0, 2, 3], [0, 2, 3])  # the anchor, and the networks that played it
    wins, draws = (np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]) * np.array(x)[met] for x in (state.wins, state.draws))
    assert found[2]["elo_anchored"] == tz.matches.fit_elo(wins, draws).elo[2], "by games against the anchor alone"


def test_games_cut_off_are_counted_and_rate_nobody(env):
    evaluator, options = Skilled(jnp.float32(1)), {"num_games": 8, "opening_moves": 0, "max_moves": 4}
    for tester, name in (
        (tz.OpponentTester(tz.random_player(), "random", **options), "random"),
        (tz.TwoPlayerTester(**options), "best"),
        (tz.matches.LadderTester((tz.random_player(),), **options), "ladder"),
    ):
        message = rf"found no finished game in the test '{name}' \(of 8 games, 8 cut off at max_moves=4\), expected"
        inputs = SMALL, env, evaluator, tester.init(evaluator, mesh=MESH)
        with pytest.warns(UserWarning, match=message):
            _, metrics = tester.test(*inputs, key=jax.random.key(0), mesh=MESH)
        missing = {name for name, value in metrics.items() if np.isnan(value)}
        expected = {f"{name}_{end}" for end in ("score", "score_low", "score_high")}
        assert missing == expected | ({"ladder_height"} if name == "ladder" else set())
        assert metrics[f"{name}_unfinished"] == 8
        assert metrics.get("best_replaced", 0) == metrics.get("ladder_rung", 0) == 0
    tester = tz.ApproxEloTester(2, 8, 2, anchors=(tz.random_player(),), opening_moves=0, max_moves=4)
    message = r"no finished games .* zero of elo(_anchored)? \(of 16 games, 16 cut off at max_moves=4\), expected"
    with pytest.warns(UserWarning, match=message):
        state, metrics = tester.test(
            SMALL, env, evaluator, tester.init(evaluator, mesh=MESH), key=jax.random.key(0), mesh=MESH
        )
    names = {f"{name}{end}" for name in ("elo", "elo_anchored") for end in ("", "_low", "_high")}
    assert metrics.keys() == names and np.isnan(list(metrics.values())).all() and int(state.size) == 2
    whole = tz.ApproxEloTester(2, NUM_GAMES, 1, anchors=(tz.random_player(),), opening_moves=2, max_moves=9)
    state, metrics = whole.test(SMALL, env, evaluator, state, key=jax.random.key(1), mesh=MESH)
    assert metrics["elo_low"] < metrics["elo"] < metrics["elo_high"], "the one without games does not stand in the way"


def test_the_ladder_is_climbed_by_winning(env):
    rungs = tz.Player(SMALL, Skilled(jnp.float32(-1))), tz.random_player()
    tester = tz.matches.LadderTester(rungs, num_games=NUM_GAMES, opening_moves=2, max_moves=9)
    state = tester.init(Skilled(jnp.float32(0)), mesh=MESH)
    test = lambda skill, state: tester.test(
        SMALL, env, Skilled(jnp.float32(skill)), state, key=jax.random.key(0), mesh=MESH
    )
    state, metrics = test(-1.0, state)
    assert int(state[0]) == metrics["ladder_rung"] == 0 and metrics["ladder_score"] < 0.7
    assert metrics["ladder_height"] == metrics["ladder_score"]
    assert metrics["ladder_score_low"] < metrics["ladder_score"] < metrics["ladder_score_high"]
    state, metrics = test(1.0, state)
    assert int(state[0]) == metrics["ladder_rung"] == 2 and metrics["ladder_score"] > 0.55
    assert state[1].skill == 1 and metrics["ladder_height"] == 2.5, "past the last rung, it meets itself"
    state, metrics = test(0.0, state)
    assert state[0] == 2 and metrics["ladder_score"] < 0.55 and state[1].skill == 1
    assert metrics["ladder_height"] == 2 + metrics["ladder_score"]


def test_testers_refuse_settings_without_sense():
    for make, message in [
        (lambda: tz.matches.LadderTester(()), "found rungs to be empty, expected at least one player"),
        (
            lambda: tz.matches.LadderTester((tz.random_player(),), threshold=0.3),
            "found threshold=0.3, expected at least 0.5 and below 1",
        ),
        (
            lambda: tz.matches.LadderTester((tz.random_player(),), num_games=5),
            r"found num_games=\d, expected an even",
        ),
        (lambda: tz.TwoPlayerTester(0), r"found num_games=\d, expected an even"),
        (lambda: tz.OpponentTester(tz.random_player(), "random", 7), r"found num_games=\d, expected an even"),
        (lambda: tz.ApproxEloTester(0, 16, 2), "found total_epochs=0, expected at least 1"),
        (lambda: tz.ApproxEloTester(5, 16, 0), "found num_opponents=0, expected at least 1"),
        (lambda: tz.ApproxEloTester(5, 3, 1), "found games_per_opponent=3, expected an even number"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_the_best_network_is_replaced_only_by_a_better_one(env):
    strong, weak = Skilled(jnp.float32(1)), Skilled(jnp.float32(-1))
    tester = tz.TwoPlayerTester(num_games=NUM_GAMES, opening_moves=2, max_moves=9)
    test = lambda new, best: tester.test(SMALL, env, new, best, key=jax.random.key(0), mesh=MESH)
    best, metrics = test(strong, tester.init(weak, mesh=MESH))
    assert metrics["best_replaced"] == 1 and metrics["best_score"] > 0.6 and best.skill == 1
    best, metrics = test(Skilled(jnp.float32(0)), strong)
    assert metrics["best_replaced"] == 0 and 0 < metrics["best_score"] < 0.4 and best.skill == 1
    assert metrics["best_wins"] + metrics["best_draws"] + metrics["best_losses"] == NUM_GAMES
    assert metrics["best_unfinished"] == 0
