"""What ingesters counted, from life to life."""

from __future__ import annotations

import msgspec

from gateway.exposition import observe
from gateway.ingestion_metrics import IngestionLedger, IngestionTally, families


def tally(*outcomes: str, waiting: int | None = None) -> bytes:
    made = IngestionTally(waiting=waiting)
    for outcome in outcomes:
        made.ended(outcome, 7 if outcome == "completed" else 0)
        made.took("parse", 0.02)
    return msgspec.msgpack.encode(made)


def samples(ledger: IngestionLedger) -> dict[tuple[str, ...], float]:
    found = families(ledger.total(), observe)
    return {(each.name, *each.labels.values()): each.value for family in found for each in family.samples}


def test_counters_go_on_in_the_next_life():
    ledger = IngestionLedger()
    ledger.keep("0", tally("completed"))
    ledger.keep("0", tally("completed", "completed", "invalid_file", waiting=3))
    first = samples(ledger)
    assert first["tritium_ingested_files_total", "completed"] == 2
    assert first["tritium_ingested_files_total", "invalid_file"] == 1
    assert first["tritium_ingested_chunks_total",] == 14
    assert first["tritium_ingestion_seconds_count", "parse"] == 3
    assert first["tritium_ingestion_queue_length",] == 3
    ledger.bury("0")
    assert samples(ledger) == {key: value for key, value in first.items() if key[0] != "tritium_ingestion_queue_length"}
    ledger.keep("0", tally("completed", waiting=0))
    second = samples(ledger)
    assert second["tritium_ingested_files_total", "completed"] == 3
    assert second["tritium_ingestion_seconds_bucket", "parse", "0.025"] == 4
    assert second["tritium_ingestion_queue_length",] == 0


def test_before_the_first_file_there_is_nothing_but_names():
    assert samples(IngestionLedger()) == {("tritium_ingested_chunks_total",): 0}
    IngestionLedger().bury("0")
