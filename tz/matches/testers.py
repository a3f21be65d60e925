"""Measures the newest network during training, by matches against opponents."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz._arguments import check_fields, shown
from tz.games.env import Env
from tz.matches.elo import connected, fit_elo
from tz.matches.engines import AnyPlayer, check_any_player
from tz.matches.match import MatchResult, check_even, check_split, play_match
from tz.matches.players import Player
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator

TesterMetrics = dict[str, float]


@runtime_checkable
class Tester(Protocol):
    """Defines the interface between the training loop and a tester.

    A tester may carry a state from one test to the next: any PyTree, the same on all devices. Checkpoints save it.
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


# Compiled, since each of its constants would otherwise be moved to the devices of the match by a separate transfer.
_interval = eqx.filter_jit(MatchResult.interval)


def _metrics(tester: Any, match: MatchResult) -> TesterMetrics:
    """Returns the metrics of a match of a tester. The score and its interval are NaN if no game is finished."""
    counts: dict[str, Any] = {"score": match.score, "wins": match.wins, "draws": match.draws, "losses": match.losses}
    counts["unfinished"] = jnp.sum(~match.finished)
    counts["score_low"], counts["score_high"] = _interval(match)
    if int(counts["unfinished"]) == len(match.finished):
        counts |= dict.fromkeys(("score", "score_low", "score_high"), math.nan)
        warnings.warn(
            f"{type(tester).__name__}: found no finished game in the test {tester.name!r} "
            f"({_unfinished([match], tester.max_moves)}), expected some to score it by; raise max_moves, so that games "
            "end, or check the opponent. The score of this test is NaN.",
            stacklevel=3,
        )
    return {f"{tester.name}_{key}": float(value) for key, value in counts.items()}


def _unfinished(matches: Sequence[MatchResult], max_moves: int) -> str:
    """Says for a warning how many games of some matches are not finished, and why."""
    num_games = sum(len(match.finished) for match in matches)
    num_unfinished = sum(int(jnp.sum(~match.finished)) for match in matches)
    num_spoilt = sum(len(match.failures) for match in matches)
    num_over = sum(int(jnp.sum(match.opening[1].terminated)) for match in matches)
    reasons = {
        f"cut off at max_moves={max_moves}": num_unfinished - num_spoilt - num_over,
        "spoilt by an engine or a function": num_spoilt,
        "over before their first move": num_over,
    }
    return f"of {num_games} games, " + ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)


def _check_players(where: str, name: str, players: Sequence[AnyPlayer]) -> None:
    """Raises `ValueError` unless the value is a tuple or list of players."""
    if not isinstance(players, tuple | list):
        raise ValueError(
            f"{where}: found {name} to be {shown(players)}, expected a tuple of players; write {name}=(..., )."
        )
    for index, player in enumerate(players):
        check_any_player(where, f"{name}[{index}]", player)


def _match_options(tester: Any) -> dict[str, Any]:
    """Returns the arguments of `play_match` that are fields of a tester."""
    return {"num_games": tester.num_games, "opening_moves": tester.opening_moves, "max_moves": tester.max_moves}


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
        options = _match_options(self)
        return play_match(env, Player(mcts, evaluator), self.opponent, key=key, mesh=mesh, **options)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match; returns the state, None, and the metrics."""
        return state, _metrics(self, self.match(mcts, env, evaluator, key=key, mesh=mesh))


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

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> Evaluator:
        """Returns a copy of the network. Raises `ValueError` if the games cannot be split over the mesh."""
        check_split(type(self).__name__, self.num_games, mesh)
        return _copy(evaluator)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match; returns the best evaluator so far and the metrics."""
        options = _match_options(self)
        match = play_match(env, Player(mcts, evaluator), Player(mcts, state), key=key, mesh=mesh, **options)
        better = bool(match.score > 0.5)
        metrics = _metrics(self, match) | {f"{self.name}_replaced": float(better)}
        return _copy(evaluator) if better else state, metrics


class EloState(eqx.Module):
    """Holds the pool of networks of an [`tz.ApproxEloTester`][] and all results so far.

    The rows and columns of `wins` and `draws` are the anchors first, and then the networks of the pool.

    **Fields:**

    - `pool`: the evaluators, `[capacity, ...]`.
    - `size`: the number of evaluators in the pool; the slots behind them are not read.
    - `wins`, `draws`: `[n, n]`, the numbers of games, where `n` is the number of anchors plus `capacity`.
    """

    pool: Evaluator
    size: Int[Array, ""]
    wins: Int[Array, "n n"]
    draws: Int[Array, "n n"]


