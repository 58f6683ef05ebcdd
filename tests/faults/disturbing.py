"""Streams of a demo model under load, with and without somebody who kills its engines: what clients saw."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from openai import AsyncOpenAI

from tests.conftest import DEMO_MODEL
from tests.processes import command_line, descendants
from tests.servers import ROOT, Tritium

QUESTIONS = tuple(
    f"{verb} {thing} in a few sentences."
    for verb in ("Describe", "Explain", "Praise", "Criticise")
    for thing in ("the sea", "a violin", "the moon", "a bicycle", "winter", "bread")
)


@dataclass
class Witness:
    """What the clients of one run saw. `texts` holds each question's answers, in order."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    usages: list[tuple[str, int, int]] = field(default_factory=list)
    """(text, prompt tokens, completion tokens)."""
    kills: int = 0


def repository(folder: Path, count: int, *, engine: str = "llamacpp", **changes: object) -> Path:
    """The demo model, served by so many engines: its weights are linked, its arguments changed."""
    source = ROOT / "model_repository" / DEMO_MODEL
    target = folder / DEMO_MODEL
    (target / "1").mkdir(parents=True)
    config = source / "config.pbtxt" if engine == "llamacpp" else source / "configs" / f"{engine}.pbtxt"
    text = config.read_text() + f"\ninstance_group [ {{ count: {count} }} ]\n"
    (target / "config.pbtxt").write_text(text)
    for file in (source / "1").iterdir():
        (target / "1" / file.name).symlink_to(file)
    for name in ("model.json", "vllm.json"):
        if (source / "1" / name).exists():
            (target / "1" / name).unlink()
            arguments = json.loads((source / "1" / name).read_text())
            (target / "1" / name).write_text(json.dumps({**arguments, **changes}))
    shutil.copy(source / "weights.json", target / "weights.json")
    return folder


def engine_pids(server: Tritium, mark: str) -> list[int]:
    """The engines' own processes: not their guards, nor what they started themselves."""
    found = [pid for pid in descendants(server.pid) if mark in (line := command_line(pid)) and "guard" not in line]
    return [pid for pid in found if not any(pid in descendants(other) for other in found if other != pid)]


async def stream_for(
    server: Tritium, seconds: float, *, clients: int = 24, max_tokens: int = 60, questions: Sequence[str] = QUESTIONS
) -> Witness:
    """`clients` ask at once, each question after the other, greedily and streaming, until the time is over."""
    witness = Witness()
    ends_at = monotonic() + seconds
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:

        async def ask(first: int) -> None:
            number = first
            while monotonic() < ends_at:
                question = questions[number % len(questions)]
                number += 1
                try:
                    await answer(client, question, max_tokens, witness)
                except Exception as error:  # noqa: BLE001  # whatever a client may see
                    witness.errors.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(ask(number) for number in range(clients)))
    return witness


async def answer(client: AsyncOpenAI, question: str, max_tokens: int, witness: Witness) -> None:
    parts: list[str] = []
    ids: set[str] = set()
    reasons: list[str] = []
    roles = 0
    usage = None
    stream = await client.chat.completions.create(
        model=DEMO_MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        ids.add(chunk.id)
        for choice in chunk.choices:
            parts.append(choice.delta.content or "")
            roles += choice.delta.role is not None
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = chunk.usage or usage
    text = "".join(parts)
    witness.texts.setdefault(question, []).append(text)
    if len(ids) != 1 or roles != 1 or len(reasons) != 1 or usage is None:
        witness.errors.append(f"ids {ids}, {roles} roles, finish reasons {reasons}, usage {usage}: {text!r}")
    else:
        witness.usages.append((text, usage.prompt_tokens, usage.completion_tokens))


async def kill_one_each_second(server: Tritium, mark: str, seconds: float, witness: Witness) -> None:
    """SIGKILL to one engine that lives, whichever, once a second."""
    ends_at = monotonic() + seconds
    choose = random.Random(7)
    while monotonic() < ends_at:
        await asyncio.sleep(1)
        alive = await asyncio.to_thread(engine_pids, server, mark)
        if alive:
            os.kill(choose.choice(alive), signal.SIGKILL)
            witness.kills += 1


def difference_rate(runs: Sequence[Witness], reference: Witness) -> float:
    """The share of answers of `runs` that differ from what `reference` said to the same question, answer by answer."""
    pairs = [
        (text, others[number % len(others)])
        for run in runs
        for question, texts in run.texts.items()
        if (others := reference.texts.get(question))
        for number, text in enumerate(texts)
    ]
    return sum(one != other for one, other in pairs) / max(1, len(pairs))
