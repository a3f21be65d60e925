"""The commands that train: `train`, `resume` and `fork`."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax

from tz._commands.options import Parser, add_fields, as_option, field_rows, help_lines
from tz.runs._optimizers import USUAL_RATES
from tz.runs.game_recipes import game_recipe
from tz.runs.gpu_graphs import use_gpu_graphs
from tz.runs.recipes import Recipe
from tz.runs.run_settings import RunSettings, saved_settings
from tz.runs.whole_run import train_run

_IMPORTANT = {
    "run": ("out", "minutes", "epochs", "test", "seeds"),
    "recipe": ("env", "num_games", "num_simulations", "num_blocks", "num_channels"),
}
_FIXED = ("resume", "fork")  # fields that are commands, not options
_OTHER = {
    "--device cpu|gpu": "The device that the recipe is made for. By default it is the one that the command runs on.",
    "--cpu-devices N": "Without a GPU, the number of devices that the processor is split into. Give about the number "
    "of its cores. [2]",
    "--no-gpu-graphs": "With a GPU, run loops without CUDA graphs. This is slower, and meant for drivers that have "
    "trouble with them.",
}
_GAMES = """\
Games: connect_four, tic_tac_toe, othello, hex, go_9x9, go_19x19, chess, gardner_chess, shogi, animal_shogi; with dice,
backgammon; for one player, 2048, minatar-asterix, minatar-breakout, minatar-freeway, minatar-seaquest and
minatar-space_invaders; and your own game, as package.module:make_env."""
_TRAIN = """\
Trains an agent by self-play, and saves the agent, checkpoints, settings and metrics in a folder. Each game has a
recipe of default settings, which python -m tz train --env GAME --help shows. Options change them.

  python -m tz train --env connect_four --minutes 20
  python -m tz train --env othello --minutes 60 --out runs/othello --num-simulations 32
  python -m tz train --env backgammon --epochs 200 --seeds 4
  python -m tz train --env my_games.nim:make_env --minutes 5
"""
_RESUME = """\
Continues a run with the settings that it had. You may change its length, how often it is saved and tested, and how it
is logged.

  python -m tz resume runs/connect_four
  python -m tz resume runs/connect_four --minutes 60
"""
_FORK = """\
Starts a new run from the last state of another run, in a new folder. It has the settings of that run, except for the
options that you give. The game and the size of the network must stay the same.

  python -m tz fork runs/connect_four --out runs/deeper --num-simulations 32 --minutes 60
