"""``service``: keep ``serve`` running under the system's service manager."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import read_models, role_options
from llamafile_mgr.cli.output import print_json, print_json_line, print_line, print_result
from llamafile_mgr.errors import ConfigError, NotReadyError, ServiceError

if TYPE_CHECKING:
    from llamafile_mgr.config import Config
    from llamafile_mgr.launching.wanted import ToldRoles
    from llamafile_mgr.service.applying import FileChange
    from llamafile_mgr.service.definition import Definition, Handle, ServiceSpec
    from llamafile_mgr.service.finding import ServiceHost

F = TypeVar("F", bound=Callable[..., object])

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_dry_option = click.option("--dry-run", is_flag=True, help="Only say what would be written and run.")


def _which_service(function: F) -> F:
    """Add the options that tell which service is meant."""
    function = click.option(
        "--name",
        default="llamafile-mgr",
        show_default=True,
        help="The name of the service, when there are several.",
    )(function)
    return click.option(
        "--user/--system",
        "user",
        default=True,
        help="The user's own service (default), or one of the whole machine.",
    )(function)


@click.group("service")
def command() -> None:
    """Run `serve` as a service: systemd on Linux, launchd on macOS, the task scheduler on Windows.

    Under systemd the service is ready when its models are, is watched, and its address is held by a socket
    unit, so that calls during a restart wait instead of failing.

    \b
    Examples:
      llamafile-mgr service install --embed mxbai-embed-large-v1
      llamafile-mgr service status
      llamafile-mgr service logs --follow
      llamafile-mgr service uninstall
    """


@command.command("install")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@role_options("Serve")
@click.option("--host", metavar="ADDRESS", help="Listen here.  [default: 127.0.0.1 and ::1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Listen on this port.  [default: 8080]")
@click.option("--no-cache", is_flag=True, help="Neither keep vectors of texts nor use those kept before.")
@click.option(
    "--on-demand", is_flag=True, help="Start at the first call instead of at boot or login (systemd)."
)
@click.option("--run-as", metavar="USER", help="Who runs a system service.  [default: the caller of sudo]")
@_which_service
@_dry_option
@_json_option
@click.pass_obj
def install(
    context: Context,
    models: tuple[str, ...],
    roles: ToldRoles,
    host: str | None,
    port: int | None,
    no_cache: bool,
    on_demand: bool,
    run_as: str | None,
    user: bool,
    name: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write, enable and start the service; doing it again changes only what differs.

    MODEL and the options are those of `serve`; models are looked up now, so that the service cannot fail
    for a name. Settings come from the same file as always and are read when it starts.

    \b
    Examples:
      llamafile-mgr service install --embed mxbai-embed-large-v1 --dry-run
      llamafile-mgr service install --embed all-minilm-l6-v2 --on-demand
      sudo llamafile-mgr service install --system --run-as "$USER" --embed mxbai-embed-large-v1
    """
    from llamafile_mgr.service.applying import apply_install, compare, make_directories
    from llamafile_mgr.service.finding import find_definition

    handle, target = _find(context, name, user=user, run_as=run_as)
    request = _read_request(
        context, target, name, models, roles, host, port, no_cache=no_cache, on_demand=on_demand
    )
    definition = find_definition(request, target, os.environ)
    steps = handle.install_steps(definition)
    changes = [compare(file) for file in steps.files]
    if not dry_run:
        make_directories(target)
    run, commands = _runner(dry_run=dry_run)
    apply_install(steps, changes, run, dry_run=dry_run)
    if as_json:
        print_json({"service": name, "dry_run": dry_run, "files": _describe(changes), "commands": commands})
        return
    _print_changes(changes, dry_run=dry_run)
    _print_commands(commands, dry_run=dry_run)
    if not dry_run:
        _print_after(definition)


def _describe(changes: Sequence[FileChange]) -> list[dict[str, Any]]:
    """Return what becomes of the files, for JSON."""
    return [{"path": str(c.file.path), "change": c.change.value, "lines": list(c.lines)} for c in changes]


def _print_changes(changes: Sequence[FileChange], *, dry_run: bool) -> None:
    """Say what is written; of a dry run also every new line."""
    for each in changes:
        print_line(f"{each.change.value}: {each.file.path}")
        for line in each.lines:
            print_line(f"  {line}")
        for line in each.file.lines if dry_run and each.change.value == "new" else ():
            print_line(f"  {line}".rstrip())


