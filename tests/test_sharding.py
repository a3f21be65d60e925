"""The same games and the same learning on 1 and 8 devices, and no communication except the gradients."""

import dataclasses
import functools
import re

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz
from tz.learn import epochs
from tz.learn.new_games import evaluator_of
from tz.matches import match
from tz.runs import phases
from tz.runs.loop import on_mesh
from tz.sharding import check_mesh

pytestmark = pytest.mark.slow

NAMES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
COLLECTIVE = re.compile(rf"({NAMES})[.\w-]*\(")


def mesh_of(size):
    return tz.data_mesh(jax.devices()[:size])


def arrays(tree):
    """Moves arrays to the host, with keys as numbers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    leaves = eqx.filter(tree, eqx.is_array)
    return jax.device_get(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, leaves))


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def config():
    return tz.TrainConfig(
        mcts=tz.MCTS(8),
        optimizer=optax.adam(1e-2),
        replay=tz.EpisodeReplayBuffer(30),
        num_games=16,
        train_batch_size=32,
        moves_per_epoch=12,
        train_steps_per_epoch=5,
        testers=(tz.TwoPlayerTester(num_games=16, opening_moves=1, max_moves=9),),
        augment=tz.random_dihedral,
    )


class Constant(eqx.Module):
    """A network without knowledge, whose arithmetic cannot depend on the batch."""

    value: jax.Array

    def __call__(self, observation):
        return jnp.zeros(9), self.value


def network(env, norm="none"):
    """Returns a network, with its state if it has one."""
    make = functools.partial(tz.AZResNet, env.observation.shape, 9, num_blocks=1, num_channels=4, norm=norm)
    key = jax.random.key(3)
    return eqx.nn.make_with_state(make)(key=key) if norm == "batch" else (make(key=key), None)


@pytest.mark.optimised
def test_games_trees_and_buffer_are_bit_identical_on_any_number_of_devices(env, config):
    found, config = [], dataclasses.replace(config, testers=(), augment=None)
    for size in (1, 8):
        mesh = mesh_of(size)
        state = tz.init_loop(config, env, Constant(jnp.float32(0.1)), key=jax.random.key(0), mesh=mesh)
        state, metrics = phases.collect_phase(config, env, state, 12, mesh)
        assert state.games.search.tree.visits.sharding.num_devices == size
        assert state.replay.policy.addressable_shards[0].data.shape[0] == 16 // size
        counts = {name: value for name, value in metrics.items() if not name.endswith("per_second")}
        found.append((arrays((state.games, state.replay)), counts))
    chex.assert_trees_all_equal(*found)
    assert found[0][1]["episodes"] >= 16


@pytest.mark.once
@pytest.mark.optimised
@pytest.mark.parametrize("name", ["rollouts", "tabular, Gumbel"])
def test_other_evaluators_and_searches_too(name):
    """All decisions and numbers have the same bits, except numbers that XLA may round in two ways."""
    tables = draw_tables(3)
    env = tabular_env(tables)
    if name == "rollouts":
        mcts, evaluator = tz.MCTS(6), tz.RolloutEvaluator(env, max_moves=9)
    else:
        mcts, evaluator = tz.gumbel_mcts(6), tabular_evaluator(tables)

    def play(shared, keys):
        mcts, env, evaluator = shared

        def one(key):
            return tz.collect(mcts, env, evaluator, tz.init_collect(mcts, env, key=key), num_moves=10)

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(0), 16)
    run = lambda mesh: eqx.filter_jit(tz.over_games)(mesh, play, (mcts, env, evaluator), keys)
    first, other = [arrays(run(mesh_of(size))) for size in (1, 8)]
    assert_same_but_for_rounding(first, other)


def assert_same_but_for_rounding(first, other):
    """Asserts that all decisions are equal, and all numbers up to the rounding of fused operations.

    For another number of games XLA makes `a + b * c` one rounded operation instead of two (a fused multiply-add; found
    with JAX 0.12 on a CPU). So the last bit of a mean may differ. In the exponent of a policy, the
    last bit is 1e-6 for values from 8 to 16.
    """
    decisions = lambda tree: eqx.filter(tree, lambda x: not jnp.issubdtype(x.dtype, jnp.floating))
    chex.assert_trees_all_equal(decisions(first), decisions(other))
    chex.assert_trees_all_close(first, other, rtol=2e-6, atol=0)


def test_with_a_network_games_agree_but_for_near_ties(env):
    """Products of matrices may be rounded differently with another batch size, which can decide a near-tie."""
    mcts, evaluator = tz.MCTS(8), tz.NetworkEvaluator(network(env)[0], env.observe)

    def play(shared, keys):
        mcts, env, evaluator = shared
        start = jax.vmap(lambda key: tz.init_collect(mcts, env, key=key))(keys)
        return jax.vmap(lambda game: tz.collect(mcts, env, evaluator, game, num_moves=12)[1])(start)

    keys = jax.random.split(jax.random.key(0), 64)
    run = lambda mesh: eqx.filter_jit(tz.over_games)(mesh, play, (mcts, env, evaluator), keys)
    one, eight = (arrays(run(mesh_of(size))) for size in (1, 8))
    until = np.cumprod(one.action == eight.action, axis=1, dtype=bool)  # before the first move that differs
    assert until.all(axis=1).mean() >= 0.9
    np.testing.assert_allclose(one.value[until], eight.value[until], atol=1e-5)
    np.testing.assert_allclose(one.policy[until], eight.policy[until], atol=1e-5)


@pytest.mark.optimised
def test_three_lines_shard_the_plain_functions():
    tables = draw_tables(3)
    mcts, env, evaluator = tz.MCTS(6), tabular_env(tables), tabular_evaluator(tables)

    def play(keys):
        start = jax.vmap(lambda key: tz.init_collect(mcts, env, key=key))(keys)
        return jax.vmap(lambda game: tz.collect(mcts, env, evaluator, game, num_moves=5)[1])(start)

    keys = jax.random.split(jax.random.key(0), 8)
    mesh, spec = tz.data_mesh(), PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(play, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))(keys)
    assert_same_but_for_rounding(jax.device_get(sharded), jax.device_get(jax.jit(play)(keys)))


@pytest.fixture(scope="module")
def trained(env, config):
    """Trains three epochs on each number of devices."""
    config = dataclasses.replace(config, testers=())

    def train(size):
        mesh, rows = mesh_of(size), []
        state = tz.init_loop(config, env, network(env)[0], key=jax.random.key(1), mesh=mesh)
        state = tz.train_loop(config, env, state, num_epochs=3, sinks=[rows.append], progress=False, mesh=mesh)
        return state, rows

    return {size: train(size) for size in (1, 8)}


@pytest.mark.once
def test_training_agrees_to_the_order_of_summation(trained):
    """Gradients are sums over the batch, added up in another order: a few units in the last place (1e-7) a step, which
    Adam's division by the size of the gradient can raise to that part of its learning rate (1e-2)."""
    (one, rows), (eight, other_rows) = ((arrays(state), rows) for state, rows in trained.values())
    chex.assert_trees_all_equal(one.replay.position, eight.replay.position)
    chex.assert_trees_all_close(one.train, eight.train, atol=1e-4)
    assert rows[-1]["loss"] == pytest.approx(other_rows[-1]["loss"], rel=1e-3)


