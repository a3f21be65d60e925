"""A search that can be stopped after any number of simulations and keeps its tree from move to move."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz.games.env import Env
from tz.games.names import move_label
from tz.matches.players import Player
from tz.mcts.gumbel_root import Gumbel
from tz.mcts.models import model_of
from tz.mcts.results import choose_action
from tz.mcts.root_policies import PlainRoot
from tz.mcts.selectors import PUCT
from tz.mcts.settings import MCTS
from tz.mcts.simulation import SearchState, advance, init_search, search_step, start_search
from tz.play.analysis import next_position
from tz.play.game import Game

_LONGEST_LINE = 12


def anytime(mcts: MCTS, num_simulations: int) -> MCTS:
    """Returns the same search without noise, changed so that it can be stopped after any number of simulations.

    Gumbel's root policy plans all simulations in advance, so PUCT takes its place.
    """
    plain = {"root": PlainRoot(), "selector": PUCT()} if isinstance(mcts.root, Gumbel) else {"root": mcts.root.quiet()}
    sizes = {"num_simulations": num_simulations, "max_nodes": None, "num_leaves": 1}
    return dataclasses.replace(mcts, **plain, **sizes, temperature=0.0, persist_tree=True)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A move that the search has tried.

    `value` is from the perspective of the player to move. `line` is the expected continuation, the move itself first.
    """

    name: str
    visits: int
    value: float
    prior: float
    line: tuple[str, ...]


@eqx.filter_jit
def _begin(mcts: MCTS, env: Env, evaluator: Any, position: Any) -> SearchState:
    return init_search(mcts, *position, model=model_of(evaluator, env))


@eqx.filter_jit
def _follow(mcts: MCTS, env: Env, evaluator: Any, state: SearchState, action: Array, position: Any) -> SearchState:
    return advance(mcts, state, action, *position, model=model_of(evaluator, env))


@eqx.filter_jit
def _prepare(mcts: MCTS, evaluator: Any, state: SearchState, key: PRNGKeyArray) -> SearchState:
    return start_search(mcts, evaluator, state, key=key)


@eqx.filter_jit
def _simulate(
    mcts: MCTS, env: Env, evaluator: Any, state: SearchState, key: PRNGKeyArray, number: Int[Array, ""]
) -> SearchState:
    """Runs `number` simulations. The number is traced, so another number compiles nothing again.

    One game has no batch axis, so the loop does not copy the tree.
    """

    def simulate(index, state):
        step_key = jax.random.fold_in(key, index)
        return search_step(mcts, model_of(evaluator, env), evaluator, state, key=step_key)

    return lax.fori_loop(0, number, simulate, state)


@eqx.filter_jit
def _read(mcts: MCTS, state: SearchState) -> dict[str, PyTree]:
    tree = state.tree
    return {
        "action": choose_action(mcts, state, key=jax.random.key(0)),
        "visits": tree.visits,
        "children": tree.children,
        "actions": tree.actions,
        "q": tree.q[0],
        "prior": jnp.exp(tree.logits[0]),
    }


