"""What a pipeline is made of: `<version>/pipeline.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backends.config import ModelConfig
from backends.errors import InvalidRequest
from ensembles.answering.stages import STEPS
from ensembles.options import read as read_options

FILENAME = "pipeline.json"
BACKEND = "rag"
_ABSTENTION = "I could not find an answer to this in the documents."

Steps = dict[str, dict[str, Any]]


class Recipe(msgspec.Struct, frozen=True):
    """`stores` are ids or names of vector stores, `documents` files to be kept in a store of the pipeline's name.

    `embedder` is for stores that do not say whose vectors they hold; without a `reranker` the fused order stands.
    `top_k` passages go to the generator. Where the best one's likeness to the question (the reranker's score, else the
    cosine) is below `abstain_below`, or nothing was found, the answer is `abstention`, and nothing is generated.
    """

    generator: Annotated[str, Meta(min_length=1)]
    embedder: str = ""
    reranker: str = ""
    stores: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    steps: Steps = {}
    top_k: Annotated[int, Meta(ge=1, le=50)] = 5
    abstain_below: float | None = None
    abstention: str = _ABSTENTION

    def options(self, step: str) -> dict[str, Any]:
        """The options of a step, with the model that it asks."""
        models = {
            "rewrite": self.generator,
            "embed": self.embedder,
            "rerank": self.reranker,
            "excerpt": self.reranker,
            "prompt": self.generator,
        }
        given = self.steps.get(step, {})
        return {"model": models[step], **given} if models.get(step) else dict(given)

    @property
    def names(self) -> list[str]:
        """The steps that run."""
        left_out = {
            "rewrite": "rewrite" not in self.steps,
            "excerpt": "excerpt" not in self.steps,
            "rerank": not self.reranker and "model" not in self.steps.get("rerank", {}),
        }
        return [name for name in STEPS if not left_out.get(name, False)]


def read(config: ModelConfig) -> Recipe:
    """Raises `InvalidRequest` naming the key that is not one or has a wrong value."""
    where = f"Model {config.name!r}: {FILENAME}"
    if not config.arguments:
        raise InvalidRequest(f"{where} is missing or empty: it names at least a 'generator'.", param="generator")
    recipe = read_options(config.arguments, Recipe, where)
    for name in recipe.steps:
        if name not in STEPS and name != "cite":
            known = ", ".join([*STEPS, "cite"])
            raise InvalidRequest(f"{where}: there is no step {name!r}; there are {known}.", param=f"steps.{name}")
    if brings_documents(config) and config.name not in recipe.stores:
        return msgspec.structs.replace(recipe, stores=(*recipe.stores, config.name))
    if not recipe.stores:
        raise InvalidRequest(f"{where} names neither 'stores' nor 'documents'.", param="stores")
    return recipe


def brings_documents(config: ModelConfig) -> bool:
    """Whether a model is a pipeline that comes with documents of its own."""
    return config.backend == BACKEND and bool(config.arguments.get("documents"))


def models(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that a pipeline names, the generator first, each once; none where its file is wrong."""
    named = [arguments.get(key) for key in ("generator", "embedder", "reranker")]
    return tuple(dict.fromkeys(name for name in named if isinstance(name, str) and name))
