"""The commands. No logic of their own: options are read by config, work is done by build and what it returns.

Owns the exit status: 0 done, 1 failed, 2 usage or configuration, 3 environment, 4 model refused, 130 interrupted. An
error is one line on stderr.
Tested in tests/unit/test_cli.py.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence

import click

from tripos import __version__, config
from tripos.cli import habits
from tripos.cli.flags import MODEL_SETTINGS, SERVER_SETTINGS, Flags, config_file, given, settings
from tripos.cli.models import models_group
from tripos.cli.talk import chat, generate
from tripos.cli.terminal import Startup, echo_table, show_status, table_fields, table_lines
from tripos.errors import TriposError

log = logging.getLogger(__name__)


def _read_options(
    models: tuple[str, ...], file: str, flags: dict[str, Flags]
) -> tuple[config.ServiceOptions, Callable[[], config.ServiceOptions]]:
    """The options, and the function that reads them again."""
    settings_given, found = given(flags), config.find_file(file)

    def read() -> config.ServiceOptions:
        return config.read_options(models, settings_given, os.environ, found)

    return read(), read


class Commands(click.Group):
    """Answers commands of other servers with the name that they have here."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(habits.answer_command(args[0], self.list_commands(ctx)), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tripos", message="%(prog)s %(version)s")
def tripos() -> None:
    """Run models on new input and serve the answers."""


@tripos.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@config_file
@settings(*SERVER_SETTINGS, *MODEL_SETTINGS)
def serve(models: tuple[str, ...], file: str, **flags: Flags) -> None:
    """Serve models over HTTP.

    MODEL is a directory, a .gguf file, hf:org/name[@revision], package:name (an installed package that holds one) or
    demo:assistant (the default). MODELs that are named here are served instead of those in the service file.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server handles it: the file is about to be read anyway
    from tripos.api.http.connection_limit import check_descriptors

    check_descriptors()
    options, read_options = _read_options(models, file, flags)
    from tripos.api.http import logs, server
    from tripos.build import service as build_service

    repository = build_service.build_repository(options, read_options)
    with logs.logging_to_stderr(options.server.log_format) as lines:
        startup = Startup(lines.show if sys.stderr.isatty() else None)

        def log_table(rows: Iterable[Sequence[str]]) -> None:
            if startup.phase == "open":
                log.info("files were opened: %s", startup.lap())
            if options.server.log_format == "json":
                log.info("memory of a model", extra={"fields": table_fields(rows)})
                return
            for line in table_lines(rows):
                log.info(line)

        def loaded(name: str) -> None:
            log.info("%s was loaded: %s", name, startup.lap())

        def load() -> Awaitable[None]:
            return repository.fill_beside(startup, log_table, loaded)

        def ready(address: str) -> None:
            log.info("listening on %s (ready in %s)", address, startup.finish())

        try:
            was_loaded = server.serve(repository.service, options.server, ready, load, repository)
        except TriposError as error:
            lines.show("")
            if options.server.log_format == "text":
                raise
            log.error(error.message, extra={"fields": {"code": error.code}})
            sys.exit(getattr(error, "exit_status", 1))
    if not was_loaded:
        os._exit(0)  # the loading thread cannot be interrupted and may take minutes


@tripos.command()
@click.argument("model", metavar="SOURCE")
@click.option("-o", "--output", required=True, metavar="DIR", help="Directory to write. Must not exist, or be empty.")
@settings("weights", "threads")
def quantize(model: str, output: str, **flags: Flags) -> None:
    """Write SOURCE with its weights packed as --weights: a directory that loads without conversion.

    With --weights auto the weights keep the types that they are stored in.
    """
    options = config.read_options((model,), given(flags), os.environ)
    from pathlib import Path

    from tripos.build import kinds as build
    from tripos.engine.memory import mib

    startup = Startup(show_status if sys.stderr.isatty() else None)
    before, after = build.quantize_model(options.models[0], Path(output), progress=startup)
    startup.finish()
    click.echo(f"wrote {output}: weights of {mib(after)}, {mib(before)} before")


@tripos.command()
@click.argument("model", required=False)
@settings(*MODEL_SETTINGS)
def doctor(model: str | None, **flags: Flags) -> None:
    """Show the machine, the kernels that were chosen, and what fits."""
    options = config.read_options((model,) if model else (), given(flags), os.environ)
    from tripos.build import kinds as build
    from tripos.build import service as build_service

    echo_table(build.describe_machine(options.models[0]))
    click.echo()
    for rows in build_service.check_service(options):
        echo_table(rows)


@tripos.group(name="config")
def config_group() -> None:
    """Show and check the settings."""


@config_group.command()
@config_file
@settings(*SERVER_SETTINGS, *MODEL_SETTINGS)
def show(file: str, **flags: Flags) -> None:
    """Print every setting, its value, and where the value comes from."""
    options, _ = _read_options((), file, flags)
    echo_table([("setting", "value", "from"), *config.effective(options)])


@config_group.command()
@config_file
@settings(*SERVER_SETTINGS, *MODEL_SETTINGS)
def check(file: str, **flags: Flags) -> None:
    """Read settings, API keys and models as serve would, and say whether it could start. Nothing is loaded."""
    options, _ = _read_options((), file, flags)
    from tripos.api import auth
    from tripos.build import service as build_service

    if options.server.api_key_file:
        auth.read_keys(options.server.api_key_file)
    for rows in build_service.check_service(options):
        echo_table(rows)
        click.echo()
    counts = f"{_count(len(options.models), 'model')}, {_count(len(options.routes), 'route')}"
    click.echo(f"{options.file or 'settings'}: {counts}: as it should be")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


tripos.add_command(chat)
tripos.add_command(generate)
tripos.add_command(models_group)


@tripos.command(name="help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_command(context: click.Context, words: tuple[str, ...]) -> None:
    """Show this page, or a command's."""
    command: click.Command = tripos
    for word in words:
        if not isinstance(command, click.Group) or command.get_command(context, word) is None:
            known = command.list_commands(context) if isinstance(command, click.Group) else []
            raise click.UsageError(habits.answer_command(word, known))
        context = click.Context(command, info_name=context.info_name if command is not tripos else "tripos")
        command = command.get_command(context, word) or command
    name = " ".join(("tripos", *words))
    click.echo(command.get_help(click.Context(command, info_name=name)))


