"""Symmetries against the rules: a turned position must be a position of the game, with its moves turned likewise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pgx
import pytest
import scipy.stats

from tz.learn.symmetries import dihedral, mirror, random_dihedral, random_mirror
from tz.learn.trajectory import Sample

SIZE = 8
PASS = SIZE * SIZE


def othello_flips(board, action):
    """Returns the discs that a move turns over, directly from the rules; empty for an illegal move.

    `board` is `[8, 8, 2]`: discs of the player to move, discs of the opponent.
    """
    row, column = divmod(action, SIZE)
    if board[row, column].any():
        return []
    flips = []
    for down, right in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]:
        line, r, c = [], row + down, column + right
        while 0 <= r < SIZE and 0 <= c < SIZE and board[r, c, 1]:
            line.append((r, c))
            r, c = r + down, c + right
        if line and 0 <= r < SIZE and 0 <= c < SIZE and board[r, c, 0]:
            flips += line
    return flips


def othello_mask(board):
    """Returns the legal moves, `[65]`; a pass only if there is no other move."""
    mask = np.array([bool(othello_flips(board, action)) for action in range(PASS)])
    return np.append(mask, not mask.any())


def othello_play(board, action):
    """Returns the board after a legal move, from the perspective of the other player."""
    board = board.copy()
    if action != PASS:
        for r, c in [divmod(action, SIZE), *othello_flips(board, action)]:
            board[r, c] = [True, False]
    return board[:, :, ::-1]


@pytest.fixture(scope="module")
def othello_positions():
    """Returns positions of random games of pgx Othello, `[N, 8, 8, 2]` and `[N, 65]`, including forced passes."""
    env = pgx.make("othello")

    @jax.jit
    @jax.vmap
    def play(key):
        def move(state, key):
            action = jax.random.categorical(key, jnp.where(state.legal_action_mask, 0.0, -jnp.inf))
            return env.step(state, action), (state.observation, state.legal_action_mask, state.terminated)

        return jax.lax.scan(move, env.init(key), jax.random.split(key, 60))[1]

    boards, masks, ended = jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(0), 16)))
    ongoing = ~ended
    passing = np.flatnonzero(masks[ongoing][:, PASS])[:3]
    assert len(passing) == 3
    chosen = np.concatenate([np.arange(0, ongoing.sum(), 60), passing])
    return boards[ongoing][chosen], masks[ongoing][chosen]


def test_othello_rules_of_this_file_are_those_of_pgx(othello_positions):
    """The oracle agrees with pgx on which moves are legal."""
    for board, mask in zip(*othello_positions, strict=True):
        np.testing.assert_array_equal(othello_mask(board), mask)


def turn_all(boards, masks, policies, index):
    """Turns each sample of a batch by the symmetry `index`."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
    def turn(board, mask, policy, index):
        return dihedral(Sample(board, mask, policy, jnp.zeros(()), jnp.ones(()), jnp.ones(())), index)

    return jax.tree.map(np.asarray, turn(boards, masks, policies, index))


@pytest.mark.parametrize("index", range(8))
def test_dihedral_commutes_with_the_rules_of_othello(othello_positions, index):
    """Turning a position turns its legal moves, and it gives the same board to turn before or after a move."""
    boards, masks = othello_positions
    # One row for each legal move, marked by a policy that plays it.
    position, action = np.nonzero(masks)
    boards, masks = boards[position], masks[position]
    after = np.stack([othello_play(*pair) for pair in zip(boards, action, strict=True)])
    turned = turn_all(boards, masks, np.eye(PASS + 1, dtype=np.float32)[action], index)
    turned_after = turn_all(after, masks, np.zeros(masks.shape, np.float32), index).observation
    for row in range(len(action)):
        np.testing.assert_array_equal(turned.action_mask[row], othello_mask(turned.observation[row]))
        (played,) = np.flatnonzero(turned.policy[row])
        assert turned.policy[row, played] == 1
        assert (played == PASS) == (action[row] == PASS)
        np.testing.assert_array_equal(othello_play(turned.observation[row], played), turned_after[row])


def numbered_sample(size=3, extra=2):
    cells = size * size
    return Sample(
        observation=jnp.arange(cells * 2, dtype=jnp.float32).reshape(size, size, 2),
        action_mask=jnp.arange(cells + extra) % 2 == 0,
        policy=jnp.arange(cells + extra, dtype=jnp.float32),
        value=jnp.asarray(0.5),
        weight=jnp.asarray(2.0),
        policy_weight=jnp.asarray(0.0),
    )


def test_dihedral_is_the_group_of_the_square():
    """Eight distinct symmetries, the first of which changes nothing, closed under composition; extra actions stay."""
    turn = jax.jit(dihedral)
    turned = [turn(numbered_sample(), jnp.asarray(index)) for index in range(8)]
    policies = {tuple(sample.policy.tolist()) for sample in turned}
    assert len(policies) == 8
    assert tuple(range(11)) == tuple(turned[0].policy.tolist())
    for sample in turned:
        assert sample.policy[9:].tolist() == [9, 10]
        assert sorted(sample.policy.tolist()) == list(range(11))
        assert sample.value == 0.5
        for index in range(8):
            assert tuple(turn(sample, jnp.asarray(index)).policy.tolist()) in policies


