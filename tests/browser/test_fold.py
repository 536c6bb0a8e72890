"""The fold of server frames into what the screen shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser

Core = Callable[[str], Any]

_FOLD = """
const { fold, joint, prepend, addPending, isBusy } = await load('core/fold.js');
const { newModel } = await load('core/model.js');
const model = newModel('s');
let number = 0;
const event = (event) => ({type: 'event', session_id: 's', cursor: '1.' + (++number) + '.0', event});
const delta = (event_) => event({type: 'stream_event', uuid: 'd' + number, event: event_});
const begin = (id) => delta({type: 'message_start', message: {id}});
const block = (index) => delta({type: 'content_block_start', index, content_block: {type: 'text', text: ''}});
const text = (index, text) => delta({type: 'content_block_delta', index, delta: {type: 'text_delta', text}});
const close = () => [delta({type: 'message_delta', delta: {}}), delta({type: 'message_stop'})];
const said = (id, text) => event({type: 'assistant', uuid: 'a' + number,
    message: {id, content: [{type: 'text', text}]}});
const turn = (id, state, more) => ({type: 'turn', session_id: 's', cursor: '1.' + (++number) + '.1',
    turn_id: id, state, origin: 'user', ...more});
const all = (frames) => frames.flat().forEach((frame) => fold(model, frame));
const open = () => (model.open ? model.open.blocks.filter((b) => !b.done).map((b) => b.text) : null);
const shown = () => model.items.map((item) => [item.kind, item.text ?? item.state ?? item.name]);
"""


@pytest.fixture
def folding(core: Core) -> Core:
    """Evaluate with a model and makers of frames at hand."""
    return lambda script: core(_FOLD + script)


def test_an_assistant_frame_replaces_its_deltas(folding: Core) -> None:
    assert folding(
        """all([begin('m'), block(0), text(0, 'par'), text(0, 'tial')]);
        const before = open();
        all([said('m', 'partial and whole')]);
        const between = open();
        all([block(1), text(1, 'second')]);
        return [before, between, open(), shown()];"""
    ) == [["partial"], [], ["second"], [["text", "partial and whole"]]]


@pytest.mark.parametrize(
    "cut",
    [
        "event({type: 'system', subtype: 'api_retry', uuid: 'r', attempt: 1})",
        "delta({type: 'message_stop'})",
        "begin('n')",
        "{type: 'gap', session_id: 's', from: 'a', to: 'b'}",
    ],
)
def test_deltas_of_a_cut_attempt_are_void(folding: Core, cut: str) -> None:
    seen = folding(f"all([begin('m'), block(0), text(0, 'void'), {cut}]); return [open() ?? [], shown()];")
    assert seen == [[], []]


def test_deltas_without_their_beginning_are_not_shown(folding: Core) -> None:
    assert folding(
        """all([begin('m'), block(0), text(0, 'one '), {type: 'gap', session_id: 's'}, text(0, 'three ')]);
        const hole = open();
        all([said('m', 'one two three '), block(1), text(1, 'next')]);
        return [hole, open(), shown()];"""
    ) == [None, ["next"], [["text", "one two three "]]]


def test_an_answer_is_never_taken_from_the_result(folding: Core) -> None:
    assert folding(
        """all([begin('m'), block(0), said('m', 'first part. '), ...close(),
            begin('n'), block(0), said('n', 'continuation'), ...close(),
            event({type: 'result', uuid: 'r', result: 'continuation', usage: {}})]);
        return shown();"""
    ) == [["text", "first part. "], ["text", "continuation"]]


def test_every_frame_twice_is_as_good_as_once(folding: Core) -> None:
    script = """
        const frames = [turn('t', 'queued', {message_id: 'm', content: 'hi'}), turn('t', 'running'),
            begin('m'), block(0), text(0, 'hel'), said('m', 'hello'), ...close(),
            event({type: 'assistant', uuid: 'x', message: {id: 'n', content: [
                {type: 'tool_use', id: 'tool', name: 'Bash', input: {command: 'ls'}}]}}),
            event({type: 'user', uuid: 'y', message: {content: [
                {type: 'tool_result', tool_use_id: 'tool', content: 'out'}]}}),
            event({type: 'result', uuid: 'z', usage: {output_tokens: 3}}), turn('t', 'succeeded')];
        all(frames);
        const once = JSON.stringify([shown(), model.pending, model.running]);
        all(frames);
        return [once === JSON.stringify([shown(), model.pending, model.running]), shown(), open()];"""
    same, shown, left = folding(script)
    assert same
    assert shown == [["user", "hi"], ["text", "hello"], ["tool", "Bash"], ["outcome", "succeeded"]]
    assert not left


def test_an_own_message_waits_below_until_its_turn_runs(folding: Core) -> None:
    assert folding(
        """all([turn('t1', 'queued', {message_id: 'a', content: 'one'}), turn('t1', 'running')]);
        addPending(model, 'b', 'two');
        all([{type: 'accepted', session_id: 's', message_id: 'b', turn_id: 't2', position: 1},
            turn('t2', 'queued', {message_id: 'b'}), said('m', 'answer one')]);
        const waiting = model.pending.map((entry) => [entry.text, entry.state, entry.position]);
        all([turn('t1', 'succeeded'), turn('t2', 'running'), said('n', 'answer two')]);
        return [waiting, shown(), model.pending.length];"""
    ) == [
        [["two", "queued", 1]],
        [
            ["user", "one"],
            ["text", "answer one"],
            ["outcome", "succeeded"],
            ["user", "two"],
            ["text", "answer two"],
        ],
        0,
    ]


def test_the_words_of_a_message_may_come_as_the_clis_echo(folding: Core) -> None:
    assert folding(
        """all([turn('t', 'queued', {message_id: 'm'}), turn('t', 'running'),
            event({type: 'user', uuid: 't', isReplay: true,
                message: {role: 'user', content: 'from elsewhere'}})]);
        return shown();"""
    ) == [["user", "from elsewhere"]]


def test_a_receipt_after_the_end_changes_nothing(folding: Core) -> None:
    assert folding(
        """addPending(model, 'm', 'hi');
        all([turn('t', 'queued', {message_id: 'm'}), turn('t', 'running'), turn('t', 'succeeded'),
            {type: 'accepted', session_id: 's', message_id: 'm', turn_id: 't', position: 0}]);
        return [shown(), model.pending.length, isBusy(model)];"""
    ) == [[["user", "hi"], ["outcome", "succeeded"]], 0, False]


def test_a_turn_that_was_running_at_subscription_finds_its_place_later(folding: Core) -> None:
    assert folding(
        """all([{type: 'subscribed', session_id: 's', cursor: 'c', state: 'live', pending_permissions: [],
                turn: {turn_id: 't2', state: 'running', origin: 'user', message_id: 'b'}},
            said('m', 'end of one'), turn('t2', 'queued', {message_id: 'b', content: 'two'}),
            turn('t2', 'running'), said('n', 'answer two')]);
        return [shown(), model.running];"""
    ) == [[["text", "end of one"], ["user", "two"], ["text", "answer two"]], "t2"]


def test_an_older_page_goes_before_and_finds_the_result_of_its_tool(folding: Core) -> None:
    assert folding(
        """all([event({type: 'user', uuid: 'y', message: {content: [
                {type: 'tool_result', tool_use_id: 'tool', content: 'out'}]}}), said('m', 'new')]);
        prepend(model, [turn('t', 'running', {content: 'old'}), event({type: 'assistant', uuid: 'x',
            message: {id: 'n', content: [{type: 'tool_use', id: 'tool', name: 'Bash', input: {}}]}})]);
        return [shown(), model.items[1].status, model.items[1].output];"""
    ) == [[["user", "old"], ["tool", "Bash"], ["text", "new"]], "done", "out"]


def test_a_subscription_begins_where_no_block_is_half_written(folding: Core) -> None:
    assert folding(
        """const running = turn('t', 'running');
        const asked = event({type: 'system', subtype: 'status', status: 'requesting', uuid: 's1'});
        const whole = said('m', 'x');
        return [joint([]) === '0', joint([running, asked, turn('u', 'queued')]) === asked.cursor,
            joint([running, asked, whole, turn('u', 'queued')]) === whole.cursor];"""
    ) == [True, True, True]
