"""Checks that a game, a network and settings fit together, for `tz.init_loop`, before the training is compiled."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from tz._arguments import check_evaluator, check_instance, shown, takes
from tz._programs import RunOnce
from tz.games._random_games import GameRecord, check_record, play_random_games, proven_returns
from tz.games.conformance import check_types
from tz.games.env import Env
from tz.learn.losses import losses_of
from tz.learn.self_play import collect, init_collect
from tz.learn.settings import TrainConfig
from tz.learn.trajectory import Sample
from tz.matches.engines import AnyPlayer, check_engine, check_one_process
from tz.matches.players import Player, check_player
from tz.matches.rating_testers import ApproxEloTester, LadderTester
from tz.matches.return_tester import ReturnTester, check_one_player
from tz.matches.testers import OpponentTester, TwoPlayerTester
from tz.mcts.evaluators import NetworkEvaluator, uniform_evaluator
from tz.mcts.models import ModelEvaluator
from tz.mcts.selectors import PUCT
from tz.mcts.settings import MCTS
from tz.nn.networks import MLP, AZResNet
from tz.nn.outputs import apply, categorical_head
from tz.nn.value_heads import CategoricalValue, TanhValue, ValueHead

NUM_GAMES, NUM_MOVES = 4, 128
_NAMES_OF_LOOP = {"epoch", "seconds", "seed", "moves", "episodes", "truncated", "moves_per_second", "replay_known"}
_NAMES_OF_LOOP |= {"simulations_per_second", "mean_length", "mean_return", "return_spread"}
_NAMES_OF_LOOP |= {"gradient_steps", "skipped_steps"}
_LARGEST_FOR_PUCT = 3.0


def check_start(config: TrainConfig, env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> None:
    """Checks the game, the network and the settings against each other, and plays a few random games.

    The random games run in one small program, which is compiled once for each game.

    **Raises:** `ValueError` for settings that cannot work. Settings that are probably a mistake cause a `UserWarning`.
    """
    check_types(env)
    if config.test_env is not None:
        _check_test_env(env, config.test_env)
    _check_hashes(config, network)
    _check_testers(env if config.test_env is None else config.test_env, config.testers)
    _check_network(env, network, norm_state)
    evaluator = uniform_evaluator
    if config.evaluator is not None:
        evaluator = _check_evaluator(config.evaluator, env, network, norm_state)
    head = _check_loss(config, env, network, norm_state, evaluator)
    if config.augment is not None:
        _check_augment(config, env, config.augment, evaluator)
    name = f"{'tz.' if isinstance(network, AZResNet | MLP) else ''}{type(network).__name__}"
    _, record, keys = play_random_games(env, key=jax.random.key(0), num_games=NUM_GAMES, num_moves=NUM_MOVES)
    check_record(env, record, keys, may_go_on=env.num_players == 1 and config.max_episode_moves is not None)
    _check_proofs(config, env, record)
    _check_range(config, env, head, record, name)


def _check_range(config: TrainConfig, env: Env, head: ValueHead | None, record: GameRecord, name: str) -> None:
    """Warns of returns that are too large for a tanh or for PUCT; raises `ValueError` for returns outside of a support.

    **Arguments:**

    - `head`: the value head of the network. With None it is not known, and nothing is checked.
    - `name`: the name of the network's class, for the messages.
    """
    if head is None:
        return
    low, high = (head.low, head.high) if isinstance(head, CategoricalValue) else (-1.0, 1.0)
    least, greatest = proven_returns(record, float(config.mcts.discount), low, high)
    # The margin is for rounding: sums of rewards may exceed the range by a little.
    margin, largest = 5e-4 * (high - low), max(-least, greatest)
    if isinstance(head, CategoricalValue) and (least < low - margin or greatest > high + margin):
        raise ValueError(
            f"init_loop: found random games of {env.name} with returns from {least:.4g} to {greatest:.4g}, expected "
            f"none outside of the support of the value head of {name}, {low:.4g} to {high:.4g}; give "
            "tz.nn.CategoricalValue(low, high) a range that holds every return, from the perspective of the player to "
            "move. Better games than random ones may have larger returns."
        )
    if isinstance(head, TanhValue) and largest > high + margin:
        warnings.warn(
            f"init_loop: found random games of {env.name} with returns as large as {largest:.4g}, expected at most 1, "
            f"since the value of {name} is a tanh and cannot exceed 1; give the network "
            "value_head=tz.nn.CategoricalValue(low, high), or divide the rewards of the game by its largest possible "
            "result.",
            stacklevel=4,
        )
    elif isinstance(config.mcts.selector, PUCT) and largest > _LARGEST_FOR_PUCT:
        warnings.warn(
            f"init_loop: found random games of {env.name} with returns as large as {largest:.4g} and the selector "
            "tz.PUCT, whose exploration bonus is made for values from -1 to 1 and too small for larger ones, expected "
            'a selector that scales values; use tz.mcts.MuZeroPUCT(scale="tree"), or tz.gumbel_mcts.',
            stacklevel=4,
        )


def _check_proofs(config: TrainConfig, env: Env, record: GameRecord) -> None:
    """Raises `ValueError` if a search with `solve=True` would take a reward for a proof that is none."""
    if not any(mcts is not None and mcts.solve for mcts in (config.mcts, config.fast_mcts, config.test_mcts)):
        return
    before_end = record.rewards[~record.terminated]
    if np.any(before_end != 0) or np.any(np.abs(record.rewards) > 1):
        found = "rewards before the end" if np.any(before_end != 0) else "results larger than 1"
        raise ValueError(
            f"init_loop: found solve=True, and {found} in random games of {env.name}, expected rewards from -1 to 1 at "
            "the end of a game only, since solve=True takes a reward of 1 for a proven win, and of -1 for a proven "
            "loss; write solve=False."
        )


def _check_evaluator(
    make: Callable[[NetworkEvaluator], Any], env: Env, network: PyTree, norm_state: eqx.nn.State | None
) -> Any:
    """Returns the evaluator of self-play.

    **Raises:** `ValueError` if the evaluator or its model does not fit the game, or has new functions at each call.
    """
    default = NetworkEvaluator(network, env.observe, norm_state)
    one, other = make(default), make(default)
    check_evaluator("TrainConfig", one)
    if not eqx.tree_equal(*(eqx.partition(evaluator, eqx.is_array)[1] for evaluator in (one, other))):
        raise ValueError(
            "TrainConfig: found that `evaluator` returns new functions at each call, expected only arrays to change, "
            "since new functions are compiled again in each epoch; keep the weights in modules and not in closures, "
            "such as tz.mcts.Model(network.root, network.step), and make other functions once, outside of `evaluator`."
        )
    check_player(env, Player(MCTS(0), one))
    return one


def _check_hashes(config: TrainConfig, network: PyTree) -> None:
    """Raises `ValueError` for a part without a hash: what is no array tells compiled programs apart."""
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} | {"network": network}
    for name, part in parts.items():
        leaves, structure = jax.tree.flatten(eqx.filter(part, eqx.is_array, inverse=True))
        for x in (*leaves, structure):
            try:
                hash(x)
            except TypeError as error:
                raise ValueError(
                    f"init_loop: found {name}={shown(part)} with a part that has no hash ({error}), expected one, as "
                    "programs are compiled for it; make a dataclass frozen (@dataclass(frozen=True)) or an eqx.Module, "
                    "and hold arrays in the fields of an eqx.Module and not in a closure or a jax.jit function."
                ) from error


def _check_testers(env: Env, testers: Any) -> None:
    """Raises `ValueError` if a tester, or a player inside of it, is not made for this game. Compiles nothing."""
    for tester in testers:
        if env.num_players != 2 and isinstance(
            tester, OpponentTester | TwoPlayerTester | ApproxEloTester | LadderTester
        ):
            raise ValueError(
                f"TrainConfig: found a {type(tester).__name__}, which plays matches, and {env.name}, a game of "
                f"{env.num_players} player, expected a game of two players; use tz.matches.ReturnTester, which plays "
                "games of one player."
            )
        if isinstance(tester, ReturnTester):
            check_one_player("TrainConfig: a ReturnTester", env)
    for player in jax.tree.leaves(testers, is_leaf=lambda x: isinstance(x, AnyPlayer)):
        if isinstance(player, Player):  # an opponent, an anchor, a rung
            check_player(env, player)
        elif isinstance(player, AnyPlayer):
            check_one_process("TrainConfig", player)
            check_engine("TrainConfig", env, player)


def _check_test_env(env: Env, test_env: Env) -> None:
    """Raises `ValueError` if the game of tests has other actions or observations than the game of self-play."""

    def shapes(observation):
        return str(jax.tree.map(lambda x: x.shape, observation))

    found, expected = ((game.num_actions, shapes(game.observation)) for game in (test_env, env))
    if found != expected:
        raise ValueError(
            f"TrainConfig: found test_env={test_env.name} with {found[0]} actions and observations of shape {found[1]}"
            f", expected the game of self-play, {env.name}, which has {expected[0]} actions and observations of shape "
            f"{expected[1]}; give the same game, which may only differ in its first positions."
        )


def _sample(config: TrainConfig, env: Env, evaluator: Any, key: PRNGKeyArray) -> Sample:
    """Makes a sample with the shapes that the buffer would give it. Its values have no meaning."""
    if config.record is None and config.record_end is None:
        env_state, metadata = env.init(key)
        policy, one = jnp.zeros(env.num_actions, jnp.float32), jnp.float32(1)
        return Sample(env.observe(env_state), metadata.action_mask, policy, one, one, one)
    # Only self-play knows the shapes of records, so this makes one move and reads it from a buffer.
    options = {"num_moves": 1, "record": config.record, "record_end": config.record_end}
    model = evaluator.model if isinstance(evaluator, ModelEvaluator) else None
    game = init_collect(config.mcts, env, key=key, model=model)
    moves = collect(config.mcts, env, evaluator, game, **options)[1]
    rings = jax.tree.map(lambda x: x[None], config.replay.init(moves))
    return jax.tree.map(lambda x: x[0], config.replay.sample_parts(rings, 1, keys=key[None]))


def _check_loss(
    config: TrainConfig, env: Env, network: PyTree, norm_state: eqx.nn.State | None, evaluator: Any
) -> ValueHead | None:
    """Checks that the loss can be computed from the outputs of the network and a sample. Compiles nothing.

    **Returns:** the value head of the network, or None where it is not known.

    **Raises:** `ValueError` if the loss raises, or has a metric with a name that the loop uses.
    """

    def of_batch(network, norm_state, evaluator, keys):
        batch = jax.vmap(lambda key: _sample(config, env, evaluator, key))(keys)
        call = jax.vmap(lambda *inputs: apply(network, inputs[0], norm_state, key=inputs[1])[0], axis_name="batch")
        try:
            outputs = call(batch.observation, keys)
        except (NameError, TypeError) as error:
            raise ValueError(
                f"init_loop: found a network {shown(network)} that cannot be trained on a batch ({error!r:.300}), "
                "expected one whose output is a PyTree of arrays; return a tuple, a dict, or an eqx.Module with "
                '`logits` and `value`, and call the axis of batch normalisation "batch".'
            ) from error
        return outputs, losses_of(config.loss, network, outputs, batch)[1]

    keys = jax.random.split(jax.random.key(0), 2)
    outputs, metrics = eqx.filter_eval_shape(of_batch, network, norm_state, evaluator, keys)
    if taken := sorted(set(metrics) & _NAMES_OF_LOOP):
        raise ValueError(
            f"TrainConfig: found a loss with the metrics {', '.join(taken)}, expected other names, as the training "
            "loop has metrics of these names; rename them."
        )
    return network.value_head if isinstance(network, AZResNet | MLP) else categorical_head(outputs)


def _check_augment(config: TrainConfig, env: Env, augment: Callable[..., Sample], evaluator: Any) -> None:
    """Raises `ValueError` if the augmentation fails on a sample of the game, or changes its shapes."""

    def drawn(key):
        sample = _sample(config, env, evaluator, key)
        return sample, augment(sample, key=key)

    try:
        before, after = jax.tree.map(jnp.shape, jax.eval_shape(drawn, jax.random.key(0)))
    except Exception as error:
        raise ValueError(
            f"TrainConfig: found that augment fails on a sample of {env.name} ({error}), expected an augmentation for "
            "this game; choose another, or leave it out."
        ) from error
    if before != after:
        raise ValueError(
            f"TrainConfig: found that augment makes a sample of shapes {after} from one of shapes {before}, expected "
            "the same shapes; change only the values."
        )


@RunOnce
def _first_outputs(env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> Any:
    key = jax.random.key(0)
    env_state, metadata = env.init(key)
    return metadata.action_mask, NetworkEvaluator(network, env.observe, norm_state)(env_state, metadata, key)


def _check_network(env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> None:
    """Raises `ValueError` if the network does not fit the game. It evaluates one initial position."""
    check_instance("init_loop", "network", network)
    if isinstance(network, NetworkEvaluator) or (
        takes(network, 3) and not takes(network, 1 + (norm_state is not None))
    ):
        raise ValueError(
            f"init_loop: found {shown(network)}, an evaluator, expected a network, observation -> (logits, value); "
            "give the network itself, and its state as norm_state."
        )
    # Shapes first, as they compile nothing.
    try:
        mask, (logits, value) = _first_outputs.shapes(env, network, norm_state)
        fits = logits.shape == mask.shape and value.shape == ()
    except (AttributeError, NameError, TypeError) as error:
        raise ValueError(
            f"init_loop: found {shown(network)}, which cannot evaluate a position of {env.name} ({error!r:.300}), "
            "expected a network, observation -> (logits, value), with norm_state= if it is stateful; change one."
        ) from error
    if not jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)):
        warnings.warn(
            f"init_loop: found {shown(network)} without any parameters, expected arrays to train; a function hides the "
            "arrays of a network, so give the network itself, such as a tz.MLP or an eqx.Module.",
            stacklevel=4,
        )
    if not fits:
        raise ValueError(
            f"init_loop: found a network that returns logits of shape {logits.shape} and a value of shape "
            f"{value.shape}, expected logits of shape {mask.shape} (one for each action of {env.name}) and a value "
            "of shape (); change its heads."
        )
    mask, outputs = _first_outputs(env, network, norm_state)
    if not bool(mask.any()):
        raise ValueError(
            f"{env.name}: found no legal action in the initial state, expected at least one; run tz.check_env on it."
        )
    for name, output in zip(("logits", "value"), outputs, strict=True):
        if not bool(jnp.isfinite(output).all()):
            raise ValueError(
                f"init_loop: found non-finite numbers in the network's {name} on an initial position of {env.name} "
                f"({output}), expected finite numbers; check the initial parameters of the network."
            )
