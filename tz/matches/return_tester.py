"""Measures agents in games for one player: plays episodes, and reports the mean return with an interval."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from scipy import stats

from tz._arguments import check_fields, check_ints, check_one_key
from tz.games.chance import make_numbered_move, split_with_chance
from tz.games.env import Env, StepMetadata
from tz.matches._playing import Number, plain_interval
from tz.matches._testing import TesterMetrics
from tz.matches.players import Player, check_is_player, check_player
from tz.mcts.models import model_of
from tz.mcts.results import choose_action
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator, SearchState, advance, init_search, search
from tz.sharding import check_mesh, over_games, place, usable_mesh


class EpisodeResult(eqx.Module):
    """Holds `G` episodes of a game for one player.

    `print(result)` shows the mean return with its 95 % interval, and how many episodes were cut off.

    **Fields:**

    - `returns`: `[G]`, the sum of the rewards of each episode, without a discount.
    - `finished`: `[G]`, False if an episode was cut off at `max_moves`. Its return is the sum up to there.
    - `num_moves`: `[G]`, the number of moves of each episode.
    - `final_state`: `[G, ...]`, the environment's last state in each episode.
    """

    returns: Float[Array, " G"]
    finished: Bool[Array, " G"]
    num_moves: Int[Array, " G"]
    final_state: PyTree

    @property
    def mean(self) -> Float[Array, ""]:
        """Returns the mean return of all episodes, those that were cut off included."""
        return jnp.mean(self.returns)

    def __str__(self) -> str:
        try:
            mean, low, high = map(float, (self.mean, *self.interval()))
            unfinished = int(jnp.sum(~self.finished))
        except jax.errors.ConcretizationTypeError:  # under jit there are no numbers yet
            return repr(self)
        cut = f", {unfinished} of them cut off" if unfinished else ""
        return f"mean return {mean:,.4g} ({low:,.4g} to {high:,.4g}) of {len(self.returns)} episodes{cut}"

    def interval(self, confidence: float = 0.95) -> tuple[Number, Number]:
        """Returns a confidence interval of the expected return, by Student's t distribution.

        The interval is a single point if all returns are equal, as with an agent without randomness in a game that
        always begins in the same position.

        **Arguments:**

        - `confidence`: the probability that such an interval contains the expected return.

        **Returns:** the lower and the upper end: Python floats, or arrays under `jax.jit` and `jax.vmap`.
        """
        num_games = len(self.returns)
        quantile = float(stats.t.ppf((1 + confidence) / 2, num_games - 1))
        margin = quantile * jnp.std(self.returns, ddof=1) / num_games**0.5
        return plain_interval(self.mean - margin, self.mean + margin)


def check_one_player(where: str, env: Env) -> None:
    """Raises `ValueError` unless the game is for one player."""
    if env.num_players != 1:
        raise ValueError(
            f"{where}: found {env.name}, a game of {env.num_players} players, expected a game for one player; for "
            "two players, play matches with tz.play_match or tz.OpponentTester."
        )


def play_episodes(
    env: Env,
    player: Player,
    *,
    num_games: int,
    key: PRNGKeyArray,
    max_moves: int = 1024,
    mesh: Mesh | None = None,
) -> EpisodeResult:
    """Plays episodes of a game for one player, all at the same time.

    It is compiled once for all players with the same shapes and static settings.

    **Arguments:**

    - `env`: the game, for one player.
    - `player`: the [`tz.Player`][] to measure.
    - `num_games`: the number of episodes; at least 2, since an interval needs them.
    - `key`: decides the first positions, the searches and nature's outcomes. Two players with the same key get the same
        first positions and the same dice. The episodes do not depend on the mesh.
    - `max_moves`: the number of moves after which an episode is cut off.
    - `mesh`: the devices over which the episodes are split, such as [`tz.data_mesh`][]`()`. By default, all episodes
        are played on one device.

    **Returns:** a [`tz.matches.EpisodeResult`][].

    **Raises:** `ValueError` if the game is not for one player, there are fewer than 2 episodes, they cannot be split
    evenly over the devices, or the player is not made for this game.
    """
    _check_numbers("play_episodes", num_games, max_moves)
    check_one_key("play_episodes", key)
    check_one_player("play_episodes", env)
    check_is_player("play_episodes", "player", player)
    if mesh is not None:
        mesh = usable_mesh(mesh)
        check_mesh(mesh, num_games=num_games)
        env, player, key = place((env, player, key), mesh, split=False)
    return _play(env, player, key, (num_games, max_moves), mesh)


def _check_numbers(where: str, num_games: int, max_moves: int) -> None:
    """Raises `ValueError` unless there are at least two episodes, of at least one move."""
    check_ints(where, num_games=num_games, max_moves=max_moves)
    if num_games < 2 or max_moves < 1:
        raise ValueError(
            f"{where}: found num_games={num_games} and max_moves={max_moves}, expected at least 2 games, which an "
            "interval needs, and at least 1 move; raise the number that is too small."
        )


@eqx.filter_jit
def _play(env: Env, player: Player, key: PRNGKeyArray, sizes: tuple[int, int], mesh: Mesh | None) -> EpisodeResult:
    """Plays episodes, compiled once for each set of shapes, static settings and `sizes`."""
    num_games, max_moves = sizes
    check_player(env, player)

    def play(shared, numbers):
        env, player, key = shared
        return _episodes(env, player, jax.vmap(jax.random.fold_in, (None, 0))(key, numbers), max_moves)

    numbers = jnp.arange(num_games, dtype=jnp.int32)
    shared = env, player, key
    return play(shared, numbers) if mesh is None else over_games(mesh, play, shared, numbers)


class _Episodes(eqx.Module):
    """Holds episodes in progress, `[G, ...]`. `num_draws` counts nature's draws, and is None without chance."""

    env_state: PyTree
    metadata: StepMetadata
    trees: SearchState
    num_draws: Int[Array, " G"] | None
    returns: Float[Array, " G"]
    num_moves: Int[Array, " G"]


