"""Puts twenty faults into a copy of tz, one at a time, and shows which tests notice: `python experiments/mutations.py`.

A fault is a change of one place in the code. Faults of the first half are of the kinds that users met: a value of
another policy, a state of other settings, numbers that are not finite, types that change, arrays that are lost. For
each fault, the test files that should notice it run until the first failure. A fault that none of them notices is
printed as "not noticed" and ends the program with status 1.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from timing import heading

ROOT = pathlib.Path(__file__).parents[1]

# What is wrong, the file in tz, the code, the code with the fault, and the test files.
FAULTS = [
    (
        "a Gumbel root records the mean of all returns",
        "mcts/gumbel_root.py",
        "value = jnp.sum(policy * self.completed_q.complete(node))",
        "value = node.value",
        "values",
    ),
    (
        "the policy of a solved root counts visits of lost moves",
        "mcts/_solver.py",
        "visits = jnp.where(lost, 0, node.visits)",
        "visits = node.visits",
        "solver",
    ),
    (
        "a ring of another capacity is not refused",
        "learn/replay.py",
        "if found != self.capacity:",
        "if found < 0:",
        "replay guards",
    ),
    (
        "a chunk with NaN spoils settled targets",
        "learn/targets.py",
        "is_constant = outer.coefficient == 0",
        "is_constant = outer.coefficient != outer.coefficient",
        "guards replay",
    ),
    (
        "a live state without a legal action is not counted as bad",
        "learn/epochs.py",
        "return ~jnp.isfinite(trajectory.value) | ~jnp.any(trajectory.action_mask, axis=-1)",
        "return ~jnp.isfinite(trajectory.value)",
        "guards",
    ),
    (
        "the loss is not the sum of its parts where a policy is no target",
        "learn/losses.py",
        "policy_loss = -sample.policy_weight * jnp.sum(",
        "policy_loss = -jnp.sum(",
        "train",
    ),
    (
        "the number of known rows has the default type of integers",
        "learn/replay.py",
        "num_known=jnp.maximum(size - num_open, 0)",
        "num_known=jnp.maximum(size - num_open, 0).astype(int)",
        "types",
    ),
    (
        "the average of a bfloat16 network plays in float32",
        "learn/training.py",
        "return x.astype(other.dtype) if eqx.is_inexact_array(x) else x",
        "return x",
        "types optimizers train",
    ),
    (
        "gradient steps donate the weights that the caller keeps",
        "runs/phases.py",
        "train = jax.tree.map(lambda x: x.copy(), train)",
        "pass",
        "stopping",
    ),
    (
        "an exception of a sink ends the training",
        "runs/sinks.py",
        "sink(metrics)\n        except Exception as error:",
        "sink(metrics)\n        except KeyError as error:",
        "stopping logging",
    ),
    (
        "a value is negated although the same player moves again",
        "mcts/tree.py",
        "jnp.where(tree.player[parent] == tree.player[node], 1.0, -1.0)",
        "jnp.where(tree.player[parent] == tree.player[node], -1.0, -1.0)",
        "search",
    ),
    (
        "PUCT counts one more visit of the node",
        "mcts/selectors.py",
        "jnp.float32(self.c) * jnp.sqrt(node.num_visits.astype(jnp.float32))",
        "jnp.float32(self.c) * jnp.sqrt(1 + node.num_visits.astype(jnp.float32))",
        "search",
    ),
    (
        "a tree that begins anew keeps the range of values of the old one",
        "mcts/tree.py",
        "q_low=jnp.where(child >= 0, tree.q_low, jnp.inf)",
        "q_low=tree.q_low",
        "search variants",
    ),
    (
        "sequential halving ends with one action",
        "mcts/gumbel_root.py",
        "num_considered = max(2, num_considered // 2)",
        "num_considered = max(1, num_considered // 2)",
        "variants mctx",
    ),
    (
        "a λ-return weighs the value of the next position by λ",
        "learn/targets.py",
        "mix = Affine((1 - lambda_) * value",
        "mix = Affine(lambda_ * value",
        "replay chance_play",
    ),
    (
        "a turned sample keeps the policy of the unturned board",
        "learn/symmetries.py",
        "policy=sample.policy[source]",
        "policy=sample.policy",
        "symmetries",
    ),
    (
        "both games of an opening have the same first player",
        "matches/_playing.py",
        "jnp.stack([mover, 1 - mover])",
        "jnp.stack([mover, mover])",
        "arena",
    ),
    (
        "a window takes the oldest positions of a game",
        "learn/ring.py",
        "age_order = rank - (ends[game] - state.num_known[game])",
        "age_order = rank - (ends[game] - num_eligible[game])",
        "replay loop",
    ),
    (
        "the expected result of a game is that of the opponent",
        "matches/elo.py",
        "return 1 / (1 + np.exp(rating[None] - rating[:, None]))",
        "return 1 / (1 + np.exp(rating[:, None] - rating[None]))",
        "elo",
    ),
    (
        "self-play throws the same dice at each move",
        "learn/self_play.py",
        "next_state, after = make_move(env, state.env_state, action, key=chance_key)",
        "next_state, after = make_move(env, state.env_state, action, key=state.key)",
        "chance_play",
    ),
]


def noticed(file: str, old: str, new: str, tests: str) -> tuple[str, float]:
    """Returns the first test that fails with a fault, and the seconds until then; an empty name if none does."""
    with tempfile.TemporaryDirectory() as place:
        copy = pathlib.Path(place) / "tz"
        for part in ("tz", "tests", "experiments", "docs"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "tz" / file
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            raise ValueError(
                f"{file}: found {text.count(old)} times {old!r}, expected once; change the list of faults."
            )
        path.write_text(text.replace(old, new), "utf-8")
        files = [f"tests/test_{name}.py" for name in tests.split()]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        begun = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
    if done.returncode == 0:
        return "", seconds
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")) and "::" in line]
    if not failed:
        raise RuntimeError(f"pytest ended with status {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[0].split(" - ")[0].split("::")[-1], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="0/1", help="I/N: every N-th fault from number I on, to run N processes")
    first, step = map(int, parser.parse_args().part.split("/"))
    print(heading("jax", "tz") + "\n", flush=True)
    print("| fault | in | noticed by | seconds |\n|---|---|---|---:|", flush=True)
    missed = 0
    for name, file, old, new, tests in FAULTS[first::step]:
        test, seconds = noticed(file, old, new, tests)
        missed += not test
        print(f"| {name} | `{file}` | {f'`{test}`' if test else '**not noticed**'} | {seconds:.0f} |", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
