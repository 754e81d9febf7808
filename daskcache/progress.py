"""A progress bar: who is shown one, and one that is drawn where somebody waits."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from dask.utils import format_time

__all__ = ["PATIENCE_S", "drawing_bar", "shows_progress"]

PATIENCE_S = 1.0
"""What takes no longer has no bar."""

_WIDTH = 40


def shows_progress(setting: bool | str) -> bool:
    """Tell whether to draw a progress bar.

    Parameters
    ----------
    setting : bool or "auto"
        ``daskcache.progress``.

    Returns
    -------
    bool
        For ``auto``, whether standard error is a terminal or a notebook.

    Examples
    --------
    >>> shows_progress(True)
    True
    """
    if isinstance(setting, bool):
        return setting
    # It may be None, closed, or something of a program's own that only takes text.
    with contextlib.suppress(AttributeError, ValueError):
        if sys.stderr.isatty():
            return True
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextlib.contextmanager
def drawing_bar(progress: Callable[[], float], shows_bar: bool) -> Iterator[Callable[[], None]]:
    """Give what draws how far something is, as dask draws its own bar.

    Parameters
    ----------
    progress : callable
        Tells how far it is, from 0 to 1.
    shows_bar : bool
        Whether anything is drawn.

    Yields
    ------
    callable
        Draws, once it takes longer than a moment. At the end, what did not fail is drawn as complete.

    Examples
    --------
    >>> with drawing_bar(lambda: 0.5, shows_bar=False) as draw:
    ...     draw()
    """
    begun = time.perf_counter()

    def draw(fraction: float | None = None, end: str = "") -> None:
        elapsed = time.perf_counter() - begun
        if shows_bar and elapsed > PATIENCE_S:
            _draw(progress() if fraction is None else fraction, elapsed, end)

    try:
        yield draw
    except BaseException:
        draw(end="\n")
        raise
    draw(1.0, end="\n")


def _draw(fraction: float, elapsed: float, end: str) -> None:
    bar = "#" * int(_WIDTH * fraction)
    with contextlib.suppress(AttributeError, ValueError):  # there is no standard error, or it is closed
        text = f"\r[{bar:<{_WIDTH}}] | {int(100 * fraction)}% Completed | {format_time(elapsed)}"
        sys.stderr.write(text + end)
        sys.stderr.flush()
