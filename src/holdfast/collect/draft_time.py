"""The period that fields seem to hold. A guess for a draft. Pure."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC

from holdfast.collect import values
from holdfast.collect.draft_names import last_part, slug
from holdfast.collect.infer import InferredField
from holdfast.collect.recognised import Plain

TIME = re.compile(
    r"(^|[^a-z])(date|time|year|yyyy|yr|month|period|quarter|week|day|datum|jahr|monat|ann[eé]e|mois|anno|mese|fecha|mes|zeit|jaar|perioden|"
    r"ref_date|obsdimension|pubdate|timestamp|dt)|(date|time|year)$", re.I,
)  # fmt: skip

_YEAR_TEXT = re.compile(r"(1[5-9]|20|21)\d\d")
_SPELLINGS: tuple[tuple[str, str], ...] = (
    (r"(1[5-9]|20|21)\d\d([-/ ]?M?(0[1-9]|1[0-2])|[-/M][1-9])", "M"),
    (r"\d{4}[- ]?Q0?[1-4]", "Q"),
    (r"\d{4}[- ]?[SH]0?[12]", "S"),
    (r"\d{4}[- ]?W\d{1,2}", "W"),
)
_DAYS = ("%Y%m%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y",
         "%d/%m/%y", "%d.%m.%y",
         "%Y/%m/%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y",
         "%Y-%m-%dZ", "%b %Y", "%B %Y", "%b-%y", "%m/%Y", "%m.%Y")  # fmt: skip
_YEAR = "(?P<year>(?:1[5-9]|20|21)[0-9]{2})"
SPAN = "[/-](?:[0-9]{4}|[0-9]{2})"
_CODINGS: tuple[dict[str, str], ...] = (
    {f"Q(?P<sub>[1-4])[ /-]?{_YEAR}": "Q"},
    {f"(?P<sub>[1-4])[ -]?Q[ /-]{_YEAR}": "Q"},
    {f"M(?P<sub>0[1-9]|1[0-2])[ /-]{_YEAR}": "M"},
    {f"(?:W|KW|CW) ?(?P<sub>0?[1-9]|[1-4][0-9]|5[0-3])[ /-]{_YEAR}": "W"},
    {
        f"{_YEAR}JJ00": "A",
        f"{_YEAR}HJ(?P<sub>0[12])": "S",
        f"{_YEAR}KW(?P<sub>0[1-4])": "Q",
        f"{_YEAR}MM(?P<sub>0[1-9]|1[0-2])": "M",
    },
)
"""What publishers write that no pattern of days can read, each with the words of its kind."""
_MONTH_13 = re.compile(r"(1[5-9]|20|21)\d\d([-/ ]?M?)(0[1-9]|1[0-3])")


def period_of(
    fields: list[InferredField], texts: dict[str, list[str]]
) -> tuple[Plain | None, set[str]]:
    """The period that the fields suggest, and the paths it uses up."""
    by_name = {slug(each.path): each for each in fields}
    year, month = by_name.get("year"), by_name.get("month") or by_name.get("mo")
    day, coded = by_name.get("day"), by_name.get("period")
    if year and month and year.type == month.type == "integer":
        if day and day.type == "integer":
            joined = [year.path, month.path, day.path]
            return {"join": joined, "format": "%Y-%m-%d", "frequency": "D"}, set(joined)
        joined = [year.path, month.path]
        return {"join": joined, "format": "%Y-%m", "frequency": "M"}, set(joined)
    codes = texts.get(coded.path, []) if coded else []
    if year and coded and codes and all(re.fullmatch(r"[MQSA]\d\d", code) for code in codes):
        return _coded_period(year, coded, codes), {year.path, coded.path}
    best: tuple[float, Plain, str] | None = None
    for place, each in enumerate(fields):
        found = texts.get(each.path, [])
        guess = as_period(each, found) if found and each.present else None
        if guess is None:
            continue
        named = TIME.search(last_part(each.path)) is not None
        score = (100 if named else 0) + min(each.distinct, 50) - place / 10
        if best is None or score > best[0]:
            best = (score, guess, each.path)
    return (best[1], {best[2]}) if best else (None, set())


def _coded_period(year: InferredField, coded: InferredField, texts: list[str]) -> Plain:
    letters = Counter(text[0] for text in texts)
    codings = {
        "(?P<year>[0-9]{4})-M(?P<sub>0[1-9]|1[0-2])": "M",
        "(?P<year>[0-9]{4})-M13": "A",
        "(?P<year>[0-9]{4})-Q(?P<sub>0[1-4])": "Q",
        "(?P<year>[0-9]{4})-(?:Q05|A01|S03)": "A",
        "(?P<year>[0-9]{4})-S(?P<sub>0[12])": "S",
    }
    kept = {k: v for k, v in codings.items() if any(re.fullmatch(k, f"2000-{t}") for t in texts)}
    frequency = letters.most_common(1)[0][0]
    return {"join": [year.path, coded.path], "frequency": frequency, "codings": kept}


def as_period(each: InferredField, texts: list[str]) -> Plain | None:
    path = {"path": each.path}
    if all(re.fullmatch(r"\d{4}-?W\d{1,2}", text) for text in texts):
        return path | {"frequency": "W"}
    if each.type == "date":
        return path | {"frequency": frequency_of(texts)}
    if each.type == "datetime":
        form = {"format": each.format} if each.format else {}
        midnight = not each.format and all("T00:00:00" in text for text in texts)
        # Of a midnight elsewhere the day depends on `timezone`, which no page says.
        days = midnight and not offsets_of(texts)
        return path | form | {"frequency": frequency_of(texts) if days else "I"}
    if not TIME.search(last_part(each.path)):
        if _are_months(texts):
            return path | {"frequency": "M"}
        if _are_days(texts):
            return path | {"frequency": "D", "format": "%Y%m%d"}
        if each.type != "string":
            return None
    elif all(_YEAR_TEXT.fullmatch(text) for text in texts):
        return path | {"frequency": "A"}
    if _are_spans(texts):
        return path | {"frequency": "A", "codings": {f"{_YEAR}{SPAN}": "A"}}
    for pattern, frequency in _SPELLINGS:
        if all(re.fullmatch(pattern, text) for text in texts):
            months = {f"{text[:4]}-{text[-2:]}-01" for text in texts if text[-2:].isdigit()}
            quarterly = frequency == "M" and frequency_of(sorted(months)) == "Q"
            if quarterly and all("-" in text for text in texts):
                return path | {"frequency": "Q", "format": "%Y-%m"}
            return path | {"frequency": frequency}
    for codings in _CODINGS:
        used = {k: v for k, v in codings.items() if any(re.fullmatch(k, t) for t in texts)}
        if all(any(re.fullmatch(coding, text) for coding in used) for text in texts):
            frequency = Counter(
                v for t in texts for k, v in used.items() if re.fullmatch(k, t)
            ).most_common(1)[0][0]
            return path | {"frequency": frequency, "codings": used}
    if all(_MONTH_13.fullmatch(text) for text in texts):
        mark = _MONTH_13.fullmatch(texts[0])
        between = re.escape(mark[2]) if mark else ""
        return path | {"frequency": "M", "codings": {f"(?P<year>[0-9]{{4}}){between}13": "A"}}
    if all(re.match(r"[A-Z][a-z]{2}, \d\d? [A-Z][a-z]{2} \d{4} ", text) for text in texts):
        return path | {"format": "rfc-2822", "frequency": "I"}
    for form_ in _DAYS:
        if found := days_of(texts, form_):
            frequency = "M" if "%d" not in form_ else frequency_of(found)
            return path | {"frequency": frequency, "format": form_}
    return None


def offsets_of(texts: list[str]) -> list[str]:
    """The offsets from UTC that times are written with, but for none."""
    found = (_OFFSET.search(text) for text in texts)
    return sorted({match[0] for match in found if match and match[0].strip("+-0:")})


_OFFSET = re.compile(r"(?<=[0-9])[+-][0-9]{2}:?[0-9]{2}$")


def _are_spans(texts: list[str]) -> bool:
    """Whether ``2005/06`` are years from one to the next, and no months: several, each such."""
    found = [re.fullmatch(f"{_YEAR}{SPAN}", text) for text in texts]
    told = [(int(m["year"]) + 1, re.split(r"[/-]", m[0])[1]) for m in found if m]
    return (
        len(set(told)) > 1
        and len(told) == len(texts)
        and all(str(year).endswith(end) for year, end in told)
    )


def _are_months(texts: list[str]) -> bool:
    """Whether numbers such as ``202001`` are months, whatever they are called: one after another,
    of some years."""
    if len(texts) < 6 or not all(
        re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])", text) for text in texts
    ):
        return False
    months = sorted(int(text[:4]) * 12 + int(text[4:]) for text in set(texts))
    return months[-1] - months[0] < 2 * len(months)


def _are_days(texts: list[str]) -> bool:
    """Whether numbers such as ``20200131`` are days, whatever they are called: several, and each is
    one of the calendar's. Of any such numbers one in a hundred is."""
    if len(texts) < 3 or not all(re.fullmatch(r"(19|20)[0-9]{6}", text) for text in texts):
        return False
    return bool(days_of(texts, "%Y%m%d"))


def clockless(texts: list[str]) -> bool:
    """Whether times name no zone, by an offset or a letter."""
    return not any(re.search(r"[A-Za-z]{1,5}$|[+-][0-9]{2}:?[0-9]{2}$", text) for text in texts)


def days_of(texts: list[str], pattern: str) -> list[str]:
    """The days that all the texts name under a pattern; none if one of them does not."""
    try:
        return [values.day(text, pattern, UTC).isoformat() for text in texts]
    except ValueError:
        return []


def frequency_of(texts: list[str]) -> str:
    """Days, unless they are the first days of months, quarters or years."""
    if len(texts) < 3 or any(text[8:10] != "01" for text in texts):
        return "D"
    months = {text[5:7] for text in texts}
    if len(months) == 1:
        return "A"
    regular = {frozenset(f"{m:02d}" for m in range(first, 13, 3)) for first in (1, 2, 3)}
    return "Q" if frozenset(months) in regular else "M"
