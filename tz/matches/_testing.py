"""Parts that the testers share."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tz._arguments import shown
from tz.matches.engines import AnyPlayer, check_any_player
from tz.matches.match import MatchResult
from tz.mcts.simulation import Evaluator

TesterMetrics = dict[str, float]


# Compiled, since each of its constants would otherwise be moved to the devices of the match by a separate transfer.
_interval = eqx.filter_jit(MatchResult.interval)


def match_metrics(tester: Any, match: MatchResult) -> TesterMetrics:
    """Returns the metrics of a match of a tester. The score and its interval are NaN if no game is finished."""
    counts: dict[str, Any] = {"score": match.score, "wins": match.wins, "draws": match.draws, "losses": match.losses}
    counts["unfinished"] = jnp.sum(~match.finished)
    counts["score_low"], counts["score_high"] = _interval(match)
    if int(counts["unfinished"]) == len(match.finished):
        counts |= dict.fromkeys(("score", "score_low", "score_high"), math.nan)
        warnings.warn(
            f"{type(tester).__name__}: found no finished game in the test {tester.name!r} "
            f"({unfinished_text([match], tester.max_moves)}), expected some to score it by; raise max_moves, so that "
            "games end, or check the opponent. The score of this test is NaN.",
            stacklevel=3,
        )
    return {f"{tester.name}_{key}": float(value) for key, value in counts.items()}


def unfinished_text(matches: Sequence[MatchResult], max_moves: int) -> str:
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


def check_players(where: str, name: str, players: Sequence[AnyPlayer]) -> None:
    """Raises `ValueError` unless the value is a tuple or list of players."""
    if not isinstance(players, tuple | list):
        raise ValueError(
            f"{where}: found {name} to be {shown(players)}, expected a tuple of players; write {name}=(..., )."
        )
    for index, player in enumerate(players):
        check_any_player(where, f"{name}[{index}]", player)


def match_options(tester: Any) -> dict[str, Any]:
    """Returns the arguments of `play_match` that are fields of a tester."""
    return {"num_games": tester.num_games, "opening_moves": tester.opening_moves, "max_moves": tester.max_moves}


def copied(evaluator: Evaluator) -> Evaluator:
    """Copies the arrays of an evaluator, since the loop donates the network's own arrays to its next step."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, evaluator)