"""


def train(arguments: Sequence[str]) -> None:
    """Runs the command `train`.

    **Raises:** `ValueError` for an error in the options, `SystemExit` after a signal to stop.
    """
    parser = _parser("train")
    found = parser.read(arguments)
    env = found.get("env", "connect_four")
    if found.pop("help"):
        recipe = game_recipe(env, found.get("device", None) or "cpu")
        print(train_help(recipe))
        return
    device = found.pop("device")
    settings = _run_settings({"out": pathlib.Path("runs") / env.replace(":", "."), **found})
    _prepare_devices(found, settings.seeds)
    device = device or ("cpu" if jax.default_backend() == "cpu" else "gpu")
    recipe = _changed(game_recipe(env, device), _of(Recipe, found))
    print(_recipe_text(recipe, device))
    _train(recipe, settings)


def resume(arguments: Sequence[str]) -> None:
    """Runs the command `resume`.

    **Raises:** as `train`.
    """
    parser = _parser("resume", folder="of the run")
    found = parser.read(arguments)
    if found.pop("help"):
        settings = RunSettings(pathlib.Path("runs/connect_four"), minutes=20.0)
        kept = field_rows(settings, leave_out=(*_FIXED, "out", "seed", "seeds", "test"))
        print(_page("resume FOLDER", _RESUME, {"Options": kept | _only("--cpu-devices N", "--no-gpu-graphs")}))
        return
    folder = _folder(found, "resume")
    recipe, run = saved_settings(folder)
    _refuse(found, ("out", "seeds"), "resume")
    changes = {**_length(found), **_of(RunSettings, found), "out": folder, "resume": True}
    settings = dataclasses.replace(run, **changes)
    _prepare_devices(found, 1)
    _train(dataclasses.replace(recipe, **_of(Recipe, found)), settings)


def fork(arguments: Sequence[str]) -> None:
    """Runs the command `fork`.

    **Raises:** as `train`.
    """
    parser = _parser("fork", folder="of the run to begin from")
    found = parser.read(arguments)
    if found.pop("help"):
        settings = RunSettings(pathlib.Path("runs/deeper"), minutes=60.0)
        rows = field_rows(settings, leave_out=(*_FIXED, "seeds")), field_rows(Recipe(), leave_out=("env",))
        run, recipe = ({name: re.sub(r" \[[^]]*\]$", "", text) for name, text in group.items()} for group in rows)
        groups = {"Options of the run": run | _only("--cpu-devices N", "--no-gpu-graphs")}
        print(_page("fork FOLDER --out FOLDER", _FORK, groups | {"Options of the recipe": recipe}))
        return
    folder = _folder(found, "fork")
    recipe, run = saved_settings(folder)
    if "out" not in found:
        raise ValueError(f"fork: found no --out, expected the folder of the new run; add --out {folder}-fork.")
    _refuse(found, ("seeds",), "fork")
    changes = {**_length(found), **_of(RunSettings, found), "fork": folder, "resume": False}
    settings = dataclasses.replace(run, **changes)
    _prepare_devices(found, 1)
    _train(dataclasses.replace(recipe, **_of(Recipe, found)), settings)


def train_help(recipe: Recipe) -> str:
    """Returns the page that `train --help` prints, with the defaults of a game."""
    settings = RunSettings(pathlib.Path("runs") / recipe.env.replace(":", "."), minutes=20.0)
    return _page("train", _TRAIN + "\n" + _GAMES + "\n", _groups(recipe, settings))


def _groups(recipe: Recipe, settings: RunSettings) -> dict[str, dict[str, str]]:
    """Returns the help of all options, in groups by their title."""
    important = field_rows(settings, _IMPORTANT["run"]) | field_rows(recipe, _IMPORTANT["recipe"])
    first = {name: important[name] for name in ("--env", *(name for name in important if name != "--env"))}
    return {
        "The most important options": {"--env": first["--env"], **first},
        "Other options of the run": field_rows(settings, leave_out=(*_FIXED, *_IMPORTANT["run"])) | _OTHER,
        f"Other options of the recipe (in brackets: the defaults of {recipe.env})": field_rows(
            recipe, leave_out=_IMPORTANT["recipe"]
        ),
    }


def _page(usage: str, about: str, groups: dict[str, dict[str, str]]) -> str:
    """Lays out a help page."""
    parts = [f"python -m tz {usage} [options]", about.rstrip()]
    parts += [f"{title}:\n{help_lines(rows)}" for title, rows in groups.items()]
    return "\n\n".join(parts)


def _only(*names: str) -> dict[str, str]:
    return {name: _OTHER[name] for name in names}


def _parser(command: str, folder: str | None = None) -> Parser:
    """Makes the parser of a command, which has a folder as its argument unless `folder` is None."""
    parser = Parser(command)
    if folder is not None:
        parser.add_argument("folder", nargs="?", type=pathlib.Path)
    else:
        parser.add_argument("--device", choices=("cpu", "gpu"))
    add_fields(parser, RunSettings, leave_out=_FIXED)
    add_fields(parser, Recipe)
    parser.add_argument("--cpu-devices", type=int, default=2)
    parser.add_argument("--no-gpu-graphs", action="store_true")
    return parser


def _folder(found: dict[str, Any], command: str) -> pathlib.Path:
    if found.get("folder") is None:
        raise ValueError(
            f"{command}: found no folder, expected the folder of a run; write python -m tz {command} runs/NAME."
        )
    return found["folder"]


def _refuse(found: dict[str, Any], names: Sequence[str], command: str) -> None:
    """Raises `ValueError` for options that only `train` has."""
    for name in names:
        if name in found:
            raise ValueError(f"{command}: found --{name}, expected it only in python -m tz train; leave it out.")


def _length(found: dict[str, Any]) -> dict[str, Any]:
    """Resets the saved length of a run if a new one is given, so that minutes can replace epochs, or epochs minutes."""
    given = [name for name in ("minutes", "epochs") if found.get(name) is not None]
    return {"minutes": None, "epochs": None} if given else {}


def _of(cls: type, found: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that are fields of a dataclass."""
    names = {field.name for field in dataclasses.fields(cls)}
    values = {name: value for name, value in found.items() if name in names}
    return values | ({"test": tuple(values["test"])} if "test" in values else {})


