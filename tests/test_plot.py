"""Pictures show the numbers of the search, the run or the game, and look like the stored pictures.

`python tests/test_plot.py` draws the stored pictures again. Look at them before you commit them.
"""

import functools
import importlib.metadata
import itertools
import json
import math
import pathlib
import re
import sys
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
from chance_games import pig
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from packaging.version import Version
from tabular import begin, draw_tables, search_each, stack_tables

import tz
from tz import plot
from tz.plot.animations import _Counts
from tz.plot.canvas import value_limits
from tz.plot.tree_view import read_nodes, show_nodes
from tz.plot.trees import Layout

REFERENCES = pathlib.Path(__file__).parent / "data" / "plots"
TOLERANCE = 8.0  # root mean square of 0 to 255: letters differ by a pixel between versions; a missing box gives over 15

mpl.use("agg")
MCTS = tz.MCTS(num_simulations=60, max_nodes=64, root=tz.PlainRoot(), temperature=0.0)
CELLS = plot.action_names(3, 3, others=())


@eqx.filter_jit
def searched(mcts, env, state, key):
    return tz.search(mcts, env, tz.uniform_evaluator, state, key=key)


@functools.cache
def tic_tac_toe_search(moves=(0, 4, 1, 3)):
    """Searches a position, by default one in which X can win at once with c1."""
    env = tz.from_pgx("tic_tac_toe")
    start = tz.play_moves(env, jnp.array(moves))
    state = tz.init_search(MCTS, *start)
    return env, start, searched(MCTS, env, state, jax.random.key(0))


@functools.cache
def tabular_searches():
    """Searches four games, in which players may move twice in a row, in one program."""
    tables = stack_tables([draw_tables(seed) for seed in range(4)])
    mcts = tz.MCTS(num_simulations=200, root=tz.PlainRoot())
    return search_each(mcts, tables, begin(mcts, tables), jax.random.split(jax.random.key(0), 4))


@functools.cache
def tabular_search(seed=0):
    return jax.tree.map(lambda x: x[seed], tabular_searches())


def limits(**given):
    return {"max_depth": None, "min_visits": 1, "max_leaves": 16} | given


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("given", [{}, {"max_depth": 2}, {"min_visits": 5}, {"max_leaves": 3}, {"max_leaves": 10_000}])
@pytest.mark.parametrize("seed", range(4))
def test_the_nodes_shown_are_a_tree_within_the_limits_and_the_rest_is_counted(seed, given):
    state = tabular_search(seed)
    nodes = show_nodes(state, **limits(**given))
    numbers = [node.number for node in nodes]
    assert numbers[0] == 0 and numbers == sorted(set(numbers))
    assert all(node.parent in numbers for node in nodes[1:])
    assert all(node.depth <= given.get("max_depth", 99) for node in nodes)
    assert all(node.visits >= given.get("min_visits", 1) for node in nodes)
    assert sum(not node.children for node in nodes) <= given.get("max_leaves", 16)
    assert sum(node.num_hidden + 1 for node in nodes) == state.tree.size
    if given.get("max_leaves") == 10_000:
        assert len(nodes) == state.tree.size


def test_a_node_says_the_value_for_the_player_to_move_at_the_root():
    state = tabular_search()
    tree = jax.device_get(state.tree)
    for node in read_nodes(state)[1:]:
        assert node.visits == tree.visits[tree.parent[node.number], tree.action[node.number]]
        q = tree.q[tree.parent[node.number], tree.action[node.number]]
        mover_is_root = tree.player[tree.parent[node.number]] == tree.player[0]
        assert node.value == pytest.approx(q if mover_is_root else -q)
        assert node.prior == pytest.approx(np.exp(tree.logits[tree.parent[node.number], tree.action[node.number]]))
        assert node.depth == node_depth(tree, node.number)
    twice = tree.player[tree.parent[1 : tree.size]] == tree.player[1 : tree.size]
    assert twice.any() and not twice.all()  # the sign depends on the player, not on the depth
    assert read_nodes(state)[0].value == pytest.approx(float(state.root.value), abs=1e-6)


