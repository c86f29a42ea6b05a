"""Progress: a bar on a terminal, and elsewhere a line at least every minute."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios

import pytest

from core import progress


def test_without_a_terminal_no_minute_passes_without_a_line(clock, capsys):
    bar = progress.Bar("epoch 1 of 2", 1000, "images")
    spoken = [0.0]
    for _ in range(50):
        clock[0] += 7
        bar.update(10, "loss 1.5")
        if line := capsys.readouterr().err:
            spoken.append(clock[0])
    assert line == "" and max(b - a for a, b in zip(spoken, spoken[1:], strict=False)) <= 60
    assert len(spoken) == 1 + 50 * 7 // 56


def test_a_line_has_speed_time_left_and_the_note(clock, capsys):
    bar = progress.Bar("epoch 1 of 2", 1000, "images", done=500)
    clock[0] += 100
    bar.update(100, "loss 1.5")
    line = "epoch 1 of 2: 600 of 1000 images, 1 images/s, 0:06:40 left, loss 1.5\n"
    assert capsys.readouterr() == ("", line)


def test_bytes_are_shown_as_megabytes_and_no_time_is_left_if_the_total_is_unknown(clock, capsys):
    for total, rest in (
        (5_000_000, " of 5.0 MB, 0.02 MB/s, 0:02:30 left"),
        (None, " MB, 0.02 MB/s"),
    ):
        bar = progress.Bar("p1_c.pt", total, "B")
        clock[0] += 100
        bar.update(2_000_000)
        assert capsys.readouterr().err == f"p1_c.pt: 2.0{rest}\n"


def test_a_short_work_says_nothing(clock, capsys):
    assert list(progress.over("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(0, 0), (24, 100)], ids=["it does not tell its size", "it does"])
def test_on_a_terminal_a_bar_shows_the_note_and_goes_away(monkeypatch, size):
    def shown_up_to(text):
        shown = ""
        while text not in shown and select.select([reader], [], [], 5)[0]:
            shown += os.read(reader, 4096).decode()  # what was written may come in parts
        return shown

    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with open(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        bar = progress.Bar("epoch 1 of 2", 4, "images")
        bar.update(4, "loss 1.5")
        bar._tqdm.refresh()
        shown = shown_up_to("loss 1.5")
        assert "epoch 1 of 2: " in shown and "4/4" in shown and "loss 1.5" in shown
        assert "|█" in shown or "|#" in shown, "the bar itself, not only the numbers"
        bar.close()
        assert "\r" in shown_up_to(" \r")
    os.close(reader)
