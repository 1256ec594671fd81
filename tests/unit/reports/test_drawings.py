"""Pictures that are kept: as many as fit, those looked at last."""

from __future__ import annotations

from holdfast.reports.drawings import Drawings


def test_no_more_is_kept_than_fits_and_what_was_looked_at_last_stays() -> None:
    drawings = Drawings(10)
    for name in ("a", "b"):
        drawings.keep(("t", name, "png"), b"12345")
    assert drawings.get(("t", "a", "png")) == b"12345"
    drawings.keep(("t", "c", "png"), b"123")
    assert drawings.get(("t", "b", "png")) is None
    assert drawings.get(("t", "a", "png")) == b"12345"
    drawings.keep(("t", "c", "png"), b"12345")
    assert drawings.get(("t", "a", "png")) is not None, "the same once more is not more"
    assert drawings.keep(("t", "d", "png"), b"x" * 11) == b"x" * 11
    assert drawings.get(("t", "d", "png")) is None, "larger than all that fits"
