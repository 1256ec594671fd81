"""The one way in which Holdfast touches the outside. See README.md."""

from holdfast.kernel.outbound.address import AddressInvalid, canonical_host_port, join, parse_target
from holdfast.kernel.outbound.client import OutboundClient, OutboundSettings
from holdfast.kernel.outbound.excerpts import excerpt
from holdfast.kernel.outbound.guard import check_address
from holdfast.kernel.outbound.headers import user_agent
from holdfast.kernel.outbound.model import (
    AddressRefused,
    Fetched,
    FetchFacts,
    FetchLimits,
    OutboundRequest,
    Place,
    RedirectRefused,
    ResponseTooLarge,
    SourceBusy,
    SourceUnavailable,
    SpoolFailed,
    is_retryable,
)
from holdfast.kernel.outbound.rate import HostLimiter
from holdfast.kernel.outbound.replay import ReplayMap
from holdfast.kernel.outbound.resolver import (
    FileResolver,
    Resolver,
    SystemResolver,
    resolver_from_setting,
)
from holdfast.kernel.outbound.scrubbing import scrub

__all__ = [
    "AddressInvalid",
    "AddressRefused",
    "FetchFacts",
    "FetchLimits",
    "Fetched",
    "FileResolver",
    "HostLimiter",
    "OutboundClient",
    "OutboundRequest",
    "OutboundSettings",
    "Place",
    "RedirectRefused",
    "ReplayMap",
    "Resolver",
    "ResponseTooLarge",
    "SourceBusy",
    "SourceUnavailable",
    "SpoolFailed",
    "SystemResolver",
    "canonical_host_port",
    "check_address",
    "excerpt",
    "is_retryable",
    "join",
    "parse_target",
    "resolver_from_setting",
    "scrub",
    "user_agent",
]
