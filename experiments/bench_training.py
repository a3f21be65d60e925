"""Measures the overhead of self-play and training over their searches and gradients.

    python experiments/bench_training.py --out experiments/results/training_cpu.md

`tz.collect` is compared with its searches alone, `tz.train_step` with a bare gradient step, and gradient steps in a
scan with the same steps unrolled.
"""

import argparse
import functools
import statistics
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from timing import compare, heading

import tz

OPTIMIZER = optax.adam(1e-3)


def collect(mcts: tz.MCTS, env: tz.Env, evaluator, num_moves: int, games):
    return jax.vmap(lambda game: tz.collect(mcts, env, evaluator, game, num_moves=num_moves))(games)


def searches_alone(mcts: tz.MCTS, env: tz.Env, evaluator, num_moves: int, games):
    """Runs as many searches of the same kind, every time of the same positions."""

    def one(game):
        def body(state, key):
            searched = tz.search(mcts, env, evaluator, state, key=key)
            return state, tz.action_weights(mcts, searched)

        return lax.scan(body, game.search, jax.random.split(game.key, num_moves))[1]

    return jax.vmap(one)(games)


def bare_step(state: tz.learn.TrainState, batch: tz.Sample):
    """Takes a gradient step that is written out for this loss and does nothing else."""
    parameters, static = eqx.partition(state.network, eqx.is_inexact_array)

    def loss(parameters):
        logits, value = jax.vmap(eqx.combine(parameters, static))(batch.observation)
        logits = jnp.where(batch.action_mask, logits, jnp.finfo(jnp.float32).min)
        policy_loss = optax.softmax_cross_entropy(logits, batch.policy)
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(parameters))
        return jnp.mean(policy_loss + jnp.square(value - batch.value)) + 1e-4 * squares

    value, gradient = jax.value_and_grad(loss)(parameters)
    updates, opt_state = OPTIMIZER.update(gradient, state.opt_state, parameters)
    return optax.apply_updates(parameters, updates), opt_state, value


def training_data(env: tz.Env, size: int) -> tz.Sample:
    opening = lambda key: tz.random_opening(env, 20, key=key)
    states, metadata = jax.jit(jax.vmap(opening))(jax.random.split(jax.random.key(0), size))
    mask = metadata.action_mask
    value = jax.random.choice(jax.random.key(1), jnp.array([-1.0, 1.0]), (size,))
    policy = mask / mask.sum(-1, keepdims=True)
    return jax.vmap(tz.Sample)(jax.vmap(env.observe)(states), mask, policy, value, jnp.ones(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=64)
    parser.add_argument("--simulations", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024, help="samples in a gradient step")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()

    env = tz.from_pgx("othello")
    network = tz.AZResNet(
        env.observation.shape, env.num_actions, arguments.blocks, arguments.channels, "layer", key=jax.random.key(1)
    )
    lines = [
        "# What self-play and training cost beyond their core",
        "",
        f"{heading('jax', 'equinox', 'optax', 'pgx')} Othello, {arguments.games} games, {arguments.simulations} "
        f"simulations, {arguments.blocks} blocks of {arguments.channels} channels with layer norm, "
        f"training batch {arguments.batch}. "
        "Run alternately; medians. Ratio: the first time over the second.",
        "",
        "| what | ms | against | ms | ratio |",
        "|---|---:|---|---:|---:|",
    ]
    print("\n".join(lines), flush=True)

    def row(names: tuple[str, str], functions, inputs, divide_by: int = 1) -> None:
        times, *_ = compare(functions, inputs, arguments.seconds)
        first, second = (1e3 * statistics.median(record) / divide_by for record in times)
        lines.append(f"| {names[0]} | {first:.2f} | {names[1]} | {second:.2f} | {first / second:.3f} |")
        print(lines[-1], flush=True)

    num_moves = 4
    evaluators = {"constant evaluator": tz.uniform_evaluator, "network": tz.NetworkEvaluator(network, env.observe)}
    for name, evaluator in evaluators.items():
        mcts = tz.MCTS(arguments.simulations)
        start = lambda key, mcts=mcts: tz.init_collect(mcts, env, key=key)
        games = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(2), arguments.games))
        functions = [functools.partial(f, mcts, env, evaluator, num_moves) for f in (collect, searches_alone)]
        row((f"`collect`, a move, {name}", "its searches"), functions, [(games,), (games,)], num_moves)

    batch = training_data(env, arguments.batch)
    state = tz.init_train(OPTIMIZER, network)
    step = functools.partial(tz.train_step, OPTIMIZER, tz.az_loss)
    row(("`train_step`", "a bare gradient step"), [step, bare_step], [(state, batch)] * 2)

    length = 4
    scanned = lambda state, batch: lax.scan(lambda state, _: step(state, batch), state, None, length=length)

    def one_by_one(state, batch):
        for _ in range(length):
            state, metrics = step(state, batch)
        return state, metrics

    names = (f"`train_step`, {length} in a scan", f"{length} unrolled")
    row(names, [scanned, one_by_one], [(state, batch)] * 2, length)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
