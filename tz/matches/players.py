"""Players of matches: search settings and an evaluator."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from tz._arguments import check_evaluator, check_fields, shown
from tz.games.env import Env, StepMetadata
from tz.mcts.models import Model, check_model, model_of, root_of
from tz.mcts.root_policies import PlainRoot
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator


class Player(eqx.Module):
    """Combines search settings and an evaluator into a player of matches.

    The search steps through the game, or through a model if the evaluator is a [`tz.mcts.ModelEvaluator`][]. The two
    players of a match may differ in this.

    **Fields:**

    - `mcts`: the settings of the search. A schedule of `temperature` counts the moves since the opening.
    - `evaluator`: `(env_state, metadata, key) -> (logits [A], value [])`, such as a [`tz.NetworkEvaluator`][]. The
        value is for the player to move.

    **Raises:** `ValueError` if the evaluator cannot be called with three arguments, for example if it is a network.
    """

    mcts: MCTS
    evaluator: Evaluator

    def __post_init__(self):
        check_fields(self)
        check_evaluator("Player", self.evaluator)


def check_is_player(where: str, name: str, player: Any) -> None:
    """Raises `ValueError` unless the value is a `Player`, and says how to make one from an evaluator or a network."""
    if not isinstance(player, Player):
        raise ValueError(
            f"{where}: found {name} to be {shown(player)}, expected a tz.Player; wrap it in one. An evaluator: "
            "tz.Player(tz.MCTS(32), evaluator). A network: tz.Player(tz.MCTS(32), tz.NetworkEvaluator(network, "
            "env.observe)). A function that gives the action of a state: "
            "tz.Player(tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0), "
            "lambda state, metadata, key: (1e6 * jax.nn.one_hot(function(state), env.num_actions), jnp.float32(0))), "
            "or, in matches, where JAX cannot trace it: tz.matches.HostPlayer(function)."
        )


def check_player(env: Env, player: Player) -> None:
    """Raises `ValueError` if the evaluator of a player does not fit the game, such as a network of another game."""

    model = model_of(player.evaluator, env)
    if isinstance(model, Model):
        check_model(model, env)

    def ask(key):
        return player.evaluator(*root_of(model, *env.init(key)), key)

    try:
        logits, _ = eqx.filter_eval_shape(ask, jax.random.key(0))
    except Exception as error:
        raise ValueError(
            f"{env.name}: found a player whose evaluator raised {type(error).__name__} on the first position, expected "
            f"logits and a value; it is probably one of another game, so give a player of this game. {error}"
        ) from error
    if logits.shape != (env.num_actions,):
        raise ValueError(
            f"{env.name}: found a player that gives logits of shape {logits.shape}, expected ({env.num_actions},), one "
            "for each action; it is one of another game, so give a player of this game."
        )


def random_player() -> Player:
    """Makes a player that chooses uniformly among the legal moves.

    Its evaluator returns Gumbel noise as logits. It makes no simulations, so it takes the action with the largest
    prior, and each legal action is equally likely.

    **Returns:** a [`tz.Player`][] for any game.
    """
    return Player(MCTS(0, root=PlainRoot(), temperature=0.0, persist_tree=False), _random_prior)


def _random_prior(env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray) -> tuple[Array, Array]:
    """Returns noise as logits, and the value 0."""
    del env_state
    return jax.random.gumbel(key, metadata.action_mask.shape, jnp.float32), jnp.float32(0)
