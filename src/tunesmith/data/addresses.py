"""Postal addresses in texts, Chinese and English, by form: a house number with a road, and what stands around it.

Every search starts at an anchor (a road with a number) and looks a bounded way from there, so that time is linear in
the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_DIGITS = r"0-9\uff10-\uff19"  # full-width ones too
_NUMERALS = "一二三四五六七八九十百零〇两"
_ROADS = "路|街|大街|大道|道|巷|弄|胡同|里|村|庄|园|苑|新村|小区|社区|公寓|花园|广场|大厦"
_UNITS = "号楼|号院|弄|栋|幢|座|单元|室|楼|层|户|房|号|號|#"
_ANCHOR = re.compile(
    rf"(?:{_ROADS})[东南西北中]?(?:[一二三四五六七八九十]段)?"
    rf"(?: ?[{_DIGITS}]{{1,5}}(?:[-–][{_DIGITS}]{{1,5}})?|[{_NUMERALS}]{{1,5}})[甲乙丙丁]?"
    " ?(?:号院|号楼|号|號|弄|巷|栋|幢)"
)
_TAIL = re.compile(
    rf"(?:[,\uff0c ]?(?:[A-Za-z]?[{_DIGITS}]{{1,5}}[A-Za-z]?(?:[-–][{_DIGITS}]{{1,5}})?|[A-Z]|[{_NUMERALS}]{{1,5}})"
    rf"(?:{_UNITS}))+"
)
_LONGEST_BEFORE = 40  # characters that may stand before the road's own word: province to road name
_NOT_BEFORE = re.compile(rf"[^\u3400-\u9fffA-Za-z{_DIGITS}·()\uff08\uff09]")
_PROVINCES = (
    "北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|"
    "云南|陕西|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
_PLACE = re.compile(rf"(?:{_PROVINCES})(?:省|市|自治区|特别行政区|壮族自治区|回族自治区|维吾尔自治区)?")
_CUE = re.compile(
    r"住在|家住|住址|地址|位于|坐落|寄到|寄往|寄给|送到|送往|送至|发到|发往|搬到|搬去|开到|来到|收货|公司在|店在|家在|就在|"
    r"住|在|到|至|往|去|是|为|从|给|于|和|与|及|把|请|了"
)
_REGION = re.compile(r"[\u3400-\u9fff]{1,7}?(?:省|市|自治州|地区|盟|县|区|旗|镇|乡|街道)")

_KINDS_OF_ROAD = (
    r"Street|St|Road|Rd|Avenue|Ave|Av|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Sq|Place|Pl|Way|Terrace|Ter|"
    r"Close|Crescent|Cres|Highway|Hwy|Parkway|Pkwy|Circle|Cir|Trail|Alley|Row|Gardens|Grove|Mews|Plaza|Quay|Walk"
)
_WORD = r"(?:[A-Z][A-Za-z'’.\-]{0,19}|[0-9]{1,3}(?:st|nd|rd|th))"
_HOUSE = r"[0-9]{1,5}(?:[\-–/][0-9]{1,5})?[A-Za-z]?"
_ROOM = r"(?:Apartment|Apt|Suite|Ste|Unit|Flat|Floor|Room|Rm|Building|Bldg|#)\.? ?#?[A-Za-z]?[\-]?[0-9]{0,5}[A-Za-z]?"
_POSTCODE = r"(?:[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2}|(?:[A-Z]{2} )?[0-9]{5}(?:-[0-9]{4})?)"
_CITY = r"[A-Z][A-Za-z'’\-]{1,19}(?: [A-Z][A-Za-z'’\-]{1,19}){0,2}"
_ROAD = re.compile(
    rf"(?<![0-9A-Za-z_.,\-$€£])(?:{_ROOM}, ?)?{_HOUSE},? (?:(?:[NSEW]|NE|NW|SE|SW)\.? )?"
    rf"(?>{_WORD} ){{0,3}}?(?:{_WORD} (?:{_KINDS_OF_ROAD})|Broadway)(?![A-Za-z])\.?"
    rf"(?: (?:[NSEW]|NE|NW|SE|SW)(?![A-Za-z]))?"
    rf"(?:,? {_ROOM})?(?:,? {_CITY}(?=,? {_POSTCODE}))?(?:, {_CITY}){{0,2}}(?:,? {_POSTCODE}(?![0-9A-Za-z]))?"
)
_PLAIN_ROAD = re.compile(  # as people type it; fewer kinds, and words that no street is called by are refused
    rf"(?<![0-9A-Za-z_.,\-$€£])(?:(?:apt|flat|unit|suite)\.? ?[a-z]?[0-9]{{1,5}}[a-z]?, ?)?[0-9]{{1,5}}[a-z]? "
    rf"(?:[a-z]{{2,20}} ){{1,2}}(?:street|road|avenue|lane|boulevard|drive)(?![A-Za-z])"
    rf"(?:,? (?:apt|flat|unit|suite)\.? ?[a-z]?[0-9]{{1,5}}[a-z]?)?(?:,? {_POSTCODE}(?![0-9A-Za-z]))?"
)
_FULL_STOP = re.compile(r"[A-Za-z]{5}\.$")  # behind a word that is no abbreviation: it ends the sentence
_BOX = re.compile(r"(?<![A-Za-z])(?:P\.? ?O\.? Box|Post Office Box) [0-9]{1,6}(?![0-9A-Za-z])", re.IGNORECASE)
_NO_NAME = frozenset(
    re.findall(
        r"\w+",
        "blocks cars days dollars feet gigs guests hours houses inches items kilometers kilometres kms lanes "
        "meters metres miles mins minutes months nights pages people percent points reasons rooms seconds stars "
        "steps stops things times units ways weeks years ",
    )
)
"""Words that stand before "street" or "drive" and are counted: no street is called by them."""
_NO_STREET = _NO_NAME | frozenset(
    re.findall(
        r"\w+",
        "a about across after all along an and any are at away be block by car close construction day different "
        "down dead east end every few first foot for from ft full good great hour in inch into is it km last left "
        "long many meter metre mile min minute month more most my near next night of off old on one only open "
        "other our out over per right same second side single south star than that the their then these this those "
        "through to together top toward towards two under unpaved up usd via was way week were west wide with year "
        "your ",
    )
)
"""The same for streets without capitals, of which much running text looks like one."""
_YEAR_BEFORE = ("in", "since", "by", "of", "until", "from", "the", "during", "after", "before")
_MAYBE_CHINESE = re.compile(rf"[{_DIGITS}{_NUMERALS}甲乙丙丁] ?(?:号|號|弄|巷|栋|幢)")
_MAYBE_ENGLISH = re.compile(r"[0-9][A-Za-z]?,? [A-Za-z0-9#]|[Bb][Oo][Xx] [0-9]")
_ROAD_WORDS = ("broadway", "box", *(word.lower() for word in _KINDS_OF_ROAD.split("|")))


def find_addresses(text: str) -> list[tuple[int, int]]:
    """Give where postal addresses stand, in order and without overlap."""
    found: list[tuple[int, int]] = []
    if not text.isascii() and _MAYBE_CHINESE.search(text):
        found += _chinese(text)
    if _MAYBE_ENGLISH.search(text) and any(word in text.lower() for word in _ROAD_WORDS):
        found += _english(text)
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _chinese(text: str) -> Iterator[tuple[int, int]]:
    place = 0
    while anchor := _ANCHOR.search(text, place):
        tail = _TAIL.match(text, anchor.end())
        end = tail.end() if tail else anchor.end()
        if anchor.start() > place and (start := _chinese_start(text, anchor.start(), place)) < anchor.start():
            yield start, end
        place = end


def _chinese_start(text: str, road: int, earliest: int) -> int:
    """Give where an address begins that goes on with a road's own word: at its province, its region, or after a cue."""
    first = max(earliest, road - _LONGEST_BEFORE)
    window = text[first:road]
    breaks = [match.end() for match in _NOT_BEFORE.finditer(window)]
    begin = breaks[-1] if breaks else 0
    window = window[begin:]
    if place := _PLACE.search(window):
        return first + begin + place.start()
    cues = [match.end() for match in _CUE.finditer(window) if match.end() < len(window)]
    region = _REGION.search(window)
    if region is not None:
        before = [cue for cue in cues if cue < region.end() - 1]
        return first + begin + (before[-1] if before else 0)
    if cues:
        return first + begin + cues[-1]
    return first + begin + max(0, len(window) - 6)  # the road's name alone: six characters are a long one


def _english(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _BOX.finditer(text))
    for match in _ROAD.finditer(text):
        if not _NO_NAME & _words(match.group()) and not _begins_with_year(text, match.start()):
            yield match.start(), match.end() - bool(_FULL_STOP.search(match.group()))
    for match in _PLAIN_ROAD.finditer(text):
        if not _NO_STREET & _words(match.group()) and not _begins_with_year(text, match.start()):
            yield match.span()


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _begins_with_year(text: str, start: int) -> bool:
    """Whether "In 2020 Wall Street fell" is what stands here."""
    if not re.match(r"(?:19|20)[0-9]{2} ", text[start : start + 5]):
        return False
    before = text[max(0, start - 12) : start].lower().split()
    return bool(before) and before[-1] in _YEAR_BEFORE
