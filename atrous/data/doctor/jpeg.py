"""A quick check of progressive JPEG files.

A progressive file holds a coarse picture first and refines it in further scans. Decoding all scans
takes four times as long as decoding a baseline file of the same picture. Without the data of the
refinements, the decoder still reads every header and table, and nearly all of the coarse picture.
"""

import re

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # ends a scan: not a stuffed byte, not a restart
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_PROGRESSIVE = 0xC2


def without_refinements(data: bytes) -> bytes | None:
    """Returns a progressive JPEG with the data of its first scan only.

    Returns None for other files, and if the segments and scans do not follow one another up to the
    end marker: then only a full decoding can tell whether the file is whole.
    """
    parts, position, scans, progressive = [data[:2]], 2, 0, False
    while data[position : position + 1] == b"\xff" and len(data) >= position + 4:
        marker = data[position + 1]
        if marker == _END:
            break
        if marker <= 0x01 or 0xD0 <= marker <= _START or marker == 0xFF:
            return None  # a regular file has no such marker here
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        parts.append(data[position:stop])
        progressive |= marker == _PROGRESSIVE
        if marker == _SCAN:
            found = _MARKER.search(data, stop)
            if found is None:
                return None
            if scans == 0:
                parts.append(data[stop : found.start()])
            scans += 1
            stop = found.start()
        position = stop
    if not progressive or scans < 2 or data[position : position + 2] != bytes((0xFF, _END)):
        return None
    return b"".join((*parts, data[position : position + 2]))
