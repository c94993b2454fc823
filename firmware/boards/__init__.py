# One folder per board: the hardware boundary. Each has board.py with a class Board that offers
#   name, identity (dict: device_id, model, key, …), storage_path, reset_cause
#   clock.ticks_ms() -> ms since boot; random_bytes(n); log(text)
#   uart(name): .write(data), async .read(after_ms=0), .discard()   names: gnss, modem, host
#     read(after_ms) waits so long, and then until a burst has ended (100 ms of silence), without waking anybody before;
#     discard() forgets what has come
#   adc(name): .read_u16()             names: battery, alcohol_cell, contact_infrared, skin_temperature
#     0 or 65535 for an input at a rail, whatever its scale
#   pin_in(name): .value(), .on_change(callback(level))  names: strap, case, mains, charger, alcohol_ready, motion
#   pin_out(name): .value(level)                         names: gnss_power, modem_power, modem_doze, alcohol_sample,
#                                                              vibration; cell_check, where there is one
#     modem_power.sleep(), where value(0) would cut a sleeping modem's supply
#   ble(): MicroPython's bluetooth.BLE
#   watchdog(timeout_ms): .feed(); resets the device when it is not fed for so long, however it hangs
#   restart(): reset now; does not return
# and may offer record_made(epoch, sequence, alarm, payload), called after each append to the journal;
#   retain_time(utc_ms, uncertainty_ms), retained_time() -> the same or None: a clock that goes on over a reset;
#   temperature() -> 0.01 °C inside, OSError: unknown; fuel_gauge(): .read() -> (mV, percent), as drivers.fuel_gauge;
#   check_motion(): OSError if the sensor behind pin_in("motion") does not answer, is not set up, or does not measure;
#   keep_motion(anew): sets that sensor up again if it has forgotten, or anyway; OSError as check_motion()
