"""The rig: a real Kubernetes of two nodes on one machine, without docker, for the e2e tests."""

from .errors import RigError
from .images import Image
from .nodes import Node
from .rig import Rig, borrowed

__all__ = ["Image", "Node", "Rig", "RigError", "borrowed"]
