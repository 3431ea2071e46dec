"""Mixtures of experts in any spelling: dense, with indices, in loops over experts that were unrolled, with weights picked for each token.

What a mixture is made of is read from who depends on whom (`region`), the constants by what they do (`matrices`), and how they are put
together by trying what explains the numbers that onnxruntime computes (`experts`, `router`).
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, helper

from attnc.errors import ModelError
from attnc.frontend.mixture import Mixture
from attnc.frontend.mixtures import experts, router
from attnc.frontend.mixtures.matrices import FIRST, SECOND, Matrices, read
from attnc.frontend.mixtures.region import CHOOSING, Region, regions
from attnc.frontend.simplify import Simplified
from attnc.frontend.wiring import Wiring
from attnc.model import MadeSparse

OPERATOR = "MixtureOfExperts"
"""What stands for one: operands x and logits."""
TRACED = (
    ", as where a loop was traced over those experts alone that had tokens then; export it with weights picked by index "
    '(experts_implementation="batched_mm" of transformers)'
)


def find_mixtures(simplified: Simplified) -> None:
    """Put one node in place of the nodes of every mixture; its description goes into `simplified.mixtures` under the node's name."""
    done: set[str] = set()
    wiring = Wiring(simplified)
    for anchor in [node for node in wiring.nodes if node.op_type in CHOOSING and wiring.varying(node)]:
        if anchor.name in done:
            continue
        for region in regions(wiring, anchor):
            matrices = read(region)
            if not _alike(region, matrices):
                continue
            done.update(node.name for node in region.nodes)
            found = _described(region, matrices)
            if isinstance(found, str):
                simplified.refused[anchor.name] = found
                simplified.behind.update(node.name for node in region.nodes if node is not anchor)
            else:
                _replace(simplified, region, found)
            break


def made_sparse(simplified: Simplified) -> list[MadeSparse]:
    """What is saved where a file computes all experts."""
    found = []
    for node in simplified.model.graph.node:
        if node.op_type == OPERATOR and simplified.mixtures[node.name].dense:
            tokens = math.prod((simplified.info[node.input[0]].shape or (0,))[:-1])
            found.append(MadeSparse(node.name, *(tokens * products for products in simplified.mixtures[node.name].products)))
    return found


def _alike(region: Region, matrices: Matrices) -> bool:
    """Whether this is a mixture, readable or not: two products one after the other, with constants for several experts."""
    found = [matrices.products.get(level, []) for level in (FIRST, SECOND)]
    return all(len(names) > 1 or any(region.experts in region.constants[name].shape for name in names) for names in found)


def _described(region: Region, matrices: Matrices) -> Mixture | str:
    """The mixture, or why it cannot be."""
    _check_constants(region)
    counts = router.counts(region)
    if not counts or counts[0] > region.experts:
        return f"needed a fixed number of 1 to {region.experts} experts for each token, found {counts[0] if counts else 'none'}"
    last = len(matrices.products[SECOND])
    if 1 < last < region.experts:
        return f"it chooses among {region.experts} experts, of which {last} are computed{TRACED}"
    seen = experts.trials(region, counts[0])
    if seen is None:
        return f"onnxruntime cannot run this mixture of experts for any routing that was tried{TRACED}"
    found = experts.explain(region, matrices, seen)
    if found is None:
        return (f"the {region.experts} experts behind it are not read: needed down(f(up(x))) or down(f(gate(x)) * up(x)) with one known "
                "function f and matrices of one shape")  # fmt: skip
    described, weights = found
    chosen = router.explain(region, matrices, seen.logits, weights)
    if chosen is None:
        return ("this router is not read: needed the largest of softmax or sigmoid of logits, with or without a bias of each expert "
                "before they are compared, groups of experts, and a division by the sum of those taken")  # fmt: skip
    return Mixture(chosen, described, matrices.early)


def _check_constants(region: Region) -> None:
    """Weights are finite numbers."""
    for node in region.nodes:
        for name in node.input:
            array = region.constants.get(name)
            if array is not None and array.dtype.kind == "f" and np.isnan(array).any():
                place = np.argwhere(np.isnan(array))[0].tolist()
                raise ModelError(f"node {node.name!r} ({node.op_type}): its constant {name!r} holds NaN, the first at {place}")


def _replace(simplified: Simplified, region: Region, mixture: Mixture) -> None:
    """One node that makes what the last of the region made."""
    last: NodeProto = region.wiring.producer[region.out]
    simplified.mixtures[last.name] = mixture
    simplified.mixed[last.name] = [node.name for node in region.nodes]
    last.CopyFrom(helper.make_node(OPERATOR, [region.x, region.logits], [region.out], name=last.name))
