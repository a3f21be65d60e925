"""The games of [pgx](https://github.com/sotetsuk/pgx) as tz environments."""

import difflib
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Shaped

from tz._arguments import check_one, check_one_key
from tz._promotion import standard_promotion
from tz.games._pgx_boards import board_function
from tz.games._pgx_chance import NUM_SAMPLED, SAMPLED, SPLITS
from tz.games._pgx_names import diagram_text, notation_of
from tz.games.chance import sampled_chance
from tz.games.env import Env, StepMetadata

if TYPE_CHECKING:
    import pgx

GO_KOMI = 7.5  # that of the Go games which pgx makes by name
_REFUSED = {
    "bridge_bidding": "hidden information and more than two players",
    "kuhn_poker": "hidden information",
    "leduc_holdem": "hidden information",
    "sparrow_mahjong": "hidden information and more than two players",
}


def from_pgx(game: "str | pgx.Env") -> Env:
    """Adapts a game of pgx.

    The functions of the result are compiled with `jax.jit`, and the same game gives the same `Env` each time. As in
    pgx, an illegal action ends the game with a loss for the player who chose it, and every action counts as legal once
    the game is over.

    The states are states of pgx, but without the observation, which `observe` computes when it is called.
    `state.to_svg()` draws a batch of states; `env.draw(state)` draws one state, with coordinates.

    **Arguments:**

    - `game`: a name, such as `"othello"`, or a `pgx.Env`, such as `pgx.go.Go(size=7)`. The game must not have hidden
        information.

    **Returns:** a [`tz.Env`][]. Its observations are channels-last. In 2048 and backgammon, nature's outcomes are the
    new tiles and the rolls of the dice, with their probabilities. The MinAtar games have sampled chance; see
    [`tz.games.sampled_chance`][]. Their states keep the state of pgx in the field `state`.

    **Raises:** `ValueError` if pgx has no game of this name, or if the game has hidden information.
    """
    with _as_pgx_expects():
        import pgx  # importing pgx makes arrays, so it must happen inside the context

    name = game if isinstance(game, str) else game.id
    playable = [known for known in pgx.available_envs() if known not in _REFUSED]
    if name in _REFUSED:
        raise ValueError(
            f"from_pgx: found {name!r}, which has {_REFUSED[name]}, expected a game of perfect information; choose one "
            f"of: {', '.join(playable)}."
        )
    if not isinstance(game, str):
        return _adapt(game)
    if name not in playable:
        closest = difflib.get_close_matches(name, playable, n=1, cutoff=0.4)
        guess = f"write {closest[0]!r}, or " if closest else ""
        raise ValueError(
            f"from_pgx: found {name!r}, expected the name of a pgx game; {guess}choose one of: {', '.join(playable)}."
        )
    return _adapt(_make(name))


@contextmanager
def _as_pgx_expects() -> Iterator[None]:
    """Runs the `with` block with JAX's standard promotion and 32-bit numbers, whatever the user has configured."""
    enable_x64 = getattr(jax, "enable_x64", None)
    if enable_x64 is None:  # before JAX 0.8
        from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    with standard_promotion(), enable_x64(False):
        yield


@functools.cache
def _make(name: str) -> "pgx.Env":
    import pgx

    with _as_pgx_expects():
        return pgx.make(name)  # pyright: ignore[reportArgumentType]


def _name(game: "pgx.Env") -> str:
    """Returns the name of a game. Go with another komi is another game, whose name includes the komi."""
    komi = getattr(getattr(game, "_game", None), "komi", GO_KOMI)
    return game.id if komi == GO_KOMI else f"{game.id}_komi_{float(komi):g}"


@functools.cache
def _adapt(game: "pgx.Env") -> Env:
    split = SPLITS[game.id](game) if game.id in SPLITS else None
    no_chance = None if split is None else jnp.zeros(split.num_outcomes, jnp.float32)

    def pack(state: Any, chance: Any = no_chance) -> tuple[PyTree, StepMetadata]:
        state = state.replace(observation=jnp.zeros(0, state.observation.dtype))  # so XLA does not compute it
        # Some fields are Python numbers in `init`. With a strong dtype, they have the same type as in later states.
        state = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), state)
        metadata = StepMetadata(
            rewards=state.rewards,
            action_mask=state.legal_action_mask,
            terminated=state.terminated | state.truncated,
            cur_player_id=state.current_player,
            chance=chance,
        )
        return state, metadata

    def check(where: str, state: Any, action: Any = 0) -> None:
        check_one(f"{where} of {game.id}", "state.current_player", state.current_player)
        check_one(f"{where} of {game.id}", "action", action)

    def init(key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        check_one_key(f"init of {game.id}", key)
        with _as_pgx_expects():
            return pack(game.init(key))

    def step(state: PyTree, action: Int[Array, ""]) -> tuple[PyTree, StepMetadata]:
        check("step", state, action)
        action = action.astype(jnp.int32)
        with _as_pgx_expects():
            return pack(game.step(state, action)) if split is None else pack(*split.step(state, action))

    def draw_move(state: PyTree, action: Int[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        with _as_pgx_expects():
            return pack(game.step(state, action.astype(jnp.int32), key))

    def outcome(state: PyTree, outcome: Int[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        del key
        check("outcome", state, outcome)
        assert split is not None
        with _as_pgx_expects():
            return pack(split.outcome(state, outcome.astype(jnp.int32)))

    def observe(state: PyTree) -> Shaped[Array, "..."]:
        check("observe", state)
        with _as_pgx_expects():
            return game.observe(state)

    def draw(state: PyTree) -> str:
        return board(state).svg

    def text(state: PyTree) -> str:
        return diagram_text(notation.diagram(state))

    notation, board = notation_of(game), board_function(game)
    options: dict[str, Any] = {"observe": jax.jit(observe), "name": _name(game), "draw": draw}
    options |= {"label": notation.label, "text": text, "board": board}
    if game.id in SAMPLED:
        return sampled_chance(jax.jit(init), jax.jit(draw_move), num_outcomes=NUM_SAMPLED, **options)
    options["outcome"] = None if split is None else jax.jit(outcome)
    return Env(init=jax.jit(init), step=jax.jit(step), **options)
