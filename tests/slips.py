"""Common mistakes of callers and their messages: `python slips.py` makes each mistake and prints the messages.

It runs in its own process, since the type checks of the test suite would find many of the mistakes first.
"""

import dataclasses
import functools
import json
import types
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import tz


def nim(players=(0, 1), num_rewards=2, scale=1.0):
    """Returns a game: take one or two of five counters; whoever takes the last one wins. `players` numbers them."""

    def shown(left, mover, rewards):
        names = jnp.array(players, jnp.int32)
        return tz.StepMetadata(rewards, jnp.arange(1, 3) <= jnp.maximum(left, 1), left <= 0, names[mover])

    def init(key):
        return (jnp.int32(5), jnp.int32(0)), shown(jnp.int32(5), jnp.int32(0), jnp.zeros(num_rewards))

    def step(state, action):
        left, mover = state
        after, won = jnp.maximum(left - 1 - action, 0), (left > 0) & (left <= 1 + action)
        rewards = scale * jnp.where(won, jnp.where(jnp.arange(num_rewards) == mover, 1.0, -1.0), 0.0)
        mover = jnp.where(left > 0, 1 - mover, mover)
        return (after, mover), shown(after, mover, rewards)

    return tz.Env(init, step, lambda state: jnp.stack(state).astype(jnp.float32), name="nim")


def solitaire():
    """Returns a game of one move and one player."""

    def shown(state, rewards):
        return tz.StepMetadata(rewards, jnp.ones(2, bool), state > 0, jnp.int32(0))

    def step(state, action):
        return jnp.int32(1), shown(jnp.int32(1), jnp.where(state > 0, 0.0, 1.0 * action)[None])

    start = lambda key: (jnp.int32(0), shown(jnp.int32(0), jnp.zeros(1)))
    return tz.Env(start, step, lambda state: state[None].astype(jnp.float32), name="solitaire")


def auto_reset(show_end):
    env = nim()

    def step(state, action):
        after, metadata = env.step(state, action)
        new = jax.tree.map(
            lambda new, old: jnp.where(metadata.terminated, new, old), env.init(jax.random.key(0)), (after, metadata)
        )
        return new[0], dataclasses.replace(new[1], rewards=metadata.rewards, terminated=metadata.terminated & show_end)

    return dataclasses.replace(env, step=step)


def dicey():
    """Returns nim in which a key in the state decides if the last move pays 1 or a half."""
    env = nim()

    def step(state, action):
        after, metadata = env.step(state[0], action)
        pays = jnp.where(jax.random.bernoulli(state[1]), 1.0, 0.5)
        return (after, jax.random.split(state[1])[0]), dataclasses.replace(metadata, rewards=pays * metadata.rewards)

    def init(key):
        state, metadata = env.init(key)
        return (state, jax.random.PRNGKey(1)), metadata

    return tz.Env(init, step, lambda state: env.observe(state[0]), name="dicey nim")


@functools.cache
def given():
    """Makes the inputs of the calls when they are first needed, since the test itself only needs names and messages."""
    one, many = jax.random.key(0), jax.random.split(jax.random.key(0), 4)
    game, mcts, buffer = nim(), tz.MCTS(4), tz.EpisodeReplayBuffer(8)
    state, meta = game.init(one)
    states, metadata = jax.vmap(game.init)(many)
    network = tz.MLP((2,), 2, width=4, key=one)
    evaluator = tz.NetworkEvaluator(network, game.observe)
    games = jax.vmap(lambda key: tz.init_collect(mcts, game, key=key))(many)
    play = lambda state: tz.collect(mcts, game, evaluator, state, num_moves=3)[1]
    steps = jax.eval_shape(jax.vmap(play), games)
    return types.SimpleNamespace(
        one=one,
        many=many,
        ttt=tz.from_pgx("tic_tac_toe"),
        nim=game,
        mcts=mcts,
        state=state,
        meta=meta,
        states=states,
        metadata=metadata,
        search=tz.init_search(mcts, state, meta),
        searches=jax.vmap(lambda *position: tz.init_search(mcts, *position))(states, metadata),
        net=network,
        evaluator=evaluator,
        player=tz.random_player(),
        game=jax.tree.map(lambda x: x[0], games),
        games=games,
        buffer=buffer,
        steps=steps,
        ring=buffer.init(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), steps)),
    )


class Own(eqx.Module):
    logits: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(2))

    def __call__(self, observation):
        return self.logits, jnp.float32(0)


