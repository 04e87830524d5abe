"""Whether a server answers at all, asked for by few system calls: who looks after it asks every other second for ever.

Each question has a connection of its own, because a server that takes no more has fallen silent too.
"""

import asyncio


async def first_line(host: str, port: int, question: bytes) -> bytes:
    """The first line of an answer, however long it takes; empty when it has no end. OSError or EOFError without one."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(question)
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        return b""
    finally:
        writer.close()