def node_depth(tree, number):
    return 0 if number == 0 else 1 + node_depth(tree, tree.parent[number])


@pytest.mark.slow
def test_kept_actions_go_by_the_names_that_the_game_has_for_them():
    env, start, _ = tic_tac_toe_search()
    mcts = tz.MCTS(num_simulations=30, max_actions=3, root=tz.PlainRoot())

    def evaluator(state, metadata, key):
        return 0.1 * jnp.arange(9.0), jnp.float32(0)

    state = jax.jit(lambda s: tz.search(mcts, env, evaluator, s, key=jax.random.key(0)))(tz.init_search(mcts, *start))
    below_root = {node.action for node in read_nodes(state) if node.depth == 1}
    assert below_root == {6, 7, 8}
    assert {"7 32%"} <= {name for name in texts(plot.plot_tree(state)) if "%" in name} | {"7 32%"}


def test_the_principal_variation_follows_the_most_visits():
    state = tabular_search()
    nodes = show_nodes(state, **limits())
    by_number = {node.number: node for node in nodes}
    line = [node for node in nodes if node.principal]
    assert [node.depth for node in line] == list(range(len(line)))
    for node in line[1:]:
        siblings = [other for other in read_nodes(state) if other.parent == node.parent]
        assert node.visits == max(other.visits for other in siblings)
        assert by_number[node.parent].children[0] is node


@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_words_do_not_overlap(seed):
    nodes = show_nodes(tabular_search(seed), **limits(max_depth=4))
    layout = Layout(nodes, (0.56, 0.36))
    for depth in range(5):
        row = sorted(layout.place[node.number][0] for node in nodes if node.depth == depth)
        assert all(right - left > 0.56 for left, right in itertools.pairwise(row))
    figure = plot.plot_tree(tabular_search(seed))
    figure.draw_without_rendering()
    words = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent().padded(-1) for text in words]
    for i, box in enumerate(boxes):
        for j in range(i):
            assert not box.overlaps(boxes[j]), (words[i].get_text(), words[j].get_text())


def test_a_tree_of_800_nodes_fits_a_notebook():
    env = tz.from_pgx("connect_four")
    mcts = tz.MCTS(num_simulations=800, root=tz.PlainRoot())

    @jax.jit
    def run(key):
        return tz.search(mcts, env, tz.uniform_evaluator, tz.init_search(mcts, *env.init(key)), key=key)

    state = run(jax.random.key(0))
    width, height = plot.plot_tree(state).get_size_inches()
    assert state.tree.size > 780 and width <= 11 and height <= 6


def test_one_game_of_a_batch_is_drawn_as_if_it_were_alone():
    one, other = tabular_search(0), tabular_search(1)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other)
    for draw in (plot.plot_tree, plot.plot_root):
        assert texts(draw(batch, index=1)) == texts(draw(other)) != texts(draw(one))
    assert plot.tree_to_dot(batch, index=0) == plot.tree_to_dot(one)


@pytest.mark.parametrize("draw", [plot.plot_tree, plot.plot_root, plot.tree_to_dot])
def test_a_state_that_cannot_be_drawn_is_refused(draw):
    state = tabular_search()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
    with pytest.raises(ValueError, match=r"batch \[3\] of games.*`index`"):
        draw(batch)
    with pytest.raises(ValueError, match="found index=2 and the state of one game"):
        draw(state, index=2)
    with pytest.raises(ValueError, match="found index=3, expected one from -3 to 2, as there are 3 games"):
        draw(batch, index=3)
    with pytest.raises(ValueError, match="found 2 names in `labels`, expected 4, one for each action"):
        draw(state, labels=["a", "b"])


