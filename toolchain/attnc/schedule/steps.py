"""Instructions that run at the same time. A track is a set of engines that take turns; a step of the program is at most one instruction for
each track: they start together, and the step ends with its slowest.

An instruction waits for the earlier ones that store what it loads or stores, or that load what it stores, word for word: with a value in
blocks of rows, the first block can go on while others are still made. First every track gets the order in which it would run its
instructions if no step made it wait for others (list scheduling, what has the longest way to the end first). Then the orders are cut into
steps so that the sum of the slowest is least. Both orders and steps depend on nothing but the tasks, so the same program comes out again.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import getitem, le
from typing import Any

from attnc.kernels.call import Walk
from attnc.kernels.kernel import KernelCall
from attnc.schedule.overlap import overlap

STEP_CYCLES = 300
"""What every step costs on top, about: fetching it, filling and draining its engines."""
WIDTH = 64
"""Ways to cut the first so many instructions that are followed up; with two tracks there are hardly ever more."""
State = tuple[int, ...]
"""How many tasks of each track are done."""


@dataclass(frozen=True)
class Task:
    """What is to be known of an instruction: its track, about how many cycles it takes, and its walks. A `fixed` one trades places with
    none of its track: it leaves an operand in a kernel for the next one, or finds one there."""

    track: int
    cycles: int
    loads: tuple[Walk, ...]
    stores: tuple[Walk, ...]
    fixed: bool = False


def tracks(kernels: Sequence[Sequence[KernelCall]]) -> list[int]:
    """The track of each engine, by their kernels. Static arrays of a C++ function belong to all calls of it, and two processes must not
    share them, so engines that have one of these functions in common, with the same template arguments, take turns."""
    held = [{function for kernel in mine for function in kernel.static_functions} for mine in kernels]
    owners: list[int] = []
    for engine, mine in enumerate(held):
        same = {owners[other] for other in range(engine) if held[other] & mine}
        first = min(same, default=engine)
        owners = [first if owner in same else owner for owner in owners] + [first]
    numbers = {owner: number for number, owner in enumerate(sorted(set(owners)))}
    return [numbers[owner] for owner in owners]


def form_steps(tasks: Sequence[Task], starts: Sequence[int]) -> list[tuple[int, ...]]:
    """Indices of the tasks of each step, in order. `starts` are the first words of the values, ascending, each in a region of its own."""
    needs = dependences(tasks, starts)
    best: tuple[float, list[tuple[int, ...]]] = math.inf, []
    tried: list[list[list[int]]] = []
    for free in range(1 + max((task.track for task in tasks), default=0)):
        orders = _orders(tasks, needs, free)
        found = None if orders in tried else _cut(tasks, needs, orders, best[0])
        tried.append(orders)
        best = found or best
    return best[1]


def dependences(tasks: Sequence[Task], starts: Sequence[int]) -> list[set[int]]:
    """The tasks that each one waits for: earlier ones, of which one of the two stores a word that the other touches."""
    shapes: dict[tuple[Any, ...], int] = {}
    known: list[Walk] = []
    loads: dict[int, list[tuple[int, int]]] = defaultdict(list)
    stores: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, task in enumerate(tasks):
        for found, walks in ((loads, task.loads), (stores, task.stores)):
            for walk in walks:
                unit = 2 if walk.half else 1
                value = bisect_right(starts, walk.offset // unit) - 1
                offset = walk.offset - unit * starts[value]
                shape = shapes.setdefault((offset, walk.counts, walk.strides, walk.bytes, walk.half), len(shapes))
                if shape == len(known):
                    known.append(replace(walk, offset=offset, zero_point=0, value=""))
                found[value].append((number, shape))
    meet: dict[tuple[int, int], bool] = {}  # layers are alike: few pairs of shapes, many pairs of walks
    needs: list[set[int]] = [set() for _ in tasks]
    for value, written in stores.items():
        for number, shape in written:
            for other, with_ in (*loads.get(value, ()), *written):
                if number == other:
                    continue
                pair = shape, with_
                if pair not in meet:
                    meet[pair] = overlap(known[shape], known[with_])
                if meet[pair]:
                    needs[max(number, other)].add(min(number, other))
    return needs


def _ways(tasks: Sequence[Task], needs: Sequence[set[int]], free: int) -> list[int]:
    """Cycles from the start of each task to the end of the program, along what waits for it and, on all tracks but `free`, along the
    later tasks of its track: they wait for it too."""
    ways = [0] * len(tasks)
    following = [0] * (1 + max((task.track for task in tasks), default=0))
    for number in range(len(tasks) - 1, -1, -1):
        task = tasks[number]
        ways[number] = task.cycles + max(ways[number], following[task.track])
        if task.track != free:
            following[task.track] = ways[number]
        for other in needs[number]:
            ways[other] = max(ways[other], ways[number])
    return ways


def _groups(tasks: Sequence[Task]) -> tuple[list[int], list[list[int]]]:
    """The group of each task within its track, and the sizes of the groups of each track. Groups keep their order; a fixed task is
    one by itself."""
    sizes: list[list[int]] = [[] for _ in range(1 + max((task.track for task in tasks), default=0))]
    closed = [True] * len(sizes)
    group = []
    for task in tasks:
        mine = sizes[task.track]
        if task.fixed or closed[task.track]:
            mine.append(0)
        mine[-1] += 1
        closed[task.track] = task.fixed
        group.append(len(mine) - 1)
    return group, sizes


def _orders(tasks: Sequence[Task], needs: Sequence[set[int]], free: int) -> list[list[int]]:
    """The tasks of each track in the order in which they would start if tracks did not run in steps. It always comes to an end: of
    those not yet started, the first one of the program waits for none."""
    ways, (group, sizes) = _ways(tasks, needs, free), _groups(tasks)
    users: list[list[int]] = [[] for _ in tasks]
    for number, others in enumerate(needs):
        for other in others:
            users[other].append(number)
    missing = [len(others) for others in needs]
    ready: list[list[tuple[int, int, int]]] = [[] for _ in sizes]
    current, idle = [0] * len(sizes), [True] * len(sizes)
    orders: list[list[int]] = [[] for _ in sizes]
    running: list[tuple[int, int]] = []
    now, freed = 0, [number for number, count in enumerate(missing) if not count]
    while True:
        for number in freed:
            heapq.heappush(ready[tasks[number].track], (group[number], -ways[number], number))
        for track, waiting in enumerate(ready):
            if idle[track] and waiting and waiting[0][0] == current[track]:
                number = heapq.heappop(waiting)[2]
                orders[track].append(number)
                sizes[track][current[track]] -= 1
                current[track] += sizes[track][current[track]] == 0
                idle[track] = False
                heapq.heappush(running, (now + tasks[number].cycles, number))
        if not running:
            return orders
        now, freed = running[0][0], []
        while running and running[0][0] == now:  # all that end together, so that the order of tracks does not matter
            number = heapq.heappop(running)[1]
            idle[tasks[number].track] = True
            for user in users[number]:
                missing[user] -= 1
                if not missing[user]:
                    freed.append(user)


def _cut(
    tasks: Sequence[Task], needs: Sequence[set[int]], orders: Sequence[Sequence[int]], least: float
) -> tuple[int, list[tuple[int, ...]]] | None:
    """Cycles and tasks of the steps into which the orders are best cut; None where these are not fewer cycles than `least`. Beside a
    task, a step takes whatever is ready and no slower: to have done more never costs later. Of the states with equally many tasks done,
    those stay that promise most."""
    place = {number: at for order in orders for at, number in enumerate(order)}
    before = {}
    for number in place:
        most = [0] * len(orders)
        for other in needs[number]:
            most[tasks[other].track] = max(most[tasks[other].track], place[other] + 1)
        before[number] = tuple(most)
    left = [[*accumulate((tasks[number].cycles for number in reversed(order)), initial=0)][::-1] for order in orders]
    levels: list[dict[State, tuple[int, State, tuple[int, ...]]]] = [{} for _ in range(len(tasks) + 1)]
    levels[0][(0,) * len(orders)] = 0, (), ()

    for level, reached in enumerate(levels):
        promises = [(entry[0] + max(map(getitem, left, state)), state) for state, entry in reached.items()]
        for promise, state in sorted(promises)[:WIDTH]:
            if promise >= least:
                break
            cost = reached[state][0]
            heads = [order[done] for order, done in zip(orders, state, strict=True) if done < len(order)]
            ready = [head for head in heads if all(map(le, before[head], state))]
            ready.sort(key=lambda number: (tasks[number].cycles, tasks[number].track))
            for count, slowest in enumerate(ready, 1):
                taken = {tasks[number].track: number for number in ready[:count]}
                then = tuple(done + (track in taken) for track, done in enumerate(state))
                total = cost + tasks[slowest].cycles + STEP_CYCLES
                if then not in levels[level + count] or total < levels[level + count][then][0]:
                    levels[level + count][then] = total, state, tuple(number for _, number in sorted(taken.items()))
    return _way_back(levels) if levels[-1] and min(entry[0] for entry in levels[-1].values()) < least else None


def _way_back(levels: Sequence[dict[State, tuple[int, State, tuple[int, ...]]]]) -> tuple[int, list[tuple[int, ...]]]:
    """Cycles of the only state in which all is done, and the steps that lead there."""
    level, (state,) = len(levels) - 1, levels[-1]
    cycles, steps = levels[-1][state][0], []
    while level:
        _, state, step = levels[level][state]
        level -= len(step)
        steps.append(step)
    return cycles, steps[::-1]
