"""Start lines of `tritonserver`: every flag of its is read, does nothing and says so, or is refused with the reason."""

from __future__ import annotations

import pytest

from gateway.settings import Settings, SettingsError, flag, read
from gateway.start_line import IGNORED
from gateway.start_line import read as read_line

LINE = """
--model-store=m --model-repository=m --exit-on-error=false --disable-auto-complete-config --strict-readiness=true
--model-control-mode=explicit --repository-poll-secs=5 --load-model=a --model-config-name=c
--model-load-thread-count=4 --model-load-retry-count=2 --model-namespacing=false --enable-peer-access=true --id=x
--exit-timeout-secs=10 --log-verbose=0 --log-info=true --log-warning=true --log-error=true --log-format=ISO8601
--log-file=t.log --allow-http=true --http-address=127.0.0.1 --http-port=1 --reuse-http-port=true
--http-header-forward-pattern=x --http-thread-count=8 --http-restricted-api=health:k=v --allow-grpc=true
--grpc-address=127.0.0.1 --grpc-port=2 --reuse-grpc-port=false --grpc-header-forward-pattern=x
--grpc-infer-allocation-pool-size=8 --grpc-use-ssl=false --grpc-use-ssl-mutual=false --grpc-server-cert=c
--grpc-server-key=k --grpc-root-cert=r --grpc-infer-response-compression-level=none --grpc-keepalive-time=1
--grpc-keepalive-timeout=1 --grpc-keepalive-permit-without-calls=0 --grpc-http2-max-pings-without-data=2
--grpc-http2-min-recv-ping-interval-without-data=3 --grpc-http2-max-ping-strikes=2 --grpc-max-connection-age=1
--grpc-max-connection-age-grace=1 --grpc-restricted-protocol=health:k=v --allow-sagemaker=false --sagemaker-port=1
--sagemaker-safe-port-range=1-2 --sagemaker-thread-count=1 --allow-vertex-ai=false --vertex-ai-port=1
--vertex-ai-thread-count=1 --vertex-ai-default-model=a --allow-metrics=true --allow-gpu-metrics=true
--allow-cpu-metrics=false --metrics-address=127.0.0.1 --metrics-port=3 --metrics-interval-ms=100
--metrics-config=summary_latencies=true --metrics-config=summary_quantiles=0.5:0.05 --trace-config=rate=1
--trace-config=opentelemetry,url=x --backend-directory=b --backend-config=python,shm-default-byte-size=1
--backend-config=onnxruntime,default-max-batch-size=8 --repoagent-directory=r --cache-config=local,size=100
--cache-config=redis,host=x --cache-directory=c --rate-limit=off --rate-limit-resource=R:1
--pinned-memory-pool-byte-size=1 --cuda-memory-pool-byte-size=0:1 --cuda-virtual-address-size=0:1
--min-supported-compute-capability=6.0 --buffer-manager-thread-count=1 --host-policy=p,numa-node=0
--model-load-gpu-limit=0:0.5 --strict-model-config=false --response-cache-byte-size=100 --trace-file=f
--trace-level=TIMESTAMPS --trace-rate=1 --trace-count=1 --trace-log-frequency=1 --http-max-input-size=100
"""
TRITON = LINE.split()
SWITCHES = {flag(name) for name, field in Settings.model_fields.items() if field.annotation is bool}


def settings_of(arguments):
    """What the command line makes of arguments."""
    given = {}
    waiting = list(arguments)
    while waiting:
        name = waiting.pop(0)
        if name in SWITCHES or name.replace("--no-", "--", 1) in SWITCHES:
            given[name.replace("--no-", "--", 1)] = name in SWITCHES
        else:
            given.setdefault(name, []).append(waiting.pop(0))
    known = {flag(name): (name, field) for name, field in Settings.model_fields.items()}
    fields = {}
    for name, value in given.items():
        field, told = known[name]
        is_list = isinstance(value, list) and str(told.annotation).startswith("tuple")
        fields[field] = value[-1] if isinstance(value, list) and not is_list else value
    return read(fields)


@pytest.mark.parametrize("form", ["with an equals sign", "with a space"])
def test_every_flag_of_triton_is_taken(form):
    words = TRITON if form == "with an equals sign" else [word for part in TRITON for word in part.split("=", 1)]
    line = read_line(words)
    settings = settings_of(line.arguments)
    assert (settings.http_port, settings.grpc_address, settings.strict_readiness) == (1, "127.0.0.1", True)
    assert (settings.exit_on_error, settings.disable_auto_complete_config) == (False, False)
    assert settings.cache_config == "local,size=100"
    assert set(settings.trace_config) >= {"triton,file=f", "triton,log-frequency=1", "level=TIMESTAMPS", "count=1"}
    assert settings.metrics_config == ("summary_latencies=true", "summary_quantiles=0.5:0.05")
    assert settings.backend_config == ("onnxruntime,default-max-batch-size=8",)
    assert settings.allow_cpu_metrics is False


def test_what_does_nothing_is_told_with_the_reason():
    warnings = read_line(TRITON).warnings
    assert {warning.split()[0] for warning in warnings} >= set(IGNORED) - {
        "--grpc-infer-thread-count",
        "--grpc-max-response-pool-size",
    }
    assert "--host-policy p,numa-node=0 does nothing here: instances are not bound to cores or memory" in warnings
    assert not any("default-max-batch-size" in warning for warning in warnings)


def test_a_start_line_of_our_own_is_left_as_it_is():
    ours = ["--workers", "2", "--no-access-log", "--strict-readiness", "-h", "--model-repository=a"]
    assert read_line(ours).arguments == [*ours[:-1], "--model-repository", "a"]
    assert read_line(ours).warnings == []


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("--log-verbose=1 --log-info=false", "debug"),
        ("--log-info=false", "warning"),
        ("--log-info=false --log-warning=false", "error"),
        ("--log-warning=false --log-info=false", "error"),
        ("--log-error=false", "error"),
        ("--log-verbose=0 --log-info=true", "info"),
        ("--log-level warning --log-verbose=1", "warning"),
    ],
)
def test_kinds_of_lines_that_are_switched_off_leave_a_level(line, level):
    assert settings_of(read_line(line.split()).arguments).log_level == level


def test_a_boolean_that_is_false_undoes_what_another_place_says(monkeypatch):
    monkeypatch.setenv("TRITIUM_STRICT_READINESS", "true")
    assert settings_of(read_line(["--strict-readiness", "False"]).arguments).strict_readiness is False


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--allow-http=false", "the HTTP port is always open"),
        ("--allow-sagemaker=true", "there is no such front end"),
        ("--allow-vertex-ai=1", "there is no such front end"),
        ("--strict-readiness=perhaps", "neither true nor false, but 'perhaps'"),
    ],
)
def test_what_would_surprise_is_refused(argument, words):
    with pytest.raises(SettingsError, match=words):
        read_line([argument])
