"""Compares the speed of `tz.search` with mctx, alternately in one process.

    python experiments/bench_search.py --out experiments/results/search_cpu.md

The positions come after six random moves. With a constant evaluator (equal logits, value 0), only the search is timed,
and no search can be faster than `env.step` alone. With a network (`--networks 4x32`), no search can be faster than the
network alone on the same positions. Two searches of tz are compared with their counterparts in mctx, which have the
same noise at the root; `--variants` adds searches that mctx does not have.
"""

import argparse
import functools
import itertools
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


def tz_search(mcts: tz.MCTS, env: tz.Env, evaluator, states, metadata, key):
    def one(state, metadata, key):
        searched = tz.search(mcts, env, evaluator, tz.init_search(mcts, state, metadata), key=key)
        return tz.action_weights(mcts, searched)

    return jax.vmap(one)(states, metadata, jax.random.split(key, len(metadata.terminated)))


def mctx_search(game: pgx.Env, env: tz.Env, evaluator, policy, num_simulations: int, states, metadata, key):
    """Runs mctx as users of pgx write it: the environment's state is the embedding, and the discount is -1 or 0."""
    num_games = len(metadata.terminated)

    def evaluate(state):
        logits, value = jax.vmap(lambda one: evaluator(one, _metadata(one), key))(state)
        return jnp.where(state.legal_action_mask, logits, jnp.finfo(jnp.float32).min), value

    def recurrent(params, key, action, state):
        mover = state.current_player
        state = jax.vmap(game.step)(state, action)
        logits, value = evaluate(state)
        output = mctx.RecurrentFnOutput(
            reward=state.rewards[jnp.arange(num_games), mover],
            discount=jnp.where(state.terminated, 0.0, -1.0),
            prior_logits=logits,
            value=value,
        )
        return output, state

    states = jax.vmap(lambda state: state.replace(observation=game.observe(state)))(states)
    logits, value = evaluate(states)
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=states)
    invalid = ~states.legal_action_mask
    return policy((), key, root, recurrent, num_simulations, invalid_actions=invalid).action_weights


def _metadata(state) -> tz.StepMetadata:
    return tz.StepMetadata(state.rewards, state.legal_action_mask, state.terminated, state.current_player)


def steps_alone(env: tz.Env, num_moves: int, states, metadata, key):
    """Makes as many steps of the environment as the searches have simulations: no search can be faster."""

    def body(position, _):
        action = jnp.argmax(position[1].action_mask, axis=-1)
        return jax.vmap(env.step)(position[0], action), None

    return lax.scan(body, (states, metadata), None, length=num_moves)[0][1].rewards


def network_alone(env: tz.Env, evaluator, num_calls: int, states, metadata, key):
    """Makes as many evaluations as the searches have simulations.

    Each input depends on the output before it, so that no evaluation can be hoisted out of the loop.
    """

    def body(observations, _):
        logits, value = jax.vmap(evaluator.network)(observations)
        return observations + 1e-6 * (value + logits[:, 0])[:, None, None, None], None

    observations = jax.vmap(env.observe)(states).astype(jnp.float32)
    return lax.scan(body, observations, None, length=num_calls)[0]


def kept_search(mcts: tz.MCTS, env: tz.Env, evaluator, states, key):
    """Runs a search after a move; its tree begins with the subtree that an earlier search left."""

    def one(state, key):
        return tz.action_weights(mcts, tz.search(mcts, env, evaluator, state, key=key))

    return jax.vmap(one)(states, jax.random.split(key, states.tree.size.shape[0]))


def after_a_move(mcts: tz.MCTS, env: tz.Env, evaluator, states, metadata, key):
    def one(state, metadata, key):
        searched = tz.search(mcts, env, evaluator, tz.init_search(mcts, state, metadata), key=key)
        action = tz.choose_action(mcts, searched, key=key)
        return tz.advance(mcts, searched, action, *env.step(state, action))

    return jax.vmap(one)(states, metadata, jax.random.split(key, len(metadata.terminated)))


def searches(num_simulations: int, variants: bool) -> dict[str, tz.MCTS]:
    settings = {"num_simulations": num_simulations, "max_nodes": num_simulations + 1, "persist_tree": False}
    plain = settings | {"root": tz.PlainRoot()}
    found = {
        "tz, PUCT": tz.MCTS(**plain),
        "tz, MuZeroPUCT, Dirichlet": tz.MCTS(selector=tz.mcts.MuZeroPUCT(), **settings),
        "tz, Gumbel": tz.gumbel_mcts(**settings),
    }
    if variants:
        found |= {
            "tz, PUCT, Dirichlet": tz.MCTS(**settings),
            "tz, MuZeroPUCT": tz.MCTS(selector=tz.mcts.MuZeroPUCT(), **plain),
            'tz, MuZeroPUCT, scale="tree"': tz.MCTS(selector=tz.mcts.MuZeroPUCT(scale="tree"), **plain),
            "tz, PUCT, ForcedPlayouts": tz.MCTS(**(settings | {"root": tz.mcts.ForcedPlayouts()})),
            "tz, PUCT, SoftmaxBackup": tz.MCTS(backup=tz.mcts.SoftmaxBackup(), **plain),
            "tz, PUCT, MaxBackup": tz.MCTS(backup=tz.mcts.MaxBackup(), **plain),
        }
    return found


