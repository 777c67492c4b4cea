"""A real Slurm of one node on this machine: as root, on the loopback interface, everything in one folder.

Its daemons are this process's children, in the foreground, and end with it; nothing is installed but by `install`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "slurmdbd", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
START_SEC, STOP_SEC = 60, 15

CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=10
MpiDefault=none
JobRequeue=1
MinJobAge=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes={host} Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
"""
DATABASE = """
DbdHost=localhost
DbdPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def obstacle() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (apt install {' '.join(PACKAGES)})" if missing else None


def install() -> None:
    """Installs Slurm with apt, where it is missing and that can be done."""
    if os.geteuid() == 0 and obstacle() is not None and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", *command], env=environment, timeout=600, check=False, stdout=subprocess.DEVNULL)


@contextmanager
def slurm(folder: Path, *, accounting: bool, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Within, a cluster of the partitions main and, preempting it, high; yields the variables that lead to it.

    Raises TimeoutError, with the end of the log, where a daemon does not come up within a minute.
    """
    host, ports = socket.gethostname().split(".")[0], _free_ports(3)
    for name in ("state", "spool", "log", "database"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    account = "AccountingStorageType=accounting_storage/none"
    if accounting:
        account = ACCOUNTING.format(port=ports[2], folder=folder)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, ports=ports, cpus=cpus, accounting=account))
    environment = {"SLURM_CONF": str(conf)}
    with ExitStack() as daemons:

        def start(name: str, command: Sequence[str], *, up: Callable[[], bool], **variables: str) -> None:
            log = folder / "log" / f"{name}.log"
            daemons.enter_context(_daemon(command, log, os.environ | environment | variables))
            _until(up, log)

        key, sock = folder / "munge.key", folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={sock}"]
        munged += [f"--{name}-file={folder / name}" for name in ("pid", "seed")]
        start("munged", munged, up=lambda: _runs(["munge", f"--socket={sock}", "--no-input"], environment))
        if accounting:
            _start_accounting(folder, ports[2], start)
        start("slurmctld", ["slurmctld", "-D", "-c", "-i"], up=lambda: _runs(["scontrol", "ping"], environment, "UP"))
        idle = ["sinfo", "--noheader", "--format=%T"]
        start("slurmd", ["slurmd", "-D", "-c", "-N", host], up=lambda: _runs(idle, environment, "idle"))
        try:
            yield environment
        finally:  # what runs would outlive its daemon
            _runs(["scancel", "--user=root"], environment)
            with contextlib.suppress(TimeoutError):
                _until(lambda: not _told(["squeue", "--noheader"], environment).strip(), folder / "slurm.conf")


def _start_accounting(folder: Path, port: int, start: Callable[..., None]) -> None:
    database, sock = folder / "database", folder / "database.socket"
    shutil.chown(database, "mysql")
    options = ["--no-defaults", "--user=mysql", f"--datadir={database}"]
    made = ["mariadb-install-db", *options, "--auth-root-authentication-method=socket"]
    subprocess.run(made, capture_output=True, timeout=START_SEC, check=True)
    folder.chmod(0o777)  # for its socket
    more = [f"--socket={sock}", "--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
    up = ["mariadb", "--no-defaults", f"--socket={sock}", "--execute=select 1"]
    start("mariadbd", ["mariadbd", *options, *more], up=lambda: _runs(up, {}))
    folder.chmod(0o755)
    conf = folder / "slurmdbd.conf"
    conf.write_text(DATABASE.format(folder=folder, port=port))
    conf.chmod(0o600)
    there = {"SLURM_CONF": str(folder / "slurm.conf")}
    listed = ["sacctmgr", "--noheader", "list", "cluster"]
    start("slurmdbd", ["slurmdbd", "-D"], up=lambda: _runs(listed, there), MYSQL_UNIX_PORT=str(sock))
    _runs(["sacctmgr", "--immediate", "add", "cluster", "here"], there)


@contextmanager
def _daemon(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(true: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SEC
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {START_SEC} s; the end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _runs(command: Sequence[str], environment: Mapping[str, str], word: str = "") -> bool:
    """Whether a command ends well, and says the word."""
    try:
        told = _told(command, environment)
    except (OSError, subprocess.SubprocessError):
        return False
    return word in told


def _told(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        taken = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
