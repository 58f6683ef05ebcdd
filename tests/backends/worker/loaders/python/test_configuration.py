from __future__ import annotations

import json

import pytest

from backends.worker.loaders.python.configuration import ModelConfig, input_named, is_decoupled, output_named

X = {"name": "X", "data_type": "TYPE_FP32", "dims": [4]}


def config(**fields):
    return ModelConfig(json.dumps({"name": "m", "max_batch_size": 0, "input": [], "output": []} | fields))


def test_a_model_completes_what_its_configuration_leaves_open():
    completed = config(input=[{"name": "Z", "data_type": "TYPE_INVALID", "dims": []}])
    completed.add_input(X | {"optional": True})
    completed.add_input({"name": "Z", "data_type": "TYPE_INT8", "dims": [1]})
    completed.add_output(X)
    completed.set_max_batch_size(4)
    completed.set_dynamic_batching()
    completed.set_model_transaction_policy({"decoupled": True})
    assert completed.as_dict() == {
        "name": "m",
        "max_batch_size": 4,
        "input": [{"name": "Z", "data_type": "TYPE_INT8", "dims": [1]}, X | {"optional": True}],
        "output": [X],
        "dynamic_batching": {},
        "model_transaction_policy": {"decoupled": True},
    }


def test_saying_what_the_configuration_says_changes_nothing():
    completed = config(input=[X], max_batch_size=4, dynamic_batching={"a": 1}, model_transaction_policy={})
    before = json.dumps(completed.as_dict())
    completed.add_input(X)
    completed.set_max_batch_size(4)
    completed.set_dynamic_batching()
    completed.set_model_transaction_policy({})
    assert json.dumps(completed.as_dict()) == before


PLACE = "in auto-complete-config function for model 'm'"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"data_type": "TYPE_FP32", "dims": []}, f"input {PLACE} is missing 'name' property."),
        ({"name": "X", "dims": []}, f"input 'X' {PLACE} is missing 'data_type' property."),
        ({"name": "X", "data_type": "TYPE_FP32"}, f"input 'X' {PLACE} is missing 'dims' property."),
        (
            X | {"format": 1},
            f"input 'X' {PLACE} contains property other than 'name', 'data_type', 'dims' and 'optional'.",
        ),
        (
            X | {"data_type": "TYPE_INT8"},
            (
                "unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'X', model provides"
                " TYPE_INT8"
            ),
        ),
        (
            X | {"dims": [5]},
            "model 'm', tensor 'X': the model expects dims [5] but the model configuration specifies dims [4]",
        ),
        (
            X | {"optional": True},
            (
                "model 'm', tensor 'X': the model expects optional True but the model configuration specifies optional"
                " False"
            ),
        ),
    ],
)
def test_inputs_that_contradict_the_configuration_are_refused(tensor, message):
    with pytest.raises(ValueError, match="m") as caught:
        config(input=[X | {"optional": False}]).add_input(tensor)
    assert str(caught.value) == message


def test_outputs_take_no_optional():
    with pytest.raises(ValueError, match="contains property other than 'name', 'data_type' and 'dims'"):
        config().add_output(X | {"optional": True})


def test_a_smaller_batch_than_configured_is_refused():
    with pytest.raises(ValueError, match="m") as caught:
        config(max_batch_size=8).set_max_batch_size(4)
    assert str(caught.value) == (
        "configuration specified max_batch_size 8, but in auto-complete-config function for model 'm' specified"
        " max_batch_size 4"
    )


def test_another_scheduler_than_the_configured_one_is_refused():
    with pytest.raises(ValueError, match="Configuration specified scheduling_choice as 'sequence_batching', but"):
        config(sequence_batching={}).set_dynamic_batching()


def test_another_transaction_policy_than_the_configured_one_is_refused():
    with pytest.raises(ValueError, match=r"trying to change decoupled property .* already set to 'False'"):
        config(model_transaction_policy={"decoupled": False}).set_model_transaction_policy({"decoupled": True})
    with pytest.raises(ValueError, match="contains property other than 'decoupled'"):
        config().set_model_transaction_policy({"other": True})


def test_a_configuration_is_looked_up_by_names():
    document = config(input=[X], model_transaction_policy={"decoupled": True}).as_dict()
    assert input_named(document, "X") == X
    assert input_named(document, "Y") is None
    assert output_named(document, "X") is None
    assert is_decoupled(document)
    assert not is_decoupled({})
