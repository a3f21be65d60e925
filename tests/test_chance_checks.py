"""Games with chance: errors for dice that a search could see, and for bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from chance_games import pig, searched

import tz

pytestmark = pytest.mark.slow

PIG = pig(10)


def gamble(*, is_seen: bool) -> tz.Env:
    """Action 0 pays 0.2. Action 1 wins or loses 1 at even odds, decided by nature or by a key in the state."""

    def metadata(over, reward, is_nature=False):
        return tz.StepMetadata(
            rewards=jnp.stack([reward, -reward]),
            action_mask=jnp.ones(2, bool),
            terminated=jnp.asarray(over),
            cur_player_id=jnp.int32(0),
            chance=None if is_seen else jnp.where(is_nature, 0.5, jnp.zeros(2, jnp.float32)),
        )

    def init(key):
        start = jnp.int32(0), jax.random.key_data(key) if is_seen else jnp.int32(0)
        return start, metadata(False, jnp.float32(0))

    def step(state, action):
        over, rest = state
        paid = jnp.where(over == 0, jnp.where(action == 0, 0.2, 0.0), 0.0)
        if is_seen:
            wins = jax.random.bernoulli(jax.random.wrap_key_data(rest))
            paid = jnp.where((over == 0) & (action == 1), jnp.where(wins, 1.0, -1.0), paid)
            return (jnp.int32(1), rest), metadata(True, paid)
        is_nature = (over == 0) & (action == 1)
        return (jnp.where(is_nature, 0, 1), rest), metadata(~is_nature, paid, is_nature)

    def outcome(state, outcome, key):
        del key
        return (jnp.int32(1), state[1]), metadata(True, jnp.where(outcome == 0, 1.0, -1.0))

    observe = lambda state: state[0].astype(jnp.float32)[None]
    return tz.Env(init, step, observe, "gamble", outcome=None if is_seen else outcome)


def test_a_search_gambles_on_dice_that_it_sees_and_not_on_those_that_nature_throws():
    mcts = tz.MCTS(32, root=tz.PlainRoot())
    fractions = {}
    for is_seen in (True, False):
        states = searched(mcts, gamble(is_seen=is_seen), tz.uniform_evaluator, num_games=512)
        fractions[is_seen] = (states.tree.visits[:, 0].argmax(1) == 1).mean()
    assert 0.4 < fractions[True] < 0.6
    assert fractions[False] == 0


@pytest.mark.parametrize("is_seen", [True, False])
def test_check_env_finds_dice_that_a_search_would_see(is_seen):
    env = gamble(is_seen=is_seen)
    if is_seen:
        with pytest.warns(UserWarning, match=r"rewards.*depend on a random key.*let nature draw, with `outcome`"):
            tz.check_env(env, max_moves=16)
    else:
        tz.check_env(env, max_moves=16)


def test_check_env_finds_a_deck_that_was_shuffled_before_the_game():
    """Two new games that look alike, in which the same moves show different cards."""

    def metadata(place):
        over = place >= 4
        return tz.StepMetadata(jnp.zeros(1), jnp.ones(2, bool), over, jnp.int32(0))

    def init(key):
        return (jax.random.permutation(key, 4), jnp.int32(0)), metadata(jnp.int32(0))

    def step(state, action):
        after = state[0], jnp.minimum(state[1] + 1, 4)
        return after, metadata(after[1])

    def observe(state):
        seen = jnp.where(jnp.arange(4, dtype=jnp.int32) < state[1], state[0], -1)
        return seen.astype(jnp.float32)

    with pytest.warns(UserWarning, match="look alike in which the same moves lead to differences in the observation"):
        tz.check_env(tz.Env(init, step, observe, "cards"), max_moves=8)


def with_chance(change, env=PIG):
    """Returns the game with other metadata from `step`."""

    def step(state, action):
        after, metadata = env.step(state, action)
        return after, change(metadata)

    return dataclasses.replace(env, step=step)


def doubled_natures(state, outcome, key):
    after, metadata = PIG.outcome(state, outcome, key)
    return after, dataclasses.replace(metadata, chance=jnp.full(6, 1 / 6, jnp.float32))


BAD = {
    "sum": (with_chance(lambda m: dataclasses.replace(m, chance=0.9 * m.chance)), "whose sum is neither 1 nor 0"),
    "negative": (
        with_chance(lambda m: dataclasses.replace(m, chance=m.chance * jnp.array([-1, 3, 1, 1, 1, 1.0]))),
        "negative probabilities of nature's outcomes",
    ),
    "ended": (
        with_chance(lambda m: dataclasses.replace(m, chance=jnp.where(m.terminated, 1 / 6, m.chance))),
        "nature to move after the end of the game",
    ),
    "endless": (dataclasses.replace(PIG, outcome=doubled_natures), "nature to move after an outcome of nature"),
    "stuck": (
        dataclasses.replace(
            PIG,
            outcome=lambda *inputs: (
                (after := PIG.outcome(*inputs))[0],
                dataclasses.replace(after[1], action_mask=after[1].action_mask & (inputs[1] != 3)),
            ),
        ),
        "found an outcome of nature with a probability above 0 and no legal action after it",
    ),
    "more": (
        dataclasses.replace(
            PIG,
            outcome=lambda *inputs: (
                (after := PIG.outcome(*inputs))[0],
                dataclasses.replace(after[1], chance=jnp.zeros(7)),
            ),
        ),
        r"`metadata.chance` to be float32\[6\] from `init` and float32\[7\] from `outcome`",
    ),
    "no outcome": (dataclasses.replace(PIG, outcome=None), "found `chance` without an `outcome`"),
    "new": (
        dataclasses.replace(
            PIG,
            init=lambda key: (
                PIG.init(key)[0],
                dataclasses.replace(PIG.init(key)[1], chance=jnp.full(6, 1 / 6, jnp.float32)),
            ),
        ),
        "nature to move in a new game",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_chance_is_named(name):
    env, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        tz.check_env(env, max_moves=128)


def test_settings_that_chance_does_not_allow_are_refused_by_name():
    start = PIG.init(jax.random.key(0))
    plain = tz.init_search(tz.MCTS(4), *start)
    for settings, message in (
        ({"solve": True}, "solve=True, expected False"),
        ({"backup": tz.mcts.SoftmaxBackup()}, "SoftmaxBackup, expected a backup that averages"),
        ({"final_move": tz.mcts.LowerConfidenceBound()}, "LowerConfidenceBound"),
    ):
        with pytest.raises(ValueError, match=f"found a game with chance and {message}"):
            tz.init_search(tz.MCTS(4, **settings), *start)
        with pytest.raises(ValueError, match=f"found a game with chance and {message}"):
            tz.start_search(tz.MCTS(4, **settings), tz.uniform_evaluator, plain, key=jax.random.key(0))
    tree = plain.tree
    with pytest.raises(ValueError, match="root_returns: found a tree of a game with chance"):
        tz.mcts.root_returns(tree, 1.0)
    blind = dataclasses.replace(PIG, outcome=None)
    with pytest.raises(ValueError, match="search of pig: found `chance` without an `outcome`"):
        tz.search(tz.MCTS(4), blind, tz.uniform_evaluator, tz.init_search(tz.MCTS(4), *start), key=jax.random.key(0))
    with pytest.raises(ValueError, match="sampled_chance: found num_outcomes=0"):
        tz.games.sampled_chance(PIG.init, PIG.step, PIG.observe, num_outcomes=0)
    with pytest.raises(ValueError, match="play_moves: found pig, a game with chance, and key=None"):
        tz.play_moves(PIG, jnp.array([0]))


def test_a_position_in_which_nature_is_to_move_is_not_searched():
    position, mcts = PIG.init(jax.random.key(0)), tz.MCTS(4)
    after = PIG.step(position[0], jnp.int32(0))  # the die is not thrown yet
    advice = "nature is to move, expected one in which a player is to move; make moves with tz.games.make_move"
    with pytest.raises(ValueError, match=f"init_search: found a position in which {advice}"):
        tz.init_search(mcts, *after)
    with pytest.raises(ValueError, match=f"advance: found a position in which {advice}"):
        tz.advance(mcts, tz.init_search(mcts, *position), jnp.int32(0), *after)


def changed_outcome(change):
    """Returns a model of pig with faulty outcomes."""
    model = tz.mcts.Model(lambda *start: start, PIG.step, "model", lambda *inputs: change(*PIG.outcome(*inputs)))
    return tz.mcts.ModelEvaluator(model, tz.uniform_evaluator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, metadata: (state, 1), r"model: found \['Pig', 'int'\] returned by `outcome`, expected a pair"),
        (
            lambda state, metadata: (dataclasses.replace(state, turn=state.turn.astype(jnp.float32)), metadata),
            r"model: found `state.turn` to be float32\[\] after `outcome`, expected int32\[\] as at the root",
        ),
        (
            lambda state, metadata: (state, dataclasses.replace(metadata, chance=None)),
            r"model: found `metadata.chance` to be missing after `outcome`, expected \[6\] as at the root",
        ),
        (
            lambda state, metadata: (state, dataclasses.replace(metadata, discount=jnp.float32(0.5))),
            r"model: found `metadata.discount` to be \[\] after `outcome`, expected nothing as at the root",
        ),
    ],
)
def test_an_outcome_of_a_model_that_does_not_fit_its_root_is_named_before_it_is_compiled(change, message):
    evaluator, mcts = changed_outcome(change), tz.MCTS(4)
    with pytest.raises(ValueError, match=message):
        tz.play_match(PIG, tz.Player(mcts, evaluator), tz.random_player(), num_games=2, key=jax.random.key(0))

    def think(key):
        state = tz.init_search(mcts, *PIG.init(key), model=evaluator.model)
        return tz.search(mcts, evaluator.model, evaluator, state, key=key)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(think, jax.random.key(0))