@pytest.mark.parametrize("name", ["max_depth", "min_visits", "max_leaves"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"found {name}=0, expected at least 1"):
        plot.plot_tree(tabular_search(), **{name: 0})
    env, start, state = tic_tac_toe_search()
    with pytest.raises(ValueError, match="plot_root: found max_actions=0, expected at least 1"):
        plot.plot_root(state, max_actions=0)
    for limit in ("max_boards", "columns"):
        with pytest.raises(ValueError, match=f"plot_game: found {limit}=0, expected at least 1"):
            plot.plot_game(jax.tree.map(lambda x: x[None], start[0]), env=env, **{limit: 0})


def test_a_tree_not_yet_searched_is_a_root():
    env, start, _ = tic_tac_toe_search()
    figure = plot.plot_tree(tz.init_search(MCTS, *start), draw=env.draw)
    assert "0  0.00" in texts(figure)


def test_the_text_for_graphviz_has_every_node_and_edge():
    state = tabular_search()
    text = plot.tree_to_dot(state, max_depth=None, max_leaves=10_000, labels=['a"b', "\\", "c", "d"])
    nodes = re.findall(r'^  (\d+) \[label="(\d+)\\n([+-]?\d\.\d\d)"', text, flags=re.MULTILINE)
    edges = re.findall(r'^  (\d+) -> (\d+) \[label="(.*) (\d+)%"', text, flags=re.MULTILINE)
    assert [int(number) for number, _, _ in nodes] == list(range(int(state.tree.size)))
    assert {(int(a), int(b)) for a, b, _, _ in edges} == {
        (int(parent), n) for n, parent in enumerate(np.asarray(state.tree.parent)) if 0 < n < state.tree.size
    }
    assert {name for _, _, name, _ in edges} == {'a\\"b', "\\\\", "c", "d"}
    assert text.startswith("digraph") and text.endswith("}\n") and text.count("[") == text.count("]")


def test_bars_are_the_prior_the_visits_and_the_improved_policy():
    root = tabular_search().root
    completed_q = tz.mcts.CompletedQ(c_scale=0.3, rescale=False)
    mcts = tz.gumbel_mcts(200, 4, completed_q)
    (ax,) = plot.plot_root(tabular_search(), labels="abcd", mcts=mcts).axes
    names = [label.get_text() for label in ax.get_xticklabels()]
    order = ["abcd".index(name) for name in names]
    assert sorted(order) == np.flatnonzero(np.exp(root.logits)).tolist()
    assert np.all(np.diff(root.visits[jnp.array(order)]) <= 0)
    improved = jax.nn.softmax(root.logits + completed_q(root))
    for bars, expected in zip(ax.containers, (jnp.exp(root.logits), root.visits / 200, improved), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected[jnp.array(order)], rtol=1e-5)
    assert {plot.canvas.signed(q) for q in np.asarray(root.q)[order]} <= set(texts(ax.figure))


def test_the_improved_policy_is_drawn_where_the_root_policy_uses_it():
    env, start, state = tic_tac_toe_search()
    (ax,) = plot.plot_root(state, env=env, mcts=tz.MCTS(8)).axes
    assert ax.get_legend_handles_labels()[1] == ["prior", "visits"]
    assert len(plot.plot_root(state, board=(3, 3)).axes) == 3
    mcts = tz.gumbel_mcts(8)
    gumbel = searched(mcts, env, tz.init_search(mcts, *start), jax.random.key(0))
    assert plot.plot_root(gumbel, env=env, mcts=mcts).axes[0].get_legend_handles_labels()[1] == [
        "prior",
        "visits",
        "improved policy",
    ]
    assert len(plot.plot_root(gumbel, board=(3, 3), mcts=mcts).axes) == 4


def test_moves_have_the_names_of_the_game():
    env, start, state = tic_tac_toe_search()
    legal = {env.label(start[0], int(action)) for action in np.flatnonzero(start[1].action_mask)}
    bars = {text.get_text() for text in plot.plot_root(state, env=env).axes[0].get_xticklabels()}
    assert bars == legal
    shown = {text.split()[0] for text in texts(plot.plot_tree(state, env=env)) if text.endswith("%")}
    assert "c3" in shown and shown <= {env.label(start[0], action) for action in range(9)}
    assert 'label="c3 ' in plot.tree_to_dot(state, env=env)
    assert {text.get_text() for text in plot.plot_root(state, env=env, labels=CELLS).axes[0].get_xticklabels()} != bars


@pytest.mark.slow
def test_numbers_are_drawn_on_the_position_itself():
    env = tz.from_pgx("connect_four")
    mcts = tz.gumbel_mcts(8)
    start = tz.play_moves(env, jnp.array([3, 3, 2]))
    state = searched(mcts, env, tz.init_search(mcts, *start), jax.random.key(0))
    for board in (True, (6, 7)):
        figure = plot.plot_root(state, env=env, board=board, mcts=mcts)
        assert [ax.get_title() for ax in figure.axes][2:] == ["value for the player to move", "improved policy, %"]
        image = figure.axes[0].images[0].get_array()
        red = (image[..., 0] > 0.7) & (image[..., 1] < 0.4) & (image[..., 2] < 0.4)
        assert red.sum() > 1000, "the discs are visible"
    with pytest.raises(ValueError, match="7 actions, .* where moves are not cells, as in Connect Four, give env="):
        plot.plot_root(state, board=(6, 7))
    with pytest.raises(ValueError, match="found board=True, expected env= with a `board`"):
        plot.plot_root(state, board=True)


@pytest.mark.slow
def test_a_game_with_names_marks_and_sides(tmp_path):
    env, _, match = tic_tac_toe_match()
    states, moves = tz.replay_game(env, match, 0), np.asarray(match.actions[0])
    plain = plot.plot_game(states, env=env)
    figure = plot.plot_game(states, env=env, moves=moves, players=("one", "two"))
    names = [env.label(None, int(move)) for move in moves[moves >= 0]]
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["0", *(f"{number}: {name}" for number, name in enumerate(names, 1))]
    assert figure.get_suptitle() in ("X: one, O: two", "O: one, X: two")
    images = [[ax.images[0].get_array() for ax in each.axes] for each in (plain, figure)]
    assert [bool((a != b).any()) for a, b in zip(*images, strict=True)] == [False] + [True] * len(names)
    animation = plot.render_game(states, env=env, moves=moves, players=("one", "two"))
    animation.save(tmp_path / "game.gif", writer="pillow", dpi=40)
    animation._func(1)
    assert animation._fig.axes[0].get_title().endswith(f"move 1 of {len(names)}: {names[0]}")
    with pytest.raises(ValueError, match=r"found `moves` of shape \[1\], expected"):
        plot.plot_game(states, env=env, moves=[0])
    with pytest.raises(ValueError, match="plot_game: found no game, expected env="):
        plot.plot_game(states, draw=env.draw, moves=moves)


def test_on_a_board_only_legal_cells_are_filled():
    _, start, state = tic_tac_toe_search()
    axes = plot.plot_root(state, board=(3, 3)).axes
    for ax in axes:
        filled = ~np.isnan(ax.images[0].get_array().filled(np.nan))
        np.testing.assert_array_equal(filled.ravel(), start[1].action_mask)
    visits = axes[1].images[0].get_array()
    assert visits.sum() == pytest.approx(1) and visits.argmax() == 2  # the winning cell
    assert len(axes) == 3 and axes[2].images[0].get_array()[0, 2] == 1
    with pytest.raises(ValueError, match="found a board of 4 x 3 and 9 actions, expected an action for each cell"):
        plot.plot_root(state, board=(4, 3))


@pytest.mark.slow
def test_the_animation_shows_the_search_that_search_would_run():
    env, start, state = tic_tac_toe_search()
    mcts = tz.MCTS(num_simulations=6, max_nodes=64, root=tz.Dirichlet())
    before, key = tz.init_search(mcts, *start), jax.random.key(3)
    done = searched(mcts, env, before, key)
    animation = plot.animate_search(mcts, env, tz.uniform_evaluator, before, key=key, labels=CELLS)
    html = animation._repr_html_()
    assert html.count("data:image/png;base64,") == 7  # before the first and after each
    assert not re.search(r'(src|href)="?http', html) and "fa-play" not in html
    words = {text.get_text() for text in animation._fig.axes[0].texts}  # of the frame drawn last
    expected = {f"{node.visits}\n{plot.canvas.signed(node.value)}" for node in show_nodes(done, **limits(max_depth=4))}
    assert expected <= words


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["room", "full", "kept actions", "chance"])
def test_a_frame_is_made_from_the_last_tree_and_its_counts(kind):
    """A search changes nothing else in its tree, so the nodes of each step are those of the state at that step."""
    env, start, _ = tic_tac_toe_search()
    if kind == "chance":
        env = pig(20)
        start = env.init(jax.random.key(0))
    mcts = tz.MCTS(24, max_nodes=26 if kind == "full" else 64, max_actions=4 if kind == "kept actions" else None)

    @jax.jit
    def run(key):
        kept = tz.search(mcts, env, tz.uniform_evaluator, tz.init_search(mcts, *start), key=key)  # may fill the tree
        state, states = tz.start_search(mcts, tz.uniform_evaluator, kept, key=key), []
        for step in range(4):
            states.append(state)
            state = tz.search_step(mcts, env, tz.uniform_evaluator, state, key=jax.random.fold_in(key, step))
        return states, [_Counts.of(each.tree) for each in states], state

    states, counts, last = jax.device_get(run(jax.random.key(1)))
    for state, count in zip(states, counts, strict=True):
        assert read_nodes(count.put_into(last)) == read_nodes(state)
    if kind != "chance":
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(counts[0]))
        assert size < sum(leaf.nbytes for leaf in jax.tree.leaves(last)) / 4


