"""Networks for programs that do not have tz: as StableHLO for JAX, and as ONNX for everything else."""

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
    """Write the network of an agent to a file that a program without tz can run.

    The file holds a function of a batch of observations, `[B, ...]` with any `B`, as `env.observe` makes them. It
    returns the logits, `[B, A]`, with illegal actions not yet masked, and the values, `[B]`, from the perspective of
    the player to move. The weights are in the file, and the search is not.

    The ending of the file says in which form. `.onnx` is for runtimes of ONNX; its input is in float32, whatever type
    the game's observations have. Any other ending, such as `.stablehlo`, is for JAX on a CPU, GPU or TPU.

    **Arguments:** `path`, of the file; `env`, the game; `agent`, a [`tz.Player`][] whose evaluator is a
    [`tz.NetworkEvaluator`][], such as [`tz.load_agent`][] returns, or such an evaluator.

    **Raises:** `ValueError` for something else than such an agent, for a network that does not fit the game, and, for
    `.onnx`, for observations that are more than one array. `ImportError` where the packages are missing that write the
    file: `pip install 'tz[export]'`, or `'tz[onnx]'` for `.onnx`.

    **Example:**

    ```python
    tz.runs.export_network("connect_four.stablehlo", env, tz.load_agent("connect_four"))
    ```

    In a program that has JAX alone:

    ```python
    from jax import export

    predict = export.deserialize(bytearray(open("connect_four.stablehlo", "rb").read())).call
    logits, values = predict(observations)
    ```
    """
    evaluator = agent.evaluator if isinstance(agent, Player) else agent
    if not isinstance(evaluator, NetworkEvaluator):
        raise ValueError(
            f"export_network: found {shown(agent)}, expected a tz.Player or a tz.NetworkEvaluator, since a network is "
            "exported; tz.load_agent returns such a player."
        )
    observation = env.observation
    try:
        logits, _ = eqx.filter_eval_shape(evaluator.predict, observation)
    except Exception as error:
        raise ValueError(
            f"export_network: found a network that raised {type(error).__name__} on an observation of {env.name}, "
            f"expected logits and a value; give the game that the network plays. {error}"
        ) from error
    if logits.shape != (env.num_actions,):
        raise ValueError(
            f"export_network: found a network with logits of shape {logits.shape}, expected ({env.num_actions},) for "
            f"{env.name}; give the game that the network plays."
        )
    path = pathlib.Path(path)
    data = _onnx(evaluator, observation) if path.suffix == ".onnx" else _stablehlo(evaluator, observation)
    path.write_bytes(data)


def _stablehlo(evaluator: NetworkEvaluator, observation: PyTree) -> bytes:
    from jax import export

    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError("export_network needs flatbuffers: pip install 'tz[export]'") from error
    (batch,) = export.symbolic_shape("batch")
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype), observation)
    function = jax.jit(jax.vmap(lambda one: evaluator.predict(one)))
    return bytes(export.export(function, platforms=("cpu", "cuda", "tpu"))(inputs).serialize())


def _onnx(evaluator: NetworkEvaluator, observation: PyTree) -> bytes:
    if not isinstance(observation, jax.ShapeDtypeStruct):
        raise ValueError(
            "export_network: found observations of several arrays, expected one for .onnx; choose another ending, such "
            "as .stablehlo."
        )
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "export_network needs jax2onnx for .onnx: pip install 'tz[onnx]', in an environment of its own, as it and "
            "tz[train] may ask for different versions of orbax-checkpoint"
        ) from error

    def predict(observations: Any) -> tuple[Any, Any]:
        return jax.vmap(lambda one: evaluator.predict(one))(observations.astype(jnp.float32))

    model = jax2onnx.to_onnx(predict, [("batch", *observation.shape)])
    return model.SerializeToString()
