"""The commands. No logic of their own: options are read by config, work is done by build and what it returns.

Owns how things look in a terminal, and the exit status: 0 done, 1 failed, 2 usage or configuration,
3 environment, 4 model refused, 130 interrupted. An error is one line on stderr.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tripos import __version__, config
from tripos.errors import ConfigError, TriposError

if TYPE_CHECKING:
    import asyncio

    from tripos.client import AdminClient
    from tripos.service import Service
    from tripos.types import Constraint, Message, Sampling

log = logging.getLogger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])
LOCAL_NAME = "local"  # the route of `generate` and `chat`, which nobody else sees


def _settings(*names: str) -> Callable[[Command], Command]:
    """Adds the flags of the named settings. Values stay text: config parses them."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            rule = config.settings()[name]
            doc = rule["doc"]
            if rule["choices"]:
                doc += f" One of {', '.join(rule['choices'])}."
            metavar = "NAME=PATH" if rule["kind"] == "named_paths" else rule["kind"].upper()
            kind: dict[str, Any] = {"metavar": metavar, "multiple": True}
            if rule["kind"] == "switch":
                kind = {"is_flag": True}
            command = click.option(config.flag(name), name, help=doc, **kind)(command)
        return command

    return add


ADMIN_SETTINGS = tuple(name for name in config.flags(config.ModelOptions) if name not in ("name", "adapters"))
MODEL_SETTINGS = (*ADMIN_SETTINGS, "memory")
SERVER_SETTINGS = ("name", "adapters", *(name for name in config.flags(config.ServerOptions) if name != "memory"))


Flags = tuple[str, ...] | bool
_config_file = click.option("--config", "file", metavar="FILE", default="", help="The service file (./tripos.toml).")


def _given(flags: dict[str, Flags]) -> dict[str, str]:
    """The settings that were given, as text. Raises ConfigError when one was given twice."""
    given = {}
    for name, values in flags.items():
        if name == "adapters" and isinstance(values, tuple):
            values = (os.pathsep.join(values),) if values else ()
        if isinstance(values, tuple) and len(values) > 1:
            raise ConfigError(f"{config.flag(name)} was given {len(values)} times")
        if values:
            given[name] = values[0] if isinstance(values, tuple) else "true"
    return given


def _read_options(
    models: tuple[str, ...], file: str, flags: dict[str, Flags]
) -> tuple[config.ServiceOptions, Callable[[], config.ServiceOptions]]:
    """The options that hold, and how to read them again."""
    given, found = _given(flags), config.find_file(file)

    def read() -> config.ServiceOptions:
        return config.read_options(models, given, os.environ, found)

    return read(), read


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tripos", message="%(prog)s %(version)s")
def tripos() -> None:
    """Run models on new input and serve the answers."""


