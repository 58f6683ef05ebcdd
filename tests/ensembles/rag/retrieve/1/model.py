"""Finds the nearest passage, and puts it into a prompt."""

import zlib

import numpy as np
import triton_python_backend_utils as pb_utils

SIZE = 64
PASSAGES = (
    b"Paris is the capital of France",
    b"Batching joins requests into one execution",
    b"Whales are mammals",
)


def embed(text):
    vector = np.zeros(SIZE, np.float32)
    for word in text.lower().split():
        vector[zlib.crc32(word) % SIZE] += 1
    return vector / np.linalg.norm(vector)


class TritonPythonModel:
    def initialize(self, args):  # noqa: ARG002  # Triton calls it so
        self.index = np.stack([embed(passage) for passage in PASSAGES])

    def execute(self, requests):
        responses = []
        for request in requests:
            vector = pb_utils.get_input_tensor_by_name(request, "VECTOR").as_numpy()
            question = pb_utils.get_input_tensor_by_name(request, "QUESTION").as_numpy()[0]
            passage = PASSAGES[int(np.argmax(self.index @ vector))]
            prompt = np.array([passage + b". " + question], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("PROMPT", prompt)]))
        return responses
