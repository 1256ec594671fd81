"""What to try next, for failures that carry no hint of their own. Pure.

Whoever raises knows best and says so in the error's ``hint``. What is here is for the rest, so that
no message of the command line ends with what went wrong alone.
"""

from __future__ import annotations

from holdfast.kernel.errors import HoldfastError, Kind

LISTED: dict[str, str] = {
    **{
        noun: f"{noun} list"
        for noun in (
            *("profile", "run", "reject", "report", "worker", "task"),
            *("apikey", "person", "session", "tenant", "role"),
        )
    },
    "record": "record list --profile NAME",
}
"""Nouns whose things can be listed, and by what."""

_PRIVATE = (
    "only public addresses are contacted; an operator can allow an exact one, where the drone runs "
    "(or `holdfast up`), with HOLDFAST_COLLECT_ALLOW=HOST:PORT"
)

BY_CODE: dict[str, str] = {
    "unreachable": "see that this machine reaches that host: its name, the network, a firewall "
    "(proxy variables are ignored); `holdfast fixture serve DIR --replay-map FILE` answers from "
    "recorded files instead (HOLDFAST_COLLECT_REPLAY_FILE=FILE)",
    "timeout": "the source is slow or gone: try again later, or raise the profile's limits",
    "tls-refused": "open the address in a browser to see its certificate; for an authority of your "
    "own name its PEM file in HOLDFAST_COLLECT_CA_FILE",
    "truncated": "try again; if it stays, the source sends less than it says",
    "protocol-error": "that is no HTTP answer: see that the address is right",
    "status": "see that source.url is right and whether the source wants credentials (source.auth)",
    "http-status": "the source answered that: see that source.url is right and whether it wants "
    "credentials (source.auth)",
    "source-busy": "the source asks for fewer requests: try again later",
    "source-refused": "see that source.url and its parameters are right",
    "address-refused": _PRIVATE,
    "guard-refused": _PRIVATE,
    "redirect-refused": "put the address it leads to into source.url",
    "response-too-large": "raise the profile's limits, or ask for less at a time",
    "spool-failed": "see that the disk has room and can be written (HOLDFAST_COLLECT_SPOOL_DIR)",
    "parse": "see that source.format says what the source really sends",
    "mapping": "`holdfast profile validate FILE` lists what is wrong in a profile",
    "duplicate-keys": "two rows had the same values in all fields that the profile's `key` names, "
    "and would be one record: add the field that tells them apart to `key`; if the source corrects "
    "a row by a later one, `duplicates: last` takes that; if rows may be alike, `key: position` "
    "counts them",
    "role-unreachable": "`holdfast health` and `holdfast doctor` say which role is down",
    "foreign-answer": "something else answers at that address, or stands before it: see that "
    "--control-plane (or HOLDFAST_URL) names the gateway of a Holdfast",
    "answer-unreadable": "what answers there may be no Holdfast: see that --control-plane (or "
    "HOLDFAST_URL) names the gateway of one",
    "route-not-found": "if that is one role of several, ask the gateway: name its data directory "
    "with --data-dir, or its address with --control-plane; else see that its release is this one's",
    "profile-unknown": "`holdfast profile list` shows the profiles",
    "run-not-found": "`holdfast run list` shows the runs",
    "task-not-found": "`holdfast task list` shows the tasks",
    "worker-not-found": "`holdfast worker list` shows the workers",
    "record-not-found": "`holdfast record list --profile NAME --json` shows records and their ids",
    "invitation-not-found": "`holdfast person invitations` shows the invitations and their ids",
    "not-published": "`holdfast profile list` shows the profiles, `holdfast profile run NAME` "
    "collects one",
    "key-not-found": "`holdfast apikey list` shows the keys: their names and, last, their ids",
    "entry-unknown": "`holdfast ledger status` says how many entries there are",
    "size-unknown": "`holdfast ledger status` says how many entries there are",
    "note-invalid": "see that it is a checkpoint of this log, and that the policy file is not from "
    "before the log's last rotation",
    "log-changed": "keep the file: it is the evidence; ask whoever operates the log",
    "key-unknown": "the key was revoked, has expired or is mistyped: ask whoever gave it to you "
    "for a new one",
    "cursor-invalid": "leave --cursor out to begin with the first page",
    "schema-newer": "start the newer release of holdfast, or restore the copy made before it",
    "database-in-use": "stop the other process, or give this one a --data-dir of its own",
    "address-taken": "choose another with --port, or --port 0 for a free one",
}
"""Error code → what to try."""

BY_KIND: dict[Kind, str] = {
    Kind.INVALID: "`holdfast {noun}--help` shows what it takes",
    Kind.UNAUTHENTICATED: "the operator's token lies in the data directory and is for the system "
    "that runs on it: name that with --data-dir; for any other system name a file that holds a "
    "token of that one with HOLDFAST_OPERATOR_TOKEN_FILE",
    Kind.DENIED: "sign in as somebody who may do this, or ask the operator",
    Kind.NOT_FOUND: "`holdfast {listed}` shows what there is",
    Kind.CONFLICT: "look at how it is now, then try again",
    Kind.TOO_LARGE: "send less at a time, or raise the bound that the message names",
    Kind.UNSUPPORTED: "`holdfast {noun}--help` shows what it takes",
    Kind.MISDIRECTED: "see that --control-plane names the gateway as it is meant to be called",
    Kind.EXHAUSTED: "wait a moment, then try again",
    Kind.UNAVAILABLE: "`holdfast doctor` says what is down",
    Kind.OUTCOME_UNKNOWN: "it may have been done: look before you repeat it",
    Kind.CORRUPT: "`holdfast doctor` says what is damaged; keep the data as it is until you know",
    Kind.INTERNAL: "this is a defect of ours: the log of the system has the details",
}
"""Kind → what to try."""


def hint_for(error: HoldfastError, noun: str = "") -> str:
    """The error's own hint, or the best there is for its code, or for its kind.

    ``noun`` is what the command was about, if known: ``record`` of ``holdfast record show``.
    """
    if error.hint:
        return error.hint
    known = BY_CODE.get(error.code)
    if known is not None:
        return known
    if error.problems and error.kind is Kind.INVALID:
        return "correct what is listed above, then try again"
    if noun and noun not in LISTED and error.kind is Kind.NOT_FOUND:
        return BY_KIND[Kind.INVALID].format(noun=f"{noun} ")
    listed = LISTED.get(noun, LISTED["profile"])
    return BY_KIND[error.kind].format(noun=f"{noun} " if noun else "", listed=listed)
