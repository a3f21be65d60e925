"""Shows files of the repository in the site, under the paths that they have there, so that their links hold."""

import pathlib
import posixpath
import re
import urllib.parse
from typing import Any

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
    "docs/guides/*.md",
    "notebooks/*.ipynb",
    "experiments/**/README.md",
    "experiments/**/*.py",
    "experiments/results/*",
)


def matches(pattern: str) -> list[str]:
    """The paths of files, seen from the root of the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


def on_config(config: MkDocsConfig) -> None:
    """Puts the files of the repository in the place of a pattern of the navigation."""

    def expand(entry: Any) -> Any:
        if isinstance(entry, str):
            return matches(entry) if "*" in entry else entry
        if isinstance(entry, list):
            return [expand(item) for item in entry]
        return {title: expand(item) for title, item in entry.items()}

    config.nav = expand(config.nav)


@event_priority(100)  # before the plugin that looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository to those of `docs/`."""
    for pattern in SHOWN:
        for path in matches(pattern):
            files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Follows the links of a notebook to other files, which are written as they hold in the repository."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def resolve(found: re.Match[str]) -> str:
        url = urllib.parse.urlsplit(found[2])
        if url.scheme or url.netloc or not url.path:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), urllib.parse.unquote(url.path)))
        target = files.get_file_from_path(path)
        if target is None:  # for the plugin that looks at all links
            return found[0]
        return f'{found[1]}="{url._replace(path=get_relative_url(target.url, page.url)).geturl()}"'

    return re.sub(r'\b(href|src)="([^"]*)"', resolve, html)