def chooser(state):
    return jnp.int32(0)


def config(**changes):
    g = given()
    settings = {
        "mcts": g.mcts,
        "optimizer": optax.sgd(0.1),
        "replay": g.buffer,
        "num_games": 2,
        "train_batch_size": 2,
        "moves_per_epoch": 2,
        "train_steps_per_epoch": 1,
    }
    return tz.TrainConfig(**(settings | changes))


def loop(env, network=None, mesh=None, key=None, **changes):
    g = given()
    key = g.one if key is None else key
    network = tz.MLP(env.observation.shape, env.num_actions, width=4, key=g.one) if network is None else network
    mesh = tz.data_mesh(jax.devices()[:1]) if mesh is None else mesh
    return tz.init_loop(config(**changes), env, network, key=key, mesh=mesh)


def small(env, head):
    return tz.MLP(env.observation.shape, env.num_actions, width=4, value_head=head, key=jax.random.key(0))


def match(first=None, **options):
    g = given()
    options = {"num_games": 2, "key": g.one} | options
    return tz.play_match(g.nim, first or g.player, g.player, **options)


def unrolled(g):
    buffer = tz.EpisodeReplayBuffer(8, max_unroll=2)
    rings = jax.vmap(lambda rows: buffer.add(buffer.init(rows), rows, discount=1.0))(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), g.steps)
    )
    return jax.tree.map(lambda x: x[0], buffer.sample_parts(rings, 1, keys=g.one[None], unroll=2))


BATCH = r"of shape \(4,.*\), expected .*: one game, no batch axis; jax.vmap"
SEED = r"found key=7, expected a random key; write jax.random.key\("
KEYS = r"found keys of shape \(4,\), expected a single key; .*jax.vmap"
WRAP = r"expected a tz.Player; wrap it"


def mapped_over(make):
    """Maps a setting over an axis of a `vmap`."""

    def mapped(n):
        make(n)
        return n

    return jax.vmap(mapped)(jnp.arange(1, 4))


def planner(g):
    """Returns a game as a model, with an evaluator."""
    return tz.mcts.ModelEvaluator(tz.mcts.Model(lambda *position: position, g.nim.step), g.evaluator)


