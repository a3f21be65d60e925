"""Matches with players that are not JAX: functions of Python, and engines that speak GTP, well-behaved or not."""

import dataclasses
import re
import shlex
import shutil
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_engine
import trainer

import tz
from tz.matches._gtp_process import GtpProcess
from tz.matches.engines import HostPlayer, check_one_process
from tz.runs import _start_checks

pytestmark = [pytest.mark.once, pytest.mark.slow]

NUM_GAMES = 12
OPTIONS = {"num_games": NUM_GAMES, "opening_moves": 2, "max_moves": 9, "key": jax.random.key(3)}
AGENT = tz.Player(tz.MCTS(8, root=tz.PlainRoot(), temperature=0.0), tz.uniform_evaluator)
ONE_LOOK = tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0, persist_tree=False)


def first_legal(state) -> int:
    return int(np.argmax(state.legal_action_mask))


def prefer_first(state, metadata, key):
    return -100.0 * jnp.arange(9.0), jnp.float32(0)


class Once(threading.Timer):
    """A timer that may be started again, without an effect."""

    def start(self):
        if not self.ident:
            super().start()


def toy(mode="good", *options, moves, **settings):
    words = [sys.executable, toy_engine.__file__, mode, "--moves", *moves, *options]
    return tz.matches.GtpEngine(shlex.join(words), **settings)


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def cells(env):
    state, _ = env.init(jax.random.key(0))
    return [tz.games.move_label(env, state, action) for action in range(9)]


@pytest.fixture
def processes(monkeypatch):
    """Collects the engine processes that a test starts; all must have ended when it ends."""
    found, init = [], GtpProcess.__init__

    def noted(self, *args):
        init(self, *args)
        found.append(self)

    monkeypatch.setattr(GtpProcess, "__init__", noted)
    yield found
    assert all(process._process.returncode is not None for process in found)
    assert not any(reader.is_alive() for process in found for reader in process._readers)


@pytest.fixture(scope="module")
def by_hand(env):
    return tz.play_match(env, AGENT, HostPlayer(first_legal), **OPTIONS)


