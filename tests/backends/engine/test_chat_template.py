from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.engine.chat_template import ChatTemplate, read_counter, read_template
from backends.errors import InvalidRequest
from tests.servers import ROOT, unavailable

SMOL = ROOT / "model_repository" / "smollm2-135m-instruct" / "1" / "hf"
HI = [{"role": "user", "content": "hi"}]


def written(folder: Path, **told: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def test_a_template_file_stands_before_that_of_the_tokenizer(tmp_path: Path) -> None:
    written(tmp_path, chat_template="tokenizer's")
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    template = read_template(tmp_path)
    assert template is not None
    assert template.render(HI) == "hi!"


def test_special_tokens_are_known_to_the_template(tmp_path: Path) -> None:
    written(tmp_path, chat_template="{{ bos_token }}{{ eos_token }}", bos_token="<s>", eos_token={"content": "</s>"})
    template = read_template(tmp_path)
    assert template is not None
    assert template.render(HI) == "<s></s>"


def test_of_several_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    template = read_template(written(tmp_path, chat_template=several))
    assert template is not None
    assert template.render(HI) == "plain"


def test_without_a_template_there_is_none(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    assert read_template(written(tmp_path)) is None


def test_files_that_are_no_json_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"tokenizer_config\.json cannot be read"):
        read_template(tmp_path)


def test_a_template_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="The chat template cannot be read"):
        ChatTemplate("{% for %}", {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only one system message') }}",
        "{{ messages.append(1) }}",  # the sandbox: what it is given cannot be changed
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages + 3 }}",
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_the_requests_error(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses these messages"):
        ChatTemplate(source, {}).render(HI)


def test_templates_have_what_hugging_face_gives_them() -> None:
    source = (
        "{%- for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ tools is none }}{{ add_generation_prompt }}{{ thinking }}"
    )
    rendered = ChatTemplate(source, {}).render([{"role": "user", "content": "<é>"}, *HI], thinking=False)
    assert rendered == '{"role": "user", "content": "<é>"}4TrueTrueFalse'


@pytest.mark.slow
def test_the_demos_own_files_make_its_prompt_and_count_its_tokens() -> None:
    if not (SMOL / "tokenizer.json").is_file():
        unavailable("the demo's tokenizer is not fetched")
    template, count = read_template(SMOL), read_counter(SMOL)
    assert template is not None
    assert count is not None
    assert template.render(HI).endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert count("hello there") == 2


def test_without_a_tokenizer_nobody_counts(tmp_path: Path) -> None:
    assert read_counter(tmp_path) is None
