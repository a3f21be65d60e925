"""Plays a match with a player that is not JAX: the host makes one move at a time, in all games together.

A match has two halves: the games in which the first player moves first after the opening, and the games in which the
second player does. Agents search all games of a half at once, as in a compiled match and with the same keys.
"""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray, PyTree

from tz._arrays import is_key
from tz.games.chance import split_with_chance
from tz.games.env import Env, StepMetadata
from tz.games.openings import opening_with_moves
from tz.matches._playing import Games, MatchResult, both_sides, interleaved, make_moves, search_side
from tz.matches._seats import Answer, EngineSeat, FunctionSeat, Move, Question
from tz.matches.engines import (
    AnyPlayer,
    GtpEngine,
    HostPlayer,
    check_engine,
    check_one_process,
    colours,
    name_of,
)
from tz.matches.players import Player, check_player


def play_on_host(
    env: Env,
    players: tuple[AnyPlayer, AnyPlayer],
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_moves: int,
    openings: tuple[PyTree, StepMetadata] | None,
    max_moves: int,
) -> MatchResult:
    """Plays a match on the host, with the openings that [`tz.play_match`][] makes from the same key."""
    _check(env, players, key, openings)
    first, second = (player if isinstance(player, Player) else None for player in players)
    agents = first, second
    (start, player_ids), moves = _begin(env, agents, key, openings, (num_games, opening_moves))
    match = _Match(env, players, agents, start, np.asarray(player_ids), moves)
    actions = np.full((2, num_games // 2, max_moves), -1, np.int32)
    try:
        for step in range(max_moves):
            if match.is_over():
                break
            actions[:, :, step] = match.play_move(step)
    finally:
        match.close()
    if match.failures:
        warnings.warn(
            f"play_match: found {len(match.failures)} of {num_games} games spoilt by an engine or a function, expected "
            f"none; they count as not finished, see `failures` of the result. The first: {match.failures[0]}",
            stacklevel=3,
        )
    begun = ~np.asarray(start.metadata.terminated)  # a game that is over before its first move does not count
    return MatchResult(
        returns=interleaved(jnp.asarray(match.returns(), jnp.float32)),
        finished=interleaved(jnp.asarray(match.finished() & begun)),
        player_id=interleaved(jnp.asarray(player_ids)),
        opening=jax.tree.map(interleaved, (start.env_state, start.metadata)),
        actions=interleaved(jnp.asarray(actions)),
        chance_keys=jax.tree.map(interleaved, start.chance_keys),
        failures=tuple(match.failures),
    )


def _check(env: Env, players: tuple[AnyPlayer, AnyPlayer], key: Any, openings: Any) -> None:
    """Raises `ValueError` if the match cannot be played on the host, or an engine cannot play this game."""
    if isinstance(key, Tracer):
        raise ValueError(
            "play_match: found a player that is not JAX in a traced call, expected a call on the host; make it outside "
            "of jax.jit and jax.vmap."
        )
    for player in players:
        check_one_process("play_match", player)
        check_engine("play_match", env, player)
        if isinstance(player, GtpEngine) and openings is not None:
            raise ValueError(
                "play_match: found openings for an engine, which has to be told the moves from the beginning of the "
                "game, expected none; leave `openings` out, and vary the games with `opening_moves` and `key`."
            )


@eqx.filter_jit
def _begin(env: Env, agents: tuple[Any, Any], key: PRNGKeyArray, openings, sizes: tuple[int, int]):
    """Returns the two halves before their first move, the ids of the first player, and the moves of the openings.

    The moves are as `opening_with_moves` returns them, or None if the openings were given.
    """
    for agent in agents:
        if agent is not None:
            check_player(env, agent)
    num_games, opening_moves = sizes
    opening_key, play_key, chance_key = split_with_chance(env, key, 2)
    numbers, moves = jnp.arange(num_games // 2, dtype=jnp.int32), None
    if openings is None:
        opening_keys = jax.vmap(jax.random.fold_in, (None, 0))(opening_key, numbers)
        openings, moves = jax.vmap(lambda key: opening_with_moves(env, opening_moves, key=key))(opening_keys)
    return both_sides(env, agents, openings, play_key, chance_key, numbers), moves


_search = eqx.filter_jit(search_side)


@eqx.filter_jit
def _make(env: Env, agents: tuple[Any, Any], games: Games, trees, action: Array, player_id: Array, over: Array):
    """Returns the games of one half after a move, and whether the rules end each of them.

    Games that are `over` by resignation or failure are marked as terminated before the move, so that its rewards do not
    count, and again after it, since the rules would let them continue.
    """

    def ended(games: Games, over: Array) -> Games:
        return eqx.tree_at(lambda games: games.metadata.terminated, games, games.metadata.terminated | over)

    after, _ = make_moves(env, agents, ended(games, over), trees, action, player_id)
    return ended(after, over), after.metadata.terminated


class _Match:
    """Holds a match in progress.

    NumPy arrays, `[2, G / 2]`, say how each game ended: `by_rules`, `resigned` or `spoilt`.
    """

    def __init__(self, env: Env, players, agents, start: Games, player_ids: np.ndarray, opening_moves: Any):
        self.env, self.players, self.agents, self.player_ids = env, players, agents, player_ids
        self.halves: list[Games] = [_row(start, half) for half in (0, 1)]
        self.by_rules = np.array(start.metadata.terminated)
        self.resigned = np.zeros(player_ids.shape, np.float32)  # the first player's result if a player resigned, else 0
        self.spoilt = np.zeros(player_ids.shape, bool)
        self.failures: list[str] = []
        engines = any(isinstance(player, GtpEngine) for player in players)
        self.lines = _Lines(env, start.metadata, opening_moves) if engines else None
        self.seats = [self._seat(player) for player in players]

    def _seat(self, player: AnyPlayer) -> FunctionSeat | EngineSeat | None:
        """Makes the seat of a player on the host, or None for an agent, which is searched on the device."""
        if isinstance(player, GtpEngine):
            return EngineSeat(self.env, player, self.player_ids.size)
        return FunctionSeat(self.env, player) if isinstance(player, HostPlayer) else None

    def close(self) -> None:
        """Ends the processes of engines."""
        for seat in self.seats:
            if seat is not None:
                seat.close()

    def over(self) -> np.ndarray:
        """Returns which games are over by failure or resignation, `[2, G / 2]`."""
        return self.spoilt | (self.resigned != 0)

    def is_over(self) -> bool:
        """Returns whether all games are over."""
        return bool((self.by_rules | self.over()).all())

    def finished(self) -> np.ndarray:
        """Returns which games have a result, `[2, G / 2]`, by the rules or by resignation."""
        return (self.by_rules | (self.resigned != 0)) & ~self.spoilt

    def returns(self) -> np.ndarray:
        """Returns the sums of the first player's rewards, `[2, G / 2]`, or -1 or 1 after a resignation."""
        rewards = np.stack([np.asarray(games.returns) for games in self.halves])
        return np.where(self.resigned == 0, rewards, self.resigned)

    def play_move(self, step: int) -> np.ndarray:
        """Makes one move in every game that is not over; returns the actions, `[2, G / 2]`, with -1 elsewhere."""
        # JAX dispatches the searches and returns at once, so engines and functions think while the device searches.
        searched = [self._search(half, step) for half in (0, 1)]
        positions = [_on_host((games.env_state, games.metadata)) for games in self.halves]
        to_move = np.stack([np.asarray(metadata.cur_player_id) for _, metadata in positions]) != self.player_ids
        live = ~(self.by_rules | self.over())
        action = np.zeros(live.shape, np.int32)
        for side, seat in enumerate(self.seats):
            if seat is not None:
                places = [(half, game) for half, game in np.argwhere(live & (to_move == side)).tolist()]
                answers = seat.answer([self._question(positions[half], half, game) for half, game in places])
                for place, answer in zip(places, answers, strict=True):
                    action[place] = self._take(place, side, answer)
        for half, found in enumerate(searched):
            for side, (chosen, _) in found.items():
                action[half] = np.where(to_move[half] == side, chosen, action[half])
        made = np.where(live & ~self.over(), action, -1)
        if self.lines is not None:
            for half, game in np.argwhere(made >= 0).tolist():
                state, before = _row(positions[half], game)
                self.lines.add(2 * game + half, state, before, int(made[half, game]))
        for half, found in enumerate(searched):
            trees = tuple(found[side][1] if side in found else None for side in (0, 1))
            ids, over = jnp.asarray(self.player_ids[half]), jnp.asarray(self.over()[half])
            moves = jnp.asarray(action[half])
            self.halves[half], ended = _make(self.env, self.agents, self.halves[half], trees, moves, ids, over)
            self.by_rules[half] |= np.asarray(ended) & (made[half] >= 0)
        return made

    def _search(self, half: int, step: int) -> dict[int, tuple[Array, Any]]:
        """Starts the searches of the agents in one half; returns moves and trees by side."""
        ids, sides = jnp.asarray(self.player_ids[half]), [side for side in (0, 1) if self.agents[side] is not None]
        return {side: _search(self.env, self.agents, self.halves[half], ids, jnp.int32(step), side) for side in sides}

    def _question(self, position: tuple[PyTree, StepMetadata], half: int, game: int) -> Question:
        """Makes the question for one game of a half; its number is the index of the game in the result."""
        (state, metadata), number = _row(position, game), 2 * game + half
        line, colour = ([], "") if self.lines is None else self.lines.of(number, metadata)
        return Question(number, state, metadata.action_mask, line, colour)

    def _take(self, place: tuple[int, int], side: int, answer: Answer) -> int:
        """Returns the action of an answer. If there is none, notes how the game ended, and returns 0."""
        if answer.failure is not None:
            self.spoilt[place] = True
            self.failures.append(f"game {2 * place[1] + place[0]}: {answer.failure}")
        elif answer.resigns:
            self.resigned[place] = 1.0 if side == 1 else -1.0
        return max(answer.action, 0)


class _Lines:
    """Keeps the moves of each game, opening included, with the colours and names that engines expect."""

    def __init__(self, env: Env, after: StepMetadata, moves: Any):
        self.env = env
        states, metadata, actions = _on_host(moves)
        # Without opening moves, the positions that the match begins from are the beginnings of the games.
        begins = metadata.cur_player_id[:, 0] if actions.shape[1] else np.asarray(after.cur_player_id)[0]
        self.begins = np.repeat(begins, 2)  # the id of the player who moves first in each game
        self.moves: list[list[Move]] = [[] for _ in self.begins]
        for opening, move in np.argwhere(actions >= 0).tolist():
            state, before = _row(_row((states, metadata), opening), move)
            for number in (2 * opening, 2 * opening + 1):
                self.add(number, state, before, int(actions[opening, move]))

    def _colour(self, number: int, metadata: StepMetadata) -> str:
        """Returns the GTP letter of the player to move."""
        return colours(self.env)[int(metadata.cur_player_id != self.begins[number])]

    def add(self, number: int, state: PyTree, metadata: StepMetadata, action: int) -> None:
        """Adds a move, and the position in which it is made, to a game."""
        self.moves[number].append((self._colour(number, metadata), name_of(self.env, state, action)))

    def of(self, number: int, metadata: StepMetadata) -> tuple[list[Move], str]:
        """Returns the moves of a game so far, and the GTP letter of the player to move."""
        return list(self.moves[number]), self._colour(number, metadata)


def _on_host(tree: PyTree) -> PyTree:
    """Copies arrays to NumPy. Typed random keys, which NumPy does not have, stay JAX arrays."""
    return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), tree)


def _row(tree: PyTree, index: Any) -> PyTree:
    """Returns row `index` of every array."""
    return jax.tree.map(lambda x: x[index], tree)
