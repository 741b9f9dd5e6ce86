"""An independent reader of keepfs repositories, format 1, written from the page `repository::format` alone.

    reader.py STORE_DIRECTORY list
    reader.py STORE_DIRECTORY restore BACKUP POINT TARGET

The password is in KEEPFS_PASSWORD, or a key file's path in KEEPFS_KEY_FILE. Needs the packages cryptography (44 or
newer), zstandard and blake3.
"""

import contextlib
import functools
import os
import pathlib
import re
import stat
import struct
import sys

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY, CONFIG, BACKUP, DATA_PACK, TREE_PACK, INDEX, CATALOGUE, POINT, MARK, TRASH = range(1, 11)
SECTION, FRAME = range(2)


class Damaged(Exception):
    """Bytes are not what was written."""


def derive(material, salt, purpose, length):
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(material)


class Fields:
    """Little-endian fields off the front of bytes."""
    def __init__(self, data):
        self.data, self.at = data, 0
    def bytes(self, count):
        if self.at + count > len(self.data):
            raise Damaged("cut short")
        self.at += count
        return self.data[self.at - count : self.at]
    def number(self, code):
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]
    u8 = lambda self: self.number("B")
    u16 = lambda self: self.number("H")
    u32 = lambda self: self.number("I")
    u64 = lambda self: self.number("Q")
    id = lambda self: self.bytes(32)
    blob = lambda self: self.bytes(self.u64())
    many = lambda self, read: [read() for _ in range(self.u64())]
    optional = lambda self, read: read() if self.u8() else None
    time = lambda self: self.number("q") * 10**9 + self.u32()
    owner = lambda self: (self.u32(), self.u32(), self.blob(), self.blob())
    xattrs = lambda self: self.many(lambda: (self.blob(), self.blob()))
    tree = lambda self: (self.id(), self.u64(), self.u64(), self.u64())[0]
    extent = lambda self: (self.u64(), self.optional(self.id))
    extents = lambda self: self.many(self.extent)
    child = lambda self: (self.blob(), self.tree())[1]
    def file(self):
        size, _, _, kind = self.u64(), self.optional(self.id), self.u32(), self.u32()
        return size, (kind, [lambda: None, self.id, self.extents, self.id][kind]())


def document(data):
    fields = Fields(data)
    if fields.u16() != 1 or fields.u16() != 0:
        raise Damaged("a document's version is not 1")
    return fields


class ObjectKey:
    """The key of one object, or of a slot."""
    def __init__(self, derived, repository, kind, identity, number=0):
        self.aead, self.commitment = AESGCM(derived[:32]), derived[32:]
        self.owner = repository + identity + struct.pack("<QB", number, kind)
    def decrypt(self, part, counter, data, plain_bytes=None, last=False, flags=0):
        plain_bytes = len(data) - 16 if plain_bytes is None else plain_bytes
        place = self.owner + struct.pack("<BBBQI", part, last, flags, counter, plain_bytes)
        return self.aead.decrypt(struct.pack("<QI", counter, 0), bytes(data), place)


