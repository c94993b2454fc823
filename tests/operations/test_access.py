"""Who may read and ask: the gateway's own user, and nobody beside it."""

import asyncio
import stat
from pathlib import Path

from gateway_kit import PATIENCE_S, GatewayProcess, Port, Tag, over_serial, status_record, toml


async def test_what_a_gateway_keeps_is_its_own_users(tmp_path: Path) -> None:
    """Under the most generous umask: the folder is closed to others, and so is each socket by itself."""
    port, tag = Port(), Tag(tmp_path / "tag")
    gateway = GatewayProcess(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"'))
    await gateway.start()
    async with over_serial(tag, port):
        tag.record(status_record(1))
        await tag.until_delivered()
    state = tmp_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    control = state / "control.sock"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_unix_connection(str(control))
        writer.write(b"[]\n")
        assert b'"ok": false' in await reader.readline()
        writer.close()
    assert await gateway.stop() == 0
