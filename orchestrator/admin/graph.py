"""A graph of steps in layers, as Sugiyama, Tagawa and Toda draw it (IEEE Trans. SMC 11, 1981).

Each step is one layer further right than the last of those that it waits for (longest-path layering), and within a
layer the steps stand in the order of the mean place of their neighbours (barycenter ordering), which leaves few edges
crossing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)

# Passes over all layers, each there and back; more of them hardly change anything.
SWEEPS = 4


def in_layers(waits_for: Mapping[Node, Collection[Node]]) -> list[list[Node]]:
    """The nodes by layer, each in its order from top to bottom.

    waits_for: what each node waits for. Nodes come after all that they wait for.
    """
    depth: dict[Node, int] = {}
    layers: list[list[Node]] = []
    for node, before in waits_for.items():
        depth[node] = 1 + max((depth[each] for each in before), default=-1)
        if depth[node] == len(layers):
            layers.append([])
        layers[depth[node]].append(node)
    after: dict[Node, list[Node]] = defaultdict(list)
    for node, before in waits_for.items():
        for each in before:
            after[each].append(node)
    for _ in range(SWEEPS):
        _order(layers, waits_for)
        _order(layers[::-1], after)
    _order(layers, waits_for)
    return layers


def _order(layers: Sequence[list[Node]], neighbours: Mapping[Node, Collection[Node]]) -> None:
    """Sorts each layer by the mean place of each node's neighbours, which are in the layers before it."""
    place: dict[Node, float] = {}
    for layer in layers:
        means = {}
        for n, node in enumerate(layer):
            known = [place[each] for each in neighbours.get(node, ()) if each in place]
            means[node] = sum(known) / len(known) if known else (n + 0.5) / len(layer)
        layer.sort(key=means.__getitem__)
        for n, node in enumerate(layer):
            place[node] = (n + 0.5) / len(layer)