class Repository:
    def __init__(self, directory):
        self.directory = directory
        header = Fields(self.get("header"))
        if header.bytes(8) != b"keepfs\x1a\n" or (header.u32(), header.u32(), header.u64()) != (1, 120, 0):
            raise Damaged("not a keepfs repository of format 1")
        self.id = (header.u64(), header.bytes(16))[1]
        self.epochs = self.open_ring()
        key = derive(self.epochs[min(self.epochs)], None, b"keepfs 1 header" + self.id, 32)
        if blake3(header.data[:80], key=key).digest() != header.data[80:112]:
            raise Damaged("the header is another repository's")
        self.packs, self.chunks = [], {}
        self.load_index()
    get = lambda self, name: pathlib.Path(self.directory, name).read_bytes()
    def names(self, prefix):
        for path, _, files in os.walk(os.path.join(self.directory, prefix)):
            yield from (os.path.relpath(os.path.join(path, file), self.directory) for file in sorted(files))
    def open_ring(self):
        for name in self.names("keys"):
            if ring := self.open_slot(bytes.fromhex(name.split("/")[1]), Fields(self.get(name))):
                return ring
        sys.exit("this password or key file opens no slot")
    def open_slot(self, identity, slot):
        if blake3(slot.data[:-32]).digest() != slot.data[-32:] or slot.bytes(4) != b"kfky" or slot.u16() != 1:
            return None
        kind = slot.u16()
        memory, passes, lanes, wrapped, facts, _ = (slot.u32() for _ in range(6))
        salt, commitment = slot.bytes(32), slot.bytes(32)
        if kind in (1, 4):
            if "KEEPFS_PASSWORD" not in os.environ:
                return None
            costs = dict(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
            material = Argon2id(**costs).derive(os.environ["KEEPFS_PASSWORD"].encode())
        elif "KEEPFS_KEY_FILE" not in os.environ:
            return None
        else:
            material = derive(pathlib.Path(os.environ["KEEPFS_KEY_FILE"]).read_bytes(), None, b"keepfs 1 key file", 32)
        derived = derive(material, salt, b"keepfs 1 slot" + bytes([kind]), 64)
        key = ObjectKey(derived, self.id, KEY, identity)
        if key.commitment != commitment:
            return None
        ring = document(key.decrypt(SECTION, 0, slot.bytes(wrapped), last=True))
        if ring.bytes(16) != self.id:
            raise Damaged("a key slot is another repository's")
        return dict(ring.many(lambda: (ring.u32(), ring.bytes(32))))
    def object_key(self, epoch, salt, kind, identity, number=0):
        derived = derive(self.epochs[epoch], salt, b"keepfs 1 object" + self.id, 64)
        return ObjectKey(derived, self.id, kind, identity, number)
    def sealed(self, name, kind, identity=bytes(16), number=0):
        """The body of a document or index segment."""
        fields = Fields(self.get(name))
        if fields.bytes(4) != b"kfso" or fields.u16() != 1 or fields.u8() != kind:
            raise Damaged(name)
        flags, epoch, length = fields.u8(), fields.u32(), fields.u32()
        salt, commitment = fields.bytes(32), fields.bytes(32)
        key = self.object_key(epoch, salt, kind, identity, number)
        if key.commitment != commitment:
            raise Damaged(name)
        body, sections = b"", range(80, len(fields.data), length + 16)
        for n, at in enumerate(sections):
            body += key.decrypt(SECTION, n, fields.data[at : at + length + 16], last=at == sections[-1], flags=flags)
        return unpacked(body, 64 << 20) if flags & 1 else body
    def load_index(self):
        segments, replaced = {}, set()
        for name in self.names("index"):
            identity = bytes.fromhex(name.split("/")[1])
            body = Fields(self.sealed(name, INDEX, identity))
            if body.bytes(4) != b"kfix" or body.u16() != 1:
                raise Damaged(name)
            _, *counts = body.u16(), body.u32(), body.u32(), body.u64(), body.u64()
            replaced.update(body.bytes(16) for _ in range(counts[1]))
            segments[identity] = counts, body
        for identity, (counts, body) in segments.items():
            if identity not in replaced:
                self.load_segment(counts, body)
    def load_segment(self, counts, body):
        base = len(self.packs)
        heads = [(body.bytes(16), body.bytes(16), struct.unpack("<6I", body.bytes(24)), body.bytes(32)) for _ in range(counts[0])]
        frames = [(body.u32(), body.u32()) for _ in range(counts[2])]
        for identity, _, (kind, _, first, count, epoch, _), salt in heads:
            spans, begin = [], (0, 96)
            for end in frames[first : first + count]:
                spans.append((begin, end))
                begin = end
            word, number = ("data", DATA_PACK) if kind == 1 else ("tree", TREE_PACK)
            name = f"packs/{word}/{identity[:1].hex()}/{identity.hex()}"
            self.packs.append((name, self.object_key(epoch, salt, number, identity), spans))
        for _ in range(counts[3]):
            chunk, pack, offset, length = body.id(), body.u32(), body.u32(), body.u32()
            self.chunks[chunk] = base + pack, offset, length
    @functools.lru_cache(64)
    def frame(self, pack, number):
        name, key, spans = self.packs[pack]
        (stream_begin, begin), (stream_end, end) = spans[number]
        length = stream_end - stream_begin
        plain = key.decrypt(FRAME, number, self.get(name)[begin:end], length)
        return plain if len(plain) == length else unpacked(plain, length)
    def chunk(self, identity):
        pack, offset, length = self.chunks[identity]
        content = b""
        for number, ((begin, _), (end, _)) in enumerate(self.packs[pack][2]):
            if begin < offset + length and end > offset:
                frame = self.frame(pack, number)
                content += frame[max(offset - begin, 0) : offset + length - begin]
        if blake3(content).digest() != identity:
            raise Damaged(f"chunk {identity.hex()}")
        return content
    def documents(self, prefix, kind):
        """Id (and generation), number and fields of each that can be read; of a series the last holds."""
        for name in self.names(prefix):
            *owner, number = re.split("[/.]", name)[1:]
            owner, number = bytes.fromhex("".join(owner)), int(number, 16)
            identity = owner if len(owner) == 16 else blake3(owner).digest()[:16]
            with contextlib.suppress(Damaged, InvalidTag, KeyError):
                yield owner, number, document(self.sealed(name, kind, identity, number))
    def points(self):
        """(backup, point) -> record, of all visible points."""
        backups = {identity: fields.blob() for identity, _, fields in self.documents("backups", BACKUP)}
        undone = {owner: (f.time(), f.blob(), f.u8())[2] for owner, _, f in self.documents("trash", TRASH)}
        points = {}
        for identity, generation, fields in self.documents("points", POINT):
            if undone.get(identity + generation.to_bytes(8, "big")) == 0:
                continue
            record = {"backup": fields.bytes(16), "name": fields.blob(), "time": fields.time()}
            fields.time(), fields.u64(), fields.id()
            record["mode"], record["owner"] = fields.u32(), fields.owner()
            record["mtime"], record["xattrs"], record["tree"] = fields.time(), fields.xattrs(), fields.tree()
            points[backups[record["backup"]], record["name"]] = record
        return points
    def entries(self, page):
        fields = document(self.chunk(page))
        if fields.u32() == 1:
            for child in fields.many(fields.child):
                yield from self.entries(child)
            return
        owners = fields.many(fields.owner)
        for _ in range(fields.u64()):
            entry = {"name": fields.blob(), "mode": fields.u32(), "owner": owners[fields.u32()]}
            entry["mtime"], entry["xattrs"] = fields.time(), fields.xattrs()
            entry["links"], entry["group"], entry["kind"] = fields.u32(), fields.u64(), fields.u32()
            node = [fields.file, fields.tree, fields.blob, fields.u64, fields.u64]
            entry["node"] = node[entry["kind"]]() if entry["kind"] < 5 else None
            yield entry
    def extents(self, content, size):
        kind, value = content
        if kind == 1:
            yield size, value
        elif kind == 2:
            yield from value
        elif kind == 3:
            fields = document(self.chunk(value))
            if fields.u32() == 0:
                return (yield from fields.extents())
            for child in fields.many(fields.child):
                yield from self.extents((3, child), None)
    def restore(self, page, target, groups):
        for entry in self.entries(page):
            path = os.path.join(target, entry["name"])
            kind, node, group = entry["kind"], entry["node"], entry["group"]
            if group in groups:
                os.link(groups[group], path, follow_symlinks=False)
                continue
            if kind == 0:
                with open(path, "wb") as output:
                    output.truncate(node[0])
                    for length, chunk in self.extents(node[1], node[0]):
                        output.write(self.chunk(chunk)) if chunk else output.seek(length, os.SEEK_CUR)
            elif kind == 1:
                os.mkdir(path, 0o700)
                self.restore(node, path, groups)
            elif kind == 2:
                os.symlink(node, path)
            else:
                types = {3: stat.S_IFBLK, 4: stat.S_IFCHR, 5: stat.S_IFIFO, 6: stat.S_IFSOCK}
                os.mknod(path, types[kind] | 0o600, node or 0)
            attributes(path, entry, kind == 2)
            if group:
                groups[group] = path


def unpacked(data, limit):
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)


def attributes(path, entry, is_link):
    if os.geteuid() == 0:
        os.chown(path, *entry["owner"][:2], follow_symlinks=False)
    for name, value in entry["xattrs"]:
        os.setxattr(path, name, value, follow_symlinks=False)
    if not is_link:
        os.chmod(path, entry["mode"])
    os.utime(path, ns=(entry["mtime"], entry["mtime"]), follow_symlinks=False)


def main(store, verb, *arguments):
    repository = Repository(store)
    points = repository.points()
    if verb == "list":
        for (backup, name), record in sorted(points.items()):
            sys.stdout.buffer.write(b"%s/%s %d\n" % (backup, name, record["time"] // 10**9))
    else:
        backup, point, target = (os.fsencode(argument) for argument in arguments)
        record = points[backup, point]
        os.makedirs(target, exist_ok=True)
        repository.restore(record["tree"], target, {})
        attributes(target, record, False)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Damaged, InvalidTag) as error:
        sys.exit(f"damaged: {error!r}")
