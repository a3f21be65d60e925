"""Measures the newest network during training, by matches against opponents."""

from typing import Protocol, runtime_checkable

import equinox as eqx
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from tz._arguments import check_fields
from tz.games.env import Env
from tz.matches._testing import TesterMetrics, copied, match_metrics, match_options
from tz.matches.engines import AnyPlayer, check_any_player
from tz.matches.match import MatchResult, check_even, check_moves, check_split, play_match
from tz.matches.players import Player
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator


@runtime_checkable
class Tester(Protocol):
    """Defines the interface between the training loop and a tester.

    A tester may carry a state from one test to the next: any PyTree, the same on all devices. Checkpoints save its
    arrays, whose number, shapes and dtypes must stay those of `init`; what is no array must not change.
    """

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> PyTree:
        """Returns the state before training.

        **Arguments:**

        - `evaluator`: the network before training, as an evaluator.
        - `mesh`: the devices of the training loop.

        **Raises:** `ValueError` if the games of a test cannot be split evenly over the mesh.
        """
        ...

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Measures an agent.

        **Arguments:**

        - `mcts`: the settings of the agent's search.
        - `env`: the game of the tests.
        - `evaluator`: the newest network, as an evaluator.
        - `state`: the state that `init` or the previous test returned.
        - `key`: decides everything random in the test.
        - `mesh`: the devices of the training loop.

        **Returns:** the next state, and the metrics by name, as floats: NaN for a metric that has no value in this
            test, such as a score without a finished game.
        """
        ...


class OpponentTester(eqx.Module):
    """Plays the newest network against a fixed opponent.

    **Fields:**

    - `opponent`: a [`tz.Player`][] with its own search, or a [`tz.matches.GtpEngine`][] or
        [`tz.matches.HostPlayer`][], for which training waits.
    - `name`: the beginning of the names of the metrics.
    - `num_games`: the number of games of a test, even.
    - `opening_moves`, `max_moves`: as in [`tz.play_match`][].

    **Metrics:**

    - `{name}_score`: the points (1 for a win, 0.5 for a draw) per finished game, with its 95 % interval from
        `{name}_score_low` to `{name}_score_high`.
    - `{name}_wins`, `{name}_draws`, `{name}_losses`: numbers of finished games, for the newest network.
    - `{name}_unfinished`: the number of games that are not finished, see [`tz.matches.MatchResult`][]. If no game is
        finished, there is a warning, and the score and its interval are NaN.

    **Raises:** `ValueError` if `opponent` is not a player, or `num_games` is odd or not positive.
    """

    opponent: AnyPlayer
    name: str = eqx.field(static=True)
    num_games: int = eqx.field(static=True, default=32)
    opening_moves: int = eqx.field(static=True, default=4)
    max_moves: int = eqx.field(static=True, default=1024)

    def __post_init__(self):
        check_any_player("OpponentTester", "opponent", self.opponent)
        check_fields(self)
        check_even(type(self).__name__, self.num_games)
        check_moves(type(self).__name__, self.opening_moves, self.max_moves)

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> None:
        """Returns None, as this tester has no state. Raises `ValueError` if the games cannot be split over the mesh."""
        del evaluator
        check_split(type(self).__name__, self.num_games, mesh)

    def match(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, *, key: PRNGKeyArray, mesh: Mesh | None = None
    ) -> MatchResult:
        """Plays the match of a test, for use without a training loop; all networks of one shape share its program.

        **Returns:** a [`tz.matches.MatchResult`][], from the perspective of the agent (`mcts` and `evaluator`).
        """
        options = match_options(self)
        return play_match(env, Player(mcts, evaluator), self.opponent, key=key, mesh=mesh, **options)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match; returns the state, None, and the metrics."""
        return state, match_metrics(self, self.match(mcts, env, evaluator, key=key, mesh=mesh))


class TwoPlayerTester(eqx.Module):
    """Plays the newest network against the best network so far, which it replaces if it scores above 0.5.

    The first best network is the untrained one. Both search with the settings of the test.

    **Fields:**

    - `num_games`: the number of games of a test, even.
    - `opening_moves`, `max_moves`: as in [`tz.play_match`][].
    - `name`: the beginning of the names of the metrics.

    **Metrics:** the same as for [`tz.OpponentTester`][], and `{name}_replaced`, 1 if the newest network became the best
    one, and 0 if not.

    **Raises:** `ValueError` if `num_games` is odd or not positive.
    """

    num_games: int = eqx.field(static=True)
    opening_moves: int = eqx.field(static=True, default=4)
    max_moves: int = eqx.field(static=True, default=1024)
    name: str = eqx.field(static=True, default="best")

    def __post_init__(self):
        check_fields(self)
        check_even(type(self).__name__, self.num_games)
        check_moves(type(self).__name__, self.opening_moves, self.max_moves)

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> Evaluator:
        """Returns a copy of the network. Raises `ValueError` if the games cannot be split over the mesh."""
        check_split(type(self).__name__, self.num_games, mesh)
        return copied(evaluator)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match; returns the best evaluator so far and the metrics."""
        options = match_options(self)
        match = play_match(env, Player(mcts, evaluator), Player(mcts, state), key=key, mesh=mesh, **options)
        better = bool(match.score > 0.5)
        metrics = match_metrics(self, match) | {f"{self.name}_replaced": float(better)}
        return copied(evaluator) if better else state, metrics
