"""What a model with sequences is given beside a request's own inputs: control inputs, and the states that it keeps.

Triton's sequence batcher: `control_input` says by which tensors a model learns of a sequence's begin, end and id and of
empty slots; `state` names outputs that come back as inputs with the sequence's next request.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from backends.config import Control, ModelConfig, SequenceState, beside
from backends.errors import InvalidRequest
from backends.tensors import DATATYPE_OF_TYPE, ELEMENT_BYTES, Tensor, element_count
from backends.worker.frames import heads
from backends.worker.messages import Infer
from backends.worker.scheduling.scheduler import Entry

INITIAL_STATE_FOLDER = "initial_state"

_START, _READY, _END = "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END"
_INTEGERS = {"UINT64": "<Q", "INT64": "<q", "UINT32": "<I", "INT32": "<i"}

Id = int | str


class Controls:
    """The control inputs of a model. Flags are tensors made once; a sequence's id is made into one when it begins."""

    def __init__(self, config: ModelConfig) -> None:
        batching = config.sequence_batching
        assert batching is not None
        shape = (1, 1) if config.max_batch_size else (1,)
        flags: list[Callable[[dict[str, bool]], Tensor]] = []
        self._ids: list[Tensor] = []
        for control_input in batching.control_input:
            for control in control_input.control:
                if control.kind == "CONTROL_SEQUENCE_CORRID":
                    datatype = DATATYPE_OF_TYPE.get(control.data_type, "UINT64")
                    self._ids.append(Tensor(control_input.name, datatype, shape, b""))
                else:
                    flags.append(_flag(control_input.name, control, shape))
        self._flags = {
            (start, end): [make({_START: start, _END: end, _READY: True}) for make in flags]
            for start in (False, True)
            for end in (False, True)
        }
        self._heads = heads(self._flags[False, False])
        nothing = {_START: False, _END: False, _READY: False}
        self._empty = [*(make(nothing) for make in flags), *self.ids(0)]

    def ids(self, sequence_id: Id) -> list[Tensor]:
        """The id of a sequence as tensors. Raises `InferenceError` for a text where the model takes numbers."""
        return [
            Tensor(made.name, made.datatype, made.shape, self._id(sequence_id, made.datatype)) for made in self._ids
        ]

    def dress(self, entry: Entry, ids: list[Tensor], states: list[Tensor]) -> list[Tensor]:
        """Give an entry's message its control inputs and states; returns all tensors of it."""
        infer = entry.infer
        flags = self._flags[infer.sequence_start, infer.sequence_end]
        if not ids and not states:
            infer.inputs = infer.inputs + self._heads
            return entry.tensors + flags
        infer.inputs = [*infer.inputs, *self._heads, *heads(ids), *heads(states)]
        return [*entry.tensors, *flags, *ids, *states]

    def fill(self, like: Infer, tensors: list[Tensor]) -> tuple[Infer, list[Tensor]]:
        """What stands for an empty slot: a request like another one whose inputs are zeros, not ready, of no one."""
        blank = [Tensor(tensor.name, tensor.datatype, tensor.shape, _zeros(tensor)) for tensor in tensors]
        blank += self._empty
        return Infer(0, like.model, like.version, "", heads(blank), like.outputs), blank

    def _id(self, sequence_id: Id, datatype: str) -> bytes:
        if datatype == "BYTES":
            text = str(sequence_id or "").encode()
            return struct.pack("<I", len(text)) + text
        number = 0 if isinstance(sequence_id, str) else sequence_id  # as Triton: a text has no number
        size = struct.calcsize(_INTEGERS[datatype])
        # Its low bytes, where the model takes fewer.
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")


class KeptStates:
    """The states of a model's sequences: what it is given at first, and which of its outputs come back."""

    def __init__(self, config: ModelConfig) -> None:
        """Reads files of initial states.

        Raises `InvalidRequest` for one that is not there, is too small or is not described as its state is.
        """
        assert config.sequence_batching is not None
        self._inputs = {state.output_name: state for state in config.sequence_batching.state}
        self._shown = {output.name for output in config.output}
        self.initial = [_initial(config, state) for state in config.sequence_batching.state]

    def keep(self, entry: Entry, outputs: list[Tensor]) -> list[Tensor]:
        """Keep the states among an answer's outputs for the sequence's next request; return what the caller gets."""
        sequence = entry.sequence
        if sequence is None:
            return outputs
        states = {state.name: state for state in sequence.states}
        shown = []
        for output in outputs:
            state = self._inputs.get(output.name)
            if state is not None:
                states[state.input_name] = Tensor(state.input_name, output.datatype, output.shape, output.data)
            if state is None or output.name in self._shown:
                shown.append(output)
        sequence.states = list(states.values())
        return shown


