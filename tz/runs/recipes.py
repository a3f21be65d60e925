"""Recipes: the settings of an agent as plain numbers, and what they build. What the studies vary."""

import dataclasses
import functools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from tz.games._named_games import named_game
from tz.games.env import Env
from tz.games.openings import random_starts
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.symmetries import random_dihedral, random_mirror
from tz.learn.training import az_loss
from tz.mcts.root_policies import Dirichlet
from tz.mcts.selectors import PUCT, CompletedQ, MuZeroPUCT
from tz.mcts.settings import MCTS, gumbel_mcts
from tz.nn.networks import MLP, AZResNet
from tz.nn.value_heads import CategoricalValue, TanhValue, ValueHead
from tz.runs.loop import init_loop

_SYMMETRIES = {"none": None, "mirror": random_mirror, "dihedral": random_dihedral}
_KNOWN = {"connect_four": "mirror"} | dict.fromkeys(("go_9x9", "go_19x19", "othello", "tic_tac_toe"), "dihedral")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings with which an agent learns a game: network, search, self-play, replay and optimiser.

    The defaults are for Connect Four on two CPU cores, and `experiments/connect_four/study.py` varies them one by one;
    [`tz.runs.game_recipe`][] has those of other games.
    """

    env: str = "connect_four"
    """The game: a name that tz.from_pgx knows, or package.module:make_env for one of your own, where make_env()
    returns a tz.Env."""
    symmetry: Literal["auto", "none", "mirror", "dihedral"] = "auto"
    """The images of the board that samples are augmented with. With auto it is those that the game is known to have."""
    network: Literal["auto", "resnet", "mlp"] = "auto"
    """The kind of network. With auto it is a network of residual blocks where the observation is a board with channels,
    and a multilayer perceptron elsewhere."""
    num_blocks: int = 3
    """The number of residual blocks of the network, or of hidden layers of a multilayer perceptron."""
    num_channels: int = 32
    """The channels of each residual block, or the units of each hidden layer."""
    search_dtype: Literal["float32", "bfloat16"] = "float32"
    """The number type of the network in self-play and in tests. The network is trained in float32 all the same."""
    norm: Literal["none", "layer", "batch"] = "none"
    """The normalisation of the activations of residual blocks."""
    head_channels: int = 16
    """The channels of the policy head and of the value head, after the residual blocks."""
    value_low: float | None = None
    """The lowest return that a player can have, for games whose returns do not lie between -1 and 1. With value-low and
    value-high, the value is a distribution over that range."""
    value_high: float | None = None
    """The highest return that a player can have; see value-low."""
    value_bins: int = 51
    """The number of bins of the distribution over returns."""
    value_transform: Literal["none", "muzero", "symlog"] = "none"
    """The spacing of the bins. Without a transform it is even; otherwise bins are closer together near 0, for returns
    that differ by orders of magnitude."""
    search: Literal["gumbel", "puct"] = "gumbel"
    """The search: that of Gumbel AlphaZero, or PUCT with Dirichlet noise as in AlphaZero."""
    num_simulations: int = 16
    """The simulations of the search for each move in self-play."""
    fast_simulations: int | None = None
    """The simulations for three moves in four, which are then no targets of the policy. Without it every move has
    num-simulations."""
    q_scale: float | None = None
    """The weight of values in the policies of Gumbel search, which are then not rescaled. Without it they are."""
    cold_after: int | None = None
    """The number of moves of a game after which PUCT plays at a temperature of 0.25. Without it the temperature stays
    at 1."""
    discount: float = 1.0
    """The discount of the return for each move."""
    max_nodes: int | None = None
    """The nodes that a search tree has room for. Without it there is room for two searches."""
    max_actions: int | None = None
    """The actions that a node of the search tree keeps, those with the largest prior. Without it a node keeps all. This
    saves most memory in games of many actions."""
    num_games: int = 128
    """The number of games that are played at once."""
    moves_per_epoch: int = 16
    """The moves that are made in each game in an epoch."""
    max_episode_moves: int | None = None
    """The moves after which a game is cut off in self-play, and its value estimated. Without it every game is played
    to its end."""
    train_batch_size: int = 512
    """The number of positions in a gradient step."""
    train_steps_per_epoch: int = 12
    """The number of gradient steps in an epoch."""
    capacity: int = 500
    """The positions of each game that the replay buffer keeps."""
    window: float | None = 0.5
    """The fraction of all moves so far, the newest, that samples are drawn from. With none, samples are drawn from the
    whole buffer."""
    learning_rate: float = 3e-3
    """The learning rate of Adam at the beginning."""
    anneal: float = 0.3
    """The fraction of the training, its last part, in which the learning rate falls to nearly 0 like half a cosine
    wave."""
    weight_decay: float = 0.0
    """The weight decay of AdamW."""
    l2: float = 1e-4
    """The weight of the sum of all squared network weights in the loss."""
    td_lambda: float = 0.8
    """The lambda of the value targets: 1 for the outcome of the game alone, less for a mixture with the values that the
    search found on the way."""
    search_value_fraction: float = 0.0
    """The fraction that the search's value of a position itself has in the value target of the position."""
    average_decay: float | None = None
    """The decay of a running average of the network's weights, which then plays. Without it the newest weights play."""
    random_starts: int = 20
    """The largest number of random moves that a game of self-play begins with; 0 for none."""
    opening_moves: int = 4
    """The number of random moves that a game of a test begins with, so that games differ."""
    max_test_moves: int = 1024
    """The moves after which a game of a test is cut off."""

    @functools.lru_cache(maxsize=4)  # noqa: B019, as recipes are small
    def build(self) -> tuple[TrainConfig, Env]:
        """The settings of the loop, and the game as it is played in training.

        Equal recipes build the same objects, so that what was compiled for one is there for the next.

        **Raises:** `ValueError` for a setting that one of its parts refuses.
        """
        if not 0 <= self.anneal <= 1:
            raise ValueError(f"Recipe: anneal must be from 0 (never) to 1 (from the start), found {self.anneal}.")
        symmetry = _KNOWN.get(self.env, "none") if self.symmetry == "auto" else self.symmetry
        if symmetry not in _SYMMETRIES:
            raise ValueError(f"Recipe: symmetry must be auto, {', '.join(_SYMMETRIES)}; found {symmetry!r}.")
        if self.search_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"Recipe: search_dtype must be float32 or bfloat16, found {self.search_dtype!r}.")
        for name in ("random_starts", "opening_moves"):
            if getattr(self, name) < 0:
                raise ValueError(f"Recipe: {name} must be 0 or more, found {getattr(self, name)}.")
        env = named_game(self.env)
        adam = optax.inject_hyperparams(optax.adamw)(self.learning_rate, weight_decay=self.weight_decay)
        mcts, fast, window = self._search(env), self.fast_simulations, self.window
        config = TrainConfig(
            mcts=mcts,
            fast_mcts=None if fast is None else dataclasses.replace(mcts, num_simulations=fast, root=mcts.root.quiet()),
            optimizer=optax.named_chain(("clip", optax.clip_by_global_norm(1.0)), ("adam", adam)),
            replay=EpisodeReplayBuffer(self.capacity, self.td_lambda, self.search_value_fraction),
            num_games=self.num_games,
            train_batch_size=self.train_batch_size,
            warmup_moves=3 * self.moves_per_epoch,
            moves_per_epoch=self.moves_per_epoch,
            max_episode_moves=self.max_episode_moves,
            train_steps_per_epoch=self.train_steps_per_epoch,
            loss=functools.partial(az_loss, l2_reg_lambda=self.l2),
            augment=_SYMMETRIES[symmetry],
            replay_window=None if window is None else lambda moves: jnp.maximum(100, window * jnp.float32(moves)),
            average_decay=self.average_decay,
            search_dtype=None if self.search_dtype == "float32" else jnp.bfloat16,
            test_env=env,
        )
        return config, random_starts(env, self.random_starts) if self.random_starts else env

    def _search(self, env: Env) -> MCTS:
        cold, max_nodes = self.cold_after, 2 * self.num_simulations if self.max_nodes is None else self.max_nodes
        options = {"max_nodes": max_nodes, "max_actions": self.max_actions, "discount": self.discount}
        if self.q_scale is not None and self.q_scale <= 0:
            raise ValueError(f"Recipe: q_scale must be above 0, found {self.q_scale}.")
        if self.search == "gumbel":
            if cold is not None:
                raise ValueError(f"Recipe: Gumbel's moves have no temperature; leave cold_after None, found {cold}.")
            completed_q = CompletedQ() if self.q_scale is None else CompletedQ(c_scale=self.q_scale, rescale=False)
            return gumbel_mcts(self.num_simulations, min(16, env.num_actions), completed_q, **options)
        if self.search != "puct":
            raise ValueError(f'Recipe: search must be "gumbel" or "puct", found {self.search!r}.')
        if self.q_scale is not None:
            raise ValueError(f"Recipe: q_scale is of Gumbel search; leave it None for PUCT, found {self.q_scale}.")
        temperature = 1.0 if cold is None else optax.piecewise_constant_schedule(1.0, {cold: 0.25})
        selector = PUCT() if self.value_high is None else MuZeroPUCT(scale="tree")
        return MCTS(self.num_simulations, root=Dirichlet(), selector=selector, temperature=temperature, **options)

    def start(self, config: TrainConfig, env: Env, *, seed: int, mesh: Mesh | None = None) -> LoopState:
        """A new network and new games, for [`tz.runs.train_for`][] or [`tz.train_loop`][]; `mesh` as it has it.

        **Raises:** `ValueError` if the network does not fit the game, and as [`tz.init_loop`][].
        """
        network_key, loop_key = jax.random.split(jax.random.key(seed))
        network, norm_state = self._network(env, network_key)
        return init_loop(config, env, network, norm_state if self.norm == "batch" else None, key=loop_key, mesh=mesh)

    def _network(self, env: Env, key: jax.Array) -> tuple[PyTree, eqx.nn.State]:
        shape = getattr(env.observation, "shape", None)
        if shape is None:
            raise ValueError(
                f"Recipe: found {env.name} to have observations of several arrays, expected one array; write a network "
                "that takes them and train it with tz.init_loop and tz.train_loop."
            )
        kind = ("resnet" if len(shape) == 3 else "mlp") if self.network == "auto" else self.network
        if kind == "mlp":
            if self.norm != "none":
                raise ValueError(f'Recipe: found norm="{self.norm}" with a multilayer perceptron, which has none.')
            sizes = {"width": self.num_channels, "depth": self.num_blocks}
            return eqx.nn.make_with_state(MLP)(shape, env.num_actions, **sizes, value_head=self._value_head(), key=key)
        return eqx.nn.make_with_state(AZResNet)(
            shape,
            env.num_actions,
            self.num_blocks,
            self.num_channels,
            self.norm,
            num_policy_channels=self.head_channels,
            num_value_channels=self.head_channels,
            value_head=self._value_head(),
            key=key,
        )

    def _value_head(self) -> ValueHead:
        low, high = self.value_low, self.value_high
        if (low is None) != (high is None):
            raise ValueError(f"Recipe: found value_low={low} and value_high={high}, expected both or none; give both.")
        if low is None or high is None:
            return TanhValue()
        return CategoricalValue(low, high, self.value_bins, self.value_transform)
