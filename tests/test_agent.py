"""Agents as files: an agent is read back unchanged, and nothing else is accepted as an agent."""

import json
import os
import pathlib
import pickle
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz

ENV = tz.from_pgx("connect_four")


def build(**changes):
    settings = {"num_blocks": 1, "num_channels": 4, "norm": "batch", "num_value_channels": 3} | changes
    key = jax.random.key(0)
    return eqx.nn.make_with_state(tz.AZResNet)(ENV.observation.shape, ENV.num_actions, **settings, key=key)


@pytest.fixture(scope="module")
def agent():
    """Makes a network whose statistics and weights differ from their initial values."""
    change = lambda x: x + 0.01 if eqx.is_inexact_array(x) else x
    return jax.tree.map(change, build())


@pytest.fixture(scope="module")
def path(agent, tmp_path_factory):
    path = tmp_path_factory.mktemp("agents") / "new" / "agent.tz"
    tz.save_agent(path, ENV, *agent, card={"seed": 3, "by": "train.py"})
    return path


def observation():
    return jax.random.bernoulli(jax.random.key(1), 0.3, ENV.observation.shape)


def test_an_agent_comes_back_as_it_was(agent, path):
    player = tz.load_agent(path)
    found, expected = (
        player.evaluator.predict(observation()),
        tz.NetworkEvaluator(agent[0], ENV.observe, agent[1]).predict(observation()),
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert tz.runs.agent_card(path) == {"seed": 3, "by": "train.py"}
    assert [entry.name for entry in path.parent.iterdir()] == ["agent.tz"], "nothing is left beside it"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_networks_come_back_too(tmp_path, dtype):
    network = tz.MLP(ENV.observation.shape, ENV.num_actions, width=8, key=jax.random.key(0))
    network = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, network)
    tz.save_agent(tmp_path / "mlp.tz", ENV, network)
    if dtype == jnp.bfloat16:
        player = tz.load_agent(tmp_path / "mlp.tz", network=jax.tree.map(lambda x: x * 0, network))
    else:
        player = tz.load_agent(tmp_path / "mlp.tz")
    for one, other in zip(jax.tree.leaves(player.evaluator.network), jax.tree.leaves(network), strict=True):
        np.testing.assert_array_equal(one, other)


