"""Personal data in texts, by form: found precisely rather than completely, and never repeated in any message.

Numbers with a check digit (identity card, bank card, IBAN) count only when it is right, so that order numbers pass.
Sources of the rules: GB 11643-1999 (identity card), ISO/IEC 7812 (Luhn), ISO 13616 (IBAN), GA 36-2018 (plates), RFC
4291 (IP version 6), the DVLA's INF104 (British plates), the SSA's rules on numbers never issued. See also `addresses`.

Every pattern is bounded, so that time is linear in the length of a text.
"""

from __future__ import annotations

import bisect
import ipaddress
import re
from collections.abc import Callable
from datetime import date

from tunesmith.data.addresses import find_addresses

_PROVINCES = "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]"
_MAYBE_NUMBER = re.compile(
    rf"[0-9][0-9 .()\-]{{5,}}[0-9]|[A-Z]{{2}}[0-9]{{2}}(?:[ 0-9A-Z]{{11}}| ?[A-Z]{{3}})|{_PROVINCES}[A-Z]"
    r"|[0-9A-Fa-f]::?[0-9A-Fa-f]{1,4}:|::[0-9A-Fa-f]|[0-9A-Fa-f]::|(?i:plates?|reg\.|regist)"
)
_FREE = r"(?<![0-9A-Za-z_])"  # nothing before that would make it a part of a longer number or word
_END = r"(?![0-9A-Za-z_])"


def _is_identity_card(text: str) -> bool:
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(weight * int(digit) for weight, digit in zip(weights, text, strict=False))
    return born.year >= 1900 and "10X98765432"[total % 11] == text[17].upper()


_CARD_DIGITS = (  # first digits -> how many digits such a card may have
    (("62",), (16, 17, 18, 19)),
    (("4",), (13, 16, 19)),
    (("34", "37"), (15,)),
    (("30", "36", "38", "39"), (14, 16)),
    (("35", "51", "52", "53", "54", "55", "60", "64", "65"), (16, 19)),
    (("50", "56", "57", "58", "63", "67"), (16, 18, 19)),
)


