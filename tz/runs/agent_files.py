"""Agent files: a network, the settings that it is built from, and a card that says how it was trained."""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
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
from tz.nn.value_heads import CategoricalValue, LinearValue, TanhValue, ValueHead

_FORMAT = 1
_MAX_HEADER = 2**20
_SHIPPED = pathlib.Path(__file__).parents[1] / "agents"
_UNREADABLE = zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, OSError, RuntimeError, EOFError
_NETWORKS = {"AZResNet": AZResNet, "MLP": MLP}
_HEADS = {"TanhValue": TanhValue, "LinearValue": LinearValue, "CategoricalValue": CategoricalValue}


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

    **Raises:** `ValueError` if `env` is not a game, or the card is larger than a megabyte; `TypeError` if the card
    holds a value that JSON does not have.
    """
    if not isinstance(env, Env):
        raise ValueError(
            f"save_agent: found {shown(env)} as the second argument, expected a game; write "
            "tz.save_agent(path, env, network)."
        )
    path = pathlib.Path(path)
    kind = type(network).__name__
    settings = {"class": kind} | (_written(network.settings) if isinstance(network, (AZResNet, MLP)) else {})
    arrays = named_arrays((network, norm_state))
    header = {
        "format": _FORMAT,
        "env": env.name,
        "network": settings,
        "arrays": [_describe(name, x) for name, x in arrays],
        "card": card or {},
    }
    text = json.dumps(header, indent=1).encode()
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"save_agent: found a card that makes a header of {len(text)} bytes, expected at most {_MAX_HEADER}; keep "
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
    header, read_arrays = _open(path)
    env = _env(path, header, env)
    if network is None:
        network, norm_state = _build(path, header["network"], header["arrays"])
    arrays = named_arrays((network, norm_state))
    expected = [_describe(name, x) for name, x in arrays]
    if expected != header["arrays"]:
        raise ValueError(
            f"load_agent: found another architecture in {path} ({_difference(header['arrays'], expected)}), expected "
            "the architecture of the network; pass network= with the architecture that was saved."
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
    return _env(path, _open(path)[0], env)


def agent_card(source: str | os.PathLike) -> dict[str, Any]:
    """Returns the card of an agent, which says how it was trained and how strong it is.

    **Arguments:**

    - `source`: the agent, as in [`tz.load_agent`][].

    **Returns:** the `card` that [`tz.save_agent`][] was given.

    **Raises:** `ValueError` where [`tz.load_agent`][] does.
    """
    return _open(_find(source))[0]["card"]


def agent_game(source: str | os.PathLike) -> str:
    """Returns the name of the game that an agent plays.

    **Arguments:** `source`, the agent, as in [`tz.load_agent`][].

    **Raises:** `ValueError` where [`tz.load_agent`][] does.
    """
    return _open(_find(source))[0]["env"]


def _describe(name: str, x: Any) -> list[Any]:
    return [name, list(x.shape), str(x.dtype)]


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a network in a form that JSON can hold. A tanh head is the default and left out."""
    head = settings["value_head"]
    rest = {name: value for name, value in settings.items() if name != "value_head"}
    if isinstance(head, TanhValue):
        return rest
    options = dataclasses.asdict(head) if isinstance(head, tuple(_HEADS.values())) else {}
    return rest | {"value_head": {"class": type(head).__name__, **options}}


def _read_head(written: Any) -> ValueHead:
    """Makes the value head that a header describes. The header may hold anything, so nothing in it is trusted."""
    options = dict(written) if isinstance(written, dict) else {}
    kind = options.pop("class", None)
    if not isinstance(kind, str) or kind not in _HEADS:
        raise ValueError(f"value_head is {written!r:.80}, which tz does not have")
    return _HEADS[kind](**options)


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


def _open(path: pathlib.Path):
    """Reads the header of a file, and returns it with a function that reads the given number of bytes of arrays."""

    def damaged(reason: Any) -> ValueError:
        return ValueError(
            f"load_agent: found that {path} is damaged, or not an agent at all ({reason}), expected a file that "
            "tz.save_agent wrote; save the agent again."
        )

    def read(name: str, most: int) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(name).file_size > most:  # a small file may unpack to a huge one
                    raise damaged(f"{name} has {archive.getinfo(name).file_size} bytes, expected at most {most}")
                return archive.read(name)  # which also checks the checksum
        except _UNREADABLE as error:
            raise damaged(error) from error

    try:
        header = json.loads(read("agent.json", _MAX_HEADER))
        version = header["format"]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise damaged(error) from error
    if version != _FORMAT:
        raise ValueError(f"load_agent: found {path} in format {version}, expected format {_FORMAT}; update tz.")
    for name, kind in {"env": str, "network": dict, "arrays": list, "card": dict}.items():
        if not isinstance(header.get(name), kind):
            raise damaged(f"its header should have {name!r} as a {kind.__name__}, found {header.get(name)!r:.80}")

    def read_arrays(size: int) -> bytes:
        data = read("arrays", size)
        if len(data) != size:
            raise damaged(f"it has {len(data)} bytes of arrays, expected {size}")
        return data

    return header, read_arrays


def _env(path: pathlib.Path, header: dict, env: Env | None) -> Env:
    if env is None:
        try:
            return from_pgx(header["env"])
        except ValueError as error:
            raise ValueError(
                f"load_agent: found that {path} plays {header['env']!r}, which pgx does not have, expected a game of "
                f"pgx; pass the game as env=. {error}"
            ) from error
    if env.name != header["env"]:
        raise ValueError(
            f"load_agent: found that {path} plays {header['env']!r}, expected {env.name!r}, the name of env; pass the "
            "game that the agent plays."
        )
    return env


def _build(path: pathlib.Path, settings: dict, arrays: list) -> tuple[PyTree, eqx.nn.State | None]:
    """Builds the network of a header with shapes instead of weights, since a false header may ask for any size."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    kind = settings.pop("class", None)
    if not isinstance(kind, str) or kind not in _NETWORKS:
        raise ValueError(
            f"load_agent: found a network of class {kind}, which tz does not have, in {path}, expected one of "
            f"{', '.join(_NETWORKS)}; pass a network of the same architecture as network=, and norm_state= if it has "
            "state."
        )

    def make(key):
        # A number in the settings can be no larger than an axis of some array in the file, and a depth no larger than
        # the number of arrays. So a false header cannot make this build a huge network.
        largest = max((size for _, shape, _ in arrays for size in shape), default=0)
        head = settings.get("value_head")
        for name, value in [*settings.items(), *(head.items() if isinstance(head, dict) else ())]:
            most = len(arrays) if name in ("num_blocks", "depth") else largest
            if isinstance(value, int) and value > most:
                raise ValueError(f"{name} is {value}, but the file's {len(arrays)} arrays allow at most {most}")
        options = settings if head is None else settings | {"value_head": _read_head(head)}
        return eqx.nn.make_with_state(_NETWORKS[kind])(**options, key=key)

    try:
        network, norm_state = eqx.filter_eval_shape(make, jax.random.key(0))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"load_agent: found that a {kind} cannot be made with {settings} of {path} ({error}), expected settings "
            "that tz.save_agent wrote; save the agent again."
        ) from error
    return network, norm_state if jax.tree.leaves(norm_state) else None


def _difference(found: list, expected: list) -> str:
    """Describes the first difference between the arrays of a file and the arrays of a network."""
    for one, other in zip(found, expected, strict=False):
        if one != other:
            return f"it has {one}, where the network has {other}"
    return f"it has {len(found)} arrays, where the network has {len(expected)}"
