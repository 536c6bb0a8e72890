"""What the server says to a user without being asked."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visitors

pytestmark = pytest.mark.browser

TEXT = "90 % of usd_per_day of the team lab are used; it begins anew at 2026-03-16 00:00 UTC"
NOTICE = {
    "type": "notice",
    "code": "quota_warning",
    "message": TEXT,
    "details": {"quota": "usd_per_day", "team": "lab", "limit": 10, "used": 9, "resets_at": 1773619200},
}


def test_a_limit_that_is_near_is_shown_until_it_is_dismissed(visitors: Visitors) -> None:
    chat = visitors.new_chat()
    banner = chat.at("banner-notice-quota_warning-usd_per_day-lab-1773619200")
    expect(banner).to_have_count(0)
    visitors.site.fake("notice", user=visitors.name, body=json.dumps(NOTICE))
    expect(banner).to_contain_text(TEXT)
    chat.ask("hello")
    expect(banner).to_have_count(1)
    banner.get_by_role("button").click()
    expect(banner).to_have_count(0)
    # A connection that comes back brings it again, and what was dismissed stays away.
    visitors.site.fake("close", code=0, user=visitors.name)
    chat.ask("hello again")
    expect(banner).to_have_count(0)
    chat.page.reload()
    chat.ready()
    expect(banner).to_contain_text(TEXT)
