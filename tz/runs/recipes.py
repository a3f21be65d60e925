"""Recipes: the settings of an agent as plain numbers, from which the training is built. Studies vary them."""

import dataclasses
import functools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from tz._arguments import shown_settings
from tz.games._named_games import named_game
from tz.games.env import Env
from tz.games.openings import random_starts
from tz.learn.losses import az_loss
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.symmetries import random_dihedral, random_mirror
from tz.mcts.root_policies import Dirichlet
from tz.mcts.selectors import PUCT, CompletedQ, MuZeroPUCT
from tz.mcts.settings import MCTS, gumbel_mcts
from tz.nn.networks import MLP, AZResNet
from tz.nn.value_heads import CategoricalValue, TanhValue, ValueHead
from tz.runs._optimizers import recipe_optimizer
from tz.runs._ownership import with_ownership
from tz.runs.loop import init_loop

_SYMMETRIES = {"none": None, "mirror": random_mirror, "dihedral": random_dihedral}
_KNOWN = {"connect_four": "mirror"} | dict.fromkeys(("go_9x9", "go_19x19", "othello", "tic_tac_toe"), "dihedral")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings for learning a game: network, search, self-play, replay and optimiser, as plain numbers and names.

    The defaults are for board games on two CPU cores. They were found with Connect Four, where
    `experiments/connect_four/study.py` varies them one by one. [`tz.runs.game_recipe`][] returns the recipe of a game,
    which differs from them in some settings. `build` and `start` make everything that [`tz.train_loop`][] needs.
    """

    env: str = "connect_four"
    """The game: a name that tz.from_pgx knows, or package.module:make_env for your own game, where make_env() returns a
    tz.Env."""
    symmetry: Literal["auto", "none", "mirror", "dihedral"] = "auto"
    """The symmetry of the board that is used to augment samples. With auto, it is the known symmetry of the game, or
    none."""
    network: Literal["auto", "resnet", "mlp"] = "auto"
    """The kind of network. With auto, it is a residual network if observations are boards with channels, and a
    multilayer perceptron otherwise."""
    num_blocks: int = 3
    """The number of residual blocks, or of hidden layers of a multilayer perceptron."""
    num_channels: int = 32
    """The number of channels of each residual block, or of units of each hidden layer."""
    search_dtype: Literal["float32", "bfloat16"] = "float32"
    """The number type of the network in self-play and in tests."""
    train_dtype: Literal["float32", "bfloat16"] = "float32"
    """The number type of the network in gradient steps. The weights themselves are always float32."""
    norm: Literal["none", "layer", "batch"] = "none"
    """The normalisation of the activations of residual blocks."""
    head_channels: int = 16
    """The number of channels in the policy head and in the value head, after the residual blocks."""
    value_low: float | None = None
    """The lowest return that a player can have, for games whose returns are not between -1 and 1. With value-low and
    value-high, the value is a distribution over that range."""
    value_high: float | None = None
    """The highest return that a player can have; see value-low."""
    value_bins: int = 51
    """The number of bins of the distribution over returns."""
    value_transform: Literal["none", "muzero", "symlog"] = "none"
    """The spacing of the bins. With none, it is even. Otherwise bins are closer together near 0, for returns that
    differ by orders of magnitude."""
    search: Literal["gumbel", "puct"] = "gumbel"
    """The search: Gumbel AlphaZero, or PUCT with Dirichlet noise as in AlphaZero."""
    num_simulations: int = 16
    """The number of simulations for each move in self-play."""
    fast_simulations: int | None = None
    """The number of simulations for a random three quarters of the moves, from which the policy does not learn. By
    default every move has num-simulations."""
    q_scale: float | None = None
    """The weight of values in the policies of Gumbel search. If it is given, values are not rescaled; by default they
    are."""
    cold_after: int | None = None
    """The number of moves of a game after which PUCT plays at a temperature of 0.25. By default the temperature stays
    at 1."""
    discount: float = 1.0
    """The factor by which the return is discounted for each move."""
    max_nodes: int | None = None
    """The number of nodes that a search tree has room for. By default there is room for two searches."""
    max_actions: int | None = None
    """The number of actions that a node of the search tree keeps, the ones with the largest prior. By default it keeps
    all. A small number saves much memory in games with many actions."""
    num_games: int = 128
    """The number of games that are played at the same time."""
    moves_per_epoch: int = 16
    """The number of moves in each game in an epoch."""
    max_episode_moves: int | None = None
    """The number of moves after which a game of self-play is cut off, and its outcome estimated. By default
    every game is played to its end."""
    train_batch_size: int = 512
    """The number of positions in a gradient step."""
    train_steps_per_epoch: int = 12
    """The number of gradient steps in an epoch."""
    capacity: int = 500
    """The number of newest positions of each game that the replay buffer keeps."""
    window: float | None = 0.5
    """Samples are drawn from this fraction of all moves so far, the newest ones. With none, samples are drawn from the
    whole buffer."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The optimiser. Muon orthogonalises the updates of linear layers and convolutions, leaves all other parameters to
    AdamW, and needs a higher learning rate, 0.005 to 0.01."""
    learning_rate: float = 3e-3
    """The initial learning rate of the optimiser."""
    anneal: float = 0.3
    """The fraction of the training at its end, during which the learning rate falls to 1 % along half a cosine wave; 0
    for a constant learning rate."""
    weight_decay: float = 0.0
    """The weight decay of the optimiser."""
    l2: float = 1e-4
    """The weight of the sum of all squared network weights in the loss."""
    td_lambda: float = 0.8
    """The lambda of the value targets. With 1 they are the outcome of the game; smaller numbers mix in the values that
    the search found on the way."""
    search_value_fraction: float = 0.0
    """The weight, from 0 to 1, of the value that the search found for a position in the position's value target."""
    ownership: float = 0.0
    """The weight of a second target of a residual network: whose piece, or in Go also whose territory, is on each point
    of the final board. It is known for Connect Four, Go, Othello and tic-tac-toe. With 0, there is no such target."""
    average_decay: float | None = None
    """The decay of a running average of the weights. The averaged network then plays; by default the newest does."""
    random_starts: int = 20
    """The largest number of random moves that a game of self-play begins with; 0 for none."""
    opening_moves: int = 4
    """The number of random moves that a game of a test begins with, so that games differ."""
    max_test_moves: int = 1024
    """The number of moves after which a game of a test is cut off."""

    def __repr__(self) -> str:
        """Shows the game, and the settings that differ from the defaults."""
        return shown_settings(self)

    @functools.lru_cache(maxsize=4)  # noqa: B019, as recipes are small
    def __post_init__(self):
        for name, x in list(vars(self).items()):
            if isinstance(x, np.generic):  # which JSON cannot hold
                object.__setattr__(self, name, x.item())

    def build(self) -> tuple[TrainConfig, Env]:
        """Makes the settings of the training loop, and the game of self-play.

        Equal recipes return the same objects, so that functions compiled for one recipe serve the next.

        **Returns:** the settings, without testers, and the game.

        **Raises:** `ValueError` for a setting out of range, or settings that do not fit together.
        """
        if not 0 <= self.anneal <= 1:
            raise ValueError(
                f"Recipe: found anneal={self.anneal}, expected a number from 0 (never) to 1 (from the start); change "
                "it."
            )
        for name in ("num_simulations", "fast_simulations"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"Recipe: found {name}={number}, expected at least 1; raise it.")
        symmetry = _KNOWN.get(self.env, "none") if self.symmetry == "auto" else self.symmetry
        if symmetry not in _SYMMETRIES:
            raise ValueError(
                f"Recipe: found symmetry={symmetry!r}, expected auto or one of {', '.join(_SYMMETRIES)}; choose one of "
                "these."
            )
        for name in ("search_dtype", "train_dtype"):
            if (found := getattr(self, name)) not in ("float32", "bfloat16"):
                raise ValueError(f"Recipe: found {name}={found!r}, expected float32 or bfloat16; choose one of them.")
        for name in ("random_starts", "opening_moves"):
            if getattr(self, name) < 0:
                raise ValueError(f"Recipe: found {name}={getattr(self, name)}, expected 0 or more; raise it.")
        env = named_game(self.env)
        mcts, fast, window = self._search(env), self.fast_simulations, self.window
        config = TrainConfig(
            mcts=mcts,
            fast_mcts=None if fast is None else dataclasses.replace(mcts, num_simulations=fast, root=mcts.root.quiet()),
            optimizer=recipe_optimizer(self.optimizer, self.learning_rate, self.weight_decay),
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
            train_dtype=None if self.train_dtype == "float32" else jnp.bfloat16,
            test_env=env,
        )
        if self.ownership:
            if self.network == "mlp":
                raise ValueError(
                    f'Recipe: found ownership={self.ownership} with network="mlp", which predicts no board, expected '
                    "0; set ownership to 0, or choose another network."
                )
            config = with_ownership(config, self.env, env, self.ownership, self.l2)
        return config, random_starts(env, self.random_starts) if self.random_starts else env

    def _search(self, env: Env) -> MCTS:
        """Makes the search of self-play."""
        cold, max_nodes = self.cold_after, 2 * self.num_simulations if self.max_nodes is None else self.max_nodes
        options = {"max_nodes": max_nodes, "max_actions": self.max_actions, "discount": self.discount}
        if self.q_scale is not None and self.q_scale <= 0:
            raise ValueError(f"Recipe: found q_scale={self.q_scale}, expected more than 0; raise it.")
        if self.search == "gumbel":
            if cold is not None:
                raise ValueError(
                    f'Recipe: found cold_after={cold} with search="gumbel", whose moves have no temperature, expected '
                    'None; leave cold_after out, or choose search="puct".'
                )
            completed_q = CompletedQ() if self.q_scale is None else CompletedQ(c_scale=self.q_scale, rescale=False)
            return gumbel_mcts(self.num_simulations, min(16, env.num_actions), completed_q, **options)
        if self.search != "puct":
            raise ValueError(f'Recipe: found search={self.search!r}, expected "gumbel" or "puct"; choose one of them.')
        if self.q_scale is not None:
            raise ValueError(
                f'Recipe: found q_scale={self.q_scale} with search="puct", which has no such setting, expected None; '
                'leave q_scale out, or choose search="gumbel".'
            )
        temperature = 1.0 if cold is None else optax.piecewise_constant_schedule(1.0, {cold: 0.25})
        selector = PUCT() if self.value_high is None else MuZeroPUCT(scale="tree")
        return MCTS(self.num_simulations, root=Dirichlet(), selector=selector, temperature=temperature, **options)

    def start(self, config: TrainConfig, env: Env, *, seed: int, mesh: Mesh | None = None) -> LoopState:
        """Makes a new network and new games, for [`tz.runs.train_for`][] or [`tz.train_loop`][].

        **Arguments:**

        - `config`, `env`: from `build`, possibly with testers added to `config`.
        - `seed`: the seed of the network and of the games.
        - `mesh`: the devices, as in [`tz.train_loop`][].

        **Returns:** the state before the first epoch.

        **Raises:** `ValueError` if the network cannot be made for the game, and where [`tz.init_loop`][] does.
        """
        network_key, loop_key = jax.random.split(jax.random.key(seed))
        network, norm_state = self._network(env, network_key)
        return init_loop(config, env, network, norm_state if self.norm == "batch" else None, key=loop_key, mesh=mesh)

    def _network(self, env: Env, key: jax.Array) -> tuple[PyTree, eqx.nn.State]:
        """Makes the network, and its state, which is empty without batch normalisation."""
        shape = getattr(env.observation, "shape", None)
        if shape is None:
            raise ValueError(
                f"Recipe: found that observations of {env.name} are several arrays, expected one array; write a "
                "network that takes them, and train it with tz.init_loop and tz.train_loop."
            )
        kind = ("resnet" if len(shape) == 3 else "mlp") if self.network == "auto" else self.network
        if kind == "mlp":
            if self.norm != "none":
                raise ValueError(
                    f'Recipe: found norm="{self.norm}" with a multilayer perceptron, which has no normalisation, '
                    'expected "none"; leave norm out.'
                )
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
            num_planes=1 if self.ownership else 0,
            value_head=self._value_head(),
            key=key,
        )

    def _value_head(self) -> ValueHead:
        """Makes the value head: a distribution over the range of returns if it is given, otherwise a tanh."""
        low, high = self.value_low, self.value_high
        if (low is None) != (high is None):
            raise ValueError(f"Recipe: found value_low={low} and value_high={high}, expected both or none; give both.")
        if low is None or high is None:
            return TanhValue()
        return CategoricalValue(low, high, self.value_bins, self.value_transform)
