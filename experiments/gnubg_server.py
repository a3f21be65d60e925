"""Answers requests for moves, a line for each line; `gnubg_moves.py` lets gnubg run this file in its own Python."""

import json
import sys

import gnubg  # pyright: ignore[reportMissingImports]  # a part of the program gnubg, not a package

MARK = "best moves: "  # marks the answers, as gnubg itself writes to the same output

for setting in ("automatic game off", "automatic roll off", "automatic move off", "automatic bearoff off"):
    gnubg.command(f"set {setting}")
for setting in ("set player 0 human", "set player 1 human", "new session", "set jacoby off"):
    gnubg.command(setting)
cube = gnubg.cubeinfo(1, -1, 0, 0, (0, 0), 0)

for line in sys.stdin:
    question = json.loads(line)
    # No cube, pruned lookahead, and noise that depends on the position alone.
    context = gnubg.evalcontext(0, question["plies"], 1, 1, question["noise"])
    answers = []
    for board, dice in question["positions"]:
        gnubg.command("set dice {} {}".format(*dice))
        answers.append(gnubg.findbestmove(board, cube, context))
    print(MARK + json.dumps(answers), flush=True)
