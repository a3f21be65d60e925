"""Asks an engine that speaks GTP for moves in one game."""

import weakref
from typing import Any

import numpy as np

from tz.games.env import Env
from tz.matches._seats import Answer, EngineSeat, Question
from tz.matches.engines import GtpEngine, check_engine, colours, name_of


class OneGameEngine:
    """Runs a process of an engine for one [`tz.play.Game`][], the `owner`.

    The process starts at the first question. It ends with the owner, or with Python.
    """

    def __init__(self, env: Env, engine: GtpEngine, owner: Any):
        check_engine("Game", env, engine)
        self.engine = engine
        self._seat = EngineSeat(env, engine, 1)
        self._end = weakref.finalize(owner, self._seat.close)

    def answer(self, game: Any) -> Answer:
        """Returns the engine's answer in the current position. It is told all moves that it has not seen."""
        env, (*made, now) = game.env, game.turns
        letters = colours(env)
        line = [
            (letters[game.seat_of(turn.metadata)], name_of(env, turn.host, turn.action))  # pairs of colour and name
            for turn in made
        ]
        mask = np.asarray(now.metadata.action_mask)
        (answer,) = self._seat.answer([Question(0, now.host, mask, line, letters[game.to_move])])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._end()
