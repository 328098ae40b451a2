"""Tries hold exactly their labels, and the search on them is exact whatever the probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.scoring.label_tree import Forest, Search, build_trie, paths, with_ancestors

LABELS = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1, max_size=20
)


def spelled(trie, leaf: int) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
    """The tokens from the root to a node."""
    tokens: list[int] = []
    while leaf > 0:
        node = trie.nodes[leaf]
        tokens[:0] = trie.tokens[node["start"] : node["start"] + node["length"]].tolist()
        leaf = int(node["parent"])
    return tuple(tokens)


@given(LABELS)
@settings(max_examples=100, deadline=None)
def test_a_trie_spells_its_labels(labels: list[tuple[int, ...]]) -> None:
    trie = build_trie(labels)
    assert [spelled(trie, leaf) for leaf in trie.leaf_of] == labels
    nodes = trie.nodes
    leaves = np.flatnonzero(nodes["children"] == 0)
    assert sorted(set(trie.leaf_of.tolist())) == sorted(set(leaves.tolist()) - {0})
    branches = np.flatnonzero(nodes["children"])[1:]
    assert (nodes["children"][branches] >= 2).all(), "a chain without branches is one edge"
    assert (nodes["parent"][1:] < np.arange(1, len(nodes))).all()
    assert (np.diff(nodes["level"]) >= 0).all()


def test_labels_of_equal_tokens_share_a_leaf() -> None:
    trie = build_trie([(5, 1), (6, 1), (5, 1)])
    assert trie.leaf_of[0] == trie.leaf_of[2] != trie.leaf_of[1]


@given(LABELS)
@settings(max_examples=50, deadline=None)
def test_paths_hold_every_node_asked_for(labels: list[tuple[int, ...]]) -> None:
    trie = build_trie(labels)
    forest = Forest([trie])
    node = np.flatnonzero(trie.nodes["feed"] > 0)
    found, covered = paths(forest, np.zeros_like(node), node)
    for n, path in zip(node.tolist(), covered.tolist(), strict=True):
        own = spelled(trie, n)
        read = own if trie.nodes["children"][n] else own[:-1]
        assert tuple(found[path][1][: len(read)]) == read


def test_unknown_ancestors_are_added_before_their_children() -> None:
    trie = build_trie([(1, 2, 3, 9), (1, 2, 4, 9), (1, 5, 9)])
    leaf, parent = int(trie.leaf_of[0]), trie.nodes["parent"]
    known = np.full((1, len(trie.nodes)), -1)
    query, node = with_ancestors(Forest([trie]), np.array([0]), np.array([leaf]), known)
    assert node.tolist() == [int(parent[parent[leaf]]), int(parent[leaf]), leaf]
    known[0, parent[leaf]] = 0
    query, node = with_ancestors(Forest([trie]), np.array([0]), np.array([leaf]), known)
    assert node.tolist() == [leaf]
    assert query.tolist() == [0]


class Language:
    """Token probabilities that depend on the tokens before; sharp ones are like a model's."""

    def __init__(self, seed: int, sharpness: float) -> None:
        self._seed = seed
        self._sharpness = sharpness

    def log_probability(self, before: tuple[int, ...], token: int) -> float:
        rng = np.random.default_rng([self._seed, *before])
        scores = rng.normal(size=5) * self._sharpness
        return float((scores - np.log(np.exp(scores).sum()))[token])

    def score(self, label: tuple[int, ...]) -> float:
        return sum(self.log_probability(label[:i], token) for i, token in enumerate(label))


def nested(labels: list[tuple[int, ...]]) -> bool:
    return any(a != b and b[: len(a)] == a for a in labels for b in labels)


