"""Which element of an XML document is a record, and what stands around it. A guess."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import Any

from lxml import etree

from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats.xml import split_name
from holdfast.collect.recognised import ROWS_LOOKED_AT, Plain, Recognised, other


def markup_of(data: bytes, whole: bool, records: str, kind: str) -> Recognised:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, recover=not whole,
        remove_comments=True, remove_pis=True, huge_tree=False,
    )  # fmt: skip
    try:
        root: Any = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ParseFailed(f"cannot write a profile: this is no XML: {str(error)[:200]}") from error
    if root is None:
        raise ParseFailed("cannot write a profile: this is no XML")
    found = _of_markup(root, records, kind)
    matched, returned = root.get("numberMatched", ""), root.get("numberReturned", "")
    if matched.isdigit() and returned.isdigit() and int(matched) > int(returned):
        found.notes.append(
            f"This is a part (numberMatched is {matched}, numberReturned {returned}): ask for all "
            "at once, or for JSON with `pagination`."
        )
    return found


def _of_markup(root: Any, records: str, kind: str) -> Recognised:
    namespaces = _prefixes(root)
    if records:
        return Recognised({"type": "xml", "records": records, "namespaces": namespaces})
    feed = split_name(root.tag)[1] in {"rss", "feed", "RDF"}
    if kind == "feed" and not feed:
        raise other(kind, "other XML")
    if feed and kind != "xml":
        from holdfast.registry.xpath import FEED_NAMESPACES

        known = set(FEED_NAMESPACES.values())
        extra = {prefix: uri for prefix, uri in namespaces.items() if uri not in known}
        return Recognised({"type": "feed", **({"namespaces": extra} if extra else {})})
    return _repeated(root, namespaces)


_XML = "http://www.w3.org/XML/1998/namespace"
"""What ``xml:lang`` is in: no document declares it."""


def _prefixes(root: Any) -> dict[str, str]:
    """A prefix for each of the first namespaces; the default one needs one of ours."""
    found: dict[str, str] = {}
    for element in root.iter():
        if any(name.startswith(f"{{{_XML}}}") for name in element.attrib):
            found["xml"] = _XML
        for prefix, uri in element.nsmap.items():
            if uri not in found.values():
                name = prefix or "d"
                while name in found:
                    name += "x"
                found[name] = uri
        if len(found) > 30:
            break
    return found


def _repeated(root: Any, namespaces: dict[str, str]) -> Recognised:
    """The element that comes most often with something in it, by its path from the root."""
    prefixes = {uri: prefix for prefix, uri in namespaces.items()}

    def named(tag: str) -> str:
        namespace, local = split_name(tag)
        return f"{prefixes[namespace]}:{local}" if namespace else local

    def nameable(tag: Any) -> bool:
        """Neither a reference to an entity nor in a namespace that came after the first ones."""
        return isinstance(tag, str) and split_name(tag)[0] in {"", *prefixes}

    counts: Counter[tuple[str, ...]] = Counter()
    leaves: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], Any] = {}
    for element in root.iter():
        if not nameable(element.tag):
            continue
        path = (*[one.tag for one in reversed(list(element.iterancestors()))], element.tag)
        counts[path] += 1
        leaves[path] += len(element) + len(element.attrib)
        examples.setdefault(path, element)
    good = [
        p for p in counts if counts[p] > 1 and leaves[p] / counts[p] >= 2 and all(map(nameable, p))
    ]
    if not good:
        raise ParseFailed(
            "cannot write a profile: no element of this XML is repeated with values in it",
            hint="--records is the path of the repeated element, such as //row",
        )
    # A series of few values has more words in its key than values: those of SDMX have a name.
    observed = [p for p in counts if split_name(p[-1])[1] == "Obs" and all(map(nameable, p))]
    if "sdmx" in split_name(root.tag)[0].lower() and observed:
        good = observed
    path = max(good, key=lambda p: (counts[p], -len(p)))
    # Values of a record may themselves be repeated: their parent is the record then.
    while (
        len(path) > 2
        and counts[path[:-1]] * 40 > counts[path]
        and counts[path[:-1]] > 1
        and set(examples[path].attrib) <= {"id", "name", "value", "concept"}
        and not len(examples[path])
    ):
        path = path[:-1]
    used = {split_name(tag)[0] for tag in path}
    around_it = list(reversed(path[:-1]))
    records = (
        one for one in root.iter(path[-1]) if [p.tag for p in one.iterancestors()] == around_it
    )
    for record in islice(records, ROWS_LOOKED_AT):  # not each has what one of them has
        for element in record.iter():
            used |= {split_name(n)[0] for n in (element.tag, *element.attrib) if nameable(n)}
    parent = examples[path].getparent()
    around = (
        _series(parent, path[-1], named, nameable) if parent is not None and len(path) > 2 else []
    )
    for expression in around:
        used |= {namespaces[p] for p in re.findall(r"(\w+):", expression) if p in namespaces}
    form: Plain = {"type": "xml", "records": "/" + "/".join(named(tag) for tag in path)}
    kept = {prefix: uri for prefix, uri in namespaces.items() if uri in used}
    if kept:
        form["namespaces"] = kept
    return Recognised(form, around=around)


def _series(parent: Any, record: str, named: Any, nameable: Any) -> list[str]:
    """What stands around a record: its parent's attributes, and values beside it by their id."""
    told = [name for name in parent.attrib if "schemaLocation" not in name and nameable(name)]
    found = [f"../@{named(name)}" for name in told]
    for child in parent:
        if child.tag == record or not nameable(child.tag):
            continue
        inner = [
            one
            for one in child
            if nameable(one.tag) and one.get("id") and one.get("value") is not None
        ]
        found += [
            f"../{named(child.tag)}/{named(one.tag)}[@id='{one.get('id')}']/@value"
            for one in inner
            if "'" not in one.get("id")
        ]
        if not len(child) and (child.text or "").strip():
            found.append(f"../{named(child.tag)}")
    return found[:12]