@pytest.mark.once
def test_only_the_gradients_are_communicated(env, config):
    mesh = mesh_of(8)
    model, _ = network(env)
    fast = dataclasses.replace(config.mcts, num_simulations=2)
    config = dataclasses.replace(config, fast_mcts=fast, replay_window=lambda moves: 9, average_decay=0.9)
    state = tz.init_loop(config, env, model, key=jax.random.key(1), mesh=mesh)
    evaluator = evaluator_of(config, env, state.train)
    text = lambda function, *inputs, **options: function.lower(*inputs, **options).compile().compiled.as_text()
    inputs = epochs.self_play_settings(config), env, evaluator, jnp.arange(12) % 2 > 0, 12, mesh
    collect = text(phases.compiled_play, inputs, state.games)
    trajectory = eqx.filter_eval_shape(phases.compiled_play, inputs, state.games)[1][0]
    trajectory = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), trajectory)
    add = text(phases.compiled_add, (config.replay, config.mcts.discount, trajectory, mesh), state.replay)
    agent = tz.Player(config.mcts, evaluator)
    played = text(match._play, env, agent, agent, jax.random.key(0), None, (16, 2, 9), mesh)
    keys = jax.random.split(jax.random.key(0), 8)
    sample = text(eqx.filter_jit(epochs.draw), config, state.replay, keys, jnp.int32(9), mesh=mesh)
    for name, program in {"collect": collect, "add": add, "match": played, "sample": sample}.items():
        assert not COLLECTIVE.search(program), name

    learn = text(phases.compiled_step, *phases.step_arguments(config, state, jnp.int32(9), mesh))
    lines = [line for line in learn.splitlines() if COLLECTIVE.search(line)]
    assert lines and all("all-reduce" in line for line in lines)
    results = " ".join(re.search(r"= (.*?) all-reduce", line).group(1) for line in lines)
    shapes = re.findall(r"f32\[([\d,]*)\]", results)
    communicated = sum(int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes)
    num_parameters = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    assert num_parameters <= communicated <= num_parameters + 16, "the gradients, the loss and its parts"


