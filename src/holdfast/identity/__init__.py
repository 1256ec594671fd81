"""Who may do what.

People and their sessions, API keys, roles, tenants, the operator token, login links, and the token
the gateway signs for each hop to a role; whoever it is becomes one
:class:`~holdfast.kernel.principal.Principal`. See the README of this slice.
"""

from holdfast.identity.hop import HopSigner, HopVerifier
from holdfast.identity.login import LoginLinks
from holdfast.identity.operator import OperatorToken

__all__ = ["HopSigner", "HopVerifier", "LoginLinks", "OperatorToken"]
