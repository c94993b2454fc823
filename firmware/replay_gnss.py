# Runs a receiver's bytes through the firmware's driver: micropython replay_gnss.py [--chunk N] [FILE]
# FILE (or standard input): raw bytes. Standard output: one JSON object per fix; standard error: counters at the end.
import sys

from drivers import nmea
from drivers.fixes import CAUSE_NAMES
from drivers.gnss import Receiver

CHUNK = 512


def iso(time_s, millisecond):
    """UTC of seconds since 2010, as a JSON string, or null."""
    if time_s is None:
        return "null"
    day, second = divmod(time_s, 86400)
    parts = nmea.civil(day) + (second // 3600, second // 60 % 60, second % 60, millisecond)
    return '"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ"' % parts


def decimal(value, decimals):
    """An integer as a decimal fraction, without a float in between; None as null."""
    if value is None:
        return "null"
    scale = 10**decimals
    sign = "-" if value < 0 else ""
    digits = "00000000" + str(abs(value) % scale)
    return "%s%d.%s" % (sign, abs(value) // scale, digits[-decimals:])


def line(fix):
    """The fix as one JSON object, keys as in the position vocabulary."""
    speed = fix.speed_mm_per_s
    return (
        '{"gpsDate": %s, "latitude": %s, "longitude": %s, "mode": %d, '
        '"speed": %s, "direction": %s, "satellite": %s, "hdop": %s}'
        % (
            iso(fix.time_s, fix.millisecond),
            decimal(fix.latitude_microdegrees, 6),
            decimal(fix.longitude_microdegrees, 6),
            fix.mode,
            # 1 mm/s is 0.0036 km/h
            decimal(None if speed is None else (speed * 36 + 5) // 10, 3),
            decimal(fix.direction_centidegrees, 2),
            "null" if fix.satellites is None else fix.satellites,
            decimal(fix.hdop_hundredths, 2),
        )
    )


def summary(receiver):
    epochs = receiver.epochs
    return (
        "fixes=%d sentences=%d messages=%d checksum_errors=%d malformed=%d broken=%d skipped_bytes=%d no_fix_epochs=%d "
        "contradictions=%d unconfirmed=%d late=%d bad_dates=%d cause=%s"
        % (
            epochs.fixes,
            receiver.sentences,
            receiver.messages,
            receiver.checksum_errors,
            receiver.malformed,
            receiver.broken,
            receiver.bytes_skipped,
            epochs.no_fix_epochs,
            epochs.contradictions,
            epochs.unconfirmed,
            epochs.late,
            epochs.bad_dates,
            CAUSE_NAMES[epochs.cause].replace(" ", "_"),
        )
    )


def replay(source, chunk, write):
    receiver = Receiver()
    while True:
        data = source.read(chunk)
        if not data:
            break
        for fix in receiver.feed(data):
            write(line(fix))
    for fix in receiver.flush():
        write(line(fix))
    return receiver


def main(arguments):
    chunk = CHUNK
    if arguments[:1] == ["--chunk"]:
        chunk = int(arguments[1])
        arguments = arguments[2:]
    source = open(arguments[0], "rb") if arguments else sys.stdin.buffer
    receiver = replay(source, chunk, print)
    sys.stderr.write(summary(receiver) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
