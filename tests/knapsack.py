"""A puzzle for one player whose best result is known exactly: items to put into a knapsack, one a move."""

import itertools

import jax.numpy as jnp
import numpy as np

import tz

# Of the best result, 123, random orders give 90 on average, and falling order of price per size gives 113.
SIZES = np.array([5, 4, 8, 5, 8, 6, 3, 6, 5, 6])
PRICES = np.array([18, 18, 18, 26, 12, 5, 21, 23, 15, 25])
ROOM = 28


def knapsack(scale: float = 1.0) -> tz.Env:
    """Returns a game in which each move takes an item and pays its price, times a factor, until no other item fits."""
    sizes, prices = jnp.asarray(SIZES, jnp.int32), scale * jnp.asarray(PRICES, jnp.float32)

    def shown(state, reward):
        taken, room = state
        fits = ~taken & (sizes <= room)
        over = ~fits.any()
        return tz.StepMetadata(reward[None], fits | over, over, jnp.int32(0))

    def init(key):
        state = jnp.zeros(len(SIZES), bool), jnp.int32(ROOM)
        return state, shown(state, jnp.float32(0))

    def step(state, action):
        taken, room = state
        fits = ~taken[action] & (sizes[action] <= room)
        state = taken.at[action].set(taken[action] | fits), room - jnp.where(fits, sizes[action], 0)
        return state, shown(state, jnp.where(fits, prices[action], 0.0))

    def observe(state):
        taken, room = state
        return jnp.append(taken.astype(jnp.float32), room.astype(jnp.float32) / ROOM)

    return tz.Env(init, step, observe, name="knapsack")


def best_return() -> int:
    """Returns the best result of all sets of items that fit."""
    sets = np.array(list(itertools.product([0, 1], repeat=len(SIZES))))
    return int((sets @ PRICES)[sets @ SIZES <= ROOM].max())


def return_in_order(order) -> tuple[int, int]:
    """Takes the items that still fit in an order of preference; returns the result and the number of moves."""
    room, total, num_moves = ROOM, 0, 0
    for item in order:
        if SIZES[item] <= room:
            room, total, num_moves = room - SIZES[item], total + PRICES[item], num_moves + 1
    return int(total), num_moves
