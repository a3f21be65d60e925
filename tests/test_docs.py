"""The reference names everything that is public, and what docstrings refer to is in it.

`nox -s docs` builds the site, in which every warning is an error.
"""

import ast
import collections
import json
import pathlib
import pkgutil
import re
import urllib.parse

import tz
import tz.plot

ROOT = pathlib.Path(tz.__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# A function that hides the module of its name needs both: `[](){#tz.search}`, and below it `::: tz.search.search`.
ENTRY = re.compile(r"^(?:\[\]\(\)\{#(\S+)\}\n)?::: (\S+)$", re.MULTILINE)
ENTRIES = [entry for page in PAGES for entry in ENTRY.findall(page.read_text("utf-8"))]
DOCUMENTED = [anchor or name for anchor, name in ENTRIES]


def exported(package, prefix: str) -> set[str]:
    nodes = ast.parse(pathlib.Path(package.__file__).read_text("utf-8")).body[1:]
    return {prefix + alias.asname for node in nodes for alias in node.names}


def test_every_public_name_is_in_the_reference_once():
    public = exported(tz, "tz.") | exported(tz.plot, "tz.plot.")
    assert public - set(DOCUMENTED) == set()
    assert [name for name, count in collections.Counter(DOCUMENTED).items() if count > 1] == []
    assert [name for _, name in ENTRIES if (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
    assert set(DOCUMENTED) - public == {"tz.targets.lambda_returns"}  # what the value targets are is said there


def test_every_page_of_the_reference_is_in_the_navigation():
    # As text: the file has tags that only mkdocs reads.
    listed = re.findall(r"^ +- (api/\S+)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]


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
