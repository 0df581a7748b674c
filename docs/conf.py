"""Builds docs/ as HTML: `make docs`."""

project = "Tripos"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links to files outside docs/ work in the repository
