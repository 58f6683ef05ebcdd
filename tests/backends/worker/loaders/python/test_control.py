from __future__ import annotations

import pytest

from backends.worker.loaders.python.control import is_model_ready, load_model, unload_model
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.messages import Control, Respond

PREFIX = "Failed to process the request for model 'm_0_0', message: "


def test_models_are_loaded_with_a_configuration_and_files(host, threads):
    loading = threads.submit(load_model, "n", '{"backend":"python"}', {"file:1/model.py": b"text"})
    control, payload = host.receive()
    assert (control.what, control.model, control.config) == ("load", "n", '{"backend":"python"}')
    assert [(head.name, head.size_bytes) for head in control.files] == [("file:1/model.py", 4)]
    assert bytes(payload) == b"text"
    host.send(Respond(control.id))
    assert loading.result(10) is None


def test_models_are_unloaded_with_their_dependents(host, threads):
    unloading = threads.submit(unload_model, "n", unload_dependents=True)
    control, _ = host.receive()
    assert control == Control(control.id, "unload", "n", unload_dependents=True)
    host.send(Respond(control.id))
    assert unloading.result(10) is None


def test_readiness_is_asked_of_a_version_or_the_latest(host, threads):
    for version, number, ready in (("", 0, True), ("2", 2, False)):
        asking = threads.submit(is_model_ready, "n", version)
        control, _ = host.receive()
        assert control == Control(control.id, "is_ready", "n", number)
        host.send(Respond(control.id, parameters={"ready": ready}))
        assert asking.result(10) is ready


def test_failures_are_told_in_tritons_words(host, threads):
    for function, start in ((load_model, "Failed to load model: "), (unload_model, "Failed to unload model: ")):
        asking = threads.submit(function, "n")
        host.send(Respond(host.receive()[0].id, error="UNAVAILABLE", message="why"))
        with pytest.raises(TritonModelException) as caught:
            asking.result(10)
        assert str(caught.value) == f"{start}{PREFIX}why"


@pytest.mark.usefixtures("host")
def test_files_are_bytes_by_path():
    with pytest.raises(TritonModelException, match=r"^failed to load model 'n', files should be a dictionary of file"):
        load_model("n", files="file")
    with pytest.raises(TypeError, match="must be bytes"):
        load_model("n", files={"file:1/model.py": "text"})


@pytest.mark.usefixtures("host")
def test_a_version_is_a_number():
    with pytest.raises(TritonModelException) as caught:
        is_model_ready("n", "x")
    assert str(caught.value) == (
        f"Failed to check model readiness: {PREFIX}failed to get model version from specified version string 'x'"
        " (details: stol), version should be an integral value > 0"
    )
