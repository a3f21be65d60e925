"""Draws the pictures of the README: `python experiments/pictures.py --out experiments/results`.

They are a search tree of tic-tac-toe, a game of the small Connect Four agent of tz against a search with rollouts, and,
for CONTRIBUTING.md, the imports between the packages of tz. With `--page`, it also photographs the page of
`python -m tz play`, which needs Chromium, its driver and `pip install selenium`. `hello_othello.py` draws the learning
curve.
"""

import argparse
import ast
import pathlib
import shutil
import threading

import equinox as eqx
import jax
import jax.numpy as jnp

import tz
import tz.play
from tz.plot import action_names, plot_tree, render_game


def draw_tree(path: pathlib.Path) -> None:
    """Draws the tree of a search with a constant evaluator, where O is to move and must stop the top row."""
    env, mcts = tz.from_pgx("tic_tac_toe"), tz.MCTS(num_simulations=80, root=tz.PlainRoot())
    start = tz.init_search(mcts, *tz.play_moves(env, jnp.array([0, 4, 1])))
    searched = eqx.filter_jit(tz.search)(mcts, env, tz.uniform_evaluator, start, key=jax.random.key(0))
    cells = action_names(3, 3, others=())
    plot_tree(searched, draw=env.draw, labels=cells, max_depth=3, max_leaves=9).savefig(path, dpi=110)


def draw_game(path: pathlib.Path) -> None:
    env, mcts = tz.from_pgx("connect_four"), tz.without_exploration(tz.MCTS(64, persist_tree=False))
    agent = tz.Player(mcts, tz.load_agent("connect_four_small").evaluator)
    rival = tz.Player(tz.without_exploration(tz.MCTS(256, persist_tree=False)), tz.RolloutEvaluator(env))
    match = tz.play_match(env, agent, rival, num_games=2, key=jax.random.key(0), opening_moves=2, max_moves=42)
    players = {"the agent's estimate": agent, "the rival's": rival}
    values = {
        name: tz.matches.replay_values(env, match, 1, who, key=jax.random.key(1)) for name, who in players.items()
    }
    _, metadata = match.opening
    names = ("agent", "plain search")
    sides = names if metadata.cur_player_id[1] == match.player_id[1] else names[::-1]
    options = {"moves": match.actions[1], "players": sides, "values": values}
    animation = render_game(tz.replay_game(env, match, 1), env=env, **options)
    animation.save(path, writer="pillow", dpi=90)


ROOMS = ("games", "nn", "mcts", "matches", "learn", "runs", "plot", "play", "_commands")


def draw_rooms(path: pathlib.Path) -> None:
    """Draws how many imports each package of tz has from each other one, as they stand in the code."""
    import matplotlib.pyplot as plt

    counts = {(room, other): 0 for room in ROOMS for other in ROOMS}
    for file in (pathlib.Path(__file__).parents[1] / "tz").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            other = (
                node.module.split(".")[1] if isinstance(node, ast.ImportFrom) and "tz." in (node.module or "") else ""
            )
            if (file.parent.name, other) in counts and file.name != "__init__.py":
                counts[file.parent.name, other] += 1
    figure, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for (room, other), number in counts.items():
        if number and room != other:
            x, y = ROOMS.index(other), ROOMS.index(room)
            ax.scatter(x, y, s=120 + 22 * number, color="#0072b2", alpha=0.25 + min(number, 20) / 30)
            ax.text(x, y, number, ha="center", va="center", fontsize=9)
    ax.plot([-0.5, len(ROOMS) - 0.5], [-0.5, len(ROOMS) - 0.5], color="0.8", linewidth=1)
    ax.set_xticks(range(len(ROOMS)), ROOMS)
    ax.set_yticks(range(len(ROOMS)), ROOMS)
    ax.set(
        xlim=(-0.5, len(ROOMS) - 0.5),
        ylim=(len(ROOMS) - 0.5, -0.5),
        xlabel="from this package",
        ylabel="imports of this one",
    )
    ax.xaxis.set_label_position("top")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.savefig(path, dpi=110)


def photograph_page(path: pathlib.Path) -> None:
    """Photographs the page of `python -m tz play connect_four` after two moves of a person, with the analysis."""
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    env, agent = tz.from_pgx("connect_four"), tz.load_agent("connect_four")
    server = tz.play.PageServer(lambda number: tz.play.Session(env, agent, seed=number), title=env.name)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1160,860"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        driver.get(server.url)

        def wait_for(css: str) -> None:
            WebDriverWait(driver, 240).until(lambda driver: driver.find_elements("css selector", css))

        for number, square in enumerate(("4", "5")):
            wait_for(f".tzp[data-moves='{2 * number}']:not([data-busy='yes']):not([data-waiting='yes'])")
            driver.execute_script(
                "document.querySelector(`[data-square='${arguments[0]}']`)"
                ".dispatchEvent(new MouseEvent('click', {bubbles: true}))",
                square,
            )
        wait_for(".tzp[data-moves='4']")
        driver.find_element("css selector", "[data-do='overlay']").click()
        wait_for("tr.best")
        driver.save_screenshot(str(path))
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    parser.add_argument("--page", action="store_true", help="also photograph the page, in a browser")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    draw_rooms(args.out / "rooms.png")
    draw_tree(args.out / "tree.png")
    draw_game(args.out / "game.gif")
    if args.page:
        photograph_page(args.out / "page.png")


if __name__ == "__main__":
    main()
