"""The other systems of Tables 1 and 2: small sizes and published recipes, one file for each system.

Their defaults are the published sizes. QB-GFSLT-VLP and GFSLT-VLP are rows of Table 4: SSL-SSAW without SSAW
and SSL, and the latter also without the question.
"""

from typing import Any

from configs.systems import csgcr, gaslt, gbt, mmtlb, nslt, signbt, slrt, stmc_t, ts_slt, tspnet

_RECIPES = {
    "nslt": nslt,
    "tspnet": tspnet,
    "csgcr": csgcr,
    "gaslt": gaslt,
    "slrt": slrt,
    "signbt": signbt,
    "mmtlb": mmtlb,
    "gbt": gbt,
    "stmc_t": stmc_t,
    "ts_slt": ts_slt,
}
OTHER_SYSTEMS = {row: name for name, recipe in _RECIPES.items() for row in recipe.SMALL}
"""The rows of other systems -> the system's name."""

SMALL: dict[str, dict[str, Any]] = {
    row: changes for recipe in _RECIPES.values() for row, changes in recipe.SMALL.items()
}
"""What each row changes in a small base."""

PUBLISHED: dict[str, dict[str, Any]] = {
    row: changes for recipe in _RECIPES.values() for row, changes in recipe.PUBLISHED.items()
}
"""The recipe of each row, from its public code or paper."""

PUBLISHED_ON: dict[str, dict[str, Any]] = {
    row: changes
    for recipe in _RECIPES.values()
    for row, changes in getattr(recipe, "PUBLISHED_ON", {}).items()
}
"""What is special in a row's public recipe for one dataset, by "BASE/ROW"."""
