"""What is kept in memory of a lane is what the file has, or nothing is said of it."""

from typing import Any

from emgate.store.schema import Record
from emgate.store.tail import MOST_BYTES, MOST_RECORDS, Tail
from hypothesis import given
from hypothesis import strategies as st

steps = st.lists(
    st.one_of(
        st.lists(st.integers(0, 9), max_size=4),  # sizes of what is committed together
        st.tuples(st.sampled_from(["passed", "forget"]), st.integers(0, 60)),
    ),
    max_size=12,
)


def record(row_id: int, size: int) -> Record:
    return Record(1, 1, row_id, False, 0, "mqtt", bytes(size), row_id)


@given(st.integers(0, 5), steps, st.integers(0, 60), st.integers(1, 9), st.integers(1, 30))
def test_memory_and_file_agree(first: int, taken: list[Any], row_id: int, limit: int, most_bytes: int) -> None:
    tail, file = Tail(first), [record(number, 3) for number in range(1, first + 1)]
    for step in taken:
        if isinstance(step, list):
            rows = [record(len(file) + 1 + number, size) for number, size in enumerate(step)]
            tail.append(rows)
            file += rows
        elif step[0] == "passed":
            tail.passed(min(step[1], len(file)))
        else:
            tail.forget(min(step[1], len(file)))
    behind = [each for each in file if each.row_id > row_id]
    found = tail.after(row_id, limit, most_bytes)
    assert found is None or found == behind[: len(found)]
    assert found != [] or not behind
    if found is not None and len(found) < min(limit, len(behind)):
        assert sum(len(each.payload) for each in behind[: len(found) + 1]) > most_bytes
    between = tail.between(row_id, row_id + 7)
    assert between is None or between == [each for each in behind if each.row_id <= row_id + 7]
    assert tail.after(len(file), limit, most_bytes) in ([], None)


def test_it_is_bounded() -> None:
    tail = Tail(0)
    tail.append([record(number, 1) for number in range(1, MOST_RECORDS + 3)])
    assert tail.after(1, 5, 1 << 20) is None
    assert tail.after(2, 1, 1 << 20) == [record(3, 1)]
    tail.append([record(MOST_RECORDS + 3, MOST_BYTES - 1), record(MOST_RECORDS + 4, 1)])
    assert tail.after(MOST_RECORDS + 1, 5, 1 << 30) is None
    assert tail.after(MOST_RECORDS + 2, 5, 1 << 30) == [
        record(MOST_RECORDS + 3, MOST_BYTES - 1),
        record(MOST_RECORDS + 4, 1),
    ]
    tail.append([record(MOST_RECORDS + 5, MOST_BYTES + 1)])
    assert tail.after(MOST_RECORDS + 4, 5, 1 << 30) is None
