"""A whole training run in one folder: checkpoints, metrics, settings, and the agent. What the command line calls."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from tz.games.env import Env
from tz.learn.settings import LoopState, TrainConfig
from tz.matches.players import random_player
from tz.matches.testers import OpponentTester
from tz.runs.agent_files import agent_card, save_agent
from tz.runs.checkpoints import Checkpoints
from tz.runs.forking import fork
from tz.runs.memory_plan import plan_memory
from tz.runs.recipes import Recipe, train_for
from tz.runs.sinks import JsonLinesSink, Sink, TensorBoardSink, WandbSink, call_sinks, console_sink, run_facts
from tz.sharding import data_mesh

_RENAMED = {"search_value_share": "search_value_fraction"}  # settings of earlier versions


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How long a run is, where it is kept, and how it can be watched."""

    out: pathlib.Path
    """The folder of the run, where everything is left: checkpoints, metrics, settings, and the agent."""
    minutes: float | None = None
    """Of training, those before it was resumed included."""
    epochs: int | None = None
    """Instead of minutes: how many in all, in a fork with those of the run that it began from."""
    seed: int = 0
    """Of the first network and the games."""
    seeds: int = 1
    """How many agents to train side by side in one program, from `seed` on, each in a folder `seed_N` below `out`."""
    resume: bool = False
    """Goes on with the run in the folder, with its settings."""
    fork: pathlib.Path | None = None
    """The folder of another run, with whose last state and settings this one begins, but for those given here."""
    save_minutes: float = 5.0
    """Between two checkpoints."""
    keep: int = 3
    """How many of the newest checkpoints to keep, besides the best by the score against random play."""
    test_epochs: int = 20
    """Between two tests against random play."""
    skip_nonfinite: bool = False
    """Leaves out gradient steps that are not finite and counts them, instead of stopping."""
    tensorboard: bool = False
    """Whether to write event files for TensorBoard."""
    wandb: str | None = None
    """A project of Weights & Biases to log to."""

    def __post_init__(self):
        if (self.minutes is None) == (self.epochs is None):
            raise ValueError(f"Expected either minutes or epochs, found minutes={self.minutes}, epochs={self.epochs}.")
        if self.resume and self.fork is not None:
            raise ValueError("Expected either resume or fork: a run that is resumed has begun already.")
        if self.seeds > 1 and (self.resume or self.fork is not None):
            raise ValueError(
                f"RunSettings: found seeds={self.seeds} with resume or fork, expected a new run; resume or fork each "
                "of its seeds alone, from the folder seed_N."
            )
        if self.seeds > 1 and self.wandb is not None:
            raise ValueError(
                f"RunSettings: found seeds={self.seeds} and wandb={self.wandb!r}, expected one of the two, since a "
                "process logs to one run; draw metrics.jsonl with tz.plot.plot_learning, or use tensorboard."
            )
        for name in ("minutes", "epochs", "save_minutes", "keep", "test_epochs", "seeds"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}.")


