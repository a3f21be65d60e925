"""Shows the board in a cell of a notebook."""

import os
from typing import Any

from tz.games.boards import draw_board
from tz.games.env import Env
from tz.matches.players import Player
from tz.play.page import FRONT_END
from tz.play.session import Session, said
from tz.runs.agent_files import agent_env, load_agent

_NO_WIDGETS = (
    "This is only a picture of the position. To play on the board, install the extra (pip install 'tz[play]'), open "
    "the notebook in Jupyter, VS Code or Colab, and run the cell again."
)


class _Picture:
    """Takes the place of the board where widgets do not work: shows the position, and says what to do."""

    def __init__(self, session: Session):
        self.session = session

    def _repr_html_(self) -> str:
        svg = draw_board(self.session.env, self.session.game.turns[-1].host).svg
        return f'<p>{_NO_WIDGETS}</p><div style="max-width: 420px">{svg}</div>'

    def __repr__(self) -> str:
        return f"{self.session.game!r}\n{_NO_WIDGETS}"


def widget(
    agent: str | os.PathLike | Player,
    *,
    env: Env | None = None,
    person: str = "first",
    num_simulations: int | None = None,
    seed: int = 0,
) -> Any:
    """Shows a board to click on in a notebook: `tz.play.widget("connect_four")` as the last line of a cell.

    **Arguments:**

    - `agent`: the file of an agent, the folder of a run, the name of an agent that comes with tz, or a [`tz.Player`][].
    - `env`: the game; needed if it is not one of pgx, and if `agent` is a player.
    - `person`: the side that you play: `"first"`, `"second"`, `"both"` or `"nobody"`. It can be changed on the board.
    - `num_simulations`: the number of simulations for each move of the agent; by default that of its settings.
    - `seed`: decides the first position, if the game draws it, and nature's outcomes.

    **Returns:** an object that a notebook shows, whose `session.game` is the [`tz.play.Game`][]. It needs anywidget
    (the extra `play`). Without it, and in notebooks that cannot show widgets, a picture of the position is shown.

    **Raises:** `ValueError` if the agent belongs to another game, or if `agent` is a player and `env` is missing.
    """
    session = new_session(agent, env=env, person=person, num_simulations=num_simulations, seed=seed)
    try:
        import anywidget
    except ImportError:
        return _Picture(session)

    class Board(anywidget.AnyWidget):
        _esm = FRONT_END.read_text("utf-8")

        def _repr_mimebundle_(self, **options: Any) -> Any:
            bundle = super()._repr_mimebundle_(**options)
            data, *rest = bundle if isinstance(bundle, tuple) else (bundle,)
            picture = _Picture(session)
            data = {**(data or {}), "text/html": picture._repr_html_(), "text/plain": repr(picture)}
            return (data, *rest) if rest else data

    board = Board()
    board.session = session  # pyright: ignore[reportAttributeAccessIssue]

    def hear(_: Any, message: Any, buffers: Any) -> None:
        del buffers
        if isinstance(message, dict) and isinstance(message.get("id"), str):
            answer: dict[str, Any] = {"error": "interrupted"}
            try:
                answer = {"view": session.ask(message.get("message"))}
            except Exception as error:
                answer = {"error": said(error)}
                raise
            finally:  # the board waits for an answer, even after Ctrl-C
                board.send({"id": message["id"], **answer})

    board.on_msg(hear)
    return board


def new_session(
    agent: str | os.PathLike | Player, *, env: Env | None, person: str, num_simulations: int | None, seed: int
) -> Session:
    """Returns a session with an agent that is given as a player, a file or a name."""
    if isinstance(agent, Player):
        if env is None:
            raise ValueError("widget: found a player without its game, expected both; give env= as well.")
    else:
        env = agent_env(agent, env=env)
        agent = load_agent(agent, env=env)
    return Session(env, agent, person=person, num_simulations=num_simulations, seed=seed)
