"""Errors a user can act on.

Every error says what was needed, what was found and where. The command line prints the message on stderr and exits with 2;
anything that is not an `AttncError` is a bug in attnc and is reported as one.
"""

from __future__ import annotations

from collections.abc import Sequence


class AttncError(Exception):
    """Base of all errors whose cause lies in the input, the settings or the machine."""


class ModelError(AttncError):
    """The ONNX model is broken, hostile or incomplete."""


class UnsupportedError(AttncError):
    """The model is valid, but something in it cannot be compiled: a node, and `others` that cannot either."""

    def __init__(self, node: str, operator: str, reason: str, others: Sequence[UnsupportedError] = ()) -> None:
        self.node, self.operator, self.reason, self.others = node, operator, reason, tuple(others)
        nodes: dict[tuple[str, str], list[str]] = {(operator, reason): [node]}
        for other in others:
            nodes.setdefault((other.operator, other.reason), []).append(other.node)
        super().__init__("\n".join(_line(names, *what) for what, names in nodes.items()))


def _line(nodes: Sequence[str], operator: str, reason: str) -> str:
    named = dict.fromkeys(map(repr, nodes))
    return f"node{'s' if len(named) > 1 else ''} {', '.join(named)} ({operator}): {reason}"


class ConfigError(AttncError):
    """A setting, a board description or a command-line value is wrong."""


class DataError(AttncError):
    """Calibration, evaluation or run-time data do not fit the model."""


class BuildError(AttncError):
    """A build folder is damaged, or a tool that it needs failed."""


class DifferenceError(AttncError):
    """The emitted C++ is not golden: a bug in attnc, found before a build was left behind. The command line exits with 1."""


class DeadlockError(AttncError):
    """Processes of the design wait for each other for ever, found before a build was left behind. The command line exits with 1."""


class FitError(AttncError):
    """The design does not fit the board."""


class OverflowRiskError(AttncError):
    """An accumulator could overflow for inputs that the types allow."""
