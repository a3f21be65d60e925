"""Trains every pgx game that tz knows for a few minutes with its recipe, to see that the recipe learns.

    python experiments/games.py --minutes 2 --out runs/games
    python experiments/games.py --games hex animal_shogi --minutes 2 --out runs/games

Each game is trained in a process of its own, from a new network. The trained network then plays against the network
that it began as, with the same search, from random openings. In a game for one player, both play the same episodes.
The table is written after each game.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
from timing import heading

import tz

GAMES = (
    "tic_tac_toe",
    "connect_four",
    "othello",
    "hex",
    "animal_shogi",
    "gardner_chess",
    "go_9x9",
    "backgammon",
    "2048",
    "minatar-asterix",
    "minatar-breakout",
    "minatar-freeway",
    "minatar-seaquest",
    "minatar-space_invaders",
    "chess",
    "shogi",
    "go_19x19",
)
MAX_MOVES = 512  # of a game of the comparison


def study(game: str, minutes: float, num_games: int, out: Path) -> dict[str, Any]:
    """Trains one game and compares the network with the one that it began as."""
    begun = time.perf_counter()
    recipe = tz.runs.game_recipe(game)
    config, env = recipe.build()
    state = recipe.start(config, env, seed=0)
    rows: list[dict[str, Any]] = []
    before = jax.tree.map(lambda x: x.copy() if isinstance(x, jax.Array) else x, state.train.playing)
    state = tz.runs.train_for(recipe, config, env, state, seconds=60 * minutes, sinks=[rows.append], progress=False)
    trained = time.perf_counter() - begun
    search = tz.without_exploration(config.mcts)
    after, before = (
        tz.Player(search, tz.NetworkEvaluator(network, config.test_env.observe))
        for network in (state.train.playing, before)
    )
    learned = [row for row in rows if "policy_loss" in row]
    result = {
        "game": game,
        "epochs": len(rows),
        "moves": len(rows) * recipe.moves_per_epoch * recipe.num_games,
        "minutes": trained / 60,
        "losses": [_losses(learned[:3]), _losses(learned[-3:])] if learned else None,
    }
    options = {"num_games": num_games, "key": jax.random.key(1), "max_moves": min(MAX_MOVES, recipe.max_test_moves)}
    if env.num_players == 1:
        found = [tz.matches.play_episodes(config.test_env, player, **options) for player in (after, before)]
        result["returns"] = [(float(one.mean), *map(float, one.interval())) for one in found]
    else:
        match = tz.play_match(config.test_env, after, before, opening_moves=recipe.opening_moves, **options)
        result["score"] = (float(match.score), *map(float, match.interval()))
        result["unfinished"] = int((~match.finished).sum())
    (out / f"{game}.json").write_text(json.dumps(result | {"recipe": dataclasses.asdict(recipe)}, indent=1))
    return result


def _losses(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """The losses of the policy and of the value above their floors, on average."""
    policy, value = (
        sum(row[f"{name}_loss"] - row[f"{name}_loss_floor"] for row in rows) / len(rows) for name in ("policy", "value")
    )
    return policy, value


def table(found: list[dict[str, Any]]) -> list[str]:
    """One row for each game."""
    lines = [
        "| game | epochs | moves of self-play | policy loss above its floor, first and last | value loss, likewise | "
        "against the network that it began as (95 %) |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for one in found:
        losses = ["no game ended"] * 2
        if one["losses"] is not None:
            losses = [f"{first:.3f} → {last:.3f}" for first, last in zip(*one["losses"], strict=True)]
        if "score" in one:
            score, low, high = one["score"]
            strength = f"score {score:.2f} ({low:.2f} to {high:.2f})"
            strength += f", {one['unfinished']} games cut off" if one["unfinished"] else ""
        else:
            (mean, low, high), (old, old_low, old_high) = one["returns"]
            strength = (
                f"return {mean:,.4g} ({low:,.4g} to {high:,.4g}), before {old:,.4g} ({old_low:,.4g} to {old_high:,.4g})"
            )
        lines.append(f"| {one['game']} | {one['epochs']} | {one['moves']:,} | {losses[0]} | {losses[1]} | {strength} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--num-games", type=int, default=32, help="games of the comparison")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", action="store_true", help="train the only game in this process")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        study(args.games[0], args.minutes, args.num_games, args.out)
        return
    for game in args.games:
        command = [sys.executable, __file__, "--one", "--games", game, "--out", str(args.out)]
        command += ["--minutes", str(args.minutes), "--num-games", str(args.num_games)]
        print(f"{game} ...", flush=True)
        subprocess.run(command, check=False)  # a game that fails leaves no file, and the others go on
        done = [args.out / f"{name}.json" for name in GAMES]
        found = [json.loads(path.read_text()) for path in done if path.exists()]
        text = "\n".join(
            [f"# {args.minutes:g} minutes for each game", "", heading("tz", "jax", "pgx"), "", *table(found)]
        )
        (args.out / "games.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
