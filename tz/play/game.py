"""A game on the host, one move at a time, between people, agents, engines and functions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, SupportsInt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from tz._arguments import check_one_game, check_position, shown, takes
from tz.games.chance import check_player_to_move
from tz.games.env import Env, StepMetadata
from tz.games.names import find_move, label_of, legal_names, text_board
from tz.matches._playing import LEVEL
from tz.matches.engines import GtpEngine, HostPlayer
from tz.matches.players import Player, check_player
from tz.play._engine_seat import OneGameEngine
from tz.play.analysis import Analysis, next_position, think, with_simulations

Seat = Player | GtpEngine | HostPlayer | Callable[[PyTree], Any] | None
"""The player of one side: an agent, an engine, a function `state -> action`, or None for a person."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """A position of a game, and the move that was made in it.

    `state` and `metadata` are on the device, `host` is a copy of the state on the host. Before a move is made, `action`
    is None and `name` is empty.
    """

    state: PyTree
    metadata: StepMetadata
    host: PyTree
    action: int | None = None
    name: str = ""


class Game:
    """A game that is played one move at a time, on the host.

    People, agents, engines and functions can play, in any combination. Use [`tz.play_match`][] to play many games at
    once.

    **Arguments:**

    - `env`: the game that is played.
    - `players`: a player for each side, in the order of moving. None is a person. A [`tz.Player`][], such as
        [`tz.load_agent`][] returns, is an agent. A [`tz.matches.GtpEngine`][] is an engine; its process starts at its
        first move and ends with this object, or when other players take its place. A function `state -> action` may
        return the number of an action or the name of a move; in a [`tz.matches.HostPlayer`][] it gets NumPy arrays. By
        default all players are people.
    - `key`: the random key of the first position (where it is drawn), of nature's outcomes and of the agents. The same
        key and the same moves make the same game. `jax.random.key(0)` by default.
    - `position`: the first position, a state and its metadata; a new game by default.
    - `analyst`: the agent that answers [`tz.play.Game.suggest`][]; by default the first agent among the players.

    **Attributes:** `env` and `players`, as given.

    **Raises:** `ValueError` if the number of players is not the game's, if a player is neither None, an agent, an
    engine nor a function, if an agent is one of another game, if an engine is not installed or cannot play the game,
    and if an engine would have to begin from a given `position`.

    **Example:**

    ```python
    game = tz.play.Game(tz.from_pgx("connect_four"), [None, tz.load_agent("connect_four")])
    game.move("4")
    game.play()  # the agent answers
    print(game.board)
    ```
    """

    def __init__(
        self,
        env: Env,
        players: Sequence[Seat] | None = None,
        *,
        key: PRNGKeyArray | None = None,
        position: tuple[PyTree, StepMetadata] | None = None,
        analyst: Player | None = None,
    ):
        if not isinstance(env, Env):
            raise ValueError(f"Game: found {shown(env)}, expected a tz.Env; make one, for example by tz.from_pgx.")
        self.env = env
        self._num_players = env.num_players
        self._key = jax.random.key(0) if key is None else key
        self._fixed_start = position
        self._analyst = analyst
        self._analyses: dict[tuple[int, int | None], tuple[Player, Analysis]] = {}
        self._resigned: int | None = None
        self._checked: list[Player] = []
        self._engines: list[OneGameEngine | None] = []
        self.set_players([None] * self._num_players if players is None else players)
        if analyst is not None:
            self._check_agent(analyst)
        self._turns = [self._first_turn()]

    def _first_turn(self) -> Turn:
        if self._fixed_start is None:
            state, metadata = _new_game(self.env, jax.random.fold_in(self._key, 0))
        else:
            state, metadata = check_position("Game", self._fixed_start)
            check_one_game("Game", metadata)
            check_player_to_move("Game", metadata)
        return Turn(state, metadata, jax.device_get(state))

    def _check_agent(self, agent: Player) -> None:
        if not any(agent is checked for checked in self._checked):
            check_player(self.env, agent)
            self._checked.append(agent)

    def set_players(self, players: Sequence[Seat]) -> None:
        """Replaces the players; the game continues from the current position.

        **Arguments:** `players`, as in [`tz.play.Game`][].

        **Raises:** `ValueError` for players that [`tz.play.Game`][] does not accept.
        """
        is_one = isinstance(players, Player | GtpEngine | HostPlayer) or players is None or callable(players)
        seats: Any = [players] if is_one else players
        players = list(seats)
        if len(players) != self._num_players:
            raise ValueError(
                f"Game: found {len(players)} players, expected {self._num_players}, one for each side of "
                f"{self.env.name}; give None for a person."
            )
        for player in players:
            if isinstance(player, Player):
                self._check_agent(player)
            elif isinstance(player, GtpEngine):
                self._check_engine()
            elif not (player is None or isinstance(player, HostPlayer) or _is_function(player)):
                raise ValueError(
                    f"Game: found {shown(player)} as a player, expected None for a person, a tz.Player, a "
                    "tz.matches.GtpEngine, a tz.matches.HostPlayer or a function state -> action of one argument; load "
                    "an agent from a file by tz.load_agent, or write tz.Player(mcts, evaluator)."
                )
        engines = [
            OneGameEngine(self.env, player, self) if isinstance(player, GtpEngine) else None for player in players
        ]
        for engine in self._engines:
            if engine is not None:
                engine.close()
        self.players, self._engines = players, engines

    def _check_engine(self) -> None:
        if self._fixed_start is not None:
            raise ValueError(
                "Game: found a position for a game with an engine, which has to be told the moves from the beginning, "
                "expected none; leave `position` out, and make the moves that lead to it."
            )

    @property
    def _now(self) -> Turn:
        return self._turns[-1]

    @property
    def position(self) -> tuple[PyTree, StepMetadata]:
        """Returns the current position: its state and its metadata."""
        return self._now.state, self._now.metadata

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Returns all positions from the first to the current one, each with the move that was made in it, if any."""
        return tuple(self._turns)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the moves made so far."""
        return tuple(turn.name for turn in self._turns[:-1])

    @property
    def board(self) -> str:
        """Returns the current position as text, as [`tz.games.text_board`][] writes it."""
        return text_board(self.env, self._now.host)

    @property
    def is_over(self) -> bool:
        """Returns True if the game has ended or a player has resigned."""
        return self._resigned is not None or bool(self._now.metadata.terminated)

    @property
    def to_move(self) -> int:
        """Returns the index in `players` of the player to move."""
        return self.seat_of(self._now.metadata)

    @property
    def has_resigned(self) -> bool:
        """Returns True if a player has resigned."""
        return self._resigned is not None

    def seat_of(self, metadata: StepMetadata) -> int:
        """Returns the index in `players` of the player to move in a position of this game."""
        return (int(metadata.cur_player_id) - int(self._turns[0].metadata.cur_player_id)) % self._num_players

    @property
    def returns(self) -> tuple[float, ...]:
        """Returns the sum of the rewards of each player so far, in the order of `players`.

        In a game for two, a player who resigns has -1 and the other player 1, whatever the rewards before.
        """
        total = np.zeros(self._num_players)
        for turn in self._turns[1:]:
            total += np.asarray(turn.metadata.rewards, float)
        first = int(self._turns[0].metadata.cur_player_id)
        returns = [float(total[(first + seat) % self._num_players]) for seat in range(self._num_players)]
        if self._resigned is not None and self._num_players == 2:
            returns = [-1.0 if seat == self._resigned else 1.0 for seat in range(2)]
        return tuple(returns)

    def legal_moves(self) -> dict[str, int]:
        """Returns a dict from the names of the legal moves to their actions. It is empty if the game is over.

        **Raises:** `ValueError` if two legal moves have one name.
        """
        if self.is_over:
            return {}
        return legal_names(self.env.name, self.env, self._now.host, self._now.metadata.action_mask)

    def move(self, move: str | SupportsInt) -> str:
        """Makes a move for the player to move, and draws nature's answer.

        **Arguments:** `move`, the name of the move or the number of its action.

        **Returns:** the name of the move.

        **Raises:** `ValueError` if the move is not legal or cannot be read, and if the game is over. The game is
        unchanged then.
        """
        return self._make("Game.move", self._read("Game.move", move))

    def _read(self, where: str, move: Any) -> int:
        self._check_going(where)
        mask = np.asarray(self._now.metadata.action_mask)
        if isinstance(move, str):
            return find_move(self.env, self._now.host, mask, move)
        try:
            is_number = not isinstance(move, bool) and int(move) == move
        except (TypeError, ValueError):
            is_number = False
        if not is_number:
            raise ValueError(
                f"{where}: found {shown(move)}, expected a move; give its name or the number of its action."
            )
        if not (0 <= int(move) < len(mask) and mask[int(move)]):
            return find_move(self.env, self._now.host, mask, f"action {int(move)}")  # raises, and lists the legal moves
        return int(move)

    def _check_going(self, where: str) -> None:
        if self.is_over:
            raise ValueError(
                f"{where}: found a game that is over, expected one that is not; undo a move or restart it."
            )

    def _make(self, where: str, action: int) -> str:
        now = self._now
        name = label_of(self.env, now.host, action)
        key = jax.random.fold_in(self._key, 2 * len(self._turns))
        state, metadata = next_position(self.env, now.state, jnp.int32(action), key)
        self._turns[-1] = dataclasses.replace(now, action=action, name=name)
        self._turns.append(Turn(state, metadata, jax.device_get(state)))
        return name

    def reply(self) -> str:
        """Lets the player to move, an agent, an engine or a function, make one move.

        **Returns:** the name of the move, or `"resign"` if an engine resigns.

        **Raises:** `ValueError` if a person is to move, if the game is over, if a function returns no legal move, and
        if an engine ends, gives no answer in time, or makes an illegal move. The game is unchanged then.
        """
        self._check_going("Game.reply")
        player, engine = self.players[self.to_move], self._engines[self.to_move]
        if player is None:
            raise ValueError("Game.reply: found a person to move, expected another player; call Game.move.")
        if isinstance(player, Player):
            return self._make("Game.reply", self._ask(player, None).action)
        if isinstance(player, GtpEngine):
            assert engine is not None
            answer = engine.answer(self)
            if answer.failure is not None:
                raise ValueError(
                    f"Game.reply: found no move from an engine ({answer.failure}), expected one; try again, make its "
                    "move by Game.move, or give another player to Game.set_players."
                )
            if answer.resigns:
                self._resign(self.to_move)
                return "resign"
            return self._make("Game.reply", answer.action)
        found = player.function(self._now.host) if isinstance(player, HostPlayer) else player(self._now.state)
        try:
            return self._make("Game.reply", self._read("Game.reply", found))
        except ValueError as error:
            raise ValueError(f"Game.reply: found no legal move from {shown(player)}, expected one; {error}") from error

    def play(self) -> tuple[str, ...]:
        """Lets agents, engines and functions move until a person is to move or the game is over.

        **Returns:** the names of the moves made, the last one `"resign"` if an engine resigned.
        """
        made = []
        while not self.is_over and self.players[self.to_move] is not None:
            made.append(self.reply())
        return tuple(made)

    def suggest(self, *, num_simulations: int | None = None) -> Analysis:
        """Asks the analyst about the current position. The same question to the same agent has the same answer.

        **Arguments:** `num_simulations`, by default as many as in the analyst's settings.

        **Returns:** a [`tz.play.Analysis`][], whose `name` is the suggested move.

        **Raises:** `ValueError` if there is neither an analyst nor an agent among the players, and if the game is over.
        """
        self._check_going("Game.suggest")
        agents = [player for player in (self._analyst, *self.players) if isinstance(player, Player)]
        if not agents:
            raise ValueError("Game.suggest: found no agent, expected one to ask; give Game(..., analyst=agent).")
        agent, place = agents[0], (len(self._turns), num_simulations)
        asked, analysis = self._analyses.get(place, (None, None))
        if analysis is None or asked is not agent:  # other players may have taken their places
            analysis = self._ask(agent, num_simulations)
            self._analyses[place] = agent, analysis
        return analysis

    def _ask(self, player: Player, num_simulations: int | None) -> Analysis:
        key = jax.random.fold_in(self._key, 2 * len(self._turns) + 1)
        agent = with_simulations(player, num_simulations)
        return think(self.env, agent, self.position, key, len(self.names))

    def undo(self) -> int:
        """Takes back the last move of a person, with the moves after it. If no person plays, it takes back one move.

        If a person has resigned, or a player where no person plays, only the resignation is taken back.

        **Returns:** the number of moves taken back; 0 if there is none, or if only a resignation was taken back.
        """
        length, has_people = len(self._turns), None in self.players
        resigned, self._resigned = self._resigned, None
        if resigned is not None and (not has_people or self.players[resigned] is None):
            return 0
        places = range(length - 2, -1, -1)
        own = [n for n in places if not has_people or self.players[self.seat_of(self._turns[n].metadata)] is None]
        if not own:
            return 0
        self.go_back(own[0])
        return length - len(self._turns)

    def go_back(self, num_moves: int) -> None:
        """Takes back all moves after the first `num_moves`, and a resignation if there is one.

        **Raises:** `ValueError` if fewer moves were made.
        """
        if not 0 <= num_moves < len(self._turns):
            raise ValueError(
                f"Game.go_back: found {num_moves}, expected a number of moves from 0 to {len(self._turns) - 1}; "
                "give the number of moves to keep."
            )
        self._resigned = None
        last = self._turns[num_moves]
        self._turns = [*self._turns[:num_moves], dataclasses.replace(last, action=None, name="")]
        self._analyses = {place: found for place, found in self._analyses.items() if place[0] <= num_moves + 1}

    def resign(self) -> None:
        """Ends the game as a loss of the person. If there are two people, or none, the player to move loses.

        **Raises:** `ValueError` if the game is over.
        """
        people = [seat for seat, player in enumerate(self.players) if player is None]
        self._resign(people[0] if len(people) == 1 else self.to_move)

    def _resign(self, seat: int) -> None:
        self._check_going("Game.resign")
        self._resigned = seat

    @property
    def winner(self) -> int | None:
        """Returns the index in `players` of the player with the higher return so far; None if there is none.

        In a game for one player there is never one.
        """
        lead = self.returns[0] - self.returns[-1]
        return None if abs(lead) < 2 * LEVEL else int(lead < 0)

    def restart(self) -> None:
        """Begins a new game between the same players, with new random outcomes."""
        self._key = jax.random.fold_in(self._key, 1)
        self._resigned, self._analyses = None, {}
        self._turns = [self._first_turn()]

    def __repr__(self) -> str:
        moves = f"{len(self.names)} moves: {' '.join(self.names)}" if self.names else "no move made"
        return f"{self.env.name}, {moves}\n{self.board}"


def _is_function(player: Any) -> bool:
    return not isinstance(player, type) and takes(player, 1)


@eqx.filter_jit
def _new_game(env: Env, key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
    return env.init(key)
