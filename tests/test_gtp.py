"""The GTP server: transcripts, bad input, clocks, analysis, scores, and whole games."""

import dataclasses
import io
import re
import shlex
import shutil
import sys

import jax
import numpy as np
import pytest
from pgx.go import Go

import tz
from tz.matches import GtpEngine, HostPlayer
from tz.matches.engines import setup_commands
from tz.play._clock import Clock
from tz.play._gtp_lines import MAX_LINE, LineReader, TooLongError, split_command
from tz.play._scores import final_score
from tz.play._thinking import Thinker, anytime

pytestmark = pytest.mark.once

SMALL = tz.MCTS(16, root=tz.Dirichlet())


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def server(env):
    return tz.play.GtpServer(env, tz.Player(SMALL, tz.uniform_evaluator), num_simulations=40)


def talk(server, text: str | bytes) -> list[str]:
    """Sends the lines of a text to the server in a new game; returns the answers."""
    server._clear_board()
    server.clock = Clock()
    out = io.StringIO()
    server.run(io.BytesIO(text if isinstance(text, bytes) else text.encode()), out)
    assert out.getvalue() == "" or out.getvalue().endswith("\n\n")
    return out.getvalue().split("\n\n")[:-1]


# Each line with a pattern that the whole answer must match.
TRANSCRIPTS = {
    "facts": [
        ("protocol_version", "= 2"),
        ("1 protocol_version", "=1 2"),
        ("2 name", "=2 tz"),
        ("3 version", r"=3 \d.*"),
        ("4 known_command genmove", "=4 true"),
        ("known_command genmoves", "= false"),
        ("known_command", "= false"),
        ("known_command lz-analyze", "= true"),
        ("known_command komi", "= false"),
        ("5 list_commands", "=5 protocol_version\n(\\S+\n)*undo\n(\\S+\n)*kata-analyze"),
    ],
    "a game": [
        ("play b a1", "= "),
        ("play W B2", "= "),
        ("play Black c1", "= "),
        ("genmove white", "= b1"),
        ("showboard", r"= \n.*\n3 \. \. \.\n2 \. O \.\n1 X O X\n(.|\n)*"),
        ("genmove b", "= b3"),
        ("undo", "= "),
        ("undo", "= "),
        ("play w b1", "= "),
        ("play b a3", "= "),
        ("reg_genmove w", "= b3"),
        ("play w b3", "= "),
        ("final_score", r"= W\+1"),
        ("genmove b", r"\? illegal move, the game is over"),
        ("play b c3", r"\? illegal move, the game is over"),
        ("lz-analyze", r"\? the game is over"),
        ("undo", "= "),
        ("final_score", r"\? the game is not over.*"),
        ("clear_board", "= "),
        ("undo", r"\? cannot undo, no move was made"),
        ("play b b2", "= "),
    ],
    "bad input": [
        ("\t play\tb   a1 # the corner", "= "),
        ("7 play b a1", r"\?7 illegal move, it is the other colour's turn, and it cannot pass"),
        ("play w a1", r"\? illegal move, found 'a1', which is not legal here.*"),
        ("play w z9", r"\? invalid move, found 'z9', which names no move.*"),
        ("play w", r"\? wrong number of arguments for play"),
        ("play", r"\? wrong number of arguments for play"),
        ("play purple b2", r"\? invalid color 'purple', expected b or w"),
        ("genmove", r"\? wrong number of arguments for genmove"),
        ("genmove w b", r"\? wrong number of arguments for genmove"),
        ("genmove b", r"\? illegal move, it is the other colour's turn.*"),
        ("fly me to the moon", r"\? unknown command"),
        ("12", r"\?12 unknown command"),
        ("12a", r"\? unknown command"),
        ("boardsize nine", r"\? unacceptable size, the agent plays tic_tac_toe"),
        ("boardsize 19", r"\? unacceptable size, the agent plays tic_tac_toe"),
        ("boardsize", r"\? wrong number of arguments for boardsize"),
        ("komi 5", r"\? unknown command"),
        ("time_settings 1 2", r"\? wrong number of arguments for time_settings"),
        ("time_settings soon 1 2", r"\? invalid main time 'soon', expected a number of at least 0"),
        ("time_settings nan 1 2", r"\? invalid main time 'nan'.*"),
        ("time_left b -3 0", r"\? invalid time '-3'.*"),
        ("lz-analyze b", r"\? it is the other colour's turn"),
        ("lz-analyze w interval soon avoid w a2 3", r"\? the moves of an analysis cannot be restricted"),
        ("play w b\x012\x7f", "= "),
        ("play b " + 60 * "c", r"\? invalid move, found 'c+\.\.\.', which names no move.*"),
        ("showboard", r"= \n.*\n3 \. \. \.\n2 \. O \.\n1 X \. \.\n(.|\n)*"),
    ],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript(server, name):
    lines, expected = zip(*TRANSCRIPTS[name], strict=True)
    answers = talk(server, "\n# a comment\n   \n\n".join(lines) + "\n")
    assert len(answers) == len(lines)
    for line, pattern, answer in zip(lines, expected, answers, strict=True):
        assert re.fullmatch(pattern, answer), (line, answer)


def test_quit_ends_it_and_so_does_the_end_of_the_lines(server):
    assert talk(server, "name\n8 quit\nname\n") == ["= tz", "=8 "]
    assert talk(server, "name\nname") == ["= tz", "= tz"]
    assert talk(server, "") == []


def test_a_line_of_a_megabyte_and_bytes_that_are_no_text_are_answered(server):
    long = b"play b " + b"a" * 2**20
    answers = talk(server, b"name\n" + long + b"\n\xff\xfe\x00 \xf0\nplay b \xff\n\x00\r\nversion\r\n" + long)
    assert answers[0] == "= tz" and answers[1] == f"? the line is longer than {MAX_LINE} characters"
    assert answers[2] == "? unknown command" and answers[3].startswith("? invalid move, found")
    assert answers[4].startswith("= ") and answers[5] == answers[1] and len(answers) == 6


def test_lines_are_cut_where_the_protocol_says():
    assert split_command("17 play\tb  d4\r\n") == ("17", "play", ["b", "d4"])
    assert split_command("play b d4#17 play") == ("", "play", ["b", "d4"])
    assert split_command("  # nothing\n") == ("", "", []) == split_command("\x07\n")
    exact = LineReader(io.BytesIO(b"x" * (MAX_LINE - 1) + b"\n" + b"x" * MAX_LINE + b"\nlast"))
    assert len(exact.next() or "") == MAX_LINE
    with pytest.raises(TooLongError):
        exact.next()
    assert exact.next() == "last" and exact.next() is None and exact.is_waiting() is False


def test_whatever_goes_wrong_inside_it_goes_on_from_the_same_position(server, monkeypatch):
    def fail(self, seconds):
        raise MemoryError("out of\n\nmemory")

    with monkeypatch.context() as patch:
        patch.setattr(Thinker, "run_for", fail)
        answers = talk(server, "play b b2\n3 genmove w\nshowboard\n")
    assert answers[1] == "?3 MemoryError: out of memory" and "2 . X ." in answers[2] and "O" not in answers[2][:40]


def test_an_analysis_says_what_it_thinks_until_the_next_line_comes(server):
    """X at a1 and b1 threatens c1, so white, who is to move, must play there."""
    talk(server, "play b a1\nplay w b2\nplay b b1\n")
    waits = lambda: server._thinker.num_visits > 1500
    first, *rest = server.answer("5 lz-analyze w 20", waits)
    assert re.match(r"=5\ninfo move \S+ visits \d", first) and rest[-1] == "\n"
    rest = [first, *rest]
    best = re.search(r"info move (\S+) visits (\d+) winrate (\d+) prior (\d+) lcb \d+ order 0 pv (.*?) info", rest[-2])
    assert best and best[1] == "c1" and best[5].startswith("c1 a3"), "the third line is white's own threat, answered"
    visits = [int(x) for x in re.findall(r"visits (\d+)", rest[-2])]
    assert visits == sorted(visits, reverse=True) and len(visits) == 6
    assert visits[0] >= int(re.search(r"visits (\d+)", first)[1])
    priors = [int(x) for x in re.findall(r"prior (\d+)", rest[-2])]
    assert priors == [1667] * 6
    kata = list(server.answer("kata-analyze w 1 ownership true", lambda: True))
    winrates = [float(x) for x in re.findall(r"winrate (\S+)", kata[0])]
    assert 0.3 < winrates[0] <= 0.6 and min(winrates) < 0.2, "other moves lose"
    assert talk(server, "lz-analyze 1\nname\n")[1] == "= tz", "it says one thing at least, and then goes on"


def test_the_tree_is_kept_from_move_to_move_and_dropped_where_moves_are_taken_back(env):
    thinker = Thinker(env, tz.Player(SMALL, tz.uniform_evaluator), 40, jax.random.key(0))
    game = tz.play.Game(env)
    thinker.follow(game)
    thinker.run_for(None)
    assert thinker.num_visits == 40
    best = thinker.best()
    below = next(move.visits for move in thinker.candidates(game) if len(move.line) > 1)
    game.move(best)
    thinker.follow(game)
    assert 0 < thinker.num_visits == below - 1
    thinker.follow(game)
    assert thinker.num_visits == below - 1, "the same position again"
    game.go_back(0)
    game.move(8)
    thinker.follow(game)
    assert thinker.num_visits == 0


def test_a_search_that_is_gumbels_becomes_one_that_can_be_stopped():
    found = anytime(tz.gumbel_mcts(8), 50)
    assert isinstance(found.root, tz.PlainRoot) and isinstance(found.selector, tz.PUCT) and found.num_nodes == 101
    own = tz.MCTS(8, selector=tz.PUCT(c=3.0), root=tz.Dirichlet()) if "c" in vars(tz.PUCT()) else SMALL
    assert anytime(own, 50).selector == own.selector and isinstance(anytime(own, 50).root, tz.PlainRoot)


@pytest.mark.parametrize("seconds", [0.0, 0.4, 3.0, 1000.0])
def test_a_move_takes_the_simulations_that_fit_its_time(env, monkeypatch, seconds):
    """On a clock that advances by a tenth of a second for each simulation."""
    thinker = object.__new__(Thinker)
    thinker.mcts, thinker.seconds = dataclasses.replace(SMALL, num_simulations=200, max_nodes=None), 0.1
    now, done = [0.0], []

    def run(number):
        now[0] += 0.1 * number
        done.append(number)

    monkeypatch.setattr(thinker, "run", run)
    monkeypatch.setattr("tz.play._thinking.time.perf_counter", lambda: now[0])
    thinker.run_for(seconds)
    assert sum(done) >= 1 and sum(done) == 200 if seconds == 1000 else max(0.1, 0.7 * seconds) <= now[0]
    assert now[0] <= max(0.1, seconds) + 1e-9


def test_clocks():
    clock = Clock()
    assert clock.budget(0) is None, "no settings, no limit"
    clock.set(100.0, 0.0, 0)
    budget = clock.budget(0)
    assert budget is not None and 2 < budget < 10 and clock.budget(1) == budget
    for _ in range(500):
        spent = clock.budget(0)
        assert spent is not None
        clock.spend(0, spent + 0.01)
    assert 0 <= clock._sides[0].seconds < 100 and clock.budget(1) == budget, "500 moves do not use up its time"
    clock.set(0.0, 30.0, 10)
    assert 2 < clock.budget(0) < 3
    for _ in range(10):
        clock.spend(0, 2.5)
    assert 2 < clock.budget(0) < 3, "the next period has begun"
    clock.set(5.0, 30.0, 10)
    clock.spend(0, 15.0)
    assert clock._sides[0].seconds == 20 and clock._sides[0].moves == 10, "the rest is taken from the first period"
    clock.tell(1, 8.0, 2)
    assert 3 < clock.budget(1) < 4 and clock._sides[0].seconds == 20
    clock.set(5.0, 30.0, 10)
    clock.spend(0, 50.0)
    assert clock._sides[0].seconds == 0
    clock.restart()
    assert clock.budget(1) == clock.budget(0)
    clock.set(10.0, 30.0, 0)
    assert clock.budget(0) is None, "a period without moves: no limit, as the protocol has it"
    clock.tell(0, 5.0, 0)
    assert 0 < clock.budget(0) < 1, "an interface may say so without settings"
    clock.restart()
    assert clock.budget(0) is None, "a new game without settings"


def test_genmove_asks_its_clock_and_pays_what_it_took(server, monkeypatch):
    asked = []
    monkeypatch.setattr(Thinker, "run_for", lambda self, seconds: asked.append(seconds) or self.run(4))
    talk(server, "genmove b\ntime_settings 20 0 0\ngenmove w\ntime_left b 2 1\ngenmove b\n")
    assert asked[0] is None and 0.5 < asked[1] < 1 and 1.7 < asked[2] < 2
    assert server.clock._sides[1].seconds < 20


@pytest.mark.parametrize(
    ("name", "num_simulations", "message"),
    [
        ("tic_tac_toe", 0, "found num_simulations=0, expected at least 1"),
        ("mute", 4, "found tic_tac_toe, expected a game for two without chance, whose moves have names"),
        ("backgammon", 4, "found backgammon, expected a game for two without chance"),
        ("othello", 4, "othello.* another game"),
    ],
)
def test_what_cannot_be_served_is_refused(env, name, num_simulations, message):
    game = dataclasses.replace(env, label=None) if name == "mute" else tz.from_pgx(name)
    network = tz.MLP(env.observation.shape, env.num_actions, width=4, key=jax.random.key(0))
    player = tz.Player(SMALL, tz.NetworkEvaluator(network, env.observe))
    with pytest.raises(ValueError, match=message):
        tz.play.GtpServer(game, player, num_simulations=num_simulations)


# Games as people know them.


def game_of(name: str, moves: str) -> tz.play.Game:
    game = tz.play.Game(tz.from_pgx(name))
    for move in moves.split():
        game.move(move)
    return game


def test_scores_of_go_are_by_area_and_those_of_othello_by_discs():
    """Black has a wall on the c column and white on the g column: 27 points each, and the middle is neutral."""
    walls = " ".join(f"c{row} g{row}" for row in range(1, 10))
    assert final_score(game_of("go_9x9", walls)) == "W+7.5"
    assert final_score(game_of("go_9x9", walls + " e5 pass f5 pass")) == "W+5.5"
    assert final_score(game_of("go_9x9", "e5")) == "B+73.5"
    wiped_out = "e6 f4 e3 f6 g5 d6 e7 f5 c5"  # the shortest game there is
    assert final_score(game_of("othello", wiped_out)) == "B+13"
    with pytest.raises(ValueError, match="not over"):
        final_score(game_of("othello", wiped_out[:-3]))
    double_ko = "c9 b9 d8 a8 c7 b7 b8 c4 b4 b3 a3 d3 b2 c2 j9 c8 c3 pass b8"
    game = game_of("go_9x9", double_ko)
    game.move("b3")  # white repeats a position, and loses by that, whatever the area
    assert game.is_over and game.returns == (1.0, -1.0) and final_score(game) == "B+F"
    env = tz.from_pgx(Go(size=9, komi=0.5))
    game = tz.play.Game(env)
    for move in (walls + " e5 pass f5 pass pass").split():
        game.move(move)
    assert env.name == "go_9x9_komi_0.5" and setup_commands(tz.matches.GtpEngine("x"), env)[1] == "komi 0.5"
    assert game.is_over and game.returns == (1.0, -1.0) and final_score(game) == "B+1.5"


@pytest.fixture(scope="module")
def go():
    return tz.play.GtpServer(tz.from_pgx("go_9x9"), tz.Player(SMALL, tz.uniform_evaluator), num_simulations=2)


@pytest.mark.slow
def test_go_has_komi_sizes_and_passes(go):
    lines = {
        "boardsize 9": "= ",
        "boardsize 19": "? unacceptable size, the agent plays go_9x9",
        "komi 7.5": "= ",
        "komi 0.5": "? unacceptable komi, the agent plays with 7.5",
        "komi much": "? invalid komi 'much', expected a number",
        "play b J9": "= ",
        "play b a1": "= ",  # white passes between
        "play b PASS": "= ",
        "undo": "= ",
        "play w e5": "= ",
        "play b i5": "? invalid move, found 'i5', which names no move",
        "play b pass": "= ",
        "play w pass": "= ",
        "final_score": "= W+6.5",
        "play b c3": "? illegal move, the game is over",
    }
    answers = talk(go, "\n".join(lines) + "\n")
    for answer, (line, expected) in zip(answers, lines.items(), strict=True):
        assert answer.startswith(expected), (line, answer)
    assert re.fullmatch(r"= ([A-HJ][1-9]|pass)", talk(go, "genmove b\n")[0])


# Whole games with the program itself, by the engine of `tz.matches`.


def program(path, *options) -> str:
    return shlex.join([sys.executable, "-m", "tz", "gtp", str(path), *options])


def untrained(path, name: str) -> str:
    env = tz.from_pgx(name)
    network = tz.MLP(env.observation.shape, env.num_actions, width=8, depth=1, key=jax.random.key(0))
    tz.save_agent(path, env, network)
    return program(path, "--simulations", "4")


@pytest.mark.slow
def test_the_program_plays_a_match(env, tmp_path):
    engine = GtpEngine(untrained(tmp_path / "agent.tz", "tic_tac_toe"), num_processes=1, timeout=300.0)
    options = {"num_games": 4, "opening_moves": 1, "max_moves": 9, "key": jax.random.key(0)}
    match = tz.play_match(env, engine, HostPlayer(lambda state: int(np.argmax(state.legal_action_mask))), **options)
    assert not match.failures and match.finished.all()


@pytest.mark.parametrize("words", [["gtp", "nowhere.tz"], ["gtp"]])
def test_the_program_says_what_is_missing(words):
    from tz.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(words)
    assert "found no agent at nowhere.tz" in str(ended.value) or "gtp: found no agent, expected" in str(ended.value)


REAL = {"gnugo": ("go_9x9", "gnugo --mode gtp --level 1"), "gtp-rhino": ("othello", "gtp-rhino --level 1")}


@pytest.mark.slow
@pytest.mark.parametrize("other", REAL)
def test_the_program_plays_whole_games_with_the_engines_of_others(other, tmp_path):
    if shutil.which(other, path="/usr/games:/usr/bin:/usr/local/bin") is None:
        pytest.skip(f"{other} is not installed")
    name, command = REAL[other]
    engine = GtpEngine(untrained(tmp_path / "agent.tz", name), num_processes=1, timeout=300.0)
    options = {"num_games": 2, "opening_moves": 4, "max_moves": 170, "key": jax.random.key(0)}
    match = tz.play_match(tz.from_pgx(name), engine, GtpEngine(command), **options)
    assert not match.failures and match.finished.all()
