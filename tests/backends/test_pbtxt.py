"""Configurations as text and as JSON become the fields that Triton's own JSON has."""

from __future__ import annotations

import pytest

from backends.pbtxt import PbtxtError, read_json, read_text


def test_scalars_that_are_not_set_are_told_with_their_defaults() -> None:
    fields = read_text('input [ { name: "I" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]')
    assert (fields["name"], fields["max_batch_size"], fields["parameters"]) == ("", 0, {})
    assert fields["input"] == [
        {
            "name": "I",
            "data_type": "TYPE_FP32",
            "format": "FORMAT_NONE",
            "dims": [-1, 4],
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
            "is_non_linear_format_io": False,
        }
    ]
    assert "dynamic_batching" not in fields


def test_numbers_of_64_bits_are_numbers_but_where_triton_tells_them_as_text() -> None:
    fields = read_text(
        """
        version_policy { specific { versions: [ 3 ] } }
        dynamic_batching {
          max_queue_delay_microseconds: 5
          priority_queue_policy { key: 1 value { default_timeout_microseconds: 7 } }
        }
        model_warmup [ { inputs { key: "I" value { dims: [ 2 ] } } } ]
        """
    )
    assert fields["version_policy"] == {"specific": {"versions": [3]}}
    assert fields["dynamic_batching"]["max_queue_delay_microseconds"] == 5
    assert fields["dynamic_batching"]["priority_queue_policy"]["1"]["default_timeout_microseconds"] == 7
    assert fields["model_warmup"][0]["inputs"]["I"]["dims"] == [2]
    (group,) = read_text("instance_group [ { secondary_devices [ { device_id: 2 } ] } ]")["instance_group"]
    assert group["secondary_devices"] == [{"kind": "KIND_NVDLA", "device_id": "2"}]
    sequences = read_text("sequence_batching { state [ { dims: [ 1 ] initial_state [ { dims: [ 1 ] } ] } ] }")
    (state,) = sequences["sequence_batching"]["state"]
    assert (state["dims"], state["initial_state"][0]["dims"]) == ([1], ["1"])


def test_a_field_that_there_is_not_is_named() -> None:
    with pytest.raises(PbtxtError, match="nonsense"):
        read_text("nonsense: 3")


def test_json_is_read_into_the_same_fields() -> None:
    assert read_json('{"max_batch_size": 4, "input": [{"name": "I", "dims": ["2"]}]}') == read_text(
        'max_batch_size: 4 input [ { name: "I" dims: [ 2 ] } ]'
    )


def test_json_is_read_as_leniently_as_triton_reads_it() -> None:
    lenient = """{
        "input": {"name": "I", "dataType": "type_int32", "dims": 2}, "instance_group": [null, {"count": "2"}],
        "response_cache": {"enable": "Yes"}, "parameters": {"a": {"string_value": "b"}}, "output": null
    }"""
    assert read_json(lenient) == read_text(
        """
        input [ { name: "I" data_type: TYPE_INT32 dims: [ 2 ] } ] instance_group [ { count: 2 } ]
        response_cache { enable: true } parameters { key: "a" value { string_value: "b" } }
        """
    )


REFUSED = [
    "{x", "", "[]", "5", "null", '{"nonsense": 1}', '{"max_batch_size": "many"}', '{"dynamic_batching": []}',
    '{"parameters": []}', '{"input": [5]}', '{"response_cache": {"enable": "perhaps"}}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_json_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(PbtxtError):
        read_json(text)
