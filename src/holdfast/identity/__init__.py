"""Who may do what.

Built now: the operator token, login links and browser sessions, and the token the gateway signs for
each hop to a role. People, API keys, roles and tenants come with the identity issue; they plug in
behind the same :class:`~holdfast.kernel.principal.Principal` and authoriser.
"""

from holdfast.identity.hop import HopSigner, HopVerifier
from holdfast.identity.login import LoginLinks, Sessions
from holdfast.identity.operator import OperatorToken

__all__ = ["HopSigner", "HopVerifier", "LoginLinks", "OperatorToken", "Sessions"]
