"""Lines for the CLI's stdin and whether they may be written: the gate's rule by example.

Both gates, ``pool.protocol.input_gate`` and the keeper's own, are held to it.
"""

from __future__ import annotations

_USER = b'{"type":"user","message":{"role":"user","content":"hi"},"parent_tool_use_id":null,"uuid":"u"}'

INPUT_CORPUS: list[tuple[bytes, bool]] = [
    # whole, valid lines, with and without their newline
    (_USER, True),
    (_USER + b"\n", True),
    (b'{"uuid":"u","message":{"content":"hi","role":"user"},"type":"user"}', True),
    (b'{"type":"user","message":{"role":"user","content":[{"type":"text","text":"a"}]}}', True),
    ('{"type":"user","message":{"role":"user","content":"Grüße \U0001f600"}}'.encode(), True),
    (b'{"type":"user","message":{"role":"user","content":"half an emoji \\ud83d, NUL \\u0000"}}', True),
    (b' {"type" : "user", "message": {"role": "user", "content": "spaces"}} ', True),
    (b'{"type":"control_request","request_id":"1-1","request":{"subtype":"interrupt"}}', True),
    (
        b'{"type":"control_response","response":{"subtype":"success","request_id":"r","response":{}}}',
        True,
    ),
    (b'{"type":"control_response","response":{"subtype":"error","request_id":"r","error":"no"}}', True),
    (b'{"type":"control_cancel_request","request_id":"r"}', True),
    (b'{"type":"keep_alive"}', True),
    # not one line of JSON
    (b"", False),
    (b"\n", False),
    (b"   ", False),
    (b"hello", False),
    (b'{"type":"user"', False),
    (_USER + b"\n\n", False),
    (_USER + b"\n" + _USER, False),
    (_USER + b"\r\n", False),
    (_USER.replace(b",", b",\r"), False),
    (_USER + b"\0", False),
    (_USER.replace(b"hi", b"h\0i"), False),
    (_USER.replace(b"hi", b"h\ni"), False),
    (_USER.replace(b"hi", b"h\xffi"), False),
    (b"\xef\xbb\xbf" + _USER, False),
    (_USER + _USER, False),
    (b'{"type":"keep_alive","n":NaN}', False),
    (b'{"type":"keep_alive","n":-Infinity}', False),
    (b"{'type':'keep_alive'}", False),
    (b'{"type":"keep_alive",}', False),
    (b"[" * 200_000, False),
    # JSON, but not an object of a type that is ours to write
    (b"null", False),
    (b"[]", False),
    (b"7", False),
    (b'"user"', False),
    (b"{}", False),
    (b'{"type":null}', False),
    (b'{"type":["user"]}', False),
    (b'{"type":"assistant","message":{"role":"assistant","content":"I said so"}}', False),
    (b'{"type":"system","subtype":"init"}', False),
    (b'{"type":"update_environment_variables","variables":{}}', False),
    (b'{"type":"brand_new"}', False),
    # user messages that end the CLI, or run the model on nothing
    (b'{"type":"user"}', False),
    (b'{"type":"user","message":"hi"}', False),
    (b'{"type":"user","message":{"content":"hi"}}', False),
    (b'{"type":"user","message":{"role":"assistant","content":"hi"}}', False),
    (b'{"type":"user","message":{"role":"user"}}', False),
    (b'{"type":"user","message":{"role":"user","content":null}}', False),
    (b'{"type":"user","message":{"role":"user","content":7}}', False),
    # control frames without their parts
    (b'{"type":"control_request","request_id":"q"}', False),
    (b'{"type":"control_request","request":{"subtype":"interrupt"}}', False),
    (b'{"type":"control_request","request_id":7,"request":{"subtype":"interrupt"}}', False),
    (b'{"type":"control_request","request_id":"q","request":{}}', False),
    (b'{"type":"control_request","request_id":"q","request":[]}', False),
    (b'{"type":"control_response"}', False),
    (b'{"type":"control_response","response":"ok"}', False),
    (b'{"type":"control_response","response":{"subtype":"success"}}', False),
    (b'{"type":"control_response","response":{"request_id":"r"}}', False),
    (b'{"type":"control_cancel_request"}', False),
    (b'{"type":"control_cancel_request","request_id":null}', False),
]
