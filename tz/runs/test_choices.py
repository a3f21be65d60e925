"""The tests of a run, chosen by words such as `elo`, and the metric that finds the best checkpoint."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from tz.games.env import Env
from tz.matches.engines import GtpEngine
from tz.matches.players import Player, random_player
from tz.matches.rating_testers import ApproxEloTester, LadderTester
from tz.matches.return_tester import ReturnTester
from tz.matches.testers import OpponentTester, Tester
from tz.mcts.evaluators import RolloutEvaluator
from tz.mcts.root_policies import PlainRoot
from tz.mcts.settings import MCTS
from tz.runs.agent_files import load_agent
from tz.runs.recipes import Recipe

CHOICES = ("elo", "ladder", "random", "return", "agent:FILE", "gtp:COMMAND")
_BEST = {"elo": "elo", "ladder": "ladder_height", "return": "test_return"}
_RUNGS = (16, 64, 256)  # simulations of the opponents of the ladder, with a random game each
_POOL = 48  # networks in the pool of the Elo tester


def check_choices(words: Sequence[str]) -> None:
    """Raises `ValueError` for an unknown test, or one that is named twice."""
    for word in words:
        kind, colon, rest = word.partition(":")
        if word not in CHOICES[:4] and not (colon and rest and kind in ("agent", "gtp")):
            raise ValueError(f"test: found {word!r}, expected one of {', '.join(CHOICES)}; choose among these.")
    if len({_name(word) for word in words}) < len(words):
        raise ValueError(f"test: found {' '.join(words)}, expected tests with different names; leave one out.")


def chosen_testers(
    words: Sequence[str], recipe: Recipe, env: Env, mesh: Mesh, *, num_games: int = 32
) -> tuple[tuple[Tester, ...], str]:
    """Makes the testers of a run.

    **Arguments:**

    - `words`: the tests, such as `("elo", "agent:runs/c4/agent.tz")`. If empty, Elo in a game of two players, and the
        return in a game of one player.
    - `num_games`: games in each test, rounded up so that they can be split over the mesh.

    **Returns:** the testers, and the name of the metric that finds the best checkpoint.

    **Raises:** `ValueError` if a test is not for this game, or there is no such agent or engine.
    """
    words = words or ("return" if env.num_players == 1 else "elo",)
    for word in words:
        if (word == "return") != (env.num_players == 1):
            other = "elo, ladder, random, agent:FILE or gtp:COMMAND" if word == "return" else "return"
            raise ValueError(
                f"test: found {word!r} for {env.name}, a game of {env.num_players} player"
                f"{'s' * (env.num_players > 1)}, expected {other}; change it."
            )
    # An even number of games for each device.
    num_games = 2 * math.ceil(num_games / 2 / mesh.size) * mesh.size
    testers = tuple(_tester(word, recipe, env, num_games, mesh.size) for word in words)
    return testers, best_metric(words)


def best_metric(words: Sequence[str]) -> str:
    """Returns the name of the metric that decides which checkpoint is the best: that of the first test."""
    return _BEST.get(words[0], f"{_name(words[0])}_score")


def _name(word: str) -> str:
    """Returns the name with which the metrics of a test begin."""
    kind, _, rest = word.partition(":")
    return pathlib.Path(rest).stem if kind == "agent" else kind


def _tester(word: str, recipe: Recipe, env: Env, num_games: int, num_devices: int) -> Tester:
    options: dict[str, Any] = {"max_moves": recipe.max_test_moves}
    if word == "return":
        return ReturnTester("test", num_games=num_games, baseline=random_player(), **options)
    options["opening_moves"] = recipe.opening_moves
    if word == "elo":
        each = 2 * math.ceil(num_games / 4 / num_devices) * num_devices
        return ApproxEloTester(_POOL, each, 3, anchors=(random_player(),), **options)
    options["num_games"] = num_games
    if word == "ladder":
        return LadderTester((random_player(), *(_rollouts(env, number, recipe) for number in _RUNGS)), **options)
    kind, _, rest = word.partition(":")
    if kind == "agent":
        return OpponentTester(load_agent(rest, env=env), _name(word), **options)
    return OpponentTester(GtpEngine(rest) if kind == "gtp" else random_player(), kind, **options)


def _rollouts(env: Env, num_simulations: int, recipe: Recipe) -> Player:
    search = MCTS(num_simulations, root=PlainRoot(), temperature=0.0, persist_tree=False, discount=recipe.discount)
    return Player(search, RolloutEvaluator(env, max_moves=recipe.max_test_moves, discount=recipe.discount))