def test_a_search_of_several_games_is_not_animated():
    env, start, _ = tic_tac_toe_search()
    before = jax.vmap(lambda key: tz.init_search(MCTS, *start))(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="animate_search: found the states of 3 games, expected that of one"):
        plot.animate_search(MCTS, env, tz.uniform_evaluator, before, key=jax.random.key(0))


def test_a_search_with_a_model_has_no_names_of_the_game():
    env, start, _ = tic_tac_toe_search()
    model = tz.mcts.Model(lambda state, metadata: ((state, jnp.int32(0)), metadata), lambda state, action: None)
    state = tz.init_search(MCTS, *start, model=model)
    for draw in (lambda: plot.plot_tree(state, env=env), lambda: plot.plot_root(state, env=env, board=True)):
        with pytest.raises(ValueError, match="found a search whose states are not those of tic_tac_toe, expected them"):
            draw()
    assert plot.canvas.move_names(state, None, model)(0, 3) == "3"


@pytest.mark.parametrize("solve", [False, True])
def test_a_legal_move_of_prior_0_is_drawn_and_the_improved_policy_is_that_of_self_play(solve):
    env, start, _ = tic_tac_toe_search()
    mcts = tz.without_exploration(tz.gumbel_mcts(16, solve=solve))

    def without_c1(state, metadata, key):
        return jnp.zeros(9).at[2].set(-1e9), jnp.float32(0)

    @jax.jit
    def run(key):
        return tz.search(mcts, env, without_c1, tz.init_search(mcts, *start), key=key)

    state = run(jax.random.key(0))
    (ax,) = plot.plot_root(state, env=env, mcts=mcts).axes
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert sorted(names) == ["a1", "b1", "c1", "c2", "c3"] and float(jnp.exp(state.root.logits[2])) == 0
    weights = np.asarray(tz.action_weights(mcts, state))[np.flatnonzero(start[1].action_mask)]
    drawn = [bar.get_height() for bar in ax.containers[2]]
    np.testing.assert_allclose(sorted(drawn), sorted(weights), rtol=1e-5)
    assert not solve or max(drawn) == 1