@tripos.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@_config_file
@_settings(*SERVER_SETTINGS, *MODEL_SETTINGS)
def serve(models: tuple[str, ...], file: str, **flags: Flags) -> None:
    """Serve models over HTTP.

    MODEL is a directory, a .gguf file, hf:org/name or demo:assistant (the default). MODELs that are named here are
    served instead of those in the service file.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server listens to it: the file is about to be read anyway
    from tripos.api.gate import check_descriptors

    check_descriptors()
    options, read_options = _read_options(models, file, flags)
    from tripos import build
    from tripos.api import logs, server

    residents = build.build_residents(options, read_options)
    with logs.logging_to_stderr(options.server.log_format) as lines:
        startup = Startup(lines.show if sys.stderr.isatty() else None)

        def log_table(rows: Iterable[Sequence[str]]) -> None:
            for line in table_lines(rows):
                log.info(line)

        def load() -> Awaitable[None]:
            return residents.fill_beside(startup, log_table)

        def ready(address: str) -> None:
            log.info("ready in %s, listening on %s", startup.finish(), address)

        try:
            was_loaded = server.serve(residents.service, options.server, ready, load)
        except TriposError as error:
            lines.show("")
            if options.server.log_format == "text":
                raise
            log.error(error.message, extra={"fields": {"code": error.code}})
            sys.exit(getattr(error, "exit_status", 1))
    if not was_loaded:
        os._exit(0)  # the thread that loads hears of nothing, and may need minutes


@tripos.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Most tokens to write.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=1.0, show_default=True, help="0: the likeliest.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Draw from the k likeliest tokens. 0: from all.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, help="Draw from this much of the probability.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=None, help="Makes draws repeatable.")
@click.option("--stop", multiple=True, help="Stop before this text (may be repeated).")
@click.option("--json-schema", default=None, metavar="JSON", help="The answer is JSON that follows this schema.")
@click.option("--regex", default=None, metavar="PATTERN", help="The answer matches this pattern.")
@_settings(*MODEL_SETTINGS)
def generate(
    model: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    json_schema: str | None,
    regex: str | None,
    **flags: Flags,
) -> None:
    """Continue PROMPT and print the continuation as it comes."""
    require_utf8(prompt, "PROMPT")
    if json_schema is not None and regex is not None:
        raise click.UsageError("--json-schema and --regex exclude each other")
    from tripos.types import Constraint, Sampling

    constraint = None
    if json_schema is not None:
        constraint = Constraint(kind="json_schema", source=json_schema)
    elif regex is not None:
        constraint = Constraint(kind="regex", source=regex)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop)
    with Session(model, _given(flags)) as session:
        session.answer(prompt, max_tokens, sampling, constraint)
        click.echo()


@tripos.command()
@click.argument("model", default=config.DEFAULT_MODEL)
@click.option("--system", default="", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True, help="Most tokens per answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="0: the likeliest.")
@_settings(*MODEL_SETTINGS)
def chat(model: str, system: str, max_tokens: int, temperature: float, **flags: Flags) -> None:
    """Talk with a model in the terminal. An empty line or Ctrl-D ends, Ctrl-C stops an answer."""
    require_utf8(system, "--system")
    from tripos.types import Message, Sampling

    sampling = Sampling(temperature=temperature)
    messages = [Message(role="system", content=system)] if system else []
    with Session(model, _given(flags)) as session:
        while question := read_question():
            messages.append(Message(role="user", content=question))
            answer = session.answer(tuple(messages), max_tokens, sampling)
            messages.append(Message(role="assistant", content=answer))
            click.echo()


@tripos.command()
@click.argument("model", metavar="SOURCE")
@click.option("-o", "--output", required=True, metavar="DIR", help="Directory to write. Must not exist, or be empty.")
@_settings("weights", "threads")
def quantize(model: str, output: str, **flags: Flags) -> None:
    """Write SOURCE with its weights packed as --weights: a directory that loads without conversion.

    With --weights auto the weights keep the types that they are stored in.
    """
    options = config.read_options((model,), _given(flags), os.environ)
    from pathlib import Path

    from tripos import build

    startup = Startup(show_status if sys.stderr.isatty() else None)
    build.quantize_model(options.models[0], Path(output), progress=startup)
    startup.finish()
    click.echo(f"wrote {output}")


@tripos.command()
@click.argument("model", required=False)
@_settings(*MODEL_SETTINGS)
def doctor(model: str | None, **flags: Flags) -> None:
    """Show the machine, the kernels that were chosen, and what fits."""
    options = config.read_options((model,) if model else (), _given(flags), os.environ)
    from tripos import build

    echo_table(build.describe_machine(options.models[0]))
    click.echo()
    for rows in build.check_service(options):
        echo_table(rows)


@tripos.group(name="config")
def config_group() -> None:
    """Look at the settings that hold."""


@config_group.command()
@_config_file
@_settings(*SERVER_SETTINGS, *MODEL_SETTINGS)
def show(file: str, **flags: Flags) -> None:
    """Print every setting, its value, and where the value comes from."""
    options, _ = _read_options((), file, flags)
    echo_table([("setting", "value", "from"), *config.effective(options)])


@config_group.command()
@_config_file
@_settings(*SERVER_SETTINGS, *MODEL_SETTINGS)
def check(file: str, **flags: Flags) -> None:
    """Read settings, API keys and models as serve would, and say whether it could start. Nothing is loaded."""
    options, _ = _read_options((), file, flags)
    from tripos import build
    from tripos.api import auth

    if options.server.api_key_file:
        auth.read_keys(options.server.api_key_file)
    for rows in build.check_service(options):
        echo_table(rows)
        click.echo()
    click.echo(
        f"{options.file or 'settings'}: {len(options.models)} models, {len(options.routes)} routes: as it should be"
    )


@tripos.group(name="models")
@click.option("--url", default="", help="Address of the server. Default: where the settings say that it listens.")
@_config_file
@_settings("api_key_file")
@click.pass_context
def models_group(context: click.Context, /, url: str, file: str, **flags: Flags) -> None:
    """Load, unload and list models of a running server."""
    options = config.read_options((), _given(flags), os.environ, config.find_file(file))
    from tripos.client import AdminClient

    server = options.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::", "localhost") else server.host
    address = f"[{host}]" if ":" in host else host
    context.obj = AdminClient(url or f"http://{address}:{server.port}", server.api_key_file)


@models_group.command(name="list")
@click.pass_obj
def list_models(client: AdminClient) -> None:
    """Every model's state, memory and calls in flight."""
    found = client.ask("GET", "/admin/models")
    rows = [("model", "state", "memory", "calls", "routes", "source")]
    for each in found["models"]:
        size, routes = f"{each['memory_bytes'] / 2**20:,.1f} MiB", ", ".join(each["routes"])
        state = each["state"] + (f" ({each['error']})" if each["error"] else "")
        rows.append((each["name"], state, size, str(each["num_in_flight"]), routes, each["source"]))
    echo_table(rows)
    memory = found["memory"]
    click.echo(f"{memory['free_bytes'] / 2**20:,.1f} of {memory['total_bytes'] / 2**20:,.1f} MiB are free")


