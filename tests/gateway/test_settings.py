"""Settings: where values come from, what is refused, and in which words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import Settings, SettingsError, flag, read


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRITIUM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "settings.toml").write_text(text)
        return tmp_path / "settings.toml"

    return write


def test_the_defaults_serve_the_repository_here_on_loopback():
    settings = read()
    assert settings.model_repository == (Path("model_repository"),)
    assert (settings.host, settings.http_port, settings.metrics_port, settings.workers) == ("127.0.0.1", 8000, 8002, 1)


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(monkeypatch, toml):
    monkeypatch.setenv("TRITIUM_HTTP_PORT", "9002")
    monkeypatch.setenv("TRITIUM_WORKERS", "2")
    file = toml("http_port = 9003\nworkers = 3\nstall_timeout = 4.5\n")
    settings = read({"http_port": "9001"}, config=file)
    assert (settings.http_port, settings.workers, settings.stall_timeout) == (9001, 2, 4.5)
    assert settings.request_timeout == 600


def test_the_environment_may_name_the_file(monkeypatch, toml):
    monkeypatch.setenv("TRITIUM_CONFIG", str(toml("workers = 3\n")))
    assert read().workers == 3


def test_lists_come_from_flags_variables_and_files(monkeypatch, toml):
    assert read({"load_model": ["a", "b"]}).load_model == ("a", "b")
    assert read(config=toml('load_model = ["c"]\n')).load_model == ("c",)
    monkeypatch.setenv("TRITIUM_MODEL_REPOSITORY", "one, two")
    assert read().model_repository == (Path("one"), Path("two"))


def test_an_empty_variable_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("TRITIUM_API_KEY_FILE", "")
    monkeypatch.setenv("TRITIUM_WORKERS", "")
    assert (read().api_key_file, read().workers) == (None, 1)


def test_every_fault_is_one_line_that_names_its_origin_and_value(monkeypatch, toml):
    monkeypatch.setenv("TRITIUM_METRICS_PORT", "high")
    with pytest.raises(SettingsError) as refused:
        read({"log_level": "loud"}, config=toml("workers = 0\nhttp_prt = 1\n"))
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert any(line.startswith("--log-level: ") and "'loud'" in line for line in lines)
    assert any(line.startswith("TRITIUM_METRICS_PORT: ") and "'high'" in line for line in lines)
    assert any("settings.toml: workers: " in line and line.endswith("not 0") for line in lines)
    assert any(line.endswith("settings.toml: unknown setting 'http_prt', did you mean 'http_port'?") for line in lines)


def test_a_file_that_is_missing_or_no_toml_is_named(toml, tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: No such file"):
        read(config=tmp_path / "nowhere.toml")
    with pytest.raises(SettingsError, match=r"settings\.toml: .*line 1"):
        read(config=toml("workers = = 1\n"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_keys(host):
    assert read({"host": host}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_another_address_needs_keys_or_a_clear_word(host):
    with pytest.raises(SettingsError, match=r"--api-key-file.*--insecure"):
        read({"host": host})
    assert read({"host": host, "insecure": True}).host == host
    assert read({"host": host, "api_key_file": "keys"}).api_key_file == Path("keys")


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        read().workers = 2


def test_server_processes_get_the_same_settings_whatever_their_environment_says(monkeypatch):
    settings = read({"workers": 3, "model_repository": ["a", "b"], "runtime_dir": "run", "stall_timeout": "0.5"})
    monkeypatch.setenv("TRITIUM_WORKERS", "4")
    monkeypatch.setenv("TRITIUM_CONFIG", "nowhere.toml")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_every_setting_has_a_description_and_a_group():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert isinstance(field.json_schema_extra, dict), name
        assert field.json_schema_extra["group"], name


def test_the_example_file_shows_every_setting_with_its_default():
    example = Path(__file__).parents[2] / "deploy" / "settings.example.toml"
    assert read(config=example) == read()
    text = example.read_text()
    for name, field in Settings.model_fields.items():
        assert f"\n{name} = " in text or f"\n# {name} = " in text, name
        assert field.description in text, name


def test_a_flag_is_the_name_in_kebab_case():
    assert flag("exit_timeout_secs") == "--exit-timeout-secs"
