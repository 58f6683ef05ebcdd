"""A text model as TensorRT-LLM's ensemble presents one: it says the words of its prompt again."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def text(words):
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.array([words], dtype=np.object_))])


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request, request.get_response_sender())).start()

    def answer(self, request, sender):
        def given(name, default=None):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().flat[0]

        prompt = given("text_input")
        if prompt.startswith(b"FAIL"):
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("An Error Occurred")), flags=FINAL)
            return
        words = [word + b" " for word in prompt.split()][: int(given("max_tokens"))]
        if not given("stream", False):
            sender.send(text(b"".join(words)), flags=FINAL)
            return
        for number, word in enumerate(words):
            if sender.is_cancelled():
                Path(os.environ["CANCELLED_FILE"]).write_text(f"{number}\n")
                break
            if word == b"FAIL_HERE ":
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("An Error Occurred")), flags=FINAL)
                return
            if word == b"SLOW ":
                time.sleep(0.2)
            sender.send(text(word))
        sender.send(flags=FINAL)