def train_run(recipe: Recipe, settings: RunSettings) -> LoopState | list[LoopState]:
    """Trains an agent and leaves in the folder `settings.out`: `settings.json`, `metrics.jsonl`, `checkpoints/` and,
    whenever a checkpoint is saved, `agent.tz`.

    With several seeds, each has such a folder below `settings.out`, `seed_0` and so on, and can be resumed and forked
    alone. `settings.out` itself has the `metrics.jsonl` of all, which [`tz.plot.plot_learning`][] draws with intervals.

    **Returns:** the state after the last epoch, or a list of the states of all seeds.

    **Raises:** `ValueError` for settings that do not fit together or into memory, for a folder with a run in it that is
    not to be resumed, and for one without a run that is; all before anything is compiled. What [`tz.train_loop`][]
    raises, such as `SystemExit` after a signal to stop.
    """
    begun = time.perf_counter()
    mesh = data_mesh() if settings.seeds == 1 else data_mesh(jax.devices()[:1])
    config, env = recipe.build()
    per_device = math.ceil(16 / mesh.size)  # openings
    tester = OpponentTester(random_player(), "random", num_games=2 * per_device * mesh.size)
    options = {"testers": (tester,), "epochs_per_test": settings.test_epochs}
    config = dataclasses.replace(config, **options, skip_nonfinite=settings.skip_nonfinite)

    def length() -> dict[str, Any]:
        seconds = None if settings.minutes is None else 60 * settings.minutes - (time.perf_counter() - begun)
        return {"num_epochs": settings.epochs, "seconds": seconds}

    with contextlib.ExitStack() as opened:
        if settings.seeds == 1:
            state, sinks, checkpoints = opened.enter_context(_opened(recipe, settings, config, env, mesh))
            return train_for(recipe, config, env, state, **length(), sinks=sinks, checkpoints=checkpoints)
        check_unused(settings.out)
        runs = []
        for index in range(settings.seeds):
            seed = settings.seed + index
            one = dataclasses.replace(settings, out=settings.out / f"seed_{seed}", seed=seed, seeds=1)
            runs.append(opened.enter_context(_opened(recipe, one, config, env, mesh)))
        states, sinks, checkpoints = (list(parts) for parts in zip(*runs, strict=True))
        together = JsonLinesSink(settings.out / "metrics.jsonl")

        def report(row: Mapping[str, Any]) -> None:
            named = {**row, "seed": settings.seed + row["seed"]}
            alone = {name: x for name, x in row.items() if name != "seed"}
            call_sinks([console_sink, together], named)
            call_sinks([sink for sink in sinks[row["seed"]] if sink is not console_sink], alone)

        runs.clear()  # the states are given up as the training begins
        return train_for(recipe, config, env, states, **length(), sinks=[report], checkpoints=checkpoints)


def check_unused(out: pathlib.Path) -> None:
    """Raises `ValueError` if a folder has a run in it."""
    if (out / "settings.json").exists() or (out / "metrics.jsonl").exists():
        raise ValueError(
            f"{out} has a run in it. Go on with it by resume=True (on the command line --resume), choose "
            "another folder, or delete this one yourself."
        )


@contextlib.contextmanager
def _opened(
    recipe: Recipe, settings: RunSettings, config: TrainConfig, env: Env, mesh: Mesh
) -> Iterator[tuple[LoopState, list[Sink], Checkpoints]]:
    """The state that a run begins with, its sinks, which are closed in the end, and its checkpoints."""
    path, metrics = settings.out / "settings.json", settings.out / "metrics.jsonl"
    if settings.resume:
        _check_same(recipe, settings)
    else:
        check_unused(settings.out)
    checkpoints = Checkpoints(
        settings.out,
        every_epochs=None,
        every_minutes=settings.save_minutes,
        keep=settings.keep,
        best="random_score",
        on_save=lambda state: _save_agent(settings.out, facts, env, state, checkpoints),
        resume=settings.resume,
    )
    state = recipe.start(config, env, seed=settings.seed, mesh=mesh)
    print(plan_memory(config, env, state.train.network, state.train.norm_state, mesh=mesh), flush=True)
    facts = {"recipe": dataclasses.asdict(recipe), "run": _plain(settings), **_origin(settings), **run_facts()}
    state, sinks = _begin(checkpoints, settings, config, env, state), []
    try:
        _open_sinks(sinks, settings, facts, int(state.epoch))
        _write(path, json.dumps(facts, indent=1) + "\n")
        if settings.fork is not None:  # or a fork that is cut off early would be resumed with a new network
            checkpoints.finish(state)
        yield state, sinks, checkpoints
    except BaseException:
        if not (settings.resume or checkpoints.epochs or metrics.exists()):
            path.unlink(missing_ok=True)  # nothing was learned, and the same command can be given again
        raise
    finally:
        for sink in sinks:
            if isinstance(sink, TensorBoardSink | WandbSink):
                sink.close()


