"""What excerpts leave of the answers: `python -m tests.bench.rag_excerpts`.

Questions about the Debian FAQ (`deploy/test-services.sh` fetches it) with words of the sentence that answers each.
Every pipeline finds the same three passages; the generator is `echo`, which says its prompt back. Told for each size of
excerpts: how many of the answers that stand in whole passages stand in the prompt, and how many characters it has.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from gateway.client import Server
from tests.bench.rag_ingest import put
from tests.bench.rag_ttft import MODELS, ROOT, TOP_K, retrieving, serving, write

DOCUMENT = ROOT / "build" / "documents" / "debian-faq.en.pdf"
_PORT = 21380
SIZES = (0, 200, 250, 300, 350, 400, 500)
ANSWERS = {
    "Who started the Debian project?": "created by Ian Murdock",
    "How do I say the name Debian?": "emphasis on the first syllable",
    "Who wrote the kernel?": "written by Linus Torvalds",
    "What does free mean in free software?": "to freedom, not price",
    "What is the Hurd?": "set of servers running on top",
    "Why is the system called GNU/Linux and not just Linux?": "explicitly requested",
    "Does the stable release get new features?": "No new functionality",
    "Where do security updates come from?": "security.debian.org",
    "Can the installer be started from a memory stick?": "booting from USB memory stick",
    "Which distribution should somebody new take for a desktop?": "start with stable",
    "Where do the codenames of releases come from?": "Toy Story",
    "Which toy was Debian 4.0 named after?": "toy whiteboard",
    "Who decided on names from Toy Story?": "Bruce Perens",
    "What was release 2.2 called?": "potato",
    "Who is sid?": "destroyed toys",
    "Is experimental safe for users?": "high risk of breaking",
    "Which packages are in contrib?": "depend on a package that is not freely distributable",
    "What is in the pool directory?": "binary packages for each architecture",
    "How do I get the source of a package?": "apt-get source",
    "Where are packages whose names begin with lib?": "pool/main/libp/libpaper",
    "What happens with testing when it is frozen?": "held back, unless they include release-critical bug fixes",
    "What ending has the name of a Debian archive file?": "ends in .deb",
    "Which tool shows the package name of a deb file?": "dpkg --info",
    "Which architecture do AMD64 packages name?": "commonly amd64",
    "What is a conffile?": "will not overwrite when the package is upgraded",
    "What does a preinst script do?": "before the package it belongs to is unpacked",
    "When is postrm used?": "modifies links or other files",
    "Which packages must never be removed?": "You must not remove these packages",
    "Which mail program is installed by default?": "Exim",
    "What is a virtual package?": "generic name that applies to any one of a group",
    "What does it mean that a package suggests another?": "enhance",
    "What does it mean that a package breaks another?": "cannot be simultaneously configured",
    "Why are there pre-depends?": "safe upgrading of systems from a.out",
    "Which VoIP client is popular?": "ekiga is one of the popular clients",
    "What do I do with a wireless card that does not work?": "ndiswrapper",
    "Is Google Earth free software?": "not Free Software",
}


def main() -> int:
    if not DOCUMENT.exists():
        print(f"{DOCUMENT} is not fetched: run deploy/test-services.sh", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        models = repository(Path(folder) / "models")
        with serving(models, Path(folder), _PORT) as (server, _):
            store = server.post("/v1/vector_stores", b'{"name": "bench"}')["id"]
            put(server, store, [server.upload(DOCUMENT.name, DOCUMENT.read_bytes())["id"]])
            report(server)
    return 0


def repository(folder: Path) -> Path:
    """The models, and a pipeline for each size; 0 leaves passages whole."""
    retrieving(folder)
    write(folder / "echo", 'backend: "echo"\n', "model.json", {})
    for size in SIZES:
        steps = {"excerpt": {"characters": size}} if size else {}
        recipe = {"generator": "echo", **MODELS, "stores": ["bench"], "top_k": TOP_K, "steps": steps}
        write(folder / f"rag-{size}", 'backend: "rag"\n', "pipeline.json", recipe)
    return folder


def report(server: Server) -> None:
    prompts = {size: {question: prompt(server, f"rag-{size}", question) for question in ANSWERS} for size in SIZES}
    found = [question for question, words in ANSWERS.items() if words in prompts[0][question]]
    print(f"{len(found)} of {len(ANSWERS)} answers stand in whole passages; not: {sorted(set(ANSWERS) - set(found))}")
    for size, said in prompts.items():
        kept = [question for question in found if ANSWERS[question] in said[question]]
        characters = sum(map(len, said.values())) / len(said)
        lost = f"; lost: {sorted(set(found) - set(kept))}" if len(kept) < len(found) else ""
        print(f"{size or 'whole':>6} {len(kept):3} answers {characters:6.0f} characters{lost}", flush=True)


def prompt(server: Server, model: str, question: str) -> str:
    """The prompt of a question, its white space made one."""
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": 4000}
    answer = server.post("/v1/chat/completions", json.dumps(body).encode())
    return " ".join(answer["choices"][0]["message"]["content"].split())


if __name__ == "__main__":
    sys.exit(main())
