"""Approvals, health and to-do lists in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser

Core = Callable[[str], Any]


def test_an_approval_shows_every_value_that_will_be_used(core: Core) -> None:
    parts: list[dict[str, str]] = core(
        """const { approvalParts } = await load('core/tools.js');
        return approvalParts('Bash', {command: 'ls', run_in_background: true, timeout: 5});"""
    )
    assert parts[0]["text"] == "ls"
    assert json.loads(parts[1]["text"]) == {"run_in_background": True, "timeout": 5}


def test_health_becomes_banners(core: Core) -> None:
    seen = core(
        """const { bannersOf } = await load('core/health.js');
        return [{}, null, {status: 'ok', checks: {isolation: {ok: true}}, model: {kind: 'anthropic'}},
            {status: 'draining', checks: {isolation: {ok: false}}, model: 'demo'}]
            .map((health) => bannersOf(health).map((banner) => banner.id));"""
    )
    assert seen == [[], [], [], ["isolation", "draining", "demo"]]


def test_a_wait_in_line_is_told_with_place_and_estimate(core: Core) -> None:
    seen = core(
        """const { activityWords } = await load('core/wording.js');
        const { newModel } = await load('core/model.js');
        const { fold } = await load('core/fold.js');
        const model = {...newModel('s'), pending: [{messageId: 'm', state: 'queued'}]};
        const told = [];
        let number = 0;
        for (const more of [{}, {queue: {position: 3, of: 7, limit: 'pool'}},
            {queue: {position: 2, of: 7, limit: 'pool', estimate_seconds: 20}},
            {queue: {position: 9, of: 9, limit: 'pool', estimate_seconds: 150}},
            {queue: {position: 1, of: 1, limit: 'own'}}, {}, {state: 'live'}]) {
            const at = {session_id: 's', cursor: `1.0.${++number}`};
            fold(model, {type: 'session', ...at, state: 'waking', ...more});
            told.push(activityWords(model));
        }
        return told;"""
    )
    assert seen == [
        "Waking up…",
        "In line: place 3 of 7",
        "In line: place 2 of 7, about 20 s",
        "In line: place 9 of 9, about 3 min",
        "In line: it starts when another of your sessions is done",
        "Waking up…",
        "Waiting for its turn…",
    ]


def test_to_dos_follow_both_kinds_of_tools(core: Core) -> None:
    seen = core(
        """const { todosOf } = await load('core/todos.js');
        const tool = (name, input, structured) => ({name, input, structured, status: 'done'});
        const made = (id, subject) => tool('TaskCreate', {subject}, {task: {id}});
        const set = (taskId, status) => tool('TaskUpdate', {taskId, status});
        const todo = {content: 'x', activeForm: 'doing x', status: 'in_progress'};
        return [[made('7', 'a'), set(7, 'completed'), made('8', 'b'), set('8', 'deleted')],
            [tool('TodoWrite', {todos: [todo]})]].map(todosOf);"""
    )
    assert seen == [
        [{"id": "7", "text": "a", "status": "completed"}],
        [{"id": "1", "text": "doing x", "status": "in_progress"}],
    ]
