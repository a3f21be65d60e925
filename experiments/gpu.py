"""Measures tz on a GPU in one command: `python experiments/gpu.py --minutes 8 --out runs/gpu`.

It runs the parts below one after another, the most important first. Each part has its own process and time limit, and
writes its results to `--out` as soon as it has them. `--parts` runs some of the parts:

- `tests`: the tests of the search, on the GPU.
- `speed`, `speed_graphs`: simulations a second against mctx, first with XLA's defaults and then with loops as CUDA
  graphs (`XLA_FLAGS=--xla_gpu_enable_command_buffer=+WHILE`). It also compares the results bit for bit.
- `kernels`: the number of kernels that a simulation starts, by parts of the search.
- `epoch`: the time of each phase of an epoch of training, and the kernels of a gradient step.
- `connect_four`, `connect_four_small`: an agent trained for `--minutes`, and its mistakes on solved positions.
- `leaves`: the speed of batches of games with several leaves evaluated together, and the strength in the same time.
- `othello`, `go_9x9`: an agent trained for `--minutes`; `experiments/engines.py` then rates it.
- `connect_four_muon`: as `connect_four`, with the optimiser of the recipe for a CPU, to compare the two.

With `--tiny`, all sizes are so small that a CPU needs only minutes. It shows that the script works; ignore its numbers.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE"
SEARCH_TESTS = [f"tests/test_{name}.py" for name in ("mctx", "search", "variants", "solver", "values")]
LIMITS = {  # seconds, training not included
    "tests": 300,
    "speed": 900,
    "speed_graphs": 900,
    "kernels": 120,
    "epoch": 300,
    "connect_four": 180,
    "connect_four_small": 180,
    "leaves": 600,
    "othello": 120,
    "go_9x9": 120,
    "connect_four_muon": 180,
}
# Parts that train for --minutes.
TRAINED = ("connect_four", "connect_four_small", "othello", "go_9x9", "connect_four_muon")


def command(part: str, args: argparse.Namespace) -> list[str]:
    """Returns the command that runs a part."""
    if part == "tests":
        few = ["-k", "the_schedule_of_sequential_halving"] if args.tiny else []
        processes = str(min(8, os.cpu_count() or 1))
        # If pytest-benchmark is installed, it warns of several processes, and warnings are errors.
        return [sys.executable, "-m", "pytest", "-q", "-n", processes, "-p", "no:benchmark", *SEARCH_TESTS, *few]
    options = ["--minutes", str(args.minutes), "--out", str(args.out.resolve()), *(["--tiny"] if args.tiny else [])]
    return [sys.executable, str(HERE / "gpu_parts.py"), part, *options, "--cells", *args.cells]


def environment(part: str, tiny: bool) -> dict[str, str]:
    """Returns the environment variables of a part.

    Loops become CUDA graphs in the parts that train or play. Tests run in several processes, which have to share the
    memory of the card, so JAX must not reserve it.
    """
    found = dict(os.environ, PYTHONUNBUFFERED="1")
    if part == "tests":
        found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        found["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # the tests expect products in float32, not in TF32
    elif part not in ("speed", "kernels") and not tiny:
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {GRAPHS}".strip()
    return found


def run(part: str, args: argparse.Namespace) -> str:
    """Runs one part with its log in a file; returns a line that says how it ended."""
    limit = args.limit or LIMITS[part] + (60 * args.minutes if part in TRAINED else 0)
    begun = time.perf_counter()
    with open(args.out / f"{part}.log", "w") as log:
        where = {"cwd": HERE.parent, "env": environment(part, args.tiny), "start_new_session": True}
        process = subprocess.Popen(command(part, args), stdout=log, stderr=subprocess.STDOUT, **where)
        try:
            code = process.wait(timeout=limit)
            end = "done" if code == 0 else f"failed with exit status {code}, see {part}.log"
        except subprocess.TimeoutExpired:
            end = f"stopped after {limit:.0f} s; what it had found by then is kept"
        except BaseException:
            end = "interrupted"
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return f"{part}: {end} ({time.perf_counter() - begun:.0f} s)"


def compare_bits(out: pathlib.Path) -> str:
    """Compares the results of the searches with and without CUDA graphs, where both have been timed."""
    tables = []
    for name in ("speed", "speed_graphs"):
        path = out / f"{name}.md"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
        tables.append({tuple(row[:4]): row[7] for row in rows[2:]})
    both = sorted(set(tables[0]) & set(tables[1]))
    different = [" ".join(row) for row in both if tables[0][row] != tables[1][row]]
    return f"bits with and without graphs: {len(both) - len(different)} of {len(both)} programs agree" + "".join(
        f"\n  not: {name}" for name in different
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="the length of the training of each agent")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/gpu"), help="the folder of the results")
    parser.add_argument(
        "--parts", nargs="+", choices=LIMITS, default=list(LIMITS), help="the parts to run, in this order"
    )
    parser.add_argument("--limit", type=float, help="seconds for each part, instead of its own limit")
    parser.add_argument("--cells", nargs="*", default=[], help="sizes for the speed, such as 1024x32; all by default")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script on a CPU")
    args = parser.parse_args()
    if args.minutes <= 0 or (args.limit is not None and args.limit <= 0):
        parser.error(f"found --minutes {args.minutes} --limit {args.limit}, expected numbers above 0.")
    args.out.mkdir(parents=True, exist_ok=True)
    ends = []
    for part in args.parts:
        ends.append(run(part, args))
        if part == "speed_graphs":
            ends.append(compare_bits(args.out))
        print(*ends[-2:] if part == "speed_graphs" else ends[-1:], sep="\n", flush=True)
        (args.out / "parts.txt").write_text("\n".join(ends) + "\n")
    if any("failed" in end for end in ends):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
