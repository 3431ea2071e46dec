"""Chains: kernels that hand a value on through a FIFO in place of the memory, and the engines that run them.

Two kernels can follow each other where one stores exactly the vectors that the other loads, in the same order, through one port and no
other: what a chain makes cannot be read from memory while it is made. A chain is a run of such kernels, one instruction drives all of it,
and values between them that nobody else reads never reach the memory. Values that others read too are stored on the way (a tap). What a
chain reads is what the walks of its calls say, not what its nodes are given.

An engine is one dataflow region that holds each of its kernels once, in a fixed order of slots; an instruction says which slots work, the
others pass the vectors on. Kernels with arrays of multipliers (`Call.macs`) are what is scarce, so there is an engine for each of them. The
one that multiplies most has small kernels before and behind it; the others stand alone, or have copies of small kernels of their own, as
the design says. Chains without multipliers use an engine that has their kernels already, or share engines of their own. The order of an
engine's slots is that in which chains need them; a chain that would need another ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from attnc.ir import Graph, Node
from attnc.kernels.call import SESSION, Call, Walk
from attnc.kernels.kernel import KernelCall
from attnc.schedule.memory import MemoryMap

Key = tuple[Any, ...]
OPERANDS = 2
"""That a kernel with scalars `FILL` may hold."""


def store_port(kernel: KernelCall) -> int:
    """Index of the port through which a kernel's result leaves."""
    return kernel.network.store


def load_ports(kernel: KernelCall) -> tuple[int, ...]:
    """Indices of the ports through which values come."""
    return kernel.network.loads


def first_load(kernel: KernelCall) -> int:
    """Index of the port that takes the vectors of the chain where no link says otherwise."""
    return load_ports(kernel)[0]


@dataclass(frozen=True)
class Link:
    """A node in a chain: its calls (one per block of rows), the port that the node before feeds (None: all come from memory), whether
    what arrives there is stored too, the operand that is still in the kernel, if one is, and the other kernels of nodes that it stands for
    (`Node.alike`)."""

    node: Node
    calls: tuple[Call, ...]
    fed: int | None = None
    tapped: bool = False
    kept: str | None = None
    others: tuple[KernelCall, ...] = ()

    @cached_property
    def key(self) -> Key:
        """Of its kernel."""
        return self.calls[0].kernel.key

    @property
    def kernels(self) -> frozenset[KernelCall]:
        """Of its calls."""
        return frozenset(call.kernel for call in self.calls)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of its calls."""
        return sum(call.macs for call in self.calls)

    @property
    def part(self) -> tuple[str, str]:
        """Of the program."""
        return self.node.entry, self.node.each

    @property
    def heavy(self) -> bool:
        """Whether its kernel has an array of multipliers."""
        return self.macs > 0

    @cached_property
    def reads(self) -> frozenset[str]:
        """Values that its ports bring from memory: all but what the node before feeds, or what is still in the kernel."""
        kernel = self.calls[0].kernel
        given = {self.fed, first_load(kernel) if self.kept else None}
        walks = (call.walks[index] for call in self.calls for index in load_ports(kernel) if index not in given)
        return frozenset(one.value for walk in walks for one in walk.stretches if one.vectors)


@dataclass
class Chain:
    """Nodes that run together."""

    links: list[Link]

    @property
    def heavy(self) -> Key | None:
        """The kernel that has multipliers, if one has."""
        return next((link.key for link in self.links if link.heavy), None)

    @property
    def main(self) -> Link:
        """What a chain is named after: the node with multipliers, else its first."""
        return next((link for link in self.links if link.heavy), self.links[0])

    @property
    def reads(self) -> set[str]:
        """Values that come from memory."""
        return set().union(*(link.reads for link in self.links))

    @property
    def text(self) -> str:
        """Its operators, as `linear* > add`: * where the result is stored on the way; (linear) where its operand is still there."""
        taps = [link.tapped for link in self.links[1:]] + [False]
        names = [f"({link.node.op})" if link.kept else link.node.op for link in self.links]
        return " > ".join(name + "*" * tapped for name, tapped in zip(names, taps, strict=True))

    def stores(self) -> list[str]:
        """Values that go to memory."""
        return [before.node.output for before, link in pairwise(self.links) if link.tapped] + [self.links[-1].node.output]


@dataclass
class Order:
    """Which kernel comes before which, and the port that each takes the chain's vectors through."""

    after: dict[Key, set[Key]] = field(default_factory=dict)
    fed: dict[Key, int] = field(default_factory=dict)
    _known: dict[tuple[Key, ...], bool] = field(default_factory=dict)
    """Which kernels can follow each other as things are: layers ask for the same ones."""

    def reaches(self, start: Key, end: Key) -> bool:
        """Whether `start` must come before `end`."""
        return start == end or any(self.reaches(key, end) for key in self.after.get(start, ()))

    def allows(self, links: Sequence[Link]) -> bool:
        """Whether `links` can follow each other."""
        if any(self.fed.get(link.key, link.fed) != link.fed for link in links if link.fed is not None):
            return False
        keys = tuple(link.key for link in links)
        if keys not in self._known:
            again = any(self.reaches(later, earlier) for i, earlier in enumerate(keys) for later in keys[i + 1 :])
            self._known[keys] = len(set(keys)) == len(keys) and not again
        return self._known[keys]

    def add(self, links: Sequence[Link]) -> None:
        """From now on `links` follow each other."""
        for link in links:
            self.after.setdefault(link.key, set())
            if link.fed is not None:
                self.fed[link.key] = link.fed
        for before, link in pairwise(links):
            if link.key not in self.after[before.key]:
                self.after[before.key].add(link.key)
                self._known.clear()

    def slots(self) -> list[Key]:
        """All kernels, each after those that come before it; else as they were added."""
        left, done = list(self.after), []
        while left:
            ready = next(key for key in left if not any(key in self.after[other] for other in left if other != key))
            left.remove(ready)
            done.append(ready)
        return done


