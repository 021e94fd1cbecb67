"""Made-up personal data in made-up sentences, Chinese and English, and sentences that only look like such."""

from __future__ import annotations

import random
from dataclasses import dataclass

_PROVINCES = "京沪粤浙苏川鲁鄂"
_PLATE = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_FRAMES = {
    "en": ("Please write to {}, thanks", "my details: {}.", "({}) is what I have", "contact {} before Friday", "{}"),
    "zh": ("请联系{}，谢谢", "我的信息：{}。", "他留下的是{}，请记录", "（{}）是我的", "{}"),
}
_CITIES = ("北京市海淀区", "上海市浦东新区", "广东省深圳市南山区", "浙江省杭州市西湖区", "武汉市洪山区", "")
_ROADS = ("中关村大街", "世纪大道", "科苑路", "文三路", "珞喻路", "解放西路", "幸福巷", "长安街")
_STREETS = (
    "Baker Street",
    "High St",
    "Maple Avenue",
    "Old Kent Road",
    "Sunset Blvd",
    "Park Lane",
    "Elm Drive",
    "Oak Ct",
)
_TOWNS = (", London NW1 6XE", ", Springfield, IL 62704", ", Apt 4B", "", ", Suite 300, Boston, MA 02110")


@dataclass(frozen=True)
class Planted:
    """One piece of personal data in a sentence."""

    kind: str
    value: str
    text: str


def _digits(generator: random.Random, count: int) -> str:
    return "".join(generator.choice("0123456789") for _ in range(count))


def identity_card(generator: random.Random) -> str:
    body = f"{generator.choice(('110105', '440305', '330106'))}{generator.randint(1950, 2009)}"
    body += f"{generator.randint(1, 12):02d}{generator.randint(1, 28):02d}{_digits(generator, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(w * int(d) for w, d in zip(weights, body, strict=True)) % 11]


def bank_card(generator: random.Random) -> str:
    body = generator.choice(("4", "51", "6222")) + _digits(generator, 15)
    body = body[:15]
    for last in "0123456789":
        digits = [int(digit) for digit in body + last]
        if (sum(digits[::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])) % 10 == 0:
            whole = body + last
            return generator.choice((whole, f"{whole[:4]} {whole[4:8]} {whole[8:12]} {whole[12:]}"))
    raise AssertionError("one of ten check digits fits")


def iban(generator: random.Random) -> str:
    body = _digits(generator, 18)
    return f"DE{98 - int(body + '131400') % 97:02d}{body}"


def phone(generator: random.Random, language: str) -> str:
    mobile = f"1{generator.choice('3589')}{_digits(generator, 9)}"
    if language == "zh":
        return generator.choice(
            (mobile, f"+86 {mobile}", f"010-6{_digits(generator, 7)}", f"{mobile[:3]}-{mobile[3:7]}-{mobile[7:]}")
        )
    us = f"{generator.randint(201, 989)}-{generator.randint(201, 989)}-{_digits(generator, 4)}"
    return generator.choice(
        (
            us,
            f"+1 {us.replace('-', ' ')}",
            f"+44 20 7946 0{_digits(generator, 3)}",
            f"020 7946 0{_digits(generator, 3)}",
        )
    )


def address(generator: random.Random, language: str) -> str:
    if language == "zh":
        rooms = generator.choice(("", "3号楼2单元501室", "A座1201室", "5栋302"))
        rooms = rooms if not rooms.endswith("302") else "5栋302室"
        return f"{generator.choice(_CITIES)}{generator.choice(_ROADS)}{generator.randint(1, 2000)}号{rooms}"
    return f"{generator.randint(1, 9999)} {generator.choice(_STREETS)}{generator.choice(_TOWNS)}"


def plate(generator: random.Random, language: str) -> str:
    if language == "zh":
        head = generator.choice(_PROVINCES) + generator.choice(_PLATE)
        return f"{head}{generator.choice(('', '·'))}{_digits(generator, 5)}"
    letters = "".join(generator.choice("ABCDEFGHJKLMNPRSTUVWXY") for _ in range(5))
    return f"{letters[:2]}{generator.randint(51, 79)} {letters[2:]}"


def _value(kind: str, generator: random.Random, language: str) -> str:
    if kind == "email":
        name = generator.choice(("anna", "li.wei", "j_smith"))
        return f"{name}{generator.randint(1, 999)}@mail{generator.randint(1, 99)}.example.com"
    if kind == "ip-address":
        if generator.random() < 0.5:
            return ".".join(str(generator.randint(11, 250)) for _ in range(4))
        return "2001:db8:" + ":".join(f"{generator.randint(1, 65535):x}" for _ in range(6))
    if kind in {"phone", "address", "licence-plate"}:
        return {"phone": phone, "address": address, "licence-plate": plate}[kind](generator, language)
    return {"identity-card": identity_card, "bank-card": bank_card, "iban": iban}[kind](generator)


def planted(count: int = 200, seed: int = 0) -> list[Planted]:
    """Give pieces of all kinds, half in Chinese and half in English sentences."""
    kinds = ("email", "phone", "identity-card", "bank-card", "iban", "ip-address", "licence-plate", "address")
    generator = random.Random(seed)
    found = []
    for number in range(count):
        language = ("zh", "en")[number % 2]
        kind = kinds[number // 2 % len(kinds)]
        value = _value(kind, generator, language)
        found.append(Planted(kind, value, generator.choice(_FRAMES[language]).format(value)))
    return found


def harmless(count: int = 200, seed: int = 0) -> list[str]:
    """Give sentences with numbers, times, versions and places, none of them anybody's."""
    generator = random.Random(seed)

    def n(most: int) -> int:
        return generator.randint(1, most)

    frames = (
        lambda: f"order {n(10**10 - 1)} of 2024-{n(12):02d}-{n(28):02d} cost {n(9999)}.{n(99):02d} EUR",
        lambda: f"version {n(20)}.{n(9)}.{n(9)}, built at {n(23):02d}:{n(59):02d}:{n(59):02d}",
        lambda: f"the train takes {n(59)} minutes and leaves {n(12)} times a day",
        lambda: f"In {generator.randint(1980, 2030)} Wall Street lost {n(40)} percent in {n(12)} months",
        lambda: f"a {n(20)} minute drive, {n(9)} blocks down the road, turn left at the square",
        lambda: f"std::vector<int>::size() gave {n(10**6)}; see section {n(9)}.{n(9)}.{n(9)}",
        lambda: f"chapter {n(40)}, verse {n(30)}:{n(30)}-{n(30)}; ISBN 978-7-111-{n(89999) + 10000}-1",
        lambda: f"第{n(40)}章第{n(90)}条，{n(12)}月{n(28)}日，共{n(9999)}元",
        lambda: f"地铁{n(20)}号线今天很挤，等了{n(59)}分钟，{n(12)}点才到",
        lambda: f"订单号{n(10**10 - 1)}，快递第{n(9)}天还没到，{n(31)}号再问",
        lambda: f"这本书有{n(900)}页，打{n(9)}折以后{n(99)}.{n(99):02d}元，版本{n(9)}.{n(9)}",
        lambda: f"他在路上走了{n(20)}公里，住了{n(20)}天，{n(30)}号楼还没修好",
        lambda: f"tweet {generator.randint(10**17, 10**18)} has {n(999)} likes and {n(99)} replies",
        lambda: f"the score was {n(9)}-{n(9)}, {n(50000)} fans, row {n(99)} seat {n(99)}",
    )
    return [generator.choice(frames)() for _ in range(count)]
