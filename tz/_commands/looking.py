"""The commands that inspect runs and agents: `show`, `plot` and `match`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tz._commands.options import Parser, help_lines, reader
from tz.games._named_games import named_game
from tz.games.env import Env
from tz.matches.engines import AnyPlayer, GtpEngine
from tz.matches.match import play_match
from tz.matches.players import Player, random_player
from tz.mcts.evaluators import RolloutEvaluator
from tz.mcts.root_policies import PlainRoot
from tz.mcts.settings import MCTS
from tz.plot.learning import plot_learning
from tz.runs.agent_files import agent_card, agent_game, load_agent
from tz.runs.run_settings import saved_settings
from tz.runs.screen import clock, result_text
from tz.runs.sinks import metric_rows
from tz.runs.test_choices import best_metric

_SHOW = """\
python -m tz show FOLDER|AGENT

Shows the progress of the run in a folder and the result of its last test; or the card of an agent, which says how it
was trained and how strong it is. AGENT is a file, or the name of an agent that comes with tz.

  python -m tz show runs/connect_four
  python -m tz show connect_four
"""
_PLOT = """\
python -m tz plot FOLDER [FOLDER ...] [options]

Plots the losses, scores and ratings of one or several runs. A run of several seeds is plotted as their mean, with a
band around it.

  python -m tz plot runs/connect_four
  python -m tz plot runs/one runs/other --x minutes --out both.png

"""
_MATCH = """\
python -m tz match PLAYER PLAYER [options]

Plays games between two players, from random openings that are each played from both sides, and prints the score of the
first player. A player is the file of an agent, the name of an agent that comes with tz, random (random moves),
rollouts:N (a search with N random games for each move), or gtp:COMMAND (a program that speaks GTP).

  python -m tz match runs/connect_four/agent.tz random
  python -m tz match runs/one/agent.tz connect_four --games 200 --simulations 64