@tripos.command()
def version() -> None:
    """Print the version."""
    click.echo(f"tripos {__version__}")


def main() -> None:
    """Runs a command and turns what went wrong into one line and an exit status."""
    _fill_standard_streams()
    if logging.lastResort is not None:  # for commands that set up no log
        logging.lastResort.setFormatter(logging.Formatter("tripos: %(message)s"))
    warnings.showwarning = lambda message, *_, **__: click.echo(f"tripos: warning: {message}", err=True)
    sys.exit(_status(sys.argv[1:]))


def _fill_standard_streams() -> None:
    """Open standard streams that the shell closed: else the next file or socket would get their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
        name = ("stdin", "stdout", "stderr")[descriptor]
        stream = os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
    os.close(descriptor)


def _status(arguments: list[str]) -> int:
    try:
        result = tripos.main(arguments, prog_name="tripos", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.NoSuchOption as error:
        known = [flag for each in (error.ctx.command.params if error.ctx else ()) for flag in each.opts]
        name = habits.flag_given(error.option_name, arguments)
        return _fail(habits.answer_flag(name, known), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except TriposError as error:
        return _fail(error.message, getattr(error, "exit_status", 1))
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # The reader of the output is gone. Python would report it again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 3)
    except MemoryError:
        return _fail("out of memory: lower --max-sequences or --max-model-len", 3)


def _fail(message: str, status: int) -> int:
    click.echo(f"tripos: {' '.join(message.split())}", err=True)
    return status
