"""The command line: `tritium serve`, `tritium chat`, `tritium models`."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo
from rich.console import Console

from backends.errors import ServingError
from gateway import start_line
from gateway.client import Server, ServerError
from gateway.settings import Settings, SettingsError, flag, read, shown

EXIT_FAILED = 1
EXIT_MISUSED = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="tritium",
    help="An OpenAI-compatible streaming gateway in front of a repository of LLMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(
    help="What is served and controlled, what the repository holds, and its weights.", no_args_is_help=True
)
app.add_typer(models, name="models")

Url = Annotated[
    str,
    typer.Option(help="Address of the server; this machine's by default.", envvar="TRITIUM_URL", show_default=False),
]
Key = Annotated[
    str, typer.Option(help="API key to show the server.", envvar="TRITIUM_API_KEY", show_default=False, metavar="KEY")
]
Repositories = Annotated[
    list[str] | None,
    typer.Option("--model-repository", help="Folder with one folder a model.", metavar="PATH", show_default=False),
]
ConfigName = Annotated[
    str,
    typer.Option("--model-config-name", help="Take configs/NAME.pbtxt of each model that has it.", metavar="NAME"),
]


def main() -> None:
    """Run a command and exit: 0 done, 1 failed, 2 wrong arguments or settings, 130 interrupted."""
    try:
        app(_arguments(sys.argv[1:]))
    except SettingsError as error:
        _refuse(str(error), EXIT_MISUSED)
    except (ServingError, ServerError, OSError) as error:
        _refuse(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _arguments(given: list[str]) -> list[str]:
    """`serve` takes a start line of `tritonserver` as well."""
    if given[:1] != ["serve"]:
        return given
    line = start_line.read(given[1:])
    for warning in line.warnings:
        print(f"tritium: {warning}", file=sys.stderr)
    return ["serve", *line.arguments]


def _refuse(message: str, status: int) -> None:
    for line in message.splitlines():
        print(f"tritium: {line}", file=sys.stderr)
    sys.exit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tritium {importlib.metadata.version('tritium')}")
        raise typer.Exit


@app.callback()
def _tritium(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _serve(**options: Any) -> None:
    """Serve every model of the repositories through the OpenAI API.

    Each option is also a variable (--http-port is TRITIUM_HTTP_PORT) and a key of the TOML file (http_port).
    A flag wins over the variable, that over the file.
    """
    config: Path | None = options.pop("config")
    settings = read({name: value for name, value in options.items() if value not in (None, [])}, config=config)
    # Kinds look for their engines there, in the supervisor and in what it starts.
    os.environ["TRITIUM_ENGINES_DIR"] = str(settings.engines_dir.absolute())
    if settings.log_file is not None:  # of all processes: they inherit it
        with settings.log_file.open("a") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    import uvloop

    from gateway.supervisor import supervise

    raise typer.Exit(uvloop.run(supervise(settings)))


def _with_an_option_a_setting(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` an option for each field of `Settings`, unset unless given: `read` alone judges values."""
    options = [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Path | None,
            default=typer.Option(None, "--config", metavar="FILE", help="TOML file with settings.", show_default=False),
        ),
        *(_option(name, field) for name, field in Settings.model_fields.items()),
    ]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what typer reads; functions take it
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Cases: a switch, a list that is given value by value, a single value."""
    group = typing.cast("dict[str, str]", field.json_schema_extra)["group"]
    annotation: object
    if field.annotation is bool:
        annotation, declaration, metavar = bool | None, f"{flag(name)}/--no-{flag(name)[2:]}", None
    else:
        is_list = typing.get_origin(field.annotation) is tuple
        annotation, declaration = list[str] | None if is_list else str | None, flag(name)
        metavar = _metavar(field.annotation)
    default = shown(field.default)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=typer.Option(
            None,
            declaration,
            metavar=metavar,
            help=f"{field.description} Default: {default}." if default else field.description,
            show_default=False,
            rich_help_panel=group,
        ),
    )


def _metavar(annotation: Any) -> str:
    """What stands after an option in the help: its choices, or the kind of its value."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "|".join(arguments)
    if origin in (types.UnionType, tuple):
        return _metavar(arguments[0])
    return {int: "N", float: "SECONDS", Path: "PATH", str: "NAME"}[annotation]


app.command("serve")(_with_an_option_a_setting(_serve))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    url: Url = "",
    api_key: Key = "",
    system: Annotated[str, typer.Option(help="What the model is told before the first question.", metavar="TEXT")] = "",
    max_tokens: Annotated[int, typer.Option(min=0, help="Longest answer; 0 leaves it to the model.", metavar="N")] = 0,
) -> None:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D ends; a question on stdin is answered once."""
    from gateway.conversation import hold

    raise typer.Exit(hold(_server(url, api_key, _ours()), model, system=system, max_tokens=max_tokens))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False)],
    model: Annotated[str, typer.Option("-m", "--model-name", help="Name of the model.")],
    classes: Annotated[int, typer.Option("-c", "--classes", min=1, help="How many labels of each image.")] = 1,
    scaling: Annotated[
        Literal["NONE", "INCEPTION", "VGG"], typer.Option("-s", "--scaling", help="What is done with the pixels.")
    ] = "NONE",
    protocol: Annotated[
        Literal["http", "grpc"], typer.Option("-i", "--protocol", help="How the server is asked.", case_sensitive=False)
    ] = "http",
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Classify images by a model of a running server: its best labels, as Triton's image_client prints them."""
    from gateway.classify import classify as run

    ours = _ours()
    address = (url or f"{_local(ours)}:{ours.grpc_port}") if protocol == "grpc" else ""
    run(_server("" if address else url, api_key, ours), address, model, images, classes=classes, scaling=scaling)


