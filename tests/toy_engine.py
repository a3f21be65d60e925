"""A tiny engine that speaks GTP: `python toy_engine.py good --moves a3 b3 c3`. It plays the first move of the list that
has not been played in the game. In the other modes it fails after the move `--trigger` has been played.
"""

import argparse
import sys
import time


class Toy:
    def __init__(self, args: argparse.Namespace):
        self.args, self.played = args, []

    def say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n\n")
        sys.stdout.flush()

    def genmove(self) -> None:
        mode = self.args.mode if self.args.trigger in self.played else "good"
        move = next(move for move in self.args.moves if move not in self.played)
        print(f"thinking about {move}", file=sys.stderr, flush=True)
        if mode == "crash":
            print("segmentation fault, more or less", file=sys.stderr)
            sys.exit(3)
        if mode == "hang":
            time.sleep(600)
        if mode == "refuse":
            return self.say("? I would rather not")
        if mode == "garbage":
            return self.say("Hello! I play " + move)
        if mode == "illegal":
            return self.say(f"= {self.played[0]}")
        if mode == "resign":
            return self.say("= resign")
        self.played.append(move)
        return self.say(f"= {move.upper()}")

    def play(self, move: str) -> None:
        if move == "pass" and self.args.no_pass:
            return self.say("? syntax error")
        self.played.append(move)
        return self.say("=")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["good", "dead", "crash", "hang", "refuse", "garbage", "illegal", "resign"])
    parser.add_argument("--moves", nargs="+", required=True)
    parser.add_argument("--trigger", default="")
    parser.add_argument("--no-pass", action="store_true", help="it passes by itself, and knows no such move")
    args = parser.parse_args()
    if args.mode == "dead":
        sys.exit("no opening book found")
    toy = Toy(args)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "genmove":
            toy.genmove()
        elif command == "play":
            toy.play(rest[1].lower())
        elif command == "clear_board":
            toy.played = []
            toy.say("=")
        elif command == "quit":
            return toy.say("=")
        else:
            toy.say("? unknown command")
    return None


if __name__ == "__main__":
    main()
