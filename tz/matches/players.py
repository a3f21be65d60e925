"""Players: a search and what it believes of positions."""

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
    """A player of matches: a search (`mcts`) and its evaluator (`evaluator`).

    A [`tz.mcts.ModelEvaluator`][] makes a player whose search steps through a model; its opponent may do without.
    """

    mcts: MCTS
    evaluator: Evaluator

    def __post_init__(self):
        check_fields(self)
        check_evaluator("Player", self.evaluator)


def check_is_player(where: str, name: str, player: Any) -> None:
    """Raises `ValueError` for something else in the place of a player, such as a function or a network."""
    if not isinstance(player, Player):
        raise ValueError(
            f"{where}: found {name} to be {shown(player)}, expected a tz.Player; wrap it in one. An evaluator: "
            "tz.Player(tz.MCTS(32), evaluator). A network: the same of tz.NetworkEvaluator(network, env.observe). A "
            "function that gives the action of a state: tz.Player(tz.MCTS(1, root=tz.PlainRoot(), temperature=0.0), "
            "lambda state, metadata, key: (1e6 * jax.nn.one_hot(function(state), env.num_actions), jnp.float32(0))), "
            "or, in matches, where JAX cannot trace it: tz.matches.HostPlayer(function)."
        )


def check_player(env: Env, player: Player) -> None:
    """Raises `ValueError` if a player cannot be asked about this game, such as a network of another one."""

    model = model_of(player.evaluator, env)
    if isinstance(model, Model):
        check_model(model, env)

    def ask(key):
        return player.evaluator(*root_of(model, *env.init(key)), key)

    try:
        logits, _ = eqx.filter_eval_shape(ask, jax.random.key(0))
    except Exception as error:
        raise ValueError(
            f"{env.name}: found a player whose evaluator raised {type(error).__name__} on its first position, expected "
            f"logits and a value; it is likely to be one of another game. {error}"
        ) from error
    if logits.shape != (env.num_actions,):
        raise ValueError(
            f"{env.name}: found a player that gives logits of shape {logits.shape}, expected ({env.num_actions},), one "
            "for each action; it is one of another game."
        )


def random_player() -> Player:
    """A player of uniformly random legal moves.

    One simulation follows the largest prior, and the prior is nothing but noise that favours no action.
    """
    return Player(MCTS(1, root=PlainRoot(), temperature=0.0, persist_tree=False), _random_prior)


def _random_prior(env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray) -> tuple[Array, Array]:
    del env_state
    return jax.random.gumbel(key, metadata.action_mask.shape, jnp.float32), jnp.float32(0)
