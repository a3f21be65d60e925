"""Small random games as tables of arrays, so that one compiled test plays many of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tz

NUM_STATES, NUM_ACTIONS = 48, 4


class Tables(eqx.Module):
    """A game whose state is a row number; `logits` and `values` are the outputs of its evaluator."""

    next_state: jax.Array  # [S, A]
    rewards: jax.Array  # [S, A, P], for the move
    legal: jax.Array  # [S, A]
    terminated: jax.Array  # [S]
    player: jax.Array  # [S]
    logits: jax.Array  # [S, A]
    values: jax.Array  # [S], for the player to move


def draw_tables(
    seed: int, num_players: int = 2, end_rate: float = 0.2, alternate: bool = False, legal_rate: float = 0.7
) -> Tables:
    """Draws a random game: rows lead to later rows, the last quarter ends it, and players alternate or are drawn."""
    rng = np.random.default_rng(seed)
    shape = NUM_STATES, NUM_ACTIONS
    rows = np.arange(NUM_STATES)
    steps = rng.integers(1, 9, shape)
    if alternate:
        steps = 2 * (steps // 2) + 1  # odd: the parity of the row is the player
    next_state = np.minimum(rows[:, None] + steps, NUM_STATES - 1)
    terminated = (rng.random(NUM_STATES) < end_rate) | (rows >= 3 * NUM_STATES // 4)
    terminated[:2] = False
    legal = rng.random(shape) < legal_rate
    legal[rows, rng.integers(0, NUM_ACTIONS, NUM_STATES)] = True
    player = rows % 2 if alternate else rng.integers(0, num_players, NUM_STATES)
    first = rng.normal(size=shape).astype(np.float32)
    rewards = np.stack([first, -first], -1) if num_players == 2 else first[..., None]
    return Tables(
        *map(jnp.asarray, (next_state.astype(np.int32), rewards, legal, terminated, player.astype(np.int32))),
        logits=jnp.asarray(rng.normal(size=shape) * 2, jnp.float32),
        values=jnp.asarray(rng.uniform(-1, 1, NUM_STATES), jnp.float32),
    )


def stack_tables(tables: list[Tables]) -> Tables:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tables)


def tabular_env(tables: Tables) -> tz.Env:
    """Returns the game as a `tz.Env`, which starts in row 0."""

    def metadata(row, rewards):
        ended = tables.terminated[row]
        return tz.StepMetadata(
            rewards=rewards, action_mask=tables.legal[row] | ended, terminated=ended, cur_player_id=tables.player[row]
        )

    def init(key):
        del key
        row = jnp.int32(0)
        return row, metadata(row, jnp.zeros(tables.rewards.shape[-1], jnp.float32))

    def step(row, action):
        over = tables.terminated[row]
        after = jnp.where(over, row, tables.next_state[row, action])
        return after, metadata(after, jnp.where(over, 0.0, tables.rewards[row, action]))

    return tz.Env(init, step, lambda row: jax.nn.one_hot(row, NUM_STATES), name="tabular")


def tabular_evaluator(tables: Tables):
    return lambda row, metadata, key: (tables.logits[row], tables.values[row])


@eqx.filter_jit
def begin(mcts: tz.MCTS, tables: Tables) -> tz.SearchState:
    """Returns the initial search of each game of a batch."""
    return jax.vmap(lambda tables: tz.init_search(mcts, *tabular_env(tables).init(jax.random.key(0))))(tables)


@eqx.filter_jit
def search_each(mcts: tz.MCTS, tables: Tables, states: tz.SearchState, keys: jax.Array) -> tz.SearchState:
    """Runs `tz.search` on each game of a batch. A test that searches twice compiles it once."""

    def one(tables, state, key):
        return tz.search(mcts, tabular_env(tables), tabular_evaluator(tables), state, key=key)

    return jax.vmap(one)(tables, states, keys)


@eqx.filter_jit
def advance_each(mcts: tz.MCTS, tables: Tables, states: tz.SearchState, actions: jax.Array) -> tz.SearchState:
    """Runs `tz.advance` on each game of a batch."""

    def one(tables, state, action):
        return tz.advance(mcts, state, action, *tabular_env(tables).step(state.tree.state[0], action))

    return jax.vmap(one)(tables, states, actions)