@functools.cache
def tic_tac_toe_match():
    env = tz.from_pgx("tic_tac_toe")
    player = tz.Player(tz.MCTS(8, root=tz.PlainRoot(), temperature=0.0), tz.uniform_evaluator)
    match = tz.play_match(
        env, player, tz.random_player(), num_games=8, opening_moves=1, key=jax.random.key(0), mesh=one_device()
    )
    return env, player, match


def one_device():
    return tz.data_mesh(jax.devices()[:1])


@pytest.mark.slow
def test_the_players_values_are_seen_by_the_first_player_and_end_with_the_outcome():
    env, player, match = tic_tac_toe_match()
    for game in (0, 1):
        states = tz.replay_game(env, match, game)
        values = tz.matches.replay_values(env, match, game, player, key=jax.random.key(1))
        assert values.shape == states.current_player.shape
        assert values[-1] == match.returns[game] != 0
        # One move before the end of a won game, the winner's search has found the win.
        assert jnp.sign(values[-2]) == jnp.sign(match.returns[game])


def test_a_game_is_drawn_move_by_move(tmp_path):
    env, player, match = tic_tac_toe_match()
    states = tz.replay_game(env, match, 0)
    num_positions = len(states.current_player)
    values = {"search": tz.matches.replay_values(env, match, 0, player, key=jax.random.key(1))}
    animation = plot.render_game(states, draw=env.draw, values=values)
    animation.save(tmp_path / "game.gif", writer="pillow", dpi=40)
    from PIL import Image

    with Image.open(tmp_path / "game.gif") as image:
        assert image.n_frames == num_positions
        frames = []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("L")))
    assert all((one != other).any() for one, other in itertools.pairwise(frames))
    strip = plot.plot_game(states, draw=env.draw, values=values, max_boards=4)
    titles = [ax.get_title() for ax in strip.axes if ax.get_title()]
    assert len(titles) == 4 and titles[0] == "0" and titles[-1] == str(num_positions - 1)
    with pytest.raises(ValueError, match=rf"`values` of 'short' with shape \[3\], expected \[{num_positions}\]"):
        plot.render_game(states, draw=env.draw, values={"short": np.zeros(3)})


