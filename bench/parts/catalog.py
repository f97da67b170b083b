"""The parts of the tool, in the order in which `all` runs them."""

from typing import Final

from bench.tool.work import Part

from .coldstart import ColdStart
from .failover import Failover
from .gateway import Gateway
from .lag import Lag
from .replicas import Replicas
from .storage import Storage
from .tps import Tps

PARTS: Final[tuple[Part, ...]] = (
    Tps(),
    Failover(),
    ColdStart(),
    Replicas(),
    Lag(),
    Storage(),
    Gateway(),
)
