"""The console script ``claude-pool``. Exit codes: 0 good, 2 wrong usage or configuration, 1 anything else.

What only some commands need is imported by them: the server's code alone takes
most of two seconds on a small machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pool.errors import PoolError
from server.commands import Site, export_user, perform
from server.config import ServerConfig
from server.control_client import ControlError, NoServer, call
from server.data_lock import HeldElsewhere
from server.settings import ConfigError, load_config

if TYPE_CHECKING:
    from rich.table import Table

    from server.doctor import Finding

_Function = TypeVar("_Function", bound=Callable[..., Any])
_RELOAD_SECONDS = 90.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="claude-pool", prog_name="claude-pool")
def main() -> None:
    """One live Claude Code CLI per session, for many users."""


def _with_site(function: _Function) -> _Function:
    """Adds ``--config`` and ``--data``, and gives the function a ``Site`` first."""

    @click.option("--config", type=click.Path(path_type=Path), help="Configuration [<data>/config.yaml]")
    @click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
    @wraps(function)
    def command(config: Path | None, data: Path, **options: Any) -> Any:
        with _exit_codes():
            return function(_site(config, data), **options)

    return command  # type: ignore[return-value]


def _site(file: Path | None, data: Path, overrides: dict[str, Any] | None = None) -> Site:
    data = data.absolute()
    if file is None and os.path.lexists(data / "config.yaml"):
        file = data / "config.yaml"
    if file is not None and os.geteuid() == 0 and os.path.lexists(file):
        from pool import check_roots

        check_roots(file, data)
    return Site(load_config(file, os.environ, overrides), data)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Errors as one message on standard error and the exit code of CONTRACT section 1."""
    try:
        yield
    except ConfigError as error:
        _fail(str(error), 2)
    except PoolError as error:
        _fail(error.message, 2 if error.code in ("invalid_name", "bad_request") else 1)
    except ControlError as error:
        _fail(str(error), 2 if error.code in ("invalid_name", "bad_request") else 1)
    except NoServer:
        _fail("no server is running on this data directory", 1)
    except (HeldElsewhere, OSError) as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"claude-pool: {message}", err=True)
    sys.exit(code)


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help="Configuration [<data>/config.yaml]")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--host", help="Address to listen on, over server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, over server.port; 0 takes a free one.")
@click.option("--check", "only_check", is_flag=True, help="Only check configuration, migrations, imports.")
def serve(config: Path | None, data: Path, host: str | None, port: int | None, only_check: bool) -> None:
    """Run the server in the foreground."""
    from server.collector import wait_until_all_is_loaded
    from server.model_keys import settled_config

    wait_until_all_is_loaded()
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    with _exit_codes():
        settled = settled_config(os.environ)
        if settled is not None:
            from server.launching import serve_until_told

            serve_until_told(Site(settled, data.absolute()), settled=True)
            return
        site = _site(config, data, {"server": given} if given else None)
        from server.launching import check, serve_until_told

        if only_check:
            check(site)
            click.echo("the configuration, the migrations and the installed code are good")
        else:
            serve_until_told(site)


_KEEPER_NOTES = {
    "upgraded": "the keeper runs the installed code",
    "unchanged": "the keeper ran the installed code already",
    "too_old": "the keeper is too old to be upgraded in place: it changes with the next stop and serve",
}


@main.command()
@click.option("--force", is_flag=True, help="Replace the keeper also by the same code.")
@_with_site
def reload(site: Site, force: bool) -> None:
    """Replace server, keeper and gateway by what is installed and configured now; instances go on."""
    done = call(site.data_dir, "reload", {"force": force}, timeout_seconds=300)
    before = done["generation"]
    if done.get("keeper") in _KEEPER_NOTES:
        click.echo(_KEEPER_NOTES[done["keeper"]])
    deadline = time.monotonic() + _RELOAD_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(NoServer, ControlError):
            hello = call(site.data_dir, "hello", {}, timeout_seconds=5)
            if hello["generation"] != before:
                click.echo(f"reloaded: version {hello['version']}, process {hello['pid']}")
                return
        time.sleep(0.1)
    _fail("the server did not come back; see its log", 1)


@main.command()
@_with_site
def stop(site: Site) -> None:
    """End the running server gracefully, as SIGTERM does."""
    call(site.data_dir, "stop", {})
    while True:
        try:
            call(site.data_dir, "hello", {}, timeout_seconds=5)
        except (NoServer, ControlError):
            return
        time.sleep(0.1)


@main.group()
def user() -> None:
    """Manage local users, with the server running or not."""


@user.command("add")
@click.argument("name")
@click.option("--admin", is_flag=True, help="Make an administrator.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@_with_site
def user_add(site: Site, name: str, admin: bool, password_stdin: bool) -> None:
    """Make a user; without a password they sign in by a link (user link)."""
    password = _password() if password_stdin else None
    perform(site, "user_add", {"name": name, "admin": admin, "password": password})
    click.echo(f"added {name}")


@user.command("list")
@_with_site
def user_list(site: Site) -> None:
    """Show all users."""
    from rich.table import Table

    table = Table("user", "roles", "state", "password", box=None)
    for one in perform(site, "user_list", {}):
        state = "disabled" if one["disabled"] else "active"
        table.add_row(one["user_id"], ",".join(one["roles"]), state, "yes" if one["has_password"] else "no")
    _show(table)


@user.command("disable")
@click.argument("name")
@_with_site
def user_disable(site: Site, name: str) -> None:
    """Lock a user out: sockets close, instances stop."""
    perform(site, "user_disable", {"name": name})
    click.echo(f"disabled {name}")


@user.command("enable")
@click.argument("name")
@_with_site
def user_enable(site: Site, name: str) -> None:
    """Let a disabled user in again."""
    perform(site, "user_disable", {"name": name, "enable": True})
    click.echo(f"enabled {name}")


@user.command("delete")
@click.argument("name")
@click.option("--keep-workspace", is_flag=True, help="Keep the user's files.")
@_with_site
def user_delete(site: Site, name: str, keep_workspace: bool) -> None:
    """Delete a user with sessions and files."""
    perform(site, "user_delete", {"name": name, "keep_workspace": keep_workspace})
    click.echo(f"deleted {name}")


@user.command("export")
@click.argument("name")
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="A file that is not there yet."
)
@_with_site
def user_export(site: Site, name: str, target: Path) -> None:
    """Write everything that is kept of a user into a tar archive."""
    size = export_user(site, name, target)
    click.echo(f"exported {name}: {size} bytes")


