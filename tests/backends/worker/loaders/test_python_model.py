from __future__ import annotations

import re

import numpy as np
import pytest

from backends.worker.frames import heads
from backends.worker.messages import Cancel, Loaded, Respond
from tests.backends.worker.instances import array, configuration, instance, tensor

X = np.array([[1, 2]], np.int32)

# By the first element of X, what `execute` does; the texts of its failures are Triton's.
FAILING = """
class Unspeakable(Exception):
    def __str__(self): raise RuntimeError("no text")

class TritonPythonModel:
    def helper(self):
        raise ValueError("multi\\nline")

    def execute(self, requests):
        response = pb_utils.InferenceResponse
        match int(requests[0].inputs()[0].as_numpy()[0, 0]):
            case 1: raise RuntimeError("boom")
            case 2: self.helper()
            case 3: raise RuntimeError
            case 4: raise pb_utils.TritonModelException("te")
            case 5: import sys; sys.exit("out")
            case 6: return (1,)
            case 7: return []
            case 8: return [3 for _ in requests]
            case 9: pb_utils.Tensor("", np.zeros(1))
            case 10: return [None for _ in requests]
            case 11: return [response(error=pb_utils.TritonError("e", pb_utils.TritonError.NOT_FOUND))]
            case 12: return [response(error=pb_utils.TritonError("e"))]
            case 13: raise Unspeakable
            case 14: raise ValueError("\\udcff")
            case 15: return [response(error=pb_utils.TritonError(ValueError("e")))]
            case 16: return (response() for _ in requests)
        return [response([pb_utils.Tensor("Y", request.inputs()[0].as_numpy() * 2)]) for request in requests]
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A host of FAILING, and the path of its file."""
    config = configuration(tmp_path_factory.mktemp("failing"), FAILING)
    with instance() as host:
        assert host.load(config) == Loaded()
        yield host, f"{config.path}/model.py"


PREFIX = "Failed to process the request(s) for model 'm_0_0', message: "


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (1, "RuntimeError: boom\n\nAt:\n  {file}(15): execute\n"),
        (2, "ValueError: multi\nline\n\nAt:\n  {file}(10): helper\n  {file}(16): execute\n"),
        (3, "RuntimeError: <EMPTY MESSAGE>\n\nAt:\n  {file}(17): execute\n"),
        (4, "TritonModelException: te\n\nAt:\n  {file}(18): execute\n"),
        (5, "SystemExit: out\n\nAt:\n  {file}(19): execute\n"),
        (6, "Expected a list in the execute return, found type '<class 'tuple'>'."),
        (
            7,
            (
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects."
                " InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n"
            ),
        ),
        (
            8,
            "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'int'>'.",
        ),
        (9, "TritonModelException: Tensor name cannot be an empty string.\n\nAt:\n  {file}(23): execute\n"),
        (10, "no response was given or sent for request 'r{id}'"),
        (13, "Unspeakable: <MESSAGE UNAVAILABLE DUE TO ANOTHER EXCEPTION>\n\nAt:\n  {file}(27): execute\n"),
        (14, "ValueError: \\udcff\n\nAt:\n  {file}(28): execute\n"),
        (
            15,
            ("TypeError: TritonError: message must be str, not <class 'ValueError'>\n\nAt:\n  {file}(29): execute\n"),
        ),
        (16, "Expected a list in the execute return, found type '<class 'generator'>'."),
    ],
)
def test_a_failed_execute_fails_its_batch_in_tritons_words(failing, case, message):
    host, file = failing
    (key,) = host.start([tensor("X", np.array([[case]], np.int32))])
    respond, _ = host.next()
    assert host.await_end().failed
    assert respond == Respond(key, error="INTERNAL", message=PREFIX + message.format(file=file, id=key))


