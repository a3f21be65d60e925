"""Runs in a folder and on the command line: their files, resuming, and errors."""

import dataclasses
import json
import os
import re
import signal
import sys
import types

import jax
import numpy as np
import pytest

import tz
from tz._commands import training
from tz._commands.main import main
from tz.runs import run_settings, whole_run
from tz.runs._folder_lock import folder_lock

pytestmark = pytest.mark.slow

# fmt: off
TINY = [
    "--env", "tic_tac_toe", "--num-blocks", "1", "--num-channels", "4", "--head-channels", "2", "--capacity", "64",
    "--num-simulations", "4", "--num-games", "8", "--moves-per-epoch", "8", "--train-batch-size", "16",
    "--train-steps-per-epoch", "2", "--random-starts", "3", "--opening-moves", "4",
    "--test", "random", "--test-epochs", "2", "--cpu-devices", "8",
]
# fmt: on


def options(out, *more):
    """Returns a command with the options of `TINY`, which those in `more` replace."""
    rest = [word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] not in more for word in pair]
    return ["train", "--out", str(out), *rest, *more]


def metrics(folder) -> list[dict]:
    timed = {"seconds", "elapsed_seconds", "moves_per_second", "simulations_per_second"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def weights(folder) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tz.load_agent(folder / "agent.tz").evaluator) if hasattr(x, "dtype")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of four epochs."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    main(options(folder, "--epochs", "4", "--tensorboard"))
    return folder


def test_the_script_of_a_card_is_what_was_typed():
    train = ["experiments/connect_four/train.py", "--out", "my runs"]
    assert run_settings.script_of(train) == "python experiments/connect_four/train.py --out 'my runs'"
    assert (
        run_settings.script_of(["/a/b/tz/__main__.py", "train", "--minutes", "2"]) == "python -m tz train --minutes 2"
    )
    assert run_settings.script_of(["/a/b/train.py"]) == "python train.py"


def test_a_run_leaves_metrics_settings_and_an_agent_that_plays(run):
    assert [row["epoch"] for row in metrics(run)] == [0, 1, 2, 3]
    assert "random_score" in metrics(run)[1] and "random_score" not in metrics(run)[2]
    settings = json.loads((run / "settings.json").read_text())
    assert settings["recipe"]["num_channels"] == 4 and settings["run"]["epochs"] == 4
    assert settings["versions"]["jax"] == jax.__version__ and settings["devices"].startswith("8 x ")
    card = tz.runs.agent_card(run / "agent.tz")
    assert card["epochs"] == 4 and card["recipe"] == settings["recipe"] and card["seed"] == 0
    assert tz.Recipe(**card["recipe"]).num_channels == 4 and card["git"] == settings["git"]
    assert card["script"].startswith("python ") and "versions" in card
    assert list((run / "tensorboard").iterdir())
    env, player = tz.from_pgx("tic_tac_toe"), tz.load_agent(run / "agent.tz")
    match = tz.play_match(env, player, tz.random_player(), num_games=2, max_moves=9, key=jax.random.key(0))
    assert int(match.wins + match.draws + match.losses) == 2


