"""Adds files of the repository to the site under their own paths, so that the links between them work."""

import pathlib
import posixpath
import re
import urllib.parse
from html import unescape
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = pathlib.Path(__file__).parents[1]
SHOWN = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "docs/guides/**/*.md",
    "notebooks/*.ipynb",
    "experiments/**/README.md",
    "experiments/**/*.py",
    "experiments/results/*",
    "experiments/results/films/*",
)


def matches(pattern: str) -> list[str]:
    """Returns the paths of files relative to the root of the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file())


def on_config(config: MkDocsConfig) -> None:
    """Replaces each pattern in the navigation by the files of the repository that match it."""

    def expand(entry: Any) -> Any:
        if isinstance(entry, str):
            return matches(entry) if "*" in entry else entry
        if isinstance(entry, list):
            return [expand(item) for item in entry]
        return {title: expand(item) for title, item in entry.items()}

    config.nav = expand(config.nav)


@event_priority(100)  # before the plugin that converts notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository to the files of `docs/`."""
    for pattern in SHOWN:
        for path in matches(pattern):
            files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def typeset(html: str, *, is_notebook: bool) -> str:
    """Replaces formulas in the syntax of LaTeX by MathML, which browsers show without a script or a server.

    Formulas of notebooks are still between dollar signs. Those of other pages are marked by `pymdownx.arithmatex`.
    """
    literal = r"(?s:<(?P<tag>pre|code|script|style)\b.*?</(?P=tag)>)|(?P<other><[^>]*>)"
    formulas = r"\\\((?P<inline>.+?)\\\)|(?s:\\\[(?P<block>.+?)\\\])"
    if is_notebook:
        formulas += r"|\$(?P<dollar>(?=\S)[^$\n<]+(?<=\S))\$"

    def convert(found: re.Match[str]) -> str:
        if found["tag"] or found["other"]:
            return found[0]
        text = unescape(next(text for name, text in found.groupdict().items() if text and name not in ("tag", "other")))
        return latex2mathml.converter.convert(text, display="block" if found["block"] else "inline")

    return re.sub(f"{literal}|{formulas}", convert, html)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Typesets formulas, and rewrites the links of a notebook to other files, which hold in the repository."""
    is_notebook = page.file.src_uri.endswith(".ipynb")
    html = typeset(html, is_notebook=is_notebook)
    if not is_notebook:
        return html

    def resolve(found: re.Match[str]) -> str:
        url = urllib.parse.urlsplit(found[2])
        if url.scheme or url.netloc or not url.path:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), urllib.parse.unquote(url.path)))
        target = files.get_file_from_path(path)
        if target is None:  # left for the plugin that checks all links
            return found[0]
        return f'{found[1]}="{url._replace(path=get_relative_url(target.url, page.url)).geturl()}"'

    return re.sub(r'\b(href|src)="([^"]*)"', resolve, html)