class ApproxEloTester(eqx.Module):
    """Rates the newest network by matches against earlier networks, with the untrained network at Elo 0.

    Each test adds the newest network to a pool. The network plays against some networks of the pool, evenly spread from
    the oldest to the latest, and against all anchors. Then all networks of the pool are rated again, from all games
    between them, see [`tz.matches.fit_elo`][].

    Ratings from games within the pool inflate: a network that has learned to beat earlier ones may have a smaller lead
    over other opponents. The anchored ratings use only games against the fixed `anchors`, so they do not inflate. They
    say little once the agent wins nearly all of these games.

    **Fields:**

    - `total_epochs`: the number of trained networks that the pool can hold, besides the untrained one. If it is full,
        the oldest trained network is dropped.
    - `games_per_opponent`: the number of games against each opponent, even.
    - `num_opponents`: the number of earlier networks to play against in each test.
    - `anchors`: fixed players. The first one is the zero of the anchored ratings.
    - `opening_moves`, `max_moves`: as in [`tz.play_match`][].
    - `name`: the beginning of the names of the metrics.

    **Metrics:** a rating and its interval are NaN, with a warning, if no finished games connect the newest network to
    the zero of the rating.

    - `{name}`: the rating among networks, with its 95 % interval from `{name}_low` to `{name}_high`.
    - `{name}_anchored`: with anchors, the anchored rating, with its 95 % interval from `{name}_anchored_low` to
        `{name}_anchored_high`.

    **Raises:** `ValueError` if a number is too small, `games_per_opponent` is odd, or an anchor is not a player.
    """

    total_epochs: int = eqx.field(static=True)
    games_per_opponent: int = eqx.field(static=True)
    num_opponents: int = eqx.field(static=True)
    anchors: tuple[AnyPlayer, ...] = ()
    opening_moves: int = eqx.field(static=True, default=4)
    max_moves: int = eqx.field(static=True, default=1024)
    name: str = eqx.field(static=True, default="elo")

    def __post_init__(self):
        check_fields(self)
        _check_players("ApproxEloTester", "anchors", self.anchors)
        check_even(type(self).__name__, self.games_per_opponent, "games_per_opponent")
        for name in ("total_epochs", "num_opponents"):
            if getattr(self, name) < 1:
                raise ValueError(f"ApproxEloTester: found {name}={getattr(self, name)}, expected at least 1; raise it.")

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> EloState:
        """Returns a pool of this network alone. Raises `ValueError` if the games cannot be split over the mesh."""
        check_split(type(self).__name__, self.games_per_opponent, mesh, "games_per_opponent")
        capacity = self.total_epochs + 1
        pool = jax.tree.map(lambda x: jnp.repeat(x[None], capacity, axis=0) if eqx.is_array(x) else x, evaluator)
        results = jnp.zeros((len(self.anchors) + capacity,) * 2, jnp.int32)
        return EloState(pool, jnp.int32(1), results, results.copy())

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: EloState, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[EloState, TesterMetrics]:
        """Adds the network to the pool and plays its matches; returns the state and the ratings of the network."""
        state = self._make_room(state)
        size, num_anchors = int(state.size), len(self.anchors)
        pool = jax.tree.map(lambda all, x: all.at[size].set(x) if eqx.is_array(x) else x, state.pool, evaluator)
        earlier = np.unique(np.linspace(0, size - 1, min(self.num_opponents, size)).round().astype(int))
        opponents = {num_anchors + i: Player(mcts, _pick(state.pool, i)) for i in earlier.tolist()}
        opponents |= dict(enumerate(self.anchors))
        wins, draws, newest = np.array(state.wins), np.array(state.draws), num_anchors + size
        options: dict[str, Any] = {"opening_moves": self.opening_moves, "max_moves": self.max_moves, "mesh": mesh}
        matches = []
        for index, opponent in opponents.items():
            match_key = jax.random.fold_in(key, index)
            agent, num_games = Player(mcts, evaluator), self.games_per_opponent
            match = play_match(env, agent, opponent, num_games=num_games, key=match_key, **options)
            matches.append(match)
            wins[newest, index], wins[index, newest] = int(match.wins), int(match.losses)
            draws[newest, index] = draws[index, newest] = int(match.draws)
        networks = slice(num_anchors, newest + 1)
        metrics: TesterMetrics = {}
        leagues = {self.name: [x[networks, networks] for x in (wins, draws)]}
        if self.anchors:  # the untrained network has played against no anchor, so it is left out
            rows = np.r_[:num_anchors, num_anchors + 1 : newest + 1]
            counts = np.logical_or.outer(rows < num_anchors, rows < num_anchors)
            leagues[f"{self.name}_anchored"] = [counts * x[np.ix_(rows, rows)] for x in (wins, draws)]
        for name, results in leagues.items():
            met, found = connected(*results), (math.nan,) * 3
            if met[-1]:
                ratings = fit_elo(*(x[met][:, met] for x in results))
                found = ratings.elo[-1], ratings.low[-1], ratings.high[-1]
            else:
                warnings.warn(
                    f"ApproxEloTester: found no finished games that connect the newest network to the zero of {name} "
                    f"({_unfinished(matches, self.max_moves)}), expected some to rate it by; raise max_moves, so that "
                    "games end, or check the anchors. This rating is NaN.",
                    stacklevel=2,
                )
            names = name, f"{name}_low", f"{name}_high"
            metrics |= dict(zip(names, map(float, found), strict=True))
        return EloState(pool, state.size + 1, jnp.asarray(wins), jnp.asarray(draws)), metrics

    def _make_room(self, state: EloState) -> EloState:
        """Drops the oldest trained network of a full pool; the untrained one, the zero of the ratings, stays."""
        if int(state.size) <= self.total_epochs:
            return state
        kept = np.r_[0, 2 : self.total_epochs + 1, 1]  # the dropped one moves to the end, where the newest replaces it
        rows = np.r_[: len(self.anchors), len(self.anchors) + kept]
        pool = jax.tree.map(lambda x: x[kept] if eqx.is_array(x) else x, state.pool)
        wins, draws = (x[rows][:, rows].at[-1].set(0).at[:, -1].set(0) for x in (state.wins, state.draws))
        return EloState(pool, state.size - 1, wins, draws)


