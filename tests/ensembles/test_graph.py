from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from backends.errors import Code, InferenceError
from backends.model import InferRequest, InferResponse
from tests.ensembles.composing import (
    Fake,
    FakeModels,
    ask,
    config,
    ensemble,
    ensemble_config,
    failing,
    mapping,
    numbers,
    repeating,
    step,
    values,
)
from tests.waiting import eventually_async

X_TO_Y = ({"X": "INT32 [-1]"}, {"Y": "INT32 [-1]"})


async def test_a_chain_hands_tensors_on_by_their_names() -> None:
    chain = ensemble_config(*X_TO_Y, step("double", {"IN": "X"}, {"OUT": "t"}), step("plus", {"IN": "t"}, {"OUT": "Y"}))
    model = ensemble(chain, mapping("double", lambda n: 2 * n), mapping("plus", lambda n: n + 1))
    (response,) = await ask(model, numbers("X", 1, 2))
    assert response.final
    assert [(output.name, values(output)) for output in response.outputs] == [("Y", [3, 5])]


async def test_steps_that_are_ready_run_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    async def meet(request: InferRequest) -> AsyncIterator[InferResponse]:
        await both.wait()
        yield InferResponse([numbers("OUT", *values(request.inputs[0]))])

    pair = ensemble_config(
        {"X": "INT32 [-1]"},
        {"A": "INT32 [-1]", "B": "INT32 [-1]"},
        step("meet", {"IN": "X"}, {"OUT": "A"}),
        step("meet", {"IN": "X"}, {"OUT": "B"}),
    )
    model = ensemble(pair, Fake(config("meet", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), meet))
    (response,) = await asyncio.wait_for(ask(model, numbers("X", 7)), 5)
    assert [output.name for output in response.outputs] == ["B", "A"]


