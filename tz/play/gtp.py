"""Serves an agent over GTP, version 2: https://www.lysator.liu.se/~gunnar/gtp/gtp2-spec-draft2/gtp2-spec.html"""

import importlib.metadata
import io
import math
import time
from collections.abc import Callable, Iterator

import jax
from jaxtyping import PRNGKeyArray

from tz._arguments import check_ints, takes
from tz.games.env import Env
from tz.matches.engines import colours, go_rules
from tz.matches.players import Player, check_is_player
from tz.play._analysis_lines import kata_line, leela_line
from tz.play._clock import Clock
from tz.play._gtp_lines import MAX_LINE, LineReader, TooLongError, split_command
from tz.play._scores import final_score
from tz.play._thinking import Candidate, Thinker
from tz.play.game import Game

_PASS = "pass"
_SIZES = {"chess": 8, "gardner_chess": 5, "othello": 8, "shogi": 9, "tic_tac_toe": 3}  # of square boards
_COLOURS = {"b": "b", "black": "b", "w": "w", "white": "w"}


class GtpServer:
    """Serves an agent as a GTP engine, for the interfaces and tournament programs that speak the Go Text Protocol.

    `python -m tz gtp AGENT` is such an engine. It plays Go, Othello and every other game of two players without chance
    whose moves have names, see [`tz.games.move_label`][]. The player who moves first is black, but white in chess. If a
    colour plays twice in a row, the other colour passes in between, if a pass is legal.

    The search is that of the agent, but without noise. Gumbel's root policy, which cannot be stopped early, is replaced
    by PUCT. The tree is kept from move to move, and everything is compiled before the first command is read.

    Two commands are not in the protocol: `lz-analyze` and `kata-analyze` report the agent's analysis of the position
    until the next line arrives. A command that cannot be understood or carried out is answered by `?` and the reason.

    **Arguments:**

    - `env`: the game.
    - `player`: the agent, such as [`tz.load_agent`][] returns.
    - `num_simulations`: the number of simulations for each move; with a clock, the largest number.
    - `key`: the random key of the search and of the evaluator. `jax.random.key(0)` by default.

    **Raises:** `ValueError` if the game is not for two players, has chance or has no names for its moves, or if the
    agent belongs to another game.
    """

    def __init__(self, env: Env, player: Player, *, num_simulations: int = 400, key: PRNGKeyArray | None = None):
        check_is_player("GtpServer", "player", player)
        check_ints("GtpServer", num_simulations=num_simulations)
        if num_simulations < 1:
            raise ValueError(f"GtpServer: found num_simulations={num_simulations}, expected at least 1; ask for more.")
        if env.num_players != 2 or env.outcome is not None or env.label is None:
            raise ValueError(
                f"GtpServer: found {env.name}, expected a game for two without chance, whose moves have names; play "
                "other games with tz.play.Game."
            )
        key = jax.random.key(0) if key is None else key
        self.env, self.game, self.clock = env, Game(env, [player, player], key=key), Clock()
        self._thinker = Thinker(env, player, num_simulations, key)
        self._marks: list[int] = []  # for `undo`: the number of moves before each command that made some
        self._commands: dict[str, Callable[..., str]] = {
            "protocol_version": self._fixed("2"),
            "name": self._fixed("tz"),
            "version": self._fixed(_version()),
            "known_command": self._known_command,
            "list_commands": self._list_commands,
            "quit": self._fixed(""),
            "boardsize": self._boardsize,
            "clear_board": self._clear_board,
            "play": self._play,
            "genmove": self._genmove,
            "reg_genmove": self._reg_genmove,
            "undo": self._undo,
            "showboard": self._showboard,
            "final_score": self._final_score,
            "time_settings": self._time_settings,
            "time_left": self._time_left,
        }
        if go_rules(env) is not None:
            self._commands["komi"] = self._komi
        self._analyses = {"lz-analyze": leela_line, "kata-analyze": kata_line}

    # The protocol.

    def run(self, lines: io.BufferedIOBase, out: io.TextIOBase) -> None:
        """Answers commands until `quit`, or until the input ends.

        **Arguments:** `lines`, the binary stream of the commands; `out`, the text stream of the answers.
        """
        reader = LineReader(lines)
        while True:
            try:
                line = reader.next()
            except TooLongError:
                _write(out, f"? the line is longer than {MAX_LINE} characters\n\n")
                continue
            if line is None:
                return
            for part in self.answer(line, reader.is_waiting):
                _write(out, part)
            if split_command(line)[1] == "quit":
                return

    def answer(self, line: str, is_waiting: Callable[[], bool] = lambda: True) -> Iterator[str]:
        """Yields the answer to one line, piece by piece; yields nothing for an empty line or a comment.

        **Arguments:** `line`; `is_waiting`, a function that returns True if another line has arrived. That ends an
            analysis, but not before its first report.
        """
        number, command, arguments = split_command(line)
        if not number and not command:
            return
        header = f"={number}\n"
        try:
            if command in self._analyses:
                interval = self._analysis_arguments(arguments)
                for text in self._analyse(self._analyses[command], interval, is_waiting):
                    yield f"{header}{text}\n"
                    header = ""
                yield "\n"
                return
            if command not in self._commands:
                raise ValueError("unknown command")
            if not takes(self._commands[command], len(arguments)):
                raise ValueError(f"wrong number of arguments for {command}")
            text = self._commands[command](*arguments)
        except Exception as error:  # an engine must not end in the middle of a game, whatever happens
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            yield f"?{number} {_one_line(reason)}\n\n" if header else "\n"
        else:
            yield f"={number} {_without_empty_lines(text)}\n\n"

    def _fixed(self, text: str) -> Callable[..., str]:
        return lambda *_: text

    def _known_command(self, name: str = "", *_: str) -> str:
        return "true" if name in self._commands or name in self._analyses else "false"

    def _list_commands(self, *_: str) -> str:
        return "\n".join([*self._commands, *self._analyses])

    # The game.

    def _boardsize(self, size: str) -> str:
        rules = go_rules(self.env)
        board = _SIZES.get(self.env.name) if rules is None else rules[0]
        if not size.isdecimal() or (board is not None and int(size[:9]) != board):
            raise ValueError(f"unacceptable size, the agent plays {self.env.name}")
        return self._clear_board()

    def _clear_board(self, *_: str) -> str:
        self.game.go_back(0)
        self._marks = []
        self._thinker.forget()
        self.clock.restart()
        return ""

    def _komi(self, komi: str) -> str:
        rules = go_rules(self.env)
        assert rules is not None
        if _number(komi, "komi", lowest=-1e9) != rules[1]:
            raise ValueError(f"unacceptable komi, the agent plays with {rules[1]:g}")
        return ""

    def _play(self, colour: str, *move: str) -> str:
        if not move:
            raise ValueError("wrong number of arguments for play")
        mark = self._to_move(colour)
        try:
            self.game.move("".join(move)[:64])
        except ValueError as error:
            self.game.go_back(mark)
            known = "which is not legal here" in str(error)
            reason = str(error).removeprefix("find_move: ")
            raise ValueError(f"{'illegal' if known else 'invalid'} move, {reason}") from error
        self._marks.append(mark)
        return ""

    def _to_move(self, colour: str) -> int:
        """Makes a colour the side to move, by a pass of the other if needed; returns the number of moves before."""
        side, mark = self._side(colour), len(self.game.names)
        if self.game.is_over:
            raise ValueError("illegal move, the game is over")
        if self.game.to_move != side:
            passes = [name for name in self.game.legal_moves() if name.lower() == _PASS]
            if not passes:
                raise ValueError("illegal move, it is the other colour's turn, and it cannot pass")
            self.game.move(passes[0])
            if self.game.is_over:
                self.game.go_back(mark)
                raise ValueError("illegal move, it is the other colour's turn, and its pass would end the game")
        return mark

    def _side(self, colour: str) -> int:
        letter = _COLOURS.get(colour.lower())
        if letter is None:
            raise ValueError(f"invalid color {colour[:20]!r}, expected b or w")
        return colours(self.env).index(letter)

    def _undo(self, *_: str) -> str:
        if not self._marks:
            raise ValueError("cannot undo, no move was made")
        self.game.go_back(self._marks.pop())
        return ""

    def _showboard(self, *_: str) -> str:
        return "\n" + self.game.board

    def _final_score(self, *_: str) -> str:
        return final_score(self.game)

    # The agent.

    def _genmove(self, colour: str) -> str:
        begun, mark = time.perf_counter(), self._to_move(colour)
        action = self._think(mark, self.clock.budget(self._side(colour)))
        self._marks.append(mark)
        name = self._shown(self.game.move(action))
        self.clock.spend(self._side(colour), time.perf_counter() - begun)
        return name

    def _reg_genmove(self, colour: str) -> str:
        mark = self._to_move(colour)
        self._thinker.forget()  # without an earlier tree, the same position gives the same move
        action = self._think(mark, None)
        name = next(name for name, legal in self.game.legal_moves().items() if legal == action)
        self.game.go_back(mark)
        return self._shown(name)

    def _think(self, mark: int, seconds: float | None) -> int:
        """Returns the agent's move. If the search fails, the game returns to the position after `mark` moves."""
        try:
            self._thinker.follow(self.game)
            self._thinker.run_for(seconds)
            return self._thinker.best()
        except BaseException:
            self.game.go_back(mark)
            raise

    def _shown(self, name: str) -> str:
        return name.upper() if go_rules(self.env) is not None and name != _PASS else name

    def _time_settings(self, main: str, period: str, moves: str) -> str:
        numbers = _number(main, "main time"), _number(period, "byo yomi time"), int(_number(moves, "byo yomi stones"))
        self.clock.set(*numbers)
        return ""

    def _time_left(self, colour: str, seconds: str, moves: str) -> str:
        self.clock.tell(self._side(colour), _number(seconds, "time"), int(_number(moves, "stones")))
        return ""

    # Analysis.

    def _analysis_arguments(self, arguments: list[str]) -> float:
        """Returns the seconds between two reports. Other arguments, which are for other engines, are ignored."""
        if self.game.is_over:
            raise ValueError("the game is over")
        if arguments and arguments[0].lower() in _COLOURS and self._side(arguments[0]) != self.game.to_move:
            raise ValueError("it is the other colour's turn")
        rest = [x for x in arguments if x.lower() not in _COLOURS]
        if {"avoid", "allow"} & set(rest):
            raise ValueError("the moves of an analysis cannot be restricted")
        numbers = rest[rest.index("interval") + 1 :] if "interval" in rest else rest
        centiseconds = _number(numbers[0], "interval") if numbers and numbers[0][0].isdigit() else 50.0
        return max(0.01, centiseconds / 100)

    def _analyse(
        self, line_of: Callable[[list[Candidate], Callable[[str], str]], str], interval: float, is_waiting
    ) -> Iterator[str]:
        """Yields a report after each interval, until another line arrives."""
        self._thinker.follow(self.game)
        while True:
            self._thinker.run_until(interval, stop=is_waiting)
            yield line_of(self._thinker.candidates(self.game), self._shown)
            if is_waiting():
                return


def _number(text: str, name: str, lowest: float = 0.0) -> float:
    try:
        number = float(text[:30])
    except ValueError:
        number = math.nan
    if not lowest <= number < 1e9:
        raise ValueError(f"invalid {name} {text[:20]!r}, expected a number" + (" of at least 0" if lowest == 0 else ""))
    return number


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500] or "failed"


def _without_empty_lines(text: str) -> str:
    """Removes empty lines, which would end the answer. The first line may be empty, since it follows `=`."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(line for line in rest if line.strip())])


def _write(out: io.TextIOBase, text: str) -> None:
    out.write(text)
    out.flush()


def _version() -> str:
    try:
        return importlib.metadata.version("tz")
    except importlib.metadata.PackageNotFoundError:
        return "0"
