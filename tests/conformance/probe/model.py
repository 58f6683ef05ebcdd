"""A model that answers with what it was given: which requests ran together, in which order, and what came with them."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        del args
        self.executions = 0

    def execute(self, requests):
        self.executions += 1
        told = json.dumps({"execution": self.executions, "requests": [tell(request) for request in requests]})
        holds = [pb_utils.get_input_tensor_by_name(request, "HOLD_MS").as_numpy() for request in requests]
        # What stands for an empty slot holds nothing that means anything.
        ready = [hold for request, hold in zip(requests, holds, strict=True) if request.request_id()]
        time.sleep(max(int(hold.max()) for hold in ready) / 1000)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("TOLD", np.full(hold.shape, told.encode(), dtype=object))])
            for hold in holds
        ]


def tell(request):
    """The request's id, and its inputs but for the time to hold; only controls of one that stands for an empty slot."""
    given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    del given["HOLD_MS"]
    if not request.request_id():
        given.pop("X", None)
    inputs = {name: [list(array.shape), array.astype(float).ravel().tolist()] for name, array in sorted(given.items())}
    return {"id": request.request_id(), "inputs": inputs}
