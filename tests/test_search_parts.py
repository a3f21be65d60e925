"""Parts of a search of one's own: what a root policy, selector, backup, final move or evaluator returns is checked."""

import dataclasses
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from slips import nim

import tz

KEY = jax.random.key(0)
ENV = nim()
MCTS = functools.partial(tz.MCTS, 4, persist_tree=False)
ROOTS = {
    "default": tz.Dirichlet(),
    "plain": tz.PlainRoot(),
    "forced": tz.mcts.ForcedPlayouts(),
    "gumbel": tz.Gumbel(2),
}


class Root(tz.mcts.RootPolicy):
    """A root policy of which one method is wrong, with notes so that `choose_action` reads what it left."""

    wrong: str = eqx.field(static=True)

    def start(self, node, num_simulations, *, key):
        kinds = {"start without notes": node.logits, "start of a scalar": (jnp.float32(0), None)}
        return kinds.get(self.wrong, (node.logits, None))

    def select(self, node, notes, selector):
        return node.q if self.wrong == "select of scores" else selector(node)

    def read(self, node, notes):
        policy = jnp.exp(node.logits)
        kinds = {
            "read of a tuple": (policy, node.value, node.logits),
            "read of another length": tz.mcts.RootResult(jnp.ones(3) / 3, node.value, jnp.zeros(3)),
            "read of values": tz.mcts.RootResult(policy, node.q, node.logits),
        }
        return kinds.get(self.wrong, tz.mcts.RootResult(policy, node.value, node.logits))

    def quiet(self):
        return self


def with_root(wrong):
    return {"root": Root(wrong)}


CASES = {
    "start without notes": (with_root, r"Root.start: found an array .*, expected a pair, \(log prior, notes\)"),
    "start of a scalar": (with_root, r"Root.start, log prior: found .* of shape \(\), expected .* of shape \(2,\)"),
    "select of scores": (with_root, r"Root.select: found .* of shape \(2,\), expected a single action"),
    "read of a tuple": (with_root, "Root.read: found a tuple, expected a tz.mcts.RootResult"),
    "read of another length": (with_root, r"Root.read, policy: found .* \(3,\), expected an array of shape \(2,\)"),
    "read of values": (with_root, r"Root.read, value: found .* of shape \(2,\), expected a scalar"),
    "scores": (lambda _: {"selector": lambda node: node.q}, "selector <lambda>: found .* expected a single action"),
    "one": (lambda _: {"backup": lambda node, action, q: q}, r"backup <lambda>: .* expected a pair, \(new q, value\)"),
    "row": (lambda _: {"backup": lambda node, action, q: (node.q, q)}, "expected two scalars, the new q of the edge"),
    "move": (lambda _: {"final_move": lambda *args: jnp.argmax(args[2])}, r"final_move <lambda>: .* of shape \(2,\)"),
    "selector of two": (lambda _: {"selector": lambda node, key: 0}, "MCTS: found selector=.* a function Node -> act"),
    "backup of none": (lambda _: {"backup": lambda: 0}, "MCTS: found backup=.*expected a function"),
    "final move": (lambda _: {"final_move": lambda weights: weights}, "MCTS: found final_move=.*expected a function"),
    "Gumbel as selector": (lambda _: {"selector": tz.Gumbel()}, "MCTS: found selector=.*expected a function"),
    "PUCT as root": (lambda _: {"root": tz.PUCT()}, "MCTS: found root=a PUCT, expected a root policy, a subclass"),
    "no root": (lambda _: {"root": None}, "MCTS: found root=None, expected a root policy"),
    "class": (lambda _: {"root": tz.mcts.ForcedPlayouts(noise=tz.Dirichlet)}, "noise=Dirichlet, which is a class"),
    "k": (lambda _: {"root": tz.mcts.ForcedPlayouts(k=-1.0)}, "ForcedPlayouts: found k=-1.0, expected a number of at"),
    "scale": (lambda _: {"root": tz.Gumbel(scale=-1.0)}, "Gumbel: found scale=-1.0, expected a number of at least 0"),
    "fpu": (lambda _: {"selector": tz.PUCT(fpu_reduction=-1.0)}, "PUCT: found fpu_reduction=-1.0, expected"),
    "base": (lambda _: {"selector": tz.mcts.MuZeroPUCT(c_base=0.0)}, "found c_base=0.0, expected a number above 0"),
    "fraction": (
        lambda _: {"final_move": tz.mcts.LowerConfidenceBound(min_fraction=2.0)},
        "expected a number from 0 to 1",
    ),
}


