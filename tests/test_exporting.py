"""Networks in files that programs without tz can run."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz

ENV = tz.from_pgx("tic_tac_toe")
PROGRAM = """
import sys
import numpy as np
from jax import export
observations = np.load(sys.argv[2])
predict = export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
np.savez(sys.argv[3], *predict(observations))
assert not any(name.split(".")[0] in ("tz", "equinox") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def evaluator():
    network = tz.AZResNet(ENV.observation.shape, ENV.num_actions, 1, 4, key=jax.random.key(0))
    return tz.NetworkEvaluator(network, ENV.observe)


@pytest.fixture(scope="module")
def observations():
    return jax.random.bernoulli(jax.random.key(1), 0.5, (5, *ENV.observation.shape))


def expected(evaluator, observations):
    return jax.jit(jax.vmap(lambda one: evaluator.predict(one)))(observations)


@pytest.mark.optimised
def test_a_program_with_jax_alone_gets_the_same_numbers(evaluator, observations, tmp_path):
    pytest.importorskip("flatbuffers")
    file, inputs, outputs = tmp_path / "agent.stablehlo", tmp_path / "inputs.npy", tmp_path / "outputs.npz"
    tz.runs.export_network(file, ENV, tz.Player(tz.MCTS(4), evaluator))
    np.save(inputs, observations)
    subprocess.run([sys.executable, "-c", PROGRAM, str(file), str(inputs), str(outputs)], check=True, timeout=120)
    found = list(np.load(outputs).values())
    assert [x.shape for x in found] == [(5, ENV.num_actions), (5,)]
    for one, other in zip(found, expected(evaluator, observations), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_onnx_gives_the_same_numbers(evaluator, observations, tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed; it may need another orbax-checkpoint than tz")
    import onnxruntime

    file = tmp_path / "agent.onnx"
    tz.runs.export_network(file, ENV, evaluator)
    session = onnxruntime.InferenceSession(file.read_bytes())
    found = session.run(None, {session.get_inputs()[0].name: np.asarray(observations, np.float32)})
    for one, other in zip(found, expected(evaluator, observations), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_cannot_be_exported_is_named(evaluator, tmp_path):
    file = tmp_path / "agent.stablehlo"
    with pytest.raises(ValueError, match="expected a tz.Player or a tz.NetworkEvaluator"):
        tz.runs.export_network(file, ENV, tz.random_player())
    with pytest.raises(ValueError, match="of connect_four, expected logits and a value; pass the game"):
        tz.runs.export_network(file, tz.from_pgx("connect_four"), evaluator)
    assert not file.exists()


def test_several_arrays_are_no_input_of_onnx(tmp_path):
    def observe(state):
        return {"board": ENV.observe(state), "count": jnp.zeros(2)}

    env = tz.Env(ENV.init, ENV.step, observe)

    def network(observation):
        return jnp.zeros(ENV.num_actions), jnp.float32(0)

    with pytest.raises(ValueError, match="found observations of several arrays"):
        tz.runs.export_network(tmp_path / "agent.onnx", env, tz.NetworkEvaluator(network, observe))
