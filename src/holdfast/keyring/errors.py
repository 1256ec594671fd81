"""Failures of the keyring."""

from __future__ import annotations

from holdfast.kernel.errors import Conflict, Corrupt, Denied, NotFound, Unavailable


class MasterKeyMissing(Unavailable):
    """There are wrapped keys or sealed data, and no master key: nothing is made in its place."""

    code = "master-key-missing"


class MasterKeyForeign(Corrupt):
    """The master key fails the check value: it is another keyring's."""

    code = "master-key-foreign"


class KeyringMissing(Unavailable):
    """The data carries a keyring's mark, and the keyring here is empty or another one."""

    code = "keyring-missing"


class KeyringForeign(Unavailable):
    """Others seal under another keyring in the same database: neither could open the other's."""

    code = "keyring-foreign"


class KeyDestroyed(NotFound):
    """The key was destroyed, or there never was one: what it sealed cannot be read by anybody."""

    code = "key-destroyed"


class SubjectUnknown(NotFound):
    """Nobody of that name was ever heard of here: there is nothing to erase."""

    code = "subject-unknown"


class SubjectHeld(Conflict):
    """A legal hold keeps the subject's data; the message gives its reason."""

    code = "subject-held"


class SubjectRetained(Conflict):
    """The subject's data must be kept until a date; the message gives it and the reason."""

    code = "subject-retained"


class NotThisRole(Denied):
    """This process has no business with keys of that purpose."""

    code = "key-not-for-this-role"
