"""Plays backgammon against GNU Backgammon, from its weakest to its strongest setting.

    sudo apt-get install gnubg          # Debian, Ubuntu; elsewhere from https://www.gnu.org/software/gnubg/
    python experiments/dice_agents.py backgammon --minutes 20 --out runs/backgammon
    python experiments/gnubg_match.py runs/backgammon/agent.tz --out runs/backgammon/gnubg.md

gnubg runs in text mode as a separate process and is asked for the best moves of many rolls at once. It plays for money
without the cube, so a gammon counts twice and a backgammon three times, for both players. The games follow the rules of
pgx, which differ from the usual rules in two ways: a player need not use both dice even if it is possible, and a loser
whose last checkers are on the bar loses two points, not three.

The names of the settings are gnubg's own, except `noise 1` and `noise 0.3`, which are weaker than all the others. Both
games of an opening have the same dice.
"""

import argparse
import contextlib
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from dice_agents import by_pips
from gnubg_moves import Gnubg, Pairs, next_action, version
from jaxtyping import Array, PRNGKeyArray, PyTree
from timing import heading

import tz

LEVELS = {  # plies of lookahead, and noise added to evaluations
    "noise 1": (0, 1.0),
    "noise 0.3": (0, 0.3),
    "beginner": (0, 0.06),
    "intermediate": (0, 0.04),
    "advanced": (0, 0.015),
    "expert": (0, 0.0),
    "world class": (2, 0.0),
}


class Games(eqx.Module):
    """Games in progress, `[G]`, with the agent's search of each."""

    env_state: PyTree
    metadata: tz.StepMetadata
    search: Any
    returns: Array
    num_draws: Array


