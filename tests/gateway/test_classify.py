from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from backends.errors import InvalidRequest
from gateway.classify import classify, preprocess, read_model
from gateway.client import Server, ServerError

PLANAR = {
    "input": [{"name": "data_0", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, 2, 4]}],
    "output": [{"name": "fc6_1", "data_type": "TYPE_FP32", "dims": [5]}],
    "max_batch_size": 0,
}


@pytest.fixture
def image(tmp_path):
    """Red on the left, blue on the right."""
    made = Image.new("RGB", (8, 4), (255, 0, 0))
    made.paste((0, 0, 255), (4, 0, 8, 4))
    made.save(tmp_path / "image.png")
    return tmp_path / "image.png"


class Triton(BaseHTTPRequestHandler):
    """Answers as a server with one classifier, and keeps what it was asked."""

    asked: list[tuple[dict, bytes]]

    def do_GET(self):
        self.answer(200 if self.path == "/v2/models/m/config" else 400, PLANAR)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        head = int(self.headers["inference-header-content-length"])
        self.server.asked.append((json.loads(body[:head]), body[head:]))
        found = ["9.5:4:MUG", "8.25:1:A: B", "0.5:3"]
        self.answer(200, {"outputs": [{"name": "fc6_1", "datatype": "BYTES", "shape": [3], "data": found}]})

    def answer(self, status, body):
        data = json.dumps(body if status == 200 else {"error": "Request for unknown model"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def triton():
    with ThreadingHTTPServer(("127.0.0.1", 0), Triton) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(triton, name, *images, **options):
    classify(
        Server(f"http://127.0.0.1:{triton.server_port}"),
        "",
        name,
        images,
        **{"classes": 3, "scaling": "NONE"} | options,
    )


def test_labels_are_printed_as_tritons_client_prints_them(triton, image, capsys):
    run(triton, "m", image, image)
    labels = ["    9.5 (4) = MUG", "    8.25 (1) = A: B", "    0.5 (3)"]
    assert capsys.readouterr().out.splitlines() == [
        *("Request 1, batch size 1", *labels),
        *("Request 2, batch size 1", *labels),
        "PASS",
    ]


def test_the_image_goes_in_binary_and_so_many_labels_are_asked_for(triton, image):
    run(triton, "m", image)
    ((head, pixels),) = triton.asked
    assert head["inputs"] == [
        {"name": "data_0", "datatype": "FP32", "shape": [3, 2, 4], "parameters": {"binary_data_size": 96}}
    ]
    assert head["outputs"] == [{"name": "fc6_1", "parameters": {"classification": 3, "binary_data": False}}]
    red, green, blue = np.frombuffer(pixels, np.float32).reshape(3, 2, 4)
    assert (red[0, 0], blue[0, 3], green.max()) == (255, 255, 0)


def test_an_unknown_model_is_the_servers_to_refuse(triton, image):
    with pytest.raises(ServerError, match="unknown model"):
        run(triton, "other", image)


@pytest.mark.parametrize(("scaling", "red"), [("NONE", 255), ("INCEPTION", 1), ("VGG", 255 - 123)])
def test_pixels_are_scaled_as_the_networks_want_them(image, scaling, red):
    pixels = preprocess(image, read_model("m", PLANAR), scaling)
    assert pixels.dtype == np.float32
    assert pixels[0, 0, 0] == red


@pytest.mark.parametrize(
    ("fields", "batch", "shape", "dtype"),
    [
        ({"format": "FORMAT_NHWC", "dims": [2, 4, 3]}, 0, (2, 4, 3), np.float32),
        ({"dims": [2, 4, 3]}, 8, (1, 2, 4, 3), np.float32),
        ({"dims": [1, 2, 4], "data_type": "TYPE_UINT8"}, 8, (1, 1, 2, 4), np.uint8),
    ],
)
def test_images_have_the_order_that_the_model_takes(image, fields, batch, shape, dtype):
    config = PLANAR | {"input": [{"name": "x", "data_type": "TYPE_FP32"} | fields], "max_batch_size": batch}
    pixels = preprocess(image, read_model("m", config), "VGG" if dtype == np.uint8 else "NONE")
    assert (pixels.shape, pixels.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"input": [], "output": []}, "has 0 inputs and 0 outputs"),
        (PLANAR | {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]}, "has 1 dimensions"),
        (PLANAR | {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [9, 9, 9]}]}, "is no image"),
        (PLANAR | {"input": [{"name": "x", "data_type": "TYPE_STRING", "dims": [3, 9, 9]}]}, "is no image"),
    ],
)
def test_a_model_that_takes_no_image_is_refused(config, words):
    with pytest.raises(InvalidRequest, match=words):
        read_model("m", config)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(OSError, match="cannot identify image file"):
        preprocess(tmp_path / "x", read_model("m", PLANAR), "NONE")
