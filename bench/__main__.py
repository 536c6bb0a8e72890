"""``python -m bench`` runs every benchmark, one after the other."""

from __future__ import annotations

import sys

from bench import warm_turn

sys.exit(warm_turn.main())
