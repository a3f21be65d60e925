"""The command line without a run: what it says, what it refuses, and which recipe and tests it chooses."""

import dataclasses
import io
import json
import re
import types

import jax
import numpy as np
import pytest

import tz
from tz._commands import training
from tz._commands.main import COMMANDS, main
from tz._commands.options import Parser, explanations, option_name, reader
from tz.games._named_games import named_game
from tz.runs import run_settings
from tz.runs import screen as screens
from tz.runs.screen import Screen, clock
from tz.runs.test_choices import chosen_testers
from tz.runs.timed import _EpochClock

GAMES = ("connect_four", "tic_tac_toe", "othello", "hex", "go_9x9", "go_19x19", "chess", "gardner_chess", "shogi")
GAMES += ("animal_shogi", "backgammon", "2048", "minatar-asterix", "minatar-breakout", "minatar-freeway")
GAMES += ("minatar-seaquest", "minatar-space_invaders")


def said(capsys, *arguments):
    main(arguments)
    return capsys.readouterr().out


def test_without_arguments_it_says_what_one_can_do(capsys):
    text = said(capsys)
    assert text == said(capsys, "--help")
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} ", text, re.MULTILINE) and command.about.endswith(".")


@pytest.mark.parametrize("command", ["train", "resume", "fork", "show", "plot", "match"])
def test_the_help_of_a_command_is_plain_text(command, capsys, monkeypatch):
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = said(capsys, command, "--help")
        assert f"python -m tz {command}" in text and not re.search(r"[`_]{2}|\]\[|\*\*|`", text)
        options = text[text.index("\n\n", 100) :]
        assert all(len(line) <= columns for line in options.splitlines() if line.startswith("   "))


def test_the_help_of_a_fork_has_no_defaults_of_a_game(capsys):
    text = said(capsys, "fork", "--help")
    assert "--optimizer" in text and "[adamw]" not in text and "--device " not in text and "--seeds" not in text


def test_the_help_of_training_has_the_games_the_important_options_first_and_every_option(capsys):
    text = said(capsys, "train", "--help")
    assert all(game in text for game in GAMES)
    order = [
        text.index(f"\n  {name}") for name in ("--env", "--out", "--num-channels", "--seed ", "--symmetry", "--l2")
    ]
    assert order == sorted(order)
    for cls in (tz.Recipe, tz.runs.RunSettings):
        names = {field.name for field in dataclasses.fields(cls)} - {"resume", "fork"}
        assert names <= explanations(cls).keys()
        assert all(f"\n  {option_name(name)}" in text for name in names)
        assert all(explanations(cls)[name].endswith(".") for name in names)
    assert "[0.5]" in said(capsys, "train", "--env", "othello", "--help").split("--q-scale")[1][:200]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--env othello --minutes 3", "train --env othello --minutes 3"),
        ("--out runs/a --resume --minutes 9", "resume runs/a --minutes 9"),
        ("--fork runs/a --out runs/b --minutes 3", "fork runs/a --out runs/b --minutes 3"),
    ],
)
def test_the_form_of_before_is_refused_with_what_to_write(words, line):
    with pytest.raises(SystemExit, match=f"found options without a command, expected one; write: python -m tz {line}$"):
        main(words.split())
    with pytest.raises(SystemExit, match="found the command 'trian', expected one of train"):
        main(["trian"])


def asking(text):
    main(["train", *text.split(), "--cpu-devices", "8"])


@pytest.fixture
def asked(monkeypatch):
    """Collects the recipes and settings of the requested runs instead of running them."""
    found = []

    def train_run(recipe, settings):
        found.append((recipe, settings))
        return types.SimpleNamespace(epoch=0)

    monkeypatch.setattr(training, "train_run", train_run)
    return found


def test_options_change_the_recipe_of_the_game(asked, capsys):
    asking("--env othello --minutes 2 --num_games 32 --max-nodes 40 --window none")
    recipe, settings = asked[-1]
    changes = {"num_games": 32, "max_nodes": 40, "window": None}
    assert recipe == dataclasses.replace(tz.runs.game_recipe("othello"), **changes)
    assert recipe.build()[0].mcts.num_nodes == 40
    assert (settings.minutes, settings.epochs, str(settings.out)) == (2.0, None, "runs/othello")
    printed = capsys.readouterr().out
    assert "othello on a CPU: " in printed and "--num-games 32" in printed and "--q-scale 0.5" in printed
    asking("--env othello --epochs 2 --test elo agent:a/b.tz --device gpu --tensorboard")
    recipe, settings = asked[-1]
    assert recipe == tz.runs.game_recipe("othello", "gpu") and recipe.search_dtype == "bfloat16"
    assert settings.test == ("elo", "agent:a/b.tz") and settings.tensorboard


