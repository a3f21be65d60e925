"""The adapter of pgx: the parts of a game that it keeps or leaves out, and the games that it refuses."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pgx
import pgx.go
import pytest

from tz.games.conformance import check_env
from tz.games.pgx_games import from_pgx

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]

PLAYABLE = (
    "animal_shogi",
    "chess",
    "connect_four",
    "gardner_chess",
    "go_19x19",
    "go_9x9",
    "hex",
    "othello",
    "shogi",
    "tic_tac_toe",
)
CHANCE = (
    "2048",
    "backgammon",
    "minatar-asterix",
    "minatar-breakout",
    "minatar-freeway",
    "minatar-seaquest",
    "minatar-space_invaders",
)  # see test_pgx_chance.py
CHOICE = "2048, animal_shogi, backgammon, chess"
REFUSED = {
    "bridge_bidding": "hidden information",
    "kuhn_poker": "hidden information",
    "leduc_holdem": "hidden information",
    "sparrow_mahjong": "hidden information",
}


# A game small enough to break in every way: take one to three of seven counters; who takes the last one wins.


LONG = dict.fromkeys(("go_19x19", "shogi"), (pytest.mark.optimised, pytest.mark.once))  # they take long to play


@pytest.mark.parametrize("name", [pytest.param(n, marks=LONG.get(n, ())) for n in PLAYABLE])
def test_pgx_games_conform(name):
    check_env(from_pgx(name), num_games=2)  # if no game ends, it warns, which is an error here


def random_move(key, mask):
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))


@pytest.mark.parametrize("name", ["tic_tac_toe", "othello", "hex", "go_9x9"])
def test_from_pgx_sees_what_pgx_sees(name):
    env, game = from_pgx(name), pgx.make(name)

    def move(carry, key):
        (state, metadata), theirs = carry
        pairs = {
            "observation": (env.observe(state), theirs.observation),
            "rewards": (metadata.rewards, theirs.rewards),
            "action_mask": (metadata.action_mask, theirs.legal_action_mask),
            "terminated": (metadata.terminated, theirs.terminated),
            "cur_player_id": (metadata.cur_player_id, theirs.current_player),
        }
        action = random_move(key, metadata.action_mask)
        return (env.step(state, action), game.step(theirs, action)), pairs

    @jax.jit
    def play(key):
        theirs = jax.tree.map(jnp.asarray, game.init(key))
        return jax.lax.scan(move, (env.init(key), theirs), jax.random.split(key, 80))[1]

    pairs = play(jax.random.key(1))
    assert len(np.unique(pairs["observation"][1], axis=0)) > 5
    for ours, theirs in pairs.values():
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PLAYABLE)
def test_from_pgx_stores_no_observation(name):
    theirs = jax.eval_shape(pgx.make(name).init, jax.random.key(0))
    ours, _ = jax.eval_shape(from_pgx(name).init, jax.random.key(0))
    assert num_bytes(theirs.observation) > 0
    assert num_bytes(ours) == num_bytes(theirs) - num_bytes(theirs.observation)


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four"])
def test_states_from_pgx_can_be_drawn(name):
    env, game = from_pgx(name), pgx.make(name)
    keys = jax.random.split(jax.random.key(0), 3)
    actions = jnp.array([0, 4, 6])
    ours, _ = jax.jit(jax.vmap(lambda key, action: env.step(env.init(key)[0], action)))(keys, actions)
    theirs = jax.jit(jax.vmap(lambda key, action: game.step(game.init(key), action)))(keys, actions)
    assert ours.to_svg() == theirs.to_svg()
    one, other = (jax.tree.map(lambda leaf: leaf[1], states) for states in (ours, theirs))
    assert one.to_svg() == other.to_svg() != ours.to_svg()


def test_from_pgx_gives_one_env_a_game():
    @eqx.filter_jit
    @chex.assert_max_traces(n=1)
    def new_game(env, key):
        return env.init(key)[1].cur_player_id

    players = [new_game(from_pgx("othello"), jax.random.key(0)) for _ in range(2)]
    assert players[0] == players[1]
    assert from_pgx("othello") == from_pgx("othello") != from_pgx("tic_tac_toe")
    assert hash(from_pgx("othello")) == hash(from_pgx("othello"))


def test_from_pgx_takes_a_game_made_by_hand():
    env = from_pgx(pgx.go.Go(size=5))
    assert (env.name, env.num_actions, env.num_players, env.observation.shape) == ("go_5x5", 26, 2, (5, 5, 17))


def test_every_pgx_game_is_either_playable_or_refused():
    assert sorted({*PLAYABLE, *CHANCE, *REFUSED}) == sorted({*pgx.available_envs(), "bridge_bidding"})


@pytest.mark.parametrize("name", REFUSED)
def test_from_pgx_says_why_it_refuses(name):
    with pytest.raises(ValueError, match=f"found '{name}', which has .*{REFUSED[name]}.*choose one of: {CHOICE}"):
        from_pgx(name)


def test_from_pgx_refuses_a_game_made_by_hand():
    with pytest.raises(ValueError, match="from_pgx: found 'kuhn_poker', which has hidden information, expected"):
        from_pgx(pgx.make("kuhn_poker"))


@pytest.mark.parametrize(("name", "guess"), [("otello", "othello"), ("go_9", "go_9x9"), ("Tic-Tac-Toe", "tic_tac_toe")])
def test_from_pgx_suggests_the_closest_name(name, guess):
    with pytest.raises(ValueError, match=f"found '{name}', expected .*; write '{guess}', or choose one of: {CHOICE}"):
        from_pgx(name)


def test_from_pgx_suggests_nothing_far_off():
    with pytest.raises(ValueError, match="found 'qqq', expected the name of a pgx game; choose one of: 2048, animal"):
        from_pgx("qqq")
