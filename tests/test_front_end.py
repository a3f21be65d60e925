"""The board as people see it: the page and the notebook in a real browser, the server's guards, and the terminal."""

import contextlib
import dataclasses
import http.client
import io
import json
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest
from browser import Page, needs_browser, open_browser
from slips import nim

import tz
import tz.play
from tz.__main__ import main

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def agent():
    return tz.Player(tz.without_exploration(tz.MCTS(8)), tz.uniform_evaluator)


@contextlib.contextmanager
def served(env, agent, session=tz.play.Session):
    with jax.numpy_dtype_promotion("standard"):
        server = tz.play.PageServer(lambda n: session(env, agent, seed=n), title=env.name)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@pytest.fixture
def server(env, agent):
    with served(env, agent) as server:
        yield server


def dots_and_boxes():
    """The game of notebook 03, by its own code: a player who closes a box moves again, and moves have no names."""
    notebook = nbformat.read(pathlib.Path(__file__).parents[1] / "notebooks" / "03_your_own_game.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    names = {}
    exec(code[code.index("import dataclasses") : code.index("def nim_position")], names)
    exec(code[code.index("def make_board") : code.index("def show(position")], names)
    return names["env"]


@pytest.fixture(scope="module")
def driver():
    driver = open_browser()
    yield driver
    driver.quit()


def new_page(driver, server):
    driver.get(server.url)
    page = Page(driver)
    page.ready()
    return page


@needs_browser()
def test_a_whole_game_is_played_by_clicking(driver, server, tmp_path):
    page = new_page(driver, server)
    assert page.text(".status") == "X to move" and len(page.clickable()) == 9
    while not page.data("over"):
        before = page.moves()
        page.square(page.clickable()[0])
        page.wait(lambda before=before: page.moves() > before)
        page.ready()
    assert page.text(".status") in ("X wins", "O wins", "Draw") and not page.clickable()
    assert len(driver.find_elements("css selector", "[data-do=step]")) == page.moves() >= 5
    assert not page.errors()
    picture = tmp_path / "page.png"
    driver.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000


@needs_browser()
@pytest.mark.parametrize("name", ["connect_four", "dots and boxes"])
def test_whole_games_of_other_kinds_are_played_by_clicking(driver, name):
    """In Connect Four a move is a column; Dots and Boxes has a button for each move, and moves that follow a move."""
    env = dots_and_boxes() if name == "dots and boxes" else tz.from_pgx(name)
    with served(env, tz.random_player()) as server:
        page = new_page(driver, server)
        while not page.data("over"):
            before = page.moves()
            if name == "connect_four":
                page.square(page.clickable()[before % 3])
            else:
                driver.find_element("css selector", "[data-move]").click()
            page.wait(lambda before=before: page.moves() > before)
            page.ready()
        assert "wins" in page.text(".status") or page.text(".status") == "Draw"
        assert page.moves() == 12 if name == "dots and boxes" else page.moves() >= 7
        assert not page.errors()


@needs_browser()
def test_undo_overlay_steps_sides_and_two_games(driver, server):
    page = new_page(driver, server)
    page.square("b2")
    page.wait(lambda: page.moves() == 2)
    page.ready()
    page.press("overlay")
    page.wait(lambda: len(driver.find_elements("css selector", "tr.best")) == 1)
    assert "Expects:" in page.text(".line") and len(driver.find_elements("css selector", ".pic svg text")) > 6 + 7
    page.press("back")
    page.wait(lambda: page.data("at") == "1")
    page.ready()
    assert not page.clickable() and page.moves() == 2
    other = driver.current_window_handle
    driver.switch_to.new_window("tab")
    second = new_page(driver, server)
    assert second.moves() == 0
    driver.close()
    driver.switch_to.window(other)
    page.press("undo")
    page.wait(lambda: page.moves() == 0)
    page.ready()
    choose(driver, "person", "second")
    page.wait(lambda: page.moves() == 1)  # the agent begins
    page.ready()
    assert page.text(".status") == "O to move"
    page.press("resign")
    page.wait(lambda: page.data("over") == "yes")
    assert page.text(".status") == "X wins by resignation"
    page.press("new")
    page.wait(lambda: not page.data("over"))
    page.ready()
    assert page.moves() == 1
    assert not page.errors()


def choose(driver, name, value):
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("css selector", f"[data-do={name}]")).select_by_value(value)


