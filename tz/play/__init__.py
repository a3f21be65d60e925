"""Games on the host, one move at a time, between people, programs and agents, and analyses of positions by agents."""

from tz.play.analysis import Analysis as Analysis
from tz.play.analysis import MoveAnalysis as MoveAnalysis
from tz.play.analysis import analyse as analyse
from tz.play.game import Game as Game
from tz.play.gtp import GtpServer as GtpServer
from tz.play.notebook import widget as widget
from tz.play.page import PageServer as PageServer
from tz.play.session import Session as Session
from tz.play.terminal import play_in_terminal as play_in_terminal
