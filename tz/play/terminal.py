"""A game in the terminal: a person types moves by name, and commands such as undo, hint and resign."""

from collections.abc import Callable

from tz.matches.engines import GtpEngine
from tz.play.game import Game

_HELP = (
    "Type a move by its name, or one of: moves (lists the legal moves), hint (shows the move that the agent would "
    "play), undo, new, resign, help, quit."
)


def play_in_terminal(game: Game, *, read: Callable[[str], str] = input, write: Callable[[str], None] = print) -> None:
    """Plays a game in the terminal until the person quits or the input ends.

    A line that is neither a legal move nor a command is answered by an error message, and the game continues. If an
    engine or a function fails to move, the person may make its move, take moves back, or press Enter to ask it again.

    **Arguments:**

    - `game`: the game; the moves of its people are typed in the terminal.
    - `read`: a function that shows a prompt and returns the next line, by default `input`.
    - `write`: a function that shows a text, by default `print`.
    """
    write(f"{game.env.name}. {_HELP}")
    shown = failed = False
    while True:
        player = game.players[game.to_move]
        if not game.is_over and player is not None and not failed:
            failed, shown = not _reply(game, write), False
            continue
        if not shown:
            write(f"\n{game.board}\n" + (_result(game) if game.is_over else ""))
            shown = True
        try:
            prompt = "its move, or Enter to ask it again> " if failed else "your move> "
            line = read("over> " if game.is_over else prompt)[:1000].strip()
        except (EOFError, KeyboardInterrupt):
            write("")
            return
        if line.lower() in ("quit", "exit", "q"):
            return
        if failed and not line:
            failed = False
            continue
        before = len(game.names)
        try:
            shown = not _obey(game, line, write)
        except ValueError as error:
            write(str(error))
        failed = failed and len(game.names) == before and not game.is_over


def _reply(game: Game, write: Callable[[str], None]) -> bool:
    """Lets the player to move, who is no person, move; returns False if it fails, or Ctrl-C interrupts it."""
    who = "engine" if isinstance(game.players[game.to_move], GtpEngine) else "agent"
    try:
        move = game.reply()
    except (ValueError, KeyboardInterrupt) as error:
        write(str(error) or f"The {who} was interrupted.")
        return False
    write(f"The {who} resigns." if game.has_resigned else f"The {who} plays {move}.")
    return True


def _obey(game: Game, line: str, write: Callable[[str], None]) -> bool:
    """Carries out a line; returns True if the board should be shown again."""
    word = line.lower()
    if word in ("", "help", "?"):
        write(_HELP)
        return False
    if word == "moves":
        write(" ".join(game.legal_moves()) or "none")
        return False
    if word == "hint":
        found = game.suggest()
        write(f"{found.name} (value {found.value:+.2f}); expects {' '.join(found.line)}")
        return False
    if word == "undo":
        had_resigned = game.has_resigned
        if game.undo() == 0 and not had_resigned:
            write("There is nothing to take back.")
        return True
    if word == "new":
        game.restart()
        return True
    if word == "resign":
        game.resign()
        return True
    game.move(line)
    return True


def _result(game: Game) -> str:
    if len(game.players) == 1:
        return f"Game over: {game.returns[0]:g}."
    people = [seat for seat, player in enumerate(game.players) if player is None]
    if game.winner is None:
        return "A draw."
    if len(people) == 1:
        return "You win." if game.winner in people else "You lose."
    return f"The {'first' if game.winner == 0 else 'second'} player wins."
