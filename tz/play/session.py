"""One game as plain data, for the front ends: the page in the browser and the board in a notebook."""

import threading
from typing import Any

import jax
import numpy as np

from tz._arguments import shown
from tz.games.boards import Board, Note, annotated, draw_board
from tz.games.env import Env
from tz.matches.players import Player
from tz.play.analysis import Analysis, think, with_simulations
from tz.play.game import Game, Turn

MOST_SIMULATIONS = 10_000  # the most that a message may ask for, if the session did not begin with more
_WHO = "first", "second", "both", "nobody"
_WHO_OF_ONE = "first", "nobody"  # in a game for one player


class Session:
    """A game between a person and an agent that a front end shows and controls by messages.

    **Arguments:**

    - `env`: the game.
    - `agent`: the agent; it plays the sides that the person does not, and analyses positions.
    - `person`: the side of the person: `"first"`, `"second"`, `"both"` or `"nobody"`. In a game for one
        player, `"first"` or `"nobody"`.
    - `num_simulations`: the number of simulations for each move of the agent; by default that of its settings.
    - `seed`: decides the first position, if the game draws it, and nature's outcomes.

    **Attributes:** `game`, the [`tz.play.Game`][]; `env`.

    **Raises:** `ValueError` if `person` is none of these, if `num_simulations` is negative, or if the agent plays a
    side and belongs to another game.
    """

    def __init__(
        self, env: Env, agent: Player, *, person: str = "first", num_simulations: int | None = None, seed: int = 0
    ):
        self.env, self._agent, self._person = env, agent, person
        self._num_simulations = agent.mcts.num_simulations if num_simulations is None else num_simulations
        self._lock = threading.Lock()
        self._analyses: dict[tuple[int, int], Analysis] = {}
        _check_choice("person", person, _WHO if env.num_players == 2 else _WHO_OF_ONE)
        self.game = Game(env, self._players(), key=jax.random.key(seed))
        self._num_sides = len(self.game.players)
        self._most_simulations = max(MOST_SIMULATIONS, self._num_simulations)

    def _players(self) -> list[Player | None]:
        agent = with_simulations(self._agent, self._num_simulations)
        if self.env.num_players == 1:
            return [agent if self._person == "nobody" else None]
        people = {"first": (0,), "second": (1,), "both": (0, 1), "nobody": ()}[self._person]
        return [None if seat in people else agent for seat in (0, 1)]

    def ask(self, message: Any) -> dict[str, Any]:
        """Carries out a message of a front end and returns what to show.

        **Arguments:** `message`, normally a dict; all of it is checked. Its entries are `do`, one of `view`, `move`
            (with `move`, the name of a move), `reply`, `undo`, `resign`, `new` and `settings` (both with `person` and
            `simulations`); `at`, the number of moves before the position to show, the current one by default; and
            `overlay`, True to show the agent's analysis of that position.

        **Returns:** the view, a dict that JSON can hold. Its entry `error` is a sentence if something was wrong, and
            empty otherwise. After an error the game is unchanged.
        """
        with self._lock:
            error, at, overlay = "", None, False
            try:
                if not isinstance(message, dict):
                    raise ValueError(f"play: found {shown(message)}, expected an object; give it the entry `do`.")
                at, overlay = _number(message, "at"), message.get("overlay") is True
                self._do(message)
            except ValueError as reason:
                error = str(reason)
            last = len(self.game.names)
            at = last if at is None or not 0 <= at <= last else at
            return self._view(at, overlay) | {"error": error}

    def _do(self, message: dict[str, Any]) -> None:
        do = message.get("do", "view")
        if do == "move":
            if not self.game.is_over and self.game.players[self.game.to_move] is not None:
                raise ValueError("play: found a move for the agent's side, expected none; wait for its answer.")
            move = message.get("move")
            if not isinstance(move, str):
                raise ValueError(f"play: found {shown(move)} as a move, expected a text; give the name of the move.")
            self.game.move(move)
        elif do == "reply":
            if not self.game.is_over and self.game.players[self.game.to_move] is not None:
                self._reply()
        elif do == "undo":
            self.game.undo()
        elif do == "resign":
            self.game.resign()
        elif do in ("new", "settings"):
            self._set(message)
            if do == "new":
                self.game.restart()
        elif do != "view":
            choices = "view, move, reply, undo, resign, new or settings"
            raise ValueError(f"play: found do={str(do)[:40]!r}, expected {choices}.")
        # Analyses of positions that were taken back, or that used other settings, are out of date.
        self._analyses = {place: found for place, found in self._analyses.items() if place[0] <= len(self.game.names)}
        if do in ("new", "undo", "settings"):
            self._analyses = {}

    def _reply(self) -> None:
        # Plays by the analysis that the overlay shows; `Game.reply` would not use it.
        at = len(self.game.names)
        self.game.move(self._think(at).action)

    def _set(self, message: dict[str, Any]) -> None:
        person, number = message.get("person", self._person), _number(message, "simulations")
        _check_choice("person", person, _WHO if self._num_sides == 2 else _WHO_OF_ONE)
        if number is not None and not 0 <= number <= self._most_simulations:
            raise ValueError(f"play: found {number} simulations, expected from 0 to {self._most_simulations}.")
        self._person = person
        self._num_simulations = self._num_simulations if number is None else number
        self.game.set_players(self._players())

    def _think(self, at: int) -> Analysis:
        """Returns the agent's analysis of the position after `at` moves, computed once per number of simulations."""
        place = at, self._num_simulations
        if place not in self._analyses:
            turn = self.game.turns[at]
            agent = with_simulations(self._agent, self._num_simulations)
            self._analyses[place] = think(self.env, agent, (turn.state, turn.metadata), jax.random.key(at), at)
        return self._analyses[place]

    def _view(self, at: int, overlay: bool) -> dict[str, Any]:
        game, turns = self.game, self.game.turns
        turn, is_last = turns[at], at == len(turns) - 1
        board = draw_board(self.env, turn.host)
        analysis = self._think(at) if overlay and _goes_on(turn) and not (is_last and game.is_over) else None
        notes = [] if analysis is None else _notes(board, analysis)
        waiting = not game.is_over and game.players[game.to_move] is not None
        moves = {} if waiting or not is_last else game.legal_moves()
        return {
            "game": self.env.name,
            "svg": annotated(board, self._last_move(at), notes),
            "width": board.width,
            "height": board.height,
            "squares": {name: list(rect) for name, rect in board.squares.items()},
            "moves": [{"name": name, "squares": list(board.squares_of(name))} for name in _distinct(moves)],
            "history": list(game.names),
            "seats": [game.seat_of(turn.metadata) for turn in turns[:-1]],
            "at": at,
            "over": game.is_over,
            "waiting": waiting,
            "status": self._status(waiting),
            "sides": self._sides(board, turn),
            "value": self._value(at),
            "analysis": None if analysis is None else _as_data(analysis),
            "person": self._person,
            "simulations": self._num_simulations,
            "num_players": self._num_sides,
        }

    def _last_move(self, at: int) -> list[Any]:
        if at == 0:
            return []
        before = self.game.turns[at - 1]
        board = draw_board(self.env, before.host)
        return [board.spot(square) for square in board.squares_of(before.name)]

    def _sides(self, board: Board, turn: Turn) -> list[dict[str, Any]]:
        """Returns the sides in the order of moving: their names and colours, who plays them, and which is to move."""
        seat, num = self.game.seat_of(turn.metadata), self._num_sides
        names = ("first", "second") if num == 2 else ("player",)
        sides, colors, to_move = board.sides or names, board.colors or ("#23282d", "#fafaf5"), board.to_move
        shift = to_move - seat if board.sides else 0
        result = []
        for place in range(num):
            index = (place + shift) % len(sides)
            who = "you" if self.game.players[place] is None else "agent"
            result.append({"name": sides[index], "color": colors[index], "who": who, "to_move": place == seat})
        return result

    def _status(self, waiting: bool) -> str:
        game = self.game
        sides = [side["name"] for side in self._sides(draw_board(self.env, game.turns[-1].host), game.turns[-1])]
        if not game.is_over:
            name = sides[game.to_move]
            return f"{name.capitalize()} is thinking" if waiting else f"{name.capitalize()} to move"
        if self._num_sides == 1:
            return f"Game over: {game.returns[0]:g}"
        if game.winner is None:
            return "Draw"
        return f"{sides[game.winner].capitalize()} wins" + (" by resignation" if game.has_resigned else "")

    def _value(self, at: int) -> float | None:
        """Returns the latest known value up to a position, from the perspective of the side that moves first.

        It is the result at the end of the game, and None before the agent has analysed a position.
        """
        turns = self.game.turns
        if self.game.is_over and at == len(turns) - 1:
            return float(self.game.returns[0])
        known = [place for place in self._analyses if place[0] <= at and place[1] == self._num_simulations]
        if not known:
            return None
        place = max(known)
        value = self._analyses[place].value
        return value if self.game.seat_of(turns[place[0]].metadata) == 0 else -value


