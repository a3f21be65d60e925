"""The replay buffer: a ring of recent positions for each game, which training samples from."""

import functools
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from tz._arguments import check_fields, check_ints, check_one, check_one_key
from tz.learn._ends import empty_ends, rows_of_ends, settled_ends
from tz.learn.ring import ReplayState, draw, empty_steps, rows_of_steps, sample_at, unroll_at
from tz.learn.targets import Affine, change_of_side, compose, lambda_returns
from tz.learn.trajectory import Sample, Trajectory, Unroll, check_rows, check_trajectory


class EpisodeReplayBuffer(eqx.Module):
    """Keeps the last `capacity` positions of each game and samples those whose value target is known.

    The value target of a position becomes known when its episode ends or is truncated. Moves are added in chunks of any
    length up to `capacity`. An episode may be longer than a chunk, and longer than the ring.

    **Fields:**

    - `capacity`: the number of rows in the ring of one game; `B` games hold `B * capacity` positions.
    - `td_lambda`: the λ of the return, see [`tz.learn.lambda_returns`][]. With 1, the default, the target is the
        outcome of the episode; below 1, the search's values of the following positions are mixed in.
    - `search_value_fraction`: the fraction of the target that is the search's value of the position itself; the rest is
        the return. With 0, the default, the target is the return alone.
    - `max_unroll`: the largest number of moves that can be drawn together. With None, the default, only single
        positions can be drawn, and the ring keeps no actions and rewards.

    **Raises:** `ValueError` if `capacity` is below 1, one of the fractions is not from 0 to 1, or an unroll would not
    fit into the ring.
    """

    capacity: int = eqx.field(static=True)
    td_lambda: float | Float[Array, ""] = 1.0
    search_value_fraction: float | Float[Array, ""] = 0.0
    max_unroll: int | None = eqx.field(static=True, default=None)

    def __post_init__(self):
        check_fields(self)

    def __check_init__(self):
        if self.capacity < 1:
            raise ValueError(f"EpisodeReplayBuffer: found capacity={self.capacity}, expected at least 1; raise it.")
        for name in ("td_lambda", "search_value_fraction"):
            fraction = getattr(self, name)
            if isinstance(fraction, int | float) and not 0 <= fraction <= 1:
                raise ValueError(
                    f"EpisodeReplayBuffer: found {name}={fraction}, expected a number from 0 to 1; give a fraction."
                )
        if self.max_unroll is not None and not 1 <= self.max_unroll < self.capacity:
            raise ValueError(
                f"EpisodeReplayBuffer: found max_unroll={self.max_unroll}, expected from 1 to {self.capacity - 1}, as "
                f"K moves take K + 1 of the capacity={self.capacity} rows; lower it or raise the capacity."
            )

    def init(self, example: Trajectory) -> ReplayState:
        """Returns an empty ring for one game.

        For `B` games, call `jax.vmap(lambda _: buffer.init(example))(jnp.arange(B))`.

        **Arguments:**

        - `example`: a trajectory of one game, of any length. Only its shapes and dtypes are read, so it may come from
            `jax.eval_shape`.

        **Returns:** the ring of one game.

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
            steps=None if self.max_unroll is None else empty_steps(self.capacity),
        )

    def add(self, state: ReplayState, trajectory: Trajectory, *, discount: float | Float[Array, ""]) -> ReplayState:
        """Writes the next `T` moves of one game over its oldest rows, and computes the value targets that become known.

        If `state` is donated to `jax.jit`, the rows are written in place.

        **Arguments:**

        - `state`: the ring of one game.
        - `trajectory`: the next `T` moves, which follow the moves added before without a gap.
        - `discount`: the discount of the return, from 0 to 1; the same in every call.

        **Returns:** the new ring.

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
        # The open rows continue with the first move of this chunk. Known rows have coefficient 0, so composing does not
        # change them, and all rows can be treated alike.
        settled = compose(state.value, compose(change_of_side(state.last_player, player[0]), first))
        # The search's value of a row is mixed into the target of that row only, so it must not enter the returns.
        fraction, value = jnp.float32(self.search_value_fraction), trajectory.value.astype(jnp.float32)
        targets = compose(Affine(fraction * value, jnp.full_like(value, 1 - fraction)), returns)

        num_steps = len(player)
        slots = (state.position + jnp.arange(num_steps, dtype=jnp.int32)) % self.capacity
        size = jnp.minimum(state.size + num_steps, self.capacity)
        still_open = state.size - state.num_known + num_steps
        # The moves after the last end in this chunk are open. If no episode ended, earlier open rows still are, too.
        num_open = jnp.where(jnp.any(closed), jnp.argmax(closed[::-1]).astype(jnp.int32), still_open)

        ends, rows = state.ends, None
        if ends is not None:
            outcome, first_outcome = returns_of(lambda_=1.0)
            rows = rows_of_ends(trajectory, outcome)
            # `age` is the number of rows newer than each row. The open rows are the newest.
            age = (state.position - 1 - jnp.arange(self.capacity, dtype=jnp.int32)) % self.capacity
            age = jnp.where(age < state.size - state.num_known, age, -1)
            ends = settled_ends(ends, first_outcome, closed, age, state.last_player, player[0])

        def write(column, rows):
            # T is at most the capacity (see `_check_fits`), so no slot occurs twice and both promises hold.
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
            steps=None if state.steps is None else jax.tree.map(write, state.steps, rows_of_steps(trajectory, reward)),
        )

    def resize(self, state: ReplayState) -> ReplayState:
        """Copies the newest rows that fit from one game's ring, of any capacity, to a ring of this capacity."""
        size = jnp.minimum(state.size, self.capacity)
        slots = (state.position - size + jnp.arange(self.capacity, dtype=jnp.int32)) % len(state.policy_weight)
        names = "observation", "action_mask", "policy", "value", "policy_weight", "extra", "ends", "steps"
        rows = {name: jax.tree.map(lambda x: x[slots], getattr(state, name)) for name in names}
        num_known = jnp.maximum(state.num_known - (state.size - size), 0)
        return ReplayState(
            **rows, position=size % self.capacity, size=size, num_known=num_known, last_player=state.last_player
        )

    def _check_capacity(self, state: ReplayState) -> None:
        found = state.policy_weight.shape[-1]
        if found != self.capacity:
            raise ValueError(
                f"EpisodeReplayBuffer: found a ring of {found} rows a game, expected capacity={self.capacity}; change "
                "the ring with `resize`, fork the run with tz.fork, or make a new ring with `init`."
            )
        if (state.steps is None) != (self.max_unroll is None):
            found = "without" if state.steps is None else "with"
            raise ValueError(
                f"EpisodeReplayBuffer: found a ring {found} actions and rewards, expected one that fits "
                f"max_unroll={self.max_unroll}; make a new ring with `init`, or set max_unroll as before."
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
            advice = "let `record` and `record_end` return the same arrays as before, or make a new ring with `init`"
            check_rows(name, rows, columns, advice)
        num_steps = trajectory.player.shape[0]
        if num_steps > self.capacity:
            raise ValueError(
                f"add: found a trajectory of {num_steps} moves, expected at most capacity={self.capacity}; raise the "
                "capacity, or collect fewer moves at a time."
            )

    def num_known(self, state: ReplayState) -> Int[Array, ""]:
        """Returns the number of positions with a known value target, which can be sampled.

        **Arguments:** `state`, the rings of all games, with the leading axis `B`, or the ring of one game.

        **Returns:** the number over all games, an int32 scalar.
        """
        return jnp.sum(state.num_known, dtype=jnp.int32)

    @overload
    def sample(self, state: ReplayState, num_samples: int, *, key: PRNGKeyArray, unroll: None = None) -> Sample: ...

    @overload
    def sample(self, state: ReplayState, num_samples: int, *, key: PRNGKeyArray, unroll: int) -> Unroll: ...

    def sample(
        self, state: ReplayState, num_samples: int, *, key: PRNGKeyArray, unroll: int | None = None
    ) -> Sample | Unroll:
        """Draws positions with a known value target uniformly from all games, with replacement.

        **Arguments:**

        - `state`: the rings of all games, with the leading axis `B`.
        - `num_samples`: the number of positions to draw.
        - `key`: decides which positions are drawn.
        - `unroll`: the number of moves to draw with each position, see [`tz.learn.Unroll`][]; None for the position
            alone.

        **Returns:** `num_samples` samples, or unrolls if `unroll` is given, along a leading axis.

        **Raises:** a runtime error, through `eqx.error_if`, if no value target is known yet; `ValueError` for an unroll
        longer than `max_unroll`.
        """
        check_ints("sample", num_samples=num_samples)
        check_one_key("sample", key)
        self._check_rings(state)
        num_known = eqx.error_if(
            state.num_known,
            self.num_known(state) == 0,
            "sample: found no position with a known value target, expected at least one finished episode in the "
            "buffer; collect more moves, or lower max_episode_moves so that episodes end sooner.",
        )  # the result must be used below, or XLA would drop the check
        state = eqx.tree_at(lambda state: state.num_known, state, num_known)
        return self.sample_parts(state, num_samples, keys=key[None], unroll=unroll)

    @overload
    def sample_parts(
        self, state: ReplayState, num_samples: int, *, keys: Array, window: Any = None, unroll: None = None
    ) -> Sample: ...

    @overload
    def sample_parts(
        self, state: ReplayState, num_samples: int, *, keys: Array, window: Any = None, unroll: int
    ) -> Unroll: ...

    def sample_parts(
        self,
        state: ReplayState,
        num_samples: int,
        *,
        keys: Shaped[PRNGKeyArray, " S"],
        window: int | Int[Array, ""] | None = None,
        unroll: int | None = None,
    ) -> Sample | Unroll:
        """Draws equally many positions from each of `S` parts of the games, for a buffer that is split over devices.

        A part is `B / S` neighbouring games. The samples of a part depend only on that part and its key. Positions in
        a part with fewer known positions are drawn more often, and the weights of the samples correct this: a weighted
        mean over the batch has the expectation of a mean over all positions. Samples of a part in which no position is
        known have weight 0.

        **Arguments:**

        - `state`: the rings of the games, with the leading axis `B`.
        - `num_samples`: the number of positions to draw from all parts together.
        - `keys`: `[S]`, one for each part.
        - `window`: how many of the newest known positions of each game to draw from; None, the default, for all.
        - `unroll`: as in [`tz.EpisodeReplayBuffer.sample`][].

        **Returns:** `num_samples` samples, or unrolls if `unroll` is given, along a leading axis, part after part.

        **Raises:** `ValueError` if `S` does not divide `B` and `num_samples`, the rings have another capacity, or an
        unroll is longer than `max_unroll`.
        """
        self._check_rings(state)
        if unroll is not None:
            self._check_unroll(unroll)
        num_parts, num_games = keys.shape[0], state.position.shape[0]
        if num_games % num_parts or num_samples % num_parts:
            raise ValueError(
                f"sample_parts: found {num_games} games and {num_samples} samples, expected multiples of the number "
                f"of keys, {num_parts}; change one of the three."
            )
        parts = jax.tree.map(lambda x: x.reshape(num_parts, num_games // num_parts, *x.shape[1:]), state)
        read = sample_at if unroll is None else functools.partial(unroll_at, unroll)
        samples = jax.vmap(lambda part, key: draw(part, num_samples // num_parts, key, window, read))(parts, keys)
        return jax.tree.map(lambda x: x.reshape(num_samples, *x.shape[2:]), samples)

    def _check_rings(self, state: ReplayState) -> None:
        if jnp.ndim(state.position) == 0:
            raise ValueError(
                "sample: found the ring of one game, expected rings with a leading axis of games; add the axis with "
                "jax.tree.map(lambda x: x[None], state)."
            )
        self._check_capacity(state)

    def _check_unroll(self, unroll: int) -> None:
        check_ints("sample", unroll=unroll)
        if not 1 <= unroll <= (self.max_unroll or 0):
            raise ValueError(
                f"sample: found unroll={unroll}, expected from 1 to max_unroll={self.max_unroll} of the buffer; make "
                f"one with EpisodeReplayBuffer({self.capacity}, max_unroll={unroll})."
            )
