"""An inference whoever asks: the model found, the request checked, the answers put as the client wants them.

HTTP and gRPC translate to and from `InferRequest` and `InferResponse`; everything between stands here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from backends.config import ModelConfig
from backends.errors import Code, InferenceError, Unavailable
from backends.model import Counted, InferRequest, InferResponse, Responses, State, TensorModel
from backends.signature import Signature
from backends.statistics import ModelStatistics
from backends.tensors import DATATYPE_OF_TYPE
from backends.trace import Trace
from gateway.kserve.classification import Labels, classify
from gateway.kserve.shared_memory import Regions
from gateway.kserve.shared_state import SharedState
from gateway.kserve.traces import tracer
from gateway.questions import Questions, nobody
from gateway.registry import Entry, Registry
from gateway.tenants import ANYONE, Tenant

_decode_counted = msgspec.json.Decoder(list[tuple[str, int, ModelStatistics]]).decode
_UNUSABLE = frozenset({State.STARTING, State.FAILED, State.STOPPED})
_HIGHEST_VERSION = 2**63 - 1
_DIGITS = re.compile(r"\s*([+-]?\d{1,30})", re.ASCII)


@dataclass(slots=True)
class Wanted:
    """An output that the client names. `classes` > 0: the best so many as `score:index[:label]` texts instead.

    With a `region`, its bytes go into shared memory there (at most `byte_size`, from `offset`) and not into the answer.
    """

    name: str
    classes: int = 0
    region: str = ""
    offset: int = 0
    byte_size: int = 0


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """`shape` includes the batch's dimension, as -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@dataclass(slots=True)
class Served:
    """One version of a model, with what was worked out once from its configuration."""

    entry: Entry
    model: TensorModel
    config: ModelConfig
    signature: Signature
    labels: Labels
    is_listenable: bool
    """Whether the answer is one, comes as the model gives it, and can be listened to."""

    @property
    def is_decoupled(self) -> bool:
        return self.config.model_transaction_policy.decoupled


class DataPlane:
    """What both front ends of a server process ask.

    `regions` are the shared memory that clients have registered; `state` is what all server processes know, and
    `questions` goes to their supervisor. Whoever takes requests in tells `tracer` of them.
    """

    def __init__(self, registry: Registry, state: SharedState | None = None) -> None:
        self.registry = registry
        self.state = SharedState() if state is None else state
        self.regions = Regions(self.state)
        self.tracer = tracer(self.state)
        self.questions = Questions(nobody)
        self._logs = msgspec.structs.replace(self.state.read().logs)
        self._served: dict[tuple[str, int], Served] = {}

    def follow_log_settings(self) -> None:
        """Log what the logging extension was told to, here or at another server process."""
        logs = self.state.read().logs
        if logs != self._logs:
            self._logs = msgspec.structs.replace(logs)
            logging.getLogger().setLevel(logs.level())

    def find(self, name: str, version: str = "", tenant: Tenant = ANYONE) -> Served:
        """The model of that name; `version` as the client wrote it, "" for the latest.

        Raises `InferenceError` in Triton's words, for a model that the tenant may not use as for one that is not there.
        """
        entry = self._entry(name, version, tenant)
        config = entry.status.config
        key = config.name, config.version
        served = self._served.get(key)
        if served is None or served.entry is not entry:
            model = self.registry.tensor(name, config.version)
            signature = Signature(config)
            is_plain = not (config.model_transaction_policy.decoupled or signature.reshapes_outputs)
            is_listenable = is_plain and getattr(model, "is_listenable", False)
            served = self._served[key] = Served(entry, model, config, signature, Labels.read(config), is_listenable)
        return served

    def infer(self, served: Served, request: InferRequest, wanted: Sequence[Wanted] = ()) -> Responses:
        """Check a request and begin it; the holder closes what is returned.

        `request.outputs` are set from `wanted`. Responses come as the client wants them: the outputs classified, and
        those in shared memory without data. Raises `ServingError`: `InferenceError` where the request does not fit.
        """
        if wanted:
            request.outputs = list(dict.fromkeys([output.name for output in wanted]))
        request.model = served.config.name
        request.version = served.config.version
        signature = served.signature
        signature.admit(request)
        responses = served.model.infer(request)
        if request.trace is not None:
            request.trace.queued(request.inputs)
            responses = _Traced(responses, request.trace)
        if signature.reshapes_outputs or any(output.classes or output.region for output in wanted):
            return _Dressed(responses, served, wanted, self.regions)
        return responses

    def is_ready(self, name: str, version: str = "", tenant: Tenant = ANYONE) -> bool:
        """Whether a model can take a request now. Raises `InferenceError` for a version that is no number."""
        number = _number(version)
        try:
            entry = self._entry(name, version, tenant)
        except InferenceError:
            return False
        return number != 0 and entry.model is not None and entry.model.ready()

    def is_known(self, name: str, tenant: Tenant = ANYONE) -> bool:
        """Whether a version of the model can be used."""
        return self._may_see(name, tenant) and bool(self._usable_versions(name))

    def metadata(self, name: str, version: str = "", tenant: Tenant = ANYONE) -> ModelMetadata:
        """What a model takes and gives. Raises `InferenceError`."""
        config = self.find(name, version, tenant).config
        versions = [str(config.version)] if version else [str(number) for number in self._usable_versions(name)]
        lead = (-1,) if config.max_batch_size > 0 else ()
        inputs, outputs = (
            [TensorMetadata(t.name, DATATYPE_OF_TYPE.get(t.data_type, "INVALID"), (*lead, *t.dims)) for t in tensors]
            for tensors in (config.input, config.output)
        )
        return ModelMetadata(config.name, versions, config.platform or config.backend, inputs, outputs)

    async def statistics(
        self, name: str = "", version: str = "", tenant: Tenant = ANYONE
    ) -> list[tuple[str, int, ModelStatistics]]:
        """Of one version, of all versions of a model, or of all models: (name, version, statistics), in that order.

        Raises `InferenceError` where the one asked for is not there, `Unavailable` where it does not answer.
        """
        number = _number(version)
        if name:
            versions = self._usable_versions(name) if self._may_see(name, tenant) else []
            if not versions:
                raise InferenceError(f"requested model '{name}' is not available", Code.INVALID_ARG)
            if number is not None and number not in versions:
                raise InferenceError(f"requested model version is not available for model '{name}'", Code.INVALID_ARG)
            chosen = [(name, known) for known in versions if number in {None, known}]
        else:
            names = sorted(self.registry.versions())
            chosen = [
                (one, known) for one in names if self._may_see(one, tenant) for known in self._usable_versions(one)
            ]
        found = []
        models = [(one, known, self.registry.version(one, known).model) for one, known in chosen]
        counted = await self._counted() if any(isinstance(model, Counted) for _, _, model in models) else {}
        for one, known, model in models:
            if (one, known) in counted:
                found.append((one, known, counted[one, known]))
            elif isinstance(model, TensorModel):
                found.append((one, known, await model.statistics()))
        return found

    async def _counted(self) -> dict[tuple[str, int], ModelStatistics]:
        """Of models that server processes count themselves: the sums of all of them, nothing without a supervisor."""
        try:
            told = await self.questions.ask("statistics")
        except Unavailable:
            return {}
        return {(name, version): counted for name, version, counted in _decode_counted(told)}

    def _entry(self, name: str, version: str, tenant: Tenant) -> Entry:
        number = _number(version)
        if not self._may_see(name, tenant):
            raise InferenceError(f"Request for unknown model: '{name}' is not found", Code.NOT_FOUND)
        entry = self.registry.version(name, number or 0)
        if number == 0:
            raise InferenceError(f"Request for unknown model: '{name}' version 0 is not found", Code.NOT_FOUND)
        if entry.status.state in _UNUSABLE:
            if number:
                raise InferenceError(
                    f"Request for unknown model: '{name}' version {number} is not at ready state", Code.UNAVAILABLE
                )
            raise InferenceError(f"Request for unknown model: '{name}' has no available versions", Code.NOT_FOUND)
        return entry

    def _may_see(self, name: str, tenant: Tenant) -> bool:
        return not tenant.is_restricted or tenant.may_use(name) or tenant.may_use(self.registry.served_name(name))

    def _usable_versions(self, name: str) -> list[int]:
        entries = self.registry.versions().get(self.registry.served_name(name), {})
        return sorted(
            number
            for number, entry in entries.items()
            if entry.model is not None and entry.status.state not in _UNUSABLE
        )