CASES = {
    # A model with its evaluator instead of the model.
    "model of init_search": (
        lambda g: tz.init_search(g.mcts, *g.nim.init(g.one), model=planner(g)),
        "model: found a ModelEvaluator.*expected a tz.mcts.Model.*write model=planner.model",
    ),
    "model of search": (
        lambda g: tz.search(
            g.mcts, planner(g), planner(g), tz.init_search(g.mcts, *g.nim.init(g.one)), key=jax.random.key(0)
        ),
        "search: found a ModelEvaluator as its second argument.*planner.model",
    ),
    # A vmap over a setting that decides shapes, or which program is compiled.
    "map over simulations": (lambda g: mapped_over(tz.MCTS), "MCTS: found num_simulations=an array.*expected an int"),
    "map over solve": (
        lambda g: mapped_over(lambda n: tz.MCTS(4, solve=n > 1)),
        "MCTS: found solve=an array of shape .*expected True or False",
    ),
    "map over considered actions": (
        lambda g: mapped_over(lambda n: tz.gumbel_mcts(4, n)),
        "Gumbel: found max_num_considered_actions=an array",
    ),
    "map over the capacity": (lambda g: mapped_over(tz.EpisodeReplayBuffer), "EpisodeReplayBuffer: found capacity=an"),
    # A forgotten vmap.
    "init_search": (lambda g: tz.init_search(g.mcts, g.states, g.metadata), f"init_search: .*{BATCH}"),
    "init_search of two": (
        lambda g: tz.init_search(g.mcts, *jax.tree.map(lambda x: x[:2], (g.states, g.metadata))),
        r"init_search: .*of shape \(2,\), expected a scalar: one game, no batch axis",
    ),
    "start_search": (lambda g: tz.start_search(g.mcts, g.evaluator, g.searches, key=g.one), f"start_search: .*{BATCH}"),
    "search": (lambda g: tz.search(g.mcts, g.nim, g.evaluator, g.searches, key=g.one), f"search: .*{BATCH}"),
    "search_step": (
        lambda g: tz.search_step(g.mcts, g.nim, g.evaluator, g.searches, key=g.one),
        f"search_step: .*{BATCH}",
    ),
    "choose_action": (lambda g: tz.choose_action(g.mcts, g.searches, key=g.one), f"choose_action: .*{BATCH}"),
    "action_weights": (lambda g: tz.action_weights(g.mcts, g.searches), f"action_weights: .*{BATCH}"),
    "advance": (
        lambda g: tz.advance(g.mcts, g.searches, jnp.zeros(4, int), g.states, g.metadata),
        f"advance: .*{BATCH}",
    ),
    "collect": (lambda g: tz.collect(g.mcts, g.nim, g.evaluator, g.games, num_moves=2), f"collect: .*{BATCH}"),
    "network": (
        lambda g: g.net(jnp.zeros((4, 2))),
        r"network: found an observation of shape \(4, 2\), expected \(2,\).* call jax.vmap",
    ),
    "evaluator": (lambda g: g.evaluator(g.states, g.metadata, g.one), f"NetworkEvaluator: .*{BATCH}"),
    "uniform": (lambda g: tz.uniform_evaluator(g.states, g.metadata, g.one), f"uniform_evaluator: .*{BATCH}"),
    "rollouts": (lambda g: tz.RolloutEvaluator(g.nim)(g.states, g.metadata, g.one), f"RolloutEvaluator: .*{BATCH}"),
    "root of many": (lambda g: g.searches.root, f"SearchState.root: .*{BATCH}"),
    "returns of many": (lambda g: tz.mcts.root_returns(g.searches.tree, 1.0), f"root_returns: .*{BATCH}"),
    "ring of one": (
        lambda g: g.buffer.sample(g.ring, 2, key=g.one),
        "sample: found the ring of one game, expected rings with a leading axis",
    ),
    "observation as a shape": (
        lambda g: tz.MLP(g.nim.observation, 2, key=g.one),
        "MLP: found observation_shape=a ShapeDtypeStruct, expected a tuple of ints; write env.observation.shape",
    ),
    "float moves": (
        lambda g: tz.play_moves(g.nim, jnp.zeros(3)),
        "play_moves: found moves of dtype float32, expected integers",
    ),
    "add": (
        lambda g: g.buffer.add(g.ring, g.steps, discount=1.0),
        r"`player` of shape \(4, 3\), .* no batch axis; jax.vmap",
    ),
    "save_agent": (
        lambda g: tz.save_agent("agent.tz", g.net, g.nim),
        r"save_agent: found .*MLP.* as the second argument, expected a game; write tz.save_agent\(path, env, network\)",
    ),
    "make_move": (
        lambda g: tz.games.make_move(g.nim, g.states, jnp.zeros(4, int)),
        f"make_move: .*{BATCH}",
    ),
    "play_moves": (lambda g: tz.play_moves(g.nim, jnp.zeros((4, 3), int)), f"play_moves: .*{BATCH}"),
    "pgx step": (
        lambda g: g.ttt.step(jax.vmap(g.ttt.init)(g.many)[0], jnp.zeros(4, int)),
        f"step of tic_tac_toe: .*{BATCH}",
    ),
    "pgx observe": (lambda g: g.ttt.observe(jax.vmap(g.ttt.init)(g.many)[0]), f"observe of tic_tac_toe: .*{BATCH}"),
    "played_positions": (
        lambda g: tz.games.played_positions(g.nim, (g.state, g.meta), jnp.zeros(3, int), 2, key=g.one),
        r"played_positions: found actions of shape \(3,\), expected \[G, T\]",
    ),
    # Several keys instead of one.
    "search keys": (lambda g: tz.search(g.mcts, g.nim, g.evaluator, g.search, key=g.many), f"search: {KEYS}"),
    "init_collect keys": (lambda g: tz.init_collect(g.mcts, g.nim, key=g.many), f"init_collect: {KEYS}"),
    "old keys": (
        lambda g: tz.init_collect(g.mcts, g.nim, key=jax.random.split(jax.random.PRNGKey(0), 4)),
        r"init_collect: found old-style keys of shape \(4, 2\), expected a single key",
    ),
    "seed": (lambda g: tz.search(g.mcts, g.nim, g.evaluator, g.search, key=7), f"search: {SEED}7"),
    "check_env seed": (lambda g: tz.check_env(g.nim, key=7), f"check_env: {SEED}7"),
    "loop seed": (lambda g: loop(g.nim, key=7), f"init_loop: {SEED}7"),
    "choose_action keys": (lambda g: tz.choose_action(g.mcts, g.search, key=g.many), f"choose_action: {KEYS}"),
    "pgx init keys": (lambda g: g.ttt.init(g.many), f"init of tic_tac_toe: {KEYS}"),
    "match keys": (lambda g: match(key=g.many), f"play_match: {KEYS}"),
    "loop keys": (lambda g: loop(g.nim, key=g.many), f"init_loop: {KEYS}"),
    "opening keys": (lambda g: tz.random_opening(g.nim, 2, key=g.many), f"random_opening: {KEYS}"),
    "check_env keys": (lambda g: tz.check_env(g.nim, key=g.many), f"check_env: {KEYS}"),
    "sample keys": (lambda g: g.buffer.sample(g.ring, 2, key=g.many), f"sample: {KEYS}"),
    # A model instead of the game, or the other way round.
    "game as a model": (
        lambda g: tz.mcts.ModelEvaluator(g.nim, g.evaluator),
        "ModelEvaluator: found model=a Env, expected a tz.mcts.Model; a search of the game itself needs only the",
    ),
    "network as a model's evaluator": (
        lambda g: tz.mcts.ModelEvaluator(tz.mcts.Model(lambda *position: position, g.nim.step), g.net),
        "ModelEvaluator: found a MLP as the evaluator, .* wrap a network",
    ),
    "unroll that is mirrored": (
        lambda g: tz.learn.mirror(jax.eval_shape(lambda: unrolled(g))),
        r"found an Unroll, expected a Sample; .* tz.learn.turn_unroll\(augment, unroll, key=key\)",
    ),
    # A class or a function instead of the object that it makes.
    "selector": (
        lambda g: tz.MCTS(4, selector=tz.PUCT),
        r"MCTS: found selector=PUCT, which is a class, .*; write selector=PUCT\(...\)",
    ),
    "root": (lambda g: tz.MCTS(4, root=tz.Gumbel), "MCTS: found root=Gumbel, which is a class"),
    "backup": (lambda g: tz.MCTS(4, backup=tz.mcts.MeanBackup), "MCTS: found backup=MeanBackup, which is a class"),
    "final_move": (
        lambda g: tz.MCTS(4, final_move=tz.mcts.LowerConfidenceBound),
        "MCTS: found final_move=LowerConfidenceBound, which is a class",
    ),
    "completed_q": (
        lambda g: tz.ImprovedPolicy(tz.mcts.CompletedQ),
        "ImprovedPolicy: found completed_q=CompletedQ, which is",
    ),
    "tester": (
        lambda g: config(testers=(tz.TwoPlayerTester,)),
        r"TrainConfig: found testers\[0\]=TwoPlayerTester, which is a class",
    ),
    "tester without a tuple": (
        lambda g: config(testers=tz.TwoPlayerTester(4)),
        "TrainConfig: found testers=a TwoPlayerTester, expected a tuple",
    ),
    "optimizer": (
        lambda g: config(optimizer=optax.adam),
        "TrainConfig: found optimizer=the function adam, expected an object of type GradientTransformation; call",
    ),
    "replay": (
        lambda g: config(replay=tz.EpisodeReplayBuffer),
        "TrainConfig: found replay=EpisodeReplayBuffer, which is",
    ),
    "mcts": (
        lambda g: config(mcts=tz.gumbel_mcts),
        "TrainConfig: found mcts=the function gumbel_mcts, expected .* MCTS",
    ),
    "test_mcts": (lambda g: config(test_mcts=tz.MCTS), "TrainConfig: found test_mcts=MCTS, which is a class"),
    "network class": (lambda g: loop(g.nim, tz.MLP), "init_loop: found network=MLP, which is a class"),
    "evaluator class": (
        lambda g: tz.Player(g.mcts, tz.RolloutEvaluator),
        "Player: found evaluator=RolloutEvaluator, which",
    ),
    # A float instead of an int.
    "simulations": (
        lambda g: tz.MCTS(8.0),
        "MCTS: found num_simulations=8.0, expected an int; write num_simulations=8",
    ),
    "half a simulation": (
        lambda g: tz.MCTS(8.5),
        "MCTS: found num_simulations=8.5, expected an int; give a whole number",
    ),
    "simulations in an array": (
        lambda g: tz.MCTS(jnp.int32(8)),
        r"MCTS: found num_simulations=an array of shape \(\), expected an int",
    ),
    "num_games": (lambda g: config(num_games=8.0), "TrainConfig: found num_games=8.0, expected an int"),
    "max_episode_moves": (
        lambda g: config(max_episode_moves=8.0),
        "TrainConfig: found max_episode_moves=8.0, expected an",
    ),
    "no num_games": (lambda g: config(num_games=None), "TrainConfig: found num_games=None, expected an int"),
    "capacity": (lambda g: tz.EpisodeReplayBuffer(8.0), "EpisodeReplayBuffer: found capacity=8.0, expected an int"),
    "num_games of a tester": (
        lambda g: tz.TwoPlayerTester(8.0),
        "TwoPlayerTester: found num_games=8.0, expected an int",
    ),
    "num_games of a match": (lambda g: match(num_games=2.0), "play_match: found num_games=2.0, expected an int"),
    "num_moves": (
        lambda g: tz.collect(g.mcts, g.nim, g.evaluator, g.game, num_moves=2.0),
        "collect: found num_moves=2.0, expected an int",
    ),
    "width": (lambda g: tz.MLP((2,), 2, width=8.0, key=g.one), "found width=8.0, expected an int"),
    "considered": (lambda g: tz.Gumbel(8.0), "Gumbel: found max_num_considered_actions=8.0, expected an int"),
    # A function or a network instead of a player or an evaluator.
    "player as a function": (
        lambda g: tz.matches.HostPlayer(g.player),
        "HostPlayer: found a Player, expected a function state -> action; give a function of one argument",
    ),
    "function as a player": (lambda g: match(chooser), f"play_match: found first to be the function chooser, {WRAP}"),
    "function in a match on a mesh": (
        lambda g: tz.play_match(g.nim, g.player, chooser, num_games=2, key=g.one),
        f"play_match: found second to be the function chooser, {WRAP}",
    ),
    "function as an opponent": (
        lambda g: tz.OpponentTester(tz.uniform_evaluator, "f"),
        f"OpponentTester: found opponent to be the function uniform_evaluator, {WRAP}",
    ),
    "network as an opponent": (lambda g: tz.OpponentTester(g.net, "f"), f"found opponent to be a MLP, {WRAP}"),
    "function as a rung": (
        lambda g: tz.matches.LadderTester((g.player, chooser)),
        rf"LadderTester: found rungs\[1\] to be the function chooser, {WRAP}",
    ),
    "function as an anchor": (
        lambda g: tz.ApproxEloTester(2, 2, 1, anchors=(chooser,)),
        rf"ApproxEloTester: found anchors\[0\] to be the function chooser, {WRAP}",
    ),
    "one rung": (
        lambda g: tz.matches.LadderTester(g.player),
        "LadderTester: found rungs to be a Player, expected a tuple",
    ),
    "network as an evaluator": (
        lambda g: tz.Player(g.mcts, g.net),
        r"Player: found a MLP as the evaluator, .*; wrap a network in one: tz.NetworkEvaluator\(network, env.observe\)",
    ),
    "own network as an evaluator": (
        lambda g: tz.search(g.mcts, g.nim, Own(), g.search, key=g.one),
        "search: found a Own as the evaluator, expected a function .* wrap a network",
    ),
    "network in collect": (
        lambda g: tz.collect(g.mcts, g.nim, g.net, g.game, num_moves=2),
        "collect: found a MLP as the evaluator, .* wrap a network",
    ),
    "evaluator as a network": (
        lambda g: loop(g.nim, g.evaluator),
        "init_loop: found a NetworkEvaluator, an evaluator, exp",
    ),
    "function evaluator as a network": (
        lambda g: loop(g.nim, tz.uniform_evaluator),
        "init_loop: found the function uniform_evaluator, an evaluator, expected a network",
    ),
    "game that is not adapted": (lambda g: tz.check_env(tz), "env: found a module as the game, expected a tz.Env"),
    # Games that break a rule, found by init_loop.
    "players 1 and 2": (
        lambda g: loop(nim((1, 2))),
        r"nim, game 0 after 1 moves: found `cur_player_id` out of range.*= 2",
    ),
    "players -1 and 1": (
        lambda g: loop(nim((-1, 1))),
        "nim, game 0 after 0 moves: found `cur_player_id` out of range .*cur_player_id = -1.*, expected 0 to 1",
    ),
    "one reward for two players": (
        lambda g: loop(nim(num_rewards=1)),
        "found `cur_player_id` out of range .*, expected 0 to 0, as `rewards` has 1 entry, .*an entry for each",
    ),
    "auto-reset with the end shown": (
        lambda g: loop(auto_reset(True)),
        r"nim, game \d after \d moves: found a step from a terminated state that leads to .*auto-reset",
    ),
    "auto-reset": (
        lambda g: loop(auto_reset(False)),
        r"nim: found no game that ended, but \d+ moves that paid.*auto-reset",
    ),
    "dice": (
        lambda g: loop(dicey()),
        r"dicey nim: found that the rewards depend on a random key in the state \(state\[1\]\)",
    ),
    "results of 60": (
        lambda g: loop(nim(scale=60.0)),
        r"init_loop: found random games of nim with returns as large as 60, expected at most 1, .* tz.MLP is a tanh",
    ),
    "results outside of a support": (
        lambda g: loop(nim(scale=60.0), small(g.nim, tz.nn.CategoricalValue(0.0, 60.0))),
        r"init_loop: found random games of nim with returns from -60 to 60, expected none outside of the support .* of "
        "tz.MLP, 0 to 60; give",
    ),
    "results of 60 for PUCT": (
        lambda g: loop(nim(scale=60.0), small(g.nim, tz.nn.LinearValue())),
        r"init_loop: found .* returns as large as 60 and the selector tz.PUCT, .*use tz.mcts.MuZeroPUCT",
    ),
    "a class for a value head": (
        lambda g: small(g.nim, tz.nn.CategoricalValue),
        r"MLP: found value_head=the class CategoricalValue, expected a value head; write",
    ),
    "an unknown transform": (
        lambda g: tz.nn.CategoricalValue(0.0, 1.0, transform="log"),
        "CategoricalValue: found transform='log', expected one of 'none', 'muzero', 'symlog'; choose",
    ),
    "a support in words": (
        lambda g: tz.nn.CategoricalValue("0", 1.0),
        "CategoricalValue: found low='0', expected a number; give",
    ),
    "a loss of an output that is missing": (
        lambda g: loop(g.nim, loss=lambda network, output, sample: (output[2], {})),
        r"train_step: found a loss that raised IndexError.*make the network return the missing output",
    ),
    "a loss of numbers and a categorical value": (
        lambda g: loop(
            g.nim,
            small(g.nim, tz.nn.CategoricalValue(-1.0, 1.0)),
            loss=lambda network, output, sample: ((output[1] - sample.value) ** 2, {}),
        ),
        r"train_step: found a loss that raised TypeError.*CategoricalPrediction.*its loss is tz.nn.value_loss",
    ),
    "a return tester for two": (
        lambda g: loop(g.nim, testers=(tz.matches.ReturnTester(),)),
        "TrainConfig: a ReturnTester: found nim, a game of 2 players, expected a game for one player; for two",
    ),
    "testers for two": (
        lambda g: loop(solitaire(), testers=(tz.TwoPlayerTester(2),)),
        "TrainConfig: found a TwoPlayerTester, which plays matches, and solitaire, a game of 1 player, expected",
    ),
    "match for one": (
        lambda g: tz.play_match(solitaire(), g.player, g.player, num_games=2, key=g.one),
        "play_match: found solitaire, a game of 1 player, expected one of two players",
    ),
    "checkpoints that keep nothing": (
        lambda g: tz.Checkpoints("not made", keep=None),
        "Checkpoints: found keep=None, expected an int",
    ),
    "checkpoints at half epochs": (
        lambda g: tz.Checkpoints("not made", every_epochs=2.5),
        "Checkpoints: found every_epochs=2.5, expected an int",
    ),
    # Correct calls.
    "fine": (lambda g: loop(g.nim), "nothing"),
    "fine for one": (lambda g: loop(solitaire()), "nothing"),
    "fine with another network": (lambda g: loop(nim(scale=60.0), Own()), "nothing"),
    "fine with a support that holds the results": (
        lambda g: loop(
            nim(scale=60.0), small(g.nim, tz.nn.CategoricalValue(-60.0, 60.0)), mcts=tz.gumbel_mcts(2, max_nodes=4)
        ),
        "nothing",
    ),
    "fine with NumPy's numbers": (
        lambda g: (config(num_games=np.int64(2), mcts=tz.MCTS(np.int32(4))), tz.EpisodeReplayBuffer(np.int64(8))),
        "nothing",
    ),
}


def told(make) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            make(given())
        except ValueError as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return " ".join(str(warning.message) for warning in caught if warning.category is UserWarning) or "nothing"


if __name__ == "__main__":
    print(json.dumps({name: told(make) for name, (make, _) in CASES.items()}))
