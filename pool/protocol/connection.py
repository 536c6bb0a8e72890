"""The pool's side of the conversation with one CLI: lines to write, answers to match.

Nothing here writes. Every builder returns one line without its newline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pool.protocol.encoding import encode
from pool.protocol.frames import ControlRequest, ControlResponse
from pool.protocol.parsing import frame_of


class CliConnection:
    """Numbers our control requests ``<epoch>-<n>`` and knows which are still open.

    A server that takes over has a higher epoch, so that an answer to a dead
    server's request matches nothing.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._count = 0
        self._open: dict[str, str] = {}

    @property
    def open_requests(self) -> Mapping[str, str]:
        """The subtype of every request that was not answered or forgotten, by id, oldest first."""
        return self._open

    def request(self, subtype: str, **fields: Any) -> tuple[str, bytes]:
        """A new control request: (its id, the line)."""
        self._count += 1
        request_id = f"{self._epoch}-{self._count}"
        self._open[request_id] = subtype
        body = {"subtype": subtype, **fields}
        return request_id, encode({"type": "control_request", "request_id": request_id, "request": body})

    def resolve(self, answer: ControlResponse) -> bool:
        """Was this the answer to an open request of ours? It is closed then."""
        return self._open.pop(answer.request_id, None) is not None

    def forget(self, request_id: str) -> None:
        """Nobody waits for this answer any more (a timeout); it is ignored when it comes."""
        self._open.pop(request_id, None)

    def initialize(self, hooks: Mapping[str, Any] | None = None, **fields: Any) -> tuple[str, bytes]:
        """The ready signal; also what takes over a running CLI.

        ``hooks`` None clears the hooks of whoever was attached before: JSON
        null would keep them, and every tool call would wait for a dead server.
        """
        return self.request("initialize", hooks=dict(hooks or {}), **fields)

    def interrupt(self, *, cancel_queued: bool = True) -> tuple[str, bytes]:
        """End the running turn; without ``cancel_queued`` the messages behind it run next."""
        return self.request("interrupt", cancel_queued=cancel_queued)

    def set_model(self, model: str | None) -> tuple[str, bytes]:
        """Use ``model`` from the next turn on; None: the default. Unknown names are accepted by the CLI."""
        return self.request("set_model", model=model)

    def set_permission_mode(self, mode: str) -> tuple[str, bytes]:
        """Change the permission mode now."""
        return self.request("set_permission_mode", mode=mode)

    def ping(self) -> tuple[str, bytes]:
        """A question without side effects that is answered in about 1 ms, also during a turn."""
        return self.request("get_binary_version")


def user_message(turn_id: str, content: str | Sequence[Mapping[str, Any]], *, literal: bool = False) -> bytes:
    """A turn's message. The CLI runs one ``turn_id`` once, however often it is written.

    ``literal``: ``/commands`` and ``@paths`` in the text are only text.
    ``turn_id`` must be a UUID.
    """
    message: dict[str, Any] = {
        "type": "user",
        "message": {"role": "user", "content": content if isinstance(content, str) else list(content)},
        "parent_tool_use_id": None,
        "uuid": turn_id,
    }
    if literal:
        message["client_composed"] = True
    return encode(message)


def success_response(request_id: str, response: Mapping[str, Any] | None = None) -> bytes:
    """The good answer to a request of the CLI (a hook, a host tool)."""
    body = {"subtype": "success", "request_id": request_id, "response": dict(response or {})}
    return encode({"type": "control_response", "response": body})


def error_response(request_id: str, text: str) -> bytes:
    """The bad answer to a request of the CLI: the tool call fails with ``text``, the turn goes on."""
    body = {"subtype": "error", "request_id": request_id, "error": text}
    return encode({"type": "control_response", "response": body})


def permission_response(
    request_id: str,
    decision: str,
    *,
    message: str | None = None,
    updated_input: Mapping[str, Any] | None = None,
    updated_permissions: Sequence[Mapping[str, Any]] | None = None,
    interrupt: bool = False,
) -> bytes:
    """The answer to ``can_use_tool``; a ``decision`` that is not "allow" denies.

    ``updated_input`` replaces the tool's input; ``updated_permissions`` are
    rules for the CLI to keep: those with destination ``localSettings`` would
    be written into the project's directory. ``message`` and ``interrupt`` (end
    the turn as well) go with a deny.
    """
    answer: dict[str, Any]
    if decision == "allow":
        answer = {"behavior": "allow"}
        if updated_input is not None:
            answer["updatedInput"] = dict(updated_input)
        if updated_permissions:
            answer["updatedPermissions"] = [dict(rule) for rule in updated_permissions]
    else:
        answer = {"behavior": "deny", "message": message or "The user did not allow this."}
        if interrupt:
            answer["interrupt"] = True
    return success_response(request_id, answer)


def pending_asks(answer: ControlResponse) -> tuple[ControlRequest, ...]:
    """The asks that the CLI lists as open in its answer to a second ``initialize``."""
    listed = answer.envelope.get("pending_permission_requests")
    if not isinstance(listed, list):
        return ()
    frames = [frame_of(item, encode(item)) for item in listed if isinstance(item, dict)]
    return tuple(frame for frame in frames if isinstance(frame, ControlRequest))
