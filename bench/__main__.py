"""``python -m bench`` runs every benchmark, one after the other."""

from __future__ import annotations

import sys

from bench import dropped_server, gateway_turn, sandbox_start, warm_turn

sys.exit(max(warm_turn.main(), gateway_turn.main(), sandbox_start.main(), dropped_server.main()))
