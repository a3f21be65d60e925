"""Small games with chance, such as a user would write, with exact values by plain Python, and searches of them."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

import tz


class Pig(eqx.Module):
    """The dice game: `scores` of the player to move and of the other player, and the sum of the current turn."""

    scores: Int[Array, "2"]
    turn: Int[Array, ""]
    player: Int[Array, ""]
    is_rolling: jax.Array


ROLL, HOLD = 0, 1


def pig(goal: int, num_sides: int = 6) -> tz.Env:
    """Returns the game Pig: a player adds up rolls until it holds; a 1 loses the sum; the first to hold `goal` wins."""

    def metadata(state: Pig, won) -> tz.StepMetadata:
        sign = jnp.where(jnp.arange(2, dtype=jnp.int32) == state.player, -1.0, 1.0)  # the winner has just moved
        die = jnp.full(num_sides, 1 / num_sides, jnp.float32)
        return tz.StepMetadata(
            rewards=jnp.where(won, sign, 0.0),
            action_mask=jnp.stack([jnp.bool_(True), state.turn > 0]) & ~state.is_rolling,
            terminated=jnp.any(state.scores >= goal),
            cur_player_id=state.player,
            chance=jnp.where(state.is_rolling, die, 0.0),
        )

    def init(key):
        player = jax.random.bernoulli(key).astype(jnp.int32)
        state = Pig(jnp.zeros(2, jnp.int32), jnp.int32(0), player, jnp.bool_(False))
        return state, metadata(state, False)

    def step(state, action):
        over = jnp.any(state.scores >= goal)
        scores = jnp.stack([state.scores[1], state.scores[0] + state.turn])
        held = Pig(scores, jnp.int32(0), 1 - state.player, jnp.bool_(False))
        rolling = Pig(state.scores, state.turn, state.player, jnp.bool_(True))
        after = jax.tree.map(lambda a, b: jnp.where(action == HOLD, a, b), held, rolling)
        after = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, after)
        return after, metadata(after, ~over & jnp.any(after.scores >= goal))

    def outcome(state, outcome, key):
        del key
        lost = Pig(state.scores[::-1], jnp.int32(0), 1 - state.player, jnp.bool_(False))
        kept = Pig(state.scores, state.turn + outcome + 1, state.player, jnp.bool_(False))
        after = jax.tree.map(lambda a, b: jnp.where(outcome == 0, a, b), lost, kept)
        return after, metadata(after, False)

    def observe(state):
        return jnp.concatenate([state.scores, state.turn[None]]).astype(jnp.float32) / goal

    return tz.Env(init=init, step=step, observe=observe, name="pig", outcome=outcome)


def pig_values(goal: int, num_sides: int = 6) -> dict[tuple[int, int, int], tuple[float, float]]:
    """Returns the values of rolling and of holding, by (own score, other score, sum of the turn).

    Holding nothing has the value -1. Rolls that lose the turn lead to cycles, so the values are iterated until they
    converge.
    """
    states = [(i, j, k) for i in range(goal) for j in range(goal) for k in range(goal - i + num_sides)]
    value = dict.fromkeys(states, 0.0)

    def best(i, j, k):
        return 1.0 if i + k >= goal else value[i, j, k]  # holding wins

    def q(i, j, k):
        roll = (-value[j, i, 0] + sum(best(i, j, k + die) for die in range(2, num_sides + 1))) / num_sides
        hold = -1.0 if k == 0 else (1.0 if i + k >= goal else -value[j, i + k, 0])
        return roll, hold

    change = 1.0
    while change > 1e-9:
        change = 0.0
        for state in states:
            i, _, k = state
            if i + k < goal:
                new = max(q(*state))
                change, value[state] = max(change, abs(new - value[state])), new
    return {state: q(*state) for state in states}


class Race(eqx.Module):
    """A race of two checkers a side: the pips left of the player to move and of the other player, and the die."""

    pips: Int[Array, "2 2"]
    die: Int[Array, ""]
    player: Int[Array, ""]
    is_rolling: jax.Array


def race(num_sides: int = 4, start: int = 6) -> tz.Env:
    """Returns a bear-off with one die: a player chooses which checker moves, and the first to bring both home wins."""

    def metadata(state: Race, won) -> tz.StepMetadata:
        over = jnp.any(jnp.all(state.pips == 0, axis=1))
        sign = jnp.where(jnp.arange(2, dtype=jnp.int32) == state.player, -1.0, 1.0)
        return tz.StepMetadata(
            rewards=jnp.where(won, sign, 0.0),
            action_mask=state.pips[0] > 0,
            terminated=over,
            cur_player_id=state.player,
            chance=jnp.where(state.is_rolling & ~over, jnp.full(num_sides, 1 / num_sides, jnp.float32), 0.0),
        )

    def init(key):
        die = jax.random.randint(key, (), 1, num_sides + 1, jnp.int32)
        state = Race(jnp.full((2, 2), start, jnp.int32), die, jnp.int32(0), jnp.bool_(False))
        return state, metadata(state, False)

    def step(state, action):
        over = jnp.any(jnp.all(state.pips == 0, axis=1))
        own = state.pips[0].at[action].add(-state.die)
        after = Race(jnp.stack([state.pips[1], jnp.maximum(own, 0)]), jnp.int32(0), 1 - state.player, jnp.bool_(True))
        after = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, after)
        return after, metadata(after, ~over & jnp.all(after.pips[1] == 0))

    def outcome(state, outcome, key):
        del key
        after = Race(state.pips, outcome + 1, state.player, jnp.bool_(False))
        return after, metadata(after, False)

    def observe(state):
        return jnp.append(state.pips.ravel(), state.die).astype(jnp.float32)

    return tz.Env(init=init, step=step, observe=observe, name="race", outcome=outcome)


@functools.cache
def race_value(own: tuple[int, ...], other: tuple[int, ...], die: int, num_sides: int = 4) -> float:
    """Returns the exact value of a race for the player to move."""
    best = -1.0
    for checker in range(2):
        if own[checker] == 0:
            continue
        moved = tuple(max(p - die, 0) if i == checker else p for i, p in enumerate(own))
        if not any(moved):
            return 1.0
        rolls = [race_value(other, moved, roll, num_sides) for roll in range(1, num_sides + 1)]
        best = max(best, -float(np.mean(rolls)))
    return best


NUM_TILES = 3  # moves in a game of `small_2048`


class Tiles(eqx.Module):
    """A board of 2 by 2 with exponents of two, 0 for an empty cell, and the number of moves made."""

    board: Int[Array, "2 2"]
    num_moves: Int[Array, ""]
    is_open: jax.Array


def slide(board: Int[Array, "2 2"], action: Int[Array, ""]) -> tuple[Int[Array, "2 2"], Int[Array, ""]]:
    """Returns the board after a push to the left, right, top or bottom, and the sum of the merged tiles."""
    turned = jnp.stack([board, board[:, ::-1], board.T, board.T[:, ::-1]])[action]
    first, second = turned[:, 0], turned[:, 1]
    merged = (first == second) & (first > 0)
    kept = jnp.where(first > 0, first, second)
    rest = jnp.where((first > 0) & ~merged, second, 0)
    turned = jnp.stack([kept + merged.astype(jnp.int32), rest], axis=1)
    reward = jnp.sum(jnp.where(merged, 2 ** (first + 1), 0), dtype=jnp.int32)
    return jnp.stack([turned, turned[:, ::-1], turned.T, turned[:, ::-1].T])[action], reward


def small_2048() -> tz.Env:
    """Returns 2048 on 2 by 2 cells for a few moves. After each move comes a tile of 2 (three times in four) or 4."""

    def legal(board):
        return jnp.stack([jnp.any(slide(board, jnp.int32(a))[0] != board) for a in range(4)])

    def metadata(state, reward):
        empty = jnp.where(state.board.ravel() == 0, 1.0, 0.0)
        chance = (empty / jnp.maximum(jnp.sum(empty), 1.0))[:, None] * jnp.array([[0.75, 0.25]])
        mask = legal(state.board)
        over = ~state.is_open & ((state.num_moves >= NUM_TILES) | ~jnp.any(mask))
        return tz.StepMetadata(
            rewards=reward.astype(jnp.float32)[None],
            action_mask=mask & ~state.is_open & ~over,
            terminated=over,
            cur_player_id=jnp.int32(0),
            chance=jnp.where(state.is_open, chance.ravel(), 0.0),
        )

    def init(key):
        del key
        state = Tiles(jnp.array([[1, 0], [0, 1]], jnp.int32), jnp.int32(0), jnp.bool_(False))
        return state, metadata(state, jnp.int32(0))

    def step(state, action):
        over = metadata(state, jnp.int32(0)).terminated
        board, reward = slide(state.board, action)
        after = Tiles(board, state.num_moves + 1, jnp.bool_(True))
        after = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, after)
        return after, metadata(after, jnp.where(over, 0, reward))

    def outcome(state, outcome, key):
        del key
        board = state.board.ravel().at[outcome // 2].set(1 + outcome % 2).reshape(2, 2)
        after = Tiles(board, state.num_moves, jnp.bool_(False))
        return after, metadata(after, jnp.int32(0))

    return tz.Env(init, step, lambda state: state.board.astype(jnp.float32), "small 2048", outcome=outcome)


@functools.cache
def small_2048_value(board: tuple[int, ...], num_moves: int = 0) -> float:
    """Returns the expected sum of the rewards with best play, by plain Python."""
    if num_moves >= NUM_TILES:
        return 0.0
    lines = {0: ((0, 1), (2, 3)), 1: ((1, 0), (3, 2)), 2: ((0, 2), (1, 3)), 3: ((2, 0), (3, 1))}
    best = None
    for places in lines.values():
        after, reward = list(board), 0
        for near, far in places:
            tiles = [tile for tile in (board[near], board[far]) if tile]
            if len(tiles) == 2 and tiles[0] == tiles[1]:
                tiles, reward = [tiles[0] + 1], reward + 2 ** (tiles[0] + 1)
            after[near], after[far] = (*tiles, 0, 0)[:2]
        if after == list(board):
            continue
        empty = [cell for cell in range(4) if after[cell] == 0]
        total = 0.0
        for cell in empty:
            for tile, chance in ((1, 0.75), (2, 0.25)):
                answered = tuple(tile if i == cell else x for i, x in enumerate(after))
                total += chance / len(empty) * small_2048_value(answered, num_moves + 1)
        best = max(reward + total, -1.0 if best is None else best)
    return 0.0 if best is None else best


def searched(mcts, env, evaluator, num_games=4, seed=0):
    """Searches new games; returns NumPy arrays."""

    @eqx.filter_jit
    def run(keys):
        def one(key):
            init_key, key = jax.random.split(key)
            return tz.search(mcts, env, evaluator, tz.init_search(mcts, *env.init(init_key)), key=key)

        return jax.vmap(one)(keys)

    return jax.device_get(run(jax.random.split(jax.random.key(seed), num_games)))


def noisy(env_state, metadata, key):
    """Returns logits and a value that depend on the whole state, so that different nodes never look alike."""
    x = sum(jnp.sum(jnp.sin(1.0 + 0.7 * leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(env_state))
    return jnp.stack([x, -x]), jnp.tanh(x)
