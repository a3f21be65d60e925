"""The games of pgx with chance: nature's outcomes and probabilities are those that pgx's own step draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pgx
import pytest
from scipy import stats
from test_pgx import CHANCE

import tz
from tz.games.chance import make_move

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]

NUM_DRAWS = 5_000
SLOWEST = {"minatar-seaquest": pytest.mark.once}


def positions(env, num_moves, seed):
    """Returns states after random moves, each with a legal action."""

    @jax.jit
    def play(key):
        start_key, key = jax.random.split(key)

        def move(carry, key):
            state, metadata = carry
            action = jax.random.categorical(key, jnp.where(metadata.action_mask, 0.0, -jnp.inf))
            after = make_move(env, state, action, key=jax.random.fold_in(key, 1))
            return jax.tree.map(lambda new, old: jnp.where(after[1].terminated, old, new), after, carry), None

        return jax.lax.scan(move, env.init(start_key), jax.random.split(key, num_moves))[0]

    state, metadata = play(jax.random.key(seed))
    return state, int(jnp.argmax(metadata.action_mask))


def frequencies(game, state, action, look):
    """Counts the positions to which pgx's own step leads; `look` distinguishes them."""
    step = jax.jit(jax.vmap(lambda key: look(game.step(state, jnp.int32(action), key))))
    drawn = np.asarray(step(jax.random.split(jax.random.key(9), NUM_DRAWS))).reshape(NUM_DRAWS, -1)
    rows, counts = np.unique(drawn, axis=0, return_counts=True)
    return {tuple(row): count for row, count in zip(rows.tolist(), counts, strict=True)}


def outcomes(env, state, action, look):
    """Returns the probability of each position after nature's answer, and the legal actions there."""
    after, metadata = env.step(state, jnp.int32(action))
    answered, then = jax.jit(jax.vmap(lambda c: env.outcome(after, c, jax.random.key(0))))(jnp.arange(env.num_outcomes))
    looks = np.asarray(jax.vmap(look)(answered)).reshape(env.num_outcomes, -1)
    pairs = zip(looks.tolist(), np.asarray(metadata.chance), np.asarray(then.action_mask), strict=True)
    return {tuple(row): (p, mask) for row, p, mask in pairs if p > 0}, float(metadata.rewards[0])


def tiles(state):
    return state._board


def board_and_dice(state):
    return jnp.concatenate([state._board, jnp.sort(state._dice), state.current_player[None]])


@pytest.mark.parametrize(
    ("name", "look", "num_moves"), [("2048", tiles, 0), ("2048", tiles, 40), ("backgammon", board_and_dice, 5)]
)
def test_outcomes_and_probabilities_are_those_of_pgx(name, look, num_moves):
    env, game = tz.from_pgx(name), pgx.make(name)
    for seed in range(6):
        state, action = positions(env, num_moves, seed)
        if float(env.step(state, jnp.int32(action))[1].chance.sum()) > 0:
            break
    expected, reward = outcomes(env, state, action, look)
    drawn = frequencies(game, state, action, look)
    assert sum(p for p, _ in expected.values()) == pytest.approx(1, abs=1e-5)
    assert set(drawn) <= set(expected)
    counts = np.array([drawn.get(row, 0) for row in expected])
    chances = np.array([p for p, _ in expected.values()], float)
    assert stats.chisquare(counts, NUM_DRAWS * chances / chances.sum()).pvalue > 1e-3
    after = jax.jit(jax.vmap(lambda key: game.step(state, jnp.int32(action), key)))(
        jax.random.split(jax.random.key(1), 64)
    )
    assert (after.rewards[:, 0] == reward).all()
    for row, mask in zip(np.asarray(jax.vmap(look)(after)).reshape(64, -1), after.legal_action_mask, strict=True):
        np.testing.assert_array_equal(expected[tuple(row.tolist())][1], mask)


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOWEST.get(name, ())) for name in CHANCE])
def test_games_of_chance_conform(name):
    max_moves = 3000 if name == "minatar-freeway" else 1200 if name == "2048" else 512  # to see the end of a game
    tz.check_env(tz.from_pgx(name), num_games=2, max_moves=max_moves)


def test_an_illegal_move_ends_the_game_as_in_pgx():
    env, game = tz.from_pgx("2048"), pgx.make("2048")
    keys = jax.random.split(jax.random.key(4), 64)
    masks = np.asarray(jax.jit(jax.vmap(game.init))(keys).legal_action_mask)
    start, illegal = np.argwhere(~masks)[0]
    theirs, (state, metadata) = game.init(keys[start]), env.init(keys[start])
    np.testing.assert_array_equal(theirs.legal_action_mask, metadata.action_mask)
    after, metadata = make_move(env, state, jnp.int32(illegal), key=jax.random.key(0))
    assert metadata.terminated
    assert metadata.rewards[0] == game.step(theirs, jnp.int32(illegal), jax.random.key(0)).rewards[0] == -1
    assert metadata.chance.sum() == 0
    again, metadata = make_move(env, after, jnp.int32(0), key=jax.random.key(0))
    assert metadata.terminated
    assert metadata.rewards[0] == 0
    np.testing.assert_array_equal(again._board, after._board)


@pytest.mark.once
@pytest.mark.parametrize("name", [name for name in CHANCE if name.startswith("minatar-")])
def test_minatar_draws_as_pgx_does(name):
    """Sampled chance: the positions that a search meets have the frequencies of pgx's own step."""
    env, game = tz.from_pgx(name), pgx.make(name)
    weights = jax.random.randint(jax.random.key(3), env.observation.shape, 0, 2**20)
    look = lambda state: jnp.sum(jnp.where(game.observe(state), weights, 0))[None]  # nearly unique for an observation
    for seed in range(8):  # until a position has several outcomes
        state, _ = positions(env, 30, seed)
        action = (int(state.state._last_action) + 1) % env.num_actions
        drawn = frequencies(game, state.state, action, look)
        if len(drawn) > 1:
            break
    after, metadata = env.step(state, jnp.int32(action))
    np.testing.assert_allclose(metadata.chance, 1 / env.num_outcomes)
    ours = jax.jit(jax.vmap(lambda key: look(env.outcome(after, jnp.int32(0), key)[0].state)))
    rows, counts = np.unique(ours(jax.random.split(jax.random.key(2), NUM_DRAWS)), axis=0, return_counts=True)
    found = {tuple(row): count for row, count in zip(rows.tolist(), counts, strict=True)}
    assert len(drawn) > 1  # at least the move, or one time in ten the move before
    pairs = [(found.get(row, 0), drawn.get(row, 0)) for row in {*found, *drawn}]
    common = [pair for pair in pairs if sum(pair) >= 20]
    rest = np.sum([pair for pair in pairs if sum(pair) < 20], axis=0, initial=0)
    table = [*common, rest] if np.sum(rest) >= 20 else common
    assert stats.chi2_contingency(np.transpose(table)).pvalue > 1e-3
