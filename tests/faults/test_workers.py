"""Children of multiprocessing, in pools and as loaders of data: delivered where they end in good order, never lost."""

from __future__ import annotations

import time

import pytest

from tests.faults.families import Family
from tests.faults.loads import MOST_METRICS
from tests.faults.oracle import check_conservation
from tests.faults.shipping import ship

UP = {"exit_timeout_s": "60"}

WORKERS = """
    import multiprocessing
    context = multiprocessing.get_context({method!r})
    run = metriclog.init("faults", run_id="r", rank=0)
    note(run, 0)
    assert run.flush(60.0)
    logged = context.Event()
    workers = [
        context.Process(target=work, args=(ends, {own} and rank, logged))
        for rank, ends in enumerate(["returns", "fails", "is terminated"], 1)
    ]
    for worker in workers:
        worker.start()
    for step in range(1, 100):
        note(run, step)
    assert logged.wait(WATCHDOG_S)
    workers[2].terminate()
    for worker in workers:
        worker.join()
    print([worker.exitcode for worker in workers])
"""


@pytest.mark.parametrize(
    ("method", "own"), [("fork", None), ("fork", True), ("spawn", True), ("forkserver", True)], ids=str
)
def test_workers_deliver_what_they_logged_also_if_they_fail_and_leave_it_if_they_are_terminated(
    family: Family, method: str, own: bool | None
) -> None:
    assert family.run(WORKERS.format(method=method, own=own), **UP) == "[0, 1, -15]\n"
    assert len(family.folders) == 4
    terminated = set(range(1000 * len("is terminated"), 1000 * len("is terminated") + 100))
    assert set().union(*family.pending()) <= terminated
    assert terminated in family.steps()
    family.check()


def test_the_workers_of_pools_log_into_the_inherited_run(family: Family) -> None:
    family.run(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        run = metriclog.init("faults", run_id="r")
        note(run, 1000)
        assert run.flush(60.0)
        context = multiprocessing.get_context("fork")
        with context.Pool(3, maxtasksperchild=4) as pool:  # ends by terminate()
            assert len(set(pool.map(log_one, range(30), chunksize=1))) > 3
        with context.Pool(2) as pool:
            pool.map(log_one, range(100, 130), chunksize=1)
            note(run, 1001)
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            list(executor.map(log_one, range(200, 230)))
        note(run, 1003)
        """,
        **UP,
    )
    assert all(step < 100 for step in set().union(*family.pending()))
    family.check()


EPOCHS, LOADERS = 4, 3
LOADING = """
    import multiprocessing, random
    rng = random.Random({seed})
    context = multiprocessing.get_context("fork")
    run = metriclog.init("faults", run_id="r")
    for epoch in range({epochs}):
        loaders, pipes = [], []
        for number in range({loaders}):
            batches, theirs = context.Pipe(duplex=False)
            begin = 1000 * (epoch * {loaders} + number + 1)
            loaders.append(context.Process(target=load, args=(range(begin, begin + 60), theirs), daemon=True))
            pipes.append(batches)
            loaders[-1].start()
        for step in range(100 * epoch, 100 * epoch + rng.randrange(1, 40)):
            for batches in pipes:
                batches.recv()
            note(run, step)
        for loader in loaders:
            loader.terminate()
        for loader in loaders:
            loader.join()
            assert loader.exitcode == -signal.SIGTERM
"""


def test_loaders_that_are_started_and_killed_each_epoch_lose_nothing(family: Family) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    family.run(LOADING.format(seed=seed, epochs=EPOCHS, loaders=LOADERS), **UP)
    assert len(family.folders) == 1 + EPOCHS * LOADERS
    ship(family.settings)
    most = EPOCHS * LOADERS * MOST_METRICS  # killed between `log()` and the note of it
    tally = check_conservation(family.accepted, family.settings, family.influx, unreported=most)
    assert (tally.pending, tally.server) == (0, tally.journal)
