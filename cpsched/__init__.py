"""cpsched: checked, explained and, where possible, optimal schedules for modern computing."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

# Functions whose module has their name are imported here, so that the function wins; their modules
# import pydantic, numpy and ortools only when called.
from cpsched.bound import bound
from cpsched.errors import CpschedError, ModelError, ProblemError, SolverContradiction
from cpsched.explain import explain
from cpsched.fallback import Fallback, fallback
from cpsched.improve import improve
from cpsched.many import solve_many
from cpsched.pareto import pareto
from cpsched.replan import Event, replan
from cpsched.result import Bound, Incumbent, Result, Status, StopReason
from cpsched.simulate import simulate
from cpsched.solve import solve
from cpsched.validate import Report, Violation, validate

if TYPE_CHECKING:
    from cpsched.problem import load, loads

__version__ = "0.1.0"

# Public name -> module, imported on first use.
_LAZY = {"load": "problem", "loads": "problem"}

__all__ = [
    "Bound",
    "CpschedError",
    "Event",
    "Fallback",
    "Incumbent",
    "ModelError",
    "ProblemError",
    "Report",
    "Result",
    "SolverContradiction",
    "Status",
    "StopReason",
    "Violation",
    "bound",
    "explain",
    "fallback",
    "improve",
    "load",
    "loads",
    "pareto",
    "replan",
    "simulate",
    "solve",
    "solve_many",
    "validate",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module 'cpsched' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cpsched.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
