"""What the kernel knows of a process and its children: processor time and memory (Linux)."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTEN = "0A"


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(_stat(pid)[1])


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and all its children, gone ones included."""
    processes = _all()
    family = [pid]
    for member in family:
        family += [child for child, fields in processes.items() if int(fields[1]) == member]
    return sum(sum(map(int, processes[member][11:15])) for member in family) / _TICKS


def megabytes(pid: int, name: str) -> float:
    """Return the memory that a process holds now (VmRSS), or held at most (VmHWM)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) / 1024


def forget_peak(pid: int) -> None:
    """Set VmHWM to what the process holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def listeners(port: int) -> int:
    """Return how many sockets listen on a port; several where processes share it."""
    rows = [
        line.split()
        for version in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{version}").read_text().splitlines()[1:]
    ]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == _LISTEN for row in rows)


def _all() -> dict[int, list[str]]:
    """Return all processes of the machine."""
    found = ((int(p.name), _stat(int(p.name))) for p in Path("/proc").iterdir() if p.name.isdigit())
    return {pid: fields for pid, fields in found if fields}


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
