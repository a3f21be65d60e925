"""The recipes of the games, for a CPU and for a GPU."""

import dataclasses
from typing import Any

from tz.games._named_games import named_game
from tz.runs.recipes import Recipe

_DICE: dict[str, Any] = {"random_starts": 0, "opening_moves": 0, "average_decay": 0.999, "learning_rate": 1e-3}
_TWO_PLAYERS: dict[str, Any] = {"random_starts": 4, "opening_moves": 2}
_ONE_PLAYER: dict[str, Any] = {
    **_DICE,
    "train_steps_per_epoch": 16,
    "capacity": 2048,
    "window": None,
    "num_blocks": 2,
    "num_channels": 48,
    "head_channels": 8,
}
_ATARI: dict[str, Any] = {
    **_ONE_PLAYER,
    "discount": 0.99,
    "value_low": 0.0,
    "value_high": 300.0,
    "value_transform": "muzero",
    "max_episode_moves": 1024,
}
_GO: dict[str, Any] = {"num_simulations": 32, "q_scale": 0.5, "ownership": 0.5}
_GAMES: dict[str, dict[str, Any]] = {
    "connect_four": {"optimizer": "muon", "learning_rate": 0.005},
    "tic_tac_toe": {"num_blocks": 1, "random_starts": 2, "opening_moves": 1, "capacity": 200},
    "othello": {
        "random_starts": 10,
        "q_scale": 0.5,
        "ownership": 0.25,
        "optimizer": "muon",
        "learning_rate": 0.005,
    },
    "hex": {"random_starts": 10, "num_simulations": 32, "num_games": 64},
    "go_9x9": {**_GO, "random_starts": 10, "num_games": 64, "capacity": 800},
    "go_19x19": {
        **_GO,
        "random_starts": 20,
        "num_games": 16,
        "capacity": 1500,
        "max_actions": 64,
        "max_episode_moves": 722,
    },
    "animal_shogi": {"random_starts": 6, "num_games": 64},
    "gardner_chess": {"random_starts": 6, "num_games": 64, "max_actions": 64, "max_episode_moves": 256},
    "chess": {"random_starts": 8, "num_games": 32, "max_actions": 96, "max_episode_moves": 512, "capacity": 600},
    "shogi": {"random_starts": 8, "num_games": 32, "max_actions": 128, "max_episode_moves": 512, "capacity": 600},
    "backgammon": {
        **_DICE,
        "num_blocks": 2,
        "num_channels": 256,
        "value_low": -3.0,
        "value_high": 3.0,
        "value_bins": 25,
        "train_batch_size": 1024,
        "train_steps_per_epoch": 16,
        "capacity": 1024,
        "window": None,
    },
    "2048": {
        **_ONE_PLAYER,
        "discount": 0.999,
        "value_low": 0.0,
        "value_high": 100_000.0,
        "value_bins": 101,
        "value_transform": "muzero",
        "max_test_moves": 4096,
    },
}


def game_recipe(env: str, device: str = "cpu") -> Recipe:
    """Returns the recipe of a game, for about two CPU cores or for one GPU.

    Most settings of the recipe of Connect Four are the result of a study. The recipes of Othello, 9x9 Go, 2048 and
    backgammon have been used for training. All others are guesses. If the returns of a game are not between -1 and 1,
    its recipe makes the value a distribution over their range.

    **Arguments:**

    - `env`: the name of a game of pgx, or `package.module:make_env` for your own game.
    - `device`: `"cpu"` or `"gpu"`. For a GPU, [`tz.runs.gpu_recipe`][] changes the sizes.

    **Raises:** `ValueError` if there is no such game or no such device.
    """
    if device not in ("cpu", "gpu"):
        raise ValueError(f'game_recipe: found device={device!r}, expected "cpu" or "gpu"; choose one of them.')
    if env in _GAMES and device == "cpu":  # answers without loading the game
        return Recipe(env, **_GAMES[env])
    game = named_game(env)
    if env in _GAMES:
        changes = _GAMES[env]
    elif env.startswith("minatar-"):
        changes = _ATARI
    elif game.num_players == 1:
        changes = _ONE_PLAYER
    elif game.outcome is not None:
        changes = _DICE
    else:
        changes = _TWO_PLAYERS
    recipe = Recipe(env, **changes)
    is_board = len(getattr(game.observation, "shape", ())) == 3
    if not is_board and env not in _GAMES:
        recipe = dataclasses.replace(recipe, num_blocks=2, num_channels=128)
    if device == "cpu":
        return recipe
    own = gpu_recipe(recipe)
    if not is_board:
        own = dataclasses.replace(own, num_blocks=recipe.num_blocks, num_channels=recipe.num_channels)
    if game.num_actions > 300 or game.num_players == 1:  # each game needs more memory, or lasts longer
        own = dataclasses.replace(own, num_games=512)
    return own


def gpu_recipe(recipe: Recipe) -> Recipe:
    """Changes a recipe for a CPU into one for a GPU: more games at once, a larger network, bfloat16, AdamW.

    The number of games is large, because a GPU would take as long to search fewer games: it mostly waits for kernels to
    start. The sizes were tried on one H100 with 80 GB, in Connect Four and Othello (`experiments/gpu.py`).

    **Arguments:**

    - `recipe`: a recipe for a CPU, such as [`tz.runs.game_recipe`][] returns.

    **Returns:** the recipe for a GPU. The optimiser and its learning rate are those that were tried on one.
    Settings that do not depend on the device are the same.
    """
    return dataclasses.replace(
        recipe,
        num_games=2048,
        num_simulations=32,
        num_blocks=6,
        num_channels=128,
        head_channels=32,
        search_dtype="bfloat16",
        train_batch_size=2048,
        train_steps_per_epoch=48,
        optimizer="adamw",  # what Muon is worth on a GPU, where small products cost more, was not measured
        learning_rate=2e-3,
    )
