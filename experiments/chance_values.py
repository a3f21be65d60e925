"""Do the values of searches in games with chance converge to the exact values? Should afterstates be evaluated?

    python experiments/chance_values.py --out experiments/results

The games are small ones from the tests, whose exact values plain Python computes. The plot shows the error of the
best move's value against the number of simulations, for a constant evaluator, in a race of two checkers a side and in
2048 on 2 by 2 cells.

The table compares two ways to search. In tz, a simulation passes through nature's node to an outcome and evaluates the
position after it. Some searches evaluate the *afterstate* first, the position before the throw: the first simulation
that reaches it stops there, and later ones pass through. A wrapper turns any game into such a one: the afterstate
becomes a position with a single action, the throw. Each simulation is one call of the evaluator. The evaluator returns
the exact value plus an error that is fixed for each position; in afterstates the error is as large as elsewhere, or
twice as large. The positions are those of the race and of Pig to 20, after some random moves.
"""

import argparse
import dataclasses
import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from timing import heading

import tz

sys.path.append(str(Path(__file__).parents[1] / "tests"))
small: Any = importlib.import_module("chance_games")

SIDES, PIPS = 4, 4
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class AfterState(eqx.Module):
    """A position, or an afterstate if `is_after`: the position before nature's answer.

    In an afterstate, `chance` is the probabilities of the outcomes, `player` has just moved, and `next_player` is the
    player who is to move according to the game.
    """

    state: Any
    is_after: jax.Array
    player: jax.Array
    next_player: jax.Array
    chance: jax.Array


def with_afterstates(env: tz.Env) -> tz.Env:
    """Returns the game with afterstates as positions, in which the player who has moved makes the throw as a move."""

    def packed(state, metadata):
        player = metadata.cur_player_id
        return AfterState(state, jnp.bool_(False), player, player, jnp.zeros_like(metadata.chance)), metadata

    def step(state, action):
        after, metadata = env.step(state.state, action)
        is_after = jnp.any(metadata.chance > 0) & ~state.is_after
        thrown = dataclasses.replace(
            metadata,
            rewards=jnp.where(state.is_after, 0, metadata.rewards),
            terminated=metadata.terminated & ~state.is_after,
            cur_player_id=jnp.where(is_after | state.is_after, state.player, metadata.cur_player_id),
            action_mask=jnp.where(is_after, jnp.arange(env.num_actions) == 0, metadata.action_mask),
            chance=jnp.where(state.is_after, state.chance, 0.0),
        )
        after = jax.tree.map(lambda old, new: jnp.where(state.is_after, old, new), state.state, after)
        chance = jnp.where(is_after, metadata.chance, 0.0)
        return AfterState(after, is_after, thrown.cur_player_id, metadata.cur_player_id, chance), thrown

    return tz.Env(
        init=lambda key: packed(*env.init(key)),
        step=step,
        observe=lambda state: env.observe(state.state),
        name=f"{env.name} with afterstates",
        outcome=lambda state, outcome, key: packed(*env.outcome(state.state, outcome, key)),
    )


def race_table() -> np.ndarray:
    """Returns the values of the race, `[pips, pips, pips, pips, die]`, from the perspective of the player to move.

    Die 0 is the value before the throw.
    """
    table = np.zeros((PIPS + 1,) * 4 + (SIDES + 1,), np.float32)
    for a, b, c, d in itertools.product(range(PIPS + 1), repeat=4):
        if (a or b) and (c or d):
            values = [small.race_value((a, b), (c, d), die, SIDES) for die in range(1, SIDES + 1)]
            table[a, b, c, d] = [np.mean(values), *values]
    return table


def pig_table(goal: int) -> np.ndarray:
    """Returns the values of Pig, `[own, other, turn, is_rolling]`, from the perspective of the player to move."""
    table = np.ones((goal, goal, 2 * goal, 2), np.float32)
    for (own, other, turn), (roll, hold) in small.pig_values(goal).items():
        table[own, other, turn] = max(roll, hold), roll
    return table