def test_a_run_that_is_stopped_by_a_signal_is_resumed_by_the_same_command(run, tmp_path, monkeypatch):
    folder = tmp_path / "stopped"

    def stop(metrics):
        if metrics["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(whole_run.Screen, "__call__", lambda screen, metrics: stop(metrics))
        with pytest.raises(SystemExit, match=r"SIGTERM after 2 epochs.*python -m tz resume .*stopped"):
            main(options(folder, "--epochs", "4"))
    assert tz.runs.agent_card(folder / "agent.tz")["epochs"] == 2
    main(["resume", str(folder), "--cpu-devices", "8"])
    assert metrics(folder) == metrics(run)
    for one, other in zip(weights(folder), weights(run), strict=True):
        np.testing.assert_array_equal(one, other)
    main(["resume", str(folder), "--cpu-devices", "8"])  # nothing is left to do
    assert len(metrics(folder)) == 4
    main(["resume", str(folder), "--cpu-devices", "8", "--epochs", "5"])
    assert len(metrics(folder)) == 5


@pytest.mark.once
def test_a_fork_begins_with_the_run_and_its_settings_but_for_those_given(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    folder = tmp_path / "fork"
    more = ["--learning-rate", "1e-4", "--train-steps-per-epoch", "3", "--epochs", "5"]
    main(["fork", str(run), "--out", str(folder), "--cpu-devices", "8", *more])
    assert [row["epoch"] for row in metrics(folder)] == [4]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    recipe, _ = run_settings.saved_settings(folder)
    assert recipe == dataclasses.replace(
        run_settings.saved_settings(run)[0], learning_rate=1e-4, train_steps_per_epoch=3
    )
    main(["resume", str(folder), "--cpu-devices", "8", "--epochs", "6"])
    card = tz.runs.agent_card(folder / "agent.tz")
    assert card["epochs"] == 6 and card["forked_from"] == tz.runs.agent_card(run / "agent.tz")


@pytest.mark.once
def test_several_seeds_are_runs_that_can_be_resumed_alone(tmp_path):
    folder = tmp_path / "seeds"
    main(options(folder, "--epochs", "2", "--seeds", "2", "--seed", "3"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["epoch"]) for row in rows] == [(3, 0), (4, 0), (3, 1), (4, 1)]
    assert "random_score" in rows[3] and rows[0]["loss"] != rows[1]["loss"]
    for index in range(2):
        alone = folder / f"seed_{3 + index}"
        assert [row["loss"] for row in metrics(alone)] == [row["loss"] for row in rows[index::2]]
        card = tz.runs.agent_card(alone / "agent.tz")
        assert card["epochs"] == 2 and card["seed"] == 3 + index
    main(["resume", str(folder / "seed_4"), "--cpu-devices", "8", "--epochs", "3"])
    assert [row["epoch"] for row in metrics(folder / "seed_4")] == [0, 1, 2]
    assert tz.runs.agent_card(folder / "seed_4" / "agent.tz")["epochs"] == 3
    with pytest.raises(SystemExit, match="found a run in "):
        main(options(folder, "--epochs", "2", "--seeds", "2"))
    with pytest.raises(ValueError, match="found seeds=2 and wandb='mine', expected one of the two"):
        tz.runs.RunSettings(folder, epochs=2, seeds=2, wandb="mine")
    with pytest.raises(ValueError, match="seeds=2 with resume or fork, expected a new run"):
        tz.runs.RunSettings(folder, epochs=2, seeds=2, resume=True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "3", "--seeds", "0"], "found seeds=0, expected more than 0"),
        (["--epochs", "3", "--minutes", "1"], "found minutes=1.0 and epochs=3, expected one of the two"),
        ([], "found neither --minutes nor --epochs, expected one of them"),
        (["--epochs", "0"], "found epochs=0, expected more than 0"),
        (["--minutes", "1e308"], "found minutes=1e+308, expected more than 0 and less than a billion"),
        (["--epochs", "3", "--seed", str(2**63 - 1), "--seeds", "2"], "expected one of 64 bits"),
        (
            ["--epochs", "3", "--mintes", "4"],
            "found --mintes 4, expected options of python -m tz train (did you mean --min",
        ),
        (["--epochs", "3", "--norm", "group"], "argument --norm: found 'group', expected one of none, layer, batch"),
        (["--epochs", "3", "--num-games", "many"], "argument --num-games: found 'many', expected a whole number"),
        (["--epochs", "3", "--test", "chess"], "test: found 'chess', expected one of elo, ladder"),
        (["--epochs", "3", "--test", "return"], "test: found 'return' for tic_tac_toe, a game of 2 players"),
        (["--epochs", "3", "--test", "agent:nowhere.tz"], "found no agent at nowhere.tz"),
        (["--epochs", "3", "--value-low", "0"], "value_low=0.0 and value_high=None, expected both"),
        (["--epochs", "3", "--env", "no.such.module:make"], "cannot be imported"),
        (["--epochs", "3", "--env", "./slips:nim"], "cannot be imported"),
        (["--epochs", "3", "--env", "json:make_env"], "found no function 'make_env' in the module 'json'"),
        (["--epochs", "3", "--wandb-offline"], "wandb_offline without wandb"),
        (
            ["--epochs", "3", "--cold-after", "3"],
            'found cold_after=3 with search="gumbel", whose moves have no temperature',
        ),
        (["--epochs", "3", "--env", "tictactoe"], "pgx game; write 'tic_tac_toe', or choose one of"),
        (["--epochs", "3", "--num-games", "7"], "found num_games=7, which cannot be split evenly over 8 devices"),
        (["--epochs", "3", "--capacity", "4"], "found replay.capacity=4, expected at least"),
        (
            ["--epochs", "3", "--symmetry", "mirror"],
            "augment fails on a sample of tic_tac_toe (mirror: found an observation of shape",
        ),
        (["--epochs", "3", "--cpu-devices", "0"], "--cpu-devices: found 0, expected at least 1"),
    ],
)
def test_options_without_sense_are_refused_before_anything_is_compiled(more, message, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(whole_run, "train_for", lambda *args, **kwargs: compiled.append(0))
    with pytest.raises(SystemExit) as stop:
        main(options(tmp_path / "run", *more))
    assert message in str(stop.value) and "\n" not in str(stop.value) and not compiled
    assert not (tmp_path / "run").exists(), "nothing is left behind"


@pytest.mark.once
def test_a_fork_that_dies_early_goes_on_from_the_run_that_it_began_from(run, tmp_path, monkeypatch):
    folder, rows = tmp_path / "fork", []

    def die(metrics):
        raise KeyboardInterrupt("the power failed")

    with monkeypatch.context() as patch:
        patch.setattr(whole_run.Screen, "__call__", lambda screen, metrics: die(metrics))
        with pytest.raises(SystemExit, match="stopped at once; python -m tz resume .*fork continues"):
            main(["fork", str(run), "--out", str(folder), "--cpu-devices", "8", "--epochs", "5"])
    monkeypatch.setattr(whole_run.Screen, "__call__", lambda screen, metrics: rows.append(metrics))
    main(["resume", str(folder), "--cpu-devices", "8"])
    assert [row["epoch"] for row in rows] == [4]


def test_a_fork_that_is_killed_before_its_first_checkpoint_is_not_begun_from_a_new_network(run, tmp_path):
    folder = tmp_path / "fork"
    folder.mkdir()
    settings = json.loads((run / "settings.json").read_text())
    settings["run"] |= {"fork": str(run)}
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match="found a fork in .*fork that ended before its first checkpoint"):
        main(["resume", str(folder), "--cpu-devices", "8", "--epochs", "6"])


