"""Testers: what the training loop plays against to see whether it learns."""

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
    """What the training loop asks of a tester; its state is any PyTree, the same on all devices."""

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> PyTree:
        """The state before training; raises `ValueError` if its games cannot be split over the mesh."""
        ...

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the agent (`mcts` and `evaluator`) and returns the next state and the metrics."""
        ...


# Compiled, since its constants would else be moved to the devices of the match one by one.
_interval = eqx.filter_jit(MatchResult.interval)


def _metrics(name: str, match: MatchResult) -> TesterMetrics:
    counts: dict[str, Any] = {"score": match.score, "wins": match.wins, "draws": match.draws, "losses": match.losses}
    counts["unfinished"] = jnp.sum(~match.finished)
    counts["score_low"], counts["score_high"] = _interval(match)
    return {f"{name}_{key}": float(value) for key, value in counts.items()}


def _check_players(where: str, name: str, players: Sequence[AnyPlayer]) -> None:
    if not isinstance(players, tuple | list):
        raise ValueError(
            f"{where}: found {name} to be {shown(players)}, expected a tuple of players; write ({name}, )."
        )
    for index, player in enumerate(players):
        check_any_player(where, f"{name}[{index}]", player)


def _match_options(tester: Any) -> dict[str, Any]:
    return {"num_games": tester.num_games, "opening_moves": tester.opening_moves, "max_moves": tester.max_moves}


class OpponentTester(eqx.Module):
    """Plays the newest network against a fixed opponent.

    **Fields:** `opponent`, a [`tz.Player`][] with its own search, or a [`tz.matches.GtpEngine`][] or
    [`tz.matches.HostPlayer`][], for which training waits; `name`, which the metrics begin with; `num_games`, even;
    `opening_moves` and `max_moves`, of [`tz.play_match`][].

    **Metrics:** `{name}_score` (wins and half the draws, of the finished games), with `{name}_score_low` and
    `{name}_score_high`, its 95 % interval; `{name}_wins`, `{name}_draws`, `{name}_losses`, `{name}_unfinished` (games
    that count in none of the others, see [`tz.matches.MatchResult`][]).
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
        """A fixed opponent has no state."""
        del evaluator
        check_split(type(self).__name__, self.num_games, mesh)

    def match(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, *, key: PRNGKeyArray, mesh: Mesh | None = None
    ) -> MatchResult:
        """The match itself, from the agent's point of view; compiled once."""
        options = _match_options(self)
        return play_match(env, Player(mcts, evaluator), self.opponent, key=key, mesh=mesh, **options)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match and returns the state and the metrics."""
        return state, _metrics(self.name, self.match(mcts, env, evaluator, key=key, mesh=mesh))


class TwoPlayerTester(eqx.Module):
    """Plays the newest network against the best so far, and replaces it where the newest scores more than half.

    **Fields:** `num_games`, even; `opening_moves` and `max_moves`, of [`tz.play_match`][]; `name`, which the metrics
    begin with.

    **Metrics:** as [`tz.OpponentTester`][], and `{name}_replaced` (0 or 1).
    """

    num_games: int = eqx.field(static=True)
    opening_moves: int = eqx.field(static=True, default=4)
    max_moves: int = eqx.field(static=True, default=1024)
    name: str = eqx.field(static=True, default="best")

    def __post_init__(self):
        check_fields(self)
        check_even(type(self).__name__, self.num_games)

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> Evaluator:
        """The first network is the best so far."""
        check_split(type(self).__name__, self.num_games, mesh)
        return _copy(evaluator)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the match and returns the best evaluator so far and the metrics."""
        options = _match_options(self)
        match = play_match(env, Player(mcts, evaluator), Player(mcts, state), key=key, mesh=mesh, **options)
        better = bool(match.score > 0.5)
        metrics = _metrics(self.name, match) | {f"{self.name}_replaced": float(better)}
        return _copy(evaluator) if better else state, metrics


class EloState(eqx.Module):
    """The league of an [`tz.ApproxEloTester`][]: anchors come first in `wins` and `draws`, then the networks.

    **Fields:** `pool`, evaluators, `[capacity, ...]`; `size`, how many there are; `wins` and `draws`, `[n, n]`, with
    `n` the number of anchors and `capacity`.
    """

    pool: Evaluator
    size: Int[Array, ""]
    wins: Int[Array, "n n"]
    draws: Int[Array, "n n"]


