"""Measures the worth of each part of the recipe, by matches of variants against the whole recipe.

`python experiments/connect_four/study.py --minutes 4 --seeds 2 --out runs/study` writes a table and a plot; `--only`
selects variants, and `--env othello` studies the recipe of Othello instead. Each variant changes the recipe in one way,
the last two in two ways; `ideas.py` has those that are more than a setting. All agents are trained for the same time,
without compilation. The agents of a variant play those of the whole recipe (or of the variant `--rival`) with the same
seed, from the same openings of a few random moves.

`--epochs` replaces the time, so that the load of the machine does not matter. It is the length for the whole recipe,
and with `--equal-time` a variant gets as many epochs as take equally long. How long its epochs take beside those of the
whole recipe is measured in turns. Agents, matches and these ratios that are already in the folder are not made again,
so the same command continues a study that was cut off.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import re
import shlex
import sys
import time
import zlib

import equinox as eqx
import ideas
import jax
import matplotlib.pyplot as plt
import numpy as np

import tz

VARIANTS = {
    "value target: the outcome alone": {"td_lambda": 1.0},
    "value target: half outcome, half search": {"td_lambda": 1.0, "search_value_fraction": 0.5},
    "value target: lambda 0.5": {"td_lambda": 0.5},
    "value target: lambda 0.8, and half of it the search's value": {"search_value_fraction": 0.5},
    "no random starts": {"random_starts": 0},
    "PUCT with Dirichlet noise": {"search": "puct"},
    "PUCT with Dirichlet noise, 32 simulations": {"search": "puct", "num_simulations": 32},
    "PUCT, 32 simulations, temperature 0.25 after 10 moves": {
        "search": "puct",
        "num_simulations": 32,
        "cold_after": 10,
    },
    "no mirror images": {"symmetry": "none"},
    "all positions of the buffer": {"window": None},
    "an average of the weights plays": {"average_decay": 0.99},
    "a learning rate that falls from the start": {"anneal": 1.0},
    "a constant learning rate": {"anneal": 0.0},
    "weight decay, no L2 in the loss": {"l2": 0.0, "weight_decay": 0.02},
    "8 simulations": {"num_simulations": 8},
    "32 simulations": {"num_simulations": 32},
    "32 simulations, but 8 in 3 of 4 moves": {"num_simulations": 32, "fast_simulations": 8},
    "32 simulations, but 8 in the first half of the time": {"num_simulations": 32, "simulations_at_first": 8},
    "half the gradient steps": {"train_steps_per_epoch": 6},
    "twice the gradient steps": {"train_steps_per_epoch": 24},
    "q counts for more in the search (q_scale 0.5)": {"q_scale": 0.5},
    "heads of 2 channels": {"head_channels": 2},
    "4 blocks": {"num_blocks": 4},
    "2 blocks of 48 channels": {"num_blocks": 2, "num_channels": 48},
    "2 blocks of 24 channels": {"num_blocks": 2, "num_channels": 24},
    "32 games at a time": {"num_games": 32, "moves_per_epoch": 64, "capacity": 2000},
    "512 games at a time": {"num_games": 512, "moves_per_epoch": 4, "capacity": 125},
    "64 simulations": {"num_simulations": 64},
    "no reused trees": {"idea": "fresh_trees"},
    "4 blocks of 48 channels, half as many games": {
        "num_blocks": 4,
        "num_channels": 48,
        "num_games": 64,
        "capacity": 1000,
    },
    "means and maxima over the board (global pooling)": {"idea": "global_pooling"},
    "bottlenecks of 32 in 64 channels": {"idea": "bottlenecks", "num_channels": 64},
    "a transformer, 2 blocks of 64 channels": {"idea": "transformer", "num_blocks": 2, "num_channels": 64},
    "batch norm": {"norm": "batch"},
    "half of a position's weight by how its policy surprises": {"idea": "surprise"},
    "games cut after 8 moves, their value bootstrapped": {"idea": "cut_games"},
    "games cut after 8 moves, called drawn": {"idea": "drawn_games"},
    "the network also predicts the final board": {"ownership": 0.25},
    "the network also predicts how many moves are left": {"idea": "moves_left"},
    "a soft policy target beside the usual one": {"idea": "soft_policy"},
    "AdamW, with a learning rate of 0.003": {"optimizer": "adamw", "learning_rate": 3e-3},
    "Muon, with a learning rate of 0.01": {"optimizer": "muon", "learning_rate": 0.01},
    "Muon, with a learning rate of 0.005": {"optimizer": "muon", "learning_rate": 0.005},
    "four leaves at a time": {"idea": "four_leaves"},
    "a quarter of the games begin in positions of the buffer": {"idea": "uniform_restarts"},
    "a quarter of the games begin in positions of the buffer, by regret": {"idea": "regret_restarts"},
    "a constant learning rate, and targets of half outcome, half search": {
        "anneal": 0.0,
        "td_lambda": 1.0,
        "search_value_fraction": 0.5,
    },
    "a constant learning rate, and twice the gradient steps": {"anneal": 0.0, "train_steps_per_epoch": 24},
}


MATCHES = {
    "connect_four": {"opening_moves": 5, "max_moves": 42},
    "othello": {"opening_moves": 6, "max_moves": 128},
}
NOT_OF_THE_RECIPE = ("simulations_at_first", "idea")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A variant that is ready to be trained. With more than one stage, they follow each other in a training."""

    recipe: tz.Recipe
    env: tz.Env
    idea: ideas.Idea
    stages: list[tz.TrainConfig]
    made_with: dict[str, object]

    def played(self, state: tz.learn.LoopState | None, key: jax.Array) -> tz.Env:
        return self.idea.starting(self.env, state, key=key)

    def compiled(self) -> tz.learn.LoopState:
        """Trains for an epoch of each stage, so that all is compiled; returns the state."""
        state, played = self.idea.start(self.recipe, self.env, seed=0), self.played(None, jax.random.key(0))
        for stage in self.stages:
            state = tz.train_loop(stage, played, state, num_epochs=1, sinks=[], progress=False)
        self.played(state, jax.random.key(0))
        return state


