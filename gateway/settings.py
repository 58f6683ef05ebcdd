"""Every setting of the gateway: one frozen object, read once from flags, environment, TOML file and defaults."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from gateway import pairs

VARIABLE_PREFIX = "TRITIUM_"
"""What the name of an environment variable starts with; the rest is the setting's name in capitals."""


class SettingsError(Exception):
    """Settings that cannot be used; the message has one line a fault, each naming where the value came from."""


def _separated(value: object) -> object:
    """Split a value of the environment at its commas; flags and files have lists already."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _spaced(value: object) -> object:
    """The same where values have commas themselves: at white space."""
    return value.split() if isinstance(value, str) else value


def _read_by(parse: Callable[[tuple[str, ...]], object]) -> AfterValidator:
    """Refuse what `parse` cannot read."""

    def check(value: tuple[str, ...]) -> tuple[str, ...]:
        parse(value)
        return value

    return AfterValidator(check)


def _setting(group: str, default: object, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


class Settings(BaseModel):
    """What `tritium serve` runs with; durations in seconds.

    Built by `read`; passed to server processes as JSON, which reads no environment. A field's description is its
    documentation everywhere, its group the heading it has there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_repository: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_separated)] = _setting(
        "Models", (Path("model_repository"),), "Folder with one folder a model; several may be given.", min_length=1
    )
    model_control_mode: Literal["none", "poll", "explicit"] = _setting(
        "Models",
        "none",
        "Load all models at the start (none), and follow the repository (poll); or those named by --load-model, "
        "and what clients load (explicit).",
    )
    load_model: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)] = _setting(
        "Models", (), "Model to load at the start in explicit mode, * for all; several may be given."
    )
    model_config_name: str = _setting("Models", "", "Take configs/NAME.pbtxt of each model that has it.")
    repository_poll_secs: float = _setting("Models", 15.0, "Pause between two looks at it in poll mode.", gt=0)
    disable_auto_complete_config: bool = _setting("Models", False, "Load no model whose configuration is not whole.")
    exit_on_error: bool = _setting("Models", False, "Leave when a model does not load at the start.")
    cache_config: str = _setting(
        "Models",
        "",
        "Response cache of each model that asks for one: local,size=BYTES.",
        pattern=r"^(|local,size=[1-9][0-9]*)$",
    )
    backend_config: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_spaced), _read_by(pairs.batch_sizes)] = (
        _setting(
            "Models",
            (),
            "BACKEND,default-max-batch-size=N, of models that can take batches and do not say how large.",
        )
    )
    rate_limit: Literal["off", "execution_count"] = _setting(
        "Models", "off", "Whether the resources of rate_limiter in configurations are heeded."
    )
    rate_limit_resource: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)] = _setting(
        "Models", (), "What there is of such a resource: NAME:COUNT or NAME:COUNT:DEVICE; several may be given."
    )
    engines_dir: Path = _setting("Models", Path(".engines"), "Folder with the engines' environments, one a kind.")

    id: str = _setting("Listening", "tritium", "Name that the server gives itself in KServe's metadata.", min_length=1)
    host: str = _setting("Listening", "127.0.0.1", "Address to listen on.", min_length=1)
    http_port: int = _setting("Listening", 8000, "Port of the OpenAI API and of KServe's.", ge=0, le=65535)
    grpc_port: int = _setting("Listening", 8001, "Port of KServe's gRPC service.", ge=0, le=65535)
    grpc_address: str = _setting("Listening", "", "Address of the gRPC port; that of the host by default.")
    metrics_address: str = _setting("Listening", "", "Address of the metrics port; that of the host by default.")
    http_restricted_api: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_spaced), _read_by(pairs.restrictions)
    ] = _setting(
        "Listening",
        (),
        "GROUP,…:HEADER=VALUE: operations over HTTP that want this header; inference is all of /v1 as well.",
    )
    grpc_restricted_protocol: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_spaced), _read_by(pairs.restrictions)
    ] = _setting("Listening", (), "The same over gRPC, where the header is triton-grpc-protocol-HEADER.")
    allow_grpc: bool = _setting("Listening", True, "Offer the gRPC service.")
    allow_metrics: bool = _setting("Listening", True, "Offer /metrics.")
    allow_cpu_metrics: bool = _setting("Listening", True, "Tell of CPUs and memory there.")
    allow_gpu_metrics: bool = _setting("Listening", True, "Tell of GPUs there.")
    metrics_config: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_spaced), _read_by(pairs.metrics)] = _setting(
        "Listening",
        (),
        "How latencies are told: counter_latencies, summary_latencies, histogram_latencies, each =true or =false; "
        "summary_quantiles=QUANTILE:ERROR,… for others than Triton's.",
    )
    metrics_port: int = _setting("Listening", 8002, "Port of /metrics and /metrics/engines.", ge=0, le=65535)
    http_header_forward_pattern: str = _setting(
        "Listening", "", "Regular expression of HTTP header names that become parameters of a KServe request."
    )
    grpc_header_forward_pattern: str = _setting("Listening", "", "The same of gRPC metadata.")
    grpc_infer_response_compression_level: Literal["none", "low", "medium", "high"] = _setting(
        "Listening", "none", "How much gRPC answers are compressed for clients that take them so."
    )
    grpc_use_ssl: bool = _setting("Listening", False, "Speak TLS on the gRPC port.")
    grpc_use_ssl_mutual: bool = _setting("Listening", False, "The same, and only to clients with a certificate.")
    grpc_server_cert: Path | None = _setting("Listening", None, "File with the gRPC port's certificate chain (PEM).")
    grpc_server_key: Path | None = _setting("Listening", None, "File with its private key (PEM).")
    grpc_root_cert: Path | None = _setting("Listening", None, "File with the authorities of clients' certificates.")
    workers: int = _setting("Listening", 1, "Server processes that share the port and all engines.", ge=1, le=256)
    api_key_file: Path | None = _setting(
        "Listening", None, "File with the API keys that are let in, one a line; with tenants where it ends with .toml."
    )
    admin_key_file: Path | None = _setting(
        "Listening", None, "File with the keys that open /admin, one a line; without one it is open on loopback only."
    )
    insecure: bool = _setting("Listening", False, "Allow an address other than loopback without API keys.")

    request_timeout: float = _setting("Limits", 600.0, "Longest a request may take, its wait included.", gt=0)
    first_token_timeout: float = _setting("Limits", 300.0, "Longest wait for an engine's first token.", gt=0)
    stall_timeout: float = _setting("Limits", 120.0, "Longest silence between two tokens.", gt=0)
    keepalive_seconds: float = _setting("Limits", 15.0, "Silence on a stream before a keep-alive comment.", gt=0)
    max_body_bytes: int = _setting("Limits", 64 * 1024 * 1024, "Largest request body, in bytes.", gt=0)
    max_queue_size: int = _setting("Limits", 1024, "Requests that may wait for one model before 429.", ge=0)

    jwt_jwks_url: str | None = _setting(
        "Tenants", None, "URL or file of the JSON Web Key Set that verifies identity tokens."
    )
    jwt_issuer: str | None = _setting("Tenants", None, "Issuer that identity tokens must name.")
    jwt_audience: str | None = _setting("Tenants", None, "Audience that identity tokens must name.")
    jwt_tenant_claim: str = _setting("Tenants", "tenant", "Claim of an identity token that names its tenant.")
    limits_storage_url: str | None = _setting(
        "Tenants",
        None,
        "Redis that counts tenants' limits for several gateways: redis://HOST:PORT.",
        pattern=r"^(rediss?|redis\+unix)://.",
    )
    limits_on_error: Literal["open", "closed"] = _setting(
        "Tenants", "open", "While that Redis is out: let limited tenants in (open) or refuse them (closed)."
    )
    cache_salt_file: Path | None = _setting(
        "Tenants", None, "File with a secret; vLLM's prefix caches are then kept apart by tenant."
    )
    tenant_labels: int = _setting("Tenants", 20, "Tenants with metrics of their own, the rest counts as other.", ge=0)

    data_dir: Path = _setting(
        "Files", Path(".tritium"), "Folder for files and what is known of them; made with the first file."
    )
    database_url: str | None = _setting(
        "Files",
        None,
        "Database of files and vector stores: postgresql://HOST/NAME; SQLite in the data directory by default.",
        pattern=r"^(sqlite|postgres|postgresql)(\+[a-z0-9]+)?://.",
    )
    vector_store_url: str | None = _setting(
        "Files",
        None,
        "Where vectors are: a folder, s3://, gs://, az:// or postgresql://HOST/NAME; the data directory by default.",
        min_length=1,
    )
    embedder: str | None = _setting(
        "Files", None, "Model of the vectors of new vector stores; the first that embeds by default.", min_length=1
    )
    reranker: str | None = _setting(
        "Files",
        None,
        "Model that puts in order what is found without a pipeline; the fused order by default.",
        min_length=1,
    )
    max_file_bytes: int = _setting("Files", 512 * 1024 * 1024, "Largest file, in bytes.", gt=0)

    exit_timeout_secs: float = _setting("Processes", 30.0, "How long streams may go on after SIGTERM.", ge=0)
    health_interval: float = _setting("Processes", 1.0, "Pause between two looks at an engine's health.", gt=0)
    load_interval: float = _setting("Processes", 1.0, "Pause between two looks at an engine's load.", gt=0)
    max_restarts: int = _setting("Processes", 5, "Give an engine up after so many restarts.", ge=0)
    strict_readiness: bool = _setting("Processes", False, "Be ready only while every model is.")
    runtime_dir: Path | None = _setting("Processes", None, "Folder for Unix sockets; a temporary one by default.")
    access_log: bool = _setting("Logs", True, "Log one line a request.")
    decision_log_size: int = _setting(
        "Logs", 1000, "Requests of each server process that /admin/decisions remembers.", ge=0
    )
    decision_log_prompts: bool = _setting("Logs", False, "Remember the beginning of each request's body there as well.")
    trace_config: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_spaced), _read_by(pairs.traces)] = _setting(
        "Logs", (), "Traces of inferences: triton,file=, triton,log-frequency=, level=, rate=, count= as in Triton."
    )
    log_file: Path | None = _setting("Logs", None, "File that the log is added to, instead of standard error.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("Logs", "info", "Least that is logged.")

    @model_validator(mode="after")
    def _is_guarded(self) -> Settings:
        is_local = all(map(is_loopback, (self.host, self.grpc_address or self.host)))
        if not (self.insecure or self.api_key_file or self.jwt_jwks_url or is_local):
            address = self.grpc_address if is_loopback(self.host) else self.host
            raise ValueError(
                f"host {address} would let in anybody who reaches it: name a file of API keys with --api-key-file, "
                "or say --insecure where something else guards the port"
            )
        return self


def read(flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> Settings:
    """Settings from `flags` (those that were given), over the environment, over a TOML file, over the defaults.

    The file is `config`, else the one TRITIUM_CONFIG names, else there is none. Raises `SettingsError`.
    """
    given = dict(flags or {})
    named = config or os.environ.get(f"{VARIABLE_PREFIX}CONFIG")
    file = _table(Path(named)) if named else {}

    class Layers(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=VARIABLE_PREFIX, env_ignore_empty=True)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, file)

    try:
        layers = Layers(**given)
    except ValidationError as error:
        faults = [_fault(fault["loc"], fault["msg"], given, file, named) for fault in error.errors()]
        raise SettingsError("\n".join(faults)) from error
    return Settings.model_construct(**dict(layers))


def flag(name: str) -> str:
    """The command line's name of a setting."""
    return "--" + name.replace("_", "-")


def shown(default: object) -> str:
    """A default as the help and the README show it; empty where there is none."""
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default is None else str(default)


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def _fault(
    location: tuple[int | str, ...],
    message: str,
    given: Mapping[str, object],
    file: Mapping[str, object],
    named: Path | str | None,
) -> str:
    """One line for one fault. Cases: a rule between settings, a flag, a variable, an unknown key, a key of the file."""
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    name = str(location[0])
    if name in given:
        return f"{flag(name)}: {message}, not {given[name]!r}"
    variable = VARIABLE_PREFIX + name.upper()
    if os.environ.get(variable):
        return f"{variable}: {message}, not {os.environ[variable]!r}"
    if name not in Settings.model_fields:
        near = get_close_matches(name, Settings.model_fields, n=1)
        return f"{named}: unknown setting {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
    return f"{named}: {name}: {message}, not {file[name]!r}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