def start(env: tz.Env, agent: tz.Player, num_games: int, key: PRNGKeyArray) -> Games:
    """Returns new games, two of each opening."""
    positions = jax.vmap(env.init)(jnp.repeat(jax.random.split(key, num_games // 2), 2))
    search = jax.vmap(lambda *position: tz.init_search(agent.mcts, *position))(*positions)
    return Games(*positions, search, jnp.zeros(num_games), jnp.zeros(num_games, jnp.int32))


@eqx.filter_jit
def move(
    env: tz.Env, agent: tz.Player, games: Games, agents_id: Array, theirs: Array, chance_keys: Array, key: PRNGKeyArray
) -> tuple[Games, Array]:
    """Makes one move in each game: `theirs` where the opponent is to move, and the agent's elsewhere."""

    def one(games, agents_id, theirs, chance_key, key):
        search_key, action_key = jax.random.split(key)
        found = tz.search(agent.mcts, env, agent.evaluator, games.search, key=search_key)
        player = games.metadata.cur_player_id
        action = jnp.where(player == agents_id, tz.choose_action(agent.mcts, found, key=action_key), theirs)
        dice_key = jax.random.fold_in(chance_key, games.num_draws)
        env_state, metadata = tz.games.make_move(env, games.env_state, action, key=dice_key)
        returns = games.returns + metadata.rewards[agents_id]
        num_draws = games.num_draws + (metadata.cur_player_id != player)
        search = tz.advance(agent.mcts, found, action, env_state, metadata)
        action = jnp.where(games.metadata.terminated, -1, action)
        return Games(env_state, metadata, search, returns, num_draws), action

    keys = jax.random.split(key, len(theirs))
    return jax.vmap(one)(games, agents_id, theirs, chance_keys, keys)


class Opponent:
    """Plays gnubg's answers one checker at a time, and keeps the rest of the roll of each game."""

    def __init__(self, best_moves: Callable[[np.ndarray, np.ndarray], list[Pairs]], num_games: int):
        self._best_moves = best_moves
        self._left: list[Pairs] = [[] for _ in range(num_games)]

    def actions(self, games: Games, to_move: np.ndarray) -> np.ndarray:
        """Returns an action for each game where the opponent is to move, and 0 elsewhere."""
        state, mask = games.env_state, np.asarray(games.metadata.action_mask)
        rolls = np.flatnonzero(to_move & (np.asarray(state._played_dice_num) == 0))
        answers = self._best_moves(np.asarray(state._board)[rolls], np.asarray(state._dice)[rolls])
        for game, pairs in zip(rolls, answers, strict=True):
            self._left[game] = pairs
        actions = np.zeros(len(to_move), np.int32)
        for game in np.flatnonzero(to_move):
            actions[game] = next_action(self._left[game], mask[game])
            self._left[game] = self._left[game][1:]
        return actions


def play(
    env: tz.Env,
    agent: tz.Player,
    best_moves: Callable[[np.ndarray, np.ndarray], list[Pairs]],
    *,
    num_games: int,
    key: PRNGKeyArray,
    max_moves: int = 2000,
) -> tz.matches.MatchResult:
    """Plays a match of an agent and a program. Each opening is played from both sides with the same dice."""
    init_key, chance_key, key = jax.random.split(key, 3)
    games = start(env, agent, num_games, init_key)
    opening = games.env_state, games.metadata
    sides = jnp.arange(num_games) % 2
    agents_id = jnp.where(sides == 0, games.metadata.cur_player_id, 1 - games.metadata.cur_player_id)
    chance_keys = jnp.repeat(jax.random.split(chance_key, num_games // 2), 2)
    opponent, actions = Opponent(best_moves, num_games), []
    while len(actions) < max_moves and not bool(jnp.all(games.metadata.terminated)):
        to_move = np.asarray(~games.metadata.terminated & (games.metadata.cur_player_id != agents_id))
        theirs = jnp.asarray(opponent.actions(games, to_move))
        move_key = jax.random.fold_in(key, len(actions))
        games, action = move(env, agent, games, agents_id, theirs, chance_keys, move_key)
        actions.append(action)
    return tz.matches.MatchResult(
        returns=games.returns,
        finished=games.metadata.terminated,
        player_id=agents_id,
        opening=opening,
        actions=jnp.stack(actions, axis=1),
        chance_keys=chance_keys,
    )


def points(match: tz.matches.MatchResult) -> tuple[float, float]:
    """Returns the mean points a game and half of its 95 % interval; both games of an opening are one observation."""
    finished = np.asarray(match.finished)
    sums, games = (x.reshape(-1, 2).sum(1) for x in (np.asarray(match.returns) * finished, finished))
    mean = sums.sum() / games.sum()
    deviation = np.sqrt(np.sum((sums - mean * games) ** 2) * len(sums) / (len(sums) - 1)) / games.sum()
    return float(mean), statistics.NormalDist().inv_cdf(0.975) * float(deviation)


def row(name: str, plies: int, noise: float, match: tz.matches.MatchResult, seconds: float) -> str:
    """Returns a row of the table."""
    low, high = match.interval()
    mean, margin = points(match)
    returns = np.asarray(match.returns)[np.asarray(match.finished)]
    wins, losses = (" ".join(str(int((sign * returns == n).sum())) for n in (1, 2, 3)) for sign in (1, -1))
    score = f"{match.score:.3f} ({low:.3f} to {high:.3f})"
    return (
        f"| {name} | {plies} | {noise:g} | {len(returns)} | {score} | {mean:+.2f} ({mean - margin:+.2f} to "
        f"{mean + margin:+.2f}) | {wins} | {losses} | {seconds:.0f} |"
    )


def load(agent: str, num_simulations: int) -> tz.Player:
    """Returns the player of a name: an agent from a file, `random` or `pips`."""
    if agent == "random":
        return tz.random_player()
    if agent == "pips":
        return tz.Player(tz.MCTS(num_simulations, root=tz.PlainRoot(), temperature=0.0), by_pips)
    return tz.load_agent(agent, mcts=tz.without_exploration(tz.gumbel_mcts(num_simulations, 8)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", help="a file of an agent, `random`, or `pips`, a search that only counts pips")
    parser.add_argument("--num-simulations", type=int, default=16)
    parser.add_argument("--num-games", type=int, default=200, help="games against each setting, two of each opening")
    parser.add_argument("--levels", nargs="+", choices=list(LEVELS), default=list(LEVELS))
    parser.add_argument("--program", default="/usr/games/gnubg")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.num_games < 4 or args.num_games % 2:
        parser.error(f"found --num-games {args.num_games}, expected an even number of at least 4")
    env, agent = tz.from_pgx("backgammon"), load(args.agent, args.num_simulations)
    gnubg = Gnubg(args.program)
    lines = [
        f"# Backgammon: {args.agent}, {args.num_simulations} simulations a move, against gnubg",
        "",
        f"{heading('tz', 'jax', 'pgx')} {version(args.program)}",
        "",
        "| gnubg | plies | noise | games | score (95 %) | points a game (95 %) | won by 1, 2, 3 | lost by 1, 2, 3 | "
        "seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with contextlib.closing(gnubg):
        for name in args.levels:
            plies, noise = LEVELS[name]
            begin = time.perf_counter()
            ask = functools.partial(gnubg.best_moves, plies=plies, noise=noise)
            match = play(env, agent, ask, num_games=args.num_games, key=jax.random.key(args.seed))
            lines.append(row(name, plies, noise, match, time.perf_counter() - begin))
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
