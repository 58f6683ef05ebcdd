"""Stores are chosen by URL, and cost nothing before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ensembles.stores.lancedb import LanceStore
from ensembles.stores.opening import STORES, open_store
from ensembles.stores.pgvector import PostgresStore
from tests.servers import ROOT


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/var/lib/chunks", LanceStore),
        ("s3://bucket/chunks", LanceStore),
        ("gs://bucket/chunks", LanceStore),
        ("az://container/chunks", LanceStore),
        ("postgresql://user@host/database", PostgresStore),
    ],
)
def test_the_url_says_which_kind(url, kind):
    assert isinstance(open_store(url), kind)


def test_an_unknown_scheme_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="mysql") as refusal:
        open_store("mysql://host/database")
    assert all(f"{scheme}://" in str(refusal.value) for scheme in STORES if scheme)


def test_opening_imports_no_library_of_the_store():
    script = (
        "import sys; from ensembles.stores.opening import open_store; open_store('/tmp/x'); "
        "print(*sys.modules.keys() & {'lancedb', 'pyarrow', 'numpy', 'asyncpg'})"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
