"""A game on the host, one move at a time, between people, agents and functions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, SupportsInt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from tz._arguments import check_one_game, shown
from tz.games.env import Env, StepMetadata
from tz.games.names import find_move, label_of, text_board
from tz.matches.players import Player, check_player
from tz.play.analysis import Analysis, next_position, think, with_simulations

Seat = Player | Callable[[PyTree], Any] | None
"""Who moves: an agent, a function `state -> action`, or a person (None)."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """A position of a game, on the host and where it is computed with, and the move that was made in it."""

    state: PyTree
    metadata: StepMetadata
    host: PyTree
    action: int | None = None
    name: str = ""


class Game:
    """A game that is played one move at a time.

    **Arguments:**

    - `env`: the game that is played.
    - `players`: one for each side, the side that moves first in the first place: None for a person, a [`tz.Player`][]
        such as [`tz.load_agent`][] returns, or any function `state -> action`, which may return the number of an action
        or the name of a move. Two people by default.
    - `key`: decides the first position where that is drawn, nature's outcomes, and what agents draw. A game with
        the same key and the same moves is the same game.
    - `position`: where to begin, a state and its metadata; a new game by default.
    - `analyst`: who answers [`tz.play.Game.suggest`][]; by default the first agent among the players.

    **Attributes:** `env`; `players`, in the order of `players`; `names`, of the moves made; `returns`, what each player
    has received so far.

    **Raises:** `ValueError` for another number of players than the game has, something else than a player, and an agent
    of another game.

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
            raise ValueError(f"Game: found {shown(env)}, expected a game; give a tz.Env, such as tz.from_pgx makes.")
        self.env = env
        self._num_players = env.num_players
        self._key = jax.random.key(0) if key is None else key
        self._fixed_start = position
        self._analyst = analyst
        self._analyses: dict[tuple[int, int | None], Analysis] = {}
        self._resigned: int | None = None
        self._checked: list[Player] = []
        self.set_players([None] * self._num_players if players is None else players)
        if analyst is not None:
            self._check_agent(analyst)
        self._turns = [self._first_turn()]

    def _first_turn(self) -> Turn:
        if self._fixed_start is None:
            state, metadata = _new_game(self.env, jax.random.fold_in(self._key, 0))
        else:
            state, metadata = self._fixed_start
            check_one_game("Game", metadata)
        return Turn(state, metadata, jax.device_get(state))

    def _check_agent(self, agent: Player) -> None:
        if not any(agent is checked for checked in self._checked):
            check_player(self.env, agent)
            self._checked.append(agent)

    def set_players(self, players: Sequence[Seat]) -> None:
        """Give the sides to other players, who go on from the position that there is.

        **Raises:** `ValueError` as [`tz.play.Game`][].
        """
        players = [players] if isinstance(players, Player) or players is None or callable(players) else list(players)
        if len(players) != self._num_players:
            raise ValueError(
                f"Game: found {len(players)} players, expected {self._num_players}, one for each side of "
                f"{self.env.name}; None stands for a person."
            )
        for player in players:
            if isinstance(player, Player):
                self._check_agent(player)
            elif player is not None and not callable(player):
                raise ValueError(
                    f"Game: found {shown(player)} as a player, expected None for a person, a tz.Player or a function "
                    "state -> action; tz.load_agent makes a player of a file."
                )
        self.players = players

    @property
    def _now(self) -> Turn:
        return self._turns[-1]

    @property
    def position(self) -> tuple[PyTree, StepMetadata]:
        """The state and the metadata of the position on the board."""
        return self._now.state, self._now.metadata

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All positions from the first to the one on the board, each with the move made in it, if there is one."""
        return tuple(self._turns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the moves made."""
        return tuple(turn.name for turn in self._turns[:-1])

    @property
    def board(self) -> str:
        """The position as text; see [`tz.games.text_board`][]."""
        return text_board(self.env, self._now.host)

    @property
    def is_over(self) -> bool:
        """Whether the game has ended or somebody has resigned."""
        return self._resigned is not None or bool(self._now.metadata.terminated)

    @property
    def to_move(self) -> int:
        """The place among `players` of the one to move."""
        return self.seat_of(self._now.metadata)

    @property
    def has_resigned(self) -> bool:
        """Whether the game ended since somebody resigned."""
        return self._resigned is not None

    def seat_of(self, metadata: StepMetadata) -> int:
        """The place among `players` of the one to move in a position of this game."""
        return (int(metadata.cur_player_id) - int(self._turns[0].metadata.cur_player_id)) % self._num_players

    @property
    def returns(self) -> tuple[float, ...]:
        """What each player has received so far, in the order of `players`. Who resigns loses a game for two."""
        total = np.zeros(self._num_players)
        for turn in self._turns[1:]:
            total += np.asarray(turn.metadata.rewards, float)
        first = int(self._turns[0].metadata.cur_player_id)
        returns = [float(total[(first + seat) % self._num_players]) for seat in range(self._num_players)]
        if self._resigned is not None and self._num_players == 2:
            returns = [-1.0 if seat == self._resigned else 1.0 for seat in range(2)]
        return tuple(returns)

    def legal_moves(self) -> dict[str, int]:
        """The actions that are legal now by their names; none where the game is over."""
        if self.is_over:
            return {}
        legal = np.flatnonzero(np.asarray(self._now.metadata.action_mask))
        return {label_of(self.env, self._now.host, int(action)): int(action) for action in legal}

    def move(self, move: str | SupportsInt) -> str:
        """Make a move for the player to move, and draw nature's answer.

        **Arguments:** `move`, by its name or the number of its action.

        **Returns:** the name of the move.

        **Raises:** `ValueError` for a move that is not legal or cannot be read, and where the game is over. The game
        stays as it was.
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
            return find_move(self.env, self._now.host, mask, f"action {int(move)}")  # says what is legal
        return int(move)

    def _check_going(self, where: str) -> None:
        if self.is_over:
            raise ValueError(f"{where}: found a game that is over, expected one that goes on; undo or restart it.")

    def _make(self, where: str, action: int) -> str:
        now = self._now
        name = label_of(self.env, now.host, action)
        key = jax.random.fold_in(self._key, 2 * len(self._turns))
        state, metadata = next_position(self.env, now.state, jnp.int32(action), key)
        self._turns[-1] = dataclasses.replace(now, action=action, name=name)
        self._turns.append(Turn(state, metadata, jax.device_get(state)))
        return name

    def reply(self) -> str:
        """Let the player to move, an agent or a function, make its move.

        **Returns:** the name of the move.

        **Raises:** `ValueError` where a person is to move, where the game is over, and for a function that returns no
        legal move.
        """
        self._check_going("Game.reply")
        player = self.players[self.to_move]
        if player is None:
            raise ValueError("Game.reply: found a person to move, expected an agent or a function; call Game.move.")
        if isinstance(player, Player):
            return self._make("Game.reply", self._ask(player, None).action)
        try:
            return self._make("Game.reply", self._read("Game.reply", player(self._now.state)))
        except ValueError as error:
            raise ValueError(f"Game.reply: {shown(player)} gave no legal move; {error}") from error

    def play(self) -> tuple[str, ...]:
        """Let agents and functions move until a person is to move or the game is over.

        **Returns:** the names of the moves made.
        """
        made = []
        while not self.is_over and self.players[self.to_move] is not None:
            made.append(self.reply())
        return tuple(made)

    def suggest(self, *, num_simulations: int | None = None) -> Analysis:
        """Ask the analyst about the position on the board.

        **Arguments:** `num_simulations`, as many as the analyst's settings say by default.

        **Returns:** an [`tz.play.Analysis`][], whose `name` is the move that it would make.

        **Raises:** `ValueError` where there is no agent to ask, and where the game is over.
        """
        self._check_going("Game.suggest")
        agents = [player for player in (self._analyst, *self.players) if isinstance(player, Player)]
        if not agents:
            raise ValueError("Game.suggest: found no agent, expected one to ask; give Game(analyst=).")
        place = len(self._turns), num_simulations
        if place not in self._analyses:
            self._analyses[place] = self._ask(agents[0], num_simulations)
        return self._analyses[place]

    def _ask(self, player: Player, num_simulations: int | None) -> Analysis:
        key = jax.random.fold_in(self._key, 2 * len(self._turns) + 1)
        return think(self.env, with_simulations(player, num_simulations), self.position, key)

    def undo(self) -> int:
        """Take back the last move of a person and what was answered to it; where no person plays, one move.

        **Returns:** how many moves were taken back; 0 at the beginning.
        """
        if self._resigned is not None:
            self._resigned = None
            return 0
        length, has_people = len(self._turns), None in self.players
        places = range(length - 2, -1, -1)
        own = [n for n in places if not has_people or self.players[self.seat_of(self._turns[n].metadata)] is None]
        if not own:
            return 0
        self.go_back(own[0])
        return length - len(self._turns)

    def go_back(self, num_moves: int) -> None:
        """Take back moves until `num_moves` are left.

        **Raises:** `ValueError` where fewer were made.
        """
        if not 0 <= num_moves < len(self._turns):
            raise ValueError(
                f"Game.go_back: found {num_moves}, expected a number of moves from 0 to {len(self._turns) - 1}."
            )
        self._resigned = None
        last = self._turns[num_moves]
        self._turns = [*self._turns[:num_moves], dataclasses.replace(last, action=None, name="")]
        self._analyses = {place: found for place, found in self._analyses.items() if place[0] <= num_moves + 1}

    def resign(self) -> None:
        """End the game as a loss of the player to move.

        **Raises:** `ValueError` where the game is over.
        """
        self._check_going("Game.resign")
        self._resigned = self.to_move

    def restart(self) -> None:
        """Begin a new game between the same players, in which chance decides anew."""
        self._key = jax.random.fold_in(self._key, 1)
        self._resigned, self._analyses = None, {}
        self._turns = [self._first_turn()]

    def __repr__(self) -> str:
        moves = f"{len(self.names)} moves: {' '.join(self.names)}" if self.names else "no move made"
        return f"{self.env.name}, {moves}\n{self.board}"


@eqx.filter_jit
def _new_game(env: Env, key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
    return env.init(key)