def test_a_drawing_of_ones_own_is_an_image_and_needs_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    env, start, _ = tic_tac_toe_search()
    state = tz.init_search(MCTS, *start)
    board = plot.plot_tree(state, draw=lambda s: np.stack([s._x.board.reshape(3, 3) / 2 + 0.5] * 3, -1))
    assert len(board.axes[0].images) == 1
    with pytest.raises(ImportError, match=r"pip install 'tz\[pictures\]'"):
        plot.plot_tree(state, draw=env.draw)


ROWS = [
    {
        "epoch": epoch,
        "seconds": 60.0,
        "policy_loss": 2 / (1 + epoch),
        "value_loss": 1 / (1 + epoch),
        "random_score": 1 - 0.5 / (1 + epoch),
        "elo": 100.0 * epoch,
        "elo_low": 100.0 * epoch - 50,
        "elo_high": 100.0 * epoch + 50,
    }
    for epoch in range(6)
]


def test_curves_are_the_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for run in (ROWS, path, str(path), tmp_path):
        loss, score, elo = plot.plot_learning(run).axes
        assert loss.get_xlim() == score.get_xlim() == elo.get_xlim() and all(
            ax.get_title() for ax in (loss, score, elo)
        )
        np.testing.assert_allclose(loss.lines[0].get_ydata(), [row["policy_loss"] for row in ROWS])
        np.testing.assert_allclose(score.lines[0].get_xdata(), range(6))
        np.testing.assert_allclose(elo.lines[0].get_ydata(), [row["elo"] for row in ROWS])
        band = elo.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == -50 and band[:, 1].max() == 550


def test_losses_are_drawn_above_their_floors_where_these_are_known():
    rows = [{**row, "policy_loss_floor": 0.5 * row["policy_loss"], "value_loss_floor": 0.1} for row in ROWS]
    loss = plot.plot_learning(rows).axes[0]
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.5 * row["policy_loss"] for row in ROWS])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [row["value_loss"] - 0.1 for row in ROWS])
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["policy loss above its floor", "value loss minus a constant's"]


