"""Which XPaths a profile may use. Pure: the drone compiles what this admits.

XPath 1.0 location paths whose cost is bounded by the record: steps down, to attributes and to
ancestors, ``//`` at most once, and predicates that compare with a text or count. No functions, no
variables, no siblings: those would ask for what a stream has already let go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

FEED_NAMESPACES = {
    "atom": "http://www.w3.org/2005/Atom",
    "rss": "http://purl.org/rss/1.0/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/",
    "content": "http://purl.org/rss/1.0/modules/content/",
    "sy": "http://purl.org/rss/1.0/modules/syndication/",
    "georss": "http://www.georss.org/georss",
    "geo": "http://www.w3.org/2003/01/geo/wgs84_pos#",
    "gml": "http://www.opengis.net/gml",
    "media": "http://search.yahoo.com/mrss/",
    "cap": "urn:oasis:names:tc:emergency:cap:1.2",
    "m": "http://schemas.microsoft.com/ado/2007/08/dataservices/metadata",
    "d": "http://schemas.microsoft.com/ado/2007/08/dataservices",
}
"""Prefixes that the paths of a ``feed`` may use without declaring them."""

_NAME = r"[A-Za-z_\u0080-\uffff][\w.\-\u0080-\uffff]*"
_NAMED = rf"(?:({_NAME}):)?(?:{_NAME}|\*)"
_INNER = rf"(?:@?(?:{_NAME}:)?{_NAME}|\.)(?:/@?(?:{_NAME}:)?{_NAME}){{0,3}}"
_TEST = rf"{_INNER}(?:\s*!?=\s*(?:'[^']*'|\"[^\"]*\"))?"
_PREDICATE = rf"\[\s*(?:[1-9][0-9]{{0,5}}|last\(\)|{_TEST}(?:\s+and\s+{_TEST}){{0,3}})\s*\]"
_AXIS = r"(?:ancestor|ancestor-or-self|child|parent|self|descendant)::"
_STEP = rf"(?:\.\.|\.|text\(\)|@{_NAMED}|(?:{_AXIS})?{_NAMED})(?:{_PREDICATE})*"
_PATH = rf"/{{0,2}}{_STEP}(?:/{{1,2}}{_STEP})*"
_RECORDS = re.compile(rf"(//?)({_NAMED})")
_PREFIX = re.compile(rf"(?<![:\w.-])({_NAME}):(?!:)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_STEPS_MAX = 16


@cache
def _path() -> re.Pattern[str]:
    """Compiled when first asked for: that takes 0.2 s, and few profiles have such paths."""
    return re.compile(_PATH)


def leads_out(path: str) -> bool:
    """Whether a path selects something outside the record itself."""
    return path.startswith(("/", "..", "./..", "ancestor::", "parent::")) or "/.." in path


def path_problem(path: str, namespaces: Mapping[str, str]) -> str:
    """Why ``path`` cannot be used for a value; empty if it can."""
    if not _path().fullmatch(path):
        return (
            "it is no location path such as name, @attribute, a/b[@id='x']/@value or "
            "../header (functions and sibling axes are not read)"
        )
    if len(re.findall(r"/{1,2}", path)) > _STEPS_MAX:
        return f"it has more than {_STEPS_MAX} steps"
    bare = _QUOTED.sub("''", path)
    if bare.count("//") + bare.count("descendant::") > 1:
        return "it searches at all depths more than once"
    return _undeclared(bare, namespaces)


def _undeclared(path: str, namespaces: Mapping[str, str]) -> str:
    for prefix in _PREFIX.findall(path):
        if prefix not in namespaces:
            known = ", ".join(sorted(namespaces)) or "none"
            return f"the prefix {prefix} is not in source.format.namespaces (there: {known})"
    return ""


def record_steps(path: str, namespaces: Mapping[str, str]) -> list[tuple[bool, str]] | str:
    """The steps of a records path, each with whether it may be at any depth; or why it is none.

    A name is written as ``{namespace}local``; ``*`` stays what it is.
    """
    steps: list[tuple[bool, str]] = []
    at = 0
    while at < len(path):
        match = _RECORDS.match(path, at)
        if match is None:
            return (
                "it must lead from the root, as in /rss/channel/item or //generic:Series/"
                "generic:Obs, by names alone"
            )
        at = match.end()
        name, prefix = match[2], match[3]
        if prefix is not None:
            if prefix not in namespaces:
                return _undeclared(name, namespaces)
            name = f"{{{namespaces[prefix]}}}{name.partition(':')[2]}"
        steps.append((match[1] == "//", name))
    if not steps or len(steps) > _STEPS_MAX:
        return "it is empty" if not steps else f"it has more than {_STEPS_MAX} steps"
    if sum(anywhere for anywhere, _ in steps) > 2:
        return "it searches at all depths more than twice"
    return steps
