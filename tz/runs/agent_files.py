"""Agent files: a network, the settings that it is built from, and a card that says how it was trained."""

import json
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from tz._arguments import shown
from tz._arrays import data_of, has_shape, named_arrays, with_data
from tz.games.env import Env
from tz.games.pgx_games import from_pgx
from tz.matches.players import Player
from tz.mcts.evaluators import NetworkEvaluator
from tz.mcts.selectors import CompletedQ
from tz.mcts.settings import MCTS, gumbel_mcts, without_exploration
from tz.nn.networks import MLP, AZResNet
from tz.runs._agent_format import (
    FORMAT,
    MAX_HEADER,
    build_network,
    describe_array,
    first_difference,
    open_agent_file,
    written_settings,
)

_SHIPPED = pathlib.Path(__file__).parents[1] / "agents"


def save_agent(
    path: str | os.PathLike,
    env: Env,
    network: PyTree,
    norm_state: eqx.nn.State | None = None,
    *,
    card: dict[str, Any] | None = None,
) -> None:
    """Saves an agent in one file. Missing folders are made.

    The file appears only when it is complete. If saving fails, an earlier file of the same name stays as it was.

    **Arguments:**

    - `path`: the file.
    - `env`: the game that the agent plays. Its name is saved.
    - `network`: the network that plays, such as `playing` of [`tz.learn.TrainState`][]. The settings of a
        [`tz.AZResNet`][] or a [`tz.MLP`][] are saved as well, so that [`tz.load_agent`][] can build it.
    - `norm_state`: the state of a stateful network, such as `playing_norm_state` of [`tz.learn.TrainState`][].
    - `card`: facts about the agent, such as how it was trained and how strong it is. JSON must be able to hold them.

    **Raises:** `ValueError` if `env` is not a game, the network does not fit the game or needs another `norm_state`, or
    the card is larger than a megabyte; `TypeError` if the card holds a value that JSON does not have.
    """
    if not isinstance(env, Env):
        raise ValueError(
            f"save_agent: found {shown(env)} as the second argument, expected a game; write "
            "tz.save_agent(path, env, network)."
        )
    _check_agent(env, network, norm_state)
    path = pathlib.Path(path)
    kind = type(network).__name__
    settings = {"class": kind} | (written_settings(network.settings) if isinstance(network, (AZResNet, MLP)) else {})
    arrays = named_arrays((network, norm_state))
    header = {
        "format": FORMAT,
        "env": env.name,
        "network": settings,
        "arrays": [describe_array(name, x) for name, x in arrays],
        "card": card or {},
    }
    text = json.dumps(header, indent=1).encode()
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"save_agent: found a card that makes a header of {len(text)} bytes, expected at most {MAX_HEADER}; keep "
            "long data, such as curves, in another file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("agent.json", text)
            archive.writestr("arrays", b"".join(np.asarray(data_of(x)).tobytes() for _, x in arrays))
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _check_agent(env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> None:
    """Raises `ValueError` for what [`tz.load_agent`][] could not turn into a player of this game. Compiles nothing."""
    if isinstance(network, Player) or network is None:
        advice = "write player.evaluator.network and player.evaluator.norm_state" if network is not None else "give it"
        raise ValueError(f"save_agent: found {shown(network)}, expected a network; {advice}.")

    def outputs(network, norm_state, key):
        return NetworkEvaluator(network, env.observe, norm_state)(*env.init(key), key)[0]

    try:
        logits = eqx.filter_eval_shape(outputs, network, norm_state, jax.random.key(0))
    except Exception as error:
        raise ValueError(
            f"save_agent: found a network that cannot evaluate a position of {env.name} ({error!r:.300}), expected one "
            "that can; give the network of this game, and norm_state for a stateful one."
        ) from error
    if logits.shape != (env.num_actions,):
        raise ValueError(
            f"save_agent: found a network with logits of shape {logits.shape}, expected ({env.num_actions},), as "
            f"{env.name} has {env.num_actions} actions; give the game that it plays."
        )


def load_agent(
    source: str | os.PathLike,
    *,
    mcts: MCTS | None = None,
    env: Env | None = None,
    network: PyTree = None,
    norm_state: eqx.nn.State | None = None,
) -> Player:
    """Loads an agent that [`tz.save_agent`][] saved, or one that comes with tz.

    The file is read as data. Nothing in it is executed.

    **Arguments:**

    - `source`: a file, the folder of a run, or the name of an agent that comes with tz, such as `"connect_four"`.
    - `mcts`: the search of the agent; by default [`tz.gumbel_mcts`][] with 200 simulations and without noise. If the
        card has the recipe of the agent, its `q_scale`, `discount` and `max_actions` hold for this search as well.
    - `env`: the game; needed only if it is not a game of pgx.
    - `network`, `norm_state`: needed only if the network is not a [`tz.AZResNet`][] or a [`tz.MLP`][]: any network of
        the same architecture. Its weights are ignored.

    **Returns:** the player. `player.evaluator.network` is the network, in inference mode.

    **Raises:** `ValueError` if the file is missing, damaged, or of another version of tz, or if it does not fit the
    given network or game.
    """
    path = _find(source)
    header, read_arrays = open_agent_file(path)
    env = _env(path, header, env)
    if network is None:
        network, norm_state = build_network(path, header["network"], header["arrays"])
    arrays = named_arrays((network, norm_state))
    expected = [describe_array(name, x) for name, x in arrays]
    if expected != header["arrays"]:
        difference = first_difference(header["arrays"], expected)
        raise ValueError(
            f"load_agent: found another architecture in {path} ({difference}), expected the architecture of the "
            "network; pass network= with the architecture that was saved."
        )
    stored = [jax.eval_shape(data_of, x) for _, x in arrays]  # random keys are stored as numbers
    data, leaves, start = read_arrays(sum(x.size * x.dtype.itemsize for x in stored)), [], 0
    for (_, like), x in zip(arrays, stored, strict=True):
        leaf = jnp.asarray(np.frombuffer(data, x.dtype, x.size, start).reshape(x.shape))
        leaves.append(with_data(like, leaf))
        start += x.size * x.dtype.itemsize
    dynamic, static = eqx.partition((network, norm_state), has_shape)
    network, norm_state = eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)
    mcts = _search(path, header["card"].get("recipe")) if mcts is None else mcts
    return Player(mcts, NetworkEvaluator(network, env.observe, norm_state))


