from zeropoint.errors import closest, first_line


def test_closest_names_come_first_and_all_where_none_is_close():
    assert closest("statik", ["static", "dynamic"]) == "did you mean static?"
    assert closest("xyz", ["static", "dynamic"]) == "valid: dynamic, static"
    many = [f"layer{number:03}" for number in range(100)]
    assert closest("xyz", many) == f"valid: {', '.join(many[:40])} and 60 more"


def test_first_line_that_says_anything():
    assert first_line(ValueError("\n  too small \nmore")) == "too small"
    assert (
        first_line(RuntimeError("Exception from src/core.cpp:117:\nno such operator")) == "no such operator"
    )
    assert first_line(KeyError()) == "KeyError"