def found(mcts, evaluator, key):
    state = tz.search(mcts, ENV, evaluator, tz.init_search(mcts, *ENV.init(key)), key=key)
    return tz.action_weights(mcts, state), tz.choose_action(mcts, state, key=key)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_part_is_named_before_anything_is_compiled(name):
    make, message = CASES[name]
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)) as error:
        jax.eval_shape(lambda key: found(MCTS(**make(name)), tz.uniform_evaluator, key), KEY)
    if error.type is ValueError:  # the hook with which most tests run finds some of them first, users have none
        assert re.search(message, str(error.value))


@pytest.mark.parametrize("result", [jnp.zeros(2), (jnp.zeros(2), jnp.float32(0), 1), {"logits": 0, "value": 0}, None])
def test_an_evaluator_returns_a_pair(result):
    with pytest.raises(ValueError, match=r"search: evaluator: found .*, expected a pair, \(logits, value\)"):
        jax.eval_shape(lambda key: found(MCTS(), lambda *args: result, key), KEY)


def test_metadata_without_the_axis_of_players_is_named():
    def init(key):
        state, metadata = ENV.init(key)
        return state, dataclasses.replace(metadata, rewards=jnp.float32(0))

    for call in (lambda: tz.Env(init, ENV.step, ENV.observe).num_players, lambda: tz.init_search(MCTS(), *init(KEY))):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)) as error:
            call()
        if error.type is ValueError:
            assert re.search(r"found `rewards` as a scalar, expected one axis, .*reward\[None\]", str(error.value))


def finished():
    """Returns the end of a game, where no action is legal, as in the Nim of the guide."""
    state, metadata = ENV.init(KEY)
    for action in (1, 1, 0):
        state, metadata = ENV.step(state, jnp.int32(action))
    return state, dataclasses.replace(metadata, action_mask=jnp.zeros(2, bool))


@pytest.mark.parametrize("solve", [False, True])
@pytest.mark.parametrize("root", ROOTS)
def test_a_finished_position_without_a_legal_action_has_value_0(root, solve):
    mcts = MCTS(root=ROOTS[root], solve=solve)

    @jax.jit
    def read(key):
        state = tz.search(mcts, ENV, tz.uniform_evaluator, tz.init_search(mcts, *finished()), key=key)
        return tz.root_value(mcts, state), tz.action_weights(mcts, state)

    value, weights = read(KEY)
    assert float(value) == 0 and bool(jnp.all(jnp.isfinite(weights)))


def test_it_makes_no_nan_on_the_way():
    with jax.debug_nans(True):
        state = tz.init_search(MCTS(), *finished())
    assert bool(jnp.all(state.tree.logits == -jnp.inf))


@pytest.mark.parametrize("root", ["default", "plain", "forced"])
def test_the_value_of_a_kept_root_counts_its_visits(root):
    """Also before the next search begins, when the root policy has left no notes."""
    mcts = tz.MCTS(64, root=ROOTS[root])

    @jax.jit
    def read(key):
        state = tz.search(mcts, ENV, tz.uniform_evaluator, tz.init_search(mcts, *ENV.init(key)), key=key)
        state = tz.advance(mcts, state, jnp.int32(1), *ENV.step(ENV.init(key)[0], jnp.int32(1)))
        return tz.root_value(mcts, state), state.root.value, state.root.visits

    value, mean, visits = read(KEY)
    assert int(visits.sum()) > 4 and abs(float(mean)) > 0.01
    assert float(value) == pytest.approx(float(mean), rel=0.3 if root == "forced" else 1e-5)


def test_a_model_without_outcomes_searches_a_game_with_chance_as_one_without():
    env = tz.from_pgx("2048")
    model = tz.mcts.Model(lambda state, metadata: (state, metadata), env.step)
    state = jax.eval_shape(lambda key: tz.init_search(MCTS(), *env.init(key), model=model), KEY)
    assert state.metadata.chance is None and state.tree.chance is None