class Mine(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight[:7], jnp.float32(0)


def test_a_network_and_a_game_of_ones_own(tmp_path):
    env = tz.Env(ENV.init, ENV.step, ENV.observe, name="my_game")
    tz.save_agent(tmp_path / "mine.tz", env, Mine(jnp.arange(9.0)))
    player = tz.load_agent(tmp_path / "mine.tz", env=env, network=Mine(jnp.zeros(9)))
    np.testing.assert_array_equal(player.evaluator.network.weight, np.arange(9.0))
    for options, message in [
        ({"env": env}, "class Mine, which tz does not have, .*; pass a network of the same architecture"),
        ({"network": Mine(jnp.zeros(9))}, "plays 'my_game', which pgx does not have, .*; pass the game as env="),
        ({"env": ENV, "network": Mine(jnp.zeros(9))}, "plays 'my_game', expected 'connect_four'"),
        ({"env": env, "network": Mine(jnp.zeros(8))}, r"\.weight', \[9\], 'float32'\], where .*\[8\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            tz.load_agent(tmp_path / "mine.tz", **options)


class Noisy(eqx.Module):
    weight: jax.Array
    key: jax.Array

    def __call__(self, x):
        return self.weight + jax.random.normal(self.key, (7,)), jnp.float32(0)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_network_with_a_key_inside_comes_back(tmp_path, impl):
    network = Noisy(jnp.arange(7.0), jax.random.key(5, impl=impl))
    tz.save_agent(tmp_path / "noisy.tz", ENV, network)
    blank = Noisy(jnp.zeros(7), jax.random.key(0, impl=impl))
    found = tz.load_agent(tmp_path / "noisy.tz", network=blank).evaluator.network
    assert found.key.dtype == network.key.dtype and (found.key == network.key).all()
    np.testing.assert_array_equal(found(None)[0], network(None)[0])
    other = Noisy(jnp.zeros(7), jax.random.key(0, impl="rbg" if impl == "threefry2x32" else "threefry2x32"))
    with pytest.raises(ValueError, match=r"another architecture in .*\(it has .*\.key', \[\], 'key<"):
        tz.load_agent(tmp_path / "noisy.tz", network=other)


def test_another_architecture_is_refused_with_the_difference(path):
    network, norm_state = build(num_channels=5)
    with pytest.raises(ValueError, match=r"another architecture in .*\(it has .*3, 3, 2, 4.* where .*3, 3, 2, 5"):
        tz.load_agent(path, network=network, norm_state=norm_state)
    network, norm_state = build(num_blocks=0)
    with pytest.raises(ValueError, match="another architecture"):
        tz.load_agent(path, network=network, norm_state=norm_state)


def rewrite(path, target, replaced=None, **changes):
    """Writes the same agent with other entries in its header, or with other bytes as its arrays."""
    with zipfile.ZipFile(path) as archive:
        header, arrays = json.loads(archive.read("agent.json")), archive.read("arrays")
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("agent.json", json.dumps(header | changes))
        archive.writestr("arrays", arrays if replaced is None else replaced)
    return target


def test_headers_that_lie_are_refused(path, tmp_path):
    target = tmp_path / "agent.tz"
    with zipfile.ZipFile(path) as archive:
        settings = json.loads(archive.read("agent.json"))["network"]
    head = {"class": "CategoricalValue", "low": 0.0, "high": 1.0, "num_bins": 4, "transform": "none"}
    for changes, message in [
        ({"format": 2}, "in format 2, expected format 1; update tz"),
        ({"network": {"class": "AZResNet", "num_blocks": -1}}, "a AZResNet cannot be made with"),
        ({"network": {"class": "Unheard"}}, "class Unheard, which tz does not have"),
        ({"network": {"class": {}}}, "class {}, which tz does not have"),
        ({"network": settings | {"num_channels": 10**9}}, "num_channels is 1000000000, but the file's"),
        ({"network": settings | {"num_channels": 2}}, "it has .* where the network has "),
        ({"network": {"class": "MLP", "observation_shape": [0], "num_actions": 7}}, "a MLP cannot be made with"),
        ({"arrays": []}, "but the file's 0 arrays allow at most 0"),
        ({"arrays": [["x", [99], "float32"]]}, "it has .*'x', .* where the network has"),
        ({"network": {"class": "AZResNet", "num_blocks": "many"}}, "a AZResNet cannot be made with"),
        ({"network": "AZResNet"}, "should have 'network' as a dict, found 'AZResNet'"),
        (
            {"network": settings | {"value_head": {"class": "Unheard"}}},
            "value_head is .*Unheard.*, which tz does not",
        ),
        ({"network": settings | {"value_head": "TanhValue"}}, "value_head is 'TanhValue', which tz does not have"),
        ({"network": settings | {"value_head": head | {"num_bins": 10**9}}}, "num_bins is 1000000000, but the file's"),
        ({"network": settings | {"value_head": head | {"low": "x"}}}, "cannot be made with"),
        ({"network": settings | {"value_head": head | {"low": 2.0}}}, "found the support from 2 to 1"),
        ({"network": settings | {"value_head": head}}, r"it has .*value_linear.*\[1, .* where the network has "),
        ({"card": None}, "should have 'card' as a dict, found None"),
        ({"replaced": "short"}, "it has 5 bytes of arrays, expected"),
        ({"replaced": "x" * 10_000_000}, "arrays has 10000000 bytes, expected at most"),
        ({"env": "chess_with_dice"}, "which pgx does not have"),
    ]:
        with pytest.raises(ValueError, match=message):
            tz.load_agent(rewrite(path, target, **changes))


def test_nothing_in_a_file_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    (tmp_path / "bomb.tz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="damaged, or not an agent at all"):
        tz.load_agent(tmp_path / "bomb.tz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
def test_damaged_files_are_refused_or_harmless(path, tmp_path):
    """300 files with truncated, flipped or random bytes: each raises a `ValueError` or gives the same arrays."""
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    expected = jax.tree.leaves(tz.load_agent(path).evaluator)
    target, num_refused = tmp_path / "agent.tz", 0
    variants = [whole[: rng.integers(len(whole))] for _ in range(100)] + [rng.bytes(300) for _ in range(50)]
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        variants.append(bytes(flipped))
    for variant in variants:
        target.write_bytes(variant)
        try:
            found = tz.load_agent(target)
        except ValueError:
            num_refused += 1
            continue
        for one, other in zip(jax.tree.leaves(found.evaluator), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert num_refused > 250


def test_a_failed_save_leaves_the_earlier_file(agent, path, tmp_path):
    target = tmp_path / "agent.tz"
    target.write_bytes(path.read_bytes())
    with pytest.raises(TypeError, match="not JSON serializable"):
        tz.save_agent(target, ENV, *agent, card={"what": object()})
    with pytest.raises(ValueError, match="found a card that makes a header of .* bytes, expected at most 1048576"):
        tz.save_agent(target, ENV, *agent, card={"curve": [0.123456] * 100_000})
    assert target.read_bytes() == path.read_bytes() and list(tmp_path.iterdir()) == [target]


def test_what_is_not_there_is_said():
    with pytest.raises(ValueError, match="found no agent at nowhere, expected a file, .* that comes with tz"):
        tz.load_agent("nowhere")


def test_the_agents_that_come_with_tz_have_cards():
    paths = sorted((pathlib.Path(tz.__file__).parent / "agents").glob("*.tz"))
    assert [path.stem for path in paths] == ["connect_four", "connect_four_small", "go_9x9", "othello"]
    assert sum(path.stat().st_size for path in paths) < 16e6
    for path in paths:
        card = tz.runs.agent_card(path.stem)
        strength = "mistakes" if "connect_four" in path.stem else "matches"
        assert {"script", "recipe", "seed", "device", "versions", "minutes", strength} <= set(card)
        assert tz.load_agent(path.stem).mcts.num_simulations == 200


@pytest.mark.parametrize("name", ["othello", "go_9x9"])
def test_agents_of_other_games_know_who_is_winning(name):
    """One side holds nearly the whole board: the value is high if that side is to move, and low otherwise."""
    agent, env = tz.load_agent(name), tz.from_pgx(name)
    start, metadata = env.init(jax.random.key(0))
    board = env.observe(start)
    own = jnp.zeros_like(board).at[1:, :, 0].set(True).at[0, 0, 1].set(True)
    other = jnp.zeros_like(board).at[1:, :, 1].set(True).at[0, 0, 0].set(True)
    won, lost, even = (float(agent.evaluator.predict(x)[1]) for x in (own, other, board))
    assert lost < even < won


@pytest.mark.parametrize("name", ["connect_four", "connect_four_small", "othello", "go_9x9"])
def test_agents_search_as_their_recipe_does(name):
    searched = tz.load_agent(name).mcts
    recipe = tz.Recipe(**tz.runs.agent_card(name)["recipe"] | {"num_simulations": 200})
    expected = tz.without_exploration(recipe.build()[0].mcts)
    assert eqx.tree_equal(searched.selector, expected.selector)
    assert searched.root.completed_q == expected.root.completed_q
    assert (searched.discount, searched.max_actions) == (expected.discount, expected.max_actions)


def test_the_search_of_an_agent_has_the_settings_of_its_recipe_if_they_make_sense(tmp_path):
    path, network = tmp_path / "agent.tz", tz.MLP(ENV.observation.shape, ENV.num_actions, key=jax.random.key(0))
    tz.save_agent(path, ENV, network, card={"recipe": {"discount": 0.9, "max_actions": 3, "q_scale": 2}})
    mcts = tz.load_agent(path).mcts
    assert (mcts.discount, mcts.max_actions) == (0.9, 3)
    assert mcts.root.completed_q == mcts.selector.completed_q == tz.mcts.CompletedQ(c_scale=2.0, rescale=False)
    for wrong in {"q_scale": "large"}, {"q_scale": -1.0}, {"discount": 10**400}, {"discount": [1]}, {"max_actions": -1}:
        tz.save_agent(path, ENV, network, card={"recipe": wrong})
        with pytest.raises(ValueError, match=f"found .*{next(iter(wrong))}=.* in the card"):
            tz.load_agent(path)
        assert tz.load_agent(path, mcts=mcts).mcts is mcts


@pytest.mark.slow
def test_the_small_agent_that_comes_with_tz_plays():
    agent = tz.load_agent("connect_four_small", mcts=tz.without_exploration(tz.gumbel_mcts(8, ENV.num_actions)))
    rival = tz.Player(tz.MCTS(100, root=tz.PlainRoot(), temperature=0.0), tz.uniform_evaluator)
    options = {"num_games": 40, "max_moves": 42, "mesh": tz.data_mesh(jax.devices()[:1])}
    assert tz.play_match(ENV, agent, rival, key=jax.random.key(0), **options).interval()[0] > 0.8
