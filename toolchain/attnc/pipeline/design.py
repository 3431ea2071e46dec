"""The pass that settles the hardware."""

from __future__ import annotations

from dataclasses import replace

from attnc.errors import FitError
from attnc.pipeline.state import State
from attnc.schedule.cost import check_memory, estimate
from attnc.schedule.design import check_fit
from attnc.schedule.engine_choice import choose_engines
from attnc.schedule.file import check_program, design_of
from attnc.schedule.program import build_program


def settle_design(state: State) -> None:
    """The design: the schedule's where one is given, else the best that fits; and the engine of every layer that may have either."""
    graph, board, path = state.graph, state.board, state.options.schedule
    if state.schedule is None or path is None:
        state.design, state.engines = choose_engines(graph, board, state.clock_mhz, state.options.objective)
    else:
        state.design = design_of(state.schedule, path, graph)
    program = build_program(graph, state.design, None)
    check_memory(program, board)
    if state.schedule is not None and path is not None:
        program = replace(program, depths=state.schedule.fifos)
        cost = estimate(program, board, state.clock_mhz, state.schedule.memory, state.schedule.ports)
        check_program(state.schedule, path, program, cost, board)
        state.misfit = check_fit(graph, state.design, cost, board, state.clock_mhz)
        if state.misfit and state.options.fit:
            raise FitError(state.misfit)
