"""Layers and networks.

Imports only the private modules of `tz`."""

from tz.nn.networks import MLP as MLP
from tz.nn.networks import AZResNet as AZResNet
from tz.nn.outputs import policy_and_value as policy_and_value