def _print_commands(commands: Sequence[Sequence[str]], *, dry_run: bool) -> None:
    """Say what is run."""
    for argv in commands:
        print_line(f"{'would run' if dry_run else 'ran'}: {subprocess.list2cmdline(argv)}")


def _print_after(definition: Definition) -> None:
    """Say where the service listens, and what else its user may want."""
    where = " and ".join(definition.addresses)
    print_line(f"{'the first call starts it' if definition.on_demand else 'running'}: {where}")
    linger = Path("/var/lib/systemd/linger")
    if definition.user is None and linger.parent.is_dir() and not (linger / Path.home().name).exists():
        print_line("it ends when you log out; to keep it running: loginctl enable-linger")


def _find(
    context: Context, name: str, *, user: bool, run_as: str | None = None
) -> tuple[Handle, ServiceHost]:
    from llamafile_mgr.service.definition import Scope
    from llamafile_mgr.service.finding import find_handle, find_target

    target = find_target(Scope.USER if user else Scope.SYSTEM, run_as, context.paths, os.environ)
    return find_handle(name, target, os.environ), target


def _read_request(
    context: Context,
    target: ServiceHost,
    name: str,
    models: Sequence[str],
    roles: ToldRoles,
    host: str | None,
    port: int | None,
    *,
    no_cache: bool,
    on_demand: bool,
) -> ServiceSpec:
    """Check what `serve` will be told, and return it with every path absolute."""
    from llamafile_mgr.config_reading import load_config, named_file
    from llamafile_mgr.launching.local_plans import find_specs
    from llamafile_mgr.launching.programs import find_folders
    from llamafile_mgr.launching.wanted import anchor_name
    from llamafile_mgr.proxy.listening import addresses_of
    from llamafile_mgr.service.definition import ServiceSpec
    from llamafile_mgr.store import Store

    named = named_file(context.config_file, os.environ)
    flags = {"serve.host": host, "serve.port": port}
    config = load_config(target.paths.config_file, file=named, flags=flags)
    settings = config.serve
    wanted = read_models(context, settings, "service install", roles, models)
    store = Store(target.paths.store)
    told = {role.value: names for role, names in roles.items() if names is not None}
    arguments = [anchor_name(model, store) for model in models]
    for option, names in told.items():
        for model in names:
            arguments += [f"--{option}", anchor_name(model, store)]
    specs = find_specs(wanted, target.paths, config.models)
    beside = [name for spec in specs for name in spec.beside.names]
    beside += [config.models[spec.name].chat_template or "" for spec in specs if spec.beside.chat_template]
    beside += [program for program in config.engines.programs if os.sep in program]
    named_files = _named_files(config)
    by_name = {*beside, *(each.name for each in wanted.models)}.difference(models, *told.values())
    moving = {name for name in by_name if anchor_name(name, store) != name}
    for model in sorted(moving.union(named_files)):
        if not os.path.isabs(os.path.expanduser(model)):
            raise ConfigError(
                f"the settings name {model}, and the service starts in another directory",
                hint="write its whole path there",
            )
    for option, value in (("--host", host), ("--port", port)):
        arguments += [option, str(value)] if value is not None else []
    return ServiceSpec(
        name=name,
        arguments=(*arguments, *(["--no-cache"] if no_cache else [])),
        needed=(
            *(path for spec in specs for path in (spec.path, *spec.beside.paths)),
            *find_folders(config.engines),
            *map(Path, named_files),
        ),
        hosts=addresses_of(settings.host, public=settings.keys_file is not None),
        port=settings.port,
        drain_seconds=settings.drain_seconds,
        config_file=named.absolute() if named else None,
        on_demand=on_demand,
    )


def _named_files(config: Config) -> list[str]:
    """Return the files of keys and certificates that the settings name."""
    serve = config.serve
    remotes = (remote for model in config.models.values() for remote in model.remote)
    told = [serve.keys_file, serve.tls_certificate, serve.tls_key]
    told += [file for remote in remotes for file in (remote.key_file, remote.ca_file)]
    return [file for file in told if file is not None]


def _runner(*, dry_run: bool) -> tuple[Callable[[Sequence[str]], None], list[Sequence[str]]]:
    """Return what runs commands, or of a dry run only notes them, and the list of them."""
    from llamafile_mgr.service.applying import run_command

    commands: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> None:
        commands.append(argv)
        if not dry_run:
            run_command(argv)

    return run, commands