def saved_settings(folder: str | os.PathLike) -> tuple[Recipe, RunSettings]:
    """The recipe and the other settings of the run in a folder.

    **Raises:** `ValueError` if there is no run, or its settings are not those of a run of this version.
    """
    path = pathlib.Path(folder) / "settings.json"
    try:
        found = json.loads(path.read_text())
        run = {name: value for name, value in found["run"].items() if name not in ("out", "fork")}
        recipe = dict(found["recipe"])
        recipe |= {new: recipe.pop(old) for old, new in _RENAMED.items() if old in recipe}
        return Recipe(**recipe), RunSettings(out=pathlib.Path(folder), **run)
    except OSError as error:
        raise ValueError(f"There is no run in {folder}: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the settings of a run of this version of tz: {error}.") from error


def _begin(
    checkpoints: Checkpoints, settings: RunSettings, config: TrainConfig, env: Env, state: LoopState
) -> LoopState:
    if settings.fork is None:
        return checkpoints.restore(state) if settings.resume else state
    state = fork(settings.fork, config, env, state)
    if settings.epochs is not None and int(state.epoch) >= settings.epochs:
        raise ValueError(
            f"The run in {settings.fork} has {int(state.epoch)} epochs already, so up to epochs={settings.epochs} "
            "there is nothing to do: epochs counts those before the fork as well. Give more, or minutes."
        )
    return state


def _check_same(recipe: Recipe, settings: RunSettings) -> None:
    """Raises `ValueError` unless a run that is to be resumed has this recipe and seed."""
    saved, run = saved_settings(settings.out)
    before, now = dataclasses.asdict(saved) | {"seed": run.seed}, dataclasses.asdict(recipe) | {"seed": settings.seed}
    if changed := [f"{name} {now[name]}, where it has {before[name]}" for name in now if now[name] != before[name]]:
        raise ValueError(
            f"The run in {settings.out} cannot be resumed with {'; '.join(changed)}. Leave that as it was, or begin "
            f"another run from it: --fork {settings.out} and another --out."
        )


def _origin(settings: RunSettings) -> dict[str, Any]:
    """What a run keeps when it is resumed: its name, and the card of the agent whose run it was forked from."""
    if settings.resume:
        found = json.loads((settings.out / "settings.json").read_text())
        return {name: found.get(name) for name in ("id", "forked_from")}
    agent = None if settings.fork is None else settings.fork / "agent.tz"
    return {"id": uuid.uuid4().hex[:8], "forked_from": agent_card(agent) if agent and agent.exists() else None}


def _open_sinks(sinks: list[Sink], settings: RunSettings, facts: dict[str, Any], first_epoch: int) -> None:
    """Adds the sinks to a list, one by one, since those that are open must be closed if another cannot be made."""
    first = first_epoch if settings.resume else None
    sinks += [console_sink, JsonLinesSink(settings.out / "metrics.jsonl", first_epoch=first)]
    if settings.tensorboard:
        sinks.append(TensorBoardSink(settings.out / "tensorboard", settings=facts))
    if settings.wandb is not None:
        about = {"id": facts["id"], "resume": "allow", "name": settings.out.name, "dir": str(settings.out)}
        sinks.append(WandbSink(settings.wandb, config=facts, **about))


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file as a whole or, where the disk is full, leaves the one that is there."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def _save_agent(out: pathlib.Path, facts: dict[str, Any], env: Env, state: LoopState, checkpoints: Checkpoints) -> None:
    card = {
        "recipe": facts["recipe"],
        "seed": facts["run"]["seed"],
        "epochs": int(state.epoch),
        "minutes": round(checkpoints.seconds / 60, 1),
        "device": facts["devices"],
        "versions": facts["versions"],
        "script": _script(facts["command"]),
        "git": facts["git"],
    }
    if facts["forked_from"] is not None:
        card["forked_from"] = facts["forked_from"]
    save_agent(out / "agent.tz", env, state.train.playing, state.train.playing_norm_state, card=card)


def _script(command: list[str]) -> str:
    """A command as it was typed, but for where programs are kept."""
    program, *arguments = command
    name = pathlib.Path(program).name if pathlib.Path(program).is_absolute() else program
    return f"python {'-m tz' if name.endswith('__main__.py') else shlex.quote(name)} {shlex.join(arguments)}".strip()


def _plain(settings: RunSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in values.items()}
