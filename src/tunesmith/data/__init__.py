"""From what the user has to Records: read a file, find its columns, check its rows, split them.

Follow one row through `readers` -> `columns` -> `checks` -> `split`. Importing this room loads neither numpy nor
pyarrow.
"""

from tunesmith.data.checks import Checked, check, demand_trainable, write_rejected
from tunesmith.data.columns import Columns, as_roles, find_columns, find_form
from tunesmith.data.inspect import inspect, summarise
from tunesmith.data.layout import Cells, Fault, Form, Layout, TargetKind, TextAndLabel, as_text
from tunesmith.data.normalise import normalise_text
from tunesmith.data.personal import find_personal
from tunesmith.data.readers import READERS, BadRow, Reader, Source, find_reader, read
from tunesmith.data.split import Split, fingerprint, split

__all__ = [
    "READERS",
    "BadRow",
    "Cells",
    "Checked",
    "Columns",
    "Fault",
    "Form",
    "Layout",
    "Reader",
    "Source",
    "Split",
    "TargetKind",
    "TextAndLabel",
    "as_roles",
    "as_text",
    "check",
    "demand_trainable",
    "find_columns",
    "find_form",
    "find_personal",
    "find_reader",
    "fingerprint",
    "inspect",
    "normalise_text",
    "read",
    "split",
    "summarise",
    "write_rejected",
]
