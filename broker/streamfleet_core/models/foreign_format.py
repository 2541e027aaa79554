"""Recognizes files that are not ONNX models, and says what to do with them. Pure: it only reads bytes."""

from __future__ import annotations

import mmap

_HEAD = 4096  # bytes to inspect
_PYTORCH = "export it: yolo export model=FILE.pt format=onnx"
_ORIGINAL = "export the model that it was made from: yolo export model=FILE.pt format=onnx"


def advice_on(content: bytes | mmap.mmap) -> str:
    """Say what the file is and what to do with it; "" if it may be ONNX or is unknown."""
    head = bytes(content[:_HEAD])
    if not head:
        return "an empty file"
    return _archive(content, head) or _known(head) or _text(head)


def _archive(content: bytes | mmap.mmap, head: bytes) -> str:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ""
    names = head + bytes(content[-65_536:])  # the list of a zip archive's files is at its end
    if b"/code/__torch__" in names:
        return f"a TorchScript file: {_ORIGINAL}"
    if b"data.pkl" in names:
        return f"a PyTorch file: {_PYTORCH}"
    if b".onnx" in names:
        return "a zip archive with an .onnx file in it: unpack it, and add that file"
    return "a zip archive without an .onnx file in its list: unpack it, and add the .onnx file"


def _known(head: bytes) -> str:
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return f"a PyTorch file (a pickle, which is never opened): {_PYTORCH}"
    if head.startswith((b"ftrt", b"ptrt")) or _after_length(head, 4).startswith(b'{"'):
        return f"a TensorRT engine, which runs on one kind of GPU only: {_ORIGINAL}"
    if _after_length(head, 8).startswith(b'{"'):
        return f"a safetensors file, which has weights and no graph: {_PYTORCH}"
    if head[4:8] == b"TFL3":
        return f"a TensorFlow Lite file: {_ORIGINAL}"
    if head[4:8] == b"ORTM":
        return "a file in ONNX Runtime's own format (.ort): add the .onnx file that it was made from"
    if head.startswith(b"\x89HDF\r\n"):
        return "a Keras file (HDF5): convert it with tf2onnx"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        return "a compressed file: unpack it, and add the .onnx file"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it, and add the .onnx file"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "an image"
    return ""


def _after_length(head: bytes, size: int) -> bytes:
    """The bytes after a length field of `size` bytes, if it may be the length of a header."""
    length = int.from_bytes(head[:size], "little")
    return head[size:] if 2 <= length <= 100 * 1024**2 else b""


def _text(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file: fetch it with 'git lfs pull'"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "a web page (HTML): fetch the file itself, not the page about it"
    if start.startswith((b"<?xml", b"<net")):
        return f"an XML file, as OpenVINO's are: {_ORIGINAL}"
    if start.startswith((b"{", b"[")) and head.isascii():
        return "a JSON file"
    return ""
