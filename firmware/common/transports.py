# What each model's link goes over, in its ordinary work and in safe mode alike. Only the drivers it needs are imported.


def of(device, modem_sleeps=None):
    """(transport for device.link_over(), whether it reports by interval); modem_sleeps: as ModemLink's sleeps."""
    board = device.board
    model = board.identity["model"]
    if model == "ankle_gps":
        from drivers.modem import ModemLink

        broker = board.identity.get("mqtt", {})
        modem = ModemLink(
            board.uart("modem"),
            board.pin_out("modem_power"),
            device.device_id,
            device.clock,
            broker.get("host", "localhost"),
            broker.get("port", 1883),
            board.log,
            modem_sleeps,
            board.pin_out("modem_doze"),
        )
        modem.options = broker
        modem.folder = board.storage_path
        return modem, True
    if model == "home_unit":
        from drivers.serial_link import SerialLink

        return SerialLink(board.uart("host"), device.device_id), False
    from drivers.ble_link import BleLink

    return BleLink(board.ble(), device.device_id, "emtag-%08x" % device.device_id), True