async def test_a_step_waits_for_all_of_its_tensors() -> None:
    async def add(request: InferRequest) -> AsyncIterator[InferResponse]:
        first, second = request.inputs
        yield InferResponse([numbers("OUT", *(a + b for a, b in zip(values(first), values(second), strict=True)))])

    diamond = ensemble_config(
        *X_TO_Y,
        step("double", {"IN": "X"}, {"OUT": "a"}),
        step("square", {"IN": "X"}, {"OUT": "b"}),
        step("add", {"A": "a", "B": "b"}, {"OUT": "Y"}),
    )
    adder = Fake(config("add", {"A": "INT32 [-1]", "B": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), add)
    model = ensemble(diamond, mapping("double", lambda n: 2 * n), mapping("square", lambda n: n * n), adder)
    (response,) = await ask(model, numbers("X", 3))
    assert values(response.outputs[0]) == [15]


async def test_only_the_steps_that_wanted_outputs_need_are_run() -> None:
    two = ensemble_config(
        {"X": "INT32 [-1]"},
        {"A": "INT32 [-1]", "B": "INT32 [-1]", "A1": "INT32 [-1]"},
        step("first", {"IN": "X"}, {"OUT": "A"}),
        step("second", {"IN": "X"}, {"OUT": "B"}),
        step("third", {"IN": "A"}, {"OUT": "A1"}),
    )
    fakes = [mapping(name, lambda n: n) for name in ("first", "second", "third")]
    (response,) = await ask(ensemble(two, *fakes), numbers("X", 1), outputs=["A"])
    assert [output.name for output in response.outputs] == ["A"]
    assert [len(fake.asked) for fake in fakes] == [1, 0, 0]


async def test_each_response_of_a_decoupled_step_flows_on_in_order() -> None:
    first_may_end = asyncio.Event()

    async def overtaking(request: InferRequest) -> AsyncIterator[InferResponse]:
        value = values(request.inputs[0])[0]
        if value == 1:
            await first_may_end.wait()
        yield InferResponse([numbers("OUT", 10 * value)])
        if value == 3:
            first_may_end.set()

    stream = ensemble_config(
        {"X": "INT32 [-1]"},
        {"Y": "INT32 [1]"},
        step("repeat", {"IN": "X"}, {"OUT": "t"}),
        step("ten", {"IN": "t"}, {"OUT": "Y"}),
        decoupled=True,
    )
    ten = Fake(config("ten", {"IN": "INT32 [1]"}, {"OUT": "INT32 [1]"}), overtaking)
    responses = await asyncio.wait_for(ask(ensemble(stream, repeating(), ten), numbers("X", 1, 2, 3)), 5)
    assert [values(response.outputs[0]) for response in responses if response.outputs] == [[10], [20], [30]]
    assert [response.final for response in responses].count(True) == 1
    assert responses[-1].final


async def test_a_decoupled_step_without_a_response_ends_the_stream() -> None:
    stream = ensemble_config(
        {"X": "INT32 [-1]"}, {"Y": "INT32 [1]"}, step("repeat", {"IN": "X"}, {"OUT": "Y"}), decoupled=True
    )
    assert await ask(ensemble(stream, repeating()), numbers("X")) == [InferResponse()]


async def test_an_ensemble_without_its_outputs_says_that_it_is_stuck() -> None:
    stuck = ensemble_config({"X": "INT32 [-1]"}, {"Y": "INT32 [1]"}, step("repeat", {"IN": "X"}, {"OUT": "Y"}))
    (response,) = await ask(ensemble(stuck, repeating()), numbers("X"), id="q")
    assert response.error is not None
    assert response.error.status is Code.INVALID_ARG
    assert response.error.message == (
        "in ensemble 'ens', [request id: q] unexpected deadlock, at least one output is not set while no more ensemble "
        "steps can be made"
    )


async def test_an_error_names_the_ensemble_and_keeps_its_code() -> None:
    chain = ensemble_config(*X_TO_Y, step("bad", {"IN": "X"}, {"OUT": "Y"}))
    model = ensemble(chain, failing("bad", InferenceError("An Error Occurred", Code.UNAVAILABLE)))
    (response,) = await ask(model, numbers("X", 1))
    assert response.final
    assert response.error is not None
    assert (response.error.message, response.error.status) == ("in ensemble 'ens', An Error Occurred", Code.UNAVAILABLE)


async def test_what_does_not_fit_a_step_is_refused_in_its_words() -> None:
    odd = ensemble_config(*X_TO_Y, step("first", {"IN": "X"}, {"OUT": "t"}), step("pair", {"IN": "t"}, {"OUT": "Y"}))
    pair = Fake(config("pair", {"IN": "INT32 [2]"}, {"OUT": "INT32 [2]"}), repeating()._answer)
    with pytest.raises(InferenceError) as refused:
        await ask(ensemble(odd, mapping("first", lambda n: n), pair), numbers("X", 1, 2, 3))
    assert refused.value.message == (
        "in ensemble 'ens', [request id: <id_unknown>] unexpected shape for input 'IN' for model 'pair'. "
        "Expected [2], got [3]. "
    )


async def test_an_unknown_step_is_refused_at_once() -> None:
    chain = ensemble_config(*X_TO_Y, step("gone", {"IN": "X"}, {"OUT": "Y"}))
    with pytest.raises(InferenceError, match=r"^in ensemble 'ens', Request for unknown model: 'gone' is not found$"):
        ensemble(chain).infer(InferRequest("ens", [numbers("X", 1)]))


async def test_leaving_cancels_every_step_under_way() -> None:
    for_ever = asyncio.Event()

    async def hang(request: InferRequest) -> AsyncIterator[InferResponse]:  # noqa: ARG001
        await for_ever.wait()
        yield InferResponse()

    hanging = [Fake(config(name, {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), hang) for name in ("one", "two")]
    pair = ensemble_config(
        {"X": "INT32 [-1]"},
        {"A": "INT32 [-1]", "B": "INT32 [-1]"},
        step("one", {"IN": "X"}, {"OUT": "A"}),
        step("two", {"IN": "X"}, {"OUT": "B"}),
    )
    model = ensemble(pair, *hanging)
    asking = asyncio.ensure_future(ask(model, numbers("X", 1)))

    async def begun() -> bool:
        return all(fake.open for fake in hanging)

    await eventually_async(begun)
    asking.cancel()
    await asyncio.wait([asking])
    assert [(fake.open, fake.cancelled) for fake in hanging] == [(0, 1), (0, 1)]
    assert (await model.statistics()).failures == {"CANCELED": 1}


async def test_an_error_cancels_the_other_steps() -> None:
    for_ever = asyncio.Event()

    async def hang(request: InferRequest) -> AsyncIterator[InferResponse]:  # noqa: ARG001
        await for_ever.wait()
        yield InferResponse()

    hanging = Fake(config("hang", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), hang)
    pair = ensemble_config(
        {"X": "INT32 [-1]"},
        {"A": "INT32 [-1]", "B": "INT32 [-1]"},
        step("hang", {"IN": "X"}, {"OUT": "A"}),
        step("bad", {"IN": "X"}, {"OUT": "B"}),
    )
    (response,) = await ask(ensemble(pair, hanging, failing("bad", InferenceError("no"))), numbers("X", 1))
    assert response.error is not None
    assert (hanging.open, hanging.cancelled) == (0, 1)


async def test_what_the_request_says_beside_its_tensors_reaches_every_step() -> None:
    chain = ensemble_config(*X_TO_Y, step("a", {"IN": "X"}, {"OUT": "t"}), step("b", {"IN": "t"}, {"OUT": "Y"}))
    fakes = [mapping("a", lambda n: n), mapping("b", lambda n: n)]
    said = {
        "id": "abc",
        "priority": 3,
        "timeout_us": 5,
        "parameters": {"foo": "bar"},
        "sequence_id": 5,
        "sequence_start": True,
        "traceparent": "00-1",
        "tenant": "t",
    }
    (response,) = await ask(ensemble(chain, *fakes), numbers("X", 1), **said)
    for fake in fakes:
        assert {name: getattr(fake.asked[0], name) for name in said} == said
        assert fake.asked[0].outputs == ["OUT"]
    assert response.parameters == {"sequence_id": 5, "sequence_start": True, "sequence_end": False}


async def test_what_a_step_says_of_the_sequence_goes_on_with_its_tensors() -> None:
    async def begin(request: InferRequest) -> AsyncIterator[InferResponse]:
        said = {"sequence_id": 9, "sequence_start": True}
        yield InferResponse([numbers("OUT", *values(request.inputs[0]))], said)

    chain = ensemble_config(*X_TO_Y, step("a", {"IN": "X"}, {"OUT": "t"}), step("b", {"IN": "t"}, {"OUT": "Y"}))
    second = mapping("b", lambda n: n)
    first = Fake(config("a", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), begin)
    (response,) = await ask(ensemble(chain, first, second), numbers("X", 1), sequence_id="s", sequence_end=True)
    assert (second.asked[0].sequence_id, second.asked[0].sequence_start, second.asked[0].sequence_end) == (
        9,
        True,
        False,
    )
    assert response.parameters["sequence_id"] == 9


async def test_a_step_runs_without_the_optional_inputs_that_are_absent() -> None:
    async def echo(request: InferRequest) -> AsyncIterator[InferResponse]:
        yield InferResponse([numbers("OUT", len(request.inputs))])

    optional = ensemble_config(
        {"X": "INT32 [-1]", "O": "INT32 [-1] optional"},
        {"Y": "INT32 [-1]"},
        step("echo", {"IN": "X", "OPT": "O"}, {"OUT": "Y"}),
    )
    fake = Fake(config("echo", {"IN": "INT32 [-1]", "OPT": "INT32 [-1] optional"}, {"OUT": "INT32 [-1]"}), echo)
    model = ensemble(optional, fake)
    assert values((await ask(model, numbers("X", 1)))[0].outputs[0]) == [1]
    assert values((await ask(model, numbers("X", 1), numbers("O", 1)))[0].outputs[0]) == [2]


async def test_an_output_that_a_step_leaves_out_is_an_absent_optional_input() -> None:
    async def nothing(request: InferRequest) -> AsyncIterator[InferResponse]:  # noqa: ARG001
        yield InferResponse()

    chain = ensemble_config(*X_TO_Y, step("none", {"IN": "X"}, {"OUT": "t"}), step("next", {"IN": "t"}, {"OUT": "Y"}))
    silent = Fake(config("none", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), nothing)
    with pytest.raises(InferenceError, match="expected 1 inputs but got 0 inputs for model 'next'"):
        await ask(ensemble(chain, silent, mapping("next", lambda n: n)), numbers("X", 1))


@pytest.mark.parametrize(
    ("outer", "inner", "shape", "seen"),
    [
        (4, 0, (1, 16), (16,)),
        (0, 4, (16,), (1, 16)),
        (4, 4, (2, 16), (2, 16)),
        (0, 0, (16,), (16,)),
    ],
)
async def test_batches_of_one_come_and_go_between_models_with_and_without_batches(
    outer: int, inner: int, shape: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    plain = ensemble_config(
        {"X": "INT32 [16]"}, {"Y": "INT32 [16]"}, step("m", {"IN": "X"}, {"OUT": "Y"}), max_batch_size=outer
    )
    fake = mapping("m", lambda n: n)
    fake.config = config("m", {"IN": "INT32 [16]"}, {"OUT": "INT32 [16]"}, max_batch_size=inner)
    count = 16 * (shape[0] if len(shape) == 2 else 1)
    (response,) = await ask(ensemble(plain, fake), numbers("X", *range(count), shape=shape))
    assert fake.asked[0].inputs[0].shape == seen
    assert response.outputs[0].shape == shape


async def test_a_batch_goes_whole_to_a_model_that_has_batches_in_its_dimensions() -> None:
    plain = ensemble_config(
        {"X": "INT32 [16]"}, {"Y": "INT32 [16]"}, step("m", {"IN": "X"}, {"OUT": "Y"}), max_batch_size=4
    )
    fake = mapping("m", lambda n: n)
    fake.config = config("m", {"IN": "INT32 [-1,16]"}, {"OUT": "INT32 [-1,16]"})
    (response,) = await ask(ensemble(plain, fake), numbers("X", *range(32), shape=(2, 16)))
    assert response.outputs[0].shape == (2, 16)


async def test_a_request_keeps_the_versions_that_it_began_with() -> None:
    may_end = asyncio.Event()

    async def slow(request: InferRequest) -> AsyncIterator[InferResponse]:
        await may_end.wait()
        yield InferResponse([numbers("OUT", *values(request.inputs[0]))])

    chain = ensemble_config(*X_TO_Y, step("slow", {"IN": "X"}, {"OUT": "t"}), step("m", {"IN": "t"}, {"OUT": "Y"}))
    model = ensemble(
        chain, Fake(config("slow", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), slow), mapping("m", lambda n: n + 1)
    )
    models = model._models
    assert isinstance(models, FakeModels)
    asking = asyncio.ensure_future(ask(model, numbers("X", 1)))

    async def begun() -> bool:
        fake = models.named["slow"]
        assert isinstance(fake, Fake)
        return fake.open == 1

    await eventually_async(begun)
    models.named["m"] = mapping("m", lambda n: n + 100, version=2)
    may_end.set()
    (response,) = await asking
    assert values(response.outputs[0]) == [2]
    assert values((await ask(model, numbers("X", 1)))[0].outputs[0]) == [101]


async def test_a_step_asks_for_the_version_that_it_names() -> None:
    models = FakeModels({"m": mapping("m", lambda n: n)}, {("m", 3): mapping("m", lambda n: 3 * n, version=3)})
    chain = ensemble_config(*X_TO_Y, step("m", {"IN": "X"}, {"OUT": "Y"}, version=3))
    model = ensemble(chain)
    model._models = models
    assert values((await ask(model, numbers("X", 1)))[0].outputs[0]) == [3]
    assert models.versions["m", 3].asked[0].version == 3


async def test_ensembles_may_be_steps_and_errors_name_each() -> None:
    inner = ensemble_config(*X_TO_Y, step("bad", {"IN": "X"}, {"OUT": "Y"}), name="inner")
    bad = failing("bad", InferenceError("no"))
    outer = ensemble(ensemble_config(*X_TO_Y, step("inner", {"X": "X"}, {"Y": "Y"}), name="outer"))
    models = outer._models
    assert isinstance(models, FakeModels)
    models.named["inner"] = ensemble(inner, bad)
    (response,) = await ask(outer, numbers("X", 1))
    assert response.error is not None
    assert response.error.message == "in ensemble 'outer', in ensemble 'inner', no"


async def test_it_is_ready_while_every_step_is() -> None:
    fake = mapping("m", lambda n: n)
    chain = ensemble_config(*X_TO_Y, step("m", {"IN": "X"}, {"OUT": "Y"}))
    model = ensemble(chain, fake)
    assert model.ready()
    fake.is_ready = False
    assert not model.ready()
    assert not ensemble(chain).ready()


async def test_requests_are_counted_by_their_outcome_and_rows() -> None:
    batched = ensemble_config(
        {"X": "INT32 [1]"}, {"Y": "INT32 [1]"}, step("m", {"IN": "X"}, {"OUT": "Y"}), max_batch_size=4
    )
    fake = mapping("m", lambda n: n)
    fake.config = config("m", {"IN": "INT32 [1]"}, {"OUT": "INT32 [1]"}, max_batch_size=4)
    model = ensemble(batched, fake)
    await ask(model, numbers("X", 1, 2, shape=(2, 1)))
    with pytest.raises(InferenceError):
        await ask(model, numbers("X", *range(5), shape=(5, 1)))
    statistics = await model.statistics()
    assert (statistics.inference_count, statistics.execution_count) == (2, 1)
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (1, 1)
    assert list(statistics.batch_stats) == [2]
    assert statistics.failures == {"OTHER": 1}


async def test_models_are_held_until_the_end_of_a_request() -> None:
    last = mapping("last", lambda n: n)
    last.held = 0
    chain = ensemble_config(*X_TO_Y, step("m", {"IN": "X"}, {"OUT": "t"}), step("last", {"IN": "t"}, {"OUT": "Y"}))
    responses = ensemble(chain, mapping("m", lambda n: n), last).infer(InferRequest("ens", [numbers("X", 1)]))
    assert last.held == 1
    assert (await anext(responses)).final
    await responses.aclose()
    assert last.held == 0
