"""Doubles numbers, and says what it was asked with."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            if numbers.size and numbers.flat[0] < 0:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("negative")))
                continue
            text = pb_utils.get_input_tensor_by_name(request, "TEXT")
            said = {
                "id": request.request_id(),
                "parameters": json.loads(request.parameters() or "{}"),
                "text": None if text is None else text.as_numpy().flat[0].decode(),
            }
            rows = np.array([[json.dumps(said).encode()]] * len(numbers), dtype=np.object_)
            outputs = [pb_utils.Tensor("OUT", 2 * numbers), pb_utils.Tensor("SAID", rows)]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