@needs_browser()
def test_looking_at_a_game_between_agents_does_not_stop_it(driver, env, agent):
    class Slow(tz.play.Session):
        """Takes longer for a view than the page waits between two moves."""

        def ask(self, message):
            time.sleep(0.6 * (message["do"] == "view"))
            return super().ask(message)

    with served(env, agent, Slow) as server:
        page = new_page(driver, server)
        choose(driver, "person", "nobody")
        for button in ("overlay", "back"):
            before = page.moves()
            page.wait(lambda before=before: page.moves() > before, seconds=30)
            page.press(button)
        page.wait(lambda: page.data("over") == "yes", seconds=30)
        assert not page.errors()


@needs_browser()
def test_clicks_during_an_answer_are_not_lost(driver, env, agent):
    answered = threading.Event()

    class Slow(tz.play.Session):
        """Makes the move of the agent when the test allows it."""

        def ask(self, message):
            assert message["do"] != "reply" or answered.wait(60)
            return super().ask(message)

    with served(env, agent, Slow) as server:
        page = new_page(driver, server)
        page.square("b2")
        page.wait(lambda: page.data("busy") == "yes" and page.moves() == 1)
        choose(driver, "simulations", "32")
        choose(driver, "person", "both")
        page.press("new")
        answered.set()
        page.wait(lambda: page.moves() == 0, seconds=30)
        page.ready()
        nodes = [driver.find_element("css selector", f"[data-do={name}]") for name in ("simulations", "person")]
        assert [node.get_attribute("value") for node in nodes] == ["32", "both"]
        assert not page.errors()


@needs_browser()
def test_undo_and_resign_during_an_answer(driver, env, agent):
    answered = threading.Event()

    class Slow(tz.play.Session):
        def ask(self, message):
            assert message["do"] != "reply" or len(self.game.names) != 3 or answered.wait(60)
            return super().ask(message)

    with served(env, agent, Slow) as server:
        page = new_page(driver, server)
        page.square("b2")
        page.wait(lambda: page.moves() == 2)
        page.square(page.clickable()[0])
        page.wait(lambda: page.data("busy") == "yes" and page.moves() == 3)
        page.press("undo")
        page.press("undo")
        answered.set()
        page.wait(lambda: page.moves() == 0, seconds=30)
        page.press("resign")
        page.wait(lambda: page.data("over") == "yes")
        page.press("undo")
        page.wait(lambda: page.data("over") == "")
        assert not page.errors()


def test_whoever_resigns_while_the_agent_thinks_has_lost(env, agent):
    session = tz.play.Session(env, agent)
    session.ask({"do": "move", "move": "b2"})
    view = session.ask({"do": "resign"})
    assert session.game.returns == (-1.0, 1.0) and view["status"].endswith("wins by resignation")
    with pytest.raises(ValueError, match="found person='second', expected one of first, nobody"):
        tz.play.Session(tz.from_pgx("2048"), agent, person="second")