def test_the_seed_of_a_fork_counts_if_it_is_another_one(run, tmp_path, monkeypatch):
    seeds = []

    def fork(*inputs, seed):
        seeds.append(seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_run, "fork", fork)
    for more in [], ["--seed", "7"]:
        with pytest.raises(SystemExit):
            main(["fork", str(run), "--out", str(tmp_path / "f"), "--cpu-devices", "8", "--epochs", "5", *more])
    assert seeds == [None, 7]


def test_a_folder_belongs_to_one_process(run, tmp_path):
    folder = tmp_path / "new"
    with folder_lock(folder):
        with pytest.raises(SystemExit, match=f"found that process {os.getpid()} trains in .*new, expected a folder"):
            main(options(folder, "--epochs", "4"))
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not folder.exists()
    with folder_lock(run), pytest.raises(SystemExit, match="wait until it ends, or choose another folder"):
        main(["resume", str(run), "--cpu-devices", "8", "--epochs", "6"])


class LoopStateOfNothing:
    epoch = 0


def test_commands_without_a_run_are_refused(tmp_path):
    for arguments, message in {
        ("resume",): "resume: found no folder",
        ("resume", "nowhere"): "folder: found no run in nowhere",
        ("fork", "nowhere", "--out", str(tmp_path)): "folder: found no run in nowhere",
        ("resume", str(tmp_path)): "folder: found no run in",
        ("show", "nowhere"): "found no agent at nowhere",
        ("plot", str(tmp_path)): "expected the metrics of a run",
        ("match", "random", "random"): "found no agent among the players, .*; add --env GAME",
    }.items():
        with pytest.raises(SystemExit, match=message):
            main(arguments)
    assert not list(tmp_path.iterdir())


def test_a_run_is_shown_and_drawn(run, capsys):
    main(["show", str(run)])
    shown = capsys.readouterr().out
    assert "a run of tic_tac_toe, seed 0, 4 epochs in all" in shown and "done: 4 epochs, " in shown
    assert re.search(r"last test, after epoch 4: random 0\.\d\d \(0\.\d\d to [01]\.\d\d\)", shown), shown
    scores = {row["epoch"] + 1: row["random_score"] for row in metrics(run) if "random_score" in row}
    best = max(scores, key=lambda epoch: (scores[epoch], epoch))
    assert f"best test, after epoch {best}, whose checkpoint is kept: random {scores[best]:.2f} (" in shown
    main(["show", str(run / "agent.tz")])
    assert "an agent that plays tic_tac_toe" in (shown := capsys.readouterr().out) and "num channels: 4" in shown
    main(["plot", str(run), "--x", "games"])
    assert (run / "learning.png").stat().st_size > 1000
    (run / "learning.png").unlink()


def test_the_lines_of_a_file_have_what_there_was_in_all(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["total_moves"] for row in rows] == [64, 128, 192, 256]
    assert rows[-1]["total_games"] == sum(row["episodes"] for row in rows) > 0
    assert rows[-1]["total_steps"] == sum(row["gradient_steps"] for row in rows) == 8
    assert rows[-1]["elapsed_seconds"] == pytest.approx(sum(row["seconds"] for row in rows))


class WandbWithoutLogin(types.ModuleType):
    def init(self, **options):
        raise RuntimeError("No API key configured")


def full_disk(*args, **kwargs):
    raise OSError("No space left on device")


