"""Trains an agent of 2048 or backgammon by self-play for some minutes and measures its strength.

    python experiments/dice_agents.py 2048 --minutes 20 --out runs/2048
    python experiments/dice_agents.py backgammon --minutes 20 --out runs/backgammon

In 2048 the agent is compared with random moves, with the moves of the highest immediate reward, and with the same
search without a network. In backgammon it plays matches against random moves, and against a search that evaluates
positions by the difference in pips. Both games of an opening have the same throws of the dice.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import heading

import tz
from tz.plot import plot_learning


def settings(game: str, env: tz.Env, seed: int) -> tuple[tz.TrainConfig, tz.AZResNet | tz.MLP]:
    """Returns the settings of training and a network."""
    key = jax.random.key(seed)
    common = {"optimizer": optax.adam(1e-3), "average_decay": 0.999, "train_steps_per_epoch": 16}
    if game == "2048":
        head = tz.nn.CategoricalValue(0.0, 100_000.0, num_bins=101, transform="muzero")
        network = tz.AZResNet(
            env.observation.shape,
            env.num_actions,
            2,
            48,
            num_policy_channels=8,
            num_value_channels=8,
            value_head=head,
            key=key,
        )
        mcts = tz.gumbel_mcts(16, 4, discount=0.999)
        replay = tz.EpisodeReplayBuffer(capacity=2048, td_lambda=0.8)
        return tz.TrainConfig(
            mcts=mcts, replay=replay, num_games=128, moves_per_epoch=16, train_batch_size=512, **common
        ), network
    head = tz.nn.CategoricalValue(-3.0, 3.0, num_bins=25)
    network = tz.MLP(env.observation.shape, env.num_actions, 256, 2, value_head=head, key=key)
    replay = tz.EpisodeReplayBuffer(capacity=1024, td_lambda=0.8)
    return tz.TrainConfig(
        mcts=tz.gumbel_mcts(16, 8), replay=replay, num_games=128, moves_per_epoch=16, train_batch_size=1024, **common
    ), network


def train(game: str, env: tz.Env, minutes: float, seed: int, out: Path) -> tz.Player:
    """Trains an agent, writes it to a file and returns it without exploration."""
    config, network = settings(game, env, seed)
    start = time.perf_counter()
    state = tz.init_loop(config, env, network, key=jax.random.key(seed))
    sinks = (tz.JsonLinesSink(out / "metrics.jsonl"),)
    while time.perf_counter() - start < 60 * minutes:
        state = tz.train_loop(config, env, state, num_epochs=10, sinks=sinks, progress=False)
        row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        minute = (time.perf_counter() - start) / 60
        shown = {name: round(row[name], 3) for name in ("mean_return", "mean_length", "loss") if row.get(name)}
        print(f"{minute:5.1f} minutes, epoch {int(state.epoch)}: {shown}", flush=True)
    evaluator = tz.NetworkEvaluator(state.train.playing, env.observe)
    tz.save_agent(out / "agent.tz", env, evaluator.network)
    return tz.Player(tz.without_exploration(config.mcts), evaluator)


def merges_most(env: tz.Env) -> tz.Player:
    """Returns a player of the moves that have the highest immediate reward, the first of several."""

    def evaluator(env_state, metadata, key):
        rewards = jax.vmap(lambda action: env.step(env_state, action)[1].rewards[0])(jnp.arange(env.num_actions))
        first = -jnp.arange(env.num_actions, dtype=jnp.float32)  # decides between equals
        return 1e3 * rewards.astype(jnp.float32) + first, jnp.float32(0)

    return tz.Player(tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0), evaluator)


def strength_2048(env: tz.Env, agent: tz.Player, num_games: int) -> list[str]:
    """Returns the rows of a table: the mean score and the largest tile of each player."""
    scaled = tz.MCTS(
        agent.mcts.num_simulations, root=tz.PlainRoot(), selector=tz.mcts.MuZeroPUCT(scale="tree"), temperature=0.0
    )
    players = {
        "random": tz.random_player(),
        "the most merged at once": merges_most(env),
        "the search without a network": tz.Player(scaled, tz.uniform_evaluator),
        "the agent": agent,
    }
    rows = [
        "| player | mean score (95 %) | moves | largest tile: median | reached 512 | 1,024 | 2,048 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, player in players.items():
        result = tz.matches.play_episodes(env, player, num_games=num_games, key=jax.random.key(99), max_moves=8000)
        low, high = result.interval()
        tiles = 2 ** np.asarray(result.final_state._board).max(axis=1)
        reached = " | ".join(f"{np.mean(tiles >= tile):.0%}" for tile in (512, 1024, 2048))
        rows.append(
            f"| {name} | {result.mean:,.0f} ({low:,.0f} to {high:,.0f}) | {np.mean(result.num_moves):,.0f} | "
            f"{int(np.median(tiles)):,} | {reached} |"
        )
        print(rows[-1], flush=True)
    return rows


def by_pips(env_state, metadata, key):
    """Evaluates a position by the race alone: the pips that each side still has to move."""
    board = env_state._board.astype(jnp.float32)
    places = jnp.arange(24, dtype=jnp.float32)
    own = jnp.sum(jnp.maximum(board[:24], 0) * (24 - places)) + 25 * board[24]
    other = jnp.sum(jnp.maximum(-board[:24], 0) * (places + 1)) - 25 * board[25]
    return jnp.zeros(metadata.action_mask.shape), jnp.tanh((other - own) / 40)


def strength_backgammon(env: tz.Env, agent: tz.Player, num_games: int) -> list[str]:
    """Returns the rows of a table: the scores of the agent in matches."""
    search = tz.MCTS(agent.mcts.num_simulations, root=tz.PlainRoot(), temperature=0.0)
    players = {"random": tz.random_player(), "the same search by pips": tz.Player(search, by_pips)}
    rows = ["| opponent | games | score (95 %) | points a game |", "|---|---|---|---|"]
    for name, player in players.items():
        match = tz.play_match(env, agent, player, num_games=num_games, key=jax.random.key(99), opening_moves=0)
        low, high = match.interval()
        points = float(jnp.mean(match.returns, where=match.finished))
        rows.append(f"| {name} | {num_games} | {match.score:.3f} ({low:.3f} to {high:.3f}) | {points:+.2f} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game", choices=["2048", "backgammon"])
    parser.add_argument("--minutes", type=float, default=20.0, help="the length of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-games", type=int, default=200, help="games of each test")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    env = tz.from_pgx(args.game)
    agent = train(args.game, env, args.minutes, args.seed, args.out)
    measure = strength_2048 if args.game == "2048" else strength_backgammon
    rows = measure(env, agent, args.num_games)
    title = f"# {args.game.capitalize()}: {args.minutes:g} minutes of self-play, seed {args.seed}"
    text = "\n".join([title, "", heading("tz", "jax", "pgx"), "", *rows]) + "\n"
    (args.out / "strength.md").write_text(text)
    plot_learning(args.out / "metrics.jsonl").savefig(args.out / "learning.png", dpi=120)
    print(text)


if __name__ == "__main__":
    main()
