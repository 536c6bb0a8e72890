"""What tokens cost by a provider's price table. Pure; US dollars."""

from __future__ import annotations

from collections.abc import Mapping

from server.gateway.meter import Tokens

SORTS = ("input", "output", "cache_read", "cache_write")
ANY_MODEL = "*"
_PER = 1_000_000

Prices = Mapping[str, Mapping[str, float]]


def price_of(prices: Prices, *models: str | None) -> Mapping[str, float] | None:
    """The row of the first of ``models`` that has one, else the row ``*``, else None."""
    for model in (*models, ANY_MODEL):
        if model is not None and model in prices:
            return prices[model]
    return None


def cost_of(tokens: Tokens, price: Mapping[str, float]) -> float:
    """Dollars; a sort without a price costs what input costs, so that nothing is free by omission."""
    base = price.get("input", 0.0)
    return (
        tokens.input * base
        + tokens.output * price.get("output", base)
        + tokens.cache_read * price.get("cache_read", base)
        + tokens.cache_write * price.get("cache_write", base)
    ) / _PER
