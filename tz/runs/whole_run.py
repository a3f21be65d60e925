"""Runs a whole training in one folder, with checkpoints, metrics, settings and the agent, as the commands do."""

import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from tz.games.env import Env
from tz.learn.settings import LoopState, TrainConfig
from tz.runs._folder_lock import folder_lock
from tz.runs.agent_files import save_agent
from tz.runs.checkpoints import Checkpoints
from tz.runs.forking import fork
from tz.runs.memory_plan import plan_memory
from tz.runs.recipes import Recipe
from tz.runs.run_settings import (
    RunSettings,
    check_same,
    check_unused,
    origin_of,
    plain_settings,
    saved_run,
    script_of,
)
from tz.runs.screen import Screen, clock
from tz.runs.sinks import JsonLinesSink, Sink, TensorBoardSink, WandbSink, call_sinks, check_login, run_facts
from tz.runs.test_choices import chosen_testers
from tz.runs.timed import train_for
from tz.sharding import data_mesh


def train_run(recipe: Recipe, settings: RunSettings) -> LoopState | list[LoopState]:
    """Trains an agent and saves everything in the folder `settings.out`, as `python -m tz train` does.

    The folder has `settings.json`, `metrics.jsonl`, `checkpoints/`, and `agent.tz`, which is written again with each
    checkpoint. With several seeds, each seed has such a folder below `settings.out`, `seed_0` and so on, and can be
    resumed and forked alone. Then `metrics.jsonl` in `settings.out` has the metrics of all seeds, which
    [`tz.plot.plot_learning`][] draws with intervals.

    **Arguments:**

    - `recipe`: the game, and the settings for learning it.
    - `settings`: the length of the run, its folder, its tests, and whether it resumes or forks another run.

    **Returns:** the state after the last epoch, or a list of the states of all seeds.

    **Raises:** `ValueError`, before the training is compiled, if settings do not fit together or into memory, if the
    folder has a run and `settings.resume` is False, if it has no run to resume, or if another process trains in it;
    later the errors of [`tz.train_loop`][], such as `SystemExit` after a signal.
    """
    begun = time.perf_counter()
    if settings.wandb is not None:
        check_login(settings.wandb_offline)
    mesh = data_mesh() if settings.seeds == 1 else data_mesh(jax.devices()[:1])
    config, env = recipe.build()
    testers, best = chosen_testers(settings.test, recipe, env if config.test_env is None else config.test_env, mesh)
    options = {"testers": testers, "epochs_per_test": settings.test_epochs}
    config = dataclasses.replace(config, **options, skip_nonfinite=settings.skip_nonfinite)

    length = {"num_epochs": settings.epochs, "seconds": None if settings.minutes is None else 60 * settings.minutes}
    with contextlib.ExitStack() as opened:
        if jax.process_index() == 0:
            opened.enter_context(folder_lock(settings.out))
        if settings.seeds == 1:
            state, sinks, checkpoints = opened.enter_context(_opened(recipe, settings, config, env, mesh, best))
            before = checkpoints.seconds, int(state.epoch)
            checkpoints.seconds += time.perf_counter() - begun  # the time of a run includes its start
            screen = opened.enter_context(_screen(settings, sinks[0], before, time.perf_counter() - begun))
            options = {"sinks": [*sinks, screen], "progress": screen.phase, "checkpoints": checkpoints}
            return train_for(recipe, config, env, state, **length, **options)
        check_unused(settings.out)
        runs = []
        for index in range(settings.seeds):
            seed = settings.seed + index
            one = dataclasses.replace(settings, out=settings.out / f"seed_{seed}", seed=seed, seeds=1)
            opened.enter_context(folder_lock(one.out))
            runs.append(opened.enter_context(_opened(recipe, one, config, env, mesh, best)))
        states, sinks, checkpoints = (list(parts) for parts in zip(*runs, strict=True))
        together = JsonLinesSink(settings.out / "metrics.jsonl")
        screen = opened.enter_context(_screen(settings, together, (0.0, 0), time.perf_counter() - begun))

        def report(row: Mapping[str, Any]) -> None:
            named = {**row, "seed": settings.seed + row["seed"]}
            alone = {name: x for name, x in row.items() if name != "seed"}
            call_sinks([together, screen], named)
            call_sinks(sinks[row["seed"]], alone)

        for one in checkpoints:
            one.seconds += time.perf_counter() - begun
        runs.clear()  # its references would keep the states in memory when the training stacks them
        options = {"sinks": [report], "progress": screen.phase, "checkpoints": checkpoints}
        return train_for(recipe, config, env, states, **length, **options)


def _screen(settings: RunSettings, sink: Sink, before: tuple[float, int], starting: float) -> Screen:
    """Makes the screen of a run.

    **Arguments:** `sink`, which counts the games; `before`, seconds and epochs before the run was resumed; `starting`,
    the seconds that its start took.
    """
    assert isinstance(sink, JsonLinesSink)
    seconds, (done, epoch) = None if settings.minutes is None else 60 * settings.minutes, before
    length = {"seconds": seconds, "num_epochs": settings.epochs, "done": (done + starting, epoch)}
    totals = sink.totals if settings.seeds == 1 else lambda: sink.totals(settings.seed)
    screen = Screen(totals=totals, **length)
    if settings.resume or settings.fork is not None:
        of = f"of {epoch_or_time(settings)} " if settings.minutes is not None else ""
        begins = "resumed" if settings.resume else "forked"
        screen.say(f"{begins} at epoch {epoch}, {clock(done)} {of}done")
    return screen