def _pick(pool: Evaluator, index: int) -> Evaluator:
    """Returns one evaluator of a pool."""
    return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, pool)


class LadderTester(eqx.Module):
    """Plays the newest network against stronger and stronger opponents, the rungs of a ladder.

    Each test begins at the rung that was reached before. A network that scores above `threshold` climbs to the next
    rung and plays its opponent too. Above the last rung, the opponent is the network that climbed last, so the ladder
    has no end. There, a test climbs one rung at most.

    **Fields:**

    - `rungs`: players from weak to strong, such as [`tz.random_player`][]`()` and searches with a
        [`tz.RolloutEvaluator`][].
    - `num_games`: the number of games against each opponent, even.
    - `threshold`: the score above which the network climbs, at least 0.5 and below 1.
    - `opening_moves`, `max_moves`: as in [`tz.play_match`][].
    - `name`: the beginning of the names of the metrics.

    **Metrics:** the same as for [`tz.OpponentTester`][], of the last match of the test, and

    - `{name}_rung`: the number of rungs climbed so far.
    - `{name}_height`: that number plus the score against the next opponent, or plus 0.5 if the next opponent is the
        network itself. It is NaN if the score is.

    **Raises:** `ValueError` if `rungs` is empty or holds anything but players, `num_games` is odd or not positive, or
    `threshold` is out of range.
    """

    rungs: tuple[AnyPlayer, ...]
    num_games: int = eqx.field(static=True, default=32)
    threshold: float = eqx.field(static=True, default=0.55)
    opening_moves: int = eqx.field(static=True, default=4)
    max_moves: int = eqx.field(static=True, default=1024)
    name: str = eqx.field(static=True, default="ladder")

    def __post_init__(self):
        check_fields(self)
        _check_players("LadderTester", "rungs", self.rungs)
        check_even(type(self).__name__, self.num_games)
        if not self.rungs:
            raise ValueError("LadderTester: found rungs to be empty, expected at least one player; add one.")
        if not 0.5 <= self.threshold < 1:
            raise ValueError(
                f"LadderTester: found threshold={self.threshold}, expected at least 0.5 and below 1; give the score "
                "above which the network climbs, such as 0.55."
            )

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> tuple[Int[Array, ""], Evaluator]:
        """Returns rung 0 and the network. Raises `ValueError` if the games cannot be split over the mesh."""
        check_split(type(self).__name__, self.num_games, mesh)
        return jnp.int32(0), _copy(evaluator)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Climbs as far as the network wins.

        Returns the state, which is the rung and the opponent above the last rung, and the metrics.
        """
        rung, best = int(state[0]), state[1]
        options = _match_options(self)
        climbs = True
        while climbs:
            fixed = rung < len(self.rungs)
            opponent = self.rungs[rung] if fixed else Player(mcts, best)
            match_key = jax.random.fold_in(key, rung)
            match = play_match(env, Player(mcts, evaluator), opponent, key=match_key, mesh=mesh, **options)
            climbs = bool(match.score > self.threshold)
            if climbs and rung + 1 >= len(self.rungs):
                best = _copy(evaluator)
            rung += climbs
            climbs &= rung < len(self.rungs)
        metrics = _metrics(self, match)
        score = 0.5 if match.score > self.threshold else metrics[f"{self.name}_score"]  # 0.5: the next is itself
        return (jnp.int32(rung), best), {
            f"{self.name}_rung": float(rung),
            f"{self.name}_height": rung + score,
            **metrics,
        }


def _copy(evaluator: Evaluator) -> Evaluator:
    """Copies the arrays of an evaluator, since the loop donates the network's own arrays to its next step."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, evaluator)
