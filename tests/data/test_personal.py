import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.personal import KINDS, find_personal

FOUND = [
    ("email", "anna.lee+news@mail.example.com"),
    ("email", "jinli1986@gmail.com"),
    ("phone", "13812345678"),
    ("phone", "+86 138 1234 5678"),
    ("phone", "138-1234-5678"),
    ("phone", "010-62751234"),
    ("phone", "(0755) 26712345"),
    ("phone", "400-820-6666"),
    ("phone", "+49 30 901820"),
    ("phone", "(212) 555-0199"),
    ("phone", "212-555-0199"),
    ("phone", "1-800-433-7300"),
    ("phone", "+1 212 555 0199"),
    ("identity-card", "11010519491231002X"),
    ("identity-card", "11010519491231002x"),
    ("bank-card", "4111 1111 1111 1111"),
    ("bank-card", "6222600260001072444"),
    ("bank-card", "378282246310005"),
    ("bank-card", "5500-0000-0000-0004"),
    ("iban", "DE89370400440532013000"),
    ("iban", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "NO9386011117947"),
    ("ip-address", "192.168.10.4"),
    ("licence-plate", "京A12345"),
    ("licence-plate", "粤B·D12345"),
    ("licence-plate", "沪C8K6G2"),
    ("licence-plate", "AB12 CDE"),
    ("phone", "020 7946 0958"),
    ("ip-address", "2001:db8:85a3::8a2e:370:7334"),
    ("social-security", "123-45-6789"),
    ("address", "221B Baker Street"),
    ("address", "北京市海淀区中关村大街27号3号楼501室"),
]

NOT_FOUND = [
    "order 4111111111111112",
    "order number 113542617735902",
    "2024-01-15 10:30:00",
    "20240115",
    "1,299.00 to 2,500.00",
    "from 1999-2004",
    "version 1.2.3.4",
    "300.168.10.4",
    "192.168.10.4.5",
    "110105194912310021",
    "11010519491331002X",
    "13812345678901",
    "a1b2c3d4e5f6",
    "DE89370400440532013001",
    "@JetBlue thanks",
    "user@host",
    "3.14159265358979",
    "0.4111111111111111",
    "scored 212-555 points",
    "http://t.co/13812345678",
    "京ABCDEF",
    "1234567",
    "isbn 978-7-111-40701-0",
    "0000000000000000",
    "12-34-56-78",
    "2015/02/16-2015/03/16",
    "EUR 12 345 678",
    "grew 010-20 percent",
    "股票300333",
    "std::string a::b",
    "12:30:45",
    "000-12-3456",
    "5 minutes drive",
    "24 Hours Way too long",
    "in 2020 Wall Street fell",
    "2 blocks down the road",
    "地铁3号线",
    "路上10号线",
    "AB99 CDE",
    "plates of 12 cm",
]


@pytest.mark.parametrize(("kind", "data"), FOUND)
@pytest.mark.parametrize("around", ["{}", "电话{}，谢谢", "call {}.", "({}), please", "联系:{}!"])
def test_personal_data_is_found_where_it_stands(kind, data, around):
    text = around.format(data)
    start = text.index(data)
    assert find_personal(text) == [(kind, start, start + len(data))]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_other_numbers_are_left_alone(text):
    assert find_personal(text) == []


def test_every_kind_is_tried():
    assert {kind for kind, _ in FOUND} == set(KINDS)


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("0123456789.-+() @AZaz京X·,"), max_size=60))
def test_pieces_are_in_order_and_do_not_overlap(text):
    found = find_personal(text)
    ends = [0, *(end for _, _, end in found)]
    assert all(
        kind in KINDS and before <= start < end <= len(text)
        for before, (kind, start, end) in zip(ends, found, strict=False)
    )


def test_long_texts_take_no_long_time():
    for text in ("1 " * 50_000, "a" * 100_000 + "@", "a@" + "b." * 50_000, "+1" * 50_000, "GB82 " + "AAAA " * 20_000):
        find_personal(text)
