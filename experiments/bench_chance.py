"""Compares the speed of `tz.search` in games with chance with that of `mctx.stochastic_muzero_policy`.

    python experiments/bench_chance.py --out experiments/results/chance_cpu.md

Both search the same game and run alternately. mctx's decision function is `env.step` and its chance function is
`env.outcome`. The evaluator is constant (equal logits, value 0), so the times are those of the search and not of a
network. A simulation of tz makes a move, takes an outcome, and adds the position after both. A simulation of mctx adds
either a chance node or a position.
"""

import argparse
import functools
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import mctx
from jax import lax
from timing import compare, heading

import tz


def positions(env: tz.Env, num_games: int):
    opening = lambda key: tz.random_opening(env, 8, key=key)
    return jax.jit(jax.vmap(opening))(jax.random.split(jax.random.key(0), num_games))


def tz_search(mcts: tz.MCTS, env: tz.Env, states, metadata, key):
    def one(state, metadata, key):
        searched = tz.search(mcts, env, tz.uniform_evaluator, tz.init_search(mcts, state, metadata), key=key)
        return tz.action_weights(mcts, searched)

    return jax.vmap(one)(states, metadata, jax.random.split(key, len(metadata.terminated)))


def mctx_search(env: tz.Env, num_simulations: int, states, metadata, key):
    num_games, num_actions = metadata.action_mask.shape
    num_outcomes, rows = env.num_outcomes, jnp.arange(num_games)
    nothing = jnp.zeros(num_games)

    def logits_of(metadata):
        return jnp.where(metadata.action_mask, 0.0, jnp.finfo(jnp.float32).min)

    # mctx needs one PyTree for both kinds of node: a state, its metadata, and the player who moved last.
    def decide(params, key, action, embedding):
        state, metadata, _ = embedding
        after, made = jax.vmap(env.step)(state, action)
        certain = jnp.zeros((num_games, num_outcomes)).at[:, 0].set(1.0)
        chance = jnp.where((made.chance > 0).any(1, keepdims=True), made.chance, certain)
        logits = jnp.log(jnp.maximum(chance, 1e-30))
        output = mctx.DecisionRecurrentFnOutput(chance_logits=logits, afterstate_value=nothing)
        return output, (after, made, metadata.cur_player_id)

    def draw(params, key, outcome, embedding):
        after, made, mover = embedding
        answered, drawn = jax.vmap(env.outcome)(after, outcome, jax.random.split(key, num_games))
        is_nature = (made.chance > 0).any(1)
        choose = lambda new, old: jnp.where(is_nature.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
        state, metadata = jax.tree.map(choose, (answered, drawn), (after, made))
        reward = made.rewards[rows, mover] + jnp.where(is_nature, drawn.rewards[rows, mover], 0.0)
        sign = jnp.where(metadata.cur_player_id == mover, 1.0, -1.0)
        output = mctx.ChanceRecurrentFnOutput(
            action_logits=logits_of(metadata),
            value=nothing,
            reward=reward,
            discount=jnp.where(metadata.terminated, 0.0, sign),
        )
        return output, (state, metadata, mover)

    start = states, metadata, metadata.cur_player_id
    root = mctx.RootFnOutput(prior_logits=logits_of(metadata), value=nothing, embedding=start)
    policy = mctx.stochastic_muzero_policy
    out = policy((), key, root, decide, draw, num_simulations, invalid_actions=~metadata.action_mask)
    return out.action_weights[:, :num_actions]


def steps_alone(env: tz.Env, num_moves: int, states, metadata, key):
    """Makes as many moves, with nature's answers, as the searches have simulations: no search can be faster."""

    def body(position, key):
        action = jnp.argmax(position[1].action_mask, axis=-1)
        keys = jax.random.split(key, len(action))
        return jax.vmap(lambda *move, key: tz.games.make_move(env, *move, key=key))(position[0], action, key=keys), None

    return lax.scan(body, (states, metadata), jax.random.split(key, num_moves))[0][1].rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=["2048", "backgammon"], help="names of pgx games")
    parser.add_argument("--sizes", nargs="+", default=["64x32", "64x128"], help="games x simulations")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    lines = [
        "# Search in games with chance, beside mctx",
        "",
        heading("tz", "jax", "mctx", "pgx"),
        "",
        "| game | games x simulations | tz, simulations/s | mctx, simulations/s | tz / mctx | moves alone/s "
        "| compile, s: tz, mctx |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in args.games:
        env = tz.from_pgx(name)
        for size in args.sizes:
            num_games, num_simulations = map(int, size.split("x"))
            inputs = (*positions(env, num_games), jax.random.key(1))
            selector, root = tz.mcts.MuZeroPUCT(), tz.Dirichlet(alpha=0.3, epsilon=0.25)
            mcts = tz.MCTS(num_simulations, selector=selector, root=root, persist_tree=False)
            functions = [
                functools.partial(tz_search, mcts, env),
                functools.partial(mctx_search, env, num_simulations),
                functools.partial(steps_alone, env, num_simulations),
            ]
            times, compile_seconds, _ = compare(functions, [inputs] * 3, args.seconds)
            total = num_games * num_simulations
            ours, theirs, moves = (total / statistics.median(record) for record in times)
            ratio = statistics.median(b / a for a, b in zip(times[0], times[1], strict=True))
            lines.append(
                f"| {name} | {size} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} | {moves:,.0f} | "
                f"{compile_seconds[0]:.1f}, {compile_seconds[1]:.1f} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
