"""Makes a short film of each game: `python experiments/films.py --out experiments/results/films`.

Agents that come with tz play their games. The other games are played by a plain search, with one random game for each
simulation. A film shows the beginning of the game.
"""

import argparse
import dataclasses
import pathlib

import jax
import matplotlib
import numpy as np

import tz

BOARDS = ["animal_shogi", "chess", "connect_four", "gardner_chess", "go_19x19", "go_9x9", "hex", "othello", "shogi"]
MINATAR = ["asterix", "breakout", "freeway", "seaquest", "space_invaders"]
GAMES = [*BOARDS, "tic_tac_toe", "2048", "backgammon", *(f"minatar-{name}" for name in MINATAR)]
AGENTS = ("connect_four", "othello", "go_9x9")
SLOW = ("chess", "gardner_chess", "go_19x19", "shogi")


def player_of(env: tz.Env) -> tz.Player:
    """Returns the agent of a game, or a search with random games; its moves are drawn at a low temperature."""
    if env.name in AGENTS:
        agent = tz.load_agent(env.name)
        return dataclasses.replace(agent, mcts=dataclasses.replace(agent.mcts, temperature=0.3))
    selector = tz.PUCT() if env.num_players == 2 else tz.mcts.MuZeroPUCT()
    num_simulations, max_moves = (16, 20) if env.name in SLOW else (64, 60)
    mcts = tz.MCTS(num_simulations, selector=selector, root=tz.PlainRoot(), temperature=0.3, persist_tree=False)
    return tz.Player(mcts, tz.RolloutEvaluator(env, max_moves=max_moves))


def film(name: str, num_moves: int, seed: int, path: pathlib.Path) -> None:
    """Plays the beginning of a game and writes it as a GIF."""
    env = tz.from_pgx(name)
    game = tz.play.Game(env, [player_of(env)] * env.num_players, key=jax.random.key(seed))
    while len(game.names) < num_moves and not game.is_over:
        game.reply()
    turns = game.turns
    states = jax.tree.map(lambda *x: np.stack(x), *(turn.host for turn in turns))
    actions = [turn.action for turn in turns[:-1]]
    animation = tz.plot.render_game(states, env=env, moves=actions, title=name, seconds_per_move=0.6)
    animation.save(path, writer="pillow", dpi=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    parser.add_argument("--moves", type=int, default=30, help="the largest number of moves in a film")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/films"))
    args = parser.parse_args()
    matplotlib.use("agg")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.games:
        film(name, args.moves, args.seed, args.out / f"{name}.gif")
        print(name, f"{(args.out / f'{name}.gif').stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