def prepared(name: str, game: str = "connect_four") -> Prepared:
    settings = dict(VARIANTS.get(name, {}))
    others = {key: settings.pop(key, None) for key in NOT_OF_THE_RECIPE}
    recipe = dataclasses.replace(tz.runs.game_recipe(game), **settings)
    made_with = {"recipe": dataclasses.asdict(recipe)} | others
    config, env = recipe.build()
    idea = ideas.Idea(config) if others["idea"] is None else getattr(ideas, others["idea"])(recipe, config)
    stages = [idea.config]
    if (at_first := others["simulations_at_first"]) is not None:
        mcts = dataclasses.replace(idea.config.mcts, num_simulations=at_first)
        stages.insert(0, dataclasses.replace(idea.config, mcts=mcts))
    return Prepared(recipe, idea.game(env), idea, stages, made_with)


def trained(
    name: str, seeds: range, length: dict[str, float], out: pathlib.Path, game: str = "connect_four"
) -> list[pathlib.Path]:
    """Returns the files of the agents of a variant, one for each seed; trains the agents that are missing."""
    paths = [out / f"{slug(name)}-{seed}.tz" for seed in seeds]
    variant = prepared(name, game)
    recipe, made_with = variant.recipe, variant.made_with | length
    missing = [(seed, path) for seed, path in zip(seeds, paths, strict=True) if not path.exists()]
    for path in set(paths) - {path for _, path in missing}:
        card = tz.runs.agent_card(path)
        then = {key: card.get(key) for key in made_with} | {"recipe": dataclasses.asdict(tz.Recipe(**card["recipe"]))}
        if then != made_with:
            raise SystemExit(f"{path} was trained with other settings or for another time; choose another --out.")
    if not missing:
        return paths
    stages = variant.stages
    if len(stages) > 1 and "num_epochs" in length:
        raise SystemExit(f"{name}: found --epochs, expected --minutes, since its epochs do not take equally long.")
    variant.compiled()
    if variant.idea.openings is not None:
        stages = stages * ideas.NUM_PARTS
    for seed, path in missing:
        state, begun = variant.idea.start(recipe, variant.env, seed=seed), time.perf_counter()
        for index, stage in enumerate(stages):
            key = jax.random.fold_in(jax.random.key(seed), index)
            played = variant.played(state if index else None, key)
            part = (time.perf_counter() - begun) / length.get("seconds", np.inf), (index + 1) / len(stages)
            state = tz.runs.train_for(recipe, stage, played, state, part=part, **length, progress=False)
        card = made_with | {"seed": seed, "epochs": int(state.epoch)}
        tz.save_agent(path, variant.env, state.train.playing, state.train.playing_norm_state, card=card)
    jax.clear_caches()
    return paths


def relative_cost(name: str, out: pathlib.Path, game: str = "connect_four", num_turns: int = 5) -> float:
    """Returns how many times as long an epoch of a variant takes as one of the whole recipe, measured in turns."""
    path = out / "costs.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if name not in known:
        variants = [prepared(name, game), prepared("nothing", game)]
        states, seconds = [variant.compiled() for variant in variants], ([], [])
        for _ in range(num_turns):
            for index, variant in enumerate(variants):
                begun = time.perf_counter()
                played = variant.played(None, jax.random.key(0))
                options = {"num_epochs": 1, "sinks": [], "progress": False}
                states[index] = tz.train_loop(variant.stages[-1], played, states[index], **options)
                jax.block_until_ready(states[index].train.network)
                seconds[index].append(time.perf_counter() - begun)
        jax.clear_caches()
        known = json.loads(path.read_text()) if path.exists() else {}  # another process may have written it
        known[name] = float(np.median(seconds[0]) / np.median(seconds[1]))
        path.write_text(json.dumps(known, indent=1))
    return known[name]


