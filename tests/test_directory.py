"""The journal directory: run ids one can read, what `resume` means, and who may write where."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclog import directory
from metriclog.directory import Claim, Resume
from metriclog.errors import (
    JournalError,
    MetricNameError,
    RunActiveError,
    RunExistsError,
    RunNotFoundError,
    UsageError,
)
from metriclog.journal import Journal
from metriclog.points import RUN_ID
from metriclog.segments import pack_header, segment_name
from tests.journals import META, START_NS, Clock, hear, log, python, say


def claim(root: Path, *, rank: int | None = None, resume: Resume = "never", **meta: Any) -> tuple[Claim, Journal]:
    """Claim a directory of run "r" and open its journal, as init() does."""
    who = {**META, "rank": rank, **meta}
    with directory.claim(root, "r", who["experiment"], rank, resume) as claimed:
        who["attempt"] = claimed.attempt
        return claimed, Journal.create(claimed.path, who, segment_bytes=4096, slot=claimed.slot, clock=Clock())


def finished(root: Path, steps: range, **options: Any) -> Claim:
    """An attempt that logged these steps and ended."""
    claimed, journal = claim(root, **options)
    for step in steps:
        log(journal, {"loss": step}, step)
    journal.close()
    return claimed


# -- run ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "params", "start"),
    [
        (None, None, None, "digits-"),
        (None, "mlp", None, "mlp-"),
        ("baseline", "mlp", {"lr": 0.1}, "baseline-"),
        (None, "resnet", {"lr": 0.1}, "resnet-lr0.1-"),
        (None, "resnet", {"learning_rate": 1e-5, "depth": 50}, "resnet-lr1e-05-"),
        (None, "resnet", {"lr": 1e20}, "resnet-lr1e20-"),
        (None, "resnet", {"lr": "0.1"}, "resnet-"),
        ("Größe / Bild #2", None, None, "Gr-e-Bild-2-"),
        ("..", None, None, "run-"),
        ("日本", None, None, "run-"),
        ("x" * 500, None, None, "x" * 80 + "-"),
    ],
)
def test_a_generated_id_says_what_ran(name: str | None, model: str | None, params: Any, start: str) -> None:
    made = directory.make_run_id(name, "digits", model, params)
    assert made.startswith(start)
    assert len(made) == len(start) + 5


@given(
    name=st.none() | st.text(), experiment=st.text(min_size=1), rate=st.none() | st.floats() | st.integers() | st.text()
)
def test_a_generated_id_is_always_valid(name: str | None, experiment: str, rate: object) -> None:
    made = directory.make_run_id(name, experiment, None, {"lr": rate})
    assert RUN_ID.fullmatch(made)
    assert directory.check_run_id(made) == made


def test_generated_ids_differ() -> None:
    made = [directory.make_run_id("x", "e", None, None) for _ in range(300)]
    assert len(set(made)) >= 299  # of 28 million; a clash is refused, not merged


@pytest.mark.parametrize("run_id", ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "ü", "x" * 129, None, 7, b"a", "a*"])
def test_an_id_that_cannot_name_a_folder_is_refused(run_id: Any) -> None:
    with pytest.raises(MetricNameError, match="run_id"):
        directory.check_run_id(run_id)


@pytest.mark.parametrize("run_id", ["a", "resnet-lr0.1-k3f9q", "A_b.c-1", "-", "_", "x" * 128])
def test_other_ids_are_taken_as_they_are(run_id: str) -> None:
    assert directory.check_run_id(run_id) == run_id


# -- resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", ["never", "allow"])
def test_a_new_run_is_attempt_1_from_step_0(tmp_path: Path, resume: Resume) -> None:
    claimed, journal = claim(tmp_path, resume=resume)
    journal.close()
    assert (claimed.attempt, claimed.next_step, claimed.started_ns) == (1, 0, None)
    assert claimed.path.parent == tmp_path / "r"


def test_a_run_that_is_there_is_not_begun_again_unless_one_says_so(tmp_path: Path) -> None:
    finished(tmp_path, range(3))
    with pytest.raises(RunExistsError, match='resume="allow"'):
        claim(tmp_path)


@pytest.mark.parametrize("resume", ["allow", "must"])
def test_a_resumed_run_goes_on_after_its_last_step_and_keeps_its_start(tmp_path: Path, resume: Resume) -> None:
    first = finished(tmp_path, range(250))
    second = finished(tmp_path, range(250, 260), resume=resume, started_ns=START_NS + 99)
    third = finished(tmp_path, range(5), resume=resume)
    assert (second.attempt, second.next_step, second.started_ns) == (2, 250, START_NS)
    assert (third.attempt, third.next_step, third.started_ns) == (3, 260, START_NS)
    assert len({claimed.path for claimed in (first, second, third)}) == 3
    assert len({claimed.slot for claimed in (first, second, third)}) == 3


def test_an_attempt_that_logged_nothing_does_not_reset_the_steps(tmp_path: Path) -> None:
    finished(tmp_path, range(10))
    finished(tmp_path, range(0), resume="allow")
    assert finished(tmp_path, range(0), resume="allow").next_step == 10


def test_a_run_that_must_be_there_and_is_not_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match='resume="allow"'):
        claim(tmp_path / "journals", resume="must")
    assert not (tmp_path / "journals").exists()


def test_a_run_id_belongs_to_one_experiment(tmp_path: Path) -> None:
    finished(tmp_path, range(3))
    with pytest.raises(RunExistsError, match="belongs to experiment 'digits'"):
        claim(tmp_path, resume="allow", experiment="letters")


def test_an_unknown_way_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resume must be"):
        claim(tmp_path, resume="auto")  # type: ignore[arg-type]


# -- several processes --------------------------------------------------------------------------------------------

CLAIMANT = """
import sys
from pathlib import Path
from metriclog.errors import RunActiveError, RunExistsError
from tests.test_directory import claim
root, rank, resume = Path(sys.argv[1]), None if sys.argv[2] == "none" else int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
try:
    claimed, journal = claim(root, rank=rank, resume=resume)
    print(claimed.path.name, claimed.slot, flush=True)