def same(one, other):
    for name in ("returns", "finished", "player_id", "actions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_a_function_plays_the_very_match_that_a_compiled_player_plays(env, by_hand):
    compiled = tz.play_match(env, AGENT, tz.Player(ONE_LOOK, prefer_first), **OPTIONS)
    same(by_hand, compiled)
    assert by_hand.finished.all() and by_hand.score > 0.6 and len(set(map(bytes, np.asarray(by_hand.actions)))) > 4
    for game in (0, 1):
        one, other = (tz.replay_game(env, match, game) for match in (by_hand, compiled))
        np.testing.assert_array_equal(one._x.board, other._x.board)


def test_sides_may_be_swapped_and_both_players_be_functions(env):
    match = tz.play_match(env, HostPlayer(first_legal), tz.Player(ONE_LOOK, prefer_first), **OPTIONS)
    same(match, tz.play_match(env, HostPlayer(first_legal), HostPlayer(first_legal), **OPTIONS))


@pytest.mark.parametrize("num_processes", [1, 3, 40])
def test_an_engine_plays_the_very_match_that_a_function_plays(env, cells, by_hand, processes, num_processes):
    """The engine only knows the moves that it is told, including openings and the games of other processes."""
    same(tz.play_match(env, AGENT, toy(moves=cells, num_processes=num_processes), **OPTIONS), by_hand)
    assert len(processes) == min(num_processes, NUM_GAMES)


WRONG = {
    "crash": r"it ended when it was asked 'genmove [bw]' \(exit code 3\); its last lines: .*segmentation fault",
    "hang": r"no answer to 'genmove [bw]' in 2 s; its last lines: .*thinking about",
    "refuse": "it refused to move: I would rather not; its last lines: ",
    "garbage": "does not begin with = or \\?, as GTP requires; its last lines: .*Hello! I play",
    "illegal": r"which is not legal here.* \(its last lines: .*thinking about",
}


@pytest.mark.parametrize("mode", WRONG)
def test_an_engine_that_goes_wrong_spoils_its_game_alone(env, cells, by_hand, processes, mode):
    """It fails in the games in which the centre is taken when it is to move, from the opening on or later."""
    engine = toy(mode, "--trigger", cells[4], moves=cells, num_processes=2, timeout=2.0 if mode == "hang" else 20.0)
    with pytest.warns(UserWarning, match=r"found \d+ of 12 games spoilt .*; they count as not finished.* first: game"):
        match = tz.play_match(env, AGENT, engine, **OPTIONS)
    assert 0 < len(match.failures) < NUM_GAMES
    for failure in match.failures:
        game = int(failure.split(":")[0].removeprefix("game "))
        assert not match.finished[game] and "toy_engine.py" in failure
    asked = [failure for failure in match.failures if "not asked any more" not in failure]
    for failure in asked:
        assert re.search(WRONG[mode], failure), failure
    kept = np.asarray(match.finished)
    assert kept.sum() == NUM_GAMES - len(match.failures) and kept.any()
    np.testing.assert_array_equal(match.actions[kept], by_hand.actions[kept])
    np.testing.assert_array_equal(match.returns[kept], by_hand.returns[kept])
    assert match.wins + match.draws + match.losses == kept.sum()


def test_a_match_that_is_interrupted_does_not_wait_for_its_engines(env, cells, processes, monkeypatch):
    """Its engine hangs in many games, for five minutes each."""
    ask = GtpProcess.ask

    def ask_and_press(self, command):
        if command.startswith("genmove"):
            press.start()
        return ask(self, command)

    press = Once(1.0, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    monkeypatch.setattr(GtpProcess, "ask", ask_and_press)
    engine = toy("hang", "--trigger", cells[4], moves=cells, num_processes=1, timeout=300.0)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        tz.play_match(env, AGENT, engine, **OPTIONS)
    assert time.monotonic() - begun < 60


def test_an_engine_that_never_starts_is_given_up_soon(env, cells, processes):
    with pytest.warns(UserWarning, match=r"12 of 12 games.*no opening book found"):
        match = tz.play_match(env, AGENT, toy("dead", moves=cells, num_processes=1), **OPTIONS)
    assert len(processes) == 3 and not match.finished.any() and match.score == 0.5


def test_a_program_that_the_system_cannot_run_spoils_its_games(env, processes, tmp_path):
    """A script without `#!` is executable, and still nothing that can be executed."""
    script = tmp_path / "engine"
    script.write_text("print('= a1')")
    script.chmod(0o755)
    tester = tz.OpponentTester(tz.matches.GtpEngine(str(script)), "odd", NUM_GAMES, opening_moves=2, max_moves=9)
    inputs = AGENT.mcts, env, AGENT.evaluator, None
    with pytest.warns(UserWarning, match="spoilt by an engine or a function") as found:
        _, metrics = tester.test(*inputs, key=OPTIONS["key"], mesh=tz.data_mesh(jax.devices()[:1]))
    texts = [str(warning.message) for warning in found]
    assert re.search(r"engine cannot be started \(Exec format error\), expected a program, or .* `python3", texts[0])
    assert "OpponentTester: found no finished game in the test 'odd' (of 12 games, 12 spoilt by an engine" in texts[1]
    assert not processes and np.isnan(metrics["odd_score"]) and metrics["odd_unfinished"] == NUM_GAMES


def test_an_engine_may_resign(env, cells, by_hand):
    match = tz.play_match(env, AGENT, toy("resign", "--trigger", cells[4], moves=cells), **OPTIONS)
    assert match.finished.all() and not match.failures
    gone = (np.asarray(match.actions) >= 0).sum(1) < (np.asarray(by_hand.actions) >= 0).sum(1)
    assert 0 < gone.sum() < NUM_GAMES and (match.returns[gone] == 1).all()
    np.testing.assert_array_equal(match.returns[~gone], by_hand.returns[~gone])


def passing_game():
    """Three rounds: the first player takes a or b, the second can only pass; whoever took more of a has won."""

    def shown(turn, taken):
        over = turn >= 6
        mask = jnp.where(turn % 2 == 0, jnp.array([True, True, False]), jnp.array([False, False, True])) | over
        won = jnp.where(over, jnp.where(taken > 1, 1.0, -1.0), 0.0)
        return tz.StepMetadata(jnp.stack([won, -won]), mask, over, turn % 2)

    def init(key):
        return (jnp.int32(0), jnp.int32(0)), shown(jnp.int32(0), jnp.int32(0))

    def step(state, action):
        turn, taken = state
        after = jnp.minimum(turn + 1, 6), taken + (action == 0).astype(jnp.int32)
        metadata = shown(*after)
        rewards = jnp.where(turn < 6, metadata.rewards, 0.0)
        return after, tz.StepMetadata(rewards, metadata.action_mask, metadata.terminated, metadata.cur_player_id)

    label = lambda state, action: f"{'ab'[action]}{int(state[0]) // 2 + 1}" if action < 2 else "pass"
    return tz.Env(init, step, lambda state: jnp.stack(state).astype(jnp.float32), name="passing", label=label)


@pytest.mark.parametrize("no_pass", [(), ("--no-pass",)])
def test_a_forced_pass_is_neither_asked_for_nor_insisted_on(processes, no_pass):
    engine = toy("good", *no_pass, moves=["a1", "a2", "a3"])
    options = {"num_games": 2, "key": jax.random.key(0), "opening_moves": 0, "max_moves": 8}
    match = tz.play_match(passing_game(), engine, HostPlayer(lambda state: 2 if state[0] % 2 else 1), **options)
    np.testing.assert_array_equal(match.actions[:, :6], [[0, 2, 0, 2, 0, 2], [1, 2, 1, 2, 1, 2]])
    np.testing.assert_array_equal(match.returns, [1, 1])


def test_a_function_that_answers_wrongly_is_named_and_one_that_raises_is_heard(env):
    with pytest.warns(UserWarning, match=r"the function careless: tic_tac_toe: found 0 as the action, expected one of"):
        match = tz.play_match(env, AGENT, HostPlayer(careless), **OPTIONS)
    assert 0 < len(match.failures) <= NUM_GAMES
    with pytest.warns(UserWarning, match=r"found 'a3' as the action"):
        tz.play_match(env, AGENT, HostPlayer(lambda state: "a3"), **OPTIONS)
    with pytest.raises(ZeroDivisionError):
        tz.play_match(env, AGENT, HostPlayer(lambda state: 1 // 0), **OPTIONS)


def careless(state) -> int:
    return 0


def test_testers_and_tournaments_take_them(env, cells):
    mesh, options = tz.data_mesh(jax.devices()[:1]), {"num_games": NUM_GAMES, "opening_moves": 2, "max_moves": 9}
    tester = tz.OpponentTester(HostPlayer(first_legal), "first", **options)
    state = tester.init(tz.uniform_evaluator, mesh=mesh)
    _, metrics = tester.test(AGENT.mcts, env, tz.uniform_evaluator, state, key=OPTIONS["key"], mesh=mesh)
    assert metrics["first_score"] == tz.play_match(env, AGENT, HostPlayer(first_legal), **OPTIONS).score
    table = tz.round_robin(env, [AGENT, toy(moves=cells)], key=OPTIONS["key"], **options)
    assert table.wins[0, 1] == metrics["first_wins"] and table.draws[0, 1] == metrics["first_draws"]
    tz.matches.LadderTester((HostPlayer(first_legal), toy(moves=cells)), **options)


GOOD = {"moves": ["a1"]}
CASES = {
    "no program": (
        lambda env: (env, tz.matches.GtpEngine("gnugoo --mode gtp")),
        "GtpEngine: found no program 'gnugoo', expected an engine that is installed; .*apt-get install gnugoo",
    ),
    "another package": (
        lambda env: (env, tz.matches.GtpEngine("/nowhere/gtp-rhino")),
        "found no program '/nowhere/gtp-rhino'.*apt-get install grhino",
    ),
    "no words": (lambda env: (env, tz.matches.GtpEngine("  ")), "GtpEngine: found command='  ', expected a program"),
    "open quote": (lambda env: (env, tz.matches.GtpEngine("gnugo 'x")), "expected a program with its arguments"),
    "processes": (lambda env: (env, toy(**GOOD, num_processes=0)), "found num_processes=0, expected at least 1"),
    "timeout": (lambda env: (env, toy(**GOOD, timeout=0.0)), "found timeout=0.0, expected a finite number of seconds"),
    "forever": (lambda env: (env, toy(**GOOD, timeout=float("inf"))), "found timeout=inf, expected a finite number"),
    "two lines": (lambda env: (env, toy(**GOOD, setup=("a\nb",))), "expected one text for each command"),
    "no names": (
        lambda env: (tz.Env(env.init, env.step, env.observe, name="mute"), toy(**GOOD)),
        "found an engine for mute, whose moves have no names, expected a game with `label`",
    ),
    "chance": (lambda env: (tz.from_pgx("backgammon"), toy(**GOOD)), "a game with chance, expected one without"),
    "two arguments": (lambda env: (env, HostPlayer(lambda a, b: 0)), "expected a function state -> action"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named(env, name):
    make, message = CASES[name]
    with pytest.raises(ValueError, match=message):
        tz.play_match(*make(env)[:1], tz.random_player(), make(env)[1], num_games=2, key=jax.random.key(0))


@pytest.mark.parametrize("name", ["no program", "no names", "chance"])
def test_a_training_with_such_an_engine_is_refused_before_anything_is_compiled(env, name, monkeypatch):
    def compiled(*args):
        raise AssertionError("this compiles")

    monkeypatch.setattr(_start_checks, "_check_network", compiled)
    (game, engine), message = CASES[name][0](env), CASES[name][1]
    network = tz.MLP((3, 3, 2), 9, width=4, key=jax.random.key(0))
    mesh = tz.data_mesh(jax.devices()[:1])
    for tester in (
        tz.OpponentTester(engine, "gtp"),
        tz.ApproxEloTester(2, 2, 1, anchors=(tz.random_player(), engine)),
        tz.matches.LadderTester((tz.random_player(), engine)),
    ):
        config = dataclasses.replace(trainer.config(), testers=(tester,))
        with pytest.raises(ValueError, match=message):
            tz.init_loop(config, game, network, key=jax.random.key(0), mesh=mesh)


def test_players_that_are_not_jax_need_a_program_of_one_process(env, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    check_one_process("TrainConfig", AGENT)
    with pytest.raises(ValueError, match="TrainConfig: found a player that is not JAX and 2 processes, expected one"):
        _start_checks._check_testers(env, (tz.OpponentTester(HostPlayer(first_legal), "first"),))
    with pytest.raises(ValueError, match="play_match: found a player that is not JAX and 2 processes, expected one"):
        tz.play_match(env, AGENT, HostPlayer(first_legal), **OPTIONS)


def test_engines_cannot_begin_anywhere_and_nothing_on_the_host_is_traced(env):
    position = jax.vmap(env.init)(jax.random.split(jax.random.key(0), 1))
    with pytest.raises(ValueError, match="found openings for an engine, which has to be told the moves"):
        tz.play_match(env, AGENT, toy(**GOOD), num_games=2, key=jax.random.key(0), openings=position)
    tz.play_match(
        env, HostPlayer(first_legal), HostPlayer(first_legal), **OPTIONS | {"num_games": 2}, openings=position
    )
    with pytest.raises(ValueError, match="found a player that is not JAX in a traced call"):
        jax.jit(lambda key: tz.play_match(env, AGENT, HostPlayer(first_legal), num_games=2, key=key))(jax.random.key(0))


def test_a_person_plays_an_engine_and_takes_moves_back(env, processes):
    game = tz.play.Game(env, [None, toy("illegal", "--trigger", "c2", moves=["b2", "a1", "c3"])])
    game.move("a1")
    assert game.play() == ("b2",)
    game.move("c2")
    with pytest.raises(ValueError, match=r"Game.reply: found no move from an engine .*'a1', which is not legal here"):
        game.play()
    assert game.names == ("a1", "b2", "c2")
    game.go_back(0)
    game.move("c1")
    assert game.play() == ("b2",), "the engine is told the new moves from the beginning"
    assert len(processes) == 1
    game.set_players([None, toy("resign", "--trigger", "a1", moves=["b2"])])
    assert processes[0]._process.returncode is not None, "its place was taken"
    game.go_back(0)
    game.move("a1")
    assert game.play() == ("resign",) and game.has_resigned and game.returns == (1.0, -1.0)
    assert len(processes) == 2
    assert game.undo() == 1 and game.names == () and not game.is_over, "back to the person's own move"
    game.set_players([toy(moves=["a1", "b1", "c1"]), toy(moves=["a2", "b2", "c2"])])
    game.restart()
    assert game.play() == ("a1", "a2", "b1", "b2", "c1") and game.returns == (1.0, -1.0)
    del game  # ends the processes


def test_an_engine_that_fails_is_asked_again_as_often_as_a_person_wants(env, processes):
    game = tz.play.Game(env, [toy("dead", moves=["a1"]), None])
    for _ in range(5):
        with pytest.raises(ValueError, match="no opening book found"):
            game.play()
    assert len(processes) == 5
    texts, lines = [], iter(["", "moves", "b2", "a1", "quit"])
    tz.play.play_in_terminal(game, read=lambda prompt: next(lines), write=texts.append)
    assert game.names == ("b2", "a1") and len(processes) == 8, "at first, after Enter, and after the person's own move"


def test_a_host_player_in_a_game_gets_arrays_of_numpy_and_its_errors_are_heard(env):
    def last_free(state):
        assert isinstance(state.legal_action_mask, np.ndarray)
        return np.flatnonzero(state.legal_action_mask)[-1]

    game = tz.play.Game(env, [HostPlayer(last_free), None])
    assert game.play() == ("c1",)
    game.set_players([None, HostPlayer(lambda state: int("x"))])
    with pytest.raises(ValueError, match="invalid literal for int"):
        game.reply()


def test_a_game_refuses_an_engine_by_name(env):
    with pytest.raises(ValueError, match="found no program 'gnugoo'"):
        tz.play.Game(env, [None, tz.matches.GtpEngine("gnugoo --mode gtp")])
    with pytest.raises(ValueError, match="Game: found a position for a game with an engine"):
        tz.play.Game(env, [None, toy(**GOOD)], position=env.init(jax.random.key(0)))


REAL = {"gtp-rhino": ("othello", "gtp-rhino --level 1"), "gnugo": ("go_9x9", "gnugo --mode gtp --level 1")}


@pytest.mark.parametrize("program", REAL)
def test_real_engines_beat_random_moves(program):
    """Two whole games each, with passes: names of moves and rules agree with programs of others."""
    if shutil.which(program, path="/usr/games:/usr/bin:/usr/local/bin") is None:
        pytest.skip(f"{program} is not installed")
    game, command = REAL[program]
    engine = tz.matches.GtpEngine(command)
    options = {"num_games": 2, "opening_moves": 4, "max_moves": 170, "key": jax.random.key(0)}
    match = tz.play_match(tz.from_pgx(game), engine, tz.random_player(), **options)
    assert not match.failures and match.finished.all() and match.wins == 2
