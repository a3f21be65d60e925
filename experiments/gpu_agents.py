"""The parts of `gpu.py` that train an agent."""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from timing import heading

import tz

sys.path.append(str(pathlib.Path(__file__).parent / "connect_four"))
import truth

STARTED = time.perf_counter()
_SHIPPED = {"num_blocks": 5, "num_channels": 96, "head_channels": 16}  # small enough for a file that comes with tz
_CHANGES: dict[str, dict[str, Any]] = {
    "connect_four": {},
    "connect_four_small": {"num_blocks": 3, "num_channels": 32, "head_channels": 16},  # as in the recipe for a CPU
    "connect_four_muon": {"optimizer": "muon", "learning_rate": 5e-3},
    "othello": _SHIPPED,
    "go_9x9": {**_SHIPPED, "num_games": 4096, "moves_per_epoch": 8, "capacity": 750, "train_dtype": "bfloat16"},
}


def jax_flags() -> str:
    return os.environ.get("XLA_FLAGS", "")


def recipe_of(name: str, args: argparse.Namespace) -> tz.Recipe:
    """Returns the recipe of an agent for a GPU, with a buffer that holds about a third of a run of some minutes."""
    game = name.removesuffix("_small").removesuffix("_muon")
    if args.tiny:
        sizes: dict[str, Any] = {"num_blocks": 1, "num_channels": 8, "num_games": 8, "train_batch_size": 8}
        return tz.Recipe(game, num_simulations=4, moves_per_epoch=4, capacity=64, train_steps_per_epoch=1, **sizes)
    return dataclasses.replace(tz.runs.game_recipe(game, "gpu"), **{"capacity": 1500, **_CHANGES[name]})


def train(name: str, args: argparse.Namespace) -> tz.mcts.NetworkEvaluator:
    """Trains an agent and writes it to a file. `--minutes` is the time of the whole process."""
    recipe = recipe_of(name, args)
    config, env = recipe.build()
    state = recipe.start(config, env, seed=args.seed)
    sinks = [tz.console_sink, tz.JsonLinesSink(args.out / f"{name}.jsonl")]
    seconds = 60 * args.minutes - (time.perf_counter() - STARTED)
    length: dict[str, Any] = {"num_epochs": 2} if args.tiny else {"seconds": seconds}
    state = tz.runs.train_for(recipe, config, env, state, sinks=sinks, **length)
    spent = time.perf_counter() - STARTED
    card = {"recipe": dataclasses.asdict(recipe), "seed": args.seed, "epochs": int(state.epoch)}
    facts = tz.runs.run_facts()
    card |= {"minutes": round(spent / 60, 2), "device": facts["devices"], "flags": jax_flags()}
    card |= {fact: facts[fact] for fact in ("versions", "git")}
    card["script"] = f"python experiments/gpu.py --parts {name} --minutes {args.minutes:g}"
    tz.save_agent(args.out / f"{name}.tz", tz.from_pgx(recipe.env), state.train.playing, card=card)
    return tz.NetworkEvaluator(state.train.playing, env.observe)


def connect_four(name: str, args: argparse.Namespace) -> Iterator[str]:
    """Trains an agent, and measures its mistakes on solved positions, which are never trained on."""
    agent, file = train(name, args), args.out / f"{name}.tz"
    trained = time.perf_counter() - STARTED
    epochs = tz.runs.agent_card(file)["epochs"]
    yield "# Connect Four\n"
    yield f"{heading('jax', 'pgx', 'equinox')} {trained:.0f} s in all, {epochs} epochs, seed {args.seed}.\n"
    solved = truth.load_solved()
    if args.tiny:
        solved = truth.Solved(*(array[::60] for array in solved))
    columns = [f"{source} {phase}" for source in truth.SOURCES for phase in ("all", *truth.PHASES)]
    yield "| mistakes in % | " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    numbers, measured = (4,) if args.tiny else (600, 32, 64, 200), {}
    rows = [("policy", None)] + [(f"{n} simulations", truth.gumbel(n)) for n in numbers]
    for player, mcts in rows:
        chosen = truth.chosen_moves(mcts, agent, solved.moves, batch_size=64 if args.tiny else 1024)
        found = [round(rate, 2) for rate in truth.rates(solved, truth.mistakes(solved, chosen))]
        measured[player] = dict(zip(columns, found, strict=True))
        yield f"| {player} | " + " | ".join(f"{rate:.2f}" for rate in found) + " |"
    card = tz.runs.agent_card(file) | {"mistakes": measured}
    tz.save_agent(file, tz.from_pgx("connect_four"), agent.network, card=card)


def board_game(game: str, args: argparse.Namespace) -> Iterator[str]:
    """Trains an agent, and plays a match against the same search without a network."""
    agent, env = train(game, args), tz.from_pgx(game)
    epochs = tz.runs.agent_card(args.out / f"{game}.tz")["epochs"]
    yield f"# {game}\n"
    yield f"{heading('jax', 'pgx', 'equinox')} {time.perf_counter() - STARTED:.0f} s in all, {epochs} epochs.\n"
    num_games, num_simulations = (2, 2) if args.tiny else (256, 64)
    mcts = dataclasses.replace(recipe_of(game, args).build()[0].mcts, num_simulations=num_simulations)
    mcts = dataclasses.replace(tz.without_exploration(mcts), persist_tree=False, max_nodes=None)
    options = {"num_games": num_games, "max_moves": 8 if args.tiny else 256, "opening_moves": 6}
    players = tz.Player(mcts, agent), tz.Player(mcts, tz.uniform_evaluator)
    match = tz.play_match(env, *players, key=jax.random.key(5), **options)
    yield f"{num_simulations} simulations against as many without a network: {match}"
