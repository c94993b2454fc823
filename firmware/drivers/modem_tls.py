# TLS of the modem's own MQTT client: certificates go from the tag's flash into the module's file system.
# Commands after the SIM7070/7080/7090 Series AT Command Manual and the MQTT(S) application note.
from drivers.at_channel import ModemError

# Of one file over the UART, and the module's own limit for it (ms).
WRITE_MS = 10000
# Their folder in the module: 3 is the customer's.
_FOLDER = 3


async def install(command, folder: str, names) -> None:
    """Write files into the module; ModemError if one is missing here, or refused there."""
    await command("AT+CFSINIT")
    try:
        for name in names:
            try:
                with open(folder + "/" + name, "rb") as file:
                    data = file.read()
            except OSError:
                raise ModemError("no file " + name)
            await command('AT+CFSWFILE=%d,"%s",0,%d,%d' % (_FOLDER, name, len(data), WRITE_MS), WRITE_MS + 5000, data)
    finally:
        await command("AT+CFSTERM")


async def configure(command, tls: dict) -> None:
    """tls: ca_file, and certificate_file with key_file where the broker wants to know the tag."""
    own = tls.get("certificate_file")
    await command('AT+CSSLCFG="SSLVERSION",0,3')  # TLS 1.2
    await command('AT+CSSLCFG="CONVERT",2,"%s"' % tls["ca_file"])
    if own:
        await command('AT+CSSLCFG="CONVERT",1,"%s","%s"' % (own, tls["key_file"]))
    # Context 0, which this command counts as 1.
    await command('AT+SMSSL=1,"%s","%s"' % (tls["ca_file"], own or ""))