def ask(server, body, path="/ask", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request("POST", path, body, given)
    with connection.getresponse() as answer:
        status, text = answer.status, answer.read()
    connection.close()
    return status, json.loads(text)


def test_requests_from_elsewhere_and_malformed_ones_are_refused(server):
    message = json.dumps({"message": {"do": "view"}})
    assert ask(server, message)[0] == 200
    assert ask(server, message, Origin=server.url.rstrip("/"))[0] == 200
    assert ask(server, message, Host="evil.example")[0] == 403
    assert ask(server, message, Host="127.0.0.1")[0] == 403
    assert ask(server, message, Origin="http://evil.example")[0] == 403
    assert ask(server, message, Origin="null")[0] == 403
    assert ask(server, message, Content_Type="text/plain")[0] == 415
    assert ask(server, message, path="/other")[0] == 404
    assert ask(server, "x" * 70_000)[0] == 413
    for body in ("", "{", "[" * 60_000, "[]", "7", '{"session": 3}', "\xff"):
        status, answer = ask(server, body.encode("latin-1"))
        assert status == 400 and answer["error"].startswith("play: found")
    evil = urllib.request.Request(server.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(evil)
    refused.value.close()
    with urllib.request.urlopen(server.url) as page:
        assert b"start.js" in page.read() and "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert ask(server, message)[0] == 200, "the server goes on"


def test_games_do_not_mix(server):
    def game(name, move=None):
        do = {"do": "view"} if move is None else {"do": "move", "move": move}
        return ask(server, json.dumps({"session": name, "message": do}))[1]

    one, two = game(None)["session"], game(None)["session"]
    assert one != two
    assert game(one, "a1")["view"]["history"] == ["a1"] and game(two, "c3")["view"]["history"] == ["c3"]
    assert game(one)["view"]["history"] == ["a1"]
    answer = game("no such game", "b2")
    assert answer["session"] not in (one, two, "no such game")
    assert answer["view"]["history"] == [] and "no longer kept" in answer["view"]["error"]


def test_a_fault_in_a_game_of_ones_own_is_answered(env, agent, capsys, monkeypatch):
    twins = dataclasses.replace(env, label=lambda state, action: "abcdefgh"[min(int(action), 7)], board=None)
    with served(twins, agent) as server:
        status, answer = ask(server, json.dumps({"message": {"do": "view"}}))
    assert status == 500 and answer["error"].startswith("tic_tac_toe: found the name 'h' for the legal actions")
    assert "Traceback" in capsys.readouterr().err
    board, sent = tz.play.widget(agent, env=twins), []
    monkeypatch.setattr(board, "send", sent.append)
    board._handle_custom_msg({"id": "1", "message": {"do": "view"}}, [])  # it logs the error
    assert sent[0]["id"] == "1" and "found the name 'h'" in sent[0]["error"]


def test_the_default_port_is_left_out_by_browsers(server, monkeypatch):
    assert not server.is_from_here("localhost", None)
    monkeypatch.setattr(server, "port", 80)
    assert server.is_from_here("localhost", "http://localhost") and not server.is_from_here("evil.example", None)


def test_a_tab_that_closes_during_an_answer_is_forgotten(env, agent, capsys):
    begun, gone, handled = threading.Event(), threading.Event(), threading.Event()

    class Slow(tz.play.Session):
        def ask(self, message):
            begun.set()
            gone.wait(60)
            return super().ask(message)

    with served(env, agent, Slow) as server:
        shut = server._server.shutdown_request
        server._server.shutdown_request = lambda request: (shut(request), handled.set())
        body = json.dumps({"message": {"do": "view"}})
        with socket.create_connection(("127.0.0.1", server.port)) as tab:
            head = f"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
            tab.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            assert begun.wait(60)
            tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        assert handled.wait(60)
    assert "Traceback" not in capsys.readouterr().err


def test_a_port_in_use_is_named(env, agent, server):
    with pytest.raises(ValueError, match=f"found port {server.port}, which cannot be used .* expected a free one"):
        tz.play.PageServer(lambda n: tz.play.Session(env, agent), port=server.port)
    with pytest.raises(ValueError, match="found port 99999"):
        tz.play.PageServer(lambda n: tz.play.Session(env, agent), port=99999)


BAD = {
    "move": [{"do": "move", "move": m} for m in ("z9", "", "x" * 1_000_000, 4, None, ["a1"], True)],
    "do": [{"do": "fly"}, {"do": ["view"]}, [], None, 3, "view"],
    "settings": [
        *({"do": "settings", "simulations": n} for n in (-1, 10**9, 2.5, "8", True)),
        {"do": "new", "person": "everyone"},
        {"do": "settings", "person": 7},
        {"do": "settings", "person": ["first"]},
    ],
    "at": [{"do": "view", "at": "2"}, {"do": "view", "at": 1.5}],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_messages_are_answered_and_the_game_goes_on(env, agent, kind):
    session = tz.play.Session(env, agent)
    session.ask({"do": "move", "move": "b2"})
    session.ask({"do": "reply"})
    before = session.ask({"do": "view"})
    assert before["error"] == "" and len(before["history"]) == 2
    for message in BAD[kind]:
        view = session.ask(message)
        assert view["error"] and len(view["error"]) < 300, message
        assert view | {"error": ""} == before
    assert session.ask({"do": "view", "at": 99})["at"] == 2
    json.dumps(view)


def test_a_session_may_return_to_the_simulations_that_it_began_with(env, agent):
    for begun, most in (8, 10_000), (20_000, 20_000):
        session = tz.play.Session(env, agent, num_simulations=begun)
        for number in (8, most):
            view = session.ask({"do": "new", "simulations": number})
            assert view["error"] == "" and view["simulations"] == number
        error = session.ask({"do": "settings", "simulations": most + 1})["error"]
        assert error == f"play: found {most + 1} simulations, expected from 0 to {most}."


def test_the_agents_side_is_not_moved_for_it(env, agent):
    session = tz.play.Session(env, agent, person="second")
    view = session.ask({"do": "move", "move": "b2"})
    assert "expected none; wait for its answer" in view["error"] and view["waiting"] and not view["moves"]
    assert len(session.ask({"do": "reply"})["history"]) == 1
    assert len(session.ask({"do": "reply"})["history"]) == 1, "a person is to move"


def test_the_value_is_that_of_the_first_side(env):
    def first_loses(state, metadata, key):
        return jnp.zeros(9), jnp.where(state._x.color == 0, jnp.float32(-0.5), jnp.float32(0.5))

    agent = tz.Player(tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0), first_loses)
    for person in ("first", "second"):
        session = tz.play.Session(env, agent, person=person)
        view = session.ask({"do": "view", "overlay": True})
        assert view["value"] == pytest.approx(-0.5)
        assert view["svg"].count("11%") == 9, "without a search, the overlay shows the policy"
        session.ask({"do": "move", "move": "b2"} if person == "first" else {"do": "reply"})
        view = session.ask({"do": "view", "overlay": True})
        assert view["value"] == pytest.approx(-0.5) and view["analysis"]["value"] == pytest.approx(0.5)


def test_a_game_of_ones_own_needs_neither_names_nor_drawings():
    agent = tz.Player(tz.without_exploration(tz.MCTS(16)), tz.uniform_evaluator)
    session = tz.play.Session(nim(), agent)
    view = session.ask({"do": "view", "overlay": True})
    assert [move["name"] for move in view["moves"]] == ["0", "1"] and "[0]: 5" in view["svg"]
    assert session.ask({"do": "move", "move": "1"})["history"] == ["1"]
    image = np.zeros((4, 6, 3), np.uint8)
    drawn = tz.Env(*(getattr(nim(), part) for part in ("init", "step", "observe")), name="nim", draw=lambda s: image)
    assert "data:image/png;base64" in tz.play.Session(drawn, agent).ask({"do": "view"})["svg"]


WITHOUT_SQUARES = "2048", "minatar-asterix", "minatar-breakout", "minatar-freeway", "dots and boxes"
GAMES = *WITHOUT_SQUARES, "backgammon", "connect_four", "animal_shogi", "othello", "hex", "go_9x9", "gardner_chess"


@pytest.mark.parametrize("name", GAMES)
def test_games_of_every_kind_are_played_to_their_end(name):
    """Or for 120 moves. Each move is one of those that the view offers; off the board are only passes and the like."""
    env = dots_and_boxes() if name == "dots and boxes" else tz.from_pgx(name)
    session = tz.play.Session(env, tz.random_player(), person="both" if env.num_players == 2 else "first")
    view, rng = session.ask({"do": "view"}), random.Random(1)
    for number in range(120):
        assert view["svg"].startswith("<svg") and view["num_players"] == env.num_players and view["moves"]
        on_board = [move for move in view["moves"] if move["squares"]]
        others = {move["name"] for move in view["moves"] if not move["squares"]}
        assert not on_board if name in WITHOUT_SQUARES else others <= {"pass", "swap", "no move"}, others
        assert {square for move in on_board for square in move["squares"]} <= set(view["squares"])
        view = session.ask({"do": "move", "move": rng.choice(view["moves"])["name"]})
        assert len(view["history"]) == number + 1 and not view["error"]
        if view["over"]:
            break
    assert (
        view["over"] == (name not in ("2048", "backgammon", "minatar-freeway"))
        and (view["moves"] == []) == view["over"]
    )


def played(env, agent, lines, **options):
    texts, lines = [], iter(lines)
    game = tz.play.Game(env, [None, agent], **options)
    tz.play.play_in_terminal(game, read=lambda prompt: next(lines), write=texts.append)
    return game, "\n".join(texts)


def test_the_terminal_plays_answers_and_goes_on(env, agent):
    game, text = played(
        env, agent, ["b2", "undo", "zz", "B2", "b2", "hint", "moves", "help", "resign", "a1", "new", "quit"]
    )
    assert game.names == () and not game.is_over
    for words in ("The agent plays", "find_move: found 'zz', which names no move", "which is not legal here"):
        assert words in text
    assert "expects" in text and "You lose." in text and "found a game that is over" in text and "to move: X" in text


def test_in_the_terminal_a_person_can_move_for_a_function_that_fails(env):
    game, text = played(env, lambda state: "a1", ["a1", "b2", "undo", "quit"])
    assert "Game.reply: found no legal move from the function <lambda>" in text and game.names == ()
    game, text = played(env, lambda state: "a1", ["a1", "b2", "quit"])
    assert game.names == ("a1", "b2")


def test_the_terminal_ends_with_its_input(env, agent):
    def end(prompt):
        raise EOFError

    tz.play.play_in_terminal(tz.play.Game(env), read=end, write=lambda text: None)


def test_the_command_plays_in_the_terminal_and_says_what_is_wrong(tmp_path, monkeypatch, capsys, env):
    network = tz.MLP(env.observation.shape, 9, key=jax.random.key(0))
    tz.save_agent(tmp_path / "agent.tz", env, network)
    monkeypatch.setattr("sys.stdin", io.StringIO("b2\nquit\n"))
    main(["play", str(tmp_path), "--terminal", "--simulations", "4"])
    assert "The agent plays" in capsys.readouterr().out
    for arguments, message in {
        ("nothing",): "error: load_agent: found no agent at nothing",
        (str(tmp_path), "--port", "99999"): "error: PageServer: found port 99999",
        (str(tmp_path), "--simulations", "-1"): "error: num_simulations: found -1, expected at least 0",
        (str(tmp_path), "--simulations", "4.5"): "error: .*found '4.5', expected a whole number; see .*play --help",
        (str(tmp_path), "--simulations", "4", "--simulations", "5"): "expected this option once",
        (str(tmp_path), "--seed", str(2**70)): "error: .*expected a whole number from -2",
        (str(tmp_path), "--person", "me"): "error: .*found 'me', expected one of first, second, both, nobody",
        (str(tmp_path), "--sims", "4"): r"error: found --sims 4.*did you mean --simulations",
        (): "error: play: found no agent, expected the file of one",
    }.items():
        with pytest.raises(SystemExit, match=message):
            main(["play", *arguments])
    for command in "play", "gtp":
        main([command, "--help"])
        assert "--simulations N" in capsys.readouterr().out


def test_the_commands_play_a_game_of_ones_own(tmp_path, monkeypatch, capsys):
    make = "return dataclasses.replace(slips.nim(), label=lambda state, action: f'take{action + 1}')"
    (tmp_path / "games_to_play.py").write_text(f"import dataclasses\nimport slips\n\ndef make_env():\n    {make}\n")
    monkeypatch.syspath_prepend(tmp_path)
    game = tz.runs.game_recipe("games_to_play:make_env").build()[0].test_env
    network = tz.MLP(game.observation.shape, game.num_actions, width=4, key=jax.random.key(0))
    tz.save_agent(tmp_path / "agent.tz", game, network)
    words = [str(tmp_path), "--env", "games_to_play:make_env", "--simulations", "4"]
    monkeypatch.setattr("sys.stdin", io.StringIO("take1\nquit\n"))
    main(["play", *words, "--terminal"])
    assert "The agent plays take" in capsys.readouterr().out
    commands = io.TextIOWrapper(io.BytesIO(b"play b take1\ngenmove w\nquit\n"))
    monkeypatch.setattr("sys.stdin", commands)
    main(["gtp", *words])
    first, second, *_ = capsys.readouterr().out.split("\n\n")
    assert first.strip() == "=" and second.startswith("= take")
    for command in "play", "gtp":
        with pytest.raises(SystemExit, match="error: .*found no function 'other' in the module 'games_to_play'"):
            main([command, str(tmp_path), "--env", "games_to_play:other"])
        with pytest.raises(SystemExit, match="error: .*expected"):
            main([command, str(tmp_path)])  # the file does not know how to make the game


def test_without_widgets_there_is_a_sentence_and_a_picture(env, agent, monkeypatch):
    board = tz.play.widget(agent, env=env)
    bundle = board._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "pip install 'tz[play]'" in data["text/html"] and "<svg" in data["text/html"]
    monkeypatch.setitem(sys.modules, "anywidget", None)
    picture = tz.play.widget(agent, env=env)
    assert "<svg" in picture._repr_html_() and "pip install 'tz[play]'" in repr(picture)
    with pytest.raises(ValueError, match="found a player without its game, expected both; give env="):
        tz.play.widget(agent)


NOTEBOOK = """
import tz, tz.play
env = tz.from_pgx("tic_tac_toe")
agent = tz.Player(tz.without_exploration(tz.MCTS(8)), tz.uniform_evaluator)
tz.play.widget(agent, env=env)
"""


@needs_browser()
def test_the_board_in_a_notebook(driver, tmp_path):
    pytest.importorskip("jupyterlab", reason="the notebook is tested in JupyterLab: pip install jupyterlab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # or JupyterLab would ask
    notebook = nbformat.v4.new_notebook(metadata=kernel, cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    nbformat.write(notebook, tmp_path / "play.ipynb")
    with tz.play.page.ThreadingHTTPServer(("127.0.0.1", 0), tz.play.page.BaseHTTPRequestHandler) as free:
        port = free.server_address[1]
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
    ]
    options += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={tmp_path}"]
    folder = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME")}
    source = {"PYTHONPATH": str(pathlib.Path(tz.__file__).parents[1])}
    run = [sys.executable, "-m", "jupyterlab", *options]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(run, env=os.environ | folder | source, stderr=log) as lab:
        try:
            _play_in_lab(driver, f"http://127.0.0.1:{port}/lab/tree/play.ipynb", tmp_path)
        finally:
            lab.terminate()


def _play_in_lab(driver, url, tmp_path):
    for _ in range(240):
        try:
            urllib.request.urlopen(url).close()
            break
        except OSError:
            time.sleep(0.5)
    driver.get(url)
    page = Page(driver)
    script = "return Boolean(window.jupyterapp && document.querySelector('.jp-Notebook-cell'))"
    page.root = lambda: (driver.find_elements("css selector", ".tzp") or driver.find_elements("tag name", "body"))[0]
    page.wait(lambda: driver.execute_script(script))
    page.wait(lambda: "| Idle" in driver.find_element("css selector", "body").text)  # a kernel, or nothing is run
    time.sleep(1)
    driver.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.ready()
    page.square("b2")
    page.wait(lambda: page.moves() == 2)
    page.ready()
    driver.save_screenshot(str(tmp_path / "lab.png"))
    page.press("undo")
    page.wait(lambda: page.moves() == 0)
