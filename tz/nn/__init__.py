"""Layers, networks and value heads.

This package imports only the private modules of `tz`.
"""

from tz.nn.networks import MLP as MLP
from tz.nn.networks import AZResNet as AZResNet
from tz.nn.outputs import policy_and_value as policy_and_value
from tz.nn.outputs import value_loss as value_loss
from tz.nn.value_heads import CategoricalPrediction as CategoricalPrediction
from tz.nn.value_heads import CategoricalValue as CategoricalValue
from tz.nn.value_heads import LinearValue as LinearValue
from tz.nn.value_heads import TanhValue as TanhValue
from tz.nn.value_heads import ValueHead as ValueHead