def _run_settings(found: dict[str, Any]) -> RunSettings:
    """Makes the settings of a new run."""
    if found.get("minutes") is None and found.get("epochs") is None:
        raise ValueError("train: found neither --minutes nor --epochs, expected one of them; add --minutes 20.")
    return RunSettings(**_of(RunSettings, found))


def _prepare_devices(found: dict[str, Any], seeds: int) -> None:
    """Configures the processor or the GPU for JAX, which must not have started yet."""
    if found["cpu_devices"] < 1:
        raise ValueError(
            f"--cpu-devices: found {found['cpu_devices']}, expected at least 1; give about the number of cores."
        )
    num_devices = max(found["cpu_devices"], seeds)  # seeds are fastest on one device each
    # Once JAX has started, version 0.7 refuses even the number that it has.
    if num_devices != jax.config.values["jax_num_cpu_devices"]:
        jax.config.update("jax_num_cpu_devices", num_devices)
    if not found["no_gpu_graphs"] and (refused := use_gpu_graphs()):
        print(refused, flush=True)


def _recipe_text(recipe: Recipe, device: str) -> str:
    """Writes the most important options of a recipe, and all that differ from the defaults."""
    shown = {"num_games", "num_simulations", "num_blocks", "num_channels"}
    default, names = Recipe(), [field.name for field in dataclasses.fields(Recipe) if field.name != "env"]
    named = [name for name in names if name in shown or getattr(recipe, name) != getattr(default, name)]
    options = " ".join(as_option(name, getattr(recipe, name)) for name in named)
    return f"{recipe.env} on a {device.upper()}: {options}"


def _changed(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """Changes the recipe of a game. Another optimiser brings its usual learning rate, unless a rate is given."""
    name = options.get("optimizer", recipe.optimizer)
    if name != recipe.optimizer and "learning_rate" not in options:
        options = {**options, "learning_rate": USUAL_RATES[name]}
        print(f"--optimizer {name}: the learning rate is {USUAL_RATES[name]:g}, the usual one of this optimiser")
    return dataclasses.replace(recipe, **options)


def _train(recipe: Recipe, settings: RunSettings) -> None:
    """Trains, and prints what can be done with the result."""
    try:
        state = train_run(recipe, settings)
    except KeyboardInterrupt as error:
        folders = [settings.out, *sorted(settings.out.glob("seed_*"))]
        saved = [str(folder) for folder in folders if any((folder / "checkpoints").glob("[0-9]*"))]
        then = "nothing is saved"
        if saved:
            then = f"python -m tz resume {saved[0]} continues from the last checkpoint"
        if len(saved) > 1:
            then += f", and so for {', '.join(saved[1:])}"
        raise SystemExit(f"stopped at once; {then}.") from error
    out = settings.out
    if isinstance(state, list):
        print(
            f"{int(state[0].epoch)} epochs are done. The agents are {out}/seed_*/agent.tz. "
            f"python -m tz plot {out} plots their learning curves."
        )
        return
    own = f" --env {recipe.env}" if ":" in recipe.env else ""
    print(
        f"{int(state.epoch)} epochs are done. The agent is {out / 'agent.tz'}. python -m tz show {out} shows how "
        f"strong it is, python -m tz plot {out} plots its learning curves, python -m tz play {out}{own} lets you "
        "play against it."
    )