def epoch_or_time(settings: RunSettings) -> str:
    """Writes the length of a run as a number of epochs or a time."""
    return f"{settings.epochs} epochs" if settings.minutes is None else clock(60 * settings.minutes)


@contextlib.contextmanager
def _opened(
    recipe: Recipe, settings: RunSettings, config: TrainConfig, env: Env, mesh: Mesh, best: str
) -> Iterator[tuple[LoopState, list[Sink], Checkpoints]]:
    """Makes the first state of a run, its sinks and its checkpoints, and closes the sinks at the end."""
    path, metrics = settings.out / "settings.json", settings.out / "metrics.jsonl"
    if settings.resume:
        check_same(recipe, settings)
    else:
        check_unused(settings.out)
    checkpoints = Checkpoints(
        settings.out,
        every_epochs=None,
        every_minutes=settings.save_minutes,
        keep=settings.keep,
        best=best,
        on_save=lambda state: _save_agent(settings.out, facts, env, state, checkpoints),
        resume=settings.resume,
    )
    sinks: list[Sink] = []
    try:
        print("checks the game and starts the first games ...", flush=True)
        state = recipe.start(config, env, seed=settings.seed, mesh=mesh)
        print(plan_memory(config, env, state.train.network, state.train.norm_state, mesh=mesh), flush=True)
        facts = {"recipe": dataclasses.asdict(recipe), "run": plain_settings(settings)}
        facts |= {**origin_of(settings), **run_facts()}
        state = _begin(checkpoints, settings, config, env, state)
        _open_sinks(sinks, settings, facts, int(state.epoch))
        _write(path, json.dumps(facts, indent=1) + "\n")
        if settings.fork is not None:  # otherwise a fork that dies early would be resumed with a new network
            checkpoints.finish(state)
        yield state, sinks, checkpoints
    except BaseException:
        if not (settings.resume or checkpoints.epochs or metrics.exists()):
            path.unlink(missing_ok=True)  # nothing is learned yet, so the same command may be given again
            with contextlib.suppress(OSError):  # the folder is not empty
                (settings.out / "checkpoints").rmdir()
        raise
    finally:
        for sink in sinks:
            if isinstance(sink, TensorBoardSink | WandbSink):
                sink.close()


def _begin(
    checkpoints: Checkpoints, settings: RunSettings, config: TrainConfig, env: Env, state: LoopState
) -> LoopState:
    """Returns the state to train from: a new one, the newest checkpoint, or the last state of another run."""
    if settings.resume:
        if not checkpoints.epochs and saved_run(settings.out).get("fork"):
            raise ValueError(
                f"resume: found a fork in {settings.out} that ended before its first checkpoint, expected a state to "
                "continue from; delete the folder, and give the command of the fork again."
            )
        return checkpoints.restore(state)
    if settings.fork is None:
        return state
    seed = None if settings.seed == saved_run(settings.fork).get("seed") else settings.seed
    state = fork(settings.fork, config, env, state, seed=seed)
    if settings.epochs is not None and int(state.epoch) >= settings.epochs:
        raise ValueError(
            f"fork: found a run of {int(state.epoch)} epochs in {settings.fork}, expected fewer than "
            f"epochs={settings.epochs}, which includes the epochs before the fork; give more epochs, or minutes."
        )
    return state


def _open_sinks(sinks: list[Sink], settings: RunSettings, facts: dict[str, Any], first_epoch: int) -> None:
    """Adds the sinks to a list one by one, so that the caller can close them even if a later one cannot be made."""
    first = first_epoch if settings.resume else None
    sinks.append(JsonLinesSink(settings.out / "metrics.jsonl", first_epoch=first))
    if settings.tensorboard:
        sinks.append(TensorBoardSink(settings.out / "tensorboard", settings=facts))
    if settings.wandb is not None:
        about = {"id": facts["id"], "resume": "allow", "name": settings.out.name, "dir": str(settings.out)}
        about |= {"mode": "offline"} if settings.wandb_offline else {}
        sinks.append(WandbSink(settings.wandb, config=facts, **about))


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a whole file, or leaves the old one unchanged if writing fails, for example on a full disk."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def _save_agent(out: pathlib.Path, facts: dict[str, Any], env: Env, state: LoopState, checkpoints: Checkpoints) -> None:
    """Saves the agent of a state, with a card that says how it was trained."""
    card = {
        "recipe": facts["recipe"],
        "seed": facts["run"]["seed"],
        "epochs": int(state.epoch),
        "minutes": round(checkpoints.seconds / 60, 1),
        "device": facts["devices"],
        "versions": facts["versions"],
        "script": script_of(facts["command"]),
        "git": facts["git"],
    }
    if facts["forked_from"] is not None:
        card["forked_from"] = facts["forked_from"]
    save_agent(out / "agent.tz", env, state.train.playing, state.train.playing_norm_state, card=card)
