"""What a server that is not root may ask of a keeper that is. Without I/O.

Such a server may be somebody else's by now. It can run what it likes as any
user of the pool, which is what it is for, and nothing as root, as the gateway
or as itself; and root opens, makes, removes and gives away nothing for it but
what the start of that very instance needs, at places that are computed here.
Whatever is not a text, a number or a list as it should be is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.keeper.entry import INSTANCE_ID, HostError
from pool.keeper.gateway_process import service_uid
from pool.keeper.places import temporary_directory
from pool.keeper.spawn import BWRAP, SHIM

_FIELDS_OF_RIGHTS = {"uid", "limits", "filter"}
_LIMITS = {"core", "cpu", "data", "fsize", "nofile", "nproc"}
_GROUP_LIMITS = {"memory_bytes", "processes"}
_OUTBOUND = {"kind", "slirp4netns", "nft"}
_PROXY = {"kind", "port", "log", "egress"}
_EGRESS = {"allow", "labels", "limits"}
_EGRESS_LIMITS = {"connections", "header_bytes", "handshake_seconds", "connect_seconds", "idle_seconds"}
# what users may be called
_USER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}", re.ASCII)

_MOST_WORDS = 4096
_MOST_TEXT = 128 * 1024
_MOST_LABELS = 16
_MOST_LABEL = 512
_MOST_NUMBER = 2**63 - 1
_MOST_SECONDS = 30 * 86400
_LEAST_SEGMENT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Bounds:
    """Who the server is, and whom instances may be: from ``first_uid`` to before the server's own uid.

    ``gateway_uid`` is the last one, the server's the one before. Raises ``ValueError`` for others.
    """

    data_dir: Path
    service_uid: int
    first_uid: int
    gateway_uid: int

    def __post_init__(self) -> None:
        for uid in (self.service_uid, self.first_uid, self.gateway_uid):
            service_uid(uid)
        if not self.first_uid < self.service_uid == self.gateway_uid - 1:
            raise ValueError("the service's uid is the last but one of the range, the gateway's the last")

    def bounded(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """The request as it may be done. Raises ``HostError`` "forbidden"."""
        match operation:
            case "start":
                self._start(request)
            case "stop" | "shutdown":
                self._graces(request)
            case "upgrade":
                self._upgrade(request)
            case "replace_gateway":
                self._replace_gateway(request)
                # what root mounts for it is said by who started the keeper
                return {key: value for key, value in request.items() if key != "gateway_shown"}
            case _:
                pass
        return request

    def _start(self, request: Mapping[str, Any]) -> None:
        instance = request.get("instance")
        _check(isinstance(instance, str) and INSTANCE_ID.fullmatch(instance), "this instance id")
        _check(request.get("wrapper") in (BWRAP, SHIM), "this wrapper")
        argv = request.get("argv")
        _check(_is_list_of_texts(argv, _MOST_TEXT) and argv, "this command line")
        env = request.get("env")
        _check(_is_map_of_texts(env, _MOST_WORDS, _MOST_TEXT), "this environment")
        _check(isinstance(env, dict) and all(name and "=" not in name for name in env), "this environment")
        cwd = request.get("cwd")
        _check(cwd is None or _is_path(cwd), "this directory to begin in")
        _check(_is_text(request.get("isolation", ""), _MOST_LABEL), "this name of an isolation")
        _check(_is_text(request.get("prelude", ""), _MOST_LABEL), "this prelude")
        _check(_is_map_of_texts(request.get("labels") or {}, _MOST_LABELS, _MOST_LABEL), "these labels")
        _check(_is_whole(request.get("window", 1), 0, _MOST_NUMBER), "this window")
        _check(_is_map_of_wholes(request.get("limits") or {}, _GROUP_LIMITS), "these limits")
        self._rights(request.get("rights"))
        own = str(temporary_directory(self.data_dir, str(instance)))
        _check(request.get("tmp_dir") in (None, own), "this temporary directory")
        self._open(request.get("open"))
        network = request.get("network")
        _check(network is None or request.get("wrapper") == BWRAP, "a network without a sandbox")
        if network is not None:
            self._network(network)

    def _rights(self, rights: object) -> None:
        _check(isinstance(rights, dict) and rights.keys() <= _FIELDS_OF_RIGHTS, "these rights")
        assert isinstance(rights, dict)
        _check(_is_whole(rights.get("uid"), self.first_uid, self.service_uid - 1), "this uid")
        _check(_is_map_of_wholes(rights.get("limits") or {}, _LIMITS), "these limits")
        _check(rights.get("filter") in (None, self._filter), "this filter")

    @property
    def _filter(self) -> str:
        return str(self.data_dir / "sandbox" / "seccomp.bpf")

    def _open(self, files: object) -> None:
        _check(files is None or (isinstance(files, list) and len(files) <= 1), "these files")
        for file in files if isinstance(files, list) else ():
            _check(isinstance(file, dict) and file.keys() == {"path", "placeholder"}, "this file")
            _check(file["path"] == self._filter, "this file")
            _check(_is_text(file["placeholder"], _MOST_LABEL), "this placeholder")

    def _network(self, network: object) -> None:
        _check(isinstance(network, dict), "this network")
        assert isinstance(network, dict)
        if network.get("kind") == "outbound":
            _check(network.keys() == _OUTBOUND, "this network")
            _check(_is_path(network["slirp4netns"]) and _is_path(network["nft"]), "this program")
            return
        _check(network.get("kind") == "proxy" and network.keys() == _PROXY, "this network")
        _check(_is_whole(network["port"], 1, 65535), "this port")
        self._log(network["log"])
        egress = network["egress"]
        _check(isinstance(egress, dict) and "allow" in egress and egress.keys() <= _EGRESS, "this egress")
        _check(_is_list_of_texts(egress["allow"], _MOST_LABEL), "these hosts")
        _check(_is_map_of_texts(egress.get("labels", {}), _MOST_LABELS, _MOST_LABEL), "these labels")
        limits = egress.get("limits", {})
        _check(isinstance(limits, dict) and limits.keys() <= _EGRESS_LIMITS, "these limits")
        _check(all(_is_number(value, 0, _MOST_SECONDS) for value in limits.values()), "these limits")

    def _log(self, log: object) -> None:
        before, after = f"{self.data_dir / 'egress'}/", "/connections.jsonl"
        is_log = isinstance(log, str) and log.startswith(before) and log.endswith(after)
        _check(is_log and _USER.fullmatch(str(log)[len(before) : -len(after)]), "this log")

    def _replace_gateway(self, request: Mapping[str, Any]) -> None:
        asked = request.get("gateway_uid", self.gateway_uid)
        _check(_is_whole(asked, self.gateway_uid, self.gateway_uid), "this user for the gateway")

    def _graces(self, request: Mapping[str, Any]) -> None:
        graces = request.get("graces")
        _check(graces is None or (isinstance(graces, list) and len(graces) == 3), "these graces")
        _check(all(_is_number(value, 0, _MOST_SECONDS) for value in graces or ()), "these graces")

    def _upgrade(self, request: Mapping[str, Any]) -> None:
        _check(_is_number(request.get("lease_seconds") or 0, 0, _MOST_SECONDS), "this lease")
        _check(_is_whole(request.get("spool_max_bytes") or 1, 1, _MOST_NUMBER), "this size of a spool")
        segment = request.get("segment_bytes") or _LEAST_SEGMENT_BYTES
        _check(_is_whole(segment, _LEAST_SEGMENT_BYTES, _MOST_NUMBER), "this size of a segment")


def _check(is_allowed: object, what: str) -> None:
    if not is_allowed:
        raise HostError("forbidden", f"{what} is not for a server that is not root")


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most and "\0" not in value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and _is_text(value, _MOST_TEXT) and value.startswith("/")


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_list_of_texts(value: object, most: int) -> bool:
    return (
        isinstance(value, list) and len(value) <= _MOST_WORDS and all(_is_text(each, most) for each in value)
    )


def _is_map_of_texts(value: object, most: int, most_text: int) -> bool:
    if not isinstance(value, dict) or len(value) > most:
        return False
    return all(_is_text(word, most_text) for pair in value.items() for word in pair)


def _is_map_of_wholes(value: object, names: set[str]) -> bool:
    """Of these names, each a whole number or, where there is no limit, nothing."""
    if not isinstance(value, dict) or not value.keys() <= names:
        return False
    return all(each is None or _is_whole(each, 0, _MOST_NUMBER) for each in value.values())
