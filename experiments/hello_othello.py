"""The first example: AlphaZero learns Othello by self-play, in minutes on a laptop.

`python experiments/hello_othello.py --out runs/hello` writes the trained agent, the metrics of each epoch, a learning
curve and a film of one game against the greedy player to `--out`.
"""

import argparse
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import optax

import tz
from tz.plot import plot_learning, render_game

END = """\

{seconds:.0f} s in all. The agent began as a random network. With 24 simulations a move it now scores {match.score:.2f}
against a player that always takes the most discs. {out} now contains

  agent.tz        the agent
  learning.png    its learning curve: losses, and scores with their intervals
  game.gif        a game against the greedy player, with the values that both gave it
  metrics.jsonl   the metrics of each epoch

What next? (In an environment with tz: pip install -e .)

  {play:<46}  play against it
  jupyter lab notebooks/01_hello_othello.ipynb    see how it works, part by part
  python -m tz train --env othello --minutes 60   train a much stronger one
"""


def greedy_player(env: tz.Env) -> tz.Player:
    """Returns a player of the moves after which it has the most discs, the first of several.

    It plays without a search: any function of a position is an evaluator. The value that it gives a position is the
    lead in discs after its move, as a fraction of the 64 squares.
    """

    def count_discs(state, metadata, key):
        after = jax.vmap(lambda action: env.step(state, action)[0])(jnp.arange(env.num_actions))
        lead = -jnp.sum(after._x.board, axis=-1)  # +1 is a disc of the player to move, who is now the opponent
        return 10.0 * lead - 0.1 * jnp.arange(env.num_actions), jnp.max(jnp.where(metadata.action_mask, lead, -64)) / 64

    return tz.Player(tz.MCTS(num_simulations=0, root=tz.PlainRoot(), temperature=0.0), count_discs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/hello"), help="folder of the results")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args, started = parse(), time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {platform.python_version()}", flush=True)

    env = tz.from_pgx("othello")
    network_key, loop_key, match_key = jax.random.split(jax.random.key(args.seed), 3)
    network = tz.AZResNet(env.observation.shape, env.num_actions, num_blocks=2, num_channels=32, key=network_key)
    testers = (
        tz.OpponentTester(tz.random_player(), "random", num_games=32),
        tz.OpponentTester(greedy_player(env), "greedy", num_games=32),
    )
    config = tz.TrainConfig(
        mcts=tz.MCTS(num_simulations=24, max_nodes=48, root=tz.Dirichlet(alpha=0.5)),
        test_mcts=tz.MCTS(num_simulations=24, max_nodes=48, root=tz.PlainRoot(), temperature=0.0),
        optimizer=optax.adam(2e-3),
        replay=tz.EpisodeReplayBuffer(capacity=300),
        num_games=64,
        train_batch_size=256,
        warmup_moves=60,
        moves_per_epoch=20,
        train_steps_per_epoch=50,
        augment=tz.random_dihedral,
        testers=testers,
        epochs_per_test=4,
    )
    state = tz.init_loop(config, env, network, key=loop_key)

    metrics = args.out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)  # left by an earlier run of this script
    sink = tz.JsonLinesSink(metrics)
    with tz.runs.Screen(num_epochs=args.epochs, totals=sink.totals) as screen:
        options = {"sinks": [sink, screen], "progress": screen.phase}
        state = tz.train_loop(config, env, state, num_epochs=args.epochs, **options)
    plot_learning(metrics).savefig(args.out / "learning.png", dpi=150)

    evaluator = tz.NetworkEvaluator(state.train.network, env.observe)
    scores = {}
    for tester in testers:
        matches = [tester.match(config.test_mcts, env, evaluator, key=key) for key in jax.random.split(match_key, 3)]
        match = jax.tree.map(lambda *parts: jnp.concatenate(parts), *matches)
        print(f"against the {tester.name} player: {match}", flush=True)
        scores[f"score against {tester.name}"] = str(match)
    card = {"epochs": args.epochs, "seed": args.seed, "scores": scores} | tz.runs.run_facts()
    tz.save_agent(args.out / "agent.tz", env, state.train.network, card=card)
    agent = tz.Player(config.test_mcts, evaluator)
    draw_game(env, match, agent, testers[-1].opponent, args.out / "game.gif")
    play = f"python -m tz play {args.out}/agent.tz"
    print(END.format(out=args.out, play=play, seconds=time.perf_counter() - started, match=match))


def draw_game(
    env: tz.Env, match: tz.matches.MatchResult, agent: tz.Player, greedy: tz.Player, path: pathlib.Path
) -> None:
    """Writes a film of game 0, in which the agent moves first, with the values that each player gave the positions."""
    values = {
        name: tz.matches.replay_values(env, match, 0, player, key=jax.random.key(1))
        for name, player in {"the agent's estimate": agent, "greedy's": greedy}.items()
    }
    sides = {"moves": match.actions[0], "players": ("agent", "greedy")}
    film = render_game(tz.replay_game(env, match, 0), env=env, values=values, **sides)
    film.save(path, writer="pillow", dpi=90)


if __name__ == "__main__":
    main()