@pytest.mark.parametrize(
    "fault", ["wandb", "wandb of a fork", "tensorboard", "settings of a fork", "memory", "training"]
)
def test_a_run_that_fails_before_it_learned_anything_leaves_nothing_that_refuses_its_command(
    fault, run, tmp_path, monkeypatch
):
    folder, more = tmp_path / "run", []
    fault, is_fork = fault.removesuffix(" of a fork"), fault.endswith("fork")
    if fault == "wandb":
        monkeypatch.setitem(sys.modules, "wandb", WandbWithoutLogin("wandb"))
        more, message = ["--tensorboard", "--wandb", "project"], "No API key configured.*wandb login"
    elif fault == "tensorboard":
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        more, message = ["--tensorboard"], "pip install 'tz.tensorboard.'"
    elif fault == "settings":
        monkeypatch.setattr(os, "replace", full_disk)
        message = "No space left"
    elif fault == "memory":
        more, message = ["--capacity", "10000000000"], "needs at least"
    else:
        monkeypatch.setattr(whole_run, "train_for", full_disk)
        message = "No space left"
    fork = ["fork", str(run), "--out", str(folder), "--cpu-devices", "8", "--epochs", "5", *more]
    for _ in range(2):
        with pytest.raises(SystemExit, match=message):
            main(fork if is_fork else options(folder, "--epochs", "4", *more))
    assert not (folder / "settings.json").exists() and not (folder / "metrics.jsonl").exists()


def test_settings_on_a_full_disk_are_not_lost_when_a_run_is_resumed(run, monkeypatch):
    before = (run / "settings.json").read_bytes()

    def half(path, text):
        path.write_bytes(text.encode()[:20])
        raise OSError("No space left on device")

    monkeypatch.setattr(type(run), "write_text", half)
    with pytest.raises(SystemExit, match="error: No space left"):
        main(["resume", str(run), "--cpu-devices", "8"])
    assert (run / "settings.json").read_bytes() == before


def test_a_run_is_resumed_with_its_own_settings_only(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = r"found num_blocks 2 \(the run has 1\), seed 5 \(the run has 0\), expected .*python -m tz fork"
    with pytest.raises(SystemExit, match=message):
        main(["resume", str(run), "--num-blocks", "2", "--seed", "5", "--cpu-devices", "8"])
    recipe, settings = run_settings.saved_settings(run)
    with pytest.raises(ValueError, match=r"found learning_rate 0.5 \(the run has 0.003\), expected"):
        tz.runs.train_run(dataclasses.replace(recipe, learning_rate=0.5), dataclasses.replace(settings, resume=True))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_length_that_is_given_takes_the_place_of_the_one_before(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "train_run", lambda recipe, settings: asked.append(settings) or LoopStateOfNothing)

    def length(*arguments):
        main([*arguments, "--cpu-devices", "8"])
        return asked[-1].minutes, asked[-1].epochs

    for more in (["resume", str(run)], ["fork", str(run), "--out", str(tmp_path / "fork")]):
        assert length(*more) == (None, 4)
        assert length(*more, "--epochs", "9") == (None, 9)
        assert length(*more, "--minutes", "2.5") == (2.5, None)
        with pytest.raises(SystemExit, match=r"found minutes=2\.5 and epochs=9, expected one of the two"):
            main([*more, "--minutes", "2.5", "--epochs", "9"])


@pytest.mark.once
def test_a_fork_with_nothing_to_do_is_refused(run, tmp_path):
    with pytest.raises(SystemExit, match="found a run of 4 epochs in .*, expected fewer than epochs=4"):
        main(["fork", str(run), "--out", str(tmp_path / "fork"), "--cpu-devices", "8", "--learning-rate", "1e-4"])
    assert not (tmp_path / "fork" / "settings.json").exists()


def test_a_folder_with_a_run_is_not_begun_anew(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="found a run in .* continue the run .*python -m tz resume"):
        main(options(run, "--epochs", "4"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (tmp_path / "metrics.jsonl").write_text("of something else")
    with pytest.raises(SystemExit, match="found a run in "):
        main(options(tmp_path, "--epochs", "4"))


def test_settings_of_before_the_renaming_are_read(run, tmp_path):
    text = (run / "settings.json").read_text()
    assert "search_value_fraction" in text
    (tmp_path / "settings.json").write_text(text.replace("search_value_fraction", "search_value_share"))
    assert run_settings.saved_settings(tmp_path)[0] == run_settings.saved_settings(run)[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {"num_layers": 3}, "run": {}}', "\xff", '{"recipe": 3}'])
def test_settings_that_are_damaged_are_refused(text, tmp_path):
    (tmp_path / "settings.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"found settings in .*settings.json that this version of tz cannot read"):
        run_settings.saved_settings(tmp_path)