@pytest.mark.once
def test_batch_norm_has_the_statistics_of_the_whole_batch(env, config):
    one_step = dataclasses.replace(config, train_steps_per_epoch=1, evaluator=lambda network: tz.uniform_evaluator)
    after, (model, norm_state) = [], network(env, "batch")
    state = tz.init_loop(one_step, env, model, norm_state, key=jax.random.key(1), mesh=mesh_of(8))
    state, _ = phases.collect_phase(one_step, env, state, 12, mesh_of(8))
    for size in (1, 8):
        mesh = mesh_of(size)
        trained, _ = phases.train_phase(one_step, on_mesh(state, mesh), mesh)
        assert trained.train.step.sharding.num_devices == size
        after.append(arrays(trained.train.norm_state))
    before = arrays(network(env, "batch")[1])
    chex.assert_trees_all_close(*after, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before, after[0])
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize(("first", "second"), [(8, 1), (1, 8)])
def test_a_state_goes_on_with_another_number_of_devices(env, config, trained, first, second):
    config = dataclasses.replace(config, testers=())
    state = tz.init_loop(config, env, network(env)[0], key=jax.random.key(1), mesh=mesh_of(first))
    state = tz.train_loop(config, env, state, num_epochs=2, sinks=[], progress=False, mesh=mesh_of(first))
    state = jax.device_get(eqx.filter(state, eqx.is_array)), eqx.filter(state, eqx.is_array, inverse=True)
    state = eqx.combine(jax.device_put(state[0]), state[1])
    state = tz.train_loop(config, env, state, num_epochs=1, sinks=[], progress=False, mesh=mesh_of(second))
    straight = arrays(trained[first][0])
    chex.assert_trees_all_close(arrays(state).train, straight.train, atol=1e-4)
    assert state.games.step.sharding.num_devices == second


@pytest.mark.once
def test_nothing_batched_leaves_its_device(env, config):
    """Only explicit transfers are allowed, and these fetch only a few numbers."""
    mesh, fetched = mesh_of(8), []
    state = tz.init_loop(config, env, network(env)[0], key=jax.random.key(1), mesh=mesh)
    state = on_mesh(state, mesh)
    fetch = jax.device_get
    with pytest.MonkeyPatch.context() as patch, jax.transfer_guard_device_to_device("disallow"):
        patch.setattr(jax, "device_get", lambda tree: [fetched.append(jax.tree.leaves(tree)), fetch(tree)][1])
        state, _ = phases.collect_phase(config, env, state, 12, mesh)
        state, _ = phases.train_phase(config, state, mesh)
        state, _ = phases.test_phase(config, env, state, mesh)
    assert fetched and all(x.size == 1 for leaves in fetched for x in leaves)


