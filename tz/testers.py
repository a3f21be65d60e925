"""Testers: what the training loop plays against to see whether it learns."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from tz.arena import MatchResult, Player, play_match
from tz.env import Env
from tz.mcts import MCTS
from tz.search import Evaluator
from tz.sharding import DATA, data_mesh, over_games, place

TesterMetrics = dict[str, float]


@runtime_checkable
class Tester(Protocol):
    """What the training loop asks of a tester; its state is any PyTree, the same on all devices."""

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> PyTree:
        """The state before training; raises `ValueError` if its games cannot be split over the mesh."""
        ...

    def test(
        self, env: Env, mcts: MCTS, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the agent (`mcts` and `evaluator`) and returns the next state and the metrics."""
        ...


def _check_num_episodes(num_episodes: int) -> None:
    if num_episodes < 2 or num_episodes % 2:
        raise ValueError(
            f"num_episodes must be even and at least 2, so that both players get each side equally often; found "
            f"{num_episodes}."
        )


def _metrics(name: str, match: MatchResult) -> TesterMetrics:
    counts = {"score": match.score, "wins": match.wins, "draws": match.draws, "losses": match.losses}
    return {f"{name}_{key}": float(value) for key, value in counts.items()}


class OpponentTester(eqx.Module):
    """Plays the newest network against a fixed opponent.

    **Fields:** `opponent`, a [`tz.Player`][] with its own search; `name`, which the metrics begin with;
    `num_episodes`, even; `opening_plies` and `max_steps`, of [`tz.play_match`][].

    **Metrics:** `{name}_score` (wins and half the draws, of all), `{name}_wins`, `{name}_draws`, `{name}_losses`.
    """

    opponent: Player
    name: str = eqx.field(static=True)
    num_episodes: int = eqx.field(static=True, default=32)
    opening_plies: int = eqx.field(static=True, default=4)
    max_steps: int = eqx.field(static=True, default=512)

    def __check_init__(self):
        _check_num_episodes(self.num_episodes)

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> None:
        """A fixed opponent has no state."""
        del evaluator
        _check_split(self, mesh)

    def match(
        self, env: Env, mcts: MCTS, evaluator: Evaluator, *, key: PRNGKeyArray, mesh: Mesh | None = None
    ) -> MatchResult:
        """The match itself, from the agent's point of view; compiled once. By default on all devices."""
        mesh = data_mesh() if mesh is None else mesh
        _check_split(self, mesh)
        return _match(self, env, Player(mcts, evaluator), self.opponent, key, mesh)

    def test(
        self, env: Env, mcts: MCTS, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match and returns the state and the metrics."""
        return state, _metrics(self.name, self.match(env, mcts, evaluator, key=key, mesh=mesh))


class TwoPlayerTester(eqx.Module):
    """Plays the newest network against the best so far, and replaces it where the newest scores more than half.

    **Fields:** `num_episodes`, even; `opening_plies` and `max_steps`, of [`tz.play_match`][]; `name`, which the metrics
    begin with.

    **Metrics:** as [`tz.OpponentTester`][], and `{name}_replaced` (0 or 1).
    """

    num_episodes: int = eqx.field(static=True)
    opening_plies: int = eqx.field(static=True, default=4)
    max_steps: int = eqx.field(static=True, default=512)
    name: str = eqx.field(static=True, default="best")

    def __check_init__(self):
        _check_num_episodes(self.num_episodes)

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> Evaluator:
        """The first network is the best so far."""
        _check_split(self, mesh)
        return _copy(evaluator)

    def test(
        self, env: Env, mcts: MCTS, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match and returns the best evaluator so far and the metrics."""
        match = _match(self, env, Player(mcts, evaluator), Player(mcts, state), key, mesh)
        better = bool(match.score > 0.5)
        metrics = _metrics(self.name, match) | {f"{self.name}_replaced": float(better)}
        return _copy(evaluator) if better else state, metrics


def _copy(evaluator: Evaluator) -> Evaluator:
    """Arrays of its own, which outlive those that training gives up with every step."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, evaluator)


def _check_split(tester: Any, mesh: Mesh) -> None:
    size = mesh.shape[DATA]
    if tester.num_episodes % (2 * size):
        nearest = 2 * size * max(1, round(tester.num_episodes / (2 * size)))
        raise ValueError(
            f"num_episodes={tester.num_episodes} cannot be split evenly over {size} devices, with both sides of each "
            f"opening on one; the nearest that can is {nearest}."
        )


def _match(tester: Any, env: Env, agent: Player, opponent: Player, key: PRNGKeyArray, mesh: Mesh) -> MatchResult:
    agent, opponent, key = place((agent, opponent, key), mesh, split=False)
    return _play(tester, env, agent, opponent, key, mesh)


@eqx.filter_jit
def _play(tester: Any, env: Env, agent: Player, opponent: Player, key: PRNGKeyArray, mesh: Mesh) -> MatchResult:
    num_games = tester.num_episodes // mesh.shape[DATA]

    def play(shared, numbers):
        env, agent, opponent, key = shared
        settings = {"opening_plies": tester.opening_plies, "max_steps": tester.max_steps, "first_opening": numbers[0]}
        return play_match(env, agent, opponent, num_games=num_games, key=key, **settings)

    return over_games(mesh, play, (env, agent, opponent, key), jnp.arange(tester.num_episodes // 2))
