"""`/v1/completions`: text completions, one choice for each prompt and each of `n`."""

from __future__ import annotations

import time

from backends.simulator import text
from backends.simulator.engine import Call, Run
from backends.simulator.faults import RequestError
from backends.simulator.generation import Generation, StreamOptions, completion_tokens, encode, finish, usage
from backends.simulator.logprobs import text_logprobs
from backends.simulator.plan import Plan, plan

_DEFAULT_MAX_TOKENS = 16


class CompletionRequest(Generation, kw_only=True):
    """A text completion request; a prompt is text or token ids."""

    prompt: text.Prompts
    logprobs: int | None = None


async def answer(call: Call) -> None:
    """Answer a text completion request."""
    asked, model = call.decode(CompletionRequest)
    asked.check()
    prompts = call.engine.vocabulary.texts(asked.prompt)
    if not prompts:
        raise RequestError(400, "prompt must not be empty.", param="prompt")
    counts = [call.prompt_tokens(text.count(each)) for each in prompts]
    wanted = asked.max_tokens if asked.max_tokens is not None else _DEFAULT_MAX_TOKENS
    max_tokens = call.engine.check_length(max(counts), wanted, "max_tokens")
    limits = asked.limits(max_tokens, call.behaviour.tokens)
    n = asked.n or 1
    plans = [plan(each, limits) for each in prompts for _ in range(n)]
    leads = [each if asked.echo is True else "" for each in prompts for _ in range(n)]
    opening = {"id": f"cmpl-{call.id}", "object": "text_completion", "created": int(time.time()), "model": model}
    run = call.run(sum(counts), plans, prompts, salt=asked.cache_salt)
    if asked.stream:
        await _stream(call, asked, opening, run, plans, leads)
        return
    async with run:
        await run.complete()
    choices = [_choice(asked, index, each, leads[index]) for index, each in enumerate(plans)]
    counted = usage(run.prompt_tokens, completion_tokens(plans), run.cached_tokens)
    call.reply({**opening, "choices": choices, "usage": counted, "kv_transfer_params": None})


def _choice(asked: CompletionRequest, index: int, each: Plan, lead: str) -> dict[str, object]:
    top = asked.logprobs
    return {
        "index": index,
        "text": lead + each.text,
        "logprobs": None if top is None else text_logprobs(each.tokens, top, len(lead)),
        "finish_reason": each.finish_reason,
        "stop_reason": each.stop_reason,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }


async def _stream(
    call: Call,
    asked: CompletionRequest,
    opening: dict[str, object],
    run: Run,
    plans: list[Plan],
    leads: list[str],
) -> None:
    options = asked.stream_options or StreamOptions()
    head = encode(opening)[:-1] + b',"choices":['
    stream = call.stream()
    offsets = [len(lead) for lead in leads]
    on = b'"finish_reason":null,"stop_reason":null'
    async with run:

        async def send(index: int, words: str, finished: bytes, scores: bytes = b"null") -> None:
            close = b"}"
            if options.continuous_usage_stats:
                close = b',"usage":' + encode(usage(run.prompt_tokens, run.generated, run.cached_tokens)) + b"}"
            choice = (index, encode(words), scores, finished)
            await stream.send(head + b'{"index":%d,"text":%b,"logprobs":%b,%b,"token_ids":null}]' % choice + close)

        async for step in run.steps():
            for index, each in enumerate(plans):
                if step == 0 and leads[index]:
                    await send(index, leads[index], on)
                if step >= len(each.tokens):
                    continue
                token = each.tokens[step]
                last = step + 1 == len(each.tokens) and each.finish_reason == "length"
                if asked.logprobs is not None:
                    scores = encode(text_logprobs([token], asked.logprobs, offsets[index]))
                    await send(index, token.text, finish(each) if last else on, scores)
                elif token.text or last:
                    await send(index, token.text, finish(each) if last else on)
                offsets[index] += len(token.text)
    for index, each in enumerate(plans):
        if each.finish_reason != "length":
            await send(index, "", finish(each))
    if options.include_usage:
        counted = encode(usage(run.prompt_tokens, run.generated, run.cached_tokens))
        await stream.send(head + b'],"usage":' + counted + b"}")
    await stream.close(b"[DONE]")