@models_group.command()
@click.argument("name")
@click.argument("source", default="")
@_settings(*ADMIN_SETTINGS)
@click.pass_obj
def load(client: AdminClient, /, name: str, source: str, **flags: Flags) -> None:
    """Load a model that the configuration names, or SOURCE as NAME."""
    body = {"name": name, "source": source, "options": _typed(flags)}
    _echo_loaded(client.ask("POST", "/admin/models/load", body))


@models_group.command()
@click.argument("name", default="")
@click.argument("source", default="")
@_settings(*ADMIN_SETTINGS)
@click.pass_obj
def reload(client: AdminClient, /, name: str, source: str, **flags: Flags) -> None:
    """Load NAME anew (from SOURCE) and switch to it, no request dropped. Without NAME: read tripos.toml again."""
    if not name:
        report = client.ask("POST", "/admin/reread", {})
        for key, value in report.items():
            click.echo(f"{key}: {value or 'none'}")
        if report["failed"]:
            raise TriposError("some models could not be loaded")
        return
    body = {"name": name, "source": source, "options": _typed(flags)}
    _echo_loaded(client.ask("POST", "/admin/models/reload", body))


@models_group.command()
@click.argument("name")
@click.pass_obj
def unload(client: AdminClient, name: str) -> None:
    """Let NAME's calls end, then free its memory."""
    done = client.ask("POST", "/admin/models/unload", {"name": name})
    cut_off = f"; {done['num_cut_off']} calls were cut off" if done["num_cut_off"] else ""
    click.echo(f"{name} is unloaded{cut_off}")


def _typed(flags: dict[str, Flags]) -> dict[str, Any]:
    return {name: config.parse(name, text, config.flag(name)) for name, text in _given(flags).items()}


