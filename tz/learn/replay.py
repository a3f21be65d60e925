"""The ring of recent positions that training samples from."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz._arguments import check_fields, check_ints, check_one, check_one_key
from tz.learn._ends import EndColumns, empty_ends, end_of, rows_of_ends, settled_ends
from tz.learn.targets import Affine, change_of_side, compose, lambda_returns
from tz.learn.trajectory import Sample, Trajectory, check_rows, check_trajectory


class ReplayState(eqx.Module):
    """The ring of one game. Its oldest row is in slot `position - size`, its newest in `position - 1`, both modulo
    `capacity`. The `num_known` oldest rows have a known value target; the rest belong to the episode in progress.

    **Fields:**

    - `observation`: `[capacity, ...]`.
    - `action_mask`: `[capacity, A]`.
    - `policy`: `[capacity, A]`.
    - `value`: `[capacity]` functions from what follows the newest row, in the view of `last_player`, to the value
        target of each row, for its mover. A known row has `value.coefficient` 0, and `value.offset` is its target.
    - `policy_weight`: `[capacity]`.
    - `position`: the slot to be written next.
    - `size`: how many rows are in the ring, from 0 to `capacity`.
    - `num_known`: how many of them have a known value target.
    - `last_player`: the mover of the newest row.
    - `extra`: `[capacity, ...]`, the records of the positions, or None.
    - `ends`: the ends of the rows' episodes, as far as they are known, or None.
    """

    observation: PyTree[Shaped[Array, "capacity ..."]]
    action_mask: Bool[Array, "capacity A"]
    policy: Float[Array, "capacity A"]
    value: Affine
    policy_weight: Float[Array, " capacity"]
    position: Int[Array, ""]
    size: Int[Array, ""]
    num_known: Int[Array, ""]
    last_player: Int[Array, ""]
    extra: PyTree = None
    ends: EndColumns | None = None


class EpisodeReplayBuffer(eqx.Module):
    """Keeps the last `capacity` positions of each game and samples those whose value target is known.

    The value target of a position becomes known when its episode ends or is truncated, in whichever chunk that
    happens. Chunks may be of any length up to `capacity`; episodes may be longer than a chunk and longer than the ring.

    **Fields:**

    - `capacity`: the size of the ring of one game; `B` games hold `B * capacity` positions.
    - `td_lambda`: of the λ-return, see [`tz.learn.lambda_returns`][]; at 1 the outcome of the episode, below it a
        mixture with the search's values of the positions that follow.
    - `search_value_fraction`: how much of the target is the search's value of the position itself, and not the return.

    **Raises:** `ValueError` if `capacity` is below 1, or one of the others is not from 0 to 1.
    """

    capacity: int = eqx.field(static=True)
    td_lambda: float | Float[Array, ""] = 1.0
    search_value_fraction: float | Float[Array, ""] = 0.0

    def __post_init__(self):
        check_fields(self)

    def __check_init__(self):
        if self.capacity < 1:
            raise ValueError(f"capacity is {self.capacity}, but each game needs room for at least 1 position.")
        for name in ("td_lambda", "search_value_fraction"):
            fraction = getattr(self, name)
            if isinstance(fraction, int | float) and not 0 <= fraction <= 1:
                raise ValueError(f"{name} is {fraction}, expected a fraction from 0 to 1.")

    def init(self, example: Trajectory) -> ReplayState:
        """An empty ring for one game.

        For `B` games: `jax.vmap(lambda _: buffer.init(example))(jnp.arange(B))`.

        **Arguments:**

        - `example`: a trajectory of one game, of any length. Only shapes and dtypes are read, so the result of
            `jax.eval_shape` will do.

        **Returns:** the state of one game's ring.

        **Raises:** `ValueError` if the fields of `example` do not fit together, or if it has more than two players.
        """
        check_trajectory(example)

        def column(rows):
            return jnp.zeros((self.capacity, *rows.shape[1:]), rows.dtype)

        return ReplayState(
            observation=jax.tree.map(column, example.observation),
            action_mask=column(example.action_mask),
            policy=column(example.policy),
            value=Affine(jnp.zeros(self.capacity, jnp.float32), jnp.zeros(self.capacity, jnp.float32)),
            policy_weight=column(example.policy_weight),
            position=jnp.zeros((), jnp.int32),
            size=jnp.zeros((), jnp.int32),
            num_known=jnp.zeros((), jnp.int32),
            last_player=jnp.zeros((), jnp.int32),
            extra=jax.tree.map(column, example.extra),
            ends=empty_ends(example, self.capacity),
        )

    def add(self, state: ReplayState, trajectory: Trajectory, *, discount: float | Float[Array, ""]) -> ReplayState:
        """Writes the next `T` steps of one game over its oldest rows, and works out the value targets they settle.

        With `state` donated to `jax.jit`, the rows are written in place.

        **Arguments:**

        - `state`: the ring of one game.
        - `trajectory`: the `T` steps that follow those added before.
        - `discount`: from 0 to 1, the same in every call.

        **Returns:** the new state of the ring.

        **Raises:** `ValueError` if `T` is larger than `capacity`, if the ring has another capacity, if the trajectory
        does not fit the ring, or if it has more than two players.
        """
        self._check_fits(state, trajectory)
        closed = trajectory.terminated | trajectory.truncated
        player = trajectory.player.astype(jnp.int32)
        reward = jnp.take_along_axis(trajectory.rewards, player[:, None], axis=1)[:, 0]
        returns_of = functools.partial(
            lambda_returns,
            reward,
            trajectory.value,
            trajectory.action_value,
            player,
            trajectory.terminated,
            trajectory.truncated,
            discount=discount,
        )
        returns, first = returns_of(lambda_=self.td_lambda)
        # The rows still open continue with the first step of this chunk. Known rows have coefficient 0: they stay.
        settled = compose(state.value, compose(change_of_side(state.last_player, player[0]), first))
        fraction, value = jnp.float32(self.search_value_fraction), trajectory.value.astype(jnp.float32)
        targets = compose(Affine(fraction * value, jnp.full_like(value, 1 - fraction)), returns)

        num_steps = len(player)
        slots = (state.position + jnp.arange(num_steps, dtype=jnp.int32)) % self.capacity
        size = jnp.minimum(state.size + num_steps, self.capacity)
        still_open = state.size - state.num_known + num_steps
        num_open = jnp.where(jnp.any(closed), jnp.argmax(closed[::-1]).astype(jnp.int32), still_open)

        ends, rows = state.ends, None
        if ends is not None:
            outcome, first_outcome = returns_of(lambda_=1.0)
            rows = rows_of_ends(trajectory, outcome)
            age = (state.position - 1 - jnp.arange(self.capacity, dtype=jnp.int32)) % self.capacity
            age = jnp.where(age < state.size - state.num_known, age, -1)
            ends = settled_ends(ends, first_outcome, closed, age, state.last_player, player[0])

        def write(column, rows):
            return column.at[slots].set(rows, mode="promise_in_bounds", unique_indices=True)

        return ReplayState(
            observation=jax.tree.map(write, state.observation, trajectory.observation),
            action_mask=write(state.action_mask, trajectory.action_mask),
            policy=write(state.policy, trajectory.policy),
            value=jax.tree.map(write, settled, targets),
            policy_weight=write(state.policy_weight, trajectory.policy_weight),
            position=(state.position + num_steps) % self.capacity,
            size=size,
            num_known=jnp.maximum(size - num_open, 0),
            last_player=player[-1],
            extra=jax.tree.map(write, state.extra, trajectory.extra),
            ends=jax.tree.map(write, ends, rows),
        )

    def resize(self, state: ReplayState) -> ReplayState:
        """The ring of one game, of another capacity, as one of this capacity, with the newest rows that fit."""
        size = jnp.minimum(state.size, self.capacity)
        slots = (state.position - size + jnp.arange(self.capacity, dtype=jnp.int32)) % len(state.policy_weight)
        names = "observation", "action_mask", "policy", "value", "policy_weight", "extra", "ends"
        rows = {name: jax.tree.map(lambda x: x[slots], getattr(state, name)) for name in names}
        num_known = jnp.maximum(state.num_known - (state.size - size), 0)
        return ReplayState(
            **rows, position=size % self.capacity, size=size, num_known=num_known, last_player=state.last_player
        )

    def _check_capacity(self, state: ReplayState) -> None:
        found = state.policy_weight.shape[-1]
        if found != self.capacity:
            raise ValueError(
                f"EpisodeReplayBuffer: found a ring of {found} rows a game, expected capacity={self.capacity}. Change "
                "the ring with `resize`, or the run with tz.fork, or make a new one with `init`."
            )

    def _check_fits(self, state: ReplayState, trajectory: Trajectory) -> None:
        check_one("add", "state.position", state.position)
        self._check_capacity(state)
        check_trajectory(trajectory)
        for name in ("observation", "action_mask", "policy"):
            advice = "make the ring with `init` from a trajectory of the same game"
            check_rows(name, getattr(trajectory, name), getattr(state, name), advice)
        final = None if state.ends is None else state.ends.final
        for name, rows, columns in (("extra", trajectory.extra, state.extra), ("final", trajectory.final, final)):
            advice = "let `record` and `record_end` return what they did, or make a new ring with `init`"
            check_rows(name, rows, columns, advice)
        num_steps = trajectory.player.shape[0]
        if num_steps > self.capacity:
            raise ValueError(
                f"A trajectory of {num_steps} steps does not fit a ring of capacity {self.capacity}. Raise `capacity` "
                "or collect fewer steps at a time."
            )

    def num_known(self, state: ReplayState) -> Int[Array, ""]:
        """How many positions can be sampled.

        **Arguments:**

        - `state`: the rings of all games, with the leading axis `B`, or of one game.

        **Returns:** the number of positions with a known value target, over all games.
        """
        return jnp.sum(state.num_known, dtype=jnp.int32)

    def sample(self, state: ReplayState, num_samples: int, *, key: PRNGKeyArray) -> Sample:
        """Draws positions uniformly, with replacement, from all those of all games whose value target is known.

        **Arguments:**

        - `state`: the rings of all games, with the leading axis `B`.
        - `num_samples`: how many positions to draw.
        - `key`: decides which.

        **Returns:** `num_samples` samples along a leading axis.

        **Raises:** a runtime error, through `eqx.error_if`, if no value target is known yet.
        """
        check_ints("sample", num_samples=num_samples)
        check_one_key("sample", key)
        self._check_capacity(state)
        num_known = eqx.error_if(
            state.num_known,
            self.num_known(state) == 0,
            "no finished episode in the buffer: no value target is known yet, so there is nothing to sample. "
            "Collect more steps, or lower max_episode_moves so that episodes end sooner.",
        )
        state = eqx.tree_at(lambda state: state.num_known, state, num_known)
        return self.sample_parts(state, num_samples, keys=key[None])

    def sample_parts(
        self,
        state: ReplayState,
        num_samples: int,
        *,
        keys: Shaped[PRNGKeyArray, " S"],
        window: int | Int[Array, ""] | None = None,
    ) -> Sample:
        """Draws equally many positions from each of `S` parts of the games, for buffers that are split over devices.

        A part is `B / S` neighbouring games; what is drawn from it depends on it and its key alone. Parts with fewer
        known positions would be drawn from too often, and the weights of the samples make up for that: a weighted mean
        over the batch has the expectation of a mean over all positions. Nothing known at all in a part has weight 0.

        **Arguments:** `state`, the rings of the games, with the leading axis `B`; `keys`, one a part; `window`, how
        many positions of each game to draw from, the newest with a known value target; by default all.

        **Returns:** `num_samples` samples along a leading axis, part after part.

        **Raises:** `ValueError` if `S` does not divide `B` and `num_samples`, or the rings have another capacity.
        """
        self._check_capacity(state)
        num_parts, num_games = keys.shape[0], state.position.shape[0]
        if num_games % num_parts or num_samples % num_parts:
            raise ValueError(
                f"{num_games} games and {num_samples} samples cannot both be split into {num_parts} equal parts."
            )
        parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), state)
        samples = jax.vmap(lambda part, key: self._draw(part, num_samples // num_parts, key, window))(parts, keys)
        return jax.tree.map(lambda x: x.reshape(num_samples, *x.shape[2:]), samples)

    def _draw(self, state: ReplayState, num_samples: int, key: PRNGKeyArray, window) -> Sample:
        num_eligible = state.num_known if window is None else jnp.minimum(state.num_known, window)
        num_games, ends = state.position.shape[0], jnp.cumsum(num_eligible, dtype=jnp.int32)
        weight = ends[-1].astype(jnp.float32) / (num_games * self.capacity)

        def one(rank):
            game = jnp.minimum(jnp.searchsorted(ends, rank, side="right").astype(jnp.int32), num_games - 1)
            # The known rows of a game are its oldest, and the last of them end with rank `ends[game] - 1`.
            age_order = rank - (ends[game] - state.num_known[game])
            slot = (state.position[game] - state.size[game] + age_order) % self.capacity
            return Sample(
                observation=jax.tree.map(lambda column: column[game, slot], state.observation),
                action_mask=state.action_mask[game, slot],
                policy=state.policy[game, slot],
                value=state.value.offset[game, slot],
                weight=weight,
                policy_weight=state.policy_weight[game, slot],
                extra=jax.tree.map(lambda column: column[game, slot], state.extra),
                end=None if state.ends is None else end_of(state.ends, game, slot),
            )

        return jax.vmap(one)(jax.random.randint(key, (num_samples,), 0, jnp.maximum(ends[-1], 1), jnp.int32))
