"""KServe's and Triton's protobuf definitions, as tritonclient ships them, without the client.

Its package imports gRPC, numpy and more on the way to the generated modules: 30 MB and 0.4 s for each process.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = "tritonclient.grpc"


def _definitions(name: str) -> Any:
    """One generated module. For its import a bare package stands in the client's place, if that is not there yet."""
    if _PACKAGE in sys.modules:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    spec = find_spec("tritonclient")
    assert spec is not None
    bare = ModuleType(_PACKAGE)
    bare.__path__ = [str(Path(folder) / "grpc") for folder in spec.submodule_search_locations or ()]
    sys.modules[_PACKAGE] = bare
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    finally:
        del sys.modules[_PACKAGE]  # whoever wants the client itself finds it


model_config_pb2 = _definitions("model_config_pb2")
service_pb2 = _definitions("service_pb2")
