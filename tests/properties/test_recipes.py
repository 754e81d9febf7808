"""Equal tokens mean equal recipes and the other way round, and never unequal values, however a graph is written down."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from daskcache.fingerprint import Fingerprinter
from daskcache.tokens import GraphTokens
from tests.recipes import FUNCTIONS, VALUES, Recipe, Rendering, canonical, compute, describe

NAMES = ("a", "b", "k")


def _combined(children: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    parts = st.lists(children, max_size=3).map(tuple)

    @st.composite
    def called(draw: st.DrawFn) -> Recipe:
        given_parts = draw(parts)
        names = draw(st.permutations(NAMES))[: draw(st.integers(0, len(given_parts)))]
        function = draw(st.integers(0, len(FUNCTIONS) - 1))
        if function == 1:
            return Recipe("call", 1, (draw(children), draw(children)))
        if function > 4:
            names = ()
        return Recipe("call", function, given_parts, tuple(names))

    @st.composite
    def mapped(draw: st.DrawFn) -> Recipe:
        given_parts = draw(parts)
        return Recipe("dict", 0, given_parts, tuple(draw(st.permutations(NAMES))[: len(given_parts)]))

    contained = st.builds(Recipe, st.sampled_from(["list", "tuple"]), st.just(0), parts)
    sets = st.lists(children, max_size=3, unique_by=canonical).map(
        lambda found: Recipe("set", 0, tuple(found))
    )
    return st.one_of(called(), called(), contained, mapped(), sets)


VALUE = st.builds(Recipe, st.just("value"), st.integers(0, len(VALUES) - 1))
RECIPES = st.recursive(VALUE, _combined, max_leaves=8)


def token(recipe: Recipe, seed: int, walk: Fingerprinter | None = None) -> bytes:
    rendering = Rendering(seed)
    key = rendering.whole(recipe)
    tokens = GraphTokens(rendering.graph, walk or Fingerprinter())
    if seed % 2:
        # In another order than that of need.
        for other in rendering.graph:
            tokens.token(other)
    found = tokens.token(key)
    assert found is not None, tokens.reason(key)
    return found


def mutations(recipe: Recipe) -> Iterator[Recipe]:
    """List recipes that are almost the same."""
    parts, names = recipe.parts, recipe.names
    if recipe.kind == "value":
        yield replace(recipe, which=(recipe.which + 1) % len(VALUES))
        yield Recipe("list", 0, (recipe,))
    elif recipe.kind != "call":
        yield replace(recipe, kind="tuple" if recipe.kind == "list" else "list", names=())
        yield Recipe("call", 0, parts, names)
    else:
        yield replace(recipe, which=0 if recipe.which == 2 else 2)
        yield Recipe("call", 0, (recipe,))
    if recipe.which != 1:
        if names:
            yield replace(recipe, names=names[::-1])
            yield replace(recipe, parts=parts[: -len(names)] + parts[-len(names) :][::-1], names=names[::-1])
        elif len(parts) > 1:
            yield replace(recipe, parts=parts[::-1])
            yield replace(recipe, parts=(parts[0], Recipe("list", 0, parts[1:])))
            yield replace(recipe, parts=(Recipe("tuple", 0, parts[:-1]), parts[-1]))
    for at, part in enumerate(parts):
        for other in mutations(part):
            if recipe.kind != "set" or canonical(other) not in map(canonical, parts):
                yield replace(recipe, parts=(*parts[:at], other, *parts[at + 1 :]))


def within(recipe: Recipe) -> Iterator[Recipe]:
    yield recipe
    for part in recipe.parts:
        yield from within(part)


@given(RECIPES, st.integers(0, 2**32), st.integers(0, 2**32))
def test_every_rendering_of_a_recipe_has_its_token(recipe: Recipe, one: int, other: int) -> None:
    assert token(recipe, one) == token(recipe, other)


@given(RECIPES, RECIPES, st.integers(0, 2**32))
def test_recipes_are_equal_where_tokens_are(one: Recipe, other: Recipe, seed: int) -> None:
    assert (token(one, seed) == token(other, seed + 1)) == (canonical(one) == canonical(other))


@given(RECIPES, st.integers(0, 2**32))
def test_almost_the_same_is_not_the_same(recipe: Recipe, seed: int) -> None:
    others = list(mutations(recipe))
    assume(others)
    walk = Fingerprinter()
    own, expected = token(recipe, seed, walk), canonical(recipe)
    for number, other in enumerate(random.Random(seed).sample(others, min(len(others), 12))):
        assert (token(other, seed + number, walk) == own) == (canonical(other) == expected), other


@given(RECIPES, RECIPES, st.integers(0, 2**32))
def test_equal_tokens_mean_equal_values(one: Recipe, other: Recipe, seed: int) -> None:
    seen: dict[bytes, Any] = {}
    walk = Fingerprinter()
    for number, recipe in enumerate((*within(one), *within(other))):
        value = describe(compute(recipe))
        assert seen.setdefault(token(recipe, seed + number, walk), value) == value
