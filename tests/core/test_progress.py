"""The progress line: what it says, and that it comes where there is no terminal too."""

import io
import threading

import pytest

from cocoift.core.progress import Progress, duration, in_words


class Spoken(io.StringIO):
    """A stream that sets an event with every line, and may pass for a terminal."""

    def __init__(self, terminal=False):
        super().__init__()
        self.terminal, self.came = terminal, threading.Event()

    def isatty(self):
        return self.terminal

    def flush(self):
        self.came.set()


@pytest.mark.parametrize(
    ("done", "seconds", "expected"),
    [(0, 20.0, "0 of 1,512 questions after 20 seconds"),
     (504, 60.0, "504 of 1,512 questions, about 2 minutes left"),
     (1512, 60.0, "1,512 of 1,512 questions, about 0 seconds left")],
)  # fmt: skip
def test_the_time_left_is_what_the_rest_takes_at_the_same_pace(done, seconds, expected):
    assert in_words("questions", done, 1512, seconds=seconds) == expected


def test_a_duration_has_one_unit():
    assert [duration(s) for s in (45, 720, 12_600)] == ["45 seconds", "12 minutes", "3.5 hours"]


def test_a_pipe_gets_whole_lines_also_while_nothing_moves():
    stream = Spoken()
    with Progress("questions", 4, stream=stream, every=0.001) as progress:
        assert stream.came.wait(10)
        progress.advance()
        for _ in range(2):  # the first may have been composed before
            stream.came.clear()
            assert stream.came.wait(10)
    first, *_, last = stream.getvalue().splitlines()
    assert first.startswith("0 of 4 questions after ")
    assert last.startswith("1 of 4 questions, about ") and stream.getvalue().endswith("\n")


def test_a_terminal_has_one_line_and_keeps_none():
    stream = Spoken(terminal=True)
    with Progress("questions", 4, stream=stream, every=0.001):
        assert stream.came.wait(10)
    assert "\n" not in stream.getvalue() and stream.getvalue().endswith("\r\x1b[K")
