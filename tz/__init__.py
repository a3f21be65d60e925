"""tz: an AlphaZero research toolkit in JAX and Equinox.

This package exports the names that most programs need. The rest is in its subpackages: `tz.games`, `tz.nn`, `tz.mcts`,
`tz.learn`, `tz.matches`, `tz.runs`, `tz.play` and `tz.plot`. Modules and names that begin with an underscore are
private.
"""

from tz import play as play
from tz import plot as plot
from tz.games import Env as Env
from tz.games import StepMetadata as StepMetadata
from tz.games import check_env as check_env
from tz.games import from_pgx as from_pgx
from tz.games import play_moves as play_moves
from tz.games import random_opening as random_opening
from tz.games import random_starts as random_starts
from tz.learn import EpisodeReplayBuffer as EpisodeReplayBuffer
from tz.learn import Sample as Sample
from tz.learn import TrainConfig as TrainConfig
from tz.learn import az_loss as az_loss
from tz.learn import collect as collect
from tz.learn import init_collect as init_collect
from tz.learn import init_train as init_train
from tz.learn import random_dihedral as random_dihedral
from tz.learn import random_mirror as random_mirror
from tz.learn import train_step as train_step
from tz.matches import ApproxEloTester as ApproxEloTester
from tz.matches import OpponentTester as OpponentTester
from tz.matches import Player as Player
from tz.matches import TwoPlayerTester as TwoPlayerTester
from tz.matches import play_match as play_match
from tz.matches import random_player as random_player
from tz.matches import replay_game as replay_game
from tz.matches import round_robin as round_robin
from tz.mcts import MCTS as MCTS
from tz.mcts import PUCT as PUCT
from tz.mcts import Dirichlet as Dirichlet
from tz.mcts import Gumbel as Gumbel
from tz.mcts import ImprovedPolicy as ImprovedPolicy
from tz.mcts import NetworkEvaluator as NetworkEvaluator
from tz.mcts import PlainRoot as PlainRoot
from tz.mcts import RolloutEvaluator as RolloutEvaluator
from tz.mcts import SearchState as SearchState
from tz.mcts import action_weights as action_weights
from tz.mcts import advance as advance
from tz.mcts import choose_action as choose_action
from tz.mcts import gumbel_mcts as gumbel_mcts
from tz.mcts import init_search as init_search
from tz.mcts import root_value as root_value
from tz.mcts import search as search
from tz.mcts import search_step as search_step
from tz.mcts import start_search as start_search
from tz.mcts import uniform_evaluator as uniform_evaluator
from tz.mcts import without_exploration as without_exploration
from tz.nn import MLP as MLP
from tz.nn import AZResNet as AZResNet
from tz.runs import Checkpoints as Checkpoints
from tz.runs import JsonLinesSink as JsonLinesSink
from tz.runs import Recipe as Recipe
from tz.runs import console_sink as console_sink
from tz.runs import fork as fork
from tz.runs import init_loop as init_loop
from tz.runs import load_agent as load_agent
from tz.runs import save_agent as save_agent
from tz.runs import train_loop as train_loop
from tz.sharding import data_mesh as data_mesh
from tz.sharding import over_games as over_games
