"""Learning from self-play: recorded moves, value targets, the replay buffer, symmetries, gradient steps, settings, and
an epoch as a pure function.

This package imports from `tz.games`, `tz.nn`, `tz.mcts` and `tz.matches`.
"""

from tz.learn.epochs import epoch as epoch
from tz.learn.epochs import gradient_phase as gradient_phase
from tz.learn.epochs import self_play_phase as self_play_phase
from tz.learn.losses import az_loss as az_loss
from tz.learn.losses import ownership_loss as ownership_loss
from tz.learn.new_games import init_epoch as init_epoch
from tz.learn.replay import EpisodeReplayBuffer as EpisodeReplayBuffer
from tz.learn.ring import ReplayState as ReplayState
from tz.learn.self_play import CollectState as CollectState
from tz.learn.self_play import collect as collect
from tz.learn.self_play import init_collect as init_collect
from tz.learn.settings import LoopState as LoopState
from tz.learn.settings import TrainConfig as TrainConfig
from tz.learn.symmetries import dihedral as dihedral
from tz.learn.symmetries import mirror as mirror
from tz.learn.symmetries import random_dihedral as random_dihedral
from tz.learn.symmetries import random_mirror as random_mirror
from tz.learn.symmetries import turn_unroll as turn_unroll
from tz.learn.targets import lambda_returns as lambda_returns
from tz.learn.training import TrainState as TrainState
from tz.learn.training import init_train as init_train
from tz.learn.training import train_step as train_step
from tz.learn.trajectory import EpisodeEnd as EpisodeEnd
from tz.learn.trajectory import Sample as Sample
from tz.learn.trajectory import Trajectory as Trajectory
from tz.learn.trajectory import Unroll as Unroll