def test_explicit_axes_and_openings_from_other_devices_change_nothing(env, config):
    """A mesh from `jax.make_mesh`, with openings and a network on devices outside of it."""
    openings = jax.vmap(lambda moves: tz.play_moves(env, moves))(jnp.arange(8)[:, None])
    changes = {"mcts": tz.MCTS(2), "testers": (), "moves_per_epoch": 9, "train_steps_per_epoch": 1}
    small, found = dataclasses.replace(config, **changes), []
    explicit = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    for mesh, device in (mesh_of(2), None), (explicit, jax.devices()[5]):
        placed = openings if device is None else jax.device_put(openings, device)
        game = tz.games.starts_from(env, placed, 1.0)
        value = jnp.float32(0.1) if device is None else jax.device_put(jnp.float32(0.1), jax.devices()[6])
        state = tz.init_loop(small, game, Constant(value), key=jax.random.key(0), mesh=mesh)
        state = tz.train_loop(small, game, state, num_epochs=1, mesh=mesh, sinks=[], progress=False)
        player = tz.Player(tz.MCTS(2), tz.uniform_evaluator)
        options = {"num_games": 16, "max_moves": 2, "mesh": mesh, "key": jax.random.key(0)}
        match = tz.play_match(game, player, player, openings=placed, **options)
        found.append(arrays((state.games, state.replay, match.actions)))
    chex.assert_trees_all_equal(*found)


def test_a_mesh_that_does_not_fit_is_refused(env, config):
    start = functools.partial(tz.init_loop, env=env, network=network(env)[0], key=jax.random.key(0))
    refused = lambda message: pytest.raises(ValueError, match=message)
    with refused("mesh: found num_games=20, which cannot be split evenly over 8 devices, .*; write num_games=16"):
        start(dataclasses.replace(config, num_games=20))
    with refused("mesh: found train_batch_size=3, which cannot .*; write train_batch_size=8"):
        start(dataclasses.replace(config, train_batch_size=3))
    with refused("TwoPlayerTester: found num_games=20, which cannot be split evenly over 8 devices.* num_games=16"):
        start(dataclasses.replace(config, testers=(tz.TwoPlayerTester(num_games=20),)))
    rival = tz.random_player()
    for tester, name in [
        (tz.OpponentTester(rival, "random", num_games=20), "num_games"),
        (tz.matches.LadderTester((rival,), num_games=20), "num_games"),
        (tz.ApproxEloTester(2, 20, 1), "games_per_opponent"),
    ]:
        with refused(f"Tester: found {name}=20, which cannot be split evenly over 8 devices, expected"):
            start(dataclasses.replace(config, testers=(tester,)))
    with refused("play_match: found num_games=20, which cannot be split evenly over 8 devices"):
        tz.play_match(env, rival, rival, num_games=20, key=jax.random.key(0), mesh=tz.data_mesh())
    other = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    with refused(r"the axes \('batch',\), expected the one axis \(\"data\",\)"):
        start(config, mesh=other)
    with refused("data_mesh: found no devices, expected at least one"):
        tz.data_mesh([])
    state = tz.init_loop(config, env, network(env)[0], key=jax.random.key(0), mesh=mesh_of(1))
    with refused("found num_games=16, which cannot be split evenly over 3 devices, .*; write num_games=15"):
        tz.train_loop(config, env, state, num_epochs=1, mesh=mesh_of(3))


def test_a_mesh_that_leaves_out_a_process_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="found no device of process 1 of 2, expected at least one of each process"):
        check_mesh(mesh_of(8))
