"""A library of each test's own."""

from __future__ import annotations

from tests.ensembles.library.conftest import shelf, tables  # noqa: F401  # fixtures
