from __future__ import annotations

import msgspec
import pytest

from backends.config import EnsembleStep, InstanceGroup, ModelConfig, Reshape, Warmup
from ensembles.validation import check, circle, is_decoupled, refusal
from tests.ensembles.composing import config, ensemble_config, step

PARTIAL = config("partial", {"IN": "INT32 [1]"}, {"A": "INT32 [1]", "B": "INT32 [1]"})
SIMPLE = config("simple", {"INPUT0": "INT32 [16]", "INPUT1": "INT32 [16]"}, {"OUTPUT0": "INT32 [16]"}, max_batch_size=8)
B16 = config("b16", {"IN": "INT32 [16]"}, {"OUT": "INT32 [16]"}, max_batch_size=4)
NB16 = config("nb16", {"IN": "INT32 [-1,16]"}, {"OUT": "INT32 [-1,16]"})
PLUS = config("plus1", {"IN": "INT32 [1]"}, {"OUT": "INT32 [1]"})
REPEAT = config("repeat", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [1]"}, decoupled=True)
TAP = config("tap", {"IN": "INT32 [1]", "OPT": "INT32 [1] optional"}, {"TAP": "STRING [1]"})
CONFIGS = {found.name: {1: found} for found in (PARTIAL, SIMPLE, B16, NB16, PLUS, REPEAT, TAP)} | {"empty": {}}

X, A = {"X": "INT32 [1]"}, {"A": "INT32 [1]"}
WHOLE = step("partial", {"IN": "X"}, {"A": "A"})


@pytest.mark.parametrize(
    ("inputs", "outputs", "steps", "why"),
    [
        (X, A, [], "must specify 'step' for ensemble 'ens'"),
        (X, A, [step("", {"IN": "X"}, {"A": "A"})], "must specify 'model_name' in step 0 of ensemble 'ens'"),
        (X, A, [step("partial", {}, {"A": "A"})], "must specify 'input_map' in step 0 of ensemble 'ens'"),
        (X, A, [step("partial", {"IN": "X"}, {})], "must specify 'output_map' in step 0 of ensemble 'ens'"),
        (
            X,
            A,
            [WHOLE, step("partial", {"IN": "X"}, {"B": "A"})],
            "ensemble tensor 'A' can appear in an output map only once for ensemble 'ens' step 1",
        ),
        (
            X,
            A,
            [step("partial", {"IN": "X"}, {"A": "A", "B": "A"})],
            "ensemble tensor 'A' can appear in an output map only once for ensemble 'ens' step 0",
        ),
        (X, A, [step("partial", {"IN": "ghost"}, {"A": "A"})], "ensemble input 'X' for ensemble ens' is not used"),
        (X | {"Q": "INT32 [1]"}, A, [WHOLE], "ensemble input 'Q' for ensemble ens' is not used"),
        (X, A | {"Z": "INT32 [1]"}, [WHOLE], "ensemble output 'Z' for ensemble ens' is not used"),
        (X, {}, [WHOLE], "ensemble tensor 'A' is unused in ensemble 'ens'"),
        (
            X,
            A,
            [step("partial", {"IN": "X"}, {"A": "A", "B": "dangling"})],
            "ensemble tensor 'dangling' is unused in ensemble 'ens'",
        ),
        (
            {},
            A,
            [WHOLE],
            (
                "output 'A' for ensemble 'ens' is not written: at least one of its depending tensors, 'X', is not "
                "connected"
            ),
        ),
        (
            X,
            A,
            [WHOLE, step("plus1", {"IN": "p"}, {"OUT": "q"}), step("plus1", {"IN": "q"}, {"OUT": "p"})],
            "ensemble tensor 'q' is unused in ensemble 'ens'",
        ),
        (
            X,
            X,
            [step("plus1", {"IN": "X"}, {"OUT": "X"})],
            "ensemble input 'X' for ensemble 'ens' is written by a step",
        ),
        (X, A, [WHOLE], ""),
        (X, X | A, [WHOLE], ""),
    ],
)
def test_an_ensemble_whose_steps_make_no_graph_is_refused(
    inputs: dict[str, str], outputs: dict[str, str], steps: list[EnsembleStep], why: str
) -> None:
    assert refusal(ensemble_config(inputs, outputs, *steps)) == why


def test_an_ensemble_has_no_instances() -> None:
    found = ensemble_config(X, A, WHOLE)
    grouped = ModelConfig(
        **{name: getattr(found, name) for name in found.__struct_fields__} | {"instance_group": (InstanceGroup(),)}
    )
    assert refusal(grouped) == "instance group should not be specified for ensemble 'ens'"


def test_an_ensemble_is_not_warmed_up() -> None:
    warm = msgspec.structs.replace(ensemble_config(X, A, WHOLE), model_warmup=(Warmup("w", batch_size=1),))
    assert refusal(warm) == "model_warmup can not be specified for ensemble 'ens'"


def test_what_is_no_ensemble_is_not_judged() -> None:
    assert refusal(PARTIAL) == check(PARTIAL, {}) == circle("partial", {"partial": PARTIAL}) == ""


@pytest.mark.parametrize(
    ("inputs", "outputs", "steps", "why"),
    [
        (X, A, [WHOLE], ""),
        (
            X,
            A,
            [step("nothere", {"IN": "X"}, {"A": "A"})],
            "ensemble ens contains models that are not available or ambiguous: nothere",
        ),
        (
            X,
            A,
            [step("empty", {"IN": "X"}, {"A": "A"})],
            "ensemble 'ens' depends on 'empty' which has no loaded version.",
        ),
        (
            X,
            A,
            [step("partial", {"IN": "X"}, {"A": "A"}, version=5)],
            "ensemble 'ens' depends on 'partial' whose required version 5 is not loaded.",
        ),
        (
            {"X": "INT32 [16]"},
            {"Y": "INT32 [16]"},
            [step("simple", {"INPUT0": "X"}, {"OUTPUT0": "Y"})],
            "in ensemble ens, input INPUT1 in model simple is not mapped to any ensemble tensors",
        ),
        (
            X,
            A,
            [step("partial", {"IN": "X", "NOPE": "X"}, {"A": "A"})],
            "in ensemble ens, ensemble tensor X is mapping to non-existing input NOPE in model partial",
        ),
        (
            X,
            A,
            [step("partial", {"IN": "X"}, {"NOPE": "A"})],
            "in ensemble ens, ensemble tensor A is mapped from non-existing output NOPE in model partial",
        ),
        (
            {"X": "FP32 [1]"},
            A,
            [WHOLE],
            (
                "in ensemble ens, ensemble tensor X: inconsistent data type: TYPE_FP32 is inferred from model ens "
                "while TYPE_INT32 is inferred from model partial"
            ),
        ),
        (
            {"X": "INT32 [2]"},
            A,
            [WHOLE],
            (
                "in ensemble ens, ensemble tensor X: inconsistent shape: [2] is inferred from model ens while [1] is "
                "inferred from model partial"
            ),
        ),
        (
            X,
            {"A": "INT32 [3]"},
            [WHOLE],
            (
                "in ensemble ens, ensemble tensor A: inconsistent shape: [3] is inferred from model ens while [1] is "
                "inferred from model partial"
            ),
        ),
        (
            {"X": "INT32 [-1]"} | {"Q": "INT32 [1]"},
            A,
            [step("repeat", {"IN": "X"}, {"OUT": "o"}), step("tap", {"IN": "o", "OPT": "Q"}, {"TAP": "A"})],
            (
                "in ensemble ens, ensemble tensor A: inconsistent data type: TYPE_INT32 is inferred from model ens "
                "while TYPE_STRING is inferred from model tap"
            ),
        ),
        (
            {"X": "INT32 [-1]"} | {"Q": "INT32 [1]"},
            {"T": "STRING [1]"},
            [step("repeat", {"IN": "X"}, {"OUT": "o"}), step("tap", {"IN": "o", "OPT": "Q"}, {"TAP": "T"})],
            "in ensemble ens, step of model 'ens' receives inputs originated from different decoupled models",
        ),
        (
            {"X": "INT32 [-1]"} | {"Q": "INT32 [1]"},
            A | {"B": "INT32 [1]"},
            [step("repeat", {"IN": "X"}, {"OUT": "A"}), step("plus1", {"IN": "Q"}, {"OUT": "B"})],
            "in ensemble ens, step of model 'ens' receives inputs originated from different decoupled models",
        ),
    ],
)
def test_an_ensemble_that_does_not_fit_its_models_is_not_served(
    inputs: dict[str, str], outputs: dict[str, str], steps: list[EnsembleStep], why: str
) -> None:
    assert check(ensemble_config(inputs, outputs, *steps), CONFIGS) == why


def test_no_part_takes_smaller_batches_than_the_whole() -> None:
    large = ensemble_config(
        {"X": "INT32 [16]"}, {"Y": "INT32 [16]"}, step("b16", {"IN": "X"}, {"OUT": "Y"}), max_batch_size=9
    )
    assert check(large, CONFIGS) == (
        "ensemble ens allows maximum batch size 9, but it contains model b16 which only allows maximum batch size to "
        "be 4"
    )


def test_models_without_batches_may_have_them_in_their_dimensions() -> None:
    batched = ensemble_config(
        {"X": "INT32 [16]"}, {"Y": "INT32 [16]"}, step("nb16", {"IN": "X"}, {"OUT": "Y"}), max_batch_size=9
    )
    assert check(batched, CONFIGS) == ""


def test_dimensions_are_those_after_the_ensembles_own_reshape() -> None:
    found = ensemble_config({"X": "INT32 [1,1]"}, A, WHOLE)
    tensor = found.input[0]
    reshaped = type(tensor)("X", tensor.data_type, tensor.dims, Reshape((1,)))
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    assert check(ModelConfig(**fields | {"input": (reshaped,)}), CONFIGS) == ""


def test_an_ensemble_is_decoupled_as_one_of_its_steps_is() -> None:
    assert not is_decoupled(ensemble_config(X, A, WHOLE), CONFIGS)
    assert is_decoupled(ensemble_config(X, A, step("repeat", {"IN": "X"}, {"OUT": "A"})), CONFIGS)


def test_ensembles_that_lead_to_themselves_are_named() -> None:
    one = ensemble_config(X, A, step("two", {"X": "X"}, {"A": "A"}), name="one")
    two = ensemble_config(X, A, step("one", {"X": "X"}, {"A": "A"}), name="two")
    own = ensemble_config(X, A, step("own", {"X": "X"}, {"A": "A"}), name="own")
    behind = ensemble_config(X, A, step("one", {"X": "X"}, {"A": "A"}), name="behind")
    ensembles = {found.name: found for found in (one, two, own, behind)}
    assert circle("one", ensembles) == "circular dependency between ensembles: one -> ... -> two -> one"
    assert circle("own", ensembles) == "circular dependency between ensembles: own -> ... -> own -> own"
    assert circle("behind", ensembles) == ""
