"""Monte Carlo tree search of one game: its settings and plug-ins, the tree, evaluators, and results.

Of the other packages of tz, this package imports only `tz.games` and `tz.nn`.
"""

from tz.mcts.backups import MaxBackup as MaxBackup
from tz.mcts.backups import MeanBackup as MeanBackup
from tz.mcts.backups import SoftmaxBackup as SoftmaxBackup
from tz.mcts.evaluators import NetworkEvaluator as NetworkEvaluator
from tz.mcts.evaluators import RolloutEvaluator as RolloutEvaluator
from tz.mcts.evaluators import uniform_evaluator as uniform_evaluator
from tz.mcts.final_moves import LowerConfidenceBound as LowerConfidenceBound
from tz.mcts.final_moves import root_returns as root_returns
from tz.mcts.gumbel_root import Gumbel as Gumbel
from tz.mcts.gumbel_root import halving_schedule as halving_schedule
from tz.mcts.models import Model as Model
from tz.mcts.models import ModelEvaluator as ModelEvaluator
from tz.mcts.results import action_weights as action_weights
from tz.mcts.results import choose_action as choose_action
from tz.mcts.results import root_value as root_value
from tz.mcts.root_policies import Dirichlet as Dirichlet
from tz.mcts.root_policies import ForcedPlayouts as ForcedPlayouts
from tz.mcts.root_policies import PlainRoot as PlainRoot
from tz.mcts.root_policies import RootPolicy as RootPolicy
from tz.mcts.root_policies import RootResult as RootResult
from tz.mcts.selectors import PUCT as PUCT
from tz.mcts.selectors import CompletedQ as CompletedQ
from tz.mcts.selectors import ImprovedPolicy as ImprovedPolicy
from tz.mcts.selectors import MuZeroPUCT as MuZeroPUCT
from tz.mcts.settings import MCTS as MCTS
from tz.mcts.settings import gumbel_mcts as gumbel_mcts
from tz.mcts.settings import without_exploration as without_exploration
from tz.mcts.simulation import Evaluator as Evaluator
from tz.mcts.simulation import SearchState as SearchState
from tz.mcts.simulation import advance as advance
from tz.mcts.simulation import init_search as init_search
from tz.mcts.simulation import search as search
from tz.mcts.simulation import search_step as search_step
from tz.mcts.simulation import start_search as start_search
from tz.mcts.sizes import search_bytes as search_bytes
from tz.mcts.tree import Node as Node
from tz.mcts.tree import Tree as Tree