def scores(
    agents: list[pathlib.Path], rivals: list[pathlib.Path], num_games: int, num_simulations: int, record: pathlib.Path
) -> list[tuple[float, float, float]]:
    """Returns the score against the rival of each seed, with its interval. `record` keeps it for the next call.

    Both players search as in training, without noise.
    """
    files = [zlib.crc32(path.read_bytes()) for path in agents + rivals]
    match_of = {"games": num_games, "simulations": num_simulations, "files": files}
    if record.exists() and (known := json.loads(record.read_text()))["match"] == match_of:
        return known["scores"]
    game = tz.runs.agent_card(rivals[0])["recipe"]["env"]
    env, rows = tz.from_pgx(game), []
    for seed, pair in enumerate(zip(agents, rivals, strict=True)):
        loaded = [tz.load_agent(path, network=other_network(path)) for path in pair]
        mcts = [dataclasses.replace(agent.mcts, num_simulations=num_simulations) for agent in loaded]
        players = [tz.Player(search, agent.evaluator) for search, agent in zip(mcts, loaded, strict=True)]
        options = {"num_games": num_games, **MATCHES[game]}
        match = tz.play_match(env, *players, key=jax.random.key(seed), mesh=tz.data_mesh(), **options)
        rows.append((float(match.score), *map(float, match.interval())))
    record.write_text(json.dumps({"match": match_of, "scores": rows}))
    return rows


def other_network(path: pathlib.Path) -> eqx.Module | None:
    """Returns a network like that of an agent, with other weights, if it is not a network of tz."""
    card = tz.runs.agent_card(path)
    if card.get("idea") is None:
        return None
    recipe = tz.Recipe(**card["recipe"])
    idea = getattr(ideas, card["idea"])(recipe, recipe.build()[0])
    if idea.network is None:
        return None
    return idea.start(recipe, recipe.build()[1], seed=0).train.network


def epochs(agents: list[pathlib.Path]) -> str:
    return ", ".join(str(tz.runs.agent_card(path)["epochs"]) for path in agents)


def plot(rows: dict[str, list[tuple[float, float, float]]], rival: str, path: pathlib.Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    for y, results in enumerate(rows.values()):
        for offset, (score, low, high) in zip(np.linspace(-0.15, 0.15, len(results)), results, strict=True):
            axes.errorbar(score, y + offset, xerr=[[score - low], [high - score]], fmt="o", color="C0", capsize=2)
    axes.axvline(0.5, color="gray", linewidth=1)
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel=f"score against {rival}")
    axes.set(xlim=(0.2, 0.8), ylim=(len(rows) - 0.5, -0.5))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", choices=list(MATCHES), default="connect_four", help="the game")
    parser.add_argument("--minutes", type=float, default=4, help="the length of the training of each agent")
    parser.add_argument("--epochs", type=int, help="the length of the training, instead of minutes")
    parser.add_argument("--equal-time", action="store_true", help="with --epochs: as long as the whole recipe takes")
    parser.add_argument("--seeds", type=int, default=2, help="the number of agents of each variant")
    parser.add_argument("--games", type=int, default=400, help="games of a match")
    parser.add_argument("--simulations", type=int, default=32, help="for a move of both players")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--rival", choices=list(VARIANTS), help="a variant as the rival, instead of the whole recipe")
    parser.add_argument("--devices", type=int, default=2, help="two use the cores of a CPU better than one")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    tz.matches.check_split("--games", args.games, tz.data_mesh())  # now, not after the training
    if args.equal_time and args.epochs is None:
        raise SystemExit("--equal-time: found no --epochs, expected the number for the whole recipe; add --epochs 36.")
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"`python {shlex.join(sys.argv)}`, {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"JAX {jax.__version__}, Python {platform.python_version()}",
        "",
        "| changed | epochs | score, one column a seed (95 % interval) |" + " |" * (args.seeds - 1),
        "|---|---:|" + "---|" * args.seeds,
    ]
    seeds, rows = range(args.seeds), {}
    length = {"seconds": 60 * args.minutes} if args.epochs is None else {"num_epochs": args.epochs}
    rival = args.rival or "nothing"
    rivals = trained(rival, seeds, length, args.out, args.env)
    lines.append(f"| {rival} | {epochs(rivals)} |" + " |" * args.seeds)
    for name in args.only:
        same = length
        if args.equal_time:
            same = {"num_epochs": round(length["num_epochs"] / relative_cost(name, args.out, args.env))}
        agents = trained(name, seeds, same, args.out, args.env)
        rows[name] = scores(agents, rivals, args.games, args.simulations, args.out / f"{slug(name)}.json")
        cells = [f"{score:.2f} ({low:.2f} to {high:.2f})" for score, low, high in rows[name]]
        lines.append(f"| {name} | {epochs(agents)} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        (args.out / "study.md").write_text("\n".join(lines) + "\n")
        plot(rows, args.rival or "the whole recipe", args.out / "study.png")


if __name__ == "__main__":
    main()