def _echo_loaded(model: dict[str, Any]) -> None:
    click.echo(f"{model['name']} is {model['state']}: {model['memory_bytes'] / 2**20:,.1f} MiB, {model['source']}")


def read_question() -> str:
    """One line from the terminal; empty at its end."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - gives input() its line editing
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def require_utf8(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} is not valid UTF-8") from None


class Session:
    """One model in this process, for as long as a command runs."""

    def __init__(self, model: str, flags: dict[str, str]) -> None:
        options = config.read_options((model,), {**flags, "name": LOCAL_NAME}, os.environ)
        import asyncio

        from tripos import build

        self.startup = Startup(show_status if sys.stderr.isatty() else None)
        self.service: Service = build.build_service(options, progress=self.startup)
        self.runner: asyncio.Runner = asyncio.Runner()

    def __enter__(self) -> Session:
        self.runner.run(self.service.start())
        self.startup.finish()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self.service.stop())
        self.runner.close()

    def answer(
        self,
        prompt: str | tuple[Message, ...],
        max_tokens: int,
        sampling: Sampling,
        constraint: Constraint | None = None,
    ) -> str:
        """Prints the answer as it comes, and returns it."""
        from tripos.types import Generate

        request = Generate(prompt=prompt, max_tokens=max_tokens, sampling=sampling, constraint=constraint)
        return self.runner.run(self._answer(request))

    async def _answer(self, request: Any) -> str:
        import contextlib

        from tripos.types import Call, Delta

        pieces: list[str] = []
        call = Call(id="cli", route=LOCAL_NAME, request=request, arrival_s=time.monotonic())
        events: Any = self.service.run(call)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                    click.echo(event.text, nl=False)
        return "".join(pieces)


class Startup:
    """Progress of loading, in a line that `show` replaces, and the time that each phase took. None: nobody looks."""

    def __init__(self, show: Callable[[str], None] | None) -> None:
        self._show = show
        self._shown = ""
        self.began_s = self.phase_s = time.perf_counter()
        self.phase = ""
        self.phases: list[tuple[str, float]] = []

    def __call__(self, phase: str, done: float) -> None:
        """`done` of the named phase, 0 to 1."""
        if phase != self.phase:
            self._close()
            self.phase = phase
        filled = round(30 * min(done, 1.0))
        self._display(f"{phase:<12} [{'#' * filled}{'.' * (30 - filled)}] {min(done, 1.0):4.0%}")

    def _display(self, text: str) -> None:
        if self._show is not None and text != self._shown:
            self._show(text)
            self._shown = text

    def _close(self) -> None:
        now_s = time.perf_counter()
        if self.phase:
            self.phases.append((self.phase, now_s - self.phase_s))
        self.phase_s = now_s

    def finish(self) -> str:
        """Everything is loaded; how long it took."""
        self._close()
        self.phase = ""
        self._display("")
        times = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self.phases)
        return f"{time.perf_counter() - self.began_s:.2f} s ({times})"


def show_status(text: str) -> None:
    """In the terminal's last line, in place of what stood there."""
    click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def table_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    cells = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def echo_table(rows: Iterable[Sequence[str]]) -> None:
    for line in table_lines(rows):
        click.echo(line)


def main() -> None:
    """Runs a command and turns what went wrong into one line and an exit status."""
    warnings.showwarning = lambda message, *_, **__: click.echo(f"tripos: warning: {message}", err=True)
    sys.exit(_status(sys.argv[1:]))


def _status(arguments: list[str]) -> int:
    try:
        result = tripos.main(arguments, prog_name="tripos", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except TriposError as error:
        return _fail(error.message, getattr(error, "exit_status", 1))
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 3)
    except MemoryError:
        return _fail("out of memory: lower --max-sequences or --max-model-len", 3)


def _fail(message: str, status: int) -> int:
    click.echo(f"tripos: {' '.join(message.split())}", err=True)
    return status


if __name__ == "__main__":
    main()
