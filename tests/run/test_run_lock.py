"""The lock of a run folder: one living process writes it, and nobody has to clean up after a dead one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from run_kit import make_run, new_record

from lit_cvit.run import LockLost, RunFolder, RunInUse, RunLock, Writer, lock
from lit_cvit.run.lock import Holder

HERE = Holder.this_process()
ELSEWHERE = replace(HERE, host="node-7", kernel="another boot")


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended and was waited for."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.fixture
def zombie() -> Iterator[int]:
    """The number of a process that was killed and that nobody has waited for yet."""
    child = os.fork()
    if not child:
        os._exit(0)
    while lock._state(child)[0] != "Z":
        time.sleep(0.001)
    yield child
    os.waitpid(child, 0)


def write(folder: Path, holder: Holder, *, age: float = 0.0, name: str = ".lock") -> Path:
    """Leave a lock as a process would whose last heartbeat is so many seconds old."""
    path = folder / name
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".lock*"))


def require_taken_over(folder: Path) -> None:
    """The lock says that this process holds it, and nothing is left of it after its release."""
    held = RunLock.acquire(folder)
    assert Holder(**json.loads((folder / ".lock").read_text())) == held.holder
    assert held.holder.process == os.getpid()
    held.release()
    assert locks(folder) == []


def test_a_locked_folder_is_refused_with_the_process_and_free_after_its_release(tmp_path: Path) -> None:
    held = RunLock.acquire(tmp_path)
    with pytest.raises(RunInUse, match=rf"{tmp_path} is in use by process {os.getpid()} on .*--name"):
        RunLock.acquire(tmp_path)
    held.release()
    assert locks(tmp_path) == []
    RunLock.acquire(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path: Path, gone: int) -> None:
    write(tmp_path, replace(HERE, process=gone, token="dead"))
    require_taken_over(tmp_path)


def test_the_lock_of_a_killed_process_that_nobody_waited_for_is_taken_over(
    tmp_path: Path, zombie: int
) -> None:
    write(tmp_path, replace(HERE, process=zombie, started=lock._state(zombie)[1], token="dead"))
    require_taken_over(tmp_path)


def test_a_process_number_that_another_process_has_by_now_holds_nothing(tmp_path: Path) -> None:
    write(tmp_path, replace(HERE, started="1", token="dead"))
    require_taken_over(tmp_path)


def test_a_living_process_of_this_host_is_refused_however_old_its_heartbeat_is(tmp_path: Path) -> None:
    write(tmp_path, replace(HERE, process=os.getppid(), started=lock._state(os.getppid())[1]), age=1e6)
    with pytest.raises(RunInUse, match=f"process {os.getppid()} "):
        RunLock.acquire(tmp_path)


@pytest.mark.parametrize(
    "other", [ELSEWHERE, replace(HERE, kernel=f"{HERE.kernel}0"), replace(HERE, kernel="")]
)
def test_another_host_or_container_is_refused_until_its_heartbeat_is_a_minute_old(
    tmp_path: Path, other: Holder, gone: int
) -> None:
    # Of this host, the process would be dead.
    other = replace(other, process=gone, token="other")
    write(tmp_path, other, age=50)
    with pytest.raises(RunInUse, match=f"process {gone} on {other.host}"):
        RunLock.acquire(tmp_path)
    write(tmp_path, other, age=61)
    RunLock.acquire(tmp_path).release()


def test_the_age_of_a_heartbeat_is_by_the_clock_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ELSEWHERE, age=50)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(RunInUse):
        RunLock.acquire(tmp_path)


def test_of_many_that_take_a_dead_lock_over_at_once_one_gets_it(tmp_path: Path, gone: int) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, replace(HERE, process=gone, token="dead"))
        start, held, refused = threading.Barrier(8), list[RunLock](), list[RunInUse]()

        def contend(folder: Path = folder, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                held.append(RunLock.acquire(folder))  # noqa: B023
            except RunInUse as error:
                refused.append(error)  # noqa: B023

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)
        held[0].release()
        assert locks(folder) == []


def test_a_holder_that_renames_its_lock_while_it_is_looked_at_is_not_dead(
    tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking over ends with a rename; who read the file under its first name must read again."""
    write(tmp_path, replace(HERE, process=gone, token="dead"))
    write(tmp_path, HERE, name=".lock.dead")
    real = lock._now

    def renamed_meanwhile(folder: Path) -> float:
        if (first := folder / ".lock.dead").exists():
            first.replace(folder / ".lock")
        return real(folder)

    monkeypatch.setattr(lock, "_now", renamed_meanwhile)
    with pytest.raises(RunInUse, match=f"in use by process {HERE.process} on"):
        RunLock.acquire(tmp_path)


def test_whoever_died_while_taking_over_is_followed_in_turn(tmp_path: Path, gone: int) -> None:
    write(tmp_path, replace(HERE, process=gone, token="first"))
    write(tmp_path, replace(HERE, process=gone, token="second"), name=".lock.first")
    held = RunLock.acquire(tmp_path)
    assert locks(tmp_path) == [".lock"]
    held.release()


def test_whoever_read_a_lock_that_was_taken_over_meanwhile_does_not_get_it(
    tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, replace(HERE, process=gone, token="dead"))
    read, real = [lock._end_of_chain(tmp_path)], lock._end_of_chain
    write(tmp_path, ELSEWHERE)
    monkeypatch.setattr(lock, "_end_of_chain", lambda folder: read.pop() if read else real(folder))
    with pytest.raises(
        RunInUse, match=r"on node-7 \(it counts as dead 60 seconds after its last heartbeat\)"
    ):
        RunLock.acquire(tmp_path)
    assert locks(tmp_path) == [".lock"]


