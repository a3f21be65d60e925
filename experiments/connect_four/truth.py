"""Measures mistakes on solved Connect Four positions: `python experiments/connect_four/truth.py AGENT`.

`AGENT` is a file that `tz.save_agent` wrote, or a name that `tz.load_agent` knows. It prints a table of mistake
rates by source and phase of the game: for the policy alone, for two searches of several sizes, and for the same
searches without a network.
"""

import argparse
import csv
import gzip
import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tz

SOLVED = pathlib.Path(__file__).parent / "solved.csv.gz"
NUM_COLUMNS = 7
SOURCES = "random", "sharp"
PHASES = {"8-13": (8, 13), "14-20": (14, 20), "21-27": (21, 27), "28+": (28, 42)}


class Solved(NamedTuple):
    """The solved positions.

    `moves` `[n, 42]` are the columns played, from 0, padded with -1. `results` `[n, 7]` are 0 for a loss, 1 for a draw
    and 2 for a win of the player to move, -1 for a full column. `ply` is the number of moves before the position.
    """

    moves: np.ndarray
    results: np.ndarray
    ply: np.ndarray
    source: np.ndarray


def load_solved(path: pathlib.Path = SOLVED) -> Solved:
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    moves = np.full((len(rows), 42), -1, np.int32)
    for row, line in zip(moves, rows, strict=True):
        row[: len(line["moves"])] = [int(move) - 1 for move in line["moves"]]
    results = np.array([[".LDW".index(result) - 1 for result in line["results"]] for line in rows])
    return Solved(moves, results, (moves >= 0).sum(1), np.array([line["source"] for line in rows]))


def chosen_moves(
    mcts: tz.MCTS | None, evaluator: tz.mcts.Evaluator, moves: np.ndarray, batch_size: int = 256
) -> np.ndarray:
    """Returns the move that a search from a fresh tree, or the policy if `mcts` is None, chooses in each position."""
    found = []
    for start in range(0, len(moves), batch_size):
        # The last batch is filled from the beginning, since every size of batch is compiled.
        rows = np.arange(start, start + batch_size) % len(moves)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), rows)
        found.append(np.asarray(_choose(tz.data_mesh(), (mcts, evaluator), (jnp.asarray(moves[rows]), keys))))
    return np.concatenate(found)[: len(moves)]


@eqx.filter_jit
def _choose(mesh, shared, batch):
    env = tz.from_pgx("connect_four")

    def one(shared, moves_and_key):
        (mcts, evaluator), (moves, key) = shared, moves_and_key
        env_state, metadata = tz.play_moves(env, moves)
        if mcts is None:
            logits, _ = evaluator(env_state, metadata, key)
            return jnp.argmax(jnp.where(metadata.action_mask, logits, -jnp.inf))
        search_key, key = jax.random.split(key)
        state = tz.init_search(mcts, env_state, metadata)
        return tz.choose_action(mcts, tz.search(mcts, env, evaluator, state, key=search_key), key=key)

    return tz.over_games(mesh, jax.vmap(one, in_axes=(None, 0)), shared, batch)


def mistakes(solved: Solved, chosen: np.ndarray) -> np.ndarray:
    """Returns True for each position in which the chosen move has a worse result than the best move."""
    result = np.take_along_axis(solved.results, chosen[:, None], axis=1)[:, 0]
    if (result < 0).any():
        raise ValueError(
            f"mistakes: found a full column as the move in position {int(np.argmin(result))}, expected a legal move."
        )
    return result < solved.results.max(1)


def rates(solved: Solved, wrong: np.ndarray) -> list[float]:
    """Returns the mistake rates in percent: for each source, the rate over all and the rates by phase."""
    columns = []
    for source in SOURCES:
        of_source = solved.source == source
        columns.append(wrong[of_source].mean())
        for low, high in PHASES.values():
            columns.append(wrong[of_source & (solved.ply >= low) & (solved.ply <= high)].mean())
    return [100 * float(rate) for rate in columns]


def measured(rows: Sequence[tuple[str, tz.mcts.Evaluator, tz.MCTS | None]]) -> dict[str, dict[str, float]]:
    """Returns the rates of each `(name, evaluator, search)`, and prints them as a table that grows."""
    solved, columns = load_solved(), [f"{source} {phase}" for source in SOURCES for phase in ("all", *PHASES)]
    print("| mistakes in %", *columns, sep=" | ", end=" |\n")
    print("|---|" + "---:|" * len(columns))
    found = {}
    for name, evaluator, mcts in rows:
        found[name] = rates(solved, mistakes(solved, chosen_moves(mcts, evaluator, solved.moves)))
        print(f"| {name}", *(f"{rate:.1f}" for rate in found[name]), sep=" | ", end=" |\n", flush=True)
    return {name: dict(zip(columns, np.round(row, 1).tolist(), strict=True)) for name, row in found.items()}


def puct(num_simulations: int) -> tz.MCTS:
    """Returns plain PUCT with c = 2, from a fresh tree."""
    settings = {"root": tz.PlainRoot(), "temperature": 0.0, "persist_tree": False}
    return tz.MCTS(num_simulations, selector=tz.PUCT(2.0), **settings)


def gumbel(num_simulations: int) -> tz.MCTS:
    """Returns the strongest search, from a fresh tree: the search of training without noise, and with proofs."""
    mcts = tz.gumbel_mcts(num_simulations, NUM_COLUMNS, solve=True, persist_tree=False)
    return tz.without_exploration(mcts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agent", help="a file of an agent, or a name that tz.load_agent knows")
    parser.add_argument("--simulations", type=int, nargs="+", default=(32, 64, 200, 600))
    parser.add_argument(
        "--quick", action="store_true", help="leave out the second search, and the searches without a network"
    )
    parser.add_argument("--ship", help="write the agent to this file, with the mistakes in its card")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)  # uses the cores of a CPU better than one device
    agent = tz.load_agent(args.agent).evaluator
    searches = {"": gumbel} if args.quick else {"": gumbel, ", PUCT": puct}
    evaluators = {"": agent} if args.quick else {"": agent, "no network, ": tz.uniform_evaluator}
    rows = [("policy", agent, None)]
    for (prefix, evaluator), (name, search) in itertools.product(evaluators.items(), searches.items()):
        rows += [(f"{prefix}{n} simulations{name}", evaluator, search(n)) for n in args.simulations]
    card = tz.runs.agent_card(args.agent) | {"mistakes": measured(rows)}
    if args.ship:
        tz.save_agent(args.ship, tz.from_pgx("connect_four"), agent.network, agent.norm_state, card=card)


if __name__ == "__main__":
    main()