@app.command("eval")
def evaluate(
    dataset: Annotated[
        Path, typer.Option(help="Folder with corpus.jsonl, queries.jsonl and qrels/.", exists=True, file_okay=False)
    ],
    split: Annotated[str, typer.Option(help="Which judgements: qrels/SPLIT.tsv.")] = "test",
    store: Annotated[
        str, typer.Option(help="Name of the vector store that holds the corpus, or will.", show_default="the folder's")
    ] = "",
    model: Annotated[
        str, typer.Option("-m", "--model-name", help="Name of the pipeline.", show_default="the first")
    ] = "",
    clients: Annotated[int, typer.Option(min=1, max=64, help="How many ask at the same time.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Measure how well a pipeline of a running server finds the documents of a test collection in BEIR's layout."""
    from gateway import beir, evaluation

    measured = evaluation.evaluate(
        _server(url, api_key, _ours()),
        beir.read(dataset, split),
        store=store or dataset.resolve().name,
        model=model,
        clients=clients,
        output=Console(stderr=True),
    )
    if as_json:
        print(json.dumps({"dataset": str(dataset), "split": split, **measured}))
    else:
        evaluation.show(measured, Console())


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", metavar="PATH...")],
    store: Annotated[str, typer.Option(help="Name or id of the vector store; made where there is none.")],
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Put documents into a vector store of a running server, and wait until they can be searched.

    What is there already stays, what has changed is replaced. Exits with 1 where a file could not be ingested.
    """
    from gateway.documents import ingest as run

    outcome = run(_server(url, api_key, _ours()), paths, store, Console(stderr=True))
    print(outcome.summary())
    raise typer.Exit(EXIT_FAILED if outcome.failed else 0)


@models.command("list")
def list_models(
    url: Url = "", api_key: Key = "", model_repository: Repositories = None, model_config_name: ConfigName = ""
) -> None:
    """List the models of a running server, or those of the repository where no server answers."""
    from gateway import catalogue

    ours = _ours(model_repository, model_config_name)
    catalogue.list_models(_server(url, api_key, ours), ours.model_repository, ours.model_config_name, Console())


@models.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    url: Url = "",
    api_key: Key = "",
    model_repository: Repositories = None,
    model_config_name: ConfigName = "",
) -> None:
    """Print a model's capabilities, state, context length and configuration."""
    from gateway import catalogue

    ours = _ours(model_repository, model_config_name)
    catalogue.show_model(name, _server(url, api_key, ours), ours.model_repository, ours.model_config_name)


AdminKey = Annotated[
    str,
    typer.Option(
        help="Key for the server's /admin; the API key by default.",
        envvar="TRITIUM_ADMIN_KEY",
        show_default=False,
        metavar="KEY",
    ),
]


@models.command("load")
def load_model(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    url: Url = "",
    api_key: Key = "",
    admin_key: AdminKey = "",
) -> None:
    """Load a model into a running server, or load it anew under its changed configuration; wait until it serves."""
    _control(name, "load", url, admin_key or api_key)


@models.command("unload")
def unload_model(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    url: Url = "",
    api_key: Key = "",
    admin_key: AdminKey = "",
) -> None:
    """Take a model out of a running server; wait until its streams are done and nothing of it runs."""
    _control(name, "unload", url, admin_key or api_key)


@models.command("drain")
def drain_model(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    url: Url = "",
    api_key: Key = "",
    admin_key: AdminKey = "",
) -> None:
    """Have a model take no new work and stop its engines when idle; it stays listed, and loading it starts it again."""
    _control(name, "drain", url, admin_key or api_key)


def _control(name: str, action: str, url: str, key: str) -> None:
    from gateway import catalogue

    catalogue.control_model(_server(url, key, _ours()), name, action)


@models.command("pull")
def pull_models(
    names: Annotated[list[str], typer.Argument(help="Names of models.", metavar="NAME...")],
    model_repository: Repositories = None,
) -> None:
    """Fetch models' weights into the repository and check them against their manifests."""
    from gateway import catalogue

    repositories = _ours(model_repository).model_repository
    for name in names:
        catalogue.pull_model(name, repositories, Console(stderr=True))


def _ours(model_repository: list[str] | None = None, model_config_name: str = "") -> Settings:
    """The settings a server here would have: where it listens and what it serves."""
    given: dict[str, object] = {"insecure": True}  # nothing listens, so nothing needs a guard
    if model_repository:
        given["model_repository"] = model_repository
    if model_config_name:
        given["model_config_name"] = model_config_name
    return read(given)


def _server(url: str, key: str, ours: Settings) -> Server:
    return Server(url or f"http://{_local(ours)}:{ours.http_port}", key)


def _local(ours: Settings) -> str:
    """Where a server here is reached, as an address is written."""
    host = "127.0.0.1" if ours.host in {"0.0.0.0", "::"} else ours.host
    return f"[{host}]" if ":" in host else host
