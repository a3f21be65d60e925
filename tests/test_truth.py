"""Playing strength against exact solutions: tic-tac-toe by minimax, Connect Four by solved positions."""

import csv
import importlib.util
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tic_tac_toe import is_mistake, padded, reachable, representatives

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.optimised]  # here most of the time is not compilation


@eqx.filter_jit
def best_moves(mcts, env, evaluator, positions):
    def one(env_state, metadata):
        key = jax.random.key(0)
        state = tz.search(mcts, env, evaluator, tz.init_search(mcts, env_state, metadata), key=key)
        return tz.choose_action(mcts, state, key=key)

    return jax.vmap(one)(*positions)


def searcher(num_simulations: int, **options) -> tz.MCTS:
    return tz.MCTS(num_simulations, persist_tree=False, root=tz.PlainRoot(), temperature=0.0, **options)


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


def positions_after(env: tz.Env, moves: np.ndarray):
    return jax.jit(jax.vmap(lambda moves: tz.play_moves(env, moves)))(jnp.asarray(moves))


def mistakes(env, boards, num_simulations, evaluator) -> int:
    """Counts the boards on which a worse move than the best is played; each board has moves that lead there."""
    positions = positions_after(env, padded(list(boards.values())))
    moves = best_moves(searcher(num_simulations), env, evaluator, positions)
    return sum(map(is_mistake, boards, moves))


def test_search_alone_plays_tic_tac_toe_perfectly(env):
    """On every position up to symmetry, as symmetric positions are the same to a constant evaluator."""
    assert len(representatives()) == 627
    assert mistakes(env, representatives(), 1600, tz.uniform_evaluator) == 0


def test_a_trained_network_with_search_plays_tic_tac_toe_perfectly(env):
    network = tz.MLP(env.observation.shape, env.num_actions, width=128, key=jax.random.key(0))
    config = tz.TrainConfig(
        mcts=tz.MCTS(32, 64),
        optimizer=optax.adam(3e-3),
        replay=tz.EpisodeReplayBuffer(200),
        num_games=64,
        train_batch_size=256,
        moves_per_epoch=20,
        train_steps_per_epoch=50,
        augment=tz.random_dihedral,
    )
    mesh = tz.data_mesh(jax.devices()[:1])
    state = tz.init_loop(config, env, network, key=jax.random.key(0), mesh=mesh)
    state = tz.train_loop(config, env, state, num_epochs=20, sinks=[], progress=False, mesh=mesh)
    untrained, trained = (tz.NetworkEvaluator(n, env.observe) for n in (network, state.train.network))
    assert mistakes(env, representatives(), 400, untrained) > 0
    assert len(reachable()) == 4520
    assert mistakes(env, reachable(), 400, trained) == 0


@pytest.fixture(scope="module")
def truth():
    """The script that measures mistake rates, as a module."""
    tz.from_pgx("connect_four")  # the script asks for it under `jit`, where pgx cannot be imported
    path = pathlib.Path(__file__).parents[1] / "experiments" / "connect_four" / "truth.py"
    spec = importlib.util.spec_from_file_location("truth", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_solved_positions_are_read_as_they_are_described(truth):
    solved = truth.load_solved()
    assert [(solved.source == source).sum() for source in ("random", "sharp")] == [2819, 1393]
    assert (solved.results.max(1) > np.where(solved.results < 0, 9, solved.results).min(1)).all(), (
        "a mistake is possible"
    )
    full = np.stack([(solved.moves == column).sum(1) == 6 for column in range(7)], 1)
    np.testing.assert_array_equal(solved.results < 0, full)
    assert min(solved.ply) == 8


def test_a_mistake_is_a_worse_result_than_the_best_and_rates_are_shares_of_it(truth):
    solved = truth.load_solved()
    best, worst = solved.results.argmax(1), np.where(solved.results < 0, 9, solved.results).argmin(1)
    assert truth.rates(solved, truth.mistakes(solved, best)) == [0.0] * 10
    assert truth.rates(solved, truth.mistakes(solved, worst)) == [100.0] * 10
    half = np.where(solved.source == "random", best, np.where(solved.ply <= 13, worst, best))
    found = truth.rates(solved, truth.mistakes(solved, half))
    assert found[:5] == [0.0] * 5 and found[6:] == [100.0, 0.0, 0.0, 0.0]
    assert found[5] == pytest.approx(100 * (solved.ply[solved.source == "sharp"] <= 13).mean())
    with pytest.raises(ValueError, match="found a full column as the move in position"):
        truth.mistakes(solved, (solved.results < 0).argmax(1))


def test_the_policy_alone_and_a_search_choose_legal_moves_of_the_right_position(truth):
    """The evaluator only knows the fullest legal column, so the expected move follows from the list of moves."""
    solved = truth.load_solved()
    moves, heights = solved.moves[:40], np.stack([(solved.moves[:40] == column).sum(1) for column in range(7)], 1)

    def fullest(state, metadata, key):
        return 50.0 * jnp.sum(state._x.board.reshape(6, 7) != -1, 0, dtype=jnp.float32), jnp.float32(0)

    expected = np.where(solved.results[:40] < 0, -1, heights).max(1)
    for search in (None, truth.puct(2)):
        chosen = truth.chosen_moves(search, fullest, moves, batch_size=16)
        np.testing.assert_array_equal(heights[np.arange(40), chosen], expected)


def tactical_positions() -> tuple[np.ndarray, list[str]]:
    """Reads moves, padded with -1, and results of positions with an immediate win or threat (see data/README.md)."""
    path = pathlib.Path(__file__).parent / "data" / "connect_four_solved.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    moves = np.array([[int(move) - 1 for move in row["moves"].ljust(42, "0")] for row in rows], np.int32)
    return moves, [row["results"] for row in rows]


def test_wins_on_the_spot_and_threats_are_seen_in_connect_four():
    moves, results = tactical_positions()
    assert len(moves) == 400
    env = tz.from_pgx("connect_four")
    chosen = best_moves(searcher(100), env, tz.uniform_evaluator, positions_after(env, moves))
    order = ".LDW"
    wrong = [
        row
        for row, move in zip(results, chosen, strict=True)
        if order.index(row[int(move)]) < max(map(order.index, row))
    ]
    assert not wrong