def said(error: Exception) -> str:
    """Returns what a front end shows of an error that a session did not expect, as in a game of the user's own."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _goes_on(turn: Turn) -> bool:
    return not bool(turn.metadata.terminated) and bool(np.any(np.asarray(turn.metadata.action_mask)))


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"play: found {name}={str(value)[:40]!r}, expected one of {', '.join(choices)}.")


def _number(message: dict[str, Any], name: str) -> int | None:
    value = message.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"play: found {name}={str(value)[:40]!r}, expected a whole number.")
    return value


def _distinct(moves: dict[str, int]) -> list[str]:
    """Returns the names to choose from. Backgammon has several passes with the same effect, and only one is kept."""
    return [name for name in moves if not ("pass" in moves and name.startswith("pass("))]


def _notes(board: Board, analysis: Analysis) -> list[Note]:
    """Returns the fraction of the visits and the value of each move; without a search, its probability."""
    notes, total = [], sum(move.visits for move in analysis.moves)
    for move in analysis.moves:
        if total and move.q is None:
            continue
        fraction = move.visits / total if total else move.policy
        lines = f"{100 * fraction:.0f}%", *(() if move.q is None else (_signed(move.q),))
        notes.append(Note(board.squares_of(move.name), lines, fraction, move.action == analysis.action))
    return notes


def _signed(q: float) -> str:
    return "0.00" if abs(q) < 0.005 else f"{q:+.2f}" if abs(q) < 100 else f"{q:+.0f}"


def _as_data(analysis: Analysis) -> dict[str, Any]:
    total = max(sum(move.visits for move in analysis.moves), 1)
    moves = [
        {"name": m.name, "visits": m.visits, "fraction": m.visits / total, "policy": m.policy, "q": m.q}
        for m in sorted(analysis.moves, key=lambda move: (move.action != analysis.action, -move.visits))[:8]
    ]
    return {"move": analysis.name, "value": analysis.value, "line": list(analysis.line), "moves": moves}
