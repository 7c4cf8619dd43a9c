"""The commands for operating: `backup`, `restore`, `maintain`, `up` and `universe`."""

import json
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import err, out, print_error, print_line, print_warning
from refresh_pipeline.cli.options import (
    SOME_FAILED,
    WRONG_REQUEST,
    DataDirOption,
    DryRunOption,
    MarketOption,
    NewOption,
    Request,
    VerboseOption,
    in_words,
    refuse_left_out,
    refuse_unfinished_restore,
    request,
    require_reachable,
    require_warehouse,
    usable,
    warehouse_errors,
    warn_of_older_instance_file,
    wrong_requests,
)

if TYPE_CHECKING:
    from refresh_pipeline.cli.supervisor import Plan
    from refresh_pipeline.settings import Settings

LOCALHOST = "127.0.0.1"
WORKSPACE = "workspace.yaml"
# Dagster's programs warn of a code server that is being restarted, with three stacks each; the supervisor says in one
# line whether the markets are loaded.
SAID_BY_SUPERVISOR = "ignore:Error loading repository location:UserWarning"
# Of the daemon and the code server, by the number of -v.
LOG_LEVELS = ("warning", "info", "debug")


def backup(
    *,
    to: Annotated[
        str | None, typer.Option("--to", help="Keep the backup in this folder instead of REFRESH_BACKUP_DIR.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Copy the warehouse and Dagster's files, verify the copies, and delete the oldest backups."""
    from refresh_pipeline.settings import dagster_home, load_settings

    with wrong_requests():
        settings = load_settings(data_dir=data_dir, backup_dir=to)
        home = dagster_home(settings)
    from refresh_pipeline.operations.backup import BackupError
    from refresh_pipeline.operations.backup_retention import make_backup

    refuse_unfinished_restore(settings)
    with warehouse_errors(), in_words((BackupError,), SOME_FAILED):
        made = make_backup(settings, home, datetime.now(UTC))
    rows = f"{sum(made.backup.rows.values()):,} rows of {len(made.backup.rows)} tables, every block read"
    print_line(f"{made.backup.folder}: {made.backup.bytes:,} bytes, {rows}")
    for folder in made.deleted:
        print_line(f"deleted {folder}")
    for sentence in (*made.backup.faults, *made.warnings):
        print_warning(sentence)
    if made.backup.faults:
        print_error("The warehouse is in the backup; these files of Dagster are not. No older backup is deleted.")
        raise typer.Exit(SOME_FAILED)


def restore(
    *,
    which: Annotated[
        str | None, typer.Argument(help="The backup's folder or name; the newest backup if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Overwrite existing files without asking.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put back what the last restore replaced, or what a killed one left.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Replace the warehouse and Dagster's files by a backup; stop everything else first."""
    from refresh_pipeline.instance.data_lock import lock_data_folder
    from refresh_pipeline.settings import dagster_home, load_settings

    with wrong_requests():
        settings = load_settings(data_dir=data_dir)
        home = dagster_home(settings)
        if undo and which:
            raise ValueError(f"--undo takes no backup; found {which}")
        lock = lock_data_folder(settings.data, "refresh restore")
    try:
        if undo:
            _undo_restore(settings, home, yes)
        else:
            _restore(settings, home, which, yes=yes)
    finally:
        os.close(lock)


def _restore(settings: "Settings", home: Path, which: str | None, *, yes: bool) -> None:
    from refresh_pipeline.operations import backup as backups
    from refresh_pipeline.operations import restore as restoring

    with in_words((backups.BackupError,), WRONG_REQUEST):
        chosen_backup = backups.read_backup(backups.find(settings.backups, which, datetime.now(UTC)))
    in_the_way = restoring.in_the_way(settings.database, home)
    for path in in_the_way:
        err.print(f"would be overwritten: {path}", markup=False, highlight=False, soft_wrap=True)
    for fault in chosen_backup.faults:
        print_warning(fault)
    if in_the_way and not yes and not _confirmed("Overwrite these files?"):
        err.print("Nothing restored; use --yes to skip the question.")
        raise typer.Exit(WRONG_REQUEST)
    with warehouse_errors(), in_words((backups.BackupError,), SOME_FAILED):
        kept = restoring.restore(chosen_backup, settings.database, home)
    print_line(f"{chosen_backup.folder} is restored: {settings.database}, {home}")
    for path in kept:
        print_line(f"kept until the next restore: {path}")


def _undo_restore(settings: "Settings", home: Path, yes: bool) -> None:
    from refresh_pipeline.operations.backup import BackupError
    from refresh_pipeline.operations.restore import undo

    if not yes and not _confirmed("Put back what the last restore replaced, and lose what came since?"):
        err.print("Nothing changed; use --yes to skip the question.")
        raise typer.Exit(WRONG_REQUEST)
    with warehouse_errors(), in_words((BackupError,), SOME_FAILED):
        for path in undo(settings.database, home):
            print_line(f"put back: {path}")


def maintain(*, dry_run: DryRunOption = False, market: MarketOption = None, data_dir: DataDirOption = None) -> None:
    """Delete superseded runs from Dagster's database and compact old rows of the warehouse."""
    with request(market, data_dir, lenient=True) as asked:
        from refresh_pipeline.settings import prepare_dagster

        wanted = usable(asked)
        prepare_dagster(wanted.settings)
    from refresh_pipeline.instance import disk_reserve, run_pruning, run_retention
    from refresh_pipeline.operations import maintenance
    from refresh_pipeline.orchestration.maintenance_job import pruning_summary
    from refresh_pipeline.orchestration.run_jobs import dagster_instance

    now, folder = wanted.now, wanted.settings.data
    if not dry_run and (released := disk_reserve.release_reserve(folder)):
        print_warning(
            f"The disk is full: {released:,} bytes of {folder / disk_reserve.FILE} are freed for this command."
        )
    with dagster_instance(wanted.settings) as instance:
        pruned = run_pruning.prune(instance, run_retention.retention_of, now, dry_run=dry_run)
    print_line(pruning_summary(pruned, dry_run=dry_run))
    if not dry_run and (free := disk_reserve.free_bytes(folder)) < disk_reserve.ROOM_TO_MAKE:
        print_warning(_little_room(folder, free))
        return
    with warehouse_errors():
        if dry_run:
            rows = maintenance.pending_compaction(wanted.settings, wanted.markets, now)
            print_line(f"would compact {rows:,} rows")
        else:
            compacted = maintenance.compact(wanted.settings, wanted.markets, now)
            print_line(maintenance.compaction_summary(compacted))
    refuse_left_out(wanted)


def _little_room(folder: Path, free: int) -> str:
    """What is not done on a disk with little room, and what takes its room."""
    from refresh_pipeline.instance.disk_reserve import largest

    sizes = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in [*largest(folder).items()][:4])
    return (
        f"{free / 1e6:,.0f} MB are free: rows are not compacted. Make room; the largest of {folder}: {sizes}. "
        "refresh exports prune deletes older exports."
    )


def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Serve the web UI on this port of localhost.")] = 3000,
    api_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve the API on this port of localhost instead of REFRESH_API_PORT."),
    ] = None,
    no_api: Annotated[bool, typer.Option("--no-api", help="Run without the API.")] = False,
    market: MarketOption = None,
    new: NewOption = False,
    verbose: VerboseOption = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Run the web UI, the daemon and the API on localhost until interrupted."""
    with request(market, data_dir, lenient=True) as asked:
        from refresh_pipeline.instance.data_lock import lock_data_folder
        from refresh_pipeline.settings import prepare_dagster

        require_warehouse(asked.settings, new=new)
        wanted = usable(asked)
        # Held until the supervising process ends, which takes this process's place.
        lock_data_folder(wanted.settings.data, "refresh up", port)
        refuse_used_port(port)
        served_port = None if no_api else api_port or wanted.settings.api_port
        if served_port is not None:
            refuse_used_port(served_port, option="--api-port", taken=port)
        prepare_dagster(wanted.settings)
        warn_of_older_instance_file(wanted.settings)
    for each in wanted.markets:
        try:
            require_reachable(each)
        except ValueError as error:
            # It stays: the setting may be added while this runs.
            print_warning(str(error))
    from tempfile import mkdtemp

    from refresh_pipeline.cli.supervisor import exec_supervisor

    folder = Path(mkdtemp(prefix="refresh-"))
    plan = supervisor_plan(wanted.settings, port, folder, served_port, verbose)
    _prepare_instance(wanted.settings, folder / WORKSPACE)
    names = ", ".join(selected.name for selected in wanted.markets)
    api = "" if served_port is None else f" and the API on port {served_port}"
    err.print(f"Markets: {names}. Starting the web UI on port {port}{api}. Ctrl-C stops it.", highlight=False)
    exec_supervisor(plan, _program_environment(wanted, port, verbose))


def _prepare_instance(settings: "Settings", workspace: Path) -> None:
    """Create Dagster's databases before the programs open them; states of an earlier start go on from here."""
    from refresh_pipeline.instance.clock import put_back
    from refresh_pipeline.instance.instigators import adopt_states
    from refresh_pipeline.orchestration.run_jobs import dagster_instance

    with dagster_instance(settings) as instance:
        adopt_states(instance, workspace)
        for line in put_back(instance, time.time()):
            print_warning(line)


def _program_environment(wanted: Request, port: int, verbose: int) -> dict[str, str]:
    """The environment of the programs that `refresh up` runs."""
    from refresh_pipeline.settings import child_environment

    environment = child_environment(
        wanted.settings,
        markets_named=wanted.named,
        ignored_warning=SAID_BY_SUPERVISOR,
        said=[*wanted.left_out.values()],
    )
    run_log = (not verbose and wanted.settings.run_log) or _log_level(verbose)
    return {**environment, "REFRESH_DAGSTER_URL": f"http://{LOCALHOST}:{port}", "REFRESH_RUN_LOG": run_log}


def refuse_used_port(port: int, host: str = LOCALHOST, option: str = "--port", taken: int | None = None) -> None:
    """Raise ValueError where another program listens on this port of an address, localhost if not given.

    `taken` is the port that this command gives to another of its programs.
    """
    if port == taken:
        raise ValueError(f"{option}: found {port}, the port of the web UI as well; choose another one for each")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        # As web servers do: connections of a server that has ended do not count.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"{option}: found {port}, which cannot be used ({error.strerror}); stop the program that uses it, or "
                f"choose another port"
            ) from error


def supervisor_plan(
    settings: "Settings", port: int, folder: Path, api_port: int | None = None, verbose: int = 0
) -> "Plan":
    """The web UI, the daemon, and one code server for both, which they reach through a socket in `folder`; the API.

    Without it, each would start a code server, the daemon a new one every minute. Their log is of warnings; with
    `verbose` it is of what every schedule and sensor does.
    """
    from refresh_pipeline.cli.supervisor import Plan
    from refresh_pipeline.settings import DEFINITIONS, PACKAGE, dagster_home

    dagster, code_socket, workspace = [sys.executable, "-P", "-m"], folder / "code.sock", folder / WORKSPACE
    code_location = {"grpc_server": {"socket": str(code_socket), "location_name": PACKAGE.name}}
    workspace.write_text(json.dumps({"load_from": [code_location]}), encoding="utf-8")
    # The web UI shows errors in the definitions, until the file at fault is edited.
    program = [*dagster, f"{PACKAGE.name}.instance.program"]
    code = ["dagster", "api", "grpc", "--lazy-load-user-code", "--location-name", PACKAGE.name, "-m", DEFINITIONS]
    api = {"API": [*dagster, f"{PACKAGE.name}.api.serving", LOCALHOST, str(api_port)]} if api_port is not None else {}
    log = ["--log-level", _log_level(verbose)]
    return Plan(
        programs={
            "code server": [*program, *code, *log, "--socket", str(code_socket)],
            "web UI": [*program, f"{PACKAGE.name}.front_door", "-p", str(port), "-w", str(workspace)],
            "daemon": [*program, "dagster._daemon", "run", *log, "-w", str(workspace)],
            **api,
        },
        renewed="code server",
        # Without its windows the work goes on.
        companions=["web UI", *api],
        renewed_too=list(api),
        followed=[str(settings.custom_apis)],
        ready=str(code_socket),
        watched=_watched(settings),
        temporary=str(folder),
        clock=[*dagster, f"{PACKAGE.name}.instance.clock"],
        timed="daemon",
        end_runs=[*dagster, f"{PACKAGE.name}.instance.end_runs"],
        host=LOCALHOST,
        port=port,
        loaded=[*dagster, f"{PACKAGE.name}.api.load_check"],
        home=str(dagster_home(settings)),
        alert=[*dagster, f"{PACKAGE.name}.monitoring.send_alert"],
    )


def _log_level(verbose: int) -> str:
    return LOG_LEVELS[min(verbose, len(LOG_LEVELS) - 1)]


def _watched(settings: "Settings") -> list[str]:
    """The files and folders whose change restarts the code server and the API."""
    from refresh_pipeline.api_files import custom_file
    from refresh_pipeline.settings import PACKAGE, settings_files

    folders = [folder for folder in (settings.markets_dir, settings.apis_dir) if folder]
    paths = [PACKAGE, *folders, custom_file(settings), *settings_files()]
    return [str(path.expanduser().absolute()) for path in paths]


def universe(
    *,
    market: Annotated[str, typer.Option("--market", "-m", help="Renew the universe of this market.")] = "nse",
    constituents: Annotated[
        str | None,
        typer.Option(help="Read the index's shares from this CSV file or URL; without it, the shares stay."),
    ] = None,
    scrip_master: Annotated[
        str | None, typer.Option(help="Read Dhan's scrip master from this CSV file or URL instead of Dhan's site.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Renew a market's list of shares and their Dhan ids, in the folder REFRESH_MARKETS_DIR."""
    from refresh_pipeline.sources import SourceError

    with in_words((SourceError,), SOME_FAILED), request(market, data_dir) as wanted:
        if len(wanted.markets) != 1:
            raise ValueError(f"--market: found {market}, allowed: one market")
        from refresh_pipeline.market.universe import SCRIP_MASTER
        from refresh_pipeline.pipeline.universe_refresh import renew_universe

        master = scrip_master or SCRIP_MASTER
        file, renewed = renew_universe(wanted.settings, wanted.markets[0], master, constituents)
    from refresh_pipeline.cli.tables import print_universe

    print_universe(out, file, renewed)


def _confirmed(question: str) -> bool:
    """Whether the answer is yes; False where nobody can answer."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