class Thinker:
    """The agent's side of a game: searches the current position and keeps the tree for the next one.

    `__init__` compiles everything and measures the speed of the search before it returns.
    """

    def __init__(self, env: Env, player: Player, num_simulations: int, key: PRNGKeyArray):
        self.env, self.evaluator, self.key = env, player.evaluator, key
        self.mcts = anytime(player.mcts, num_simulations)
        self.seconds = 0.0  # for each simulation, as measured by the latest `run`
        self._search: SearchState | None = None
        self._actions: list[int | None] = []
        self._warm_up()

    def _warm_up(self) -> None:
        game = Game(self.env, key=self.key)
        self.follow(game)
        self.run(1)
        action = self.best()
        game.move(action)
        self.follow(game)
        for number in (1, 8, 8):  # the first may compile, the last one measures the speed
            self.run(number)
        self.forget()

    def forget(self) -> None:
        """Drops the tree, so that the next search starts with a new one."""
        self._search, self._actions = None, []

    def follow(self, game: Game) -> None:
        """Moves the search to the current position of a game. It keeps its tree if moves were only added."""
        actions, turns = [turn.action for turn in game.turns[:-1]], game.turns
        if self._search is None or self._actions != actions[: len(self._actions)]:  # moves were taken back
            self._search = _begin(self.mcts, self.env, self.evaluator, game.position)
        elif self._actions == actions:
            return
        else:
            for index in range(len(self._actions), len(actions)):
                after = turns[index + 1].state, turns[index + 1].metadata
                move = jnp.int32(actions[index])
                self._search = _follow(self.mcts, self.env, self.evaluator, self._search, move, after)
        self._actions = actions
        self._search = _prepare(self.mcts, self.evaluator, self._search, jax.random.fold_in(self.key, len(actions)))

    @property
    def num_visits(self) -> int:
        """Returns the number of simulations that passed through the root, including those before the last move."""
        assert self._search is not None
        return int(self._search.tree.visits[0].sum())

    def run(self, number: int) -> None:
        """Runs `number` more simulations and measures their speed."""
        assert self._search is not None
        begun = time.perf_counter()
        key = jax.random.fold_in(jax.random.fold_in(self.key, len(self._actions)), 1 + self.num_visits)
        self._search = _simulate(self.mcts, self.env, self.evaluator, self._search, key, jnp.int32(number))
        jax.block_until_ready(self._search.tree.size)
        self.seconds = (time.perf_counter() - begun) / number

    def run_for(self, seconds: float | None) -> None:
        """Runs the simulations of one move.

        **Arguments:** `seconds`, the time limit, or None for no limit. If the number of simulations in the settings
            does not fit into the time at the measured speed, fewer are run, but at least one.
        """
        left, end = self.mcts.num_simulations, None if seconds is None else time.perf_counter() + seconds
        while left > 0:
            number = left if end is None else min(left, self._fitting(end))
            if number < 1 and left < self.mcts.num_simulations:
                return
            self.run(max(1, number))
            left -= max(1, number)

    def run_until(self, seconds: float, stop: Callable[[], bool]) -> None:
        """Runs simulations until the time is over or `stop()` is true: at least one, without an upper limit.

        `stop` is called about ten times a second.
        """
        end = time.perf_counter() + seconds
        self.run(1)
        while time.perf_counter() < end and not stop():
            self.run(max(1, min(self._fitting(end), int(0.1 / max(self.seconds, 1e-9)))))

    def _fitting(self, end: float) -> int:
        """Returns how many simulations to run next, so that they are done before the time `end`.

        If many fit, it returns half of their number, since the speed may change and each run measures it again.
        """
        number = int((end - time.perf_counter()) / max(self.seconds, 1e-9))
        return number // 2 if number > 8 else min(number, 1)

    def best(self) -> int:
        """Returns the action to play."""
        assert self._search is not None
        return int(_read(self.mcts, self._search)["action"])

    def candidates(self, game: Game) -> list[Candidate]:
        """Returns the moves that were tried: first the move to play, then the others, most visits first."""
        assert self._search is not None
        found = jax.device_get(_read(self.mcts, self._search))
        # A root that keeps all actions (`max_actions=None`) has each action in the slot with the action's number.
        actions = np.arange(found["visits"].shape[1])[None] if found["actions"] is None else found["actions"]
        slots = [int(slot) for slot in np.flatnonzero(found["visits"][0] > 0)]
        slots.sort(key=lambda slot: (actions[0][slot] != found["action"], -found["visits"][0][slot]))
        moves = []
        for slot in slots:
            line = self._line(game, found, slot)
            visits, q, prior = (found[name].ravel()[slot] for name in ("visits", "q", "prior"))
            moves.append(Candidate(line[0], int(visits), float(q), float(prior), line))
        return moves

    def _line(self, game: Game, found: dict[str, Any], slot: int) -> tuple[str, ...]:
        """Returns the names of a move and of the most visited moves after it.

        Each move is made in the game, since its name depends on the position.
        """
        (state, metadata), node, names = game.position, 0, []
        while len(names) < _LONGEST_LINE:
            action = slot if found["actions"] is None else int(found["actions"][node][slot])
            if bool(metadata.terminated) or not metadata.action_mask[action]:
                break
            names.append(move_label(self.env, jax.device_get(state), action))
            node = int(found["children"][node][slot])
            if node < 0 or not found["visits"][node].any():
                break
            state, metadata = next_position(self.env, state, jnp.int32(action), jax.random.key(0))
            slot = int(np.argmax(found["visits"][node]))
        return tuple(names)
