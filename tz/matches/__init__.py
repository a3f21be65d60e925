"""Matches and tournaments between agents, engines and Python functions, Elo ratings, and the testers of training.

This package may import from `games`, `nn` and `mcts`.
"""

from tz.matches._playing import MatchResult as MatchResult
from tz.matches.elo import Ratings as Ratings
from tz.matches.elo import fit_elo as fit_elo
from tz.matches.engines import GtpEngine as GtpEngine
from tz.matches.engines import HostPlayer as HostPlayer
from tz.matches.league import RoundRobin as RoundRobin
from tz.matches.league import round_robin as round_robin
from tz.matches.match import check_split as check_split
from tz.matches.match import play_match as play_match
from tz.matches.match import replay_game as replay_game
from tz.matches.match import replay_values as replay_values
from tz.matches.players import Player as Player
from tz.matches.players import random_player as random_player
from tz.matches.rating_testers import ApproxEloTester as ApproxEloTester
from tz.matches.rating_testers import LadderTester as LadderTester
from tz.matches.return_tester import EpisodeResult as EpisodeResult
from tz.matches.return_tester import ReturnTester as ReturnTester
from tz.matches.return_tester import play_episodes as play_episodes
from tz.matches.testers import OpponentTester as OpponentTester
from tz.matches.testers import Tester as Tester
from tz.matches.testers import TwoPlayerTester as TwoPlayerTester
