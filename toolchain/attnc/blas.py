"""Threads of the BLAS under NumPy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """One thread for the BLAS: its threads spin while they wait for each other, which for products of this size costs more than they
    gain even on an idle machine, and several times as much on a busy one."""
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited
