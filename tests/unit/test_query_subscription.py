"""The subscription's side of the protocol: what comes in pieces, what is no message, what ends it."""

import pytest

from query.subscription import Subscription

BEGUN = b"*3\r\n$9\r\nsubscribe\r\n$7\r\nvisible\r\n:1\r\n"
PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"


def message(words: bytes) -> bytes:
    return b"*3\r\n$7\r\nmessage\r\n$7\r\nvisible\r\n$%d\r\n%b\r\n" % (len(words), words)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_messages_are_heard_in_whatever_pieces_they_come(size: int) -> None:
    heard: list[bytes] = []
    subscription = Subscription("visible", begun=lambda: heard.append(b"begun"), heard=heard.append)
    data = BEGUN + message(b"5:3") + PONG + message(b"6:9 7:1")
    for at in range(0, len(data), size):
        subscription.data_received(data[at : at + size])
    assert heard == [b"begun", b"5:3", b"6:9 7:1"]


@pytest.mark.parametrize("data", [b"-NOPERM no channel\r\n", b"?what\r\n", b":1\r\n"])
async def test_what_is_no_message_ends_it(data: bytes) -> None:
    heard: list[bytes] = []
    subscription = Subscription("visible", begun=lambda: None, heard=heard.append)
    subscription.data_received(data)
    assert subscription.has_ended
    subscription.data_received(message(b"5:3"))
    assert not heard


async def test_who_cannot_be_told_ends_it() -> None:
    def heard(_: bytes) -> None:
        raise ValueError

    subscription = Subscription("visible", begun=lambda: None, heard=heard)
    subscription.data_received(message(b"5:3"))
    assert subscription.has_ended
