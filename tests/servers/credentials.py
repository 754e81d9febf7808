"""A function that fetches credentials, as a site's own module would have it."""

from __future__ import annotations

import json
import os
from typing import Any


def fetch() -> dict[str, Any]:
    with open(os.environ["TESTS_CREDENTIALS"], encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def fail() -> dict[str, Any]:
    raise RuntimeError(f"the vault does not know {fetch()['secret']}")
