"""What `tz.init_loop` finds before anything is compiled for training: a game, a network or settings that do not fit."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from tz._arguments import check_evaluator, check_instance, shown, takes
from tz.games._random_games import GameRecord, check_record, largest_return, play_random_games
from tz.games.conformance import check_types
from tz.games.env import Env
from tz.learn.self_play import collect, init_collect
from tz.learn.trajectory import Sample
from tz.matches.players import Player, check_player
from tz.matches.testers import ApproxEloTester, LadderTester, OpponentTester, TwoPlayerTester
from tz.mcts.evaluators import NetworkEvaluator, uniform_evaluator
from tz.mcts.settings import MCTS
from tz.nn.networks import MLP, AZResNet
from tz.runs.settings import TrainConfig

NUM_GAMES, NUM_MOVES = 4, 128


def check_start(config: TrainConfig, env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> None:
    """Checks game, network and settings against each other, and the game by a few random games.

    The random games are one small compiled program, the same for each call with this game.

    **Raises:** `ValueError` for what cannot be right; it warns, by a `UserWarning`, of what is seldom meant.
    """
    check_types(env)
    _check_network(env, network, norm_state)
    if config.test_env is not None:
        _check_test_env(env, config.test_env)
    if config.evaluator is not None:
        _check_evaluator(config.evaluator, env, network, norm_state)
    if config.augment is not None:
        _check_augment(config, env, config.augment)
    _check_testers(env if config.test_env is None else config.test_env, config.testers)
    _, record, keys = play_random_games(env, key=jax.random.key(0), num_games=NUM_GAMES, num_moves=NUM_MOVES)
    check_record(env, record, keys, may_go_on=env.num_players == 1 and config.max_episode_moves is not None)
    _check_range(config, env, network, record)


def _check_range(config: TrainConfig, env: Env, network: PyTree, record: GameRecord) -> None:
    largest = largest_return(record, float(config.mcts.discount))
    if isinstance(network, AZResNet | MLP) and largest > 1.001:
        warnings.warn(
            f"init_loop: found random games of {env.name} with returns as large as {largest:.4g}, expected at most 1, "
            f"as the value of tz.{type(network).__name__} is a tanh, in (-1, 1), and cannot learn more; divide the "
            "rewards of the game by the largest result that it can have, or use a network whose value has no bounds.",
            stacklevel=4,
        )


def _check_evaluator(
    make: Callable[[NetworkEvaluator], Any], env: Env, network: PyTree, norm_state: eqx.nn.State | None
) -> None:
    """Raises `ValueError` for an evaluator, or its model, that does not fit the game or is another at each call."""
    default = NetworkEvaluator(network, env.observe, norm_state)
    one, other = make(default), make(default)
    check_evaluator("TrainConfig", one)
    if not eqx.tree_equal(*(eqx.partition(evaluator, eqx.is_array)[1] for evaluator in (one, other))):
        raise ValueError(
            "TrainConfig: found `evaluator` to return new functions at each call, expected arrays alone to change, as "
            "all would be compiled anew in each epoch; keep the weights in modules and not in closures, such as "
            "tz.mcts.Model(network.root, network.step), and make other functions once, outside."
        )
    check_player(env, Player(MCTS(1), one))


def _check_testers(env: Env, testers: Any) -> None:
    for player in jax.tree.leaves(testers, is_leaf=lambda x: isinstance(x, Player)):
        if isinstance(player, Player):  # an opponent, an anchor, a rung
            check_player(env, player)
    for tester in testers:
        if env.num_players != 2 and isinstance(
            tester, OpponentTester | TwoPlayerTester | ApproxEloTester | LadderTester
        ):
            raise ValueError(
                f"TrainConfig: found a {type(tester).__name__}, which plays matches, and {env.name}, a game of "
                f"{env.num_players} player, expected one of two players; leave the tester out, or write one that plays "
                "games for one, with the two methods of tz.matches.Tester."
            )


def _check_test_env(env: Env, test_env: Env) -> None:
    def shapes(observation):
        return str(jax.tree.map(lambda x: x.shape, observation))

    found, expected = ((game.num_actions, shapes(game.observation)) for game in (test_env, env))
    if found != expected:
        raise ValueError(
            f"TrainConfig: found test_env={test_env.name} of {found[0]} actions and observations {found[1]}, expected "
            f"the same game as that of self-play, {env.name}, which has {expected[0]} and {expected[1]}; give one that "
            "differs in where its games begin at most."
        )


def _check_augment(config: TrainConfig, env: Env, augment: Callable[..., Sample]) -> None:
    def with_records(key):
        options = {"num_moves": 1, "record": config.record, "record_end": config.record_end}
        moves = collect(config.mcts, env, uniform_evaluator, init_collect(config.mcts, env, key=key), **options)[1]
        rings = jax.tree.map(lambda x: x[None], config.replay.init(moves))
        sample = jax.tree.map(lambda x: x[0], config.replay.sample_parts(rings, 1, keys=key[None]))
        return sample, augment(sample, key=key)

    def drawn(key):
        if config.record is not None or config.record_end is not None:
            return with_records(key)
        env_state, metadata = env.init(key)
        one = jnp.float32(1)
        policy = jnp.zeros(env.num_actions, jnp.float32)
        sample = Sample(env.observe(env_state), metadata.action_mask, policy, one, one, one)
        return sample, augment(sample, key=key)

    try:
        before, after = jax.tree.map(jnp.shape, jax.eval_shape(drawn, jax.random.key(0)))
    except Exception as error:
        raise ValueError(f"TrainConfig: augment does not fit {env.name}: {error}") from error
    if before != after:
        raise ValueError(
            f"TrainConfig: found augment to make a sample of shapes {after} from {before}, expected the same; leave "
            "the shapes as they are."
        )


@eqx.filter_jit
def _first_outputs(env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> Any:
    key = jax.random.key(0)
    env_state, metadata = env.init(key)
    return metadata.action_mask, NetworkEvaluator(network, env.observe, norm_state)(env_state, metadata, key)


def _check_network(env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> None:
    """Raises `ValueError` where the network does not fit the game, found by one evaluation of a first position."""
    check_instance("init_loop", "network", network)
    if isinstance(network, NetworkEvaluator) or (
        takes(network, 3) and not takes(network, 1 + (norm_state is not None))
    ):
        raise ValueError(
            f"init_loop: found {shown(network)}, an evaluator, expected a network, observation -> (logits, value); "
            "give the network itself, and its state as norm_state."
        )
    mask, (logits, value) = eqx.filter_eval_shape(_first_outputs, env, network, norm_state)
    if logits.shape != mask.shape or value.shape != ():
        raise ValueError(
            f"init_loop: found a network that returns logits of shape {logits.shape} and a value of shape "
            f"{value.shape}, expected logits of shape {mask.shape} (one an action of {env.name}) and a value of shape "
            "(); change its heads."
        )
    mask, outputs = _first_outputs(env, network, norm_state)
    if not bool(mask.any()):
        raise ValueError(
            f"{env.name}: found no legal action in the initial state, expected at least one; run tz.check_env on it."
        )
    for name, output in zip(("logits", "value"), outputs, strict=True):
        if not bool(jnp.isfinite(output).all()):
            raise ValueError(
                f"init_loop: found the network's {name} not to be finite on an initial position of {env.name}: "
                f"{output}, expected finite numbers; look at its initial parameters."
            )
