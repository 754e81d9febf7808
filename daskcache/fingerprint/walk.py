"""The walk over an object's parts: without recursion, and the same from every entry into a cycle.

An object is a node whose digest is made of the digests of its parts. Where parts refer back (functions that call
one another, a registry that holds a function that reads the registry), the nodes of one strongly connected
component are digested together: their colours, at first what each is besides the others, are refined by their
parts' colours until no two more can be told apart. The digest of a member is its colour among all of the
component's, which says nothing of where the walk came in. Two members, or members of two components, share a digest
only if their unfoldings are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daskcache.errors import UncacheableError
from daskcache.fingerprint.digest import Digester
from daskcache.fingerprint.registry import Node

__all__ = ["Walk"]

# An object whose parts make new objects each time they are asked never ends; no data nests this deep.
MAX_DEPTH = 250_000


class _Frame:
    """A node under way: its parts' digests, or the frames of those parts that are in its own component."""

    __slots__ = ("colour", "digests", "index", "low", "node", "obj", "position")

    def __init__(self, obj: object, node: Node, index: int) -> None:
        self.obj = obj
        self.node = node
        self.index = index
        self.low = index
        self.position = 0
        self.digests: list[bytes | _Frame] = []
        self.colour = b""


class Walk:
    """Digests objects by their parts, and remembers by identity what it has digested.

    Parameters
    ----------
    digester : Digester
        Hashes components.
    leaf : callable
        Gives the digest of an object that is not worth a node, or None.
    open_node : callable
        Gives the digest or the node of any other object, or raises UncacheableError.
    finish : callable
        Is told each object with its digest when that is known.
    """

    __slots__ = ("_digester", "_finish", "_leaf", "_memo", "_open")

    def __init__(
        self,
        digester: Digester,
        leaf: Callable[[Any], bytes | None],
        open_node: Callable[[Any], bytes | Node],
        finish: Callable[[Any, bytes], None],
    ) -> None:
        self._digester = digester
        self._leaf = leaf
        self._open = open_node
        self._finish = finish
        # The object stands beside its digest so that its id stays its own.
        self._memo: dict[int, tuple[object, bytes | UncacheableError]] = {}

    def digest(self, root: object) -> bytes:
        """Digest an object that is no leaf.

        Returns
        -------
        bytes
            20 bytes.

        Raises
        ------
        UncacheableError
            A part has no deterministic identity; the error's path leads to it.
        """
        found = self._known(root)
        if found is not None:
            return found
        memo = self._memo
        path: list[_Frame] = []
        component: list[_Frame] = []
        open_frames: dict[int, _Frame] = {}
        result = b""
        try:
            opened = self._enter(root, path, component, open_frames)
            if opened is not None:
                return opened
            while path:
                frame = path[-1]
                children, digests = frame.node.children, frame.digests
                position, count = frame.position, len(children)
                while position < count:
                    child = children[position]
                    digest = self._leaf(child)
                    if digest is None:
                        other = open_frames.get(id(child))
                        if other is not None:
                            frame.low = min(frame.low, other.index)
                            digests.append(other)
                            position += 1
                            continue
                        frame.position = position
                        digest = self._known(child)
                        if digest is None:
                            digest = self._enter(child, path, component, open_frames)
                            if digest is None:
                                break
                    digests.append(digest)
                    position += 1
                frame.position = position
                if path[-1] is not frame:
                    continue
                path.pop()
                if frame.low < frame.index:
                    parent = path[-1]
                    parent.low = min(parent.low, frame.low)
                    parent.digests.append(frame)
                    parent.position += 1
                    continue
                result = self._close(frame, component, open_frames)
                if path:
                    path[-1].digests.append(result)
                    path[-1].position += 1
        except UncacheableError as error:
            seen = error
            for frame in reversed(path):
                seen = seen.within(frame.node.label(frame.position))
                memo[id(frame.obj)] = (frame.obj, seen)
            raise _copy(seen) from error.__cause__
        return result

    def _known(self, obj: object) -> bytes | None:
        found = self._memo.get(id(obj))
        if found is None:
            return None
        if isinstance(found[1], UncacheableError):
            raise _copy(found[1])
        return found[1]

    def _enter(
        self, obj: object, path: list[_Frame], component: list[_Frame], open_frames: dict[int, _Frame]
    ) -> bytes | None:
        try:
            node = self._open(obj)
        except UncacheableError as error:
            self._memo[id(obj)] = (obj, _copy(error))
            raise
        if isinstance(node, bytes):
            self._memo[id(obj)] = (obj, node)
            self._finish(obj, node)
            return node
        if len(path) >= MAX_DEPTH:
            raise UncacheableError(f"{type(obj)} nests deeper than {MAX_DEPTH} levels, if it ends at all")
        frame = _Frame(obj, node, len(component))
        path.append(frame)
        component.append(frame)
        open_frames[id(obj)] = frame
        return None

    def _close(self, root: _Frame, component: list[_Frame], open_frames: dict[int, _Frame]) -> bytes:
        members = component[root.index :]
        del component[root.index :]
        if len(members) == 1 and root not in root.digests:
            digests: Any = root.digests
            root.colour = root.node.combine(digests)
        else:
            self._refine(members)
        for member in members:
            del open_frames[id(member.obj)]
            self._memo[id(member.obj)] = (member.obj, member.colour)
            self._finish(member.obj, member.colour)
        return root.colour

    def _refine(self, members: list[_Frame]) -> None:
        """Give each member its colour once as many differ as ever will, bound to all colours of the component."""
        colours = 0
        while True:
            after = [
                member.node.combine(
                    [part if isinstance(part, bytes) else part.colour for part in member.digests]
                )
                for member in members
            ]
            if colours and len(set(after)) == colours:
                break
            colours = len(set(after))
            for member, colour in zip(members, after, strict=True):
                member.colour = colour
        # A colour says how a member unfolds to some depth only. Which colour is made of which says the rest.
        steps = {(member.colour, colour) for member, colour in zip(members, after, strict=True)}
        whole = self._digester.combine(b"component", [part for step in sorted(steps) for part in step])
        for member in members:
            member.colour = self._digester.digest(b"member", member.colour, whole)


def _copy(error: UncacheableError) -> UncacheableError:
    """Give an error without the traceback that a raised one collects, frames and all."""
    return type(error)(error.message, error.path)
