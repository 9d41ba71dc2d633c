"""A simulated 110 receiving centre that speaks SIA DC-09 and can have a bad day."""

from simulators.police_centre.centre import PoliceCentre
from simulators.police_centre.judge import Row
from simulators.police_centre.misbehaviour import KINDS, Misbehaviour

__all__ = ["KINDS", "Misbehaviour", "PoliceCentre", "Row"]