def states_of(config: ModelConfig) -> KeptStates | None:
    """The states of a model's sequences, None where it keeps none. Raises `InvalidRequest`."""
    batching = config.sequence_batching
    return KeptStates(config) if batching is not None and batching.state else None


def _flag(name: str, control: Control, shape: tuple[int, ...]) -> Callable[[dict[str, bool]], Tensor]:
    if control.fp32_false_true:
        datatype, values = "FP32", [struct.pack("<f", value) for value in control.fp32_false_true]
    elif control.bool_false_true:
        datatype, values = "BOOL", [struct.pack("<?", value) for value in control.bool_false_true]
    else:
        datatype, values = "INT32", [struct.pack("<i", value) for value in control.int32_false_true or (0, 1)]
    kind = control.kind
    return lambda flags: Tensor(name, datatype, shape, values[flags[kind]])


def _initial(config: ModelConfig, state: SequenceState) -> Tensor:
    """The state of a sequence that begins: of the file that the configuration names, else zeros."""
    _check(state)
    described = state.initial_state[0] if state.initial_state else None
    dims = state.dims if described is None else described.dims
    shape = tuple(max(dim, 1) for dim in dims)
    if config.max_batch_size:
        shape = (1, *shape)
    datatype = DATATYPE_OF_TYPE.get(state.data_type, "FP32")
    tensor = Tensor(state.input_name, datatype, shape, b"")
    if described is None or not described.data_file:
        tensor.data = _zeros(tensor)
        return tensor
    path = beside(config, INITIAL_STATE_FOLDER, described.data_file)
    try:
        tensor.data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"failed to open text file for read {path}: {error.strerror}") from error
    expected = ELEMENT_BYTES[datatype] * element_count(shape)
    if len(tensor.data) < expected:
        raise InvalidRequest(
            f"initial_state setting expects {expected} bytes, but the data provided from {described.data_file} only "
            f"has {len(tensor.data)} bytes."
        )
    # As Triton: what a file has more is left out.
    tensor.data = tensor.data[:expected] if expected else tensor.data
    return tensor


def _check(state: SequenceState) -> None:
    """Hold the initial state to what the configuration says of the state. Raises `InvalidRequest` in Triton's words."""
    if not state.initial_state:
        return
    name, count = state.input_name, len(state.initial_state)
    described = state.initial_state[0]
    why = ""
    if count > 1:
        why = (
            f"initial_state field for state input '{name}' must contain exactly one or zero element. "
            f"Found '{count}' elements."
        )
    elif described.data_type != state.data_type:
        why = f"The data type used for 'initial_state' field of state '{name}' does not match the state data type."
    elif not described.name:
        why = f"Field 'name' must be set when using initial_state for state input '{name}'."
    elif described.zero_data is None and not described.data_file:
        why = f"initial_state setting expects state '{name}' to have state_data set"
    else:
        why = _differing(name, described.dims, state.dims)
    if why:
        raise InvalidRequest(why)


def _differing(name: str, given: tuple[int, ...], declared: tuple[int, ...]) -> str:
    if len(given) != len(declared):
        return (
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input "
            f"'{name}'. {len(given)} != {len(declared)}"
        )
    if any(size < 0 for size in given):
        return f"'initial_state' field for state input name '{name}' contains variable dimensions."
    for size, expected in zip(given, declared, strict=True):
        if expected not in {-1, size}:
            return (
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim description. "
                f"{size} != {expected}"
            )
    return ""


def _zeros(tensor: Tensor) -> bytes:
    # An element of BYTES that is empty is its length alone.
    return bytes((ELEMENT_BYTES[tensor.datatype] or 4) * element_count(tensor.shape))
