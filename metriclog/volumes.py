"""What kind of file system a directory is on, and how much room it has: where a mapped file is safe, and where not.

On a network file system a store into a mapping can end in SIGBUS when the server is away or the quota is reached. There
the journal buffers in memory and writes from a background thread instead.
"""

from __future__ import annotations

import os
import re
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
        "orangefs",
        "panfs",
        "virtiofs",
    }
)


def file_system_type(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that holds `path`, or None where the system does not tell.

    Goes down from the root as the kernel does, from mount to mount: what a later mount hides does not count.
    """
    try:
        text = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    mounts: dict[tuple[str, str], tuple[str, str]] = {}  # (id of the mount below, place) → (id, type)
    for line in text.split("\n"):
        fields, dash, rest = line.partition(" - ")
        if dash:
            number, below, _, _, place, *_ = fields.split(" ")
            mounts[below, _unescaped(place)] = (number, rest.split(" ")[0])
    ids = {number for number, _ in mounts.values()}
    roots = [key for key, mount in mounts.items() if key[1] == "/" and (key[0] not in ids or key[0] == mount[0])]
    target = Path(os.path.realpath(path))
    places = [str(parent) for parent in (*reversed(target.parents), target)]
    if not roots:  # a chroot: the mount that its root is part of is not listed
        at = {place: kind for (_, place), (_, kind) in mounts.items()}
        return next((at[place] for place in reversed(places) if place in at), None)
    mount = mounts.pop(roots[0])
    for place in places:
        while above := mounts.pop((mount[0], place), None):
            mount = above
    return mount[1]


def _unescaped(place: str) -> str:
    """A mount point as it is called: the kernel writes blanks and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)


def is_network(kind: str | None) -> bool:
    """Whether a mapping on this type of file system could end in SIGBUS."""
    return kind is not None and (kind in NETWORK_TYPES or kind.startswith("fuse"))


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
