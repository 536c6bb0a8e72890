"""The filter of system calls, as the program for the kernel's packet filter that bubblewrap loads.

A small assembler for the few instructions that a seccomp filter needs. The
program looks at the architecture, kills whoever calls in another one's way
(its numbers mean other calls), and then compares the number with each call
that ``pool.launch.syscalls`` refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pool.launch.syscalls import AARCH64, X86_64, AnyBit, Condition, NoneOf, OneOf, Refusal, refusals

MACHINES = (X86_64, AARCH64)

_AUDIT_ARCHITECTURES = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
_X32_BIT = 0x40000000

# where struct seccomp_data has its fields; the low half of an argument comes first on both machines
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_ENOSYS = 38


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: how many of the next ones to skip when it is ``true`` and when it is not."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


def filter_program(machine: str) -> bytes:
    """The filter as an array of ``struct sock_filter``. Raises ``KeyError`` for an unknown machine."""
    return b"".join(
        struct.pack("<HBBI", step.code, step.if_true, step.if_false, step.value) for step in steps(machine)
    )


def steps(machine: str) -> Sequence[Step]:
    """The filter for ``machine``. Raises ``KeyError`` for an unknown one."""
    program = [
        Step(_LOAD, _ARCHITECTURE),
        Step(_IF_EQUAL, _AUDIT_ARCHITECTURES[machine], if_true=1),
        Step(_RETURN, _KILL),
        Step(_LOAD, _NUMBER),
    ]
    if machine == X86_64:
        # the same architecture has a second set of numbers, which nobody uses
        program += [Step(_IF_AT_LEAST, _X32_BIT, if_false=1), Step(_RETURN, _ERROR | _ENOSYS)]
    for number, rules in sorted(refusals(machine).items()):
        block = [step for rule in rules for step in _refuse(rule)]
        if rules[-1].conditions:
            block.append(Step(_RETURN, _ALLOW))
        program += [Step(_IF_EQUAL, number, if_false=len(block)), *block]
    return [*program, Step(_RETURN, _ALLOW)]


def _refuse(rule: Refusal) -> Sequence[Step]:
    """Return the error when all conditions hold, else go on behind it."""
    block = [Step(_RETURN, _ERROR | rule.error)]
    for condition in reversed(rule.conditions):
        block = [*_unless(condition, len(block)), *block]
    return block


def _unless(condition: Condition, skip: int) -> Sequence[Step]:
    """Skip so many steps unless the condition holds."""
    load = Step(_LOAD, _ARGUMENTS + 8 * condition.argument)
    match condition:
        case AnyBit(mask=mask):
            return [load, Step(_IF_BITS, mask, if_false=skip)]
        case OneOf(values=values):
            last = len(values) - 1
            return [
                load,
                *(
                    Step(_IF_EQUAL, value, if_true=last - place, if_false=skip if place == last else 0)
                    for place, value in enumerate(values)
                ),
            ]
        case NoneOf(values=values):
            last = len(values) - 1
            return [
                load,
                *(Step(_IF_EQUAL, value, if_true=last - place + skip) for place, value in enumerate(values)),
            ]
