"""XML and feeds: paths, what stands around a record, and what is closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from lxml import etree

from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.xml import XmlRecord, leaves, read, read_feed, xpath_getter
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.registry.source import FeedFormat, XmlFormat
from tests.conformance.test_formats import Bytes
from tests.unit.collect.helpers import mapped, profile


def rows(text: str | bytes, records: str = "/r/x", *around: str, **form: Any) -> list[RawRow]:
    data = text if isinstance(text, bytes) else text.encode()
    spec = XmlFormat(records=records, **form)
    return list(read(Bytes(data), spec, ReadContext(enclosing=around)))


def texts(text: str | bytes, records: str = "/r/x", path: str = ".", **form: Any) -> list[Any]:
    get = xpath_getter(path, form.get("namespaces", {}))
    return [get(row.value.element) for row in rows(text, records, **form)]


def test_records_are_found_by_their_path_from_the_root() -> None:
    text = "<r><x>1</x><y><x>2</x></y><z><y><x>3</x></y></z></r>"
    assert texts(text) == ["1"]
    assert texts(text, "/r/y/x") == ["2"]
    assert texts(text, "//y/x") == ["2", "3"]
    assert texts(text, "//x") == ["1", "2", "3"]
    assert texts(text, "/r/*/x") == ["2"]
    assert texts(text, "/r") == ["123"]


def test_namespaces_are_the_profile_s_own_prefixes() -> None:
    text = '<a:r xmlns:a="urn:1" xmlns="urn:2"><x>1</x><x xmlns="urn:3">2</x></a:r>'
    names = {"one": "urn:1", "two": "urn:2"}
    assert texts(text, "/one:r/two:x", namespaces=names) == ["1"]
    assert texts(text, "/one:r/*", namespaces=names) == ["1", "2"]
    with pytest.raises(MappingRefused, match="the prefix two is not in"):
        texts(text, "/one:r/two:x", namespaces={"one": "urn:1"})


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", "1"),
        ("@id", "7"),
        ("a/@u", "m"),
        ("b", ["2", "3"]),
        ("b[2]", "3"),
        ("b[last()]", "3"),
        ("b[@k='y']", "3"),
        ("b[@k='y' and @v='9']/@v", "9"),
        ("c/d", "4"),
        ("c", "4tail"),
        (".", "1234tail"),
        ("c/d/text()", "4"),
        ("nothing", None),
        ("@nothing", None),
        ("e", ""),
        ("//d", None),
        ("descendant::d", "4"),
    ],
)
def test_paths_select_from_the_record(path: str, found: Any) -> None:
    text = (
        '<r><x id="7"><a u="m">1</a><b k="x">2</b><b k="y" v="9">3</b>'
        "<c><d>4</d><!-- no text -->tail</c><e/></x></r>"
    )
    [row] = rows(text)
    if path == "//d":  # from the root: the record is out of its document
        return
    assert xpath_getter(path, {})(row.value.element) == found


@pytest.mark.parametrize(
    "path",
    ["count(a)", "a | b", "a//b//c", "following-sibling::a", "$v", "a[b>1]", "", "a/", "g:a"],
)
def test_paths_whose_cost_or_meaning_is_open_are_refused(path: str) -> None:
    with pytest.raises(MappingRefused, match="cannot use the path"):
        xpath_getter(path, {})


SERIES = """<d><head><when>now</when></head>
<s id="A"><k>one</k><o>1</o><o>2</o></s>
<s id="B"><k>two</k></s>
<s id="C"><k>three</k><o>3</o></s></d>"""


def test_what_stands_around_a_record_belongs_to_it() -> None:
    found = rows(SERIES, "/d/s/o", "../k", "../@id", "/d/head/when", "../../head/when")
    assert [row.enclosing for row in found] == [
        ("one", "A", "now", "now"),
        ("one", "A", "now", "now"),
        ("three", "C", "now", "now"),
    ]
    assert [row.enclosing for row in rows(SERIES, "//o", "ancestor::s/@id")] == [
        ("A",),
        ("A",),
        ("C",),
    ]


@pytest.mark.parametrize(
    ("begin", "end", "path"),
    [
        ("<d><s>", "<k>late</k></s></d>", "../k"),
        ("<d><s><k>a</k>", "<k>b</k></s></d>", "../k"),
        ("<d><s>", "</s><end>x</end></d>", "../../end"),
        ("<d><s>", "</s><end>x</end></d>", "/d/end"),
    ],
)
def test_what_stands_behind_its_records_is_right_or_refused(
    begin: str, end: str, path: str
) -> None:
    [row] = rows(f"{begin}<o>1</o>{end}", "/d/s/o", path)
    assert row.enclosing[0] in ("late", ["a", "b"], "x")
    with pytest.raises(ParseFailed, match="stands behind the records"):
        rows(begin + "<o>1</o>" * 20_000 + end, "/d/s/o", path)


def test_elements_that_are_kept_for_such_paths_have_a_bound() -> None:
    junk = "<j/>" * 10_001
    with pytest.raises(BoundReached) as caught:
        rows(f"<d>{junk}<s><o>1</o></s></d>", "/d/s/o", "../@id")
    assert caught.value.bound == "enclosing"
    assert len(rows(f"<d>{junk}<s><o>1</o></s></d>", "/d/s/o")) == 1
    series = "<s id='1'><k/></s>" * 20_000
    assert len(rows(f"<d>{series}<s><o>1</o></s></d>", "/d/s/o", "../@id")) == 1


LAUGHS = "<!DOCTYPE r [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{LAUGHS}<r><x>&b;</x></r>", "declares entities"),
        ("<!DOCTYPE r [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><r><x>&a;</x></r>", "entities"),
        ("<!DOCTYPE r [<!ENTITY % a SYSTEM 'http://127.0.0.1:9/'> %a;]><r><x/></r>", "entities"),
        ('<!DOCTYPE r SYSTEM "r.dtd"><r><x>&a;</x></r>', "Entity 'a' not defined"),
        ('<!DOCTYPE r SYSTEM "r.dtd"><r><x y="&a;"/></r>', "Entity 'a' not defined"),
        ("<r><x>&a;</x></r>", "Entity 'a' not defined"),
        ("<r><x>1</x>", "ends early|Premature end"),
        ("<r><x>1</x></r><r/>", "Extra content"),
        ("", "ends early|empty|no element"),
        ("<r><x></r>", "mismatch"),
        ("<s><x/></s>", "the document is a <s>"),
        ('<?xml version="1.0" encoding="klingon"?><r/>', "names no known encoding"),
    ],
)
def test_what_is_no_xml_or_wants_more_than_its_bytes_is_refused(text: str, said: str) -> None:
    with pytest.raises(ParseFailed, match=said):
        rows(text)


def test_a_document_type_that_declares_nothing_is_only_not_read() -> None:
    assert texts('<!DOCTYPE r SYSTEM "http://127.0.0.1:9/r.dtd"><r><x>1</x></r>') == ["1"]


def test_depth_has_a_bound() -> None:
    for depth in (70, 300, 5000):
        with pytest.raises(BoundReached) as caught:
            rows("<r>" + "<x>" * depth + "</x>" * depth + "</r>", "/r/y")
        assert caught.value.bound == "depth"


@pytest.mark.parametrize("made_of", ["text", "attributes", "elements", "comments"])
def test_a_record_of_any_make_has_a_bound(made_of: str) -> None:
    inside = {
        "text": "t" * 9_000_000,
        "attributes": "".join(f'<a b="{"t" * 50_000}"/>' for _ in range(200)),
        "elements": "<a/>" * 2_000_000,
        "comments": f"<!--{'t' * 9_000_000}-->",
    }[made_of]
    with pytest.raises(BoundReached) as caught:
        rows(f"<r><x>{inside}</x></r>")
    assert caught.value.bound == "record"


@pytest.mark.parametrize(
    ("data", "charset", "named"),
    [
        (
            "<?xml version='1.0' encoding='ISO-8859-1'?><r><x>é</x></r>".encode("latin-1"),
            "",
            "auto",
        ),
        (
            "<?xml version='1.0' encoding='windows-1252'?><r><x>é</x></r>".encode("cp1252"),
            "",
            "auto",
        ),
        ("<?xml version='1.0' encoding='utf-16'?><r><x>é</x></r>".encode("utf-16"), "", "auto"),
        ("<r><x>é</x></r>".encode("utf-32"), "", "auto"),
        ("<?xml version='1.0' encoding='cp037'?><r><x>é</x></r>".encode("cp037"), "", "cp037"),
        (
            "<?xml version='1.0' encoding='utf-8'?><r><x>é</x></r>".encode("latin-1"),
            "latin-1",
            "auto",
        ),
        ("<?xml version='1.0' encoding='latin-1'?><r><x>é</x></r>".encode(), "utf-8", "auto"),
        ("<r><x>é</x></r>".encode("shift_jis", "xmlcharrefreplace"), "shift_jis", "auto"),
        ("\ufeff<?xml version='1.0' encoding='latin-1'?><r><x>é</x></r>".encode(), "", "auto"),
    ],
)
def test_every_encoding_that_something_names(
    tmp_path: Path, data: bytes, charset: str, named: str
) -> None:
    path = tmp_path / "page"
    path.write_bytes(data)
    content = SpooledContent(path, Bounds(), charset=charset)
    [row] = read(content, XmlFormat(records="/r/x", encoding=named), ReadContext())
    assert row.value.element.text == "é"


@pytest.mark.parametrize(
    ("records", "namespaces"), [("//x", {}), ("//o:x", {"o": "urn:old"}), ("//o:x", {"o": "urn:x"})]
)
def test_records_in_another_namespace_are_not_no_records(
    records: str, namespaces: dict[str, str]
) -> None:
    text = b"<r xmlns='urn:new'><y/><g><x>1</x><x>2</x></g></r>"
    form = XmlFormat(records=records, namespaces=namespaces)
    with pytest.raises(ParseFailed, match="there is a <x> in the namespace urn:new") as caught:
        list(read(Bytes(text), form, ReadContext()))
    assert "source.format.namespaces" in caught.value.hint
    # What is not there under any name is not there: a list may be empty.
    assert list(read(Bytes(b"<r><y/></r>"), form, ReadContext())) == []
    right = XmlFormat(records="//n:x", namespaces={"n": "urn:new"})
    both = b"<r xmlns='urn:new'><x xmlns='urn:old'/><x>1</x></r>"
    assert len(list(read(Bytes(both), right, ReadContext()))) == 1


@pytest.mark.parametrize("charset", ["", "iso-8859-1"])
def test_utf_8_that_is_called_latin_1_makes_no_other_letters(tmp_path: Path, charset: str) -> None:
    declared = "utf-8" if charset else "ISO-8859-1"
    path = tmp_path / "page"
    path.write_text(f"<?xml version='1.0' encoding='{declared}'?><r><x>é</x></r>", encoding="utf-8")
    content = SpooledContent(path, Bounds(), charset=charset)
    said = "the charset of its media type" if charset else "the XML declaration"
    with pytest.raises(ParseFailed, match=f"{said} says (iso|ISO)-8859-1, and the bytes are UTF-8"):
        list(read(content, XmlFormat(records="/r/x"), ReadContext()))
    [row] = read(content, XmlFormat(records="/r/x", encoding="utf-8"), ReadContext())
    assert row.value.element.text == "é"


def test_latin_1_is_read_as_browsers_read_it(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes("<?xml version='1.0' encoding='latin1'?><r><x>5 €</x></r>".encode("cp1252"))
    [row] = read(SpooledContent(path, Bounds()), XmlFormat(records="/r/x"), ReadContext())
    assert row.value.element.text == "5 €"


def test_rows_outlive_their_document() -> None:
    found = rows("<r>" + "".join(f"<x><a>{i}</a></x>\n" for i in range(20_000)) + "</r>")
    assert [row.value.element.findtext("a") for row in found] == [str(i) for i in range(20_000)]


RSS1 = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns="http://purl.org/rss/1.0/"><channel/><item><title>a</title></item></rdf:RDF>'
)
ATOM = (
    '<feed xmlns="http://www.w3.org/2005/Atom"><updated>u</updated>'
    "<entry><title>a</title></entry></feed>"
)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("<rss><channel><item><title>a</title></item></channel></rss>", "title"),
        (RSS1, "rss:title"),
        (ATOM, "atom:title"),
    ],
)
def test_feeds_of_each_kind(tmp_path: Path, text: str, path: str) -> None:
    file = tmp_path / "feed"
    file.write_text(text, "utf-8")
    source = profile({"format": {"type": "feed"}}, dimensions={"title": path})
    records, rejects = mapped(file, source)
    assert rejects == []
    assert [record.dimensions["title"] for record in records] == ["a"]


def test_what_is_no_feed_is_refused() -> None:
    with pytest.raises(ParseFailed, match="neither RSS nor Atom"):
        list(read_feed(Bytes(b"<html/>"), FeedFormat(), ReadContext()))


def test_a_prefix_that_nobody_declared_is_refused_like_any_fault() -> None:
    for text in ("<r:s><channel>n", "<r:s/>", "<rss><channel><r:item/></channel></rss>"):
        with pytest.raises(ParseFailed, match="cannot read"):
            list(read_feed(Bytes(text.encode()), FeedFormat(), ReadContext()))
        with pytest.raises(ParseFailed, match="cannot read"):
            rows(text, "/*/*")


def test_fields_of_a_record_have_paths_that_select_them() -> None:
    text = '<r xmlns:g="urn:g"><x a="1"><b>2</b><c><d>3</d><d>4</d></c><g:e f="5"/></x></r>'
    [row] = rows(text, namespaces={"g": "urn:g"})
    found = dict(leaves(row.value, {"g": "urn:g"}))
    assert found == {"@a": "1", "b": "2", "c/d[1]": "3", "c/d[2]": "4", "g:e/@f": "5", "g:e": ""}
    for path, value in found.items():
        assert xpath_getter(path, {"g": "urn:g"})(row.value.element) == value


class Counted(etree.ElementBase):  # type: ignore[misc]
    """An element that counts how often it is asked what it is."""

    asked: ClassVar[list[int]] = [0]

    @property
    def tag(self) -> Any:
        self.asked[0] += 1
        return super().tag


def test_a_record_of_many_parts_is_looked_through_once() -> None:
    parser = etree.XMLParser()
    parser.set_element_class_lookup(etree.ElementDefaultClassLookup(element=Counted))
    asked = []
    for count in (50, 500):
        parts = "".join(f"<x>{number}</x><y a='{number}'/>" for number in range(count))
        record = XmlRecord(etree.fromstring(f"<r>{parts}</r>", parser))
        Counted.asked[0] = 0
        found = list(leaves(record, {}))
        asked.append(Counted.asked[0])
        assert len(found) == 3 * count
        assert found[-3:] == [
            (f"x[{count}]", str(count - 1)),
            (f"y[{count}]/@a", str(count - 1)),
            (f"y[{count}]", ""),
        ]
    assert asked[1] == 10 * asked[0] > 0


def test_a_whole_profile_of_xml(tmp_path: Path) -> None:
    file = tmp_path / "page"
    file.write_text(
        '<d unit="EUR"><s id="A"><o t="2020-Q1" v="1.10"/><o t="2020-Q2" v=":"/></s></d>', "utf-8"
    )
    source = profile(
        {"format": {"type": "xml", "records": "/d/s/o"}},
        key=["dimensions.series", "period"],
        nulls=[":"],
        dimensions={"series": "../@id"},
        measures={"value": {"path": "@v", "unit_path": "/d/@unit"}},
        period={"path": "@t", "frequency": "Q"},
    )
    records, rejects = mapped(file, source)
    assert rejects == []
    assert [r.key for r in records] == [["A", "2020-Q1"], ["A", "2020-Q2"]]
    assert (records[0].measures["value"].value, records[0].measures["value"].unit) == (
        "1.10",
        "EUR",
    )
    assert records[1].attributes == {"value_missing": ":"}
