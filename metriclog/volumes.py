"""What kind of file system a directory is on, and how much room it has: where a mapped file is safe, and where not.

On a network file system a store into a mapping can end in SIGBUS when the server is away or the quota is reached. There
the journal buffers in memory and writes from a background thread instead.
"""

from __future__ import annotations

import os
from pathlib import Path

# As in /proc/self/mountinfo. FUSE covers sshfs, gcsfuse, s3fs and their kind.
NETWORK_TYPES = frozenset(
    {
        "nfs",
        "nfs3",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "wekafs",
    }
)


def file_system_type(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that holds `path`, or None where the system does not tell."""
    try:
        text = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    target = os.path.realpath(path)
    best: tuple[int, str] | None = None
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        mount = fields.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and (best is None or len(mount) >= best[0]):  # a later mount on the same place hides the earlier
            best = (len(mount), rest.split(" ")[0])
    return best[1] if best else None


def is_network(kind: str | None) -> bool:
    """Whether a mapping on this type of file system could end in SIGBUS."""
    return kind is not None and (kind in NETWORK_TYPES or kind.startswith("fuse"))


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