"""
_LAST = ("versions", "git", "flags", "recipe")  # shown last, after the strength of an agent and its training


def show(arguments: Sequence[str]) -> None:
    """Runs the command `show`.

    **Raises:** `ValueError` if there is no such run or agent.
    """
    parser = Parser("show")
    parser.add_argument("what", nargs="?")
    found = parser.read(arguments)
    if found["help"]:
        print(_SHOW.rstrip())
        return
    if found["what"] is None:
        raise ValueError("show: found nothing to show, expected the folder of a run, or an agent; give one.")
    folder = pathlib.Path(found["what"])
    if not folder.is_dir():
        print(card_text(found["what"]))
        return
    seeds = sorted(folder.glob("seed_*"))
    for run in [folder] if (folder / "settings.json").exists() or not seeds else seeds:
        print(run_text(run))


def plot(arguments: Sequence[str]) -> None:
    """Runs the command `plot`.

    **Raises:** `ValueError` if a folder has no metrics, or none that can be plotted.
    """
    parser = Parser("plot")
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--x", default="epoch")
    parser.add_argument("--out", type=pathlib.Path)
    found = parser.read(arguments)
    if found["help"]:
        rows = {
            "--x NAME": "The horizontal axis: epoch, minutes, hours, games, moves, steps, or any metric. [epoch]",
            "--out FILE": "The file for the picture; its folder is made. [learning.png in the first folder]",
        }
        print(_PLOT + "Options:\n" + help_lines(rows))
        return
    if not found["folders"]:
        raise ValueError("plot: found no folder, expected the folder of a run; write python -m tz plot runs/NAME.")
    runs = {str(folder): folder for folder in found["folders"]}
    figure = plot_learning(found["folders"][0] if len(runs) == 1 else runs, x=found["x"])
    first = found["folders"][0]
    out = found["out"] or (first if first.is_dir() else first.parent) / "learning.png"
    out = out if out.suffix else out.with_suffix(".png")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    print(f"The picture is {out}.")


def match(arguments: Sequence[str]) -> None:
    """Runs the command `match`.

    **Raises:** `ValueError` if there is no such player, or the two players do not play the same game.
    """
    parser = Parser("match")
    parser.add_argument("players", nargs="*")
    parser.add_argument("--env")
    for name, default in {"games": 100, "simulations": 200, "opening-moves": 4, "max-moves": 1024, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=reader((int,)), default=default)
    found = parser.read(arguments)
    if found["help"]:
        rows = {
            "--games N": "The number of games, an even number. [100]",
            "--simulations N": "The number of simulations of an agent for each move; 0 for its policy alone. [200]",
            "--opening-moves N": "The number of random moves that a game begins with, so that games differ. [4]",
            "--max-moves N": "The number of moves after which a game is cut off. [1024]",
            "--seed N": "The seed of the openings and of the searches, a number of 64 bits. [0]",
            "--env GAME": "The game. It is needed if no player is an agent, or for your own game.",
        }
        print(_MATCH + "Options:\n" + help_lines(rows))
        return
    if len(found["players"]) != 2:
        raise ValueError(
            f"match: found {len(found['players'])} players, expected 2; write python -m tz match AGENT random."
        )
    env = named_game(found["env"] or _game_of(found["players"]))
    first, second = (_player(word, env, found["simulations"]) for word in found["players"])
    options = {"num_games": found["games"], "opening_moves": found["opening_moves"], "max_moves": found["max_moves"]}
    print(f"{env.name}: {found['games']} games, {' against '.join(found['players'])} ...", flush=True)
    print(play_match(env, first, second, key=jax.random.key(found["seed"]), **options))


def card_text(source: str) -> str:
    """Returns the card of an agent as lines of text.

    **Raises:** `ValueError` if there is no such agent.
    """
    card = agent_card(source)
    card = {name: card[name] for name in sorted(card, key=lambda name: name in _LAST)}
    lines = [f"{source}: an agent that plays {agent_game(source)}"]
    for name, value in card.items():
        lines += _lines(name, value, "  ")
    return "\n".join(lines)


def _lines(name: str, value: Any, indent: str) -> list[str]:
    """Returns a value of a card as lines, one for each entry of a dict in it."""
    name = name.replace("_", " ")
    if not isinstance(value, Mapping):
        return [f"{indent}{name}: {'none' if value is None else value}"]
    lines = [f"{indent}{name}:"]
    for inner, x in value.items():
        lines += _lines(str(inner), x, indent + "  ")
    return lines


def run_text(folder: pathlib.Path) -> str:
    """Returns a few lines about the progress of a run.

    **Raises:** `ValueError` if there is no run in the folder, or its metrics cannot be read.
    """
    recipe, settings = saved_settings(folder)
    rows = _rows(folder / "metrics.jsonl")
    whole = f"{settings.epochs} epochs" if settings.minutes is None else f"{clock(60 * settings.minutes)} minutes"
    lines = [f"{folder}: a run of {recipe.env}, seed {settings.seed}, {whole} in all"]
    if not rows:
        return "\n".join([*lines, "  no epoch is done yet"])
    last = rows[-1]
    done = [f"{last['epoch'] + 1} epochs"]
    if "elapsed_seconds" in last:
        done.append(clock(last["elapsed_seconds"]))
    done += [f"{last[f'total_{name}']:,.0f} {name}" for name in ("games", "moves", "steps") if f"total_{name}" in last]
    lines.append(f"  done: {', '.join(done)}")
    tests = [(row["epoch"] + 1, text) for row in rows if (text := result_text(row))]
    lines += [f"  last test, after epoch {tests[-1][0]}: {tests[-1][1]}"] if tests else ["  no test yet"]
    best = best_metric(settings.test or ("return" if any("test_return" in row for row in rows) else "elo",))
    scored = [(row[best], row["epoch"] + 1, result_text(row)) for row in rows if row.get(best) is not None]
    if scored:
        _, epoch, text = max(scored)  # of equal ones the newest, as the checkpoints have it
        lines.append(f"  best test, after epoch {epoch}, whose checkpoint is kept: {text}")
    epochs = sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())
    if epochs:
        lines.append(
            f"  checkpoints after epochs {', '.join(map(str, epochs))}; continue: python -m tz resume {folder}"
        )
    return "\n".join(lines)


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the metrics of a run. A line that was cut off, for example while it is being written, is left out."""
    try:
        rows = metric_rows(path) if path.exists() else []
        if wrong := [row for row in rows if not isinstance(row.get("epoch"), int)]:
            raise ValueError(f"{str(wrong[0])[:80]} has no epoch")
        return rows
    except ValueError as error:
        raise ValueError(
            f"show: found lines in {path} that are not metrics of epochs ({error}), expected one JSON object for each "
            "epoch; remove the other lines."
        ) from error


def _game_of(words: Sequence[str]) -> str:
    """Returns the game that the first agent among the players plays."""
    for word in words:
        if word != "random" and not word.startswith(("rollouts:", "gtp:")):
            return agent_game(word)
    raise ValueError("match: found no agent among the players, expected one, which tells the game; add --env GAME.")


def _player(word: str, env: Env, num_simulations: int) -> AnyPlayer:
    """Makes the player that a word of the command line names."""
    if word == "random":
        return random_player()
    kind, _, rest = word.partition(":")
    if kind == "gtp":
        return GtpEngine(rest)
    if kind == "rollouts":
        if not rest.isdecimal() or not int(rest):
            raise ValueError(f"match: found {word!r}, expected a number of random games; write rollouts:64.")
        search = MCTS(int(rest), root=PlainRoot(), temperature=0.0, persist_tree=False)
        return Player(search, RolloutEvaluator(env))
    agent = load_agent(word, env=env)
    return Player(dataclasses.replace(agent.mcts, num_simulations=num_simulations), agent.evaluator)