def race_place(state: Any) -> tuple:
    return *state.pips.ravel(), state.die


def pig_place(state: Any) -> tuple:
    return *state.scores, state.turn, state.is_rolling.astype(jnp.int32)


def with_errors(table: np.ndarray, place: Callable, size: float, factor: float, key: jax.Array) -> Callable:
    """Returns an evaluator of exact values plus an error, which is fixed for each position.

    The errors have the standard deviation `size`, and `factor` times that in afterstates.
    """
    errors = size * jax.random.normal(key, table.shape)
    exact = jnp.asarray(table)

    def evaluator(state, metadata, key):
        if isinstance(state, AfterState):
            sign = jnp.where(state.is_after & (state.player != state.next_player), -1, 1)
            where, scale = place(state.state), jnp.where(state.is_after, factor, 1.0)
            value = sign * (exact[where] + scale * errors[where])
        else:
            value = exact[place(state)] + errors[place(state)]
        return jnp.zeros(metadata.action_mask.shape), value

    return evaluator


def exact_moves(env: tz.Env, table: np.ndarray, place: Callable, start: Any) -> jax.Array:
    """Returns the exact values of the moves of a position."""
    state, metadata = start
    player = metadata.cur_player_id

    def value(action):
        after, told = env.step(state, action)
        sign = jnp.where(told.cur_player_id == player, 1, -1)
        return told.rewards[player] + jnp.where(told.terminated, 0, sign * jnp.asarray(table)[place(after)])

    return jnp.where(metadata.action_mask, jax.vmap(value)(jnp.arange(env.num_actions)), -jnp.inf)