class ApproxEloTester(eqx.Module):
    """Rates every network by matches against earlier ones, the untrained one at 0.

    Each test adds the newest network to a pool, lets it play some of the others, spread evenly from the first to the
    latest, and all anchors, and rates all anew by everything that was played so far. A scale that rests on the pool
    alone inflates: a network that has learned to beat its forebears need not play that much better against others.
    The anchored scale rests on games against fixed `anchors` alone, so it does not; it says little once an agent wins
    nearly all of these.

    **Fields:** `total_epochs`, for how many networks the pool has room; then the oldest but the untrained one is left
    out; `games_per_opponent`, even; `num_opponents`, earlier networks a test; `anchors`, fixed players, the first of
    which is the zero of the anchored scale; `opening_moves` and `max_moves`, of [`tz.play_match`][]; `name`, which the
    metrics begin with.

    **Metrics:** `{name}`, `{name}_low` and `{name}_high`: the rating of the newest network among networks and its 95 %
    interval; with anchors also `{name}_anchored`, `{name}_anchored_low` and `{name}_anchored_high`. Where no game that
    connects the newest network to the zero of a scale was finished, there is a warning in the place of its rating.
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
                raise ValueError(f"ApproxEloTester: {name} must be at least 1, found {getattr(self, name)}.")

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> EloState:
        """The pool with the untrained network alone."""
        check_split(type(self).__name__, self.games_per_opponent, mesh, "games_per_opponent")
        capacity = self.total_epochs + 1
        pool = jax.tree.map(lambda x: jnp.repeat(x[None], capacity, axis=0) if eqx.is_array(x) else x, evaluator)
        results = jnp.zeros((len(self.anchors) + capacity,) * 2, jnp.int32)
        return EloState(pool, jnp.int32(1), results, results.copy())

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: EloState, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[EloState, TesterMetrics]:
        """Adds the network to the pool and returns the league and the newest rating."""
        state = self._make_room(state)
        size, num_anchors = int(state.size), len(self.anchors)
        pool = jax.tree.map(lambda all, x: all.at[size].set(x) if eqx.is_array(x) else x, state.pool, evaluator)
        earlier = np.unique(np.linspace(0, size - 1, min(self.num_opponents, size)).round().astype(int))
        opponents = {num_anchors + i: Player(mcts, _pick(state.pool, i)) for i in earlier.tolist()}
        opponents |= dict(enumerate(self.anchors))
        wins, draws, newest = np.array(state.wins), np.array(state.draws), num_anchors + size
        options: dict[str, Any] = {"opening_moves": self.opening_moves, "max_moves": self.max_moves, "mesh": mesh}
        for index, opponent in opponents.items():
            match_key = jax.random.fold_in(key, index)
            agent, num_games = Player(mcts, evaluator), self.games_per_opponent
            match = play_match(env, agent, opponent, num_games=num_games, key=match_key, **options)
            wins[newest, index], wins[index, newest] = int(match.wins), int(match.losses)
            draws[newest, index] = draws[index, newest] = int(match.draws)
        networks = slice(num_anchors, newest + 1)
        metrics, leagues = {}, {self.name: [x[networks, networks] for x in (wins, draws)]}
        if self.anchors:  # and the networks that met them: all but the untrained one
            rows = np.r_[:num_anchors, num_anchors + 1 : newest + 1]
            counts = np.logical_or.outer(rows < num_anchors, rows < num_anchors)
            leagues[f"{self.name}_anchored"] = [counts * x[np.ix_(rows, rows)] for x in (wins, draws)]
        for name, results in leagues.items():
            met = connected(*results)
            if not met[-1]:
                warnings.warn(f"{name}: no rating, for too few games end in max_moves={self.max_moves}.", stacklevel=2)
                continue
            ratings = fit_elo(*(x[met][:, met] for x in results))
            metrics |= {name: ratings.elo[-1], f"{name}_low": ratings.low[-1], f"{name}_high": ratings.high[-1]}
        state = EloState(pool, state.size + 1, jnp.asarray(wins), jnp.asarray(draws))
        return state, {name: float(value) for name, value in metrics.items()}

    def _make_room(self, state: EloState) -> EloState:
        """Leaves out the second oldest network of a full pool."""
        if int(state.size) <= self.total_epochs:
            return state
        kept = np.r_[0, 2 : self.total_epochs + 1, 1]  # what is moved to the end is overwritten
        rows = np.r_[: len(self.anchors), len(self.anchors) + kept]
        pool = jax.tree.map(lambda x: x[kept] if eqx.is_array(x) else x, state.pool)
        wins, draws = (x[rows][:, rows].at[-1].set(0).at[:, -1].set(0) for x in (state.wins, state.draws))
        return EloState(pool, state.size - 1, wins, draws)


def _pick(pool: Evaluator, index: int) -> Evaluator:
    return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, pool)


class LadderTester(eqx.Module):
    """Plays the newest network against ever stronger opponents: where it wins, it climbs to the next.

    Above the last rung the opponent is the network that climbed last, so that the ladder has no end.

    **Fields:** `rungs`, players from weak to strong, such as [`tz.random_player`][] and searches with rollouts;
    `num_games`, even; `threshold`, the score above which it climbs; `opening_moves` and `max_moves`, of
    [`tz.play_match`][]; `name`, which the metrics begin with.

    **Metrics:** `{name}_rung`, how many were climbed; `{name}_height`, these and the score against the next, a half if
    that is the network itself; and `{name}_score` and so on of the last match, as [`tz.OpponentTester`][].
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
            raise ValueError("LadderTester: rungs is empty, expected at least one player.")
        if not 0.5 <= self.threshold < 1:
            raise ValueError(f"LadderTester: threshold must be from 0.5 to below 1, found {self.threshold}.")

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> tuple[Int[Array, ""], Evaluator]:
        """At the foot of the ladder."""
        check_split(type(self).__name__, self.num_games, mesh)
        return jnp.int32(0), _copy(evaluator)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Climbs as far as it goes, past the last rung by one, and returns the rung and the metrics."""
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
        height = rung + (0.5 if match.score > self.threshold else float(match.score))  # 0.5: the next is itself
        metrics = {f"{self.name}_rung": float(rung), f"{self.name}_height": height}
        return (jnp.int32(rung), best), metrics | _metrics(self.name, match)


def _copy(evaluator: Evaluator) -> Evaluator:
    """Arrays of its own, which outlive those that training gives up with every step."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, evaluator)
