"""Runs the notebooks and measures how long a reader waits: for the first search or training, and for the whole.

    python experiments/notebook_times.py --out experiments/results/notebook_times_cpu.md

Each notebook runs in a new process without a compilation cache, as on its first day. A cell counts as the first search
if it calls a search, self-play, a match or training. The notebooks are left as they are, unless `--save` puts
the new outputs into them.
"""

import argparse
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from timing import heading

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SEARCHES = re.compile(r"\b((?!searchsorted)\w*search\w*|\w*collect\w*|train\w*|play_\w+|\w*match\w*)\(")


def times(path: Path, save: bool) -> tuple[int | None, float | None, float]:
    """Runs a notebook; returns the number of the first cell that searches, the seconds until its end, and in all."""
    notebook = nbformat.read(path, as_version=4)
    begun, first = time.perf_counter(), []

    def note(cell, cell_index, **_):
        code = re.sub(r"(?m)^\s*(def|class) .*$", "", cell.source)
        if not first and cell.cell_type == "code" and SEARCHES.search(code):
            first.append((cell_index, time.perf_counter() - begun))

    options = {"timeout": 1200, "record_timing": False, "resources": {"metadata": {"path": path.parent}}}
    NotebookClient(notebook, on_cell_executed=note, **options).execute()
    total = time.perf_counter() - begun
    if save:
        nbformat.write(notebook, path)
    number, seconds = first[0] if first else (None, None)
    return number, seconds, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of notebooks; without it, all run")
    parser.add_argument("--save", action="store_true", help="put the new outputs into the notebooks")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    lines = [
        "# How long a notebook makes its reader wait",
        "",
        f"{heading('tz', 'jax')} `python experiments/notebook_times.py`. Nothing is compiled beforehand.",
        "",
        "| notebook | seconds to the end of the first search | seconds in all |",
        "|---|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if args.only and not any(part in path.name for part in args.only):
            continue
        number, first, seconds = times(path, args.save)
        shown = "" if first is None else f"{first:.0f} (cell {number})"
        lines.append(f"| {path.stem} | {shown} | {seconds:.0f} |")
        print(lines[-1], flush=True)
        if args.out is not None:
            args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
