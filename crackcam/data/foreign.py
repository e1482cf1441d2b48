"""Name what a file is that is not a readable image, by its first bytes, and what to do with it."""

from __future__ import annotations

HEAD = 512  # bytes that :func:`describe_foreign` looks at

_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_VIDEO = "a video: extract frames with ffmpeg -i FILE %05d.jpg"
_RAW = "a camera raw file: develop it to JPEG or TIFF"
_TIFF = "a TIFF of a kind that Pillow cannot read: save it as 8-bit RGB"
_ARCHIVE = "an archive: unpack it"
_SCIENCE = "scientific data: export 8-bit PNG or TIFF"
_DRAWING = "a document: export its pages as PNG"

# Offset, first bytes, and what the file is. The first match counts.
_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer: git lfs pull"),
    (0, b"/annex/objects/", "a git-annex pointer: git annex get"),
    (0, b"\x00\x05\x16\x07", "metadata of macOS (AppleDouble): copy the file of that name without ._"),
    (0, b"\x00\x05\x16\x00", "metadata of macOS (AppleSingle): copy the image itself"),
    (0, b"\x4c\x00\x00\x00\x01\x14\x02\x00", "a Windows shortcut: name the file that it leads to"),
    (0, b"\xd0\xcf\x11\xe0", "Thumbs.db or an Office document: export the images that it holds"),
    (0, b"%PDF", "PDF: export its pages as PNG"),
    (0, b"%!PS", "PostScript: export it as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript: export it as PNG"),
    (0, b"{\\rtf", _DRAWING),
    (0, b"8BPS", "Photoshop: export it as PNG or JPEG"),
    (0, b"gimp xcf", "GIMP: export it as PNG or JPEG"),
    (0, b"AT&TFORM", "DjVu: export its pages as PNG"),
    (0, b"\xff\x0a", "JPEG XL: convert it to JPEG or PNG"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL: convert it to JPEG or PNG"),
    (0, b"\x00\x00\x01\x00", "an icon: export it as PNG"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR: tone-map it to PNG or JPEG"),
    (0, b"#?RADIANCE", "Radiance HDR: tone-map it to PNG or JPEG"),
    (8, b"CR\x02", _RAW),
    (0, b"II*\x00", _TIFF),
    (0, b"MM\x00*", _TIFF),
    (0, b"II+\x00", _TIFF),
    (0, b"MM\x00+", _TIFF),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIU\x00", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"FOVb", _RAW),
    (0, b"\x00MRM", _RAW),
    (8, b"AVI ", _VIDEO),
    (0, b"\x1a\x45\xdf\xa3", _VIDEO),
    (0, b"\x00\x00\x01\xba", _VIDEO),
    (0, b"\x30\x26\xb2\x75", _VIDEO),
    (0, b"FLV\x01", _VIDEO),
    (4, b"moov", _VIDEO),
    (4, b"mdat", _VIDEO),
    (0, b"PK\x03\x04", _ARCHIVE),
    (0, b"PK\x05\x06", _ARCHIVE),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE),
    (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (257, b"ustar", _ARCHIVE),
    (0, b"\x93NUMPY", "a NumPy array: load it in Python, and pass the array to crackcam"),
    (128, b"DICM", "DICOM: export it as 8-bit PNG"),
    (0, b"\x89HDF", _SCIENCE),
    (0, b"CDF", _SCIENCE),
    (0, b"SIMPLE  =", _SCIENCE),
    (0, b"MATLAB ", _SCIENCE),
)


def describe_foreign(head: bytes) -> str | None:
    """What a file is that cannot be decoded, and the way out, in a few words; None where it is not known.

    Args:
        head: its first :data:`HEAD` bytes, or all of a shorter file.

    Examples:
        >>> describe_foreign(b"%PDF-1.7")
        'not an image but PDF: export its pages as PNG'
    """
    if head[4:8] == b"ftyp":
        return _describe_boxes(head[8:12])
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "not an image but an HTML page, of a login or an error: download the image again"
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return "not an image but an SVG drawing: export it as PNG"
    if text.startswith(b"<?xml"):
        return "not an image but XML"
    if len(head) > 8 and not any(head):
        return "not an image but zeros, as of an unfinished download: copy it again"
    found = next((kind for at, magic, kind in _KINDS if head.startswith(magic, at)), None)
    return found and f"not an image but {found}"


def _describe_boxes(brand: bytes) -> str:
    """Of an ISO media file, which names its content after ``ftyp``."""
    if brand in _HEIF:
        return "HEIC: pip install pillow-heif, or convert it to JPEG"
    if brand in (b"avif", b"avis"):
        return "AVIF that this Pillow cannot read: pip install -U pillow, or convert it to JPEG"
    return f"not an image but {_RAW if brand == b'crx ' else _VIDEO}"