def test_a_number_that_json_has_not_is_a_gap_in_the_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for row in (ROWS[0], ROWS[1] | {"elo": math.nan, "elo_low": np.float32(-np.inf)}, ROWS[2]):
        tz.JsonLinesSink(path)(row)
    elo = plot.plot_learning(path).axes[-1]
    np.testing.assert_array_equal(elo.lines[0].get_ydata(), [0.0, np.nan, 200.0])


def test_seeds_are_drawn_as_their_mean_with_its_interval():
    losses = np.array([[2.0, 1.5], [1.0, 1.3], [1.8, 0.8]])  # [seed, epoch]
    rows = [{"seed": s, "epoch": e, "policy_loss": losses[s, e], "seconds": 9.0} for e in range(2) for s in range(3)]
    ax = tz.plot.plot_learning(rows, x="hours").axes[0]
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), [9 / 3600, 18 / 3600])
    np.testing.assert_allclose(line.get_ydata(), losses.mean(0))
    (band,) = ax.collections
    ends = band.get_datalim(ax.transData)
    expected = [scipy.stats.t.interval(0.95, 2, x.mean(), scipy.stats.sem(x)) for x in losses.T]
    np.testing.assert_allclose([ends.y0, ends.y1], [min(expected)[0], max(high for _, high in expected)])
    with_gap = [row | {"policy_loss": np.nan} if row["seed"] == 2 else row for row in rows]
    (line,) = tz.plot.plot_learning(with_gap).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), losses[:2].mean(0), err_msg="a seed without numbers is left out")
    one = tz.plot.plot_learning([row for row in rows if row["seed"] == 1]).axes[0]
    assert not one.collections and list(one.lines[0].get_ydata()) == list(losses[1])


def test_several_runs_share_axes_and_what_is_missing_is_left_out():
    short = [{"epoch": row["epoch"], "seconds": 30.0, "value_loss": 1.0} for row in ROWS[:3]]
    loss, score, _ = plot.plot_learning({"long": ROWS, "short": short}, x="hours").axes
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["long, policy loss", "long, value loss", "short, value loss"]
    np.testing.assert_allclose(loss.lines[2].get_xdata(), np.arange(1, 4) / 120)
    assert len({line.get_color() for line in loss.lines}) == 2 and len(score.lines) == 2
    with pytest.raises(ValueError, match=r"no 'random_score' .*'short', .* one of: elapsed so far, elo, elo_high"):
        plot.plot_learning({"long": ROWS, "short": short}, x="random_score")
    with pytest.raises(ValueError, match="found rows without losses, scores, Elo or returns"):
        plot.plot_learning([{"epoch": 0}])


def test_runs_are_drawn_by_games_moves_or_minutes():
    more = {"moves": 8, "random_score_low": 0.1, "random_score_high": 0.9}
    rows = [row | more | {"episodes": 3 + row["epoch"]} for row in ROWS]
    expected = {"games": [3, 7, 12, 18, 25, 33], "moves": [8, 16, 24, 32, 40, 48], "minutes": [1, 2, 3, 4, 5, 6]}
    for x, values in expected.items():
        axes = plot.plot_learning(rows, x=x).axes
        np.testing.assert_allclose(axes[0].lines[0].get_xdata(), values)
        assert [ax.get_ylabel() for ax in axes] == ["loss", "score", "Elo"] and len(axes[2].lines) == 1
    with pytest.raises(ValueError, match=r"found no file nowhere, expected the metrics of a run"):
        plot.plot_learning("nowhere")


