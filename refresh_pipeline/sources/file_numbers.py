"""How the numbers of a file are written: decimal marks, groups of thousands, signs of currencies, K and M."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from refresh_pipeline.sources import PermanentError

# Signs of currencies, and blanks, plain and unbreakable, that group thousands.
STRIPPED = "$€£¥₹₿  "
GROUPS = " '’"
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NUMBER = re.compile(r"[+-]?\d[\d.,]*[KMBTkmbt]?")


@dataclass(frozen=True, slots=True)
class Marks:
    """How numbers are written: the decimal mark, the mark between thousands, whether all are plain numbers."""

    decimal: str = "."
    thousands: str = ","
    plain: bool = True

    def sql(self, raw: str, *, units: bool) -> str:
        """SQL for a cell as a number, null where it is none.

        Args:
            raw: SQL for the cell.
            units: whether K, M, B and T may stand behind it.
        """
        # DuckDB takes "1_5" for a number.
        whole = f"try_cast(case when not contains({raw}::varchar, '_') then {raw} end as double)"
        if self.plain:
            return whole
        bare = f"regexp_replace({raw}::varchar, '[{STRIPPED}\\s''’]', '', 'g')"
        # Marks between thousands stand before groups of three, in India of two as well.
        other = re.escape(self.thousands)
        grouped = rf"[+-]?\d{{1,3}}({other}\d{{2,3}})*{other}\d{{3}}([^\d{other}].*)?"
        text = f"case when not contains({bare}, '{self.thousands}') or regexp_full_match({bare}, '{grouped}') then "
        text += f"replace(replace({bare}, '{self.thousands}', ''), '{self.decimal}', '.') end"
        number = f"try_cast({text} as double)"
        if units:
            cases = " ".join(f"when '{unit}' then {factor:.0f}" for unit, factor in UNITS.items())
            scaled = f"try_cast(left({text}, -1) as double) * case upper(right({text}, 1)) {cases} end"
            number = f"coalesce({number}, {scaled})"
        return f"case when not contains({raw}::varchar, '_') then {number} end"


def marks_of(cells: Sequence[str], decimal: str | None, thousands: str | None, where: str) -> Marks:
    """How a file's numbers are written.

    Args:
        cells: of the columns with prices and volumes, as they stand in the file.
        decimal: what the market's YAML says, None for nothing.
        thousands: likewise.
        where: the file's path, for messages.

    Raises:
        PermanentError: "1,234" may be one or a thousand, and no other number of the file says which.
    """
    written = [cell.strip() for cell in cells if cell.strip()]
    if decimal or thousands:
        decimal = decimal or ("," if thousands == "." else ".")
        return Marks(decimal, "," if decimal == "." else ".", plain=False)
    # Most files: no comma, no unit, nothing to weigh.
    if all(map(PLAIN.fullmatch, written)):
        return Marks()
    bare = [re.sub(f"[{STRIPPED}{GROUPS}]", "", cell) for cell in written]
    numbers = [text for text in bare if NUMBER.fullmatch(text)]
    readings = [_decimal_mark(text) for text in numbers]
    # A damaged cell or two are not how a file is written.
    if readings.count(",") > readings.count(".") and readings.count(",") * 10 > len(readings):
        return Marks(",", ".", plain=False)
    if "?" in readings and "." not in readings:
        raise PermanentError(_both_readings(numbers[readings.index("?")], where))
    return Marks(plain=all(map(PLAIN.fullmatch, (cell for cell in written if _is_number(cell)))))


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(re.sub(f"[{STRIPPED}{GROUPS}]", "", cell)))


def _both_readings(text: str, where: str) -> str:
    return (
        f"{where}: {text!r} can be read as {text.replace(',', '')} (thousands) or as {text.replace(',', '.')} "
        '(decimals), and no other number of the file decides it; set decimal: "." or decimal: "," below source'
    )


def _decimal_mark(text: str) -> str:
    """The decimal mark that a number shows; "?" where a comma may be either, empty where there is no mark.

    >>> [_decimal_mark(text) for text in ("1,234.5", "1.234,5", "1,5", "1,234", "1.234", "1,234,567", "12")]
    ['.', ',', ',', '?', '', '.', '']
    """
    digits = text.rstrip("KMBTkmbt").lstrip("+-")
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        return max(",.", key=digits.rfind)
    if commas + points > 1:
        return "." if commas else ","
    if commas:
        whole, fraction = digits.split(",")
        return "?" if len(fraction) == 3 and 1 <= len(whole) <= 3 and whole != "0" else ","
    return "." if points and len(digits.split(".")[1]) != 3 else ""