def _episodes(env: Env, player: Player, keys: Array, max_moves: int) -> EpisodeResult:
    """Plays episodes, one for each key.

    The loop over moves is outside of any `vmap`. Under `vmap`, each iteration would copy its whole carry to leave
    finished games unchanged.
    """
    init_keys, keys, chance_keys = jax.vmap(lambda key: split_with_chance(env, key, 2))(keys)
    env_state, metadata = jax.vmap(env.init)(init_keys)
    model = model_of(player.evaluator, env)
    trees = jax.vmap(lambda *start: init_search(player.mcts, *start, model=model))(env_state, metadata)
    none = jnp.zeros(len(keys), jnp.int32)
    no_draws = None if chance_keys is None else none

    def one(state, tree, num_draws, key, chance_key, move):
        search_key, action_key = jax.random.split(jax.random.fold_in(key, move))
        searched = search(player.mcts, model, player.evaluator, tree, key=search_key)
        action = choose_action(player.mcts, searched, key=action_key, num_moves=move)
        after = make_numbered_move(env, state, action, num_draws, key=chance_key)
        return *after, advance(player.mcts, searched, action, *after[:2], model=model)

    def play(carry):
        games, move = carry
        live = ~games.metadata.terminated
        inputs = games.env_state, games.trees, games.num_draws, keys, chance_keys
        env_state, metadata, num_draws, trees = jax.vmap(one, (0, 0, 0, 0, 0, None))(*inputs, move)
        # Finished games step along: their last state is kept, and their rewards do not count.
        env_state = jax.vmap(lambda live, *states: jax.tree.map(lambda x, y: jnp.where(live, x, y), *states))(
            live, env_state, games.env_state
        )
        reward = jnp.where(live, metadata.rewards[:, 0].astype(jnp.float32), 0.0)
        num_moves = games.num_moves + live.astype(jnp.int32)
        return _Episodes(env_state, metadata, trees, num_draws, games.returns + reward, num_moves), move + 1

    def unfinished(carry):
        return jnp.any(~carry[0].metadata.terminated) & (carry[1] < max_moves)

    start = _Episodes(env_state, metadata, trees, no_draws, none.astype(jnp.float32), none), jnp.int32(0)
    games, _ = lax.while_loop(unfinished, play, start)
    return EpisodeResult(games.returns, games.metadata.terminated, games.num_moves, games.env_state)


class ReturnTester(eqx.Module):
    """Plays episodes of a game for one player with the newest network, and reports the mean return.

    Training tests with `test_mcts` of [`tz.TrainConfig`][], by default a search without exploration.

    **Fields:**

    - `name`: the beginning of the names of the metrics.
    - `num_games`: the number of episodes of a test, at least 2.
    - `max_moves`: the number of moves after which an episode is cut off.
    - `baseline`: a [`tz.Player`][] to compare with, such as [`tz.random_player`][]`()`, which plays in every test from
        the same first positions. None, the default, for no comparison.

    **Metrics:** returns are sums of rewards, without a discount.

    - `{name}_return`: the mean return, with its 95 % interval from `{name}_return_low` to `{name}_return_high`.
    - `{name}_unfinished`: the number of episodes that were cut off. Their return is the sum up to there.
    - `{name}_baseline_return`, `{name}_baseline_return_low`, `{name}_baseline_return_high`: the same for the baseline,
        if there is one.

    **Raises:** `ValueError` if a number is too small, or `baseline` is not a [`tz.Player`][].
    """

    name: str = eqx.field(static=True, default="test")
    num_games: int = eqx.field(static=True, default=32)
    max_moves: int = eqx.field(static=True, default=1024)
    baseline: Player | None = None

    def __post_init__(self):
        check_fields(self)
        _check_numbers("ReturnTester", self.num_games, self.max_moves)
        if self.baseline is not None:
            check_is_player("ReturnTester", "baseline", self.baseline)

    def init(self, evaluator: Evaluator, *, mesh: Mesh) -> None:
        """Returns None, as this tester has no state.

        **Raises:** `ValueError` if the episodes cannot be split evenly over the mesh.
        """
        del evaluator
        check_mesh(mesh, num_games=self.num_games)

    def test(
        self, mcts: MCTS, env: Env, evaluator: Evaluator, state: PyTree, *, key: PRNGKeyArray, mesh: Mesh
    ) -> tuple[PyTree, TesterMetrics]:
        """Plays the episodes; returns the state, None, and the metrics."""
        options = {"num_games": self.num_games, "max_moves": self.max_moves, "key": key, "mesh": mesh}
        result = play_episodes(env, Player(mcts, evaluator), **options)
        metrics = _metrics(f"{self.name}_return", result)
        metrics[f"{self.name}_unfinished"] = float(jnp.sum(~result.finished))
        if self.baseline is not None:
            metrics |= _metrics(f"{self.name}_baseline_return", play_episodes(env, self.baseline, **options))
        return state, metrics


def _metrics(name: str, result: EpisodeResult) -> TesterMetrics:
    """Returns the mean return and the ends of its interval as floats."""
    low, high = result.interval()
    return {name: float(result.mean), f"{name}_low": float(low), f"{name}_high": float(high)}