@user.command("password")
@click.argument("name")
@_with_site
def user_password(site: Site, name: str) -> None:
    """Set a user's password, read from standard input; ends all their sign-ins."""
    perform(site, "user_password", {"name": name, "password": _password()})
    click.echo(f"changed the password of {name}")


@user.command("link")
@click.argument("name")
@_with_site
def user_link(site: Site, name: str) -> None:
    """Print a one-time sign-in link, good for a day."""
    click.echo(perform(site, "user_link", {"name": name})["url"])


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")


@main.group()
def token() -> None:
    """Make API tokens."""


@token.command("create")
@click.option("--user", "name", required=True)
@click.option("--ttl", type=click.IntRange(min=1), help="Seconds to live.")
@click.option("--scope", "scopes", multiple=True, help="read, write or admin; none: all the user may do.")
@_with_site
def token_create(site: Site, name: str, ttl: int | None, scopes: tuple[str, ...]) -> None:
    """Print one API token and nothing else."""
    click.echo(perform(site, "token_create", {"user": name, "ttl": ttl, "scopes": list(scopes)})["token"])


@main.group()
def audit() -> None:
    """Who did what: verify the log, export it."""


@audit.command("verify")
@click.option("--expect", multiple=True, help="SEQ:HASH as an earlier verify printed it; must be in the log.")
@_with_site
def audit_verify(site: Site, expect: tuple[str, ...]) -> None:
    """Check that no record was changed, removed, added or moved; 1 if one was."""
    from server import audit_commands

    verdict = audit_commands.verify(site, expect, lambda text: click.echo(f"claude-pool: {text}", err=True))
    for problem in verdict.problems:
        click.echo(problem)
    if not verdict.is_whole:
        _fail(f"the audit log is not whole ({verdict.records} records)", 1)
    click.echo(f"whole: {verdict.records} records from {verdict.first}, end {verdict.end}")


@audit.command("export")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only records behind this number.")
@click.option("--user", help="Only what was done to or by this user.")
@_with_site
def audit_export(site: Site, after: int, user: str | None) -> None:
    """Print records as JSON lines."""
    from server import audit_commands

    audit_commands.export(site, after, user)


@main.command()
@_with_site
def ps(site: Site) -> None:
    """Show the live instances with all their processes, and processes that nobody looks after."""
    from server.process_tables import process_tables

    found = call(site.data_dir, "ps", {})
    for table in process_tables(found, time.time()):
        _show(table)


@main.command()
@_with_site
def drain(site: Site) -> None:
    """Admit no new work on the running server."""
    call(site.data_dir, "drain", {})
    click.echo("draining")


@main.command()
@_with_site
def resume(site: Site) -> None:
    """Admit work again on the running server."""
    call(site.data_dir, "resume", {})
    click.echo("admitting")


@main.command()
@_with_site
def doctor(site: Site) -> None:
    """Check this machine, one line a check with the remedy; 1 if serving would not work."""
    from server.doctor import examine
    from server.pool_settings import to_pool_config

    config: ServerConfig = site.config
    _tell(examine(config, to_pool_config(config, site.data_dir, os.environ)))


def _tell(findings: Iterable[Finding]) -> NoReturn:
    good = True
    for finding in findings:
        mark = "ok  " if finding.ok else "FAIL" if finding.is_fatal else "warn"
        remedy = f" -> {finding.remedy}" if not finding.ok and finding.remedy else ""
        click.echo(f"{mark} {finding.name}: {finding.detail}{remedy}")
        good = good and (finding.ok or not finding.is_fatal)
    sys.exit(0 if good else 1)


@main.command()
@click.argument("part", required=False, type=click.Choice(["files", "keeper", "check"]))
@click.option("--config", type=click.Path(path_type=Path), help="Configuration [<data>/config.yaml]")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def host(part: str | None, config: Path | None, data: Path) -> None:
    """Be a machine that a server elsewhere runs instances on, over SSH; check says whether it can be."""
    from server.model_keys import settled_config

    with _exit_codes():
        settled = settled_config(os.environ)
        if settled is not None:
            from server.host_program import serve_host

            serve_host(Site(settled, data.absolute()))
        from server import host_command

        part = host_command.part_asked_for(part, os.environ)
        if part == "keeper":
            host_command.pump(data.absolute())
        site = _site(config, data)
        if part == "files":
            host_command.settle(site)
        from server.doctor import examine_host
        from server.pool_settings import to_pool_config

        _tell(examine_host(site.config, to_pool_config(site.config, site.data_dir, os.environ)))


_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@main.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def keeper(arguments: tuple[str, ...]) -> None:
    """Run the keeper, for those who have it as a unit of its own."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", "pool.keeper", *arguments])


@main.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def gateway(arguments: tuple[str, ...]) -> None:
    """Run the model gateway, for those who have it as a unit of its own."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", "server.gateway", *arguments])


def _show(table: Table) -> None:
    from rich.console import Console

    # Wide enough that a pipe gets whole lines.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
