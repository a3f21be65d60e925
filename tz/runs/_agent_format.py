"""The format of agent files: a header that describes a network, and the arrays of its weights.

A file may come from anywhere, so nothing in it is trusted: it is read as data, and its sizes are checked before use.
"""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from tz.nn.networks import MLP, AZResNet
from tz.nn.value_heads import CategoricalValue, LinearValue, TanhValue, ValueHead

FORMAT = 1
MAX_HEADER = 2**20
_UNREADABLE = zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, OSError, RuntimeError, EOFError
_NETWORKS = {"AZResNet": AZResNet, "MLP": MLP}
_HEADS = {"TanhValue": TanhValue, "LinearValue": LinearValue, "CategoricalValue": CategoricalValue}


def describe_array(name: str, x: Any) -> list[Any]:
    return [name, list(x.shape), str(x.dtype)]


def written_settings(settings: dict[str, Any]) -> dict[str, Any]:
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


def open_agent_file(path: pathlib.Path):
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
        header = json.loads(read("agent.json", MAX_HEADER))
        version = header["format"]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise damaged(error) from error
    if version != FORMAT:
        raise ValueError(f"load_agent: found {path} in format {version}, expected format {FORMAT}; update tz.")
    for name, kind in {"env": str, "network": dict, "arrays": list, "card": dict}.items():
        if not isinstance(header.get(name), kind):
            raise damaged(f"its header should have {name!r} as a {kind.__name__}, found {header.get(name)!r:.80}")

    def read_arrays(size: int) -> bytes:
        data = read("arrays", size)
        if len(data) != size:
            raise damaged(f"it has {len(data)} bytes of arrays, expected {size}")
        return data

    return header, read_arrays


def build_network(path: pathlib.Path, settings: dict, arrays: list) -> tuple[PyTree, eqx.nn.State | None]:
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


def first_difference(found: list, expected: list) -> str:
    """Describes the first difference between the arrays of a file and the arrays of a network."""
    for one, other in zip(found, expected, strict=False):
        if one != other:
            return f"it has {one}, where the network has {other}"
    return f"it has {len(found)} arrays, where the network has {len(expected)}"
