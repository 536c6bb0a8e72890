"""What is done about an instance that takes too much."""

from __future__ import annotations

from pool.config import Quota
from pool.policy.consumption import CpuHour, OutputDay, judge_cpu, judge_memory, judge_processes

GIB = 1 << 30


def test_above_its_memory_an_instance_is_ended() -> None:
    assert judge_memory(4 * GIB, Quota()) is None
    verdict = judge_memory(5 * GIB, Quota())
    assert verdict is not None
    assert verdict.ends_instance
    assert verdict.reason.code == "out_of_memory"
    assert "5.0 GiB and may take 4.0 GiB" in verdict.reason.message
    assert judge_memory(10**15, Quota(memory_bytes=None)) is None
    # The kernel counts exactly: the watch is there only for what it does not hold after all.
    assert judge_memory(8 * GIB, Quota(), kernel_holds=True) is None
    assert judge_memory(9 * GIB, Quota(), kernel_holds=True) is not None


def test_too_many_processes_interrupt_first_and_end_when_they_stay() -> None:
    quota = Quota(max_processes=10)
    assert judge_processes(10, 0, quota) is None
    endings = [
        verdict.ends_instance for looks in range(1, 7) if (verdict := judge_processes(11, looks, quota))
    ]
    assert endings == [False, False, False, False, True, True]
    assert judge_processes(10**6, 9, Quota(max_processes=None)) is None


def test_above_the_cpu_of_an_hour_everything_is_ended() -> None:
    assert judge_cpu(1e9, Quota()) is None
    assert judge_cpu(59, Quota(cpu_seconds_per_hour=60)) is None
    verdict = judge_cpu(61, Quota(cpu_seconds_per_hour=60))
    assert verdict is not None
    assert verdict.reason.code == "quota_exceeded"
    assert verdict.ends_instance


def test_cpu_time_is_forgotten_after_an_hour() -> None:
    hour = CpuHour()
    for minute in range(60):
        hour.add(1.0, minute * 60.0)
        hour.add(0.5, minute * 60.0 + 30)
    assert hour.used(3599) == 90
    assert hour.used(3600 + 1800) == 90 - 31 * 1.5
    assert hour.used(10_000) == 0
    hour.add(0, 10_000)
    assert hour.used(10_000) == 0


def test_output_is_counted_for_a_day_and_kept_in_quarters_of_an_hour() -> None:
    day = OutputDay()
    for minute in range(24 * 60):
        day.add(100, minute * 60.0)
    assert day.used(86_399) == 144_000
    assert len(day._begins) == 96
    assert day.used(86_400) == 142_500, "the oldest quarter of an hour is over"
    assert day.used(2 * 86_400 - 900) == 0
