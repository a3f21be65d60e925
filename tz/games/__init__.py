"""Games: the interface and a check of it, chance, starting positions, lists and names of moves, and the games of pgx.

This package imports only the private modules of `tz`.
"""

from tz.games.boards import Board as Board
from tz.games.boards import draw_board as draw_board
from tz.games.chance import SampledState as SampledState
from tz.games.chance import make_move as make_move
from tz.games.chance import sampled_chance as sampled_chance
from tz.games.conformance import check_env as check_env
from tz.games.env import Env as Env
from tz.games.env import StepMetadata as StepMetadata
from tz.games.move_lists import follow_moves as follow_moves
from tz.games.move_lists import play_moves as play_moves
from tz.games.move_lists import played_positions as played_positions
from tz.games.names import find_move as find_move
from tz.games.names import move_label as move_label
from tz.games.names import text_board as text_board
from tz.games.openings import random_opening as random_opening
from tz.games.openings import random_starts as random_starts
from tz.games.openings import starts_from as starts_from
from tz.games.pgx_games import from_pgx as from_pgx
