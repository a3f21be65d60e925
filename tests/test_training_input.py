"""Tests of what users give to a training. A part that cannot work is named before anything is compiled."""

import dataclasses
import subprocess
import sys
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trainer
from slips import nim

import tz
from tz.learn.epochs import window_of
from tz.runs._new_games import revive
from tz.runs.checkpoint_format import checksums
from tz.runs.phases import train_phase
from tz.runs.stopping import check_calls

pytestmark = pytest.mark.slow

ENV = nim()
MESH = tz.data_mesh(jax.devices()[:1])
KEY = jax.random.key(0)
CONFIG = dataclasses.replace(trainer.config(), testers=(), augment=None, average_decay=None, warmup_moves=0)


def network(**options):
    return tz.MLP(ENV.observation.shape, ENV.num_actions, width=4, depth=1, key=KEY, **options)


def start(net: Any = None, norm_state=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return tz.init_loop(config, ENV, network() if net is None else net, norm_state, key=KEY, mesh=MESH)


def trained(state, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return tz.train_loop(config, ENV, state, num_epochs=1, sinks=[], progress=False, mesh=MESH)


@dataclasses.dataclass
class NoHash:
    """A function as a dataclass that is not frozen, which has no hash."""

    def __call__(self, *args, **kwargs):
        return args[0]


class Norm(eqx.Module):
    """A stateful network whose batch norm has another axis name."""

    norm: eqx.nn.BatchNorm
    layers: tz.MLP

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(2, axis_name="b", mode="batch")
        self.layers = network()

    def __call__(self, observation, state):
        observation, state = self.norm(observation, state)
        return self.layers(observation), state


def with_metric(name):
    def loss(network, output, sample):
        return tz.az_loss(network, output, sample)[0], {name: sample.value / 0}

    return loss


CASES = {
    "metric epoch": ({"loss": with_metric("epoch")}, "a loss with the metrics epoch, expected other names"),
    "metric moves": ({"loss": with_metric("moves")}, "a loss with the metrics moves, expected other names"),
    "loss": ({"loss": NoHash()}, "init_loop: found loss=a NoHash with a part that has no hash"),
    "augment": ({"augment": NoHash()}, "init_loop: found augment=a NoHash with a part that has no hash"),
    "network": ({"net": NoHash()}, "init_loop: found network=a NoHash with a part that has no hash"),
    "axis": (
        {"net": eqx.nn.make_with_state(Norm)()[0], "norm_state": eqx.nn.make_with_state(Norm)()[1]},
        'cannot be trained on a batch .*call the axis of batch normalisation "batch"',
    ),
    "no state": ({"net": eqx.nn.make_with_state(Norm)()[0]}, "found a Norm, which cannot evaluate a position of nim"),
    "state": ({"norm_state": eqx.nn.make_with_state(Norm)()[1]}, "found a MLP, which cannot evaluate a position of n"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_trained_is_named(name):
    options, message = CASES[name]
    with pytest.raises(ValueError, match=message):
        start(**options)


def test_an_output_that_is_no_pytree_is_named():
    class Namespace(eqx.Module):
        layers: tz.MLP

        def __call__(self, observation):
            logits, value = self.layers(observation)
            return types.SimpleNamespace(logits=logits, value=value)

    with pytest.raises(ValueError, match="that cannot be trained on a batch .* not a valid JAX type"):
        start(Namespace(network()))


def test_a_metric_that_is_not_finite_stops_nothing():
    state = start(loss=with_metric("other"))
    assert int(trained(state, loss=with_metric("other")).train.step) == CONFIG.train_steps_per_epoch


def test_a_loaded_agent_is_trained_in_training_mode(tmp_path):
    net, norm_state = eqx.nn.make_with_state(tz.AZResNet)((3, 3, 2), 9, 1, 4, norm="batch", key=KEY)
    env = tz.from_pgx("tic_tac_toe")
    tz.save_agent(tmp_path / "agent.tz", env, net, norm_state)
    player = tz.load_agent(tmp_path / "agent.tz")
    loaded = player.evaluator.network
    state = tz.init_loop(CONFIG, env, loaded, player.evaluator.norm_state, key=KEY, mesh=MESH)
    before, after = jax.tree.leaves(eqx.nn.inference_mode(net, value=False)), jax.tree.leaves(state.train.network)
    flags = [x for x in after if isinstance(x, bool)]
    assert flags and flags == [x for x in before if isinstance(x, bool)] and not any(flags)


def test_the_window_depends_on_the_moves_that_were_made():
    """In a fork with other settings too, and in games that replace lost ones."""
    seen = []
    config = dataclasses.replace(CONFIG, replay_window=lambda moves: (seen.append(int(moves)), 5)[1])
    state = start()
    state = eqx.tree_at(lambda state: state.games.step, state, state.games.step + 62)
    moves = eqx.tree_at(lambda s: s.replay, state, trained(start()).replay)
    train_phase(config, moves, MESH)
    assert seen == [62]
    later = dataclasses.replace(state, epoch=jnp.int32(10))
    jax.tree.map(lambda x: x.delete(), later.games)
    assert int(revive(config, ENV, later, MESH)[0].games.step.max()) == 10 * CONFIG.moves_per_epoch
    for found in (None, 2**40, float("nan"), "all", np.zeros(1)):
        with pytest.raises(
            ValueError, match="found a replay_window that returned .*, expected the number of newest pos"
        ):
            window_of(dataclasses.replace(CONFIG, replay_window=lambda moves, found=found: found), 3)


def test_a_record_of_a_learned_models_state_is_kept():
    class Planner(eqx.Module):
        layers: tz.MLP

        def __call__(self, observation):
            return self.layers(observation)

        def root(self, state, metadata):
            return {"hidden": jnp.stack(state).astype(jnp.float32), "state": state}, metadata

        def step(self, model_state, action):
            state, metadata = ENV.step(model_state["state"], action)
            return {"hidden": jnp.stack(state).astype(jnp.float32), "state": state}, metadata

        def predict(self, model_state, metadata, key):
            return self.layers(model_state["hidden"])

    def evaluator(default):
        net = default.network
        return tz.mcts.ModelEvaluator(tz.mcts.Model(net.root, net.step), net.predict)

    def hidden(state, searched, metadata):
        return searched.tree.state["hidden"][0]

    state = start(Planner(network()), evaluator=evaluator, record=hidden)
    assert state.replay.extra.shape[2:] == (2,)


def test_another_optimizer_keeps_its_own_rate_in_train_for():
    recipe = tz.Recipe("tic_tac_toe", num_blocks=1, num_channels=4, num_games=8, num_simulations=2, train_batch_size=8)
    config, env = recipe.build()
    config = dataclasses.replace(config, optimizer=optax.sgd(0.1), train_steps_per_epoch=1)
    state = recipe.start(config, env, seed=0)
    state = tz.runs.train_for(recipe, config, env, state, num_epochs=1, sinks=[], progress=False)
    assert int(state.epoch) == 1


def test_the_arguments_of_the_loop_are_checked_before_it_begins():
    for sinks in (tz.console_sink, [None], 3):
        with pytest.raises(ValueError, match="train_loop: found sinks=.*, expected functions that are called"):
            check_calls("train_loop", sinks, [])
    with pytest.raises(ValueError, match=r"train_loop: found checkpoints='runs/x', expected a tz.Checkpoints"):
        check_calls("train_loop", [], ["runs/x"])
    assert check_calls("train_loop", iter([tz.console_sink]), []) == [tz.console_sink]


def test_arrays_of_every_kind_that_can_be_stored_have_checksums():
    """Those of four bits and complex ones too, in which a change is seen."""
    for dtype in (jnp.int4, jnp.int2, jnp.complex64, jnp.bfloat16, jnp.float16, bool):
        one = jnp.zeros(3, dtype)
        other = one.at[1].set(jnp.ones((), dtype))
        sums = checksums({"one": one, "other": other})
        assert int(sums["one"]) != int(sums["other"]), dtype


SETTINGS = """
import numpy as np, pathlib, tz
assert type(tz.Recipe("othello", num_games=np.int64(8)).num_games) is int
settings = tz.runs.RunSettings(out="runs/x", epochs=np.int64(3), seed=np.int32(2), test=["random"])
assert settings.out == pathlib.Path("runs/x") and settings.test == ("random",)
assert type(settings.epochs) is int and type(settings.seed) is int
try:
    tz.runs.RunSettings(out="runs/x", epochs=1.5)
except ValueError as error:
    print(error)
"""


def test_settings_of_a_run_may_be_texts_lists_and_numbers_of_numpy():
    """Without the type checks of these tests, which users do not have."""
    done = subprocess.run([sys.executable, "-c", SETTINGS], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("RunSettings: found epochs=1.5, expected an int")


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    env = tz.from_pgx("tic_tac_toe")
    net, _ = eqx.nn.make_with_state(tz.AZResNet)((3, 3, 2), 9, 1, 4, norm="batch", key=KEY)
    for agent, message in (
        (None, "save_agent: found None, expected a network"),
        (tz.random_player(), "save_agent: found a Player, expected a network; write player.evaluator.network"),
        (net, "save_agent: found a network that cannot evaluate a position of tic_tac_toe .*norm_state for a stateful"),
        (network(), "save_agent: found a network that cannot evaluate a position of tic_tac_toe"),
        (tz.MLP((3, 3, 2), 7, key=KEY), r"save_agent: found a network with logits of shape \(7,\), expected \(9,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tz.save_agent(tmp_path / "agent.tz", env, agent)
    assert not (tmp_path / "agent.tz").exists()