def _search(path: pathlib.Path, recipe: Any) -> MCTS:
    """Returns the usual search of an agent. What decides the meaning of its values is taken from its recipe."""
    scale, discount, max_actions = None, 1.0, None
    if isinstance(recipe, dict):
        scale, discount = recipe.get("q_scale"), recipe.get("discount", discount)
        max_actions = recipe.get("max_actions")
    try:
        if scale is not None and not 0 < float(scale) < np.inf:
            raise ValueError("q_scale")
        completed_q = CompletedQ() if scale is None else CompletedQ(c_scale=float(scale), rescale=False)
        search = gumbel_mcts(200, completed_q=completed_q, discount=float(discount), max_actions=max_actions)
    except (TypeError, ValueError, OverflowError) as error:
        found = f"q_scale={scale!r}, discount={discount!r}, max_actions={max_actions!r}"
        raise ValueError(
            f"load_agent: found {found} in the card of {path}, expected settings of a search; pass mcts=."
        ) from error
    return without_exploration(search)


def agent_env(source: str | os.PathLike, *, env: Env | None = None) -> Env:
    """Returns the game that an agent plays.

    **Arguments:**

    - `source`: the agent, as in [`tz.load_agent`][].
    - `env`: the game; needed only if it is not a game of pgx.

    **Raises:** `ValueError` where [`tz.load_agent`][] does, and if `env` has another name than the game of the agent.
    """
    path = _find(source)
    return _env(path, open_agent_file(path)[0], env)


def agent_card(source: str | os.PathLike) -> dict[str, Any]:
    """Returns the card of an agent, which says how it was trained and how strong it is.

    **Arguments:**

    - `source`: the agent, as in [`tz.load_agent`][].

    **Returns:** the `card` that [`tz.save_agent`][] was given.

    **Raises:** `ValueError` where [`tz.load_agent`][] does.
    """
    return open_agent_file(_find(source))[0]["card"]


def agent_game(source: str | os.PathLike) -> str:
    """Returns the name of the game that an agent plays.

    **Arguments:** `source`, the agent, as in [`tz.load_agent`][].

    **Raises:** `ValueError` where [`tz.load_agent`][] does.
    """
    return open_agent_file(_find(source))[0]["env"]


def _find(source: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(source)
    for found in (path, path / "agent.tz"):  # a file, or the folder of a run
        if found.is_file():
            return found
    shipped = {found.stem: found for found in sorted(_SHIPPED.glob("*.tz"))}
    if str(source) in shipped:
        return shipped[str(source)]
    raise ValueError(
        f"load_agent: found no agent at {source}, expected a file, the folder of a run, or an agent that comes with tz "
        f"({', '.join(shipped) or 'none'}); give one of these."
    )


def _env(path: pathlib.Path, header: dict, env: Env | None) -> Env:
    if env is None:
        try:
            return from_pgx(header["env"])
        except ValueError as error:
            raise ValueError(
                f"load_agent: found that {path} plays {header['env']!r}, which pgx does not have, expected a game of "
                f"pgx; pass the game as env=, or on the command line as --env package.module:make_env. {error}"
            ) from error
    # Before Go with another komi had it in its name, its agents were saved under the plain name.
    if header["env"] not in (env.name, env.name.split("_komi_")[0]):
        raise ValueError(
            f"load_agent: found that {path} plays {header['env']!r}, expected {env.name!r}, the name of env; pass the "
            "game that the agent plays."
        )
    return env
