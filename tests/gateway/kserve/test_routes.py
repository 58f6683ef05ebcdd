"""Paths mean what they mean to Triton, names as they stand."""

from __future__ import annotations

import pytest

from gateway.kserve.routes import Route, find_route


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", Route("server")),
        ("/v2/models/stats", Route("stats")),
        ("/v2/models/a%20b", Route("model", "a%20b")),
        ("/v2/models/m/versions/03/infer", Route("infer", "m", "03")),
        ("/v2/models/m/ready", Route("model_ready", "m")),
        ("/v2/models/m/generate_stream", Route("generate_stream", "m")),
        ("/v2/models/m/trace/setting", Route("trace", "m")),
        ("/v2/cudasharedmemory/region/r/register", Route("memory_register", kind="cuda", region="r")),
        ("/v2/repository/r/index", Route("index", repository="r")),
        ("/v2/repository/models/m/unload", Route("unload", "m")),
    ],
)
def test_a_path_is_an_operation(path: str, route: Route) -> None:
    assert find_route(path) == route


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/models", "/v2/models/m/", "/v2/models/m/versions/x", "/v2/models/m/infer\n", "/v2/repository"]
)
def test_other_paths_are_none(path: str) -> None:
    assert find_route(path) is None


def test_an_operation_has_its_methods() -> None:
    assert Route("infer").methods == ("POST",)
    assert Route("logging").methods == ("GET", "POST")
    assert Route("config").methods == ("GET",)
