"""The reference has every public name, and every name that docstrings refer to.

`nox -s docs` builds the site, in which every warning is an error.
"""

import ast
import dataclasses
import importlib
import json
import pathlib
import pkgutil
import re
import urllib.parse

import pgx
import pytest

import tz

ROOT = pathlib.Path(tz.__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTED = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)]


def exported(package) -> set[str]:
    nodes = ast.parse(pathlib.Path(package.__file__).read_text("utf-8")).body[1:]
    return {alias.asname for node in nodes if node.module != "tz" for alias in node.names}  # without packages


def public_names() -> set[str]:
    """Returns each public name where users find it: in `tz`, or otherwise in its package."""
    packages = {
        info.name: importlib.import_module(f"tz.{info.name}")
        for info in pkgutil.iter_modules(tz.__path__)
        if info.ispkg
    }
    top = exported(tz)
    below = {f"tz.{name}.{x}" for name, package in packages.items() for x in exported(package) - top}
    return {f"tz.{name}" for name in top} | below


def test_every_public_name_is_in_the_reference_once():
    assert sorted(DOCUMENTED) == sorted(public_names())


def test_the_first_level_is_small():
    assert len(exported(tz)) <= 60


def test_every_page_is_in_the_navigation():
    # Read as text, since the file has tags that only mkdocs understands.
    listed = re.findall(r"^ +- (?:docs/)?((?:api|guides)/\S+)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES)


def test_docstrings_refer_only_to_what_is_in_the_reference():
    texts = {path: path.read_text("utf-8") for path in [*(ROOT / "tz").rglob("*.py"), *PAGES]}
    targets = {name or shown for text in texts.values() for shown, name in re.findall(r"\[`([^`]+)`\]\[(.*?)\]", text)}
    assert len(targets) > 40
    for target in targets:
        owner, _, member = target.rpartition(".")
        known = target in DOCUMENTED or (owner in DOCUMENTED and hasattr(pkgutil.resolve_name(owner), member))
        assert known, f"{target} is not in the reference"


def test_links_to_other_sites_are_whole():
    paths = [*ROOT.glob("*.md"), *PAGES, *(ROOT / "experiments").rglob("*.md"), *(ROOT / "tz").rglob("*.py")]
    texts = {path: path.read_text("utf-8") for path in paths}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [(path, link) for path, text in texts.items() for link in re.findall(r"\]\((\w+:[^)]*)\)", text)]
    assert len(links) > 10
    for path, link in links:
        url = urllib.parse.urlsplit(link)
        assert url.scheme == "https" and "." in url.netloc and not re.search(r"\s", link), f"{path}: {link}"


@pytest.mark.slow
def test_the_table_of_games_is_what_the_code_says():
    page, names = (ROOT / "docs" / "guides" / "games.md").read_text("utf-8"), {}
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, names)
    rows = {name: row for row, name in re.findall(r"^(\| \[`(\S+)`\]\S+ \| [12] \| .*)$", page, re.MULTILINE)}
    refused = {"bridge_bidding", "kuhn_poker", "leduc_holdem", "sparrow_mahjong"}
    assert rows.keys() == set(pgx.available_envs()) - refused
    for name, row in rows.items():
        if name in ("animal_shogi", "chess", "gardner_chess", "shogi"):  # slow to load
            recipe = tz.runs.game_recipe(name)
            search = f"{recipe.num_simulations} simulations, {recipe.num_games} games"
            assert row.startswith(f"| [`{name}`](games/{name}.md) |")
            assert f"| {recipe.num_blocks} \N{MULTIPLICATION SIGN} {recipe.num_channels} | {search} |" in row
        else:
            assert row == names["row"](name)


def test_each_game_has_a_page_with_the_settings_of_its_recipe():
    overview = (ROOT / "docs" / "guides" / "games.md").read_text("utf-8")
    names = re.findall(r"^\| \[`(\S+)`\]\(games/\1\.md\) \|", overview, re.MULTILINE)
    pages = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "guides" / "games").glob("*.md")}
    assert len(names) == 17
    assert sorted(names) == sorted(pages)
    always = {"num_blocks", "num_channels", "num_simulations", "num_games", "random_starts", "opening_moves"}
    always |= {"capacity", "td_lambda", "learning_rate"}
    for name, page in pages.items():
        recipe, defaults = (dataclasses.asdict(one) for one in (tz.runs.game_recipe(name), tz.Recipe(name)))
        shown = always | {field for field in recipe if recipe[field] != defaults[field]}
        table = page.split("| part | settings of the recipe for a CPU |\n|---|---|\n")[1].split("\n\n")[0]
        settings = re.findall(r"`(\w+)=([^`]+)`", table)
        assert sorted(field for field, _ in settings) == sorted(shown), name
        assert {field: ast.literal_eval(text) for field, text in settings} == {field: recipe[field] for field in shown}
        assert re.search(rf"^python -m tz train --env {name} --minutes \d+$", page, re.MULTILINE), name
        assert f"/films/{name}.gif)" in page
        assert f"(games/{name}.md)" in overview.split("## What they look like")[1]  # its film leads to the page
