"""Asks an engine that speaks GTP for moves in one game."""

import weakref
from typing import Any

import numpy as np

from tz.games.env import Env
from tz.matches._seats import Answer, EngineSlot, Question
from tz.matches.engines import GtpEngine, check_engine, colours, name_of


class OneGameEngine:
    """Runs a process of an engine for one [`tz.play.Game`][], the `owner`.

    The process starts at the first question. It ends with the owner, or with Python.
    """

    def __init__(self, env: Env, engine: GtpEngine, owner: Any):
        check_engine("Game", env, engine)
        self._slot = EngineSlot(env, engine)
        self.close = weakref.finalize(owner, self._slot.close)

    def answer(self, game: Any) -> Answer:
        """Returns the engine's answer in the current position. It is told all moves that it has not seen.

        After a failure the next question starts a new process.
        """
        env, (*made, now) = game.env, game.turns
        letters = colours(env)
        line = [
            (letters[game.seat_of(turn.metadata)], name_of(env, turn.host, turn.action))  # pairs of colour and name
            for turn in made
        ]
        mask = np.asarray(now.metadata.action_mask)
        try:
            (answer,) = self._slot.answers([Question(0, now.host, mask, line, letters[game.to_move])])
        except BaseException:  # such as Ctrl-C, after which a late answer would be taken for the next one
            self._slot.close()
            raise
        self._slot.failures.clear()  # unlike a match, a game asks again as often as a person wants
        return answer
