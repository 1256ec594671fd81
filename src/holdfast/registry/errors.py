"""How a profile can be refused."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.kernel.errors import Conflict, Invalid, NotFound, Problem, Unsupported


class ProfileInvalid(Invalid):
    """The document is not a profile; ``problems`` lists everything that is wrong with it."""

    code = "profile-invalid"


class ProfileUnsupported(Unsupported):
    """A good profile that asks for parts which this build cannot carry out; each is named."""

    code = "profile-unsupported"


class ProfileUnknown(NotFound):
    """No profile of this name, or no version with this digest, for this caller."""

    code = "profile-unknown"


class ProfileChanged(Conflict):
    """The profile is no longer what the caller said it was."""

    code = "precondition-failed"


def refusal(
    name: str, problems: Sequence[Problem], unsupported: Sequence[Problem]
) -> ProfileInvalid | ProfileUnsupported:
    """The one error for all that keeps a document from being published."""
    subject = f"the profile {name}" if name else "this profile"
    if problems:
        return ProfileInvalid(
            f"cannot use {subject}: {_count(len(problems) + len(unsupported))}",
            problems=[*problems, *unsupported],
            hint="`holdfast profile validate FILE` checks a file without publishing it",
        )
    return ProfileUnsupported(
        f"cannot publish {subject}: this build does not carry out "
        + ", ".join(problem.path for problem in unsupported),
        problems=unsupported,
    )


def _count(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"
