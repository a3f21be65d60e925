"""Saving what was trained: an agent is a network with its running statistics, as plain arrays in one file."""

import pathlib

import equinox as eqx
from jaxtyping import PyTree


def save_agent(path: str | pathlib.Path, network: PyTree, norm_state: eqx.nn.State | None = None) -> None:
    """Writes a network's arrays to a file, whose folder is made where it is missing."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    eqx.tree_serialise_leaves(path, (network, norm_state))


def load_agent(
    path: str | pathlib.Path, network: PyTree, norm_state: eqx.nn.State | None = None
) -> tuple[PyTree, eqx.nn.State | None]:
    """Reads what [`tz.save_agent`][] wrote into a network of the same shape.

    **Arguments:** `network` and `norm_state`, of the same architecture; their own values do not matter.

    **Returns:** the network and its running statistics (None if it has none).

    **Raises:** `ValueError` if the file is missing, damaged, or of another architecture.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no agent at {path}.")
    try:
        return eqx.tree_deserialise_leaves(path, (network, norm_state))
    except Exception as error:
        raise ValueError(
            f"{path} does not hold an agent of this architecture: {error}. Build the network with the settings that it "
            "was trained with, or save the agent again if the file is damaged."
        ) from error