def _fed(links: Sequence[Link], calls: Sequence[Call]) -> int | None:
    """The port through which `calls` can take the result of the last of `links` from a FIFO: the only one that brings what these make, one
    vector at a time, and one of those that most vectors pass."""
    before, made = links[-1], {link.node.output for link in links}
    loads, ports = load_ports(calls[0].kernel), calls[0].kernel.ports
    reading = [index for index in loads if any(call.walks[index].value in made for call in calls)]
    if len(reading) != 1 or len(calls) != len(before.calls) or ports[reading[0]].beat > 1:
        return None
    orders = [call.walks[store_port(call.kernel)].order for call in before.calls]
    most = max(calls[0].walks[index].vectors for index in loads)
    fits = calls[0].walks[reading[0]].vectors == most and [call.walks[reading[0]].order for call in calls] == orders
    return reading[0] if fits else None


def form_chains(graph: Graph, lowered: Sequence[Link], copies: bool) -> list[Chain]:
    """Every node, each lowered to a link that none feeds, in a chain, in an order in which they can run; with `copies`, all engines may
    have small kernels. The walks must lie in regions of their own for each value."""
    alone = set() if copies else _small_multipliers(lowered)
    chains: list[Chain] = []
    made: dict[str, int] = {}
    orders: dict[Key | None, Order] = {}
    readers = Counter(name for node in graph.nodes for name in set(node.inputs))
    for link in lowered:
        place = None if link.key in alone else _place(chains, made, orders, link)
        place = None if place is not None and chains[place].heavy in alone else place
        if place is None:
            chains.append(Chain([link]))
            place = len(chains) - 1
        else:
            before = chains[place].links[-1]
            value = before.node.output
            tapped = readers[value] > 1 or value in graph.outputs or graph.value(value).held is not None
            chains[place].links.append(replace(link, fed=_fed(chains[place].links, link.calls), tapped=tapped))
        chain = chains[place]
        orders.setdefault(chain.heavy, Order()).add(chain.links)
        made[link.node.output] = place
    _keep_operands(graph, chains)
    return chains


def whole_operands_first(graph: Graph, lowered: Sequence[Link]) -> list[Link]:
    """The nodes in another order, for engines that run at the same time. Where a node reads some operands whole and others a block of rows
    at a time (attention: keys and values, queries), those that only the latter need come last: its first block waits for no other block of
    them, they are made while it runs."""
    entries = {link.node.output: link for link in lowered}
    readers: dict[str, set[str]] = {name: set() for name in graph.values}
    for link in lowered:
        for name in link.node.inputs:
            readers[name].add(link.node.output)
    order = list(entries)
    for node, calls in ((link.node, link.calls) for link in lowered):
        whole = {calls[0].walks[index].value for index in load_ports(calls[0].kernel) if len({call.walks[index] for call in calls}) == 1}
        whole.discard("")
        if not whole or len(calls) == 1:
            continue
        at, late = order.index(node.output), {node.output}
        for name in reversed(order[:at]):
            if readers[name] and readers[name] <= late and name not in whole and name not in graph.outputs:
                late.add(name)
        before = order[:at]
        order[:at] = [name for name in before if name not in late] + [name for name in before if name in late]
    return [entries[name] for name in order]


