"""Simulations a second of `tz.search` against mctx, in one process and in turns.

    python experiments/bench_search.py --out experiments/results/search_cpu.md

Othello positions six random plies in. With a constant evaluator (equal logits, value 0) the search alone is timed; with
a network, its share is given by the throughput of the network alone on the same positions. A ratio above 1 means that
tz is faster.
"""

import argparse
import functools
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import mctx
import pgx
from jax import lax
from timing import compare, heading

import tz


def positions(env: tz.Env, num_games: int):
    opening = lambda key: tz.random_opening(env, 6, key=key)
    return jax.jit(jax.vmap(opening))(jax.random.split(jax.random.key(0), num_games))


def tz_search(env: tz.Env, evaluator, num_simulations: int, states, metadata, key):
    mcts = tz.MCTS(num_simulations, num_simulations + 1, root=tz.PlainRoot(), persist_tree=False)

    def one(state, metadata, key):
        searched = tz.search(mcts, env, evaluator, tz.init_search(mcts, state, metadata), key=key)
        return tz.action_weights(mcts, searched)

    return jax.vmap(one)(states, metadata, jax.random.split(key, len(metadata.terminated)))


def mctx_search(game: pgx.Env, policy, num_simulations: int, states, metadata, key):
    """mctx as pgx's users write it: the environment's state is the embedding, the discount is -1 or 0."""
    num_games = len(metadata.terminated)
    logits = lambda mask: jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)

    def recurrent(params, key, action, state):
        mover = state.current_player
        state = jax.vmap(game.step)(state, action)
        output = mctx.RecurrentFnOutput(
            reward=state.rewards[jnp.arange(num_games), mover],
            discount=jnp.where(state.terminated, 0.0, -1.0),
            prior_logits=logits(state.legal_action_mask),
            value=jnp.zeros(num_games),
        )
        return output, state

    states = jax.vmap(lambda state: state.replace(observation=game.observe(state)))(states)
    root = mctx.RootFnOutput(
        prior_logits=logits(states.legal_action_mask), value=jnp.zeros(num_games), embedding=states
    )
    invalid = ~states.legal_action_mask
    return policy((), key, root, recurrent, num_simulations, invalid_actions=invalid).action_weights


def steps_alone(env: tz.Env, num_steps: int, states, metadata, key):
    """As many steps of the environment as there are simulations: no search can be faster."""

    def body(position, _):
        action = jnp.argmax(position[1].action_mask, axis=-1)
        return jax.vmap(env.step)(position[0], action), None

    return lax.scan(body, (states, metadata), None, length=num_steps)[0][1].rewards


def network_alone(env: tz.Env, evaluator, num_calls: int, states, metadata, key):
    """As many evaluations as there are simulations, each input depending on the output before it."""

    def body(observations, _):
        logits, value = jax.vmap(evaluator.network)(observations)
        return observations + 1e-6 * (value + logits[:, 0])[:, None, None, None], None

    observations = jax.vmap(env.observe)(states).astype(jnp.float32)
    return lax.scan(body, observations, None, length=num_calls)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64x32", "256x128"], help="games x simulations")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()

    env, game = tz.from_pgx("othello"), pgx.make("othello")
    network = tz.AZResNet(
        env.observation.shape, env.num_actions, arguments.blocks, arguments.channels, "layer", key=jax.random.key(1)
    )
    evaluator = tz.NetworkEvaluator(network, env.observe)
    lines = [
        "# The search against mctx",
        "",
        f"{heading('jax', 'mctx', 'pgx', 'equinox')} Othello. Run in turns; medians; simulations a second in all "
        "games together. Ratio: tz over the row. The constant evaluator times the search alone; `env.step` alone is "
        "the limit. "
        f"The network has {arguments.blocks} blocks of {arguments.channels} channels, layer norm, float32; its row "
        "counts evaluations a second.",
        "",
        "| games x simulations | what | simulations/s | tz / this | compile, s |",
        "|---|---|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for size in arguments.sizes:
        num_games, num_simulations = map(int, size.split("x"))
        inputs = (*positions(env, num_games), jax.random.key(2))
        constant = {
            "tz, PUCT": functools.partial(tz_search, env, tz.uniform_evaluator, num_simulations),
            "mctx, gumbel_muzero_policy": functools.partial(
                mctx_search, game, mctx.gumbel_muzero_policy, num_simulations
            ),
            "mctx, muzero_policy": functools.partial(mctx_search, game, mctx.muzero_policy, num_simulations),
            "env.step alone": functools.partial(steps_alone, env, num_simulations),
        }
        with_network = {
            "tz, PUCT, network": functools.partial(tz_search, env, evaluator, num_simulations),
            "network alone": functools.partial(network_alone, env, evaluator, num_simulations),
        }
        for functions in (constant, with_network):
            times, compiling = compare(list(functions.values()), [inputs] * len(functions), arguments.seconds)
            medians = [statistics.median(record) for record in times]
            for name, median, seconds in zip(functions, medians, compiling, strict=True):
                rate = num_games * num_simulations / median
                lines.append(f"| {size} | {name} | {rate:,.0f} | {median / medians[0]:.2f} | {seconds:.1f} |")
                print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