def test_the_holder_of_a_lock_that_was_renamed_since_it_was_read_lives(
    tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, replace(HERE, process=gone, token="dead"))
    taken = write(tmp_path, replace(HERE, token="second"), name=".lock.dead")
    read, real = [lock._end_of_chain(tmp_path)], lock._end_of_chain
    taken.replace(tmp_path / ".lock")
    monkeypatch.setattr(lock, "_end_of_chain", lambda folder: read.pop() if read else real(folder))
    assert lock.holder_of(tmp_path) == replace(HERE, token="second")


@pytest.mark.parametrize(
    "wrong",
    [{"process": "7"}, {"process": 0}, {"process": -1}, {"process": 1 << 70}, {"token": "../x"}, {"host": 5}],
)
def test_a_lock_that_no_process_has_written_is_one_for_a_minute(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    (tmp_path / ".lock").write_text(json.dumps(asdict(HERE) | wrong))
    os.utime(tmp_path / ".lock", (time.time() - 61, time.time() - 61))
    assert lock.holder_of(tmp_path) is None
    RunLock.acquire(tmp_path).release()
    assert locks(tmp_path) == []


def test_a_takeover_that_is_under_way_is_refused(tmp_path: Path, gone: int) -> None:
    write(tmp_path, replace(HERE, process=gone, token="first"))
    write(tmp_path, replace(ELSEWHERE, token="second"), name=".lock.first")
    with pytest.raises(RunInUse, match="on node-7"):
        RunLock.acquire(tmp_path)


def test_what_a_dead_takeover_left_beside_a_free_folder_is_no_lock(tmp_path: Path) -> None:
    write(tmp_path, ELSEWHERE, name=".lock.first")
    held = RunLock.acquire(tmp_path)
    assert locks(tmp_path) == [".lock"]
    held.release()


def test_a_process_that_died_before_its_lock_was_written_holds_it_for_a_minute_at_most(
    tmp_path: Path,
) -> None:
    for name in (".lock", ".lock.unwritten"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 61, time.time() - 61))
    held = RunLock.acquire(tmp_path)
    assert locks(tmp_path) == [".lock"]
    held.release()


def test_a_lock_that_is_just_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: write(tmp_path, ELSEWHERE))
    with pytest.raises(RunInUse, match="on node-7"):
        RunLock.acquire(tmp_path)


def test_the_heartbeat_goes_on_by_itself_and_ends_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_BEAT", 0.002)
    held = RunLock.acquire(tmp_path)
    os.utime(tmp_path / ".lock", (0, 0))
    limit = time.monotonic() + 20
    while (tmp_path / ".lock").stat().st_mtime < 1 and time.monotonic() < limit:
        time.sleep(0.002)
    assert (tmp_path / ".lock").stat().st_mtime > 1
    held.release()
    held._thread.join(20)
    assert not held._thread.is_alive()


def test_a_process_that_was_taken_over_from_while_suspended_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer()
    writer.lock(tmp_path)
    writer.append_line(tmp_path / "log.jsonl", {"step": 0})
    write(tmp_path, ELSEWHERE)
    before = (tmp_path / "log.jsonl").read_bytes()
    now = time.time()
    monkeypatch.setattr(lock.time, "time", lambda: now + 90)
    for attempt in (
        lambda: writer.append_line(tmp_path / "log.jsonl", {"step": 1}),
        lambda: writer.write_text(tmp_path / "log.jsonl", "mine"),
        lambda: writer.remove(tmp_path / "log.jsonl"),
    ):
        with pytest.raises(LockLost, match=r"taken over by process \d+ on node-7"):
            attempt()
    assert (tmp_path / "log.jsonl").read_bytes() == before
    writer.unlock()
    assert Holder(**json.loads((tmp_path / ".lock").read_text())) == ELSEWHERE


def test_a_process_whose_lock_was_removed_by_hand_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_TRUSTED", -1.0)
    writer = Writer()
    writer.lock(tmp_path)
    (tmp_path / ".lock").unlink()
    with pytest.raises(LockLost, match=r"\.lock was removed"):
        writer.write_text(tmp_path / "a", "a")
    writer.unlock()
    assert list(tmp_path.iterdir()) == []


def test_a_child_of_the_process_does_not_release_its_lock(tmp_path: Path) -> None:
    held = RunLock.acquire(tmp_path)
    child = os.fork()
    if not child:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert locks(tmp_path) == [".lock"]
    held.release()


def test_a_new_run_is_locked_before_anything_is_in_it(tmp_path: Path) -> None:
    seen: list[bool] = []
    writer = Writer(fault=lambda event, path: seen.append((path.parent / ".lock").is_file()))
    run = RunFolder.create(tmp_path, "quick", "seed: 0\n", record=new_record(), writer=writer, lock=True)
    assert seen
    assert all(seen)
    writer.unlock()
    assert locks(run.path) == []


def test_a_new_run_that_cannot_be_written_is_not_left_locked(tmp_path: Path) -> None:
    def full(event: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        RunFolder.create(tmp_path, "quick", "", record=new_record(), writer=Writer(fault=full), lock=True)
    assert locks(tmp_path / "quick") == []


def test_a_locked_run_can_be_read(tmp_path: Path) -> None:
    path = make_run(tmp_path).path
    held = RunLock.acquire(path)
    assert RunFolder.open(path, verify=True).stages_done() == [1]
    assert RunFolder.open(path).load_stage(1).task == "ScienceQA"
    held.release()


def test_a_writer_that_is_not_enabled_locks_nothing(tmp_path: Path) -> None:
    writer = Writer(enabled=False)
    writer.lock(tmp_path)
    assert locks(tmp_path) == []
    writer.unlock()
