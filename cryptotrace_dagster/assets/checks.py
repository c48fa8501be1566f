"""The asset checks: each puts one question of `pipeline/checks.py` to one asset."""

from collections.abc import Callable
from datetime import date

import dagster as dg

from cryptotrace_dagster.assets.common import bars_began_at
from cryptotrace_dagster.domain.windows import day_window, utc_now
from cryptotrace_dagster.pipeline import checks
from cryptotrace_dagster.pipeline.checks import Finding, Made
from cryptotrace_dagster.resources.exchange import ExchangeResource
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.storage import Warehouse

_ERROR, _WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def _check(
    asset: str,
    question: Callable[[Warehouse], Finding],
    *,
    name: str | None = None,
    severity: dg.AssetCheckSeverity = _ERROR,
    blocking: bool = False,
    description: str | None = None,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=name or question.__name__,
        description=description or question.__doc__,
        blocking=blocking,
    )
    def ask(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        return _result(question(warehouse.open()), severity)

    return ask


def _result(found: Finding, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=found.passed, severity=severity, description=found.sentence, metadata=dict(found.counts)
    )


def _now(question: Callable[..., Finding]) -> Callable[[Warehouse], Finding]:
    def ask(warehouse: Warehouse) -> Finding:
        return question(warehouse, utc_now())

    ask.__name__, ask.__doc__ = question.__name__, question.__doc__
    return ask


@dg.asset_check(asset="ohlc_bars", description=checks.bars_equal_the_exchanges_klines.__doc__)
def bars_equal_the_exchanges_klines(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource, exchange: ExchangeResource
) -> dg.AssetCheckResult:
    with exchange.rest() as rest:
        return _result(checks.bars_equal_the_exchanges_klines(warehouse.open(), rest, _made(context)), _ERROR)


@dg.asset_check(asset="ohlc_bars", description=checks.bars_add_up_to_the_ticks.__doc__)
def bars_add_up_to_the_ticks(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    return _result(checks.bars_add_up_to_the_ticks(warehouse.open(), _made(context)), _ERROR)


def _made(context: dg.AssetCheckExecutionContext) -> Made | None:
    """Return the day whose bars this run has made; none where it only asks."""
    day, began = context.run.tags.get("dagster/partition"), bars_began_at(context.instance, context.run.run_id)
    return Made(day_window(date.fromisoformat(day)), began) if day and began else None


ALL_CHECKS = [
    bars_add_up_to_the_ticks,
    bars_equal_the_exchanges_klines,
    _check("raw_ticks", checks.trade_ids_are_unique, blocking=True),
    _check("raw_ticks", _now(checks.trade_ids_are_consecutive)),
    _check("raw_ticks", checks.ranges_match_the_ticks, blocking=True),
    _check("raw_ticks", _now(checks.ticks_are_fresh), severity=_WARN),
    _check("ohlc_bars", checks.bars_are_consistent, blocking=True),
    _check("ohlc_bars", _now(checks.no_bar_lies_in_the_future)),
    _check("features", checks.features_are_finite, blocking=True),
    _check("alert_deliveries", _now(checks.every_alert_has_a_delivery)),
    _check("alert_deliveries", checks.no_route_is_stopped),
]
