"""The pass that settles the hardware."""

from __future__ import annotations

from dataclasses import replace

import onnx

from attnc.decoding.head import LastLinear, last_linear
from attnc.decoding.plan import head_on_host, plan_decoder
from attnc.errors import FitError, UnsupportedError
from attnc.pipeline.cache_error import measure_caches
from attnc.pipeline.head import HeadChoice, choose_head
from attnc.pipeline.state import State
from attnc.quant.samples import table_rows
from attnc.schedule.cost import check_memory, estimate
from attnc.schedule.design import check_fit
from attnc.schedule.engine_choice import choose_engines
from attnc.schedule.file import check_program, design_of
from attnc.schedule.program import build_program


def add_caches(state: State) -> None:
    """A model over sequences becomes a decoder; all that was measured is of the former."""
    options = state.options
    assert options.max_length is not None
    (spec,), (output,) = state.model.inputs, state.model.graph.outputs
    proto = onnx.load(state.path, load_external_data=False)
    vocabulary = table_rows(proto, spec.name) or state.graph.value(output).shape[1]
    folder, sessions, branches = state.path.parent, options.sessions, options.batch or 0
    state.decoder = plan_decoder(state.model, options.max_length, options.block, sessions, vocabulary, folder, branches)
    state.cache_errors = measure_caches(state)
    state.model = state.decoder.model
    head = _head(state)
    state.head = None if head is None else choose_head(head, state.board, state.clock_mhz, options.head, branches or 1)
    if state.head is not None and state.head.where == "host":
        _move_head(state, state.head)


def _head(state: State) -> LastLinear | None:
    """The layer that may run on the host; None where there is none, which is an error where it was asked for."""
    assert state.decoder is not None
    try:
        return last_linear(state.decoder.sequence.graph)
    except UnsupportedError:
        if state.options.head == "host":
            raise
        return None


def _move_head(state: State, choice: HeadChoice) -> None:
    """The last layer to the host."""
    assert state.decoder is not None
    state.decoder, state.head = head_on_host(state.decoder, choice.host_ms), choice
    state.model = state.decoder.model


def settle_design(state: State) -> None:
    """The design: the schedule's where one is given, else the best that fits; and the engine of every layer that may have either. Where
    none fits with the last layer of a decoder, and the options leave open where that runs, it goes to the host."""
    try:
        _settle(state)
    except FitError as misfit:
        head = state.head
        if head is None or head.where == "host" or head.asked != "auto" or head.host_ms is None:
            raise
        _move_head(state, replace(head, where="host", why=f"with it on the device: {misfit}"))
        _settle(state)


def _settle(state: State) -> None:
    graph, board, path = state.graph, state.board, state.options.schedule
    if state.schedule is None or path is None:
        state.design, state.engines = choose_engines(graph, board, state.clock_mhz, state.options.objective)
    else:
        state.design = design_of(state.schedule, path, graph)
    program = build_program(graph, state.design, None)
    check_memory(program, board, 0 if state.decoder is None or state.decoder.head is None else state.decoder.head.layer.bytes)
    if state.schedule is not None and path is not None:
        program = replace(program, depths=state.schedule.fifos)
        cost = estimate(program, board, state.clock_mhz, state.schedule.memory, state.schedule.ports)
        check_program(state.schedule, path, program, cost, board)
        state.misfit = check_fit(graph, state.design, cost, board, state.clock_mhz)
        if state.misfit and state.options.fit:
            raise FitError(state.misfit)
