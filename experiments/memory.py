"""Lists the memory of a node of the search tree for the games of pgx, and of a training run.

    python experiments/memory.py --out experiments/results/memory.md

Nothing is allocated: `tz.mcts.search_bytes` adds up the sizes of the arrays. A node keeps the environment's state
without its observation, six numbers, and four numbers (five with `max_actions`) for each action.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import pgx
from timing import heading

import tz
from tz.learn.epochs import self_play_settings
from tz.learn.new_games import evaluator_of
from tz.runs.phases import compiled_play, compiled_step, step_arguments

MOST_LEGAL = {"chess": 218, "shogi": 593}  # the most legal moves in any position


def planned_and_taken(name: str, changes: dict) -> str:
    recipe = dataclasses.replace(tz.Recipe(name, symmetry="none"), **changes)
    config, env = recipe.build()
    mesh, state = tz.data_mesh(), recipe.start(config, env, seed=0)
    plan = tz.runs.plan_memory(config, env, state.train.network, mesh=mesh)
    evaluator = evaluator_of(config, env, state.train)
    inputs = self_play_settings(config), env, evaluator, None, config.moves_per_epoch, mesh
    play = compiled_play.lower(inputs, state.games)
    learn = compiled_step.lower(*step_arguments(config, state, None, mesh))
    taken = [x.compile().compiled.memory_analysis().temp_size_in_bytes for x in (play, learn)]
    numbers = plan.games, plan.self_play, taken[0], plan.gradient, taken[1]
    about = ", ".join([name, *(f"{key}={value}" for key, value in changes.items())])
    return f"| {about} | {' | '.join(f'{number / 1e6:.1f}' for number in numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    lines = [
        "# Memory of the search tree",
        "",
        f"{heading('jax', 'pgx')} Bytes a node; `max_actions` is at least the most legal moves of any position, so "
        "nothing is lost. The last column: 1,024 games x 128 nodes.",
        "",
        "| game | actions | observation | state | all of a node | 1,024 x 128, GB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in pgx.available_envs():
        try:
            env = tz.from_pgx(name)
        except ValueError:  # such as games with hidden information
            continue
        state = jax.eval_shape(lambda key, env=env: env.init(key)[0], jax.random.key(0))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        observation = env.observation.size * env.observation.dtype.itemsize
        mcts = tz.MCTS(127, 128)
        for kept in (None, MOST_LEGAL[name]) if name in MOST_LEGAL else (None,):
            settings = dataclasses.replace(mcts, max_actions=kept)
            larger = dataclasses.replace(settings, max_nodes=256)
            node = (tz.mcts.search_bytes(larger, env) - tz.mcts.search_bytes(settings, env)) // 128
            total = tz.mcts.search_bytes(settings, env, 1024) / 1e9
            actions = f"{env.num_actions:,}" if kept is None else f"max_actions={kept}"
            lines.append(f"| {name} | {actions} | {observation:,} | {state_bytes:,} | {node:,} | {total:.2f} |")
    lines += [
        "",
        "## A run",
        "",
        "The estimate of `tz.runs.plan_memory` for `tz.Recipe(game, ...)`, and the plan of XLA on a CPU, in MB.",
    ]
    lines += ["", "| run | games | self-play | XLA's | gradient | XLA's |", "|---|---:|---:|---:|---:|---:|"]
    for changes in ({}, {"num_games": 1024}, {"num_blocks": 8, "num_channels": 128}, {"train_batch_size": 2048}):
        for name in ("connect_four", "othello"):
            lines.append(planned_and_taken(name, changes))
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
