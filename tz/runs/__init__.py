"""Training runs: the loop, checkpoints, forks, metric sinks, memory plans, recipes, and agent files.

This package may import from `games`, `nn`, `mcts`, `matches` and `learn`.
"""

from tz.runs.agent_files import agent_card as agent_card
from tz.runs.agent_files import agent_env as agent_env
from tz.runs.agent_files import load_agent as load_agent
from tz.runs.agent_files import save_agent as save_agent
from tz.runs.checkpoints import Checkpoints as Checkpoints
from tz.runs.exporting import export_network as export_network
from tz.runs.forking import fork as fork
from tz.runs.game_recipes import game_recipe as game_recipe
from tz.runs.game_recipes import gpu_recipe as gpu_recipe
from tz.runs.gpu_graphs import use_gpu_graphs as use_gpu_graphs
from tz.runs.loop import init_loop as init_loop
from tz.runs.loop import train_loop as train_loop
from tz.runs.memory_plan import MemoryPlan as MemoryPlan
from tz.runs.memory_plan import plan_memory as plan_memory
from tz.runs.recipes import Recipe as Recipe
from tz.runs.run_settings import RunSettings as RunSettings
from tz.runs.screen import Screen as Screen
from tz.runs.seeds import train_seeds as train_seeds
from tz.runs.sinks import JsonLinesSink as JsonLinesSink
from tz.runs.sinks import Sink as Sink
from tz.runs.sinks import TensorBoardSink as TensorBoardSink
from tz.runs.sinks import WandbSink as WandbSink
from tz.runs.sinks import console_sink as console_sink
from tz.runs.sinks import run_facts as run_facts
from tz.runs.stopping import StopTraining as StopTraining
from tz.runs.timed import train_for as train_for
from tz.runs.whole_run import train_run as train_run
