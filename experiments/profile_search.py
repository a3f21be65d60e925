"""Measures the time of each part of a search, by the kernels of the compiled program.

    python experiments/profile_search.py

Tracing makes each kernel about a microsecond longer, so parts with many small kernels look somewhat too slow.
"""

import argparse
import collections
import gzip
import json
import re
import tempfile
from pathlib import Path

import jax
from bench_search import positions, tz_search
from timing import heading

import tz

PARTS = {  # an operation belongs to the first mark that occurs in its name
    "jit(step)": "`env.step`",
    "/root/": "selection at the root",
    "/descend/": "descent below it",
    "/evaluate/": "evaluation",
    "/append/": "adding the node",
    "/backup/": "backup",
    "/prior/": "log prior",
    "/": "the rest: reading and writing the node",
}


def part_of(operation: str) -> str:
    return next(
        (part for mark, part in PARTS.items() if mark in operation), "without a name: copies, parts of reductions"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="othello")
    parser.add_argument("--games", type=int, default=64)
    parser.add_argument("--simulations", type=int, default=32)
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    env = tz.from_pgx(arguments.game)
    mcts = tz.MCTS(arguments.simulations, root=tz.PlainRoot(), persist_tree=False)
    inputs = (*positions(env, arguments.games), jax.random.key(0))
    search = jax.jit(lambda *inputs: tz_search(mcts, env, tz.uniform_evaluator, *inputs)).lower(*inputs).compile()
    jax.block_until_ready(search(*inputs))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(search(*inputs))
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]

    lines = re.findall(r"^\s*(?:ROOT )?%([\w.-]+) = .*", search.as_text(), flags=re.MULTILINE)
    source = dict.fromkeys(lines, "")
    source |= re.findall(r'^\s*(?:ROOT )?%([\w.-]+) = .*op_name="([^"]*)"', search.as_text(), flags=re.MULTILINE)
    microseconds, kernels = collections.Counter(), collections.Counter()
    for event in events:
        name = event.get("name", "")
        if event.get("ph") == "X" and name in source and not name.startswith(("while", "call", "conditional")):
            microseconds[part_of(source[name])] += event["dur"]
            kernels[part_of(source[name])] += 1
    total = sum(microseconds.values())
    table = [
        "# Where the time of a search goes",
        "",
        f"{heading('jax', 'pgx')} {arguments.game}, {arguments.games} games, {arguments.simulations} simulations, "
        "PUCT, constant evaluator. Kernels: for one simulation of all games together.",
        "",
        "| part | kernels | fraction of the time |",
        "|---|---:|---:|",
    ]
    for part, time in microseconds.most_common():
        table.append(f"| {part} | {kernels[part] / arguments.simulations:.0f} | {time / total:.0%} |")
    print("\n".join(table))
    if arguments.out:
        arguments.out.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
