"""Pictures of searches, runs and games. Importing this package does not import Matplotlib; drawing does."""

from tz.plot.animations import animate_search as animate_search
from tz.plot.games import action_names as action_names
from tz.plot.games import plot_game as plot_game
from tz.plot.games import render_game as render_game
from tz.plot.games import save_game as save_game
from tz.plot.learning import plot_learning as plot_learning
from tz.plot.learning import read_metrics as read_metrics
from tz.plot.root import plot_root as plot_root
from tz.plot.tree_view import tree_to_dot as tree_to_dot
from tz.plot.trees import plot_tree as plot_tree