def test_dihedral_follows_its_docstring():
    """Index 1 is a quarter turn counter-clockwise, index 4 the left-right mirror."""
    sample = numbered_sample()
    board = np.asarray(sample.observation)
    np.testing.assert_array_equal(dihedral(sample, jnp.asarray(1)).observation, np.rot90(board))
    np.testing.assert_array_equal(dihedral(sample, jnp.asarray(4)).observation, board[:, ::-1])
    np.testing.assert_array_equal(dihedral(sample, jnp.asarray(5)).observation, np.rot90(board[:, ::-1]))


@pytest.mark.parametrize(
    ("augment", "sample", "num_symmetries"),
    [
        (random_dihedral, numbered_sample(), 8),
        (
            random_mirror,
            Sample(jnp.zeros((2, 3, 1)), jnp.ones(3, bool), jnp.arange(3.0), jnp.zeros(()), jnp.ones(()), jnp.ones(())),
            2,
        ),
    ],
    ids=["dihedral", "mirror"],
)
def test_each_symmetry_is_equally_frequent(augment, sample, num_symmetries):
    """Chi-square over the symmetries drawn, p > 0.001 at fixed keys."""
    keys = jax.random.split(jax.random.key(0), 8000)
    policies = jax.jit(jax.vmap(lambda key: augment(sample, key=key).policy))(keys)
    _, counts = np.unique(np.asarray(policies), axis=0, return_counts=True)
    assert len(counts) == num_symmetries
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_random_dihedral_turns_board_mask_and_policy_together():
    """For every key, all three are turned by the same symmetry."""
    sample = numbered_sample()
    augment = jax.jit(random_dihedral)
    for key in jax.random.split(jax.random.key(0), 20):
        turned = augment(sample, key=key)
        np.testing.assert_array_equal(turned.observation[..., 0].ravel() / 2, turned.policy[:9])
        np.testing.assert_array_equal(turned.policy % 2 == 0, turned.action_mask)


def test_mirror_is_connect_four_played_in_the_mirror():
    """A game of pgx Connect Four and the game of mirrored columns stay mirror images, moves and policies included."""
    env = pgx.make("connect_four")
    step = jax.jit(env.step)
    last_column = env.num_actions - 1

    @jax.jit
    def reflect(state, policy):
        return mirror(
            Sample(state.observation, state.legal_action_mask, policy, jnp.zeros(()), jnp.ones(()), jnp.ones(()))
        )

    full_columns = 0
    for seed in range(4):
        generator = np.random.default_rng(seed)
        here = there = env.init(jax.random.key(seed))
        while not here.terminated:
            action = generator.choice(np.flatnonzero(here.legal_action_mask))
            reflected = reflect(here, jax.nn.one_hot(action, env.num_actions))
            np.testing.assert_array_equal(reflected.observation, there.observation)
            np.testing.assert_array_equal(reflected.action_mask, there.legal_action_mask)
            assert np.argmax(reflected.policy) == last_column - action
            full_columns += int(not here.legal_action_mask.all())
            here, there = step(here, int(action)), step(there, int(np.argmax(reflected.policy)))
        assert bool(there.terminated)
        np.testing.assert_array_equal(here.rewards, there.rewards)
    assert full_columns > 0


@pytest.mark.parametrize("seed", range(8))
def test_random_mirror_gives_the_sample_or_its_image(seed):
    """All fields are mirrored, or none."""
    sample = Sample(
        jnp.arange(12.0).reshape(2, 3, 2),
        jnp.array([True, False, False]),
        jnp.array([0.5, 0.25, 0.25]),
        jnp.ones(()),
        jnp.ones(()),
        jnp.ones(()),
    )
    found = random_mirror(sample, key=jax.random.key(seed))
    equal = functools.partial(jax.tree.map, lambda a, b: bool((a == b).all()), found)
    assert any(all(jax.tree.leaves(equal(candidate))) for candidate in (sample, mirror(sample)))


@pytest.mark.parametrize(
    ("augment", "shape", "num_actions", "match"),
    [
        (random_dihedral, (6, 7, 2), 42, "square board"),
        (random_dihedral, (8, 8), 64, "square board"),
        (random_dihedral, (8, 8, 2), 63, "63 actions"),
        (random_mirror, (6, 7, 2), 42, r"expected \[H, 42, C\]"),
        (random_mirror, (7, 6, 2), 7, r"expected \[H, 7, C\]"),
        (random_mirror, (6, 7), 7, r"expected \[H, 7, C\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(augment, shape, num_actions, match):
    sample = Sample(
        jnp.zeros(shape), jnp.ones(num_actions, bool), jnp.zeros(num_actions), jnp.zeros(()), jnp.ones(()), jnp.ones(())
    )
    with pytest.raises(ValueError, match=match):
        augment(sample, key=jax.random.key(0))
