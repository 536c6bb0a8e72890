"""What people say: well-behaved messages and such that make the fake CLI misbehave."""

from __future__ import annotations

from random import Random

MISBEHAVIOUR = (
    *("noise", "nul", "bad-utf8", "glued", "unknown", "split 7", "huge 300000", "stderr 2000000", "retry"),
    *("api-error 500", "turn", "task 1", "child", "setsid", "double-fork", "storm 5 2", "spin 0.5"),
    *("half-line", "exit 3", "signal 9", "signal 19", "close-stdout", "mute", "deaf", "freeze", "hang"),
    *("ignore-term", "ignore-eof", "crashes 1", "memory 20000000", "sleep 2"),
)
PLACES = ("", "", "!before ", "!at 3 ", "!after ", "!idle ")


def plain(rng: Random, name: str, number: int, *, is_real: bool) -> str:
    """A message that is answered without further ado."""
    if is_real:
        return rng.choice((f"say {name} {number}", f"count to {rng.randint(5, 40)} every 10 ms"))
    return rng.choice((f"hello {name} {number}", f"stream {rng.randint(5, 150)} {rng.randint(0, 20)}"))


def asking(rng: Random, number: int, *, is_real: bool) -> str:
    """A message whose turn asks for an approval."""
    if is_real:
        return f"create a file note-{number}.txt with words"
    return rng.choice((f"write note-{number}.txt words", "bash sleep 1", "hello !storm 3"))


def misbehaving(rng: Random, number: int) -> str:
    """A message that brings one misbehaviour or two, somewhere in the turn."""
    words = rng.sample(MISBEHAVIOUR, rng.choice((1, 1, 2)))
    prompt = rng.choice(("stream 30 5", f"hello {number}"))
    return prompt + "".join(f" {rng.choice(PLACES)}!{word}" for word in words)