def run_search(
    languages: list[Language],
    label_sets: list[list[tuple[int, ...]]],
    max_residual: float | None,
    gold: list[int] | None = None,
    ranks: int = 0,
) -> Search:
    tries = [build_trie(labels) for labels in label_sets]
    if all(labels == label_sets[0] for labels in label_sets):
        tries = tries[:1] * len(tries)
    forest = Forest(tries)
    leaves = None
    if gold is not None:
        leaves = np.array([t.leaf_of[i] for t, i in zip(tries, gold, strict=True)])
    search = Search(forest, max_residual=max_residual, gold=leaves, ranks=ranks)
    query, node = np.arange(len(tries)), np.zeros(len(tries), int)
    for _ in range(1000):
        targets = search.targets(query, node)
        values = []
        for pair, place, token in zip(targets.pair, targets.place, targets.token, strict=True):
            q, n = int(query[pair]), int(node[pair])
            trie = tries[q]
            read = spelled(trie, n)[: int(trie.nodes["depth"][n]) + int(place) + 1]
            values.append(0.0 if token < 0 else languages[q].log_probability(read, int(token)))
        search.absorb(query, node, targets, np.array(values))
        if not len(search.active):
            return search
        query, node = search.select(64)
        assert set(query.tolist()) == set(search.active.tolist())
    raise AssertionError("the search does not end")


@given(
    st.lists(LABELS, min_size=1, max_size=3),
    st.integers(0, 1000),
    st.sampled_from([0.1, 2.0, 8.0]),
    st.sampled_from([None, 1e-4, 0.0]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_search_is_exact(
    label_sets: list[list[tuple[int, ...]]],
    seed: int,
    sharpness: float,
    max_residual: float | None,
    shared: bool,
) -> None:
    if shared:
        label_sets = [label_sets[0]] * len(label_sets)
    languages = [Language(seed + i, sharpness) for i in range(len(label_sets))]
    search = run_search(languages, label_sets, max_residual)
    for q, labels in enumerate(label_sets):
        right = np.array([languages[q].score(label) for label in labels])
        found = search.scores[q, build_trie(labels).leaf_of]
        known = np.isfinite(found)
        assert found[known] == pytest.approx(right[known], abs=1e-9)
        assert np.nanmax(found) == pytest.approx(right.max(), abs=1e-9)
        distinct = dict(zip(labels, right, strict=True))
        missed = {label for label, k in zip(labels, known, strict=True) if not k}
        left = sum(np.exp(distinct[label]) for label in missed)
        residual = search.residual()[q]
        # A label that another begins with, without an end of its own, holds its branch twice.
        if not nested(labels):
            assert left <= residual * sum(map(np.exp, distinct.values())) + 1e-9
        assert residual <= (1 if max_residual is None else max_residual)


@given(
    st.lists(LABELS, min_size=1, max_size=3),
    st.integers(0, 1000),
    st.sampled_from([0.1, 2.0, 8.0]),
    st.sampled_from([0.5, 1e-3]),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_gold_its_rank_and_the_mass_of_the_rest_are_known(
    label_sets: list[list[tuple[int, ...]]],
    seed: int,
    sharpness: float,
    max_residual: float,
    ranks: int,
    shared: bool,
) -> None:
    if shared:
        label_sets = [label_sets[0]] * len(label_sets)
    languages = [Language(seed + i, sharpness) for i in range(len(label_sets))]
    gold = [(seed + i) % len(labels) for i, labels in enumerate(label_sets)]
    search = run_search(languages, label_sets, max_residual, gold, ranks)
    shares = search.shares()
    for q, labels in enumerate(label_sets):
        leaf_of = build_trie(labels).leaf_of
        right = {
            leaf: languages[q].score(label) for leaf, label in zip(leaf_of, labels, strict=True)
        }
        found = {leaf: search.scores[q, leaf] for leaf in right}
        visited = {leaf for leaf in right if np.isfinite(found[leaf])}
        of_gold = right[leaf_of[gold[q]]]
        assert found[leaf_of[gold[q]]] == pytest.approx(of_gold, abs=1e-9)
        assert max(found[leaf] for leaf in visited) == pytest.approx(max(right.values()), abs=1e-9)
        above = {leaf for leaf in right if right[leaf] > of_gold + 1e-9}
        assert above <= visited or len(above & visited) >= ranks
        rest = [leaf for leaf in right if leaf not in visited]
        held, most = (
            sum(np.exp(v[leaf]) for leaf in rest) for v in (right, dict(enumerate(shares[q])))
        )
        if not nested(labels):
            assert held <= most + 1e-9
        total = sum(np.exp(right[leaf]) for leaf in visited)
        assert most == pytest.approx(search.residual()[q] * (most + total), abs=1e-9)
        assert most <= max_residual * total + 1e-9
