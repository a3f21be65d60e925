"""Rates an agent among the levels of a GTP engine: `python experiments/engines.py runs/hello/agent.tz`.

The engine is gtp-rhino for Othello and GNU Go for Go. The agent plays its levels from weak to strong until it loses a
match. The levels also play one another, so that all have ratings on one scale, with the lowest level at 0. Each match
is played from random openings, each from both sides. On Debian: `apt-get install grhino gnugo`.
"""

import argparse
import dataclasses
import pathlib
import platform
import shutil
import subprocess
import time

import jax
import numpy as np

import tz

# No opening book. GNU Go never resigns, plays until no dead stone is left, and counts areas, as pgx does.
GO = "gnugo --mode gtp --chinese-rules --positional-superko --capture-all-dead --play-out-aftermath --never-resign"
ENGINES = {
    "othello": ("gtp-rhino --book 0 --level {}", range(1, 6), 128),
    "go_9x9": (GO + " --level {}", range(1, 11), 162),
    "go_19x19": (GO + " --level {}", range(1, 11), 722),
}


@dataclasses.dataclass
class Results:
    """All matches so far, with the names of the players and the rows of the table."""

    names: list[str]
    rows: list[str] = dataclasses.field(default_factory=list)
    games: dict[tuple[str, str], tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    scores: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, first: str, second: str, match: tz.matches.MatchResult, seconds: float) -> None:
        wins, draws, losses = (int(x) for x in (match.wins, match.draws, match.losses))
        low, high = match.interval()
        self.games[first, second] = wins, draws, losses
        unfinished = len(match.returns) - wins - draws - losses
        cells = [first, second, wins, draws, losses, unfinished, f"{match.score:.2f}", f"{low:.2f} to {high:.2f}"]
        self.scores[f"{first} against {second}"] = f"{match.score:.2f} ({low:.2f} to {high:.2f})"
        self.rows.append(f"| {' | '.join(map(str, [*cells, f'{seconds:.0f}']))} |")
        print(self.rows[-1], *match.failures[:3], sep="\n", flush=True)

    def ratings(self) -> list[str]:
        """Returns a table of the ratings of all players that have played, with the first one at 0."""
        names = [name for name in self.names if any(name in pair for pair in self.games)]
        wins, draws = np.zeros((2, len(names), len(names)))
        for (first, second), (won, drawn, lost) in self.games.items():
            i, j = names.index(first), names.index(second)
            wins[i, j], wins[j, i], draws[i, j], draws[j, i] = won, lost, drawn, drawn
        try:
            found = tz.matches.fit_elo(wins, draws)
        except ValueError as error:  # such as a player whose games were all cut off
            return [f"No ratings: {error}"]
        numbers = zip(names, found.elo, found.low, found.high, strict=True)
        head = ["| player | Elo | 95 % interval |", "|---|---:|---|"]
        return head + [f"| {name} | {elo:.0f} | {low:.0f} to {high:.0f} |" for name, elo, low, high in numbers]


def agent(path: pathlib.Path, num_simulations: int) -> tz.Player:
    """Returns the agent with this number of simulations and a new tree for each move."""
    player = tz.load_agent(path)
    search = dataclasses.replace(player.mcts, num_simulations=num_simulations, persist_tree=False)
    return tz.Player(search, player.evaluator)


def version(command: str) -> str:
    program = command.split()[0]
    path = shutil.which(program) or shutil.which(program, path="/usr/games")
    if path is None:
        return program  # the match raises an error that names the package
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
    return " ".join(text[0].split()) or program


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agent", type=pathlib.Path, help="the file of an agent of Othello or Go")
    parser.add_argument("--simulations", type=int, nargs="+", default=[64, 400], help="for a move of the agent")
    parser.add_argument("--games", type=int, default=100, help="games in a match of the agent")
    parser.add_argument(
        "--engine-games", type=int, help="games in a match of two levels, 0 for no such match; by default as --games"
    )
    parser.add_argument(
        "--levels", type=int, nargs="+", help="levels of the engine, from weak to strong; all by default"
    )
    parser.add_argument("--opening-moves", type=int, default=6, help="random moves before each game")
    parser.add_argument("--processes", type=int, default=2, help="processes of an engine, side by side")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one move of an engine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="write the tables to this file")
    parser.add_argument("--ship", type=pathlib.Path, help="copy the agent to this file, with its scores in the card")
    return parser.parse_args()


def main() -> None:
    args = parse()
    game = tz.runs.agent_env(args.agent).name
    if game not in ENGINES:
        raise SystemExit(f"engines.py: found an agent of {game}, expected one of {', '.join(ENGINES)}.")
    command, levels, max_moves = ENGINES[game]
    levels = list(levels) if args.levels is None else args.levels
    env, program = tz.from_pgx(game), command.split()[0]
    name_of = {level: f"{program} level {level}" for level in levels}
    options = {"num_processes": args.processes, "timeout": args.timeout}
    engines = {level: tz.matches.GtpEngine(command.format(level), **options) for level in levels}
    agents = {number: f"agent, {number} simulations" for number in args.simulations}
    results = Results([*name_of.values(), *agents.values()])

    def play(first, second, names: tuple[str, str], num_games: int, number: int) -> float:
        begun, key = time.perf_counter(), jax.random.fold_in(jax.random.key(args.seed), number)
        settings = {"num_games": num_games, "opening_moves": args.opening_moves, "max_moves": max_moves}
        match = tz.play_match(env, first, second, key=key, **settings)
        results.add(*names, match, time.perf_counter() - begun)
        return float(match.score)

    header = [
        f"`{args.agent}` ({game}), {jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}; {version(command)}, `{command.format('N')}`; "
        f"{args.games} games a match, {args.opening_moves} random moves at the start, seed {args.seed}",
        "",
        "| first | second | won | drawn | lost | not finished | score | 95 % interval | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    print("\n".join(header), flush=True)

    def save() -> None:
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text("\n".join([*header, *results.rows, "", *results.ratings()]) + "\n")

    for number, name in agents.items():
        player = agent(args.agent, number)
        for level, engine in engines.items():  # numbered by the level, so all agents have the same openings
            score = play(player, engine, (name, name_of[level]), args.games, level)
            save()
            if score < 0.5:
                break
    if args.ship is not None:
        card = tz.runs.agent_card(args.agent)
        about = {"games": args.games, "opening moves": args.opening_moves, **results.scores}
        card |= {"matches": card.get("matches", {}) | about}
        tz.save_agent(args.ship, env, player.evaluator.network, player.evaluator.norm_state, card=card)
    num_games = args.games if args.engine_games is None else args.engine_games
    for distance in (1, 2) if num_games else ():
        for weak, strong in zip(levels, levels[distance:], strict=False):
            names = name_of[weak], name_of[strong]
            play(engines[weak], engines[strong], names, num_games, 100 * weak + strong)
            save()
    print("", *results.ratings(), sep="\n")


if __name__ == "__main__":
    main()