def test_another_optimiser_has_its_own_learning_rate(asked, capsys):
    asking("--env othello --epochs 2 --optimizer adamw")
    asking("--env othello --epochs 2 --optimizer adamw --learning-rate 0.02")
    asking("--env hex --epochs 2 --optimizer muon")
    asking("--env othello --epochs 2 --optimizer muon")
    found = [(recipe.optimizer, recipe.learning_rate) for recipe, _ in asked]
    assert found == [("adamw", 3e-3), ("adamw", 0.02), ("muon", 5e-3), ("muon", 5e-3)]
    assert "--optimizer adamw: the learning rate is 0.003, the usual one" in capsys.readouterr().out


def test_tests_may_be_given_one_by_one_and_other_options_once(asked):
    asking("--epochs 2 --test elo --test ladder agent:a/b.tz")
    assert asked[-1][1].test == ("elo", "ladder", "agent:a/b.tz")
    for words, message in {
        "--epochs 2 --epochs 3": "found --epochs and --epochs, expected this option once; leave out all but one",
        "--epochs 2 --num_games=4 --num-games 8": "found --num-games and --num-games, expected this option once",
        "--epochs 2 --tensorboard --no-tensorboard": "found --tensorboard and --no-tensorboard, expected",
        "--epochs 2 --test elo --test elo": "test: found elo elo, expected tests with different names",
    }.items():
        with pytest.raises(SystemExit, match=message):
            asking(words)
    assert len(asked) == 1


LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("minutes", "inf", "a finite number or none"),
        ("minutes", "nan", "a finite number or none"),
        ("learning-rate", "1e999", "a finite number"),
        ("seed", str(LARGEST + 1), r"a whole number from -2\*\*63 to 2\*\*63 - 1"),
        ("seed", str(-LARGEST - 2), r"a whole number from -2\*\*63 to 2\*\*63 - 1"),
        ("seed", "1.5", "a whole number;"),
    ],
)
def test_numbers_that_are_not_finite_or_too_large_are_refused_by_name(option, value, expected, asked):
    length = "--minutes 1 " if option != "minutes" else ""
    with pytest.raises(SystemExit, match=rf"argument --{option}: found '{re.escape(value)}', expected {expected}"):
        asking(f"{length}--{option} {value}")
    if option == "seed":
        with pytest.raises(SystemExit, match=rf"argument --seed: found '{re.escape(value)}', expected {expected}"):
            main(["match", "random", "random", "--env", "tic_tac_toe", "--seed", value])
    assert not asked


@pytest.mark.parametrize("is_64_bit", [False, True])
def test_the_seeds_are_those_that_jax_takes(is_64_bit):
    before, read = jax.config.jax_enable_x64, reader((int,))
    jax.config.update("jax_enable_x64", is_64_bit)
    try:
        keys = [jax.random.key_data(jax.random.key(read(str(seed)))) for seed in (0, 2**32, LARGEST, -LARGEST - 1)]
        for seed in (LARGEST + 1, -LARGEST - 2):
            with pytest.raises(OverflowError):
                jax.random.key(seed)
    finally:
        jax.config.update("jax_enable_x64", before)
    assert bool((keys[0] == keys[1]).all()) != is_64_bit, "without 64 bits, only the lowest 32 count"


def test_an_option_of_a_parser_may_follow_one_of_several_values():
    parser = Parser("try")
    parser.add_argument("--many", nargs="+", action="extend")
    parser.add_argument("--one")
    words = ["--many", "a", "--one", "x", "--many", "b", "c"]
    assert parser.read(words) == {"help": False, "many": ["a", "b", "c"], "one": "x"}


def write_run(folder, *lines):
    """Writes the files of a run that `show` and `plot` read."""
    settings = run_settings.plain_settings(tz.runs.RunSettings(folder, epochs=9))
    (folder / "settings.json").write_text(json.dumps({"recipe": dataclasses.asdict(tz.Recipe()), "run": settings}))
    (folder / "metrics.jsonl").write_text("".join(lines))


LINES = [json.dumps({"epoch": epoch, "policy_loss": 1.0}) + "\n" for epoch in range(3)]