def contenders(name: str, num_games: int, num_simulations: int, network: str | None, variants: bool):
    """Returns the programs to time, by name: a function and its inputs."""
    env, game = tz.from_pgx(name), pgx.make(name)
    inputs = (*positions(env, num_games), jax.random.key(2))
    if network is None:
        evaluator = tz.uniform_evaluator
        alone = {"`env.step` alone": functools.partial(steps_alone, env, num_simulations)}
    else:
        blocks, channels = map(int, network.split("x"))
        shape = env.observation.shape
        model = tz.AZResNet(shape, env.num_actions, blocks, channels, "layer", key=jax.random.key(1))
        evaluator = tz.NetworkEvaluator(model, env.observe)
        alone = {"the network alone": functools.partial(network_alone, env, evaluator, num_simulations)}
    functions = {
        what: functools.partial(tz_search, mcts, env, evaluator)
        for what, mcts in searches(num_simulations, variants and network is None).items()
    }
    for policy in (mctx.muzero_policy, mctx.gumbel_muzero_policy):
        functions[f"mctx, {policy.__name__}"] = functools.partial(
            mctx_search, game, env, evaluator, policy, num_simulations
        )
    found = {what: (function, inputs) for what, function in (functions | alone).items()}
    for what, mcts in {"tz, PUCT": tz.MCTS(num_simulations), "tz, Gumbel": tz.gumbel_mcts(num_simulations)}.items():
        start = jax.jit(functools.partial(after_a_move, mcts, env, evaluator))(*inputs)
        found[f"{what}, kept subtree"] = functools.partial(kept_search, mcts, env, evaluator), (start, inputs[-1])
    return found


def rows(name: str, size: str, network: str | None, variants: bool, seconds: float):
    """Yields the lines of the table for one game, size and evaluator."""
    num_games, num_simulations = map(int, size.split("x"))
    found = contenders(name, num_games, num_simulations, network, variants)
    times, compiling, memory = compare(*zip(*found.values(), strict=True), seconds)
    medians = dict(zip(found, map(statistics.median, times), strict=True))
    fastest = min(median for what, median in medians.items() if what.startswith("tz"))
    counterpart = {
        "`env.step` alone": fastest,
        "the network alone": fastest,
        "mctx, muzero_policy": medians["tz, MuZeroPUCT, Dirichlet"],
        "mctx, gumbel_muzero_policy": medians["tz, Gumbel"],
    }
    for what, seconds_to_compile, num_bytes in zip(found, compiling, memory, strict=True):
        rate = num_games * num_simulations / medians[what]
        ratio = f"{medians[what] / counterpart[what]:.2f}" if what in counterpart else ""
        yield (
            f"| {name} | {size} | {network or 'constant'} | {what} | {rate:,.0f} | {ratio} | {num_bytes / 1e6:,.1f} "
            f"| {seconds_to_compile:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=["othello"], help="names of pgx games")
    parser.add_argument("--sizes", nargs="+", default=["64x32", "256x128"], help="games x simulations")
    parser.add_argument("--networks", nargs="*", default=["4x32"], help="blocks x channels, besides the constant")
    parser.add_argument("--variants", action="store_true", help="also the searches that mctx does not have")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each game, size and evaluator")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    lines = [
        "# The search against mctx",
        "",
        f"{heading('jax', 'mctx', 'pgx', 'equinox')} Run alternately; medians; simulations a second in all games "
        "together (steps or evaluations for the rows that end in `alone`). tz / this: the speed of the counterpart in "
        "tz over that of mctx, and the speed of the fastest tz search over the rows that end in `alone`. Kept subtree: "
        "with Dirichlet or Gumbel noise, the tree begins with the subtree that an earlier search left. Memory: the "
        "compiled function without its inputs. Networks: blocks x channels, layer norm, float32.",
        "",
        "| game | games x simulations | evaluator | what | simulations/s | tz / this | memory, MB | compile, s |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for name, size, network in itertools.product(arguments.games, arguments.sizes, [None, *arguments.networks]):
        for line in rows(name, size, network, arguments.variants, arguments.seconds):
            lines.append(line)
            print(line, flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
