"""What may stand in `pipeline.json`."""

from __future__ import annotations

from typing import Any

import pytest

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from ensembles.pipeline import launch
from tests.ensembles.house import (
    RECIPE,
)


@pytest.mark.parametrize(
    ("recipe", "param"),
    [
        ({"generator": None}, "generator"),
        ({"colour": "red"}, "colour"),
        ({"top_k": 0}, "top_k"),
        ({"stores": []}, "stores"),
        ({"steps": {"dream": {}}}, "steps.dream"),
        ({"steps": {"retrieve": {"candidates": "many"}}}, "candidates"),
        ({"steps": {"retrieve": {"dense_weight": 0, "words_weight": 0}}}, "dense_weight"),
        ({"steps": {"retrieve": {"filters": {"type": "like"}}}}, "filters"),
        ({"steps": {"rerank": {"deadline_seconds": 0}}}, "deadline_seconds"),
        ({"steps": {"rerank": {"on_failure": "pray"}}}, "on_failure"),
        ({"steps": {"prompt": {"place": "nowhere"}}}, "place"),
        ({"steps": {"rewrite": {"messages": 1}}}, "messages"),
        ({"steps": {"embed": {"size": 1}}}, "size"),
        ({"steps": {"excerpt": {"characters": 0}}}, "characters"),
        ({"steps": {"cite": {"url": "{nothing}"}}}, "url"),
    ],
)
def test_an_option_that_is_wrong_is_named_with_its_file_or_step(recipe: dict[str, Any], param: str) -> None:
    config = ModelConfig("handbook", "rag", arguments={**RECIPE, **recipe})
    with pytest.raises(InvalidRequest) as raised:
        launch(config, runtime_dir="")
    assert raised.value.param == param
    assert "pipeline.json" in raised.value.message or "The step" in raised.value.message or param == "filters"


def test_a_pipeline_without_its_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"pipeline\.json is missing"):
        launch(ModelConfig("handbook", "rag"), runtime_dir="")