def test_a_failed_execute_fails_every_member_and_the_next_batch_works(failing):
    host, _ = failing
    ids = host.start([tensor("X", np.array([[1]], np.int32))], [tensor("X", X)])
    assert sorted(host.next()[0].id for _ in ids) == ids
    assert host.await_end().failed
    _, outputs = host.ask(tensor("X", X * 50))
    assert outputs["Y"].tolist() == [[100, 200]]


def test_errors_that_a_model_answers_keep_their_code(failing):
    host, _ = failing
    for case, code in ((11, "NOT_FOUND"), (12, "INTERNAL")):
        host.start([tensor("X", np.array([[case]], np.int32))])
        respond, _ = host.next()
        assert (respond.error, respond.message) == (code, "e")
        assert not host.await_end().failed


def test_each_member_of_a_batch_gets_its_own_rows_and_the_outputs_it_wants(failing):
    host, _ = failing
    ids = host.start([tensor("X", X * 50)], [tensor("X", X * 500)])
    answers = {respond.id: array(outputs[0]).tolist() for respond, outputs in (host.next(), host.next())}
    assert answers == {ids[0]: [[100, 200]], ids[1]: [[1000, 2000]]}
    host.await_end()
    assert host.ask(tensor("X", X * 50), outputs=["Other"])[1] == {}


DECOUPLED = """
import threading

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(request.inputs()[0].as_numpy()[0])
            if count == 0:
                raise RuntimeError("boom")
            if count == 1:
                return [3]
            if count < 0:
                threading.Thread(target=self.until_cancelled, args=(request.get_response_sender(),)).start()
            else:
                threading.Thread(target=self.work, args=(request.get_response_sender(), count)).start()
        print("execute is over")

    def work(self, sender, count):
        for number in range(count):
            tensor = pb_utils.Tensor("Y", np.array([number], np.int32))
            sender.send(pb_utils.InferenceResponse([tensor]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def until_cancelled(self, sender):
        while not sender.is_cancelled():
            pass
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("seen")), 1)
"""


@pytest.fixture(scope="module")
def decoupled(tmp_path_factory):
    fields = {"max_batch_size": 0, "model_transaction_policy": {"decoupled": True}}
    config = configuration(tmp_path_factory.mktemp("decoupled"), DECOUPLED, **fields)
    with instance() as host:
        assert host.load(config) == Loaded()
        yield host


def count(number: int):
    return tensor("X", np.array([number], np.int32))


def test_threads_answer_long_after_execute_has_returned(decoupled):
    host = decoupled
    ids = host.start([count(5)], [count(3)])
    got = {key: [] for key in ids}
    open_ids = set(ids)
    while open_ids:
        respond, outputs = host.next()
        got[respond.id] += [int(array(each)[0]) for each in outputs]
        if respond.final:
            open_ids.discard(respond.id)
    assert got == {ids[0]: [0, 1, 2, 3, 4], ids[1]: [0, 1, 2]}
    assert not host.await_end().failed


def test_a_cancellation_is_seen_while_the_model_works(decoupled):
    host = decoupled
    (key,) = host.start([count(-1)])
    host.await_end()
    host.link.send(Cancel(key))
    assert host.next()[0].message == "seen"


def test_a_decoupled_execute_that_fails_ends_its_requests_once(decoupled):
    host = decoupled
    for number, message in (
        (0, r"RuntimeError: boom\n\nAt:\n .*"),
        (1, re.escape("Python model 'm_0_0' is using the decoupled mode and the execute function must return None.")),
    ):
        (key,) = host.start([count(number)])
        respond, _ = host.next()
        assert respond.id == key
        assert respond.final
        assert re.fullmatch(re.escape(PREFIX) + message, respond.message, re.DOTALL)
        assert host.await_end().failed
    # Were there a second answer, it would come before this one's.
    (key,) = host.start([count(2)])
    assert [host.next()[0].id for _ in range(3)] == [key] * 3
    host.await_end()


