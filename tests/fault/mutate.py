"""Random damage to bytes."""


def mutate(data, rng):
    """Return bytes that differ a little, or a lot, from those given."""
    result = data
    while result == data:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            result = rng.choice(_WAYS)(result, rng)
    return result


def _flip(data, rng):
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(data, rng):
    if not data:
        return b"\xff"
    changed = bytearray(data)
    changed[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(changed)


def _number(data, rng):
    """Put a number where a size or an offset may be."""
    place = rng.randrange(len(data) + 1)
    size = rng.choice((2, 4, 8))
    largest = 2 ** (8 * size) - 1
    value = rng.choice((0, 1, largest, largest // 2 + 1, rng.randrange(largest)))
    return data[:place] + value.to_bytes(size, rng.choice(("little", "big"))) + data[place + size :]


def _cut(data, rng):
    return data[: rng.randrange(len(data) + 1)]


def _delete(data, rng):
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 8, 100, 1000)) :]


def _insert(data, rng):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 8, 100))) + data[place:]


def _repeat(data, rng):
    start = rng.randrange(len(data) + 1)
    end = start + rng.choice((1, 8, 64, 512))
    return data[:end] + data[start:]


def _zeros(data, rng):
    start, length = rng.randrange(len(data) + 1), rng.choice((8, 100, 4096))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def _swap(data, rng):
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


_WAYS = (_flip, _flip, _set, _set, _number, _cut, _delete, _insert, _repeat, _zeros, _swap)
