"""Settings that all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# No test asserts a time. In CI the same examples are drawn every time, so that a submission fails
# for what it changed.
settings.register_profile("genepool", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("genepool"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "genepool")