@eqx.filter_jit
def best_moves(
    mcts: tz.MCTS, env: tz.Env, evaluator: Callable, starts: Any, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the most visited move and its value after each simulation, both `[G, num_simulations]`."""

    def one(start, key):
        error_key, key, search_key = jax.random.split(key, 3)
        evaluate = evaluator(error_key)
        state = tz.start_search(mcts, evaluate, tz.init_search(mcts, *start), key=key)

        def simulate(state, key):
            state = tz.search_step(mcts, env, evaluate, state, key=key)
            best = jnp.argmax(state.root.visits)
            return state, (best, state.root.q[best])

        return jax.lax.scan(simulate, state, jax.random.split(search_key, mcts.num_simulations))[1]

    return jax.vmap(one)(starts, keys)


def rms(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(errors**2, axis=0))


def search(num_simulations: int, selector: tz.PUCT | tz.ImprovedPolicy = tz.PUCT(c=1.0)) -> tz.MCTS:
    return tz.MCTS(num_simulations, root=tz.PlainRoot(), selector=selector, persist_tree=False)


def convergence(num_simulations: int, num_searches: int) -> dict[str, np.ndarray]:
    """Returns the errors of searches with a constant evaluator, in the first positions of two games."""
    keys = jax.random.split(jax.random.key(0), num_searches)
    exact = {
        "race of 2 pips, 2 sides": lambda state: small.race_value((2, 2), (2, 2), int(state.die), 2),
        "2048 on 2 by 2 cells": lambda state: small.small_2048_value((1, 0, 0, 1)),
    }
    envs = dict(zip(exact, (small.race(2, 2), small.small_2048()), strict=True))
    selectors = dict(zip(exact, (tz.PUCT(), tz.ImprovedPolicy()), strict=True))
    found = {}
    for name, env in envs.items():
        starts = jax.vmap(env.init)(keys)
        mcts = search(num_simulations, selectors[name])
        values = np.asarray(best_moves(mcts, env, lambda key: tz.uniform_evaluator, starts, keys)[1])
        truth = [exact[name](jax.tree.map(lambda x, game=game: x[game], starts[0])) for game in range(num_searches)]
        found[name] = rms(values - np.array(truth)[:, None])
    return found


def comparison(num_searches: int) -> list[str]:
    """Returns the rows of the table: both ways to search, in two games, with evaluators of two errors."""
    games = {
        "race": (small.race(SIDES, PIPS), race_table(), race_place, 2),
        "Pig to 20": (small.pig(20), pig_table(20), pig_place, 8),
    }
    keys, shown, lines = jax.random.split(jax.random.key(0), num_searches), np.array(SIZES) - 1, []
    for name, (env, table, place, num_moves) in games.items():
        opening = lambda key, env=env, n=num_moves: tz.random_opening(env, n, key=key)
        starts = jax.jit(jax.vmap(opening))(keys)
        exact = np.asarray(jax.vmap(lambda *start, g=(env, table, place): exact_moves(*g, start))(*starts))
        best = exact.max(1, keepdims=True)
        other = with_afterstates(env)
        wrapped = jax.vmap(
            lambda state, told: AfterState(state, jnp.bool_(False), *[told.cur_player_id] * 2, told.chance)
        )
        after = wrapped(*starts), starts[1]
        ways = {
            "passed through": (env, starts, 1),
            "evaluated": (other, after, 1),
            "evaluated, error doubled": (other, after, 2),
        }
        for size in (0.3, 0.1):
            for way, (game, begin, factor) in ways.items():
                evaluator = lambda key, g=(table, place, size, factor): with_errors(*g, key)
                moves, values = map(np.asarray, best_moves(search(SIZES[-1]), game, evaluator, begin, keys))
                lost = (best - np.take_along_axis(exact, moves, 1)).mean(0)
                for kind, row in {"error": rms(values - best), "lost": lost}.items():
                    cells = " | ".join(f"{x:.3f}" for x in row[shown])
                    lines.append(f"| {name} | {size:g} | {kind} | {way} | {cells} |")
                    print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-simulations", type=int, default=4096, help="simulations of each search in the plot")
    parser.add_argument("--num-searches", type=int, default=32, help="searches for the plot")
    parser.add_argument("--num-positions", type=int, default=1024, help="positions for the table")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the plot and the table")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, (name, found) in zip(axes, convergence(args.num_simulations, args.num_searches).items(), strict=True):
        plot(axis, name, found)
    figure.savefig(args.out / "chance_values.png", dpi=120)
    lines = [
        "# Values of searches in games with chance",
        "",
        f"{heading('tz', 'jax')} `python experiments/chance_values.py`.",
        "",
        "![error against simulations](chance_values.png)",
        "",
        f"Nature's node is passed through, or its afterstate is evaluated first, in {args.num_positions} positions. "
        "Error: the root mean square error of the best move's value. Lost: the exact value that the most visited move "
        f"gives up. Both after 1 to {SIZES[-1]} simulations.",
        "",
        f"| game | error of the evaluator | measured | nature's node | {' | '.join(map(str, SIZES))} |",
        f"|---|---|---|---|{'---|' * len(SIZES)}",
        *comparison(args.num_positions),
    ]
    text = "\n".join(lines) + "\n"
    (args.out / "chance_values.md").write_text(text)
    print(text)


def plot(axis: Any, name: str, found: np.ndarray) -> None:
    """Draws the errors on logarithmic axes, beside lines of the slopes -1/2 and -1."""
    number = np.arange(1, len(found) + 1)
    begin = len(found) // 16
    late = number[begin:]
    slope = np.polyfit(np.log(late), np.log(found[begin:]), 1)[0]
    axis.loglog(number, found, label=f"search; from {begin} on, slope {slope:.2f}")
    for power, style in ((-0.5, ":"), (-1.0, "--")):
        axis.loglog(late, found[begin] * (late / begin) ** power, style, color="grey", label=f"slope {power:g}")
    axis.set_title(name)
    axis.set_xlabel("simulations")
    axis.set_ylabel("error of the best move's value")
    axis.legend()
    print(name, {n: round(float(found[n - 1]), 5) for n in 2 ** np.arange(13) if n <= len(found)}, f"{slope:.3f}")


if __name__ == "__main__":
    main()
