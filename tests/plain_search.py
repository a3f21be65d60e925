"""An oracle: the same search as `tz.search`, for one game at a time, written for readability."""

import copy
import dataclasses

import numpy as np


@dataclasses.dataclass
class PlainNode:
    state: int
    prior: np.ndarray
    raw_value: float
    visits: np.ndarray
    q: np.ndarray
    children: dict
    returns: list = dataclasses.field(default_factory=list)  # at the root: (action, return) of each simulation
    seen: list = dataclasses.field(default_factory=list)  # at the root: every q that any edge has had

    def value(self):
        return (self.raw_value + self.visits @ self.q) / (1 + self.visits.sum())

    def count(self):
        return 1 + sum(child.count() for child in self.children.values())


def make_node(tables, state):
    """Makes a node with the evaluator's logits and value; a finished game has the value 0."""
    legal = tables.legal[state] | tables.terminated[state]
    weights = np.where(legal, np.exp(tables.logits[state]), 0)
    value = 0.0 if tables.terminated[state] else float(tables.values[state])
    zeros = np.zeros(len(legal))
    return PlainNode(state, weights / weights.sum(), value, zeros.astype(int), zeros.copy(), {})


def puct(node, legal, c):
    q = np.where(node.visits > 0, node.q, node.value())
    score = q + c * node.prior * np.sqrt(1 + node.visits.sum()) / (1 + node.visits)
    return int(np.argmax(np.where(legal, score, -np.inf)))


def muzero_puct(node, legal, c_init, c_base=19652.0):
    value, total = node.value(), 1 + node.visits.sum()
    seen = np.append(node.q[node.visits > 0], value)
    low, high = seen.min(), seen.max()
    q = np.where(node.visits > 0, (node.q - low) / max(high - low, 1e-8), 0)
    weight = c_init + np.log((1 + c_base + total) / c_base)
    score = q + weight * node.prior * np.sqrt(total) / (1 + node.visits)
    return int(np.argmax(np.where(legal, score, -np.inf)))


def mean_backup(node, action, q):
    node.visits[action] += 1
    node.q[action] += (q - node.q[action]) / node.visits[action]
    return q


def max_backup(node, action, q, lambda_=0.8):
    mean_backup(node, action, q)
    return lambda_ * q + (1 - lambda_) * node.q[node.visits > 0].max()


def softmax_backup(node, action, q, temperature=0.1):
    node.visits[action] += 1
    node.q[action] = q
    weights = np.where(node.visits > 0, np.exp((node.q - node.q[node.visits > 0].max()) / temperature), 0)
    total = node.visits.sum()
    return (node.raw_value + total * (weights @ node.q) / weights.sum()) / (1 + total)


def choose_path(tables, node, select):
    """Returns the actions from `node` to an unexpanded edge; each counts as visited, with its expected return."""
    path = []
    while node is not None and not (path and tables.terminated[node.state]):
        action = select(node, tables.legal[node.state])
        node.q[action] = node.q[action] if node.visits[action] else node.value()
        node.visits[action] += 1
        path, node = [*path, action], node.children.get(action)
    return path


def simulate(tables, root, node, path, max_nodes, discount, backup):
    """Runs one simulation along `path` below `node`; returns its value for the player to move there."""
    state, player, action = node.state, tables.player[node.state], path[0]
    after = int(tables.next_state[state, action])
    if path[1:]:
        value = simulate(tables, root, node.children[action], path[1:], max_nodes, discount, backup)
    else:
        leaf = make_node(tables, after)
        value = leaf.raw_value
        if action not in node.children and root.count() < max_nodes:
            node.children[action] = leaf
    sign = 1 if tables.player[after] == player else -1
    q = tables.rewards[state, action, player] + discount * sign * value
    value = backup(node, action, q)
    root.seen += [node.q[action]]
    if node is root:
        root.returns += [(action, q)]
    return value


def plain_search(tables, root, select, num_simulations, max_nodes, discount, backup=mean_backup, num_leaves=1):
    """Runs the simulations in place. `tables` holds NumPy arrays."""
    for _ in range(num_simulations // num_leaves):
        marked = copy.deepcopy(root)
        for path in [choose_path(tables, marked, select) for _ in range(num_leaves)]:
            simulate(tables, root, root, path, max_nodes, discount, backup)
