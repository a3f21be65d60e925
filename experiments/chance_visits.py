"""Compares three ways to spread the visits of a search over nature's outcomes.

    python experiments/chance_visits.py --out experiments/results/chance_visits.md

The value of a move that nature answers is the mean over nature's outcomes, and `n` visits see `n` of them. Here the
value of each outcome is known exactly, so only the choice of the outcomes makes an error:

- drawn: each visit draws its outcome independently;
- deficit: each visit takes the outcome that is furthest behind its probability, the first one if several are;
- spread: visit `n` takes the outcome at the point `u + n * golden ratio`, modulo 1, of the cumulative distribution,
  with a random `u`. This is the way of tz.

The moves are throws of the die in Pig, rolls in backgammon (value: the pips) and tiles in 2048 (value: the best reward
of the next move).
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import heading

import tz

VISITS = (1, 2, 4, 8, 16, 32, 64)
GOLDEN = (5**0.5 - 1) / 2


def drawn(probabilities, num_visits, random):
    return random.choice(len(probabilities), num_visits, p=probabilities)


def deficit(probabilities, num_visits, random):
    counts, taken = np.zeros(len(probabilities)), []
    for visit in range(num_visits):
        taken.append(int(np.argmax(probabilities * (visit + 1) - counts)))
        counts[taken[-1]] += 1
    return taken


def spread(probabilities, num_visits, random):
    points = (random.random() + GOLDEN * np.arange(num_visits)) % 1
    return np.minimum(np.searchsorted(np.cumsum(probabilities), points, side="right"), len(probabilities) - 1)


def cases() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Returns examples of each kind of move: the probabilities of the outcomes, and the value of each outcome."""
    die = np.full(6, 1 / 6), np.array([-1.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    rolls = [(low, high) for low in range(1, 7) for high in range(low, 7)]
    pips = np.array([4.0 * low if low == high else low + high for low, high in rolls])
    dice = np.array([1 / 36 if low == high else 2 / 36 for low, high in rolls]), pips
    return {"Pig, a die": [die], "backgammon, two dice": [dice], "2048, a tile": tiles(64)}


def tiles(num_positions: int) -> list[tuple[np.ndarray, np.ndarray]]:
    env = tz.from_pgx("2048")

    @jax.jit
    def example(key):
        state, metadata = tz.random_opening(env, 60, key=key)
        after, made = env.step(state, jnp.argmax(metadata.action_mask))

        def worth(outcome):
            answered, told = env.outcome(after, outcome, key)
            rewards = jax.vmap(lambda action: env.step(answered, action)[1].rewards[0])(jnp.arange(4))
            return jnp.max(jnp.where(told.action_mask & ~told.terminated, rewards, 0.0))

        return made.chance, jax.vmap(worth)(jnp.arange(env.num_outcomes))

    chances, worths = jax.vmap(example)(jax.random.split(jax.random.key(0), num_positions))
    chances = np.asarray(chances, float)
    examples = [(p / p.sum(), np.asarray(w, float)) for p, w in zip(chances, worths, strict=True)]
    return [(p, worth) for p, worth in examples if np.ptp(worth[p > 0]) > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="repetitions, over all examples of a move")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    lines = [
        "# Visits of nature's outcomes",
        "",
        f"{heading('tz', 'jax', 'pgx')} `python experiments/chance_visits.py`. The root mean square error of a move's "
        "mean, in standard deviations of its outcomes, after 1 to 64 visits.",
        "",
        f"| move | visits | {' | '.join(map(str, VISITS))} |",
        f"|---|---|{'---|' * len(VISITS)}",
    ]
    for name, examples in cases().items():
        for way in (drawn, deficit, spread):
            squares = np.zeros(len(VISITS))
            for probabilities, worth in examples:
                mean = probabilities @ worth
                deviation = np.sqrt(probabilities @ (worth - mean) ** 2)
                repeats = max(args.repeats // len(examples), 10)
                for _ in range(repeats):
                    found = worth[way(probabilities, VISITS[-1], random)]
                    means = np.cumsum(found) / np.arange(1, VISITS[-1] + 1)
                    squares += ((means[np.array(VISITS) - 1] - mean) / deviation) ** 2 / repeats
            errors = np.sqrt(squares / len(examples))
            lines.append(f"| {name} | {way.__name__} | {' | '.join(f'{error:.3f}' for error in errors)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
