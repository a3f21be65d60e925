"""Exports networks to programs without tz: as StableHLO for JAX, and as ONNX for other runtimes."""

import os
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from tz._arguments import shown
from tz.games.env import Env
from tz.matches.players import Player
from tz.mcts.evaluators import NetworkEvaluator


def export_network(path: str | os.PathLike, env: Env, agent: Player | NetworkEvaluator) -> None:
    """Writes the network of an agent to a file that a program without tz can run.

    The file holds a function of a batch of observations, `[B, ...]` with any `B`, as `env.observe` makes them. It
    returns the logits, `[B, A]`, in which illegal actions are not masked, and the values, `[B]`, from the perspective
    of the player to move. The file has the weights, but not the search.

    The extension of the file selects the format. `.onnx` is for ONNX runtimes; the input is always float32, whatever
    the dtype of the game's observations. Any other extension, such as `.stablehlo`, is for JAX on a CPU, GPU or TPU.

    **Arguments:**

    - `path`: the file.
    - `env`: the game that the network plays.
    - `agent`: a [`tz.Player`][] whose evaluator is a [`tz.NetworkEvaluator`][], such as [`tz.load_agent`][] returns, or
        the evaluator alone.

    **Raises:** `ValueError` if `agent` is something else, the network does not fit the game, or, for `.onnx`, the
    observations are more than one array; `ImportError` if the packages that write the file are missing. Install them
    with `pip install 'tz[export]'`, or `'tz[onnx]'` for `.onnx`.

    **Example:**

    ```python
    env = tz.from_pgx("connect_four")
    tz.runs.export_network("connect_four.stablehlo", env, tz.load_agent("connect_four"))
    ```

    In a program that has only JAX and flatbuffers:

    ```python
    import pathlib

    from jax import export

    predict = export.deserialize(bytearray(pathlib.Path("connect_four.stablehlo").read_bytes())).call
    logits, values = predict(observations)
    ```
    """
    evaluator = agent.evaluator if isinstance(agent, Player) else agent
    if not isinstance(evaluator, NetworkEvaluator):
        raise ValueError(
            f"export_network: found {shown(agent)}, expected a tz.Player or a tz.NetworkEvaluator with the network to "
            "export; pass the player that tz.load_agent returns."
        )
    observation = env.observation
    try:
        logits, _ = eqx.filter_eval_shape(evaluator.predict, observation)
    except Exception as error:
        raise ValueError(
            f"export_network: found a network that raised {type(error).__name__} on an observation of {env.name}, "
            f"expected logits and a value; pass the game that the network plays. {error}"
        ) from error
    if logits.shape != (env.num_actions,):
        raise ValueError(
            f"export_network: found a network with logits of shape {logits.shape}, expected ({env.num_actions},) for "
            f"{env.name}; pass the game that the network plays."
        )
    path = pathlib.Path(path)
    data = _onnx(evaluator, observation) if path.suffix == ".onnx" else _stablehlo(evaluator, observation)
    path.write_bytes(data)


def _stablehlo(evaluator: NetworkEvaluator, observation: PyTree) -> bytes:
    """Serializes the network with `jax.export`, for any batch size."""
    from jax import export

    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_network: found no flatbuffers, expected it to be installed; run pip install 'tz[export]'."
        ) from error
    (batch,) = export.symbolic_shape("batch")
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype), observation)
    function = jax.jit(jax.vmap(lambda one: evaluator.predict(one)))
    return bytes(export.export(function, platforms=("cpu", "cuda", "tpu"))(inputs).serialize())


def _onnx(evaluator: NetworkEvaluator, observation: PyTree) -> bytes:
    """Serializes the network with jax2onnx, for any batch size."""
    if not isinstance(observation, jax.ShapeDtypeStruct):
        raise ValueError(
            "export_network: found observations of several arrays, expected one array for .onnx; choose another "
            "extension, such as .stablehlo."
        )
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "export_network: found no jax2onnx, expected it to be installed to write .onnx; run pip install 'tz[onnx]' "
            "in a separate environment, since it and tz[train] may need different versions of orbax-checkpoint."
        ) from error

    def predict(observations: Any) -> tuple[Any, Any]:
        return jax.vmap(lambda one: evaluator.predict(one))(observations.astype(jnp.float32))

    model = jax2onnx.to_onnx(predict, [("batch", *observation.shape)])
    return model.SerializeToString()
