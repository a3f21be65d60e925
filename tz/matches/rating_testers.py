"""Testers that rate the newest network: against earlier networks, or on a ladder of opponents."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz._arguments import check_fields
from tz.games.env import Env
from tz.matches._testing import TesterMetrics, check_players, copied, match_metrics, match_options, unfinished_text
from tz.matches.elo import connected, fit_elo
from tz.matches.engines import AnyPlayer
from tz.matches.match import check_even, check_moves, check_split, play_match
from tz.matches.players import Player
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator


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
        check_players("ApproxEloTester", "anchors", self.anchors)
        check_even(type(self).__name__, self.games_per_opponent, "games_per_opponent")
        check_moves(type(self).__name__, self.opening_moves, self.max_moves)
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
                    f"({unfinished_text(matches, self.max_moves)}), expected some to rate it by; raise max_moves, so "
                    "that games end, or check the anchors. This rating is NaN.",
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
        check_players("LadderTester", "rungs", self.rungs)
        check_even(type(self).__name__, self.num_games)
        check_moves(type(self).__name__, self.opening_moves, self.max_moves)
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
        return jnp.int32(0), copied(evaluator)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Climbs as far as the network wins.

        Returns the state, which is the rung and the opponent above the last rung, and the metrics.
        """
        rung, best = int(state[0]), state[1]
        options = match_options(self)
        climbs = True
        while climbs:
            fixed = rung < len(self.rungs)
            opponent = self.rungs[rung] if fixed else Player(mcts, best)
            match_key = jax.random.fold_in(key, rung)
            match = play_match(env, Player(mcts, evaluator), opponent, key=match_key, mesh=mesh, **options)
            climbs = bool(match.score > self.threshold)
            if climbs and rung + 1 >= len(self.rungs):
                best = copied(evaluator)
            rung += climbs
            climbs &= rung < len(self.rungs)
        metrics = match_metrics(self, match)
        score = 0.5 if match.score > self.threshold else metrics[f"{self.name}_score"]  # 0.5: the next is itself
        return (jnp.int32(rung), best), {
            f"{self.name}_rung": float(rung),
            f"{self.name}_height": rung + score,
            **metrics,
        }