def _is_bank_card(text: str) -> bool:
    plain = "".join(character for character in text if character.isdigit())
    if not any(plain.startswith(starts) and len(plain) in lengths for starts, lengths in _CARD_DIGITS):
        return False
    digits = [int(digit) for digit in plain]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    number = "".join(str(int(character, 36)) for character in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(number) % 97 == 1


def _is_ip_address(text: str) -> bool:
    parts = text.split(".")
    # 1.2.3.4 is more often a version or a heading than a machine.
    return all(int(part) <= 255 and str(int(part)) == part for part in parts) and max(map(int, parts)) > 9


def _is_ip_address_6(text: str) -> bool:
    groups = [group for group in text.split("%")[0].split(":") if group]
    # a::b and ab::cd are names in programs.
    if not (len(groups) > 2 or (groups and len(groups[0]) > 2)) or not any(map(str.isdigit, text)):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_social_security(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def _is_plate(text: str) -> bool:
    plain = re.sub(r"[ \-]", "", text)
    return 5 <= len(plain) <= 8 and any(map(str.isdigit, plain)) and any(map(str.isalpha, plain))


def _is_phone(text: str) -> bool:
    digits = [character for character in text if character.isdigit()]
    return 7 <= len(digits) <= 15 and len(set(digits)) > 1


def _always(text: str) -> bool:
    return bool(text)


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    (
        "email",
        re.compile(
            r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@"
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z])"
        ),
        _always,
    ),
    ("identity-card", re.compile(_FREE + r"[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9Xx]" + _END), _is_identity_card),
    ("iban", re.compile(_FREE + r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?" + _END), _is_iban),
    (
        "bank-card",
        re.compile(
            r"(?<![0-9A-Za-z_.,\-])(?<![0-9A-Za-z]/)"
            r"(?:[3-6][0-9]{3}([ \-]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
            r"|3[47][0-9]{2}([ \-]?)[0-9]{6}\2[0-9]{5})(?![0-9A-Za-z_])(?![.,\-][0-9])"
        ),
        _is_bank_card,
    ),
    (
        "ip-address",
        re.compile(r"(?<![0-9A-Za-z_.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z_]|\.[0-9])"),
        _is_ip_address,
    ),
    (
        "ip-address",
        re.compile(
            r"(?<![0-9A-Za-z.])(?<![0-9A-Fa-f]:)(?<!::)(?>(?:[0-9A-Fa-f]{1,4}|(?=::)):[0-9A-Fa-f:]{1,38}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?)"
            r"(?:%[0-9A-Za-z]{1,15})?(?![0-9A-Za-z:])"
        ),
        _is_ip_address_6,
    ),
    (
        "social-security",
        re.compile(r"(?<![0-9A-Za-z_.\-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9A-Za-z_\-])"),
        _is_social_security,
    ),
    (
        "phone",
        re.compile(
            r"(?<![0-9A-Za-z_.,+\-])(?<![0-9A-Za-z]/)(?:"  # not the end of a link
            r"(?:\+?86[ \-]?)?1[3-9][0-9](?:[ \-]?[0-9]{4}){2}"  # Chinese mobile
            r"|(?:\(0[1-9][0-9]{1,2}\) ?|0[1-9][0-9]{1,2}[ \-])[2-8][0-9]{6,7}"  # Chinese landline with its area code
            r"|400[ \-][0-9]{3}[ \-][0-9]{4}|400[ \-][0-9]{4}[ \-][0-9]{3}"
            r"|\+[1-9][0-9]{0,2}(?:[ \-.]?(?:[0-9]{1,4}|\([0-9]{1,4}\))){2,5}"  # international
            r"|020 [0-9]{4} [0-9]{4}|01[0-9]{2} [0-9]{3} [0-9]{4}|07[0-9]{3} [0-9]{3} ?[0-9]{3}"  # Britain
            r"|(?:1[ \-.])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[\-.])[2-9][0-9]{2}[\-. ][0-9]{4}"  # United States
            r")(?![0-9A-Za-z_])(?![.,\-][0-9])"
        ),
        _is_phone,
    ),
    (
        "licence-plate",
        re.compile(
            _PROVINCES + r"[A-HJ-NP-Z][·• ]?"
            r"(?=[A-HJ-NP-Z]{0,5}[0-9])(?:[A-HJ-NP-Z0-9]{5}|[DF][A-HJ-NP-Z0-9][0-9]{4}|[0-9]{5}[DF])" + _END
        ),
        _always,
    ),
    (
        "licence-plate",  # of Britain since 2001
        re.compile(_FREE + r"[A-HJ-PR-Y]{2}(?:0[2-9]|[12][0-9]|5[1-9]|[67][0-9]) ?[A-HJ-PR-Z]{3}" + _END),
        _always,
    ),
    (
        "licence-plate",  # of anywhere, after a word that says so
        re.compile(
            r"(?i:(?<![a-z])(?:plates?|(?:car|vehicle) reg(?:istration|\.)?)(?: ?(?:number|no|nr)\.?)?)(?: is| was)?"
            r"[ :#=]{1,3}(?P<value>[A-Z0-9]{1,7}(?:[ \-][A-Z0-9]{1,4}){0,2})" + _END
        ),
        _is_plate,
    ),
)

ADDRESS = "address"
KINDS = (*dict.fromkeys(kind for kind, _, _ in _KINDS), ADDRESS)
"""Every kind that `find_personal` can name."""


def find_personal(text: str) -> list[tuple[str, int, int]]:
    """Give each piece of personal data as (kind, start, end), in order; pieces do not overlap.

    Kinds: see KINDS. Where two kinds fit the same characters the one with the stricter form wins.
    """
    found = _Pieces()
    # Most texts hold nothing; finding that out quickly makes counting over a million rows four times faster.
    has_number = _MAYBE_NUMBER.search(text) is not None
    if has_number or "@" in text:
        for kind, pattern, is_real in _KINDS if has_number else _KINDS[:1]:
            group = "value" if "value" in pattern.groupindex else 0
            for match in pattern.finditer(text):
                if is_real(match.group(group)):
                    found.add(kind, *match.span(group))
    for start, end in find_addresses(text):
        found.add(ADDRESS, start, end)
    return found.pieces


class _Pieces:
    """Pieces in order of place; one that overlaps an earlier found one is refused."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self.pieces: list[tuple[str, int, int]] = []

    def add(self, kind: str, start: int, end: int) -> None:
        """Take a piece, unless another stands there."""
        place = bisect.bisect_left(self._starts, end)  # the first that begins behind it
        if place and self.pieces[place - 1][2] > start:
            return
        self._starts.insert(place, start)
        self.pieces.insert(place, (kind, start, end))