def test_a_run_is_shown_while_a_line_is_written_and_a_wrong_line_is_named(tmp_path, capsys):
    write_run(tmp_path, *LINES, '{"epoch": 3, "policy_l')
    assert "done: 3 epochs" in said(capsys, "show", str(tmp_path))
    for wrong, message in {
        "nonsense": "line 2 .* not JSON",
        "[4]": "line 2 .* not a JSON object",
        '{"loss": 1.0}': "has no epoch",
    }.items():
        write_run(tmp_path, LINES[0], wrong + "\n", LINES[1])
        with pytest.raises(SystemExit, match=rf"show: found lines in .*metrics\.jsonl that are not .*{message}"):
            main(["show", str(tmp_path)])


def test_a_picture_has_its_folder_made_and_errors_of_files_are_one_line(tmp_path, capsys):
    write_run(tmp_path, *LINES)
    picture = tmp_path / "pictures" / "all" / "a.png"
    assert f"The picture is {picture}" in said(capsys, "plot", str(tmp_path), "--out", str(picture))
    assert picture.stat().st_size > 1000
    picture.unlink()
    assert f"The picture is {picture}" in said(capsys, "plot", str(tmp_path), "--out", str(picture.with_suffix("")))
    assert picture.stat().st_size > 1000
    with pytest.raises(SystemExit, match=r"^error: plot: found an error of the system at .*metrics\.jsonl \(.*\), exp"):
        main(["plot", str(tmp_path), "--out", str(tmp_path / "metrics.jsonl" / "a.png")])


def slow(game):
    """Games whose rules take long to trace."""
    return "chess" in game or "shogi" in game or "19x19" in game


@pytest.mark.parametrize("game", [pytest.param(x, marks=[pytest.mark.slow] if slow(x) else []) for x in GAMES])
def test_every_game_has_a_recipe_that_can_be_built(game):
    for device in ("cpu", "gpu"):
        recipe = tz.runs.game_recipe(game, device)
        config, env = recipe.build()
        network, _ = recipe._network(env, jax.random.key(0)) if device == "cpu" else (None, None)
        assert config.num_games == recipe.num_games
        if network is not None:
            assert isinstance(network, tz.MLP if game == "backgammon" else tz.AZResNet)
        testers, best = chosen_testers((), recipe, config.test_env, tz.data_mesh(jax.devices()[:1]))
        is_alone = env.num_players == 1
        assert best == ("test_return" if is_alone else "elo")
        assert isinstance(testers[0], tz.matches.ReturnTester if is_alone else tz.ApproxEloTester)


