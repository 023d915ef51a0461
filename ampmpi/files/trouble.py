"""Which errors of a read concern one file or one place on the disk, and which everything.

One entry that cannot be read is damaged like one whose checksum is wrong: it is
named, and the others go on. Too many open files, too little memory, a server
that does not answer or a handle that stays stale concern every entry, and stop
the work. An error of which nothing is known counts as one of these.
"""

from __future__ import annotations

import errno

_OF_A_PLACE = {
    errno.EIO,
    errno.ENODATA,  # Linux: an error of the medium
    errno.EREMOTEIO,  # … of the target
    errno.EILSEQ,  # … of the protection information
    errno.EUCLEAN,  # the file system's own structure is damaged
    errno.EBADMSG,  # its own checksum is wrong
}
_OF_A_FILE = _OF_A_PLACE | {
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENXIO,
    errno.ENODEV,
    errno.EFBIG,
    errno.EOVERFLOW,
}


def is_damage(error: OSError) -> bool:
    """Whether an error of reading an open file concerns the place that was read."""
    return error.errno in _OF_A_PLACE


def is_of_one_file(error: OSError) -> bool:
    """Whether an error of opening or reading a file concerns this file alone.

    Where permission is denied it may be the directory's, too: look whether the
    file's status can be had.
    """
    return error.errno in _OF_A_FILE


def reason_of(error: OSError) -> str:
    """Say why something cannot be read."""
    reason = error.strerror or str(error)
    return f"the disk reports an {reason.lower()}" if error.errno == errno.EIO else reason.lower()
