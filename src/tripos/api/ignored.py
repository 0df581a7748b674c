"""Tells a client what of its request is not heeded, and counts it; or refuses, where a route is strict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.wire.fields import refuse_unknown
from tripos.wire.ignored import Ignored, header_value


def report(exchange: Exchange, service: Service, ignored: Sequence[Ignored]) -> None:
    """Once the model is known, before the response begins. Raises InvalidRequest (unknown_field) on a strict route."""
    if not ignored:
        return
    if service.is_strict(exchange.model):
        refuse_unknown(ignored)
    exchange.add_header(b"x-tripos-ignored: %b\r\n" % header_value(ignored).encode("ascii"))
    for group, num in Counter(each.group for each in set(ignored)).items():
        service.metrics.ignored.labels(model_name=exchange.model, group=group).value += num
