"""What a client may send as a message: text, or blocks of text, image and document.

Checked here and not left to the model's API: a block that the API refuses
stays in the conversation, and every later turn would fail with it.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

from pool.errors import BadRequest

MAX_BLOCKS = 100
IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")

_KEYS = {
    "text": {"type", "text", "cache_control", "citations"},
    "image": {"type", "source", "cache_control"},
    "document": {"type", "source", "title", "context", "cache_control", "citations"},
}


def check_content(value: object) -> str | list[dict[str, Any]]:
    """The content as it may be sent on. Raises ``BadRequest`` naming the block and what is wrong.

    Half characters (lone surrogates, which no UTF-8 can carry) are replaced
    by U+FFFD.
    """
    if isinstance(value, str):
        return _text(value, "content")
    if not isinstance(value, list):
        raise BadRequest("content must be text or a list of content blocks", details={"field": "content"})
    if not 1 <= len(value) <= MAX_BLOCKS:
        raise _bad("content", f"must have 1 to {MAX_BLOCKS} blocks")
    return [_block(block, f"content[{index}]") for index, block in enumerate(value)]


def _block(block: object, where: str) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or not isinstance(kind, str) or kind not in _KEYS:
        raise _bad(where, f"must be a block of type {', '.join(_KEYS)}")
    unknown = sorted(str(key) for key in block.keys() - _KEYS[kind])
    if unknown:
        raise _bad(where, f"has unknown keys: {', '.join(unknown)[:100]}")
    clean = dict(block)
    if kind == "text":
        clean["text"] = _text(block.get("text"), f"{where}.text")
    else:
        clean["source"] = _source(block.get("source"), kind, f"{where}.source")
    for key in ("title", "context"):
        if block.get(key) is not None:
            clean[key] = _text(block[key], f"{where}.{key}")
    for key in ("cache_control", "citations"):
        if not isinstance(block.get(key), dict | None):
            raise _bad(f"{where}.{key}", "must be an object")
    return clean


def _source(source: object, kind: str, where: str) -> dict[str, Any]:
    if not isinstance(source, dict):
        raise _bad(where, "must be an object")
    form = source.get("type")
    check = _SOURCES.get((kind, form)) if isinstance(form, str) else None
    if check is None:
        forms = [name for owner, name in _SOURCES if owner == kind]
        raise _bad(where, f"must have a type of {', '.join(forms)}")
    return {"type": form, **check(source, where)}


def _image_data(source: dict[str, Any], where: str) -> dict[str, Any]:
    media_type = source.get("media_type")
    if media_type not in IMAGE_TYPES:
        raise _bad(f"{where}.media_type", f"must be one of {', '.join(IMAGE_TYPES)}")
    return {"media_type": media_type, "data": _base64(source.get("data"), where)}


def _pdf_data(source: dict[str, Any], where: str) -> dict[str, Any]:
    if source.get("media_type") != "application/pdf":
        raise _bad(f"{where}.media_type", "must be application/pdf")
    return {"media_type": "application/pdf", "data": _base64(source.get("data"), where)}


def _plain_text(source: dict[str, Any], where: str) -> dict[str, Any]:
    if source.get("media_type") != "text/plain":
        raise _bad(f"{where}.media_type", "must be text/plain")
    return {"media_type": "text/plain", "data": _text(source.get("data"), f"{where}.data")}


def _url(source: dict[str, Any], where: str) -> dict[str, Any]:
    url = source.get("url")
    if not isinstance(url, str) or not url.startswith("https://") or not url.isascii() or len(url) > 4096:
        raise _bad(f"{where}.url", "must be an https address")
    return {"url": url}


_SOURCES: dict[tuple[str, str], Callable[[dict[str, Any], str], dict[str, Any]]] = {
    ("image", "base64"): _image_data,
    ("image", "url"): _url,
    ("document", "base64"): _pdf_data,
    ("document", "text"): _plain_text,
    ("document", "url"): _url,
}


def _base64(data: object, where: str) -> str:
    if not isinstance(data, str) or not data:
        raise _bad(f"{where}.data", "must be base64 text")
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise _bad(f"{where}.data", "is not valid base64") from None
    return data


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(where, "must be text with at least one visible character")
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _bad(where: str, problem: str) -> BadRequest:
    return BadRequest(f"{where} {problem}", details={"field": where})