def test_a_game_of_ones_own_is_named_by_module_and_function(monkeypatch, tmp_path):
    (tmp_path / "my_games.py").write_text(
        "import dataclasses, tz\n"
        "def make(): return dataclasses.replace(tz.from_pgx('tic_tac_toe'), name='mine')\n"
        "def wrong(): return 3\n"
        "def of_size(size): return make()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = named_game("my_games:make")
    assert env.name == "mine" and named_game("my_games:make") is env
    assert tz.runs.game_recipe("my_games:make").build()[0].test_env is env
    with pytest.raises(ValueError, match=r"found 'my_games:wrong' to return 3, expected a tz\.Env"):
        named_game("my_games:wrong")
    with pytest.raises(ValueError, match="found 'my_games:of_size', which cannot be called without arguments"):
        named_game("my_games:of_size")


def test_tests_are_chosen_by_words():
    env, mesh = tz.from_pgx("tic_tac_toe"), tz.data_mesh(jax.devices()[:4])
    recipe = tz.runs.game_recipe("tic_tac_toe")
    (ladder, engine), best = chosen_testers(("ladder", "gtp:some-engine"), recipe, env, mesh, num_games=10)
    assert best == "ladder_height" and len(ladder.rungs) == 4
    assert ladder.num_games == 16 and ladder.opening_moves == recipe.opening_moves == 1
    assert engine.name == "gtp" and engine.opponent.command == "some-engine"
    assert chosen_testers(("random",), recipe, env, mesh)[1] == "random_score"
    with pytest.raises(ValueError, match="found 'elo' for 2048, a game of 1 player, expected return"):
        chosen_testers(("elo",), tz.runs.game_recipe("2048"), tz.from_pgx("2048"), mesh)
    with pytest.raises(ValueError, match="found 'return' for tic_tac_toe, a game of 2 players"):
        chosen_testers(("return",), recipe, env, mesh)


def test_the_next_epoch_takes_as_long_as_others_of_its_kind():
    """An epoch takes 2 seconds, one with a test 5, and the first of each kind a minute more to compile."""
    epochs = _EpochClock(4)
    now = 0.0
    for epoch in range(12):
        is_test = epoch % 4 == 3
        expected = {True: 5.0 if epoch > 7 else 2.0, False: 2.0}[is_test] if epoch > 1 else 0.0
        epochs.note(epoch, now)
        assert epochs.expected(epoch) == expected, epoch
        now += (5 if is_test else 2) + (60 if epoch in (0, 3) else 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


ROW = {"epoch": 4, "moves_per_second": 1234.5, "policy_loss": 1.5, "policy_loss_floor": 1.25, "value_loss": 0.5}
TEST = {"random_score": 0.75, "random_score_low": 0.6, "random_score_high": 0.9}


def test_a_file_gets_a_short_line_an_epoch():
    stream = io.StringIO()
    with Screen(num_epochs=10, totals=lambda: {"total_games": 4321}, stream=stream) as screen:
        for phase in ("warm-up", "self-play", "training", "self-play", "training"):
            screen.phase(phase)
        screen(ROW)
        screen(ROW | TEST | {"epoch": 5})
    first, second, *lines = stream.getvalue().splitlines()
    assert first.startswith("warm-up: compiles self-play") and second == "compiles the gradient step ..."
    facts = "4,321 games  1,234 moves/s  policy loss 0.250 above its floor  value loss 0.500"
    assert lines == [f"50%  0:00  epoch 5  {facts}", f"60%  0:00  epoch 6  {facts}  random 0.75 (0.60 to 0.90)"]


def test_a_terminal_has_one_line_that_is_rewritten_and_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream, totals = Terminal(), {"total_games": 27420}
    with Screen(seconds=600.0, done=(186.0, 91), totals=lambda: totals, stream=stream) as screen:
        screen.say("resumed at epoch 91")
        screen.phase("self-play")
        assert stream.getvalue().endswith("31%  3:06 of 10:00  compiles self-play ...")
        screen.phase("training")
        screen.phase("self-play")
        screen(ROW)
        rows = [line.split("\x1b[K")[-1] for line in stream.getvalue().split("\n")[:-1]]
        assert rows == ["resumed at epoch 91", screens._LEGEND], "an epoch without a test leaves no row"
        screen(ROW | TEST | {"second_score": 0.5, "second_score_low": 0.4, "second_score_high": 0.6})
        whole = "31%  3:06 of 10:00  27.4k games  1.23k moves/s  loss 0.250  random 0.75 (0.60 to 0.90)"
        assert stream.getvalue().endswith("\r\x1b[K" + whole[:79])
    assert stream.getvalue().count("\n") == 3 and stream.getvalue().endswith("\r\x1b[K")
    shown = [part for part in re.split(r"\r\x1b\[K", stream.getvalue()) if not part.endswith("\n")]
    assert all(len(part) < 80 for part in shown)
    monkeypatch.setenv("COLUMNS", "160")
    numbers = 999.6, 999_400, 999_600, 1_234_567, 999_999_999
    assert [screens._rounded(x) for x in numbers] == ["1k", "999k", "1M", "1.23M", "1G"]
    stream = Terminal()
    with Screen(num_epochs=10, totals=lambda: totals, stream=stream) as screen:
        screen(ROW)
    assert "27,420 games  1,234 moves/s  policy loss 0.250 above its floor" in stream.getvalue()
    assert clock(3787.0) == "1:03:07" and clock(-1.0) == "0:00"


def test_results_of_matches_and_ratings_are_printed_in_words():
    ratings = tz.matches.fit_elo(np.array([[0, 5], [5, 0]]), np.array([[0, 2], [2, 0]]))
    assert re.fullmatch(r"  0     \+0 \(\+0 to \+0\)\n  1     \+0 \(-\d+ to \+\d+\)", str(ratings)), str(ratings)
    assert screens.result_text({"elo": 12.3, "elo_low": -4.0, "elo_high": 20.0}) == "Elo 12 (-4 to 20)"
    nan = float("nan")
    unrated = {"elo": nan, "elo_low": nan, "elo_high": nan, "ladder_height": nan, "ladder_rung": 1.0}
    assert screens.result_text(unrated | TEST) == "random 0.75 (0.60 to 0.90)", "what has no value is not shown"