class _Traced:
    """Responses that are told to the trace of their request as they come."""

    def __init__(self, responses: Responses, trace: Trace) -> None:
        self._responses = responses
        self._trace = trace

    def __aiter__(self) -> _Traced:
        return self

    async def __anext__(self) -> InferResponse:
        response = await self._responses.__anext__()
        self._trace.answered(response.outputs)
        return response

    async def aclose(self) -> None:
        await self._responses.aclose()


class _Dressed:
    """Responses put as the client wants them."""

    def __init__(self, responses: Responses, served: Served, wanted: Sequence[Wanted], regions: Regions) -> None:
        self._responses = responses
        self._served = served
        self._wanted = {output.name: output for output in wanted}
        self._regions = regions

    def __aiter__(self) -> _Dressed:
        return self

    async def __anext__(self) -> InferResponse:
        response = await self._responses.__anext__()
        served = self._served
        if served.signature.reshapes_outputs:
            served.signature.reshape_outputs(response.outputs)
        for index, tensor in enumerate(response.outputs):
            wanted = self._wanted.get(tensor.name)
            if wanted is None:
                continue
            if wanted.classes:
                labels = served.labels.of(tensor.name)
                is_batched = served.signature.is_batched
                response.outputs[index] = classify(tensor, wanted.classes, labels, is_batched=is_batched)
            if wanted.region:
                self._regions.write(wanted.region, wanted.offset, wanted.byte_size, response.outputs[index])
                response.outputs[index].data = b""
        return response

    async def aclose(self) -> None:
        await self._responses.aclose()


def _number(version: str) -> int | None:
    """A version as a client writes it; None for the latest. Raises `InferenceError` in Triton's words."""
    if not version:
        return None
    digits = _DIGITS.match(version)  # what follows them is not looked at
    number = int(digits[1]) if digits is not None else _HIGHEST_VERSION + 1
    if not ~_HIGHEST_VERSION <= number <= _HIGHEST_VERSION:
        raise InferenceError(
            f"failed to get model version from specified version string '{version}' (details: stol), version should be "
            "an integral value > 0",
            Code.INVALID_ARG,
        )
    if number < 0:
        raise InferenceError(
            f"invalid model version specified '{version}' , version should be an integral value > 0", Code.INVALID_ARG
        )
    return number
