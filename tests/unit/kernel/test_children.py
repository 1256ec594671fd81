from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.kernel.child_start import GONE
from holdfast.kernel.children import ChildLimits, ChildPool, harmless_environment, run_child, spawn
from holdfast.kernel.errors import Conflict, Exhausted, Internal, TooLarge, Unavailable

WORK = "tests.unit.kernel.child_work"
ROOT = str(Path(__file__).parents[3])


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)


def alive(pid: int) -> bool:
    """Whether it runs: a dead process that nobody has collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


async def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.01)


# --- life and death


async def test_no_child_survives_a_parent_killed_with_sigkill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", WORK, str(tmp_path), "2"]
    parent = subprocess.Popen(command, cwd=ROOT)
    try:
        # Three generations of parents, each with a plain child.
        await eventually(lambda: len(list(tmp_path.glob("pid-*"))) == 6)
        pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
        assert all(alive(pid) for pid in pids)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    await eventually(lambda: not any(alive(pid) for pid in pids))


async def test_a_child_whose_parent_is_gone_before_it_is_tied_ends_at_once() -> None:
    start = str(Path(ROOT) / "src/holdfast/kernel/child_start.py")
    nobody = "1" if os.getpid() != 1 else "2"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", start, nobody, "{}", "exec", "sleep", "600"], timeout=60
    )
    assert ended.returncode == GONE


async def test_a_child_ends_with_the_body() -> None:
    async with spawn(["sleep", "600"]) as child:
        assert child.returncode is None
        assert alive(child.pid)
    assert child.returncode == -signal.SIGTERM
    assert not alive(child.pid)


async def test_a_child_ends_with_a_body_that_is_cancelled() -> None:
    started = asyncio.Event()
    pids: list[int] = []

    async def body() -> None:
        async with spawn(["sleep", "600"]) as child:
            pids.append(child.pid)
            started.set()
            await asyncio.sleep(600)

    task = asyncio.create_task(body())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pids[0])


async def test_a_child_that_ignores_being_asked_is_killed_in_time(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 1; done"
    began = time.monotonic()
    async with spawn(["sh", "-c", script], stop_seconds=0.3) as child:
        await eventually(ready.exists)
    assert child.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 60


async def test_what_a_child_started_and_left_behind_goes_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    await run_child(f"{WORK}:scatter", str(pid_file), timeout_seconds=30)
    await eventually(lambda: not alive(int(pid_file.read_text())))


def own_children() -> set[int]:
    """Children of this process that nobody has collected."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in found.split()}


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("how", ["spawn", "call"])
async def test_where_descriptors_run_out_nothing_stays_behind(how: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, others = descriptors(), own_children()
    free = [number for number in range(1000) if str(number) not in before]
    failed = 0
    while True:
        # One more each time: whichever step it is that finds none, is found out.
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[failed], hard))
        try:
            if how == "spawn":
                async with spawn(["true"]) as child:
                    assert await child.wait() == 0
            else:
                await run_child(f"{WORK}:double", {"number": 2}, timeout_seconds=30)
        except Unavailable as error:
            code = error.code
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert code == "child-not-started"
        assert descriptors() == before
        assert own_children() == others
    assert failed > 1


async def test_the_exit_status_is_told() -> None:
    async with spawn(["sh", "-c", "exit 7"]) as child:
        assert await child.wait() == 7
        assert child.returncode == 7
        child.signal(signal.SIGTERM)  # after the end: nothing, and no stranger


async def test_a_command_that_does_not_exist_ends_with_127() -> None:
    async with spawn(["no-such-command-here"], stderr=subprocess.DEVNULL) as child:
        assert await child.wait() == 127


async def test_a_child_leads_its_own_group() -> None:
    async with spawn(["sleep", "600"]) as child:
        assert os.getpgid(child.pid) == child.pid
        assert os.getpgid(child.pid) != os.getpgid(0)


# --- what it gets


async def test_a_child_gets_no_variable_it_was_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET_X", "hidden")
    found = await run_child(f"{WORK}:environment", None, timeout_seconds=30)
    assert "HOLDFAST_SECRET_X" not in found
    given = {**harmless_environment(), "GIVEN": "yes"}
    found = await run_child(f"{WORK}:environment", None, timeout_seconds=30, env=given)
    assert found["GIVEN"] == "yes"


async def test_a_child_gets_no_descriptor_it_was_not_given(tmp_path: Path) -> None:
    with (tmp_path / "open-in-the-parent").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        found = await run_child(f"{WORK}:descriptors", None, timeout_seconds=30)
    assert not [name for name in found if "open-in-the-parent" in name]


# --- work


async def test_a_call_returns_what_the_function_returns() -> None:
    assert await run_child(f"{WORK}:double", {"number": 21}, timeout_seconds=30) == {"twice": 42}


async def test_a_refusal_of_the_function_is_raised_here_as_it_was() -> None:
    with pytest.raises(Conflict) as caught:
        await run_child(f"{WORK}:refuse", None, timeout_seconds=30)
    assert caught.value.code == "done-before"
    assert caught.value.problems[0].path == "$.a"


@pytest.mark.parametrize("function", ["defect", "crash", "no_such_function"])
async def test_a_defect_or_a_crash_is_internal(function: str) -> None:
    with pytest.raises(Internal) as caught:
        await run_child(f"{WORK}:{function}", None, timeout_seconds=30)
    assert caught.value.internal


async def test_memory_is_bounded() -> None:
    limits = ChildLimits(memory_bytes=1024**3)
    with pytest.raises(TooLarge) as caught:
        await run_child(f"{WORK}:greedy", None, timeout_seconds=30, limits=limits)
    assert caught.value.code == "child-memory"


async def test_processor_time_is_bounded() -> None:
    with pytest.raises(TooLarge) as caught:
        await run_child(f"{WORK}:spin", None, timeout_seconds=60, limits=ChildLimits(cpu_seconds=1))
    assert caught.value.code == "child-cpu"


async def test_time_is_bounded() -> None:
    began = time.monotonic()
    with pytest.raises(TooLarge) as caught:
        await run_child(f"{WORK}:wait", None, timeout_seconds=0.5)
    assert caught.value.code == "child-deadline"
    assert time.monotonic() - began < 60


async def test_the_answer_is_bounded() -> None:
    with pytest.raises(TooLarge) as caught:
        await run_child(f"{WORK}:long_answer", 2000, timeout_seconds=30, answer_bytes_max=1000)
    assert caught.value.code == "child-answer"


async def test_payload_and_answer_may_be_far_larger_than_a_pipe() -> None:
    size = 5_000_000
    answer = await run_child(f"{WORK}:long_answer", size, timeout_seconds=60)
    assert len(answer) == size


async def test_a_pool_bounds_how_many_run_and_how_many_wait() -> None:
    pool = ChildPool(1, waiting_max=1)
    running = asyncio.create_task(pool.run(f"{WORK}:wait", None, timeout_seconds=60))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(pool.run(f"{WORK}:double", {"number": 1}, timeout_seconds=30))
    await asyncio.sleep(0)
    with pytest.raises(Exhausted):
        await pool.run(f"{WORK}:double", {"number": 2}, timeout_seconds=30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await waiting == {"twice": 2}
