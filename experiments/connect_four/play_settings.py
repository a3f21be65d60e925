"""Tunes the search of an agent by matches: `python experiments/connect_four/play_settings.py --simulations 200`.

Each setting changes the usual search of a player (Gumbel's without noise) or the evaluations of its network. It plays
the same agent with the usual search, from openings of five random moves, each from both sides. Solved positions are not
used. Results that are already in `--out` are not made again, so the same command continues after it was cut off.
"""

import argparse
import json
import pathlib
import shlex
import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

import tz

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from timing import heading


class SpreadPUCT(eqx.Module):
    """PUCT whose weight of exploration is in proportion to the spread of the values below a node.

    KataGo scales its weight by the standard deviation of the utility of the playouts ("dynamic variance-scaled cPUCT",
    `docs/KataGoMethods.md` in its repository). A node of tz does not keep squares, so this is the standard deviation of
    the `q` of its edges, weighted by visits. One more visit with a deviation of `typical` is added. With that
    deviation, it is PUCT with weight `c`.
    """

    c: float = 2.0
    typical: float = 0.3

    def __call__(self, node):
        weights = node.visits.astype(jnp.float32)
        total = 1 + jnp.sum(weights)
        variance = (self.typical**2 + jnp.sum(weights * jnp.square(node.q - node.value))) / total
        return tz.PUCT(jnp.float32(self.c / self.typical) * jnp.sqrt(variance))(node)


def with_prior_temperature(evaluator: tz.mcts.Evaluator, temperature: float) -> tz.mcts.Evaluator:
    """Returns the evaluator with its logits divided by a temperature."""

    def evaluate(state, metadata, key):
        logits, value = evaluator(state, metadata, key)
        return logits / temperature, value

    return evaluate


def with_mirror_image(agent: tz.Player) -> tz.mcts.Evaluator:
    """Returns the mean of the network's evaluations of a position and of its mirror image."""
    network, observe = agent.evaluator.network, agent.evaluator.observe

    def evaluate(state, metadata, key):
        board = observe(state)
        logits, value = jax.vmap(network)(jnp.stack([board, board[:, ::-1]]))
        return (logits[0] + logits[1, ::-1]) / 2, jnp.mean(value)

    return evaluate


def gumbel(num_simulations: int, *, num_considered: int = 16, **completed_q) -> tz.MCTS:
    return tz.without_exploration(tz.gumbel_mcts(num_simulations, num_considered, tz.mcts.CompletedQ(**completed_q)))


def puct(num_simulations: int, selector: Callable) -> tz.MCTS:
    return tz.MCTS(num_simulations, root=tz.PlainRoot(), selector=selector, temperature=0.0)


def settings(agent: tz.Player, n: int) -> dict[str, tz.Player]:
    """Returns the players with other settings by their names, for `n` simulations."""
    usual, evaluator = gumbel(n), agent.evaluator
    searches = {
        "Gumbel, c_scale 0.05": gumbel(n, c_scale=0.05),
        "Gumbel, c_scale 0.2": gumbel(n, c_scale=0.2),
        "Gumbel, c_scale 0.5": gumbel(n, c_scale=0.5),
        "Gumbel, c_scale 1, q not rescaled": gumbel(n, c_scale=1.0, rescale=False),
        "Gumbel, 4 actions considered": gumbel(n, num_considered=4),
        "Gumbel, proven results": tz.without_exploration(tz.gumbel_mcts(n, solve=True)),
        "PUCT, c 1": puct(n, tz.PUCT(1.0)),
        "PUCT, c 2": puct(n, tz.PUCT(2.0)),
        "PUCT, c 3": puct(n, tz.PUCT(3.0)),
        "PUCT, c 2, scaled by the spread of q": puct(n, SpreadPUCT()),
        "MuZero's PUCT": puct(n, tz.mcts.MuZeroPUCT()),
    }
    evaluators = {
        "Gumbel, prior at a temperature of 1.3": with_prior_temperature(evaluator, 1.3),
        "Gumbel, prior at a temperature of 0.8": with_prior_temperature(evaluator, 0.8),
    }
    half = gumbel(n // 2)
    return {
        **{name: tz.Player(mcts, evaluator) for name, mcts in searches.items()},
        **{name: tz.Player(usual, other) for name, other in evaluators.items()},
        "Gumbel, each position evaluated with its mirror image": tz.Player(usual, with_mirror_image(agent)),
        "the same with half the simulations": tz.Player(half, with_mirror_image(agent)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", default="connect_four_small", help="a file or the name of an agent")
    parser.add_argument("--simulations", type=int, default=200, help="for a move")
    parser.add_argument("--games", type=int, default=400, help="games of each match")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of settings to try")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/play_settings"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{pathlib.Path(args.agent).stem}-{args.simulations}-{args.games}.json"
    scores = json.loads(path.read_text()) if path.exists() else {}
    env, agent = tz.from_pgx("connect_four"), tz.load_agent(args.agent)
    usual = tz.Player(gumbel(args.simulations), agent.evaluator)
    options = {"num_games": args.games, "opening_moves": 5, "max_moves": 42, "key": jax.random.key(0)}
    lines = [
        f"{heading('tz', 'jax')} `python {shlex.join(sys.argv)}`",
        "",
        "| setting | score against the usual search (95 %) |",
        "|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for name, player in settings(agent, args.simulations).items():
        if args.only and not any(part in name for part in args.only):
            continue
        if name not in scores:
            match = tz.play_match(env, player, usual, **options)
            scores[name] = [float(match.score), *map(float, match.interval())]
            path.write_text(json.dumps(scores))
            jax.clear_caches()
        score, low, high = scores[name]
        lines.append(f"| {name} | {score:.2f} ({low:.2f} to {high:.2f}) |")
        print(lines[-1], flush=True)
    (args.out / "play_settings.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
