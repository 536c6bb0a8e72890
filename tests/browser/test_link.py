"""The rules of the chat socket: what happened goes in, what to do comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser

Core = Callable[[str], Any]

_LINK = """
const rules = await load('core/link.js');
const link = rules.newLink();
const brief = (out) => out.map((one) => one.do === 'send' ? one.frame.type + ':' + (one.frame.cursor ??
    one.frame.message_id ?? one.frame.request_id ?? '') : one.do);
const up = (now) => { rules.opened(link, now); return brief(rules.received(link, {type: 'welcome'}, now)); };
const hear = (frame) => brief(rules.received(link, frame, 0));
"""


@pytest.fixture
def linking(core: Core) -> Core:
    """Evaluate with a link at hand."""
    return lambda script: core(_LINK + script)


def test_a_new_connection_takes_up_where_the_last_one_broke(linking: Core) -> None:
    assert linking(
        """rules.start(link, 0); up(0);
        rules.follow(link, 's', 'c1');
        rules.say(link, {type: 'send', session_id: 's', message_id: 'm'});
        rules.answer(link, {type: 'permission', session_id: 's', request_id: 'r'});
        hear({type: 'event', session_id: 's', cursor: 'c2'});
        const lost = brief(rules.closed(link, 1006, 9000, 0.5));
        const again = brief(rules.wake(link, 9500));
        const greeted = up(9600);
        const listed = hear({type: 'subscribed', session_id: 's', cursor: 'c2',
            pending_permissions: [{request_id: 'r'}]});
        hear({type: 'accepted', session_id: 's', message_id: 'm'});
        hear({type: 'permission_resolved', session_id: 's', cursor: 'c3', request_id: 'r'});
        rules.closed(link, 1006, 9700, 0.5); rules.wake(link, 9800);
        return [lost, again, greeted, listed, up(9900)];"""
    ) == [
        ["wait"],
        ["connect"],
        ["deliver", "subscribe:c2", "send:m"],
        ["deliver", "permission:r"],
        ["deliver", "subscribe:c3"],
    ]


def test_waits_grow_to_fifteen_seconds_with_jitter(linking: Core) -> None:
    low, high = linking(
        "return [0, 1].map((r) => [0, 1, 2, 3, 4, 5, 6, 60].map((n) => rules.backoff(n, r)));"
    )
    assert low == [500, 750, 1500, 3000, 6000, 11250, 11250, 11250]
    assert high == [625, 1250, 2500, 5000, 10000, 15000, 15000, 15000]


def test_close_codes_have_their_meaning(linking: Core) -> None:
    assert linking(
        """rules.start(link, 0); up(0);
        const restart = brief(rules.closed(link, 1012, 10000, 0.5));
        up(10001);
        const loop = brief(rules.closed(link, 1012, 10002, 0.5));
        rules.wake(link, 11000); rules.opened(link, 11000);
        const refused = brief(rules.closed(link, 1006, 11001, 0.5));
        rules.wake(link, 12000); up(12000);
        return [restart, loop, refused, brief(rules.closed(link, 4401, 12001, 0.5)), link.phase,
            brief(rules.closed(link, 1006, 12002, 0.5))];"""
    ) == [["connect"], ["wait"], ["probe", "wait"], ["signed_out"], "signed_out", []]


def test_a_silent_connection_is_asked_and_then_dropped(linking: Core) -> None:
    assert linking(
        """rules.start(link, 0); up(0);
        return [20000, 26000, 30000, 36001].map((now) => brief(rules.tick(link, now)));"""
    ) == [[], ["ping:"], [], ["drop"]]


def test_a_cursor_that_is_none_begins_from_the_oldest_once(linking: Core) -> None:
    assert linking(
        """rules.start(link, 0); up(0); rules.follow(link, 's', 'nonsense');
        const first = hear({type: 'error', code: 'bad_cursor', session_id: 's'});
        return [first, hear({type: 'error', code: 'bad_cursor', session_id: 's'})];"""
    ) == [["reset", "subscribe:0"], []]


@pytest.mark.parametrize("code", ["draining", "store_unavailable"])
def test_a_server_that_cannot_take_it_now_gets_the_same_message_later(linking: Core, code: str) -> None:
    assert linking(
        f"const code = '{code}';"
        """rules.start(link, 0); up(0); rules.say(link, {type: 'send', message_id: 'm'});
        const draining = hear({type: 'error', code, message_id: 'm', retry_after: 10});
        const later = brief(rules.resend(link, 'm'));
        const refused = hear({type: 'error', code: 'quota_exceeded', message_id: 'm'});
        return [draining, later, refused, link.outbox.size];"""
    ) == [["resend"], ["send:m"], ["deliver"], 0]