except (RunActiveError, RunExistsError) as error:
    print(type(error).__name__, flush=True)
sys.stdin.read()
"""


def claim_at_once(root: Path, ranks: list[str], resume: str) -> list[str]:
    """What each process says that claims the run at the same moment; they all live until the last has spoken."""
    with ExitStack() as stack:
        processes = [stack.enter_context(python(CLAIMANT, root, rank, resume)) for rank in ranks]
        assert [hear(process) for process in processes] == ["ready"] * len(ranks)
        for process in processes:
            say(process, "go")
        return [hear(process) for process in processes]


def test_ranks_that_join_at_the_same_moment_get_a_directory_and_a_slot_each(tmp_path: Path) -> None:
    said = claim_at_once(tmp_path, ["0", "1", "2", "3"], "never")
    assert sorted(text.split(" ")[1] for text in said) == ["1", "2", "3", "4"]
    assert len({text.split(" ")[0] for text in said}) == 4


@pytest.mark.parametrize("resume", ["never", "allow"])
def test_of_processes_that_claim_the_same_rank_at_the_same_moment_one_gets_it(tmp_path: Path, resume: str) -> None:
    said = sorted(claim_at_once(tmp_path, ["none"] * 3, resume))
    assert said[1:] == ["RunActiveError", "RunActiveError"]
    assert said[0].startswith("0001-")


def test_a_run_that_is_being_written_is_refused_until_its_process_is_gone(tmp_path: Path) -> None:
    with python(CLAIMANT, tmp_path, "none", "never") as owner:
        assert hear(owner) == "ready"
        say(owner, "go")
        assert hear(owner).startswith("0001-")
        for resume in ("never", "allow", "must"):
            with pytest.raises(RunActiveError, match=r"process 17 on h1\. Give each process its rank="):
                claim(tmp_path, resume=resume)
        claim(tmp_path, rank=1)[1].close()
        owner.kill()
        owner.wait(30)
    assert finished(tmp_path, range(0), resume="must").attempt == 2


def test_a_forked_childs_directory_neither_blocks_nor_counts_as_an_attempt(tmp_path: Path) -> None:
    finished(tmp_path, range(5))
    path, slot = directory.child_directory(tmp_path, "r")
    child = Journal.create(path, {**META, "child": True}, segment_bytes=4096, slot=slot, clock=Clock())
    log(child, {"loss": 0}, 99)
    claimed = finished(tmp_path, range(0), resume="allow")
    assert (claimed.attempt, claimed.next_step, slot) == (2, 5, 2)
    child.close()


# -- what is on disk ----------------------------------------------------------------------------------------------


def test_only_the_owner_may_look_into_a_run(tmp_path: Path) -> None:
    claimed = finished(tmp_path, range(1))
    for path in (claimed.path, claimed.path.parent, *claimed.path.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_run_that_is_deleted_while_directories_are_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("goes", "stays"):
        (tmp_path / run / "0001-h1").mkdir(parents=True)
    scan = os.scandir

    def too_late(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "goes":
            shutil.rmtree(path)
        return scan(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", too_late)
        assert directory.process_directories(tmp_path) == [tmp_path / "stays" / "0001-h1"]


def test_process_directories_are_listed_by_run_and_age_and_nothing_else_is(tmp_path: Path) -> None:
    made = [finished(tmp_path, range(1), resume="allow").path for _ in range(3)]
    (tmp_path / "other" / "0001-h1").mkdir(parents=True)
    (tmp_path / "r" / "notes").mkdir()
    (tmp_path / "r" / "0009-file").write_text("")
    assert directory.process_directories(tmp_path, "r") == made
    assert directory.process_directories(tmp_path) == [tmp_path / "other" / "0001-h1", *made]
    assert directory.process_directories(tmp_path / "missing") == []


def test_a_directory_says_who_wrote_it_even_if_that_record_is_damaged(tmp_path: Path) -> None:
    claimed = finished(tmp_path, range(3))
    path = claimed.path / segment_name(1)
    content = path.read_bytes()
    assert directory.read_meta(claimed.path) == {**META, "path": claimed.path}
    for offset in range(64, 300):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :])
        assert directory.read_meta(claimed.path) == {**META, "path": claimed.path}


def test_a_directory_that_nobody_has_written_says_nothing(tmp_path: Path) -> None:
    assert directory.read_meta(tmp_path) is None
    (tmp_path / segment_name(1)).write_bytes(bytes(100))
    assert directory.read_meta(tmp_path) is None
    (tmp_path / segment_name(1)).write_bytes(pack_header(1, 0, version=9))
    assert directory.read_meta(tmp_path) is None


def test_a_place_that_cannot_be_written_is_our_error_and_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="Set METRICLOG_DIR to a folder that can be written"):
        claim(tmp_path / "file")


def test_no_room_for_a_directory_is_our_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def full(path: Any, *options: Any) -> None:
        if Path(path).name.startswith("0001-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(path, *options)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(JournalError, match="No space left on device"):
        claim(tmp_path)


def test_a_run_has_at_most_9999_processes(tmp_path: Path) -> None:
    (tmp_path / "r" / "9999-h1").mkdir(parents=True)
    with pytest.raises(JournalError, match="start a new run"):
        claim(tmp_path, resume="allow")