@command.command("uninstall")
@_which_service
@_dry_option
@_json_option
@click.pass_obj
def uninstall(context: Context, user: bool, name: str, dry_run: bool, as_json: bool) -> None:
    """Stop the service and remove it. Models, settings and logs stay.

    \b
    Examples:
      llamafile-mgr service uninstall --dry-run
      sudo llamafile-mgr service uninstall --system
    """
    from llamafile_mgr.service.applying import apply_uninstall

    run, commands = _runner(dry_run=dry_run)
    steps = _find_any(context, name, user=user).uninstall_steps()
    found = apply_uninstall(steps, run, dry_run=dry_run)
    if as_json:
        print_json({"service": name, "dry_run": dry_run, "files": found, "commands": commands})
        return
    if not found:
        print_line(f"there is no service {name}")
    _print_commands(commands, dry_run=dry_run)
    for path in found:
        print_line(f"{'would remove' if dry_run else 'removed'}: {path}")


def _find_any(context: Context, name: str, *, user: bool) -> Handle:
    """Return the handle, installed or not; who runs a system service stands in its own file."""
    if user:
        return _find(context, name, user=True)[0]
    import pwd

    try:
        asking = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in containers that give a number alone
        asking = "root"
    return _find(context, name, user=False, run_as=asking)[0]


def _find_installed(context: Context, name: str, *, user: bool) -> Handle:
    from llamafile_mgr.service.applying import check_installed

    handle = _find_any(context, name, user=user)
    check_installed(name, handle.uninstall_steps().files)
    return handle


def _act(context: Context, name: str, action: str, *, user: bool) -> str:
    """Run the manager's command for an action and return what it printed."""
    from llamafile_mgr.service.applying import run_command
    from llamafile_mgr.service.definition import Action

    return run_command(_find_installed(context, name, user=user).command(Action(action)))


@command.command("start")
@_which_service
@_json_option
@click.pass_obj
def start(context: Context, user: bool, name: str, as_json: bool) -> None:
    """Start the service and wait until its models are ready.

    \b
    Examples:
      llamafile-mgr service start
    """
    _act(context, name, "start", user=user)
    print_result({"service": name, "done": "started"}, f"started {name}", as_json=as_json)


@command.command("stop")
@_which_service
@_json_option
@click.pass_obj
def stop(context: Context, user: bool, name: str, as_json: bool) -> None:
    """Stop the service; it starts again at the next boot or login.

    \b
    Examples:
      llamafile-mgr service stop
    """
    _act(context, name, "stop", user=user)
    print_result({"service": name, "done": "stopped"}, f"stopped {name}", as_json=as_json)


@command.command("status")
@_which_service
@_json_option
@click.pass_obj
def status(context: Context, user: bool, name: str, as_json: bool) -> None:
    """Say whether the service runs and what it last reported. Exit code 14 when it does not run.

    \b
    Examples:
      llamafile-mgr service status
      llamafile-mgr service status --system --json
    """
    text = _act(context, name, "status", user=user)
    shown = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if as_json:
        print_json({"service": name, **shown} if shown else {"service": name, "text": text})
    elif "ActiveState" in shown:
        print_line(f"{name}: {shown['ActiveState']} ({shown['SubState']}), {shown['UnitFileState']}")
        if shown["StatusText"]:
            print_line(f"  {shown['StatusText']}")
        print_line(
            f"  process {shown['MainPID']}, {shown['NRestarts']} restarts, last result {shown['Result']}"
        )
    else:
        print_line(text.rstrip())
    if shown.get("ActiveState") in ("inactive", "failed"):
        raise NotReadyError(
            f"the service {name} is not running", hint=f"llamafile-mgr service logs --name {name}"
        )


@command.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@_which_service
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def logs(context: Context, follow: bool, user: bool, name: str, as_json: bool) -> int:
    """Print the last lines that the service wrote; `llamafile-mgr logs MODEL` prints its engines' own.

    \b
    Examples:
      llamafile-mgr service logs
      llamafile-mgr service logs --follow
    """
    from llamafile_mgr.service.definition import Action

    argv = _find_installed(context, name, user=user).command(Action.LOGS, follow=follow)
    try:
        if not as_json:
            return subprocess.run(argv, check=False).returncode
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, errors="replace") as reader:
            for line in reader.stdout or ():
                print_json_line({"line": line.rstrip("\n")})
        return reader.returncode
    except FileNotFoundError as error:
        raise ServiceError(f"there is no {error.filename} here to read the logs with") from error