ASYNC = """
import asyncio

class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.sleep(0)
        if requests[0].inputs()[0].as_numpy()[0, 0] == 0:
            raise RuntimeError("boom")
        if requests[0].inputs()[0].as_numpy()[0, 0] < 0:
            asyncio.get_running_loop().call_soon(exit)
            exit("out")
        ask = pb_utils.InferenceRequest
        calls = [ask(model_name="n", requested_output_names=["Y"], inputs=r.inputs()) for r in requests]
        responses = await asyncio.gather(*[call.async_exec() for call in calls])
        return [pb_utils.InferenceResponse(response.output_tensors()) for response in responses]
"""


def test_an_asynchronous_execute_asks_other_models_and_outlives_an_exit(tmp_path):
    with instance() as host:
        assert host.load(configuration(tmp_path, ASYNC)) == Loaded()
        respond, _ = host.ask(tensor("X", -X))
        assert respond.message.startswith(PREFIX + "SystemExit: out\n\nAt:\n")
        ids = host.start([tensor("X", X)], [tensor("X", X * 5)])
        for _ in ids:
            question, payload = host.link.receive()
            assert question.parent == ids[0]
            value = int.from_bytes(payload[:4], "little") * 10
            answer = [tensor("Y", np.array([[value]], np.int32))]
            host.link.send(Respond(question.id, heads(answer)), answer)
        answers = {respond.id: array(outputs[0]).tolist() for respond, outputs in (host.next(), host.next())}
        assert answers == {ids[0]: [[10]], ids[1]: [[50]]}
        host.await_end()
        respond, _ = host.ask(tensor("X", X * 0))
        assert respond.message.startswith(PREFIX + "RuntimeError: boom\n\nAt:\n")


ASYNC_DECOUPLED = """
class TritonPythonModel:
    async def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy())]))
            if request.inputs()[0].as_numpy()[0] == 0:
                raise RuntimeError("boom")
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def test_an_asynchronous_decoupled_execute_runs_on_in_the_background(tmp_path):
    fields = {"max_batch_size": 0, "model_transaction_policy": {"decoupled": True}}
    with instance() as host:
        host.load(configuration(tmp_path, ASYNC_DECOUPLED, **fields))
        host.start([count(5)])
        assert [host.next()[0].final for _ in range(2)] == [False, True]
        host.await_end()
        host.start([count(0)])
        assert not host.next()[0].final
        respond, _ = host.next()
        assert respond.final
        assert respond.message.startswith(PREFIX + "RuntimeError: boom\n\nAt:\n")


RESCHEDULING = """
class TritonPythonModel:
    def initialize(self, args):
        self.left = 3

    def execute(self, requests):
        self.left -= 1
        if self.left:
            requests[0].set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return [3] if requests[0].request_id() == "r2" else [None]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([self.left], np.int32))])]
"""


def test_a_rescheduled_request_is_given_back_for_another_batch(tmp_path):
    with instance() as host:
        host.load(configuration(tmp_path, RESCHEDULING))
        (first,) = host.start([tensor("X", X)])
        assert host.await_end().again == [first]
        assert host.ask(tensor("X", X))[0].message == (
            PREFIX + "Expected a None object in the execute function return list for reschduled request, found type"
            " '<class 'int'>'."
        )
        assert host.ask(tensor("X", X))[1]["Y"].tolist() == [0]


SENDING = """
class TritonPythonModel:
    def execute(self, requests):
        response = pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([1], np.int32))])
        requests[0].get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return [response if requests[0].inputs()[0].as_numpy()[0, 0] else None]
"""


def test_a_model_that_is_not_decoupled_may_send_its_response_instead_of_returning_it(tmp_path):
    with instance() as host:
        host.load(configuration(tmp_path, SENDING))
        for value, fails in ((X * 0, False), (X, True)):
            (key,) = host.start([tensor("X", value)])
            respond, _ = host.next()
            assert (respond.id, respond.final, respond.error) == (key, True, "")
            # Returning it as well is an error of the model's, which comes too late for whoever asked.
            assert host.await_end().failed is fails
