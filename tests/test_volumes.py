"""Which file system a directory is on: found as the kernel finds it, whatever the mounts are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from metriclog import volumes
from metriclog.volumes import file_system_type, is_network

ROOT = "22 1 0:20 / / rw,relatime - ext4 /dev/vda rw"


def type_of(tmp_path: Path, path: str, *mounts: str, encoding: str = "utf-8") -> str | None:
    """The type found for `path` where these lines, after a root of ext4, are the mounts."""
    table = tmp_path / "mountinfo"
    table.write_bytes("\n".join([ROOT, *mounts, ""]).encode(encoding, "surrogateescape"))
    return file_system_type(Path(path), table)


def mount(number: int, below: int, place: str, kind: str, options: str = "rw") -> str:
    return f"{number} {below} 0:{number} / {place} {options} shared:1 - {kind} somewhere rw"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/scratch", "ext4"),
        ("/data", "nfs4"),
        ("/data/runs/r", "nfs4"),
        ("/database", "ext4"),
        ("/data/local", "xfs"),
        ("/data/local/r", "xfs"),
        ("/data/local/r/deeper", "lustre"),
    ],
)
def test_the_innermost_mount_counts(tmp_path: Path, path: str, kind: str) -> None:
    nested = [
        mount(30, 22, "/data", "nfs4"),
        mount(31, 30, "/data/local", "xfs"),
        mount(32, 31, "/data/local/r/deeper", "lustre"),
    ]
    assert type_of(tmp_path, path, *nested) == kind
    assert type_of(tmp_path, path, *reversed(nested)) == kind


def test_a_later_mount_hides_what_is_below_it(tmp_path: Path) -> None:
    """On the same place, and also where it covers the place of an earlier one."""
    assert type_of(tmp_path, "/a/x", mount(30, 22, "/a", "nfs"), mount(31, 30, "/a", "tmpfs")) == "tmpfs"
    covered = [mount(30, 22, "/a/b", "nfs"), mount(31, 22, "/a", "tmpfs")]
    assert type_of(tmp_path, "/a/b/x", *covered) == "tmpfs"


def test_a_root_mounted_over_a_root_counts(tmp_path: Path) -> None:
    assert type_of(tmp_path, "/a", mount(30, 22, "/", "overlay"), mount(31, 30, "/a", "nfs")) == "nfs"
    assert type_of(tmp_path, "/b", mount(30, 22, "/", "overlay")) == "overlay"


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("/with\\040blank", "/with blank/r"),
        ("/tab\\011and\\134backslash", "/tab\tand\\backslash/r"),
        ("/Größe-日本", "/Größe-日本/r"),
        ("/line\\012break", "/line\nbreak/r"),
        ("/octal\\134040", "/octal\\040/r"),
    ],
)
def test_places_with_blanks_backslashes_and_other_scripts_are_found(tmp_path: Path, place: str, path: str) -> None:
    assert type_of(tmp_path, path, mount(30, 22, place, "cifs")) == "cifs"


def test_a_place_that_is_no_utf_8_is_found_and_disturbs_nobody(tmp_path: Path) -> None:
    odd = mount(30, 22, "/\udcff\udcfe", "nfs")
    assert type_of(tmp_path, "/\udcff\udcfe/r", odd) == "nfs"
    assert type_of(tmp_path, "/other", odd) == "ext4"


def test_a_link_is_followed_to_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    place = str((tmp_path / "there").resolve())
    assert type_of(tmp_path, str(tmp_path / "link" / "r"), mount(30, 22, place, "nfs4")) == "nfs4"


@pytest.mark.parametrize("content", ["", "\n", "nonsense\n"])
def test_an_empty_table_or_none_at_all_tells_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "mountinfo").write_text(content)
    assert file_system_type(Path("/a"), tmp_path / "mountinfo") is None
    assert file_system_type(Path("/a"), tmp_path / "missing") is None


def test_in_a_chroot_whose_root_is_not_listed_the_innermost_place_counts(tmp_path: Path) -> None:
    lines = [mount(30, 22, "/a", "nfs"), mount(31, 30, "/a/b", "xfs")]
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    kinds = [file_system_type(Path(path), tmp_path / "mountinfo") for path in ("/", "/a/x", "/a/b/x")]
    assert kinds == [None, "nfs", "xfs"]


def test_a_table_whose_mounts_lie_on_each_other_in_a_ring_ends(tmp_path: Path) -> None:
    assert type_of(tmp_path, "/a", mount(30, 31, "/a", "nfs"), mount(31, 30, "/a", "xfs")) == "ext4"


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "lustre", "gpfs", "cifs", "9p", "ceph", "beegfs", "fuse", "fuse.sshfs", "fuse.gcsfuse"]
)
def test_network_file_systems_and_fuse_are_not_to_be_mapped(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", [None, "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs"])
def test_local_ones_and_unknown_ones_are(kind: str | None) -> None:
    assert not is_network(kind)


def test_this_machine_tells_its_own(tmp_path: Path) -> None:
    assert volumes.free_bytes(tmp_path) > 0
    if Path("/proc/self/mountinfo").exists():
        assert file_system_type(Path("/proc/self")) == "proc"
        assert file_system_type(tmp_path) not in (None, "proc")
