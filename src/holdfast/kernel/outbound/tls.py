"""Whom we trust to be who they say."""

from __future__ import annotations

import ssl
from pathlib import Path

from holdfast.kernel.errors import Invalid


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """The machine's trust store, and ``ca_file`` on top of it; there is no way to trust all."""
    # Not create_default_context(): that one would also log session keys where the environment says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    try:
        if not any(ssl.get_default_verify_paths()[:2]):
            import certifi

            context.load_verify_locations(cafile=certifi.where())
        if ca_file is not None:
            context.load_verify_locations(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"cannot read the certificate authorities in {ca_file}: {error}") from error
    return context