def _keep_operands(graph: Graph, chains: list[Chain]) -> None:
    """Where a kernel with multipliers starts on the operand that its last run had, that is not read again. A value that nobody else reads
    need not be stored."""
    last: dict[Key, Link] = {}
    for chain in chains:
        if chain.heavy is None:
            continue
        first, before = chain.links[0], last.get(chain.heavy)
        if before is not None and before.part != first.part:  # what ran before is not known
            before = None
        if first.heavy and before is not None and _holds(before, first):
            name = first.calls[0].walks[first_load(first.calls[0].kernel)].value
            chain.links[0] = replace(first, calls=tuple(call.waiting for call in first.calls), kept=name)
        last[chain.heavy] = chain.main
    kept = {name for name, value in graph.values.items() if value.held is not None}
    needed = {*graph.outputs, *kept, *(name for chain in chains for name in chain.reads)}
    for chain in chains:
        for number, (before, link) in enumerate(pairwise(chain.links), 1):
            chain.links[number] = replace(link, tapped=link.tapped and before.node.output in needed)


def _holds(before: Link, link: Link) -> bool:
    """Whether the operands of `link` are what `before` left in their kernel: there are as many as that holds, on the same vectors."""
    if len(before.calls) != len(link.calls) or len(link.calls) > OPERANDS or link.calls[0].operand is None:
        return False
    port = first_load(link.calls[0].kernel)
    same = all(old.walks[port].order == new.walks[port].order for old, new in zip(before.calls, link.calls, strict=True))
    return before.fed in (None, port) and same


def _small_multipliers(lowered: Sequence[Link]) -> set[Key]:
    """Kernels with multipliers, without the one that multiplies most."""
    macs: Counter[Key] = Counter()
    for link in lowered:
        macs[link.key] += link.macs
    most = max(macs.values(), default=0)
    return {key for key, count in macs.items() if 0 < count < most}


def _place(chains: list[Chain], made: dict[str, int], orders: dict[Key | None, Order], link: Link) -> int | None:
    """The chain that can go on with `link`: the last of those that make its operands, if all others are made before it."""
    places = [made[name] for name in link.node.inputs if name in made]
    if not places:
        return None
    chain = chains[max(places)]
    fed, heavy = _fed(chain.links, link.calls), chain.heavy
    if fed is None or (heavy is not None and link.heavy) or chain.main.part != link.part:
        return None
    links = [*chain.links, replace(link, fed=fed)]
    return max(places) if orders.get(link.key if link.heavy else heavy, Order()).allows(links) else None


def engine_orders(chains: Sequence[Chain]) -> list[tuple[Order, list[int]]]:
    """The order of slots of each engine, and the chains that it runs."""
    engines: dict[Key, tuple[Order, list[int]]] = {}
    light: list[int] = []
    for index, chain in enumerate(chains):
        if chain.heavy is None:
            light.append(index)
            continue
        order, members = engines.setdefault(chain.heavy, (Order(), []))
        order.add(chain.links)
        members.append(index)
    result = list(engines.values())
    left = [index for index in light if not _adopt(result, chains, index)]
    return result + _light_engines(chains, left)


def _adopt(engines: list[tuple[Order, list[int]]], chains: Sequence[Chain], index: int) -> bool:
    """Give a chain without multipliers to an engine that has its kernels."""
    links = chains[index].links
    for order, members in engines:
        if all(link.key in order.after for link in links) and order.allows(links):
            order.add(links)
            members.append(index)
            return True
    return False


def _light_engines(chains: Sequence[Chain], left: list[int]) -> list[tuple[Order, list[int]]]:
    """Chains without multipliers that share a kernel share an engine."""
    groups: list[tuple[set[Key], list[int]]] = []
    for index in left:
        keys = {link.key for link in chains[index].links}
        touching = [group for group in groups if group[0] & keys]
        merged = (keys.union(*(group[0] for group in touching)), sorted([index, *(i for group in touching for i in group[1])]))
        groups = [group for group in groups if group not in touching] + [merged]
    result = []
    for _, members in groups:
        order = Order()
        for index in members:
            order.add(chains[index].links)
        result.append((order, members))
    return result


def settle(chains: Sequence[Chain], apart_at: Mapping[str, int], memory: MemoryMap) -> list[Chain]:
    """Move the walks from regions of their own, from which they were lowered, to where the values lie in the end; those through caches are
    as far away for each session as these are long."""
    caches = memory.caches

    def moved(walk: Walk) -> Walk:
        """A value that stays in a FIFO lies nowhere."""
        if walk.before:
            walk = replace(walk, before=tuple(map(moved, walk.before)), scales=walk.scales and moved(walk.scales))
        if walk.value not in memory.values:
            return walk
        place = memory.values[walk.value].offset
        unit = 2 if walk.half else 1
        session = ((SESSION, unit * caches.words),) if caches.words and caches.offset <= place < caches.end else ()
        return replace(walk, offset=walk.offset + unit * (place - apart_at[walk.value]), moves=(*walk.moves, *session))

    def call(old: Call) -> Call:
        return replace(old, walks=tuple(map(moved, old.walks)))

    return [Chain([replace(link, calls=tuple(map(call, link.calls))) for link in chain.links]) for chain in chains]