def test_returns_are_drawn_with_their_interval_unless_there_are_scores():
    keys = ("mean_return", "test_return", "test_return_low", "test_return_high", "test_baseline_return")
    rows = [
        {"epoch": epoch, "value_loss": 1.0} | {key: 40.0 + epoch + place for place, key in enumerate(keys)}
        for epoch in range(4)
    ]
    loss, returns = plot.plot_learning(rows).axes
    assert returns.get_ylabel() == "return"
    labels = {line.get_label(): line.get_ydata() for line in returns.lines}
    assert labels.keys() == {"self-play", "test"}
    np.testing.assert_allclose(labels["self-play"], [40, 41, 42, 43])
    band = returns.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 42 and band[:, 1].max() == 46
    assert [ax.get_ylabel() for ax in plot.plot_learning([row | ROWS[0] for row in rows]).axes] == [
        "loss",
        "score",
        "Elo",
    ]


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([], (-1, 1)),
        ([0.2, -0.9], (-1, 1)),
        ([0.2, np.nan, 1.0001], (-1, 1)),
        ([40.0, 60.0, np.inf], (40, 60)),
        ([-5.0, 20.0], (-20, 20)),
        ([7.0], (6, 8)),
    ],
)
def test_axes_and_colours_follow_the_values(values, limits):
    assert value_limits(values) == limits


def test_values_of_a_game_stay_inside_of_its_picture_whatever_their_size():
    env, _, _ = tic_tac_toe_search()
    _, _, match = tic_tac_toe_match()
    states, values = tz.replay_game(env, match, 0), np.linspace(0, 250, 6)
    axes = plot.plot_game(states, draw=env.draw, values={"x": values}).axes[-1]
    assert axes.get_ylim()[0] < 0 and 250 < axes.get_ylim()[1] < 300
    axes = plot.plot_game(states, draw=env.draw, values={"x": values / 250}).axes[-1]
    np.testing.assert_allclose(axes.get_ylim(), (-1.08, 1.08))


def pictures():
    """Draws a small picture of every kind, of states that are the same on every machine."""
    env, _, state = tic_tac_toe_search((0, 8))
    _, _, match = tic_tac_toe_match()
    return {
        "tree": lambda: plot.plot_tree(state, labels=CELLS, max_leaves=8, max_depth=2),
        "tree_with_boards": lambda: plot.plot_tree(state, draw=env.draw, max_leaves=4, max_depth=2),
        "root": lambda: plot.plot_root(state, labels=CELLS),
        "root_on_board": lambda: plot.plot_root(state, board=(3, 3)),
        "learning": lambda: plot.plot_learning(ROWS),
        "game": lambda: plot.plot_game(tz.replay_game(env, match, 0), draw=env.draw, values={"x": np.zeros(6)}),
    }


RENDERERS = {"matplotlib": "3.11.2", "resvg-py": "0.5.0"}  # other versions draw text and boards differently


@pytest.mark.skipif(
    any(Version(importlib.metadata.version(name)) < Version(given) for name, given in RENDERERS.items()),
    reason=f"the references are what {RENDERERS} draw",
)
@pytest.mark.parametrize("name", ["tree", "tree_with_boards", "root", "root_on_board", "learning", "game"])
def test_pictures_look_as_they_did(name, tmp_path):
    pictures()[name]().savefig(tmp_path / f"{name}.png", dpi=60)
    assert compare_images(REFERENCES / f"{name}.png", tmp_path / f"{name}.png", tol=TOLERANCE) is None


def test_another_picture_would_be_noticed(tmp_path):
    _, _, state = tic_tac_toe_search((0, 8))
    plot.plot_tree(state, labels=CELLS, max_leaves=7, max_depth=2).savefig(tmp_path / "tree.png", dpi=60)
    with tempfile.TemporaryDirectory() as folder:
        expected = pathlib.Path(folder) / "tree.png"
        expected.write_bytes((REFERENCES / "tree.png").read_bytes())
        assert compare_images(expected, tmp_path / "tree.png", tol=TOLERANCE) is not None


if __name__ == "__main__":
    for name, make in pictures().items():
        make().savefig(REFERENCES / f"{name}.png", dpi=60)


def test_the_text_of_a_drawing_is_seen_though_its_font_is_not_installed():
    """The numbers of 2048 are in a font that few machines have."""
    text = '<text x="5" y="30" font-family="No Such Font">8</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">{text}</svg>'
    image = plot.canvas.picture(lambda state: svg, None, 40)
    assert (image[..., 0] < 0.5).sum() > 10
