"""Sphinx's settings; the pages are Markdown."""

project = "daskcache"
copyright = "the daskcache developers"
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_title = "daskcache"
